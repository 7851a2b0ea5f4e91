"""Probes by IPv6: frames read as scapy reads them, kept by the sensors' filter, on their way."""

from __future__ import annotations

import pytest
from bpf import taken
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet
from test_dual_stack import lab

from netlab import paths, probe
from netlab.cli.prove import flow_end
from netlab.cluster import Cluster, cluster
from netlab.errors import UsageError
from netlab.model.lab import Lab
from netlab.packets import Direction, Expectation, Flow, Outer, Protocol, Sighting
from netlab.sensors import capture, dissect, sieve
from netlab.sensors.ring import Frame

MARK = b"netlab:0123456789abcdef"
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PODS = {"src": "fd00:10:244:1::2", "dst": "fd00:10:244:2::3"}
NODES = {"src": "fd50::11", "dst": "fd50::12"}
SYN = TCP(sport=40001, dport=80, flags="S", seq=7_000_000, options=[("MSS", 1460)])


def tunnelled(packet: Packet) -> Packet:
    envelope = UDP(sport=51234, dport=8472) / VXLAN(flags="Instance", NextProtocol=0, vni=1)
    return LINK / IPv6(hlim=62, **NODES) / envelope / LINK / packet


def seen(packet: Packet) -> Sighting | None:
    frame = Frame(1, 2, False, False, bytes(packet))
    return dissect.sighting(frame, netns="t.n1", device="eth0")


PACKETS = {
    "tcp": IPv6(hlim=63, **PODS) / TCP(sport=40001, dport=80, flags="PA") / MARK,
    "udp": IPv6(**PODS) / UDP(sport=40001, dport=53) / MARK,
    "echo request": IPv6(**PODS) / ICMPv6EchoRequest(id=5, data=MARK),
    "echo reply": IPv6(**PODS) / ICMPv6EchoReply(id=5, data=MARK),
    "refused": IPv6(**PODS) / ICMPv6DestUnreach(code=4) / IPv6(**PODS) / UDP() / MARK,
}


@pytest.mark.parametrize("tunnel", [False, True], ids=["plain", "vxlan"])
@pytest.mark.parametrize("name", PACKETS)
def test_a_packet_of_ipv6_is_read_as_scapy_reads_it(name: str, tunnel: bool) -> None:
    packet = PACKETS[name]
    whole = tunnelled(packet) if tunnel else LINK / packet
    found = seen(whole)
    assert found is not None
    read = IPv6(bytes(packet))
    assert (found.flow.source, found.flow.destination) == (read.src, read.dst)
    assert (found.ttl, found.length) == (read.hlim, len(bytes(packet)))
    ports = (read.sport, read.dport) if name in ("tcp", "udp") else (0, 0)
    assert (found.flow.source_port, found.flow.destination_port) == ports
    wanted = {"echo request": "echo-request", "echo reply": "echo-reply"}
    assert found.icmp == {**wanted, "refused": "port-unreachable"}.get(name, "")
    outer = Outer("fd50::11", "fd50::12", 1, 51234, 8472, 62) if tunnel else None
    assert found.outer == outer


@pytest.mark.parametrize(
    "packet",
    [
        LINK / IPv6(**PODS) / IPv6ExtHdrFragment(offset=9) / (b"x" * 40),
        LINK / IPv6(nh=89, **PODS) / (b"x" * 40),
        Ether(bytes(LINK / IPv6(**PODS) / TCP())[:60]),
    ],
    ids=["a fragment", "another protocol", "cut off"],
)
def test_what_is_no_probe_of_ipv6_is_none(packet: Packet) -> None:
    assert seen(packet) is None


def test_of_a_packet_that_was_forwarded_only_the_hop_limit_differs() -> None:
    one, other = (
        bytes(IPv6(hlim=limit, **PODS) / UDP(sport=1, dport=2) / MARK) for limit in (64, 62)
    )
    assert one != other and dissect.content(one) == dissect.content(other)
    assert dissect.content(one) != dissect.content(one[:-1] + b"X")


KEPT = {
    "tcp": LINK / PACKETS["tcp"],
    "udp": LINK / PACKETS["udp"],
    "syn": LINK / IPv6(**PODS) / SYN,
    "echo": LINK / PACKETS["echo request"],
    "answer": LINK / IPv6(**PODS) / TCP(flags="PA") / (b'{"request":"' + MARK),
    "udp answer": LINK / IPv6(**PODS) / UDP() / (b'{"request":"' + MARK),
    "tcp in vxlan": tunnelled(PACKETS["tcp"]),
    "udp in vxlan": tunnelled(PACKETS["udp"]),
    "syn in vxlan": tunnelled(IPv6(**PODS) / SYN),
}
DROPPED = {
    "tcp": LINK / IPv6(**PODS) / TCP(flags="PA") / (b"x" * 200),
    "udp": LINK / IPv6(**PODS) / UDP(sport=1, dport=2) / (b"x" * 200),
    "tcp in vxlan": tunnelled(IPv6(**PODS) / TCP(flags="PA") / (b"x" * 200)),
    "udp in vxlan": tunnelled(IPv6(**PODS) / UDP() / (b"x" * 200)),
    "another protocol": LINK / IPv6(nh=89, **PODS) / (b"x" * 200),
    "long": LINK / IPv6(**PODS) / UDP() / (MARK + b"x" * 1400),
}


def test_the_sensors_filter_keeps_what_may_be_a_probes() -> None:
    program = sieve.program()
    assert {name for name, one in KEPT.items() if taken(program, bytes(one))} == set(KEPT)
    assert [name for name, one in DROPPED.items() if taken(program, bytes(one))] == []


def test_a_connections_opening_is_known_by_its_number() -> None:
    answer = TCP(sport=80, dport=40001, flags="SA", seq=1, ack=7_000_001)
    for wrap in (lambda packet: LINK / packet, tunnelled):
        for segment in (SYN, answer):
            found = capture.opening(bytes(wrap(IPv6(**PODS) / segment)))
            assert found is not None and found.number == 7_000_000
    outside, inside = (
        capture.opening(bytes(one)) for one in (LINK / IPv6(**PODS) / SYN, tunnelled(IPv6() / SYN))
    )
    assert outside is not None and outside.ends[-4:] == bytes(IPv6(**PODS) / SYN)[40:44]
    assert outside.ends[:32] == bytes(IPv6(**PODS))[8:40] and len(outside.ends) == 36
    assert inside is not None and inside.ends == b""
    assert capture.opening(bytes(LINK / PACKETS["tcp"])) is None
    solicitation = LINK / IPv6(**PODS) / ICMPv6ND_NS(tgt="fd50::11")
    assert capture.opening(bytes(solicitation)) is None


# -- ways

MACS = {"n1": ("02:00:00:00:00:01", "02:00:00:00:06:01"), "n2": ("02:0:0:0:0:2", "02:0:0:0:6:2")}


def state(own: Lab | None = None) -> Cluster:
    own = own or lab()
    pods = {"a": ("n1", 1, 2), "b": ("n1", 1, 3), "c": ("n2", 2, 2)}
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"nodeName": node, "containers": []},
            "status": {
                "podIP": f"10.244.{lease}.{host}",
                "podIPs": [
                    {"ip": f"10.244.{lease}.{host}"},
                    {"ip": f"fd00:10:244:{lease}::{host}"},
                ],
                "phase": "Running",
            },
        }
        for name, (node, lease, host) in pods.items()
    ]
    leases = {
        node.address: (
            *(f"10.244.{number}.0/24", MACS[node.name][0]),
            *(f"fd00:10:244:{number}::/64", MACS[node.name][1]),
        )
        for number, node in enumerate(own.nodes, start=1)
    }
    return cluster(own, documents, leases=leases)


def expected(source: str, destination: str) -> Expectation:
    seen = state()
    start, goal = probe.ends_of(seen, source, destination)
    flow = probe.flow_between(seen, start, goal, protocol=Protocol.TCP, port=80)
    return paths.expected(seen, start, goal, flow)


def places(expectation: Expectation) -> list[str]:
    return [f"{hop.netns.removeprefix('t.')} {hop.device}" for hop in expectation.request]


def test_pods_of_two_nodes_meet_in_the_tunnel_of_ipv6() -> None:
    found = expected("a", "fd00:10:244:2::2")
    assert "n1 flannel-v6.1" in places(found) and "n1 flannel.1" not in places(found)
    (outside, *_) = [hop for hop in found.request if hop.device == "eth0" and hop.outer]
    assert outside.outer is not None
    ends = (outside.outer.source, outside.outer.destination)
    assert ends == ("fd00:192:168:50::11", "fd00:192:168:50::112")
    assert (outside.source_mac, outside.destination_mac) == (MACS["n1"][1], MACS["n2"][1])
    assert (found.flow.source, found.request[-1].ttl) == ("fd00:10:244:1::2", 62)


def test_who_leaves_the_cluster_by_ipv6_has_its_nodes_address() -> None:
    found = expected("a", "2001:db8:1::10")
    assert [hop.source for hop in found.request if hop.device == "internet"] == [
        "fd00:192:168:50::11"
    ]
    assert found.reply[0].destination == "fd00:192:168:50::11"


@pytest.mark.parametrize(
    ("source", "destination", "address"),
    [
        ("node/n1", "fd00:10:244:1::2", "fd00:10:244:1::1"),
        ("node/n1", "fd00:10:244:2::2", "fd00:10:244:1::"),
        ("node/n1", "fd00:192:168:50::112", "fd00:192:168:50::11"),
        ("gateway", "2001:db8:2::10", "2001:db8:2::1"),
        ("client", "2001:db8:1::10", "2001:db8:2::10"),
        ("a", "::1", "::1"),
    ],
)
def test_a_source_is_of_the_family_of_what_is_asked(
    source: str, destination: str, address: str
) -> None:
    assert expected(source, destination).flow.source == address


def test_outside_it_ends_at_the_gateway() -> None:
    assert "has no route" in expected("client", "fd00:10:244:1::2").ends
    assert "not published" in expected("client", "fd00:192:168:50::11").ends


def test_in_a_lab_of_one_stack_no_address_of_ipv6_can_be_asked() -> None:
    one = state(lab("apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\nnodes: [{name: n1}]\n"))
    with pytest.raises(UsageError, match="only IPv4"):
        paths.place(one, "fd00::1")


def test_a_machine_without_ipv6_is_told() -> None:
    seen = state()
    with pytest.raises(UsageError, match="has no IPv6 address"):
        paths.facing(seen, paths.Place("10.0.0.1", "", member="underlay"), "fd00::1")


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("fd00::2", ("fd00::2", 0, "")),
        ("[fd00::2]", ("[fd00::2]", 0, "")),
        ("[fd00::2]:80", ("[fd00::2]", 80, "tcp")),
        ("[fd00::2]:53/UDP", ("[fd00::2]", 53, "udp")),
    ],
)
def test_an_address_of_ipv6_with_a_port_is_in_brackets(
    words: str, end: tuple[str, int, str]
) -> None:
    assert flow_end(words) == end


def test_the_way_of_a_sighting_is_compared_by_both_ends() -> None:
    found = expected("a", "fd00:10:244:1::3")
    sightings = [
        Sighting(
            time=at,
            netns=hop.netns,
            device=hop.device,
            direction=hop.direction,
            flow=Flow(hop.source, hop.destination, Protocol.TCP, 40000, 80),
            ttl=hop.ttl or 0,
            length=80,
        )
        for at, hop in enumerate(found.request)
    ]
    verdict = paths.compare(found, sightings, answered=True)
    assert [one.problem for one in verdict.passages[: len(found.request)]] == [""] * 4
    assert sightings[0].direction is Direction.OUT
