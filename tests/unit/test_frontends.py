"""What a node does about Services: rules the table of packets has no row for."""

from __future__ import annotations

import random
from typing import Any

import pytest
from service_objects import CIDR, THERE, decide, endpoint, only, service, slice_, texts

from netlab.proxy import Kind, Mode, Refusal

# Who goes where

EVERYBODY = "all>Cluster/all"
WAYS = [
    # external policy, internal policy, endpoints here/there, options -> cluster IP, NodePort
    ("Cluster", "Cluster", "there", CIDR, "all>Cluster/not pods", EVERYBODY),
    ("Cluster", "Cluster", "there", {}, "all>Cluster/none", EVERYBODY),
    ("Cluster", "Cluster", "there", {"masquerade_all": True}, EVERYBODY, EVERYBODY),
    ("Cluster", "Local", "there", CIDR, "drop", EVERYBODY),
    ("Cluster", "Local", "here", CIDR, "all>Local/not pods", EVERYBODY),
    ("Cluster", "Cluster", "", CIDR, "reject", "reject"),
    ("Local", "Local", "", CIDR, "reject", "reject"),
    (
        "Local",
        "Cluster",
        "there",
        CIDR,
        "all>Cluster/not pods",
        "pods>Cluster/none node>Cluster/all drop",
    ),
    (
        "Local",
        "Local",
        "here",
        {**CIDR, "masquerade_all": True},
        "all>Local/all",
        "pods>Cluster/none node>Cluster/all all>Local/none",
    ),
    ("Local", "Local", "there", {}, "drop", "node>Cluster/all drop"),
]


@pytest.mark.parametrize(("external", "internal", "where", "options", "inner", "outer"), WAYS)
def test_ways(
    external: str, internal: str, where: str, options: dict[str, Any], inner: str, outer: str
) -> None:
    given = service(
        type="NodePort",
        externalTrafficPolicy=external,
        internalTrafficPolicy=internal,
        ports=[{"port": 80, "name": "http", "nodePort": 30080}],
    )
    place = {"here": [endpoint("10.244.1.5")], "there": [endpoint("10.244.2.5", THERE)], "": []}
    found = decide([given], [slice_(*place[where])], **options)
    for kind, expected in ((Kind.CLUSTER_IP, inner), (Kind.NODE_PORT, outer)):
        one = only(found, kind)
        ways = [f"{way.clients}>{way.policy}/{way.masquerade}" for way in one.ways]
        assert " ".join([*ways, *([one.refusal] if one.refusal else [])]) == expected


def test_external_policy_means_nothing_without_a_way_in() -> None:
    given = service(externalTrafficPolicy="Local", ingress=["1.2.3.4"])
    found = decide([given], [slice_(endpoint("10.244.2.5", THERE))])
    assert only(found, Kind.LOAD_BALANCER).refusal is None


def test_an_external_ip_is_a_way_in() -> None:
    given = service(externalTrafficPolicy="Local", externalIPs=["1.2.3.4"])
    found = decide([given], [slice_(endpoint("10.244.2.5", THERE))])
    assert only(found, Kind.EXTERNAL_IP).refusal is Refusal.DROP


# Addresses a Service has


def test_each_family_has_its_own_frontends() -> None:
    given = service(
        clusterIPs=["10.96.0.1", "fd00:96::1"],
        type="LoadBalancer",
        externalIPs=["fd00::9", "1.1.1.1", "1.1.1.01", "x"],
        ingress=["1.2.3.4", "fd00::4", {"hostname": "lb"}, {"ip": "1.2.3.5", "ipMode": "Proxy"}],
        ports=[{"port": 80, "name": "http", "nodePort": 30080}],
    )
    six = slice_(endpoint("fd00:1::5"), name="web-6", addressType="IPv6")
    found = decide([given], [slice_(endpoint("10.244.1.5")), six])
    assert [(one.kind, one.address, texts(one.service.cluster)[0]) for one in found.frontends] == [
        ("ClusterIP", "10.96.0.1", "10.244.1.5:8080"),
        ("ExternalIP", "1.1.1.1", "10.244.1.5:8080"),
        ("LoadBalancer", "1.2.3.4", "10.244.1.5:8080"),
        ("NodePort", "", "10.244.1.5:8080"),
        ("ClusterIP", "fd00:96::1", "[fd00:1::5]:8080"),
        ("ExternalIP", "fd00::9", "[fd00:1::5]:8080"),
        ("LoadBalancer", "fd00::4", "[fd00:1::5]:8080"),
        ("NodePort", "", "[fd00:1::5]:8080"),
    ]
    assert found.warnings == ("Service default/web: externalIPs: 'x' is no address",)


@pytest.mark.parametrize(
    "others",
    [
        {"ip": "None"},
        {"ip": ""},
        {"type": "ExternalName"},
        {"labels": {"service.kubernetes.io/service-proxy-name": ""}},
        {"labels": {"service.kubernetes.io/headless": "false"}},
        {"ports": None},
    ],
    ids=str,
)
def test_nothing_to_serve(others: dict[str, Any]) -> None:
    given = service(**{"externalIPs": ["1.2.3.4"], **others})
    found = decide([given], [slice_(endpoint("10.244.1.5"))])
    assert found.frontends == found.warnings == ()


def test_unsound_ports_are_left_out() -> None:
    ports = [
        {"port": 0, "name": "a"},
        {"port": 80, "name": "b", "nodePort": 70000},
        {"port": 80, "name": "c", "protocol": "HTTP"},
        {"port": 80, "name": "d", "protocol": "SCTP"},
    ]
    found = decide([service(ports=ports)])
    assert only(found).service.protocol == "SCTP"
    assert len(found.warnings) == 3


def test_a_cluster_ip_cannot_be_taken_by_claiming_it() -> None:
    thief = service("a-thief", ip="10.96.0.9", externalIPs=["10.96.0.1", "1.2.3.4"])
    later = service("z-later", ip="10.96.0.8", ingress=["1.2.3.4"])
    found = decide([service(), thief, later])
    owners = {one.address: one.service.name for one in found.frontends}
    assert owners["10.96.0.1"] == "web" and owners["1.2.3.4"] == "a-thief"
    assert len({one.key for one in found.frontends}) == len(found.frontends)
    assert len(found.warnings) == 2


def test_one_service_may_have_an_address_twice() -> None:
    found = decide([service(externalIPs=["1.2.3.4"], ingress=["1.2.3.4"])])
    assert [one.kind for one in found.frontends] == [Kind.CLUSTER_IP, Kind.EXTERNAL_IP]
    assert found.warnings == ()


def test_the_same_port_of_two_protocols_is_no_dispute() -> None:
    ports = [{"port": 53, "name": "u", "protocol": "UDP"}, {"port": 53, "name": "t"}]
    assert len(decide([service(ports=ports)]).frontends) == 2


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({}, 0),
        ({"sessionAffinity": "ClientIP"}, 10800),
        (
            {
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
            },
            7,
        ),
        ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}}, 0),
    ],
)
def test_affinity(config: dict[str, Any], seconds: int) -> None:
    assert only(decide([service(**config)])).service.affinity == seconds


@pytest.mark.parametrize(
    ("ranges", "endpoints", "mode", "sources"),
    [
        ([], ["10.244.1.5"], "iptables", ()),
        (["10.0.0.0/8"], ["10.244.1.5"], "iptables", ("10.0.0.0/8",)),
        (["192.168.0.0/16"], ["10.244.1.5"], "nftables", ("192.168.0.0/16", "1.2.3.4")),
        (["fd00::/8"], ["10.244.1.5"], "iptables", ()),
        (["fd00::/8", "10.0.0.0/8"], ["10.244.1.5"], "iptables", ("10.0.0.0/8",)),
        (["10.0.0.0/8"], [], "iptables", ()),
        (["10.0.0.0/8"], [], "nftables", ("10.0.0.0/8",)),
        (["10.0.0/8", " 10.0.0.0/8"], ["10.244.1.5"], "nftables", ("10.0.0.0/8",)),
    ],
)
def test_source_ranges(
    ranges: list[str], endpoints: list[str], mode: str, sources: tuple[str, ...]
) -> None:
    given = service(
        type="LoadBalancer",
        loadBalancerSourceRanges=ranges,
        ingress=["1.2.3.4"],
        externalIPs=["1.2.3.5"],
        ports=[{"port": 80, "name": "http", "nodePort": 30080}],
    )
    found = decide([given], [slice_(*map(endpoint, endpoints))], mode=Mode(mode))
    assert only(found, Kind.LOAD_BALANCER).sources == sources
    others = [one for one in found.frontends if one.kind is not Kind.LOAD_BALANCER]
    assert [one.sources for one in others] == [()] * 3
    assert len(found.warnings) == ranges.count("10.0.0/8")


# All together


def test_order_of_objects_does_not_matter() -> None:
    services = [service(f"s{i}", ip=f"10.96.0.{i}", externalIPs=["1.2.3.4"]) for i in range(1, 9)]
    slices = [
        slice_(endpoint(f"10.244.1.{i}", state=state), of=f"s{i}", name=f"s{i}-{state}")
        for i in range(1, 9)
        for state in ("ready", "gone", "lingering")
    ]
    first = decide(services, slices)
    for seed in range(5):
        random.Random(seed).shuffle(services)
        random.Random(seed).shuffle(slices)
        assert decide(services, slices) == first
    assert texts(first.frontends[0].service.cluster) == ["10.244.1.1:8080"]


def test_endpoints_are_sorted_by_text() -> None:
    found = decide([service()], [slice_(*(endpoint(f"10.244.1.{i}") for i in (9, 10, 2)))])
    assert texts(only(found).service.cluster) == [f"10.244.1.{i}:8080" for i in (10, 2, 9)]
