"""/etc/resolv.conf, /etc/hosts and host names, as the kubelet writes them."""

from __future__ import annotations

import io
from typing import Any

import pytest

from netlab import topology
from netlab.dns import files, views, wire
from netlab.dns.files import Resolving
from netlab.model.inventory import inventory
from netlab.model.lab import Lab
from netlab.nameserver import stub

NODE = Resolving(("203.0.113.53",), ("lab.example",), ("timeout:1",))
CLUSTER = (
    "search shop.svc.cluster.local svc.cluster.local cluster.local lab.example\n"
    "nameserver 10.96.0.10\noptions ndots:5\n"
)
NODES = "search lab.example\nnameserver 203.0.113.53\noptions timeout:1\n"
CONFIG = {
    "nameservers": ["192.0.2.1", "10.96.0.10"],
    "searches": ["example.org", "cluster.local"],
    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
}


@pytest.mark.parametrize(
    ("spec", "cluster", "text"),
    [
        pytest.param({}, "10.96.0.10", CLUSTER, id="left out"),
        pytest.param({"dnsPolicy": "ClusterFirst"}, "10.96.0.10", CLUSTER, id="ClusterFirst"),
        pytest.param(
            {"dnsPolicy": "ClusterFirst", "hostNetwork": True}, "10.96.0.10", NODES,
            id="ClusterFirst in the node's network",
        ),
        pytest.param(
            {"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, "10.96.0.10", CLUSTER,
            id="ClusterFirstWithHostNet",
        ),
        pytest.param({"dnsPolicy": "Default"}, "10.96.0.10", NODES, id="Default"),
        pytest.param({"dnsPolicy": "ClusterFirst"}, "", NODES, id="a cluster without DNS"),
        pytest.param(
            {"dnsPolicy": "None", "dnsConfig": CONFIG}, "10.96.0.10",
            "search example.org cluster.local\nnameserver 192.0.2.1\nnameserver 10.96.0.10\n"
            "options ndots:2 edns0\n", id="None",
        ),
        pytest.param(
            {"dnsConfig": CONFIG}, "10.96.0.10",
            "search shop.svc.cluster.local svc.cluster.local cluster.local lab.example"
            " example.org\nnameserver 10.96.0.10\nnameserver 192.0.2.1\noptions ndots:2 edns0\n",
            id="dnsConfig beside ClusterFirst",
        ),
        pytest.param({"dnsPolicy": "None"}, "10.96.0.10", "", id="nothing at all"),
    ],
)  # fmt: skip
def test_resolv_conf(spec: dict[str, Any], cluster: str, text: str) -> None:
    found = files.of_pod(spec, namespace="shop", domain="cluster.local", cluster=cluster, node=NODE)
    assert found.text() == text


def test_what_resolvers_do_not_read_is_not_written() -> None:
    many = Resolving(
        tuple(f"192.0.2.{n}" for n in range(9)), tuple(f"s{n}.{'x' * 60}" for n in range(40))
    )
    search, *servers = many.text().splitlines()
    assert len(servers) == 3
    assert len(search.split()) == 1 + 31  # 2048 characters
    assert len(search) <= len("search ") + 2048
    short = Resolving((), tuple(f"s{n}" for n in range(40)))
    assert len(short.text().split()) == 1 + 32


@pytest.mark.parametrize(
    ("spec", "own", "whole", "kernel"),
    [
        pytest.param({}, "web-0", "", "web-0", id="the pod's name"),
        pytest.param({"hostname": "w"}, "w", "", "w", id="hostname"),
        pytest.param(
            {"hostname": "w", "subdomain": "db"}, "w", "w.db.shop.svc.cluster.local", "w",
            id="subdomain",
        ),
        pytest.param(
            {"subdomain": "db", "setHostnameAsFQDN": True}, "web-0",
            "web-0.db.shop.svc.cluster.local", "web-0.db.shop.svc.cluster.local", id="all of it",
        ),
        pytest.param({"setHostnameAsFQDN": True}, "web-0", "", "web-0", id="nothing more of it"),
    ],
)  # fmt: skip
def test_host_names(spec: dict[str, Any], own: str, whole: str, kernel: str) -> None:
    where = {"namespace": "shop", "pod": "web-0", "domain": "cluster.local"}
    assert files.hostname(spec, "web-0") == own
    assert files.fqdn(spec, **where) == whole
    assert files.kernel_hostname(spec, **where) == kernel


def test_a_pods_name_is_cut_to_what_a_host_name_holds() -> None:
    assert files.hostname({}, "a" * 62 + "-bcd") == "a" * 62


# -- of a lab


def lab() -> Lab:
    text = "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\nnodes: [{name: node1}]\n"
    return topology.load(["-"], stdin=io.StringIO(text)).require_lab()


def pod(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "shop"},
        "spec": {"nodeName": "node1", **spec},
        "status": {"podIP": "10.244.1.2"},
    }


def test_a_pod_knows_itself_and_its_aliases() -> None:
    spec = {
        "subdomain": "db",
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a.test", "b.test"]}],
    }
    view = views.of_pod(lab(), pod(**spec), inventory([]))
    assert view.files["hosts"].endswith(
        "10.244.1.2\tweb-0.db.shop.svc.cluster.local\tweb-0\n"
        "\n# Entries added by HostAliases.\n192.0.2.7\ta.test\tb.test\n"
    )
    assert view.files["hostname"] == "web-0\n"
    assert "nameserver 10.96.0.10\n" in view.files["resolv.conf"]


def test_a_pod_in_its_nodes_network_is_called_as_its_node() -> None:
    spec = {"hostNetwork": True, "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a.test"]}]}
    view = views.of_pod(lab(), pod(**spec), inventory([]))
    assert view.hostname == "node1"
    assert view.files["hosts"].startswith("# Kubernetes-managed hosts file (host network).\n")
    assert "192.168.50.3\tnode1\n" in view.files["hosts"]
    assert view.files["hosts"].endswith("192.0.2.7\ta.test\n")
    assert view.files["resolv.conf"] == "nameserver 203.0.113.53\n"


@pytest.mark.parametrize(
    ("name", "address"), [("node1", "192.168.50.3"), ("client", "198.51.100.10")]
)
def test_machines_ask_the_resolver_on_the_internet(name: str, address: str) -> None:
    view = views.of_machine(lab(), name)
    assert view.files["resolv.conf"] == "nameserver 203.0.113.53\n"
    assert f"{address}\t{name}\n" in view.files["hosts"]


# -- how names are completed


@pytest.mark.parametrize(
    ("name", "tried"),
    [
        pytest.param("web", ["web.a.b.", "web.b.", "web."], id="completed first"),
        pytest.param("web.", ["web."], id="whole"),
        pytest.param("a.b.c", ["a.b.c.", "a.b.c.a.b.", "a.b.c.b."], id="with dots enough"),
    ],
)
def test_the_names_that_are_tried(name: str, tried: list[str]) -> None:
    resolving = Resolving(("192.0.2.1",), ("a.b", "b"), ("ndots:2",))
    assert [wire.text_of(one) for one in stub.tried(resolving, name)] == tried
