"""What a proxy's options mean on a node, and where that depends on the mode."""

from __future__ import annotations

import json
from typing import Any

import pytest
from service_objects import CIDR, THERE, V4, V6, decide, endpoint, service, slice_

from netlab import proxy
from netlab.errors import UsageError
from netlab.proxy import DetectLocal, Mode, Verdict

# The node

BOTH, SIX = "192.168.50.11 10.0.0.1", "fd00:50::11 fd00::1"


@pytest.mark.parametrize(
    ("mode", "given", "localhost", "four", "six", "guarded"),
    [
        ("iptables", (), True, "192.168.50.11 10.0.0.1 127.0.0.1", SIX, True),
        ("iptables", (), False, BOTH, SIX, False),
        ("nftables", (), True, "192.168.50.11", "fd00:50::11", False),
        ("nftables", ("0.0.0.0/0", "::/0"), True, BOTH, SIX, False),
        ("iptables", ("primary",), True, "192.168.50.11", "fd00:50::11", False),
        ("iptables", ("10.0.0.0/8",), True, "10.0.0.1", SIX, False),
        ("iptables", ("127.0.0.0/8",), True, "127.0.0.1", SIX, True),
        ("iptables", ("127.0.0.1/32",), True, "127.0.0.1", SIX, True),
        ("iptables", ("127.0.0.1/32",), False, "", SIX, False),
        ("nftables", ("127.0.0.0/8", "fd00:50::/64"), True, "", "fd00:50::11", False),
        ("iptables", ("10.0.0.0/8", "0.0.0.0/0"), False, BOTH, SIX, False),
    ],
)  # fmt: skip
def test_addresses_with_node_ports(
    mode: str, given: tuple[str, ...], localhost: bool, four: str, six: str, guarded: bool
) -> None:
    found = decide(
        [], mode=Mode(mode), node_port_addresses=given, localhost_node_ports=localhost
    ).situations
    own = {V4: "192.168.50.11 10.0.0.1 127.0.0.1", V6: "fd00:50::11 fd00::1 ::1"}
    for which, expected in ((V4, four), (V6, six)):
        ports = found[which].node_ports
        assert [one for one in own[which].split() if ports.on(one)] == expected.split()
        assert ports.everywhere is (len(set(expected.split()) & {*BOTH.split(), *SIX.split()}) == 2)
    assert found[V4].route_localnet is guarded
    assert not found[V6].route_localnet


@pytest.mark.parametrize(
    ("options", "four", "six"),
    [
        ({}, "", ""),
        ({"detect_local": DetectLocal.CLUSTER_CIDR}, "", ""),
        (CIDR, "10.244.0.0/16", ""),
        ({"detect_local": DetectLocal.NODE_CIDR}, "10.244.1.0/24", "fd00:1::/64"),
        ({"detect_local": DetectLocal.NODE_CIDR, "pod_cidrs": ("10.9.0.0/24",)}, "10.9.0.0/24", ""),
        ({"detect_local": DetectLocal.BRIDGE, "interface": "docker0"}, "docker0", "docker0"),
        ({"detect_local": DetectLocal.INTERFACE_PREFIX, "interface": "cali"}, "cali+", "cali+"),
    ],
    ids=str,
)
def test_how_pods_are_told_from_others(options: dict[str, Any], four: str, six: str) -> None:
    for which, expected in ((V4, four), (V6, six)):
        pods = decide([], **options).situations[which].pods
        assert (pods.cidr or pods.interface or (pods.prefix and pods.prefix + "+")) == expected
        assert pods.known is bool(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"detect_local": DetectLocal.BRIDGE},
        {**CIDR, "pod_cidrs": ("10.0.0.0/8", "11.0.0.0/8")},
        {**CIDR, "pod_cidrs": ("10.0.0.0",)},
        {"node_port_addresses": ("eth0",)},
        {"node_port_addresses": ("primary", "10.0.0.0/8")},
        {"service_cidrs": ("10.96.0.0",)},
        {"detect_local": DetectLocal.BRIDGE, "interface": "a-name-of-16-let"},
        {"detect_local": DetectLocal.INTERFACE_PREFIX, "interface": "cali*"},
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        decide([], **options)


BALANCED = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}


@pytest.mark.parametrize(
    ("endpoints", "count", "status"),
    [
        ([endpoint("10.244.1.5"), endpoint("10.244.1.6"), endpoint("10.244.2.5", THERE)], 2, 200),
        ([endpoint("10.244.2.5", THERE)], 0, 503),
        ([endpoint("10.244.1.5", state="lingering")], 0, 503),
        ([], 0, 503),
    ],
)
def test_health_check_counts_ready_local_addresses(
    endpoints: list[Any], count: int, status: int
) -> None:
    ports = [{"name": "http", "port": 8080}, {"name": "more", "port": 8081}]
    (one,) = decide([service(**BALANCED)], [slice_(*endpoints, ports=ports)]).health_checks
    assert (one.port, one.local_endpoints, one.status, one.family) == (32000, count, status, V4)
    assert json.loads(one.body) == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": count,
        "serviceProxyHealthy": True,
    }
    assert one.headers["X-Load-Balancing-Endpoint-Weight"] == str(count)


@pytest.mark.parametrize(
    "others",
    [{"type": "NodePort"}, {"externalTrafficPolicy": "Cluster"}, {"healthCheckNodePort": 0}],
    ids=str,
)
def test_no_health_check(others: dict[str, Any]) -> None:
    assert decide([service(**{**BALANCED, **others})]).health_checks == ()


def test_a_health_check_port_has_one_service() -> None:
    found = decide([service("b", ip="10.96.0.2", **BALANCED), service("a", **BALANCED)])
    assert [one.name for one in found.health_checks] == ["a"]
    assert len(found.warnings) == 1


# What becomes of a packet, where the modes differ

EMPTY = service(
    type="LoadBalancer",
    externalIPs=["1.1.1.1"],
    ingress=["1.2.3.4"],
    loadBalancerSourceRanges=["203.0.113.0/24"],
    ports=[{"port": 80, "name": "http", "nodePort": 30080}],
)


@pytest.mark.parametrize(
    ("source", "interface", "to", "port", "iptables", "nftables"),
    [
        ("192.168.50.11", "", "1.1.1.1", 80, "no-match", "rejected"),
        ("203.0.113.2", "eth0", "1.1.1.1", 80, "rejected", "rejected"),
        ("192.168.50.11", "", "10.96.0.1", 80, "rejected", "rejected"),
        ("192.168.50.11", "", "10.96.0.1", 81, "no-match", "rejected"),
        ("198.51.100.1", "eth0", "1.2.3.4", 80, "rejected", "dropped"),
        ("203.0.113.2", "eth0", "10.0.0.1", 30080, "rejected", "no-match"),
        ("203.0.113.2", "eth0", "192.168.50.11", 30080, "rejected", "rejected"),
        ("203.0.113.2", "eth0", "192.168.50.12", 30080, "no-match", "no-match"),
        ("192.168.50.12", "eth0", "127.0.0.1", 22, "dropped", "no-match"),
        ("127.0.0.1", "", "127.0.0.1", 22, "no-match", "no-match"),
    ],
)
def test_refusals_of_the_modes(
    source: str, interface: str, to: str, port: int, iptables: str, nftables: str
) -> None:
    packet = proxy.Packet(source, to, port, "TCP", interface)
    for mode, expected in ((Mode.IPTABLES, iptables), (Mode.NFTABLES, nftables)):
        found = decide([EMPTY], mode=mode)
        own = {"192.168.50.11", "10.0.0.1"}
        assert proxy.outcome(found, packet, local=own).verdict == expected, mode


@pytest.mark.parametrize(
    ("to", "nftables"),
    [
        ("10.96.0.9", "dropped"),
        ("10.96.0.1", "rejected"),  # it has a Service, though not at this port
        ("10.97.0.1", "no-match"),
        ("10.96.0.200", "no-match"),  # the node's own
        ("fd00:96::9", "dropped"),
        ("fd00:97::9", "no-match"),
    ],
)
def test_an_address_of_no_service_in_the_service_cidr(to: str, nftables: str) -> None:
    cidrs = ("10.96.0.0/16", "fd00:96::/112")
    packet = proxy.Packet("203.0.113.2" if "." in to else "fd00::2", to, 443, "TCP", "eth0")
    for mode, expected in ((Mode.IPTABLES, "no-match"), (Mode.NFTABLES, nftables)):
        found = decide([EMPTY], mode=mode, service_cidrs=cidrs)
        assert proxy.outcome(found, packet, local={"10.96.0.200"}).verdict == expected, mode


def test_pods_are_told_by_the_prefix_of_their_interface() -> None:
    found = decide(
        [service()],
        [slice_(endpoint("10.244.1.5"))],
        detect_local=DetectLocal.INTERFACE_PREFIX,
        interface="cali",
    )
    for interface, masqueraded in (("cali12", False), ("eth0", True), ("", True)):
        packet = proxy.Packet("10.244.1.9", "10.96.0.1", 80, "TCP", interface)
        found_one = proxy.outcome(found, packet, local=())
        assert found_one.verdict is Verdict.ENDPOINTS
        assert found_one.endpoints == {"10.244.1.5:8080": masqueraded}
