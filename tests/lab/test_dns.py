"""Names in a lab: programs in pods and machines find each other through the cluster's own DNS."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Cli, eventually, namespaces, topology

from netlab import processes
from netlab.dns import wire
from netlab.errors import NetlabError
from netlab.kernel.netns import entered
from netlab.nameserver import stub

pytestmark = pytest.mark.lab

DNS = "10.96.0.10"
SEARCH = "search default.svc.cluster.local svc.cluster.local cluster.local\n"
CLUSTER = f"{SEARCH}nameserver {DNS}\noptions ndots:5\n"
OUTSIDE = "nameserver 203.0.113.53\n"


def pod(name: str, spec: str) -> str:
    return f"""apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: n1, containers: [{{name: c, ports: []}}], {spec}}}
"""


def service(name: str, spec: str, namespace: str = "default") -> str:
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{spec}}}
"""


EXTRA = "---\n".join(
    [
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
        service(
            "web", "clusterIP: 10.96.0.20, selector: {app: p1}, ports: [{name: http, port: 80}]"
        ),
        service("web", "clusterIP: 10.96.0.21, ports: [{port: 80}]", "shop"),
        service("db", "clusterIP: None, selector: {app: named}, ports: [{name: sql, port: 5432}]"),
        service("outside", "type: ExternalName, externalName: example.com"),
        pod("hostnet", "hostNetwork: true"),
        pod("hostnet-first", "hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet"),
        pod("plain", "dnsPolicy: Default"),
        pod(
            "own",
            "dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1], searches: [a.test], "
            "options: [{name: ndots, value: '2'}]}",
        ),
        pod(
            "named",
            "hostname: db-0, subdomain: db, setHostnameAsFQDN: true, "
            "hostAliases: [{ip: 192.0.2.7, hostnames: [alias.test]}]",
        ),
    ]
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cli]:
    command = Cli(f"d{worker_id.removeprefix('gw')}x{os.getpid()}", tmp_path_factory.mktemp("lab"))
    before = Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else None
    command("up", command.file(topology(command.lab, extra=EXTRA)))
    eventually(lambda: told(command, "web.default.svc.cluster.local."), what="DNS answers")
    yield command
    command("down")
    assert namespaces(command.lab) == []
    if before is not None:
        assert Path("/etc/resolv.conf").read_text() == before


def told(cli: Cli, name: str, kind: str = "A") -> list[str] | None:
    """Return what the cluster's DNS says to a pod, None while it says nothing."""
    with entered(cli.netns("n2", "default", "n2-p2")):
        try:
            answer = stub.asked(DNS, wire.name_of(name), wire.TYPES[kind], seconds=1)
        except NetlabError:
            return None
    return ["NXDOMAIN"] if answer.rcode == wire.NXDOMAIN else wire.texts(answer.answers)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        pytest.param("web", "10.96.0.20", id="of the own namespace"),
        pytest.param("web.shop", "10.96.0.21", id="of another"),
        pytest.param("web.shop.svc.cluster.local", "10.96.0.21", id="in full"),
        pytest.param("example.com", "203.0.113.10", id="outside"),
        pytest.param("outside", "203.0.113.10", id="an alias"),
    ],
)
def test_programs_in_pods_find_names(lab: Cli, name: str, address: str) -> None:
    found = lab("exec", "n1-p1", "--", "getent", "ahostsv4", name).stdout
    assert found.split()[0] == address


def test_a_name_nobody_has_is_not_found(lab: Cli) -> None:
    assert lab("exec", "n1-p1", "--", "getent", "hosts", "nobody", code=2).stdout == ""
    assert told(lab, "nobody.default.svc.cluster.local.") == ["NXDOMAIN"]
    assert told(lab, "nobody.example.") == ["NXDOMAIN"]


def test_a_service_is_reached_by_its_name(lab: Cli) -> None:
    said = json.loads(lab("exec", "n1-p2", "--", "curl", "-s", "http://web").stdout)
    assert said["pod"] in ("n1-p1", "n2-p1")
    said = json.loads(lab("exec", "n1-p2", "--", "curl", "-s", "http://example.com").stdout)
    assert said["pod"] == "internet"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("n1-p1", CLUSTER),
        ("hostnet", OUTSIDE),
        ("hostnet-first", CLUSTER),
        ("plain", OUTSIDE),
        ("own", "search a.test\nnameserver 192.0.2.1\noptions ndots:2\n"),
        ("node/n1", OUTSIDE),
        ("client", OUTSIDE),
        ("internet", OUTSIDE),
        ("master", OUTSIDE),
    ],
)
def test_resolv_conf(lab: Cli, target: str, text: str) -> None:
    assert lab("exec", target, "--", "cat", "/etc/resolv.conf").stdout == text


def test_a_pod_with_a_subdomain_has_a_full_name(lab: Cli) -> None:
    address = lab.get("pod", "named")["status"]["podIP"]
    whole = "db-0.db.default.svc.cluster.local"
    assert lab("exec", "named", "--", "hostname").stdout == f"{whole}\n"
    hosts = lab("exec", "named", "--", "cat", "/etc/hosts").stdout
    assert f"{address}\t{whole}\tdb-0\n" in hosts
    assert hosts.endswith("# Entries added by HostAliases.\n192.0.2.7\talias.test\n")
    assert told(lab, f"{whole}.") == [address]
    assert told(lab, "_sql._tcp.db.default.svc.cluster.local.", "SRV") == [f"0 100 5432 {whole}."]


def test_a_pod_in_its_nodes_network_is_called_as_its_node(lab: Cli) -> None:
    assert lab("exec", "hostnet", "--", "hostname").stdout == "n1\n"
    assert "192.168.50.101\tn1\n" in lab("exec", "hostnet", "--", "cat", "/etc/hosts").stdout


def test_a_change_is_in_dns_within_a_second(lab: Cli) -> None:
    name = "new.default.svc.cluster.local."
    assert told(lab, name) == ["NXDOMAIN"]
    path = lab.file(service("new", "clusterIP: 10.96.0.30, ports: [{port: 80}]"), "new.yaml")
    lab("apply", "-f", path)
    assert eventually(lambda: told(lab, name) == ["10.96.0.30"], within=1.0, what="told") < 1.0
    lab("delete", "-f", path)
    assert eventually(lambda: told(lab, name) == ["NXDOMAIN"], within=1.0, what="denied") < 1.0


def test_what_is_known_is_told_while_etcd_is_away(lab: Cli) -> None:
    (etcd,) = processes.marked(lab.run_directory)["etcd"]
    os.kill(etcd, signal.SIGSTOP)
    try:
        for _ in range(20):
            assert told(lab, "web.default.svc.cluster.local.") == ["10.96.0.20"]
            time.sleep(0.05)
    finally:
        os.kill(etcd, signal.SIGCONT)
    path = lab.file(service("late", "clusterIP: 10.96.0.31, ports: [{port: 80}]"), "late.yaml")
    lab("apply", "-f", path)
    eventually(
        lambda: told(lab, "late.default.svc.cluster.local.") == ["10.96.0.31"], what="followed"
    )


def test_a_lab_without_dns(cli: Cli) -> None:
    text = topology(cli.lab, nodes=1, pods=1) + ""
    text = text.replace("network: {Network", "dns: {replicas: 0}\nnetwork: {Network", 1)
    cli("up", cli.file(text))
    assert cli("get", "pods", "-n", "kube-system").stdout.strip() == ""
    assert cli("exec", "n1-p1", "--", "cat", "/etc/resolv.conf").stdout == OUTSIDE
    found = cli("exec", "n1-p1", "--", "getent", "ahostsv4", "example.com").stdout
    assert found.split()[0] == "203.0.113.10"
