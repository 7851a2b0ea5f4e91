"""The DNS that a lab brings, and those that bring their own."""

from __future__ import annotations

import io
from typing import Any

import pytest

from netlab import topology
from netlab.controllers import clusterdns
from netlab.model.inventory import inventory
from netlab.model.lab import Lab

OWN: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "kube-dns", "namespace": "kube-system"},
    "spec": {"clusterIP": "10.96.0.77"},
}


def lab(more: str = "") -> Lab:
    head = "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\nnodes: [{name: node1}]\n"
    text = f"{head}{more}\n"
    return topology.load(["-"], stdin=io.StringIO(text)).require_lab()


def test_a_lab_brings_a_service_and_its_pods() -> None:
    service, deployment = clusterdns.objects(lab())
    assert service["spec"]["clusterIP"] == "10.96.0.10"
    assert [(p["protocol"], p["port"]) for p in service["spec"]["ports"]] == [
        ("UDP", 53),
        ("TCP", 53),
    ]
    assert deployment["spec"]["replicas"] == 2
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "netlab/dns"
    assert container["args"] == [
        "domain=cluster.local",
        "ttl=5",
        "pods=insecure",
        "upstream=203.0.113.53",
    ]


def test_its_settings_are_the_labs() -> None:
    own = lab(
        "dns: {replicas: 3, address: 10.96.0.53, domain: lab.test, ttl: 30,"
        " upstream: [192.0.2.1, 192.0.2.2]}"
    )
    service, deployment = clusterdns.objects(own)
    assert service["spec"]["clusterIP"] == "10.96.0.53"
    assert deployment["spec"]["replicas"] == 3
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [
        "domain=lab.test",
        "ttl=30",
        "pods=insecure",
        "upstream=192.0.2.1,192.0.2.2",
    ]


@pytest.mark.parametrize(
    ("more", "documents", "address"),
    [
        pytest.param("dns: {replicas: 0}", [], "", id="none wished"),
        pytest.param("", [OWN], "10.96.0.77", id="one of the files'"),
        pytest.param("dns: {replicas: 0}", [OWN], "10.96.0.77", id="only the files'"),
    ],
)
def test_no_dns_beside_the_users_own(more: str, documents: list[Any], address: str) -> None:
    assert clusterdns.objects(lab(more), documents) == []
    assert clusterdns.address(lab(more), inventory(documents)) == address


def test_a_service_of_that_name_elsewhere_is_another() -> None:
    other = {**OWN, "metadata": {"name": "kube-dns", "namespace": "default"}}
    assert len(clusterdns.objects(lab(), [other])) == 2
    assert clusterdns.address(lab(), inventory([other])) == "10.96.0.10"


@pytest.mark.parametrize(
    ("cidr", "address"),
    [
        ("10.96.0.0/12", "10.96.0.10"),
        ("172.16.0.0/16", "172.16.0.10"),
        ("10.9.8.0/28", "10.9.8.10"),
    ],
)
def test_the_tenth_address_of_the_services_is_the_dns(cidr: str, address: str) -> None:
    assert lab(f"serviceCIDR: {cidr}").dns_address == address


@pytest.mark.parametrize(
    ("internet", "resolver"),
    [
        pytest.param("203.0.113.10/24", "203.0.113.53", id="the 53rd"),
        pytest.param("203.0.113.53/24", "203.0.113.53", id="the server has the 53rd"),
        pytest.param("203.0.113.2/30", "203.0.113.2", id="no 53rd"),
    ],
)
def test_the_resolver_on_the_internet(internet: str, resolver: str) -> None:
    own = lab(f"outside: {{internet: {internet}}}")
    assert own.resolver == resolver
    assert own.outside_names["example.com"] == internet.partition("/")[0]
