"""Which address a name in a test means to the pod that asks, and what a Service is to a test."""

from __future__ import annotations

from typing import Any

import pytest
from test_paths import NODES, state

from netlab.cluster import Cluster, cluster
from netlab.errors import NetlabError, NotFoundError, UsageError
from netlab.testing import names, service
from netlab.testing.answers import Endpoint, Port


def declared(name: str, ip: str, *, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "ports": [{"port": 80, "name": "http"}], **spec},
    }


SERVICES = [
    declared("web", "10.96.0.1", ports=[{"port": 80, "name": "http", "nodePort": 30080}]),
    declared("web", "10.96.0.2", namespace="shop"),
    declared("c", "10.96.0.3"),  # as a pod is called
    declared("bare", "None"),
]
SLICE = {
    "kind": "EndpointSlice",
    "metadata": {
        "name": "web-1",
        "namespace": "default",
        "labels": {"kubernetes.io/service-name": "web"},
    },
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080}],
    "endpoints": [
        {
            "addresses": ["10.244.1.2"],
            "conditions": {"ready": True},
            "nodeName": "n1",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "a"},
        },
        {"addresses": ["10.244.1.3"], "conditions": {"ready": False}, "nodeName": "n1"},
    ],
}


def lab() -> Cluster:
    plain = state()
    leases = {node.address: (node.subnet, node.vtep_mac) for node in plain.nodes}
    documents = [*plain.documents.of("Pod"), *SERVICES, SLICE]
    return cluster(plain.lab, documents, leases=leases)


@pytest.mark.parametrize(
    ("word", "namespace", "address", "said"),
    [
        ("10.244.1.2", "default", "10.244.1.2", "10.244.1.2"),
        ("10.9.9.9", "default", "10.9.9.9", "10.9.9.9"),
        ("client", "default", "198.51.100.10", "client"),
        ("web", "default", "10.96.0.1", "svc/default/web"),
        ("web", "shop", "10.96.0.2", "svc/shop/web"),
        ("web.shop", "default", "10.96.0.2", "svc/shop/web"),
        ("web.shop.svc", "default", "10.96.0.2", "svc/shop/web"),
        ("web.default.svc.cluster.local.", "shop", "10.96.0.1", "svc/default/web"),
        ("shop/web", "default", "10.96.0.2", "svc/shop/web"),
        ("svc/web", "shop", "10.96.0.2", "svc/shop/web"),
        ("svc/default/web", "shop", "10.96.0.1", "svc/default/web"),
        ("c", "default", "10.96.0.3", "svc/default/c"),
        ("pod/c", "default", "10.244.2.2", "default/c"),
        ("pod/default/c", "shop", "10.244.2.2", "default/c"),
        ("a", "default", "10.244.1.2", "default/a"),
        ("default/a", "shop", "10.244.1.2", "default/a"),
        ("n1", "default", NODES["n1"], "node/n1"),
        ("node/n3", "shop", NODES["n3"], "node/n3"),
    ],
)
def test_a_word_means(word: str, namespace: str, address: str, said: str) -> None:
    found = names.meant(lab(), word, namespace=namespace)
    assert (found.address, found.word) == (address, said)


@pytest.mark.parametrize(
    ("word", "error", "words"),
    [
        ("wep", NotFoundError, "nobody in the lab is called wep"),
        ("a.shop", NotFoundError, "nobody in the lab is called a.shop"),
        ("web.shop.example.org", NotFoundError, "nobody in the lab is called web.shop.example.org"),
        ("svc/wep", NotFoundError, "no Service wep in namespace default (hint: there are: default"),
        ("node/n9", NotFoundError, "nobody in the lab is called node/n9"),
        ("bare", UsageError, "Service default/bare has no cluster IP"),
    ],
)
def test_a_word_means_nobody(word: str, error: type[NetlabError], words: str) -> None:
    with pytest.raises(error) as raised:
        names.meant(lab(), word)
    assert str(raised.value).startswith(words)


def test_a_service_has_its_ports_and_the_endpoints_that_are_ready() -> None:
    found = service.service(lab(), "web")
    assert (str(found), found.cluster_ip) == ("default/web", "10.96.0.1")
    assert found.ports == (Port(80, "TCP", "http", 30080),)
    assert found.endpoints == (Endpoint("10.244.1.2", 8080, "TCP", "default/a", "n1"),)
    assert service.service(lab(), "shop/web").endpoints == ()
