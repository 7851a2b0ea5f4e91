"""The sensors, the expected ways and the verdicts, in a world made by ip(8) alone."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import handmade
import pytest
from scapy.layers.inet import IP, UDP

from netlab import paths
from netlab.cluster import Cluster
from netlab.errors import KernelError, NotFoundError, UsageError
from netlab.kernel import netns as namespaces
from netlab.kernel.netns import entered
from netlab.packets import Direction, Flow, Outcome, Protocol, Verdict
from netlab.probe import probe
from netlab.sensors import capture
from netlab.sensors.token import token

pytestmark = pytest.mark.kernel

NAME = f"nltest{os.getpid()}"


class World:
    """What `probe` asks of a live lab."""

    subnets = ()

    def __init__(self, state: Cluster) -> None:
        self.state = state

    def cluster(self) -> Cluster:
        return self.state


@pytest.fixture(scope="module")
def live() -> Iterator[World]:
    with handmade.two_nodes(NAME) as state:
        yield World(state)


def datagram(flow: Flow, mark: bytes) -> bytes:
    """Return an IPv4 packet of UDP that carries *mark*."""
    ports = UDP(sport=flow.source_port, dport=flow.destination_port)
    return bytes(IP(src=flow.source, dst=flow.destination) / ports / mark)


def inject(netns: str, packets: list[bytes], destination: str) -> None:
    """Send ready-made IPv4 packets from *netns* by its own routes."""
    with (
        entered(netns),
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock,
    ):
        for packet in packets:
            sock.sendto(packet, (destination, 0))


def inside(short: str, command: str) -> str:
    return f"ip netns exec {NAME}.{short} {command}"


# -- ways that work

WORKING = [
    pytest.param("a", "b", "udp", 80, id="same-node-udp"),
    pytest.param("a", "b", "tcp", 80, id="same-node-tcp"),
    pytest.param("a", "b", "icmp", 0, id="same-node-icmp"),
    pytest.param("a", "c", "udp", 80, id="cross-node-udp"),
    pytest.param("a", "c", "tcp", 80, id="cross-node-tcp"),
    pytest.param("c", "a", "icmp", 0, id="cross-node-icmp"),
    pytest.param("a", "a", "tcp", 80, id="pod-to-itself"),
    pytest.param("a", "127.0.0.1", "udp", 80, id="loopback"),
    pytest.param("a", "node/node1", "icmp", 0, id="pod-to-its-node"),
    pytest.param("a", "node/node2", "icmp", 0, id="pod-to-other-node"),
    pytest.param("a", "10.244.2.1", "icmp", 0, id="pod-to-other-docker0"),
    pytest.param("node/node1", "a", "tcp", 80, id="node-to-its-pod"),
    pytest.param("node/node1", "c", "tcp", 80, id="node-to-other-pod"),
    pytest.param("node/node1", "node/node2", "icmp", 0, id="node-to-node"),
    pytest.param("a", "internet", "tcp", 80, id="pod-to-internet"),
    pytest.param("a", "internet", "icmp", 0, id="pod-to-internet-icmp"),
    pytest.param("node/node2", "internet", "udp", 80, id="node-to-internet"),
    pytest.param("a", "gateway", "icmp", 0, id="pod-to-gateway"),
    pytest.param("gateway", "node/node1", "icmp", 0, id="gateway-to-node"),
    pytest.param("client", "internet", "tcp", 80, id="client-to-internet"),
    pytest.param("client", "gateway", "icmp", 0, id="client-to-gateway"),
]


@pytest.mark.parametrize(("source", "destination", "protocol", "port"), WORKING)
def test_every_hop_of_a_working_way_is_seen(
    live: World, source: str, destination: str, protocol: str, port: int
) -> None:
    verdict = probe(live, source, destination, protocol=protocol, port=port)
    assert verdict.outcome is Outcome.PASS, verdict
    assert verdict.passages
    assert all(passage.sighting for passage in verdict.passages)
    times = [passage.sighting.time for passage in verdict.passages if passage.sighting]
    assert times == sorted(times)


STOPPED = [
    pytest.param("client", "a", "tcp", 80, "client in: {}.gateway has no route", id="pod-tcp"),
    pytest.param("client", "a", "icmp", 0, "client in: {}.gateway has no route", id="pod-icmp"),
    pytest.param("client", "node/node1", "tcp", 22, 'rule "not published"', id="node-tcp"),
    pytest.param("client", "node/node1", "udp", 53, 'rule "not published"', id="node-udp"),
    pytest.param("client", "node/node2", "icmp", 0, 'rule "not published"', id="node-icmp"),
    pytest.param("a", "10.96.0.1", "tcp", 443, "gateway eth0 in: ", id="nobody"),
    pytest.param("gateway", "c", "udp", 80, "not even sent", id="gateway-to-pod"),
]


@pytest.mark.parametrize(("source", "destination", "protocol", "port", "words"), STOPPED)
def test_what_must_be_stopped_is_stopped_and_the_place_is_named(
    live: World, source: str, destination: str, protocol: str, port: int, words: str
) -> None:
    began = time.monotonic()
    verdict = probe(live, source, destination, protocol=protocol, port=port)
    assert verdict.outcome is Outcome.PASS, verdict
    assert words.format(NAME) in verdict.evidence[0]
    assert time.monotonic() - began < 1.0, "a refusal is evidence: no timeout to wait for"


# -- ways that are broken: (break it, mend it, the flow, last seen, expected next, a word why)

PEER = handmade.MACS["node2"]
SOME_MAC = "02:00:00:00:00:99"
FDB = f"bridge -n {NAME}.node1 fdb {{}} {PEER} dev flannel.1 dst 192.168.50.12"
ROUTE = f"ip -n {NAME}.node1 route {{}} 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"
NEIGHBOUR = (
    f"ip -n {NAME}.node1 neighbour replace 10.244.2.0 lladdr {{}} dev flannel.1 nud permanent"
)
MASQUERADE = inside(
    "node1",
    "iptables-nft -t nat -{} FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 "
    "-j MASQUERADE --random-fully",
)
DROP_TABLE = "nft 'table bridge nltest { chain f { type filter hook forward priority 0; "
NO_DROP = "nft delete table bridge nltest"
VETH = "{veth_c}"

BROKEN = [
    pytest.param(
        FDB.format("del"), FDB.format("append"), ("a", "c", "udp", 80),
        "node1 flannel.1 out", "node1 eth0 out", "FDB entry of flannel.1",
        id="fdb-entry-deleted",
    ),
    pytest.param(
        ROUTE.format("del"), ROUTE.format("add"), ("a", "c", "tcp", 80),
        "node1 docker0 in", "node1 flannel.1 out", "route 10.244.2.0/24 via 10.244.2.0",
        id="route-deleted",
    ),
    pytest.param(
        NEIGHBOUR.format(SOME_MAC) + f"; bridge -n {NAME}.node1 fdb append {SOME_MAC} dev "
        "flannel.1 dst 192.168.50.12",
        NEIGHBOUR.format(PEER) + f"; bridge -n {NAME}.node1 fdb del {SOME_MAC} dev flannel.1",
        ("a", "c", "icmp", 0),
        "node1 docker0 in", "node1 flannel.1 out", f"lladdr {PEER}",
        id="wrong-vtep-mac",
    ),
    pytest.param(
        f"ip -n {NAME}.node1 neighbour del 10.244.2.0 dev flannel.1", NEIGHBOUR.format(PEER),
        ("a", "c", "udp", 80),
        "node1 docker0 in", "node1 flannel.1 out", "neighbour 10.244.2.0",
        id="neighbour-deleted",
    ),
    pytest.param(
        MASQUERADE.format("D"), MASQUERADE.format("A"), ("a", "internet", "tcp", 80),
        "node1 docker0 in", "node1 eth0 out", "FLANNEL-POSTRTG masquerades",
        id="masquerade-deleted",
    ),
    pytest.param(
        inside("underlay", DROP_TABLE + "udp dport 8472 drop; }; }'"),
        inside("underlay", NO_DROP), ("a", "c", "udp", 80),
        "underlay node1 in", "underlay node2 out", "bridge br-lan",
        id="vxlan-dropped-on-the-underlay",
    ),
    pytest.param(
        f"ip -n {NAME}.underlay link set node2 nomaster",
        f"ip -n {NAME}.underlay link set node2 master br-lan", ("a", "c", "udp", 80),
        "underlay node1 in", "underlay node2 out", "bridge br-lan",
        id="underlay-port-out-of-its-bridge",
    ),
    pytest.param(
        f"ip -n {NAME}.node2 link set {VETH} nomaster",
        f"ip -n {NAME}.node2 link set {VETH} master docker0", ("a", "c", "udp", 80),
        "node2 flannel.1 in", "node2 docker0 out", f"port {VETH}",
        id="pod-port-out-of-docker0",
    ),
    pytest.param(
        f"ip -n {NAME}.node2.default.c address del 10.244.2.2/24 dev eth0",
        f"ip -n {NAME}.node2.default.c address add 10.244.2.2/24 dev eth0; "
        f"ip -n {NAME}.node2.default.c route add default via 10.244.2.1", ("a", "c", "udp", 80),
        "node2 flannel.1 in", "node2 docker0 out", "route 10.244.2.0/24 dev docker0",
        id="pod-without-its-address",
    ),
    pytest.param(
        f"ip -n {NAME}.node2.default.c route del default",
        f"ip -n {NAME}.node2.default.c route add default via 10.244.2.1", ("a", "c", "udp", 80),
        "node2.default.c eth0 in", "node2.default.c eth0 out", "10.244.2.2",
        id="pod-without-default-route",
    ),
    pytest.param(
        inside("node2", "iptables-nft -A FORWARD -i flannel.1 -j DROP"),
        inside("node2", "iptables-nft -D FORWARD -i flannel.1 -j DROP"), ("a", "c", "tcp", 80),
        "node2 flannel.1 in", "node2 docker0 out", "docker0",
        id="forward-dropped-by-a-rule",
    ),
    pytest.param(
        inside("node1", "sysctl -qw net.ipv4.ip_forward=0"),
        inside("node1", "sysctl -qw net.ipv4.ip_forward=1"), ("a", "c", "udp", 80),
        "node1 docker0 in", "node1 flannel.1 out", "route 10.244.2.0/24",
        id="forwarding-off",
    ),
    pytest.param(
        f"ip -n {NAME}.gateway link set internet down",
        f"ip -n {NAME}.gateway link set internet up", ("a", "internet", "udp", 80),
        "gateway eth0 in", "gateway internet out", "forwards it",
        id="internet-unplugged",
    ),
    pytest.param(
        inside("gateway", "nft insert rule ip firewall forward tcp dport 22 accept"),
        inside("gateway", "nft delete rule ip firewall forward handle "
               "$(ip netns exec " + NAME + ".gateway nft -a list chain ip firewall forward | "
               "sed -n 's/.*dport 22 accept # handle //p')"),
        ("client", "node/node1", "tcp", 22),
        "gateway eth0 out", "never there", "must not show",
        id="firewall-open",
    ),
    pytest.param(
        "true", "true", ("a", "c", "udp", 81),
        "node2.default.c eth0 in", "node2.default.c eth0 out", "port-unreachable from 10.244.2.2",
        id="nothing-listens",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "mends", "flow", "last", "following", "why"), BROKEN)
def test_verdict_names_the_hop_at_which_a_broken_way_ends(
    live: World,
    breaks: str,
    mends: str,
    flow: tuple[str, str, str, int],
    last: str,
    following: str,
    why: str,
) -> None:
    veth = live.state.pod("c").veth
    source, destination, protocol, port = flow
    handmade.run(breaks.replace(VETH, veth))
    try:
        verdict = probe(live, source, destination, protocol=protocol, port=port)
    finally:
        handmade.run(mends.replace(VETH, veth))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.last_seen == f"{NAME}.{last}", verdict
    assert words_of(verdict).find(following.replace(VETH, veth)) >= 0, verdict
    assert why.replace(VETH, veth) in words_of(verdict), verdict


def words_of(verdict: Verdict) -> str:
    return " | ".join([verdict.expected_next, *verdict.evidence])


def test_packets_tunnelled_to_the_wrong_node_are_seen_off_their_way(live: World) -> None:
    """The FDB entry points at the gateway: the envelope's destination is what is wrong."""
    fdb = f"bridge -n {NAME}.node1 fdb replace {PEER} dev flannel.1 dst "
    handmade.run(fdb + "192.168.50.1")
    try:
        verdict = probe(live, "a", "c", protocol="udp", port=80)
    finally:
        handmade.run(fdb + "192.168.50.12")
    assert verdict.outcome is Outcome.FAIL
    assert verdict.last_seen == f"{NAME}.node1 flannel.1 out"
    assert "192.168.50.11 -> 192.168.50.1, not 192.168.50.11 -> 192.168.50.12" in words_of(verdict)
    assert f"{NAME}.gateway eth0 in" in words_of(verdict)


# -- the sensors themselves


def test_a_burst_of_ten_thousand_probes_a_second_is_seen_whole(live: World) -> None:
    state = live.state
    start, goal = paths.place(state, "a"), paths.place(state, "c")
    flow = Flow(start.address, goal.address, Protocol.UDP, 40000, 9999)
    mark, count = token(), 10_000
    packets = [datagram(flow, mark)] * count
    names = [start.netns, f"{NAME}.node1", f"{NAME}.underlay", f"{NAME}.node2", goal.netns]
    with entered(goal.netns):
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink, capture.Capture(names, frames=5 * count) as watching:
        sink.bind((goal.address, flow.destination_port))  # without it, ICMP errors carry it too
        began = time.monotonic()
        inject(start.netns, packets, goal.address)
        took = time.monotonic() - began
        watching.flush()
        found = watching.frames(mark)
        lost = watching.lost
    assert took < 1.0, "the burst was slower than 10,000 packets a second"
    seen = Counter((kept.netns, kept.frame.ifindex, kept.frame.outgoing) for kept in found)
    assert (lost, len(seen), set(seen.values())) == (0, 12, {count})


def test_a_trickle_that_nobody_reads_meanwhile_is_seen_whole(live: World) -> None:
    """Each frame of a trickle uses up a block: there must be many, however small the ring."""
    start, goal = paths.place(live.state, "a"), paths.place(live.state, "b")
    flow = Flow(start.address, goal.address, Protocol.UDP, 40000, 9999)
    mark, count, apart = token(), 400, 0.003  # more than the ring has blocks
    with entered(goal.netns):
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sink, capture.Capture([start.netns]) as watching:
        sink.bind((goal.address, flow.destination_port))
        began = time.monotonic()
        for number in range(count):
            while time.monotonic() < began + number * apart:
                pass
            inject(start.netns, [datagram(flow, mark)], goal.address)
        watching.flush()
        assert (len(watching.frames(mark)), watching.lost) == (count, 0)


def test_what_a_small_ring_has_no_room_for_is_counted(live: World) -> None:
    start, goal = paths.place(live.state, "a"), paths.place(live.state, "b")
    flow = Flow(start.address, goal.address, Protocol.UDP, 40000, 9999)
    mark = token()
    with capture.Capture([start.netns], frames=1) as watching:
        inject(start.netns, [datagram(flow, mark)] * 3000, goal.address)
        watching.flush()
        sent = [k for k in watching.frames(mark) if k.frame.outgoing]
        assert len(sent) < 3000
        assert watching.lost >= 3000 - len(sent)


def test_what_is_not_handed_over_in_time_is_counted(
    live: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    netns = paths.place(live.state, "a").netns
    with capture.Capture([netns]) as watching:
        watching.flush()
        assert watching.lost == 0
        monkeypatch.setattr(capture, "FLUSH_PATIENCE", 0.05)
        monkeypatch.setattr(watching, "drain", lambda: None)
        watching.flush()
        assert watching.lost == 1


def test_what_was_seen_is_handed_over_whoever_else_watches(live: World) -> None:
    start, goal = paths.place(live.state, "a"), paths.place(live.state, "b")
    flow = Flow(start.address, goal.address, Protocol.UDP, 40000, 9999)
    with capture.Capture([start.netns]) as other, capture.Capture([start.netns]) as watching:
        for _ in range(30):
            other.flush()
        for _ in range(20):
            mark = token()
            inject(start.netns, [datagram(flow, mark)], goal.address)
            watching.flush()
            assert any(kept.frame.outgoing for kept in watching.frames(mark))


def test_a_device_that_appears_later_is_known_by_its_name(live: World) -> None:
    netns = f"{NAME}.client"
    mark = token()
    flow = Flow("10.9.9.1", "10.9.9.2", Protocol.UDP, 40000, 9)
    with capture.Capture([netns]) as watching:
        handmade.run(
            f"ip -n {netns} link add late up type veth peer name late2; "
            f"ip -n {netns} link set late2 up; ip -n {netns} address add 10.9.9.1/24 dev late; "
            f"ip -n {netns} neighbour add 10.9.9.2 lladdr {SOME_MAC} dev late"
        )
        try:
            inject(netns, [datagram(flow, mark)], flow.destination)
            watching.flush()
            seen = {(s.device, s.direction) for s in watching.sightings(mark)}
        finally:
            handmade.run(f"ip -n {netns} link del late")
    assert seen == {("late", Direction.OUT), ("late2", Direction.IN)}


def test_a_device_with_the_index_of_one_that_is_gone_is_known_by_its_own_name(live: World) -> None:
    netns, seen = f"{NAME}.client", []
    flow = Flow("10.9.9.1", "10.9.9.2", Protocol.UDP, 40000, 9)
    with capture.Capture([netns]) as watching:
        for device in ("former", "latter"):
            mark = token()
            handmade.run(
                f"ip -n {netns} link add {device} up index 77 type veth peer name far; "
                f"ip -n {netns} link set {device} up; ip -n {netns} link set far up; "
                f"ip -n {netns} address add 10.9.9.1/24 dev {device}; "
                f"ip -n {netns} neighbour add 10.9.9.2 lladdr {SOME_MAC} dev {device}"
            )
            try:
                inject(netns, [datagram(flow, mark)], flow.destination)
                watching.flush()
                seen += [one.device for one in watching.sightings(mark) if one.device != "far"]
            finally:
                handmade.run(f"ip -n {netns} link del {device}")
    assert seen == ["former", "latter"]


def test_watching_a_namespace_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KernelError, match=f"{NAME}.nowhere"):
        capture.Capture([f"{NAME}.nowhere"]).__enter__()


def test_a_series_of_probes_is_followed_probe_by_probe(live: World) -> None:
    verdict = probe(live, "a", "c", protocol="udp", port=80, count=200)
    assert verdict.outcome is Outcome.PASS, (verdict.evidence, verdict.last_seen)
    assert "200 of 200 probes" in verdict.evidence[-1]


def test_a_series_of_which_some_are_dropped_fails(live: World) -> None:
    """Every tenth envelope is dropped, so the first probe passes and one of the others fails."""
    rules = "udp dport 8472 numgen inc mod 10 offset 0 == 9 drop; }; }'"
    handmade.run(inside("underlay", DROP_TABLE + rules))
    try:
        verdict = probe(live, "a", "c", protocol="udp", port=80, count=50)
    finally:
        handmade.run(inside("underlay", NO_DROP))
    assert verdict.outcome is Outcome.FAIL
    assert "1 before it passed" in verdict.evidence[0]
    assert verdict.last_seen in (f"{NAME}.underlay node1 in", f"{NAME}.underlay node2 in")


def test_unknown_ends_and_protocols_are_named(live: World) -> None:
    with pytest.raises(NotFoundError, match="node1"):
        probe(live, "node/nod1", "a")
    with pytest.raises(UsageError, match="nobody"):
        probe(live, "10.9.9.9", "a")
    with pytest.raises(UsageError, match="needs a port"):
        probe(live, "a", "c", protocol="udp")


def test_a_namespace_that_comes_back_under_its_name_is_watched_anew() -> None:
    """A pod of a StatefulSet does."""
    name, mark = f"{NAME}.again", token()
    namespaces.create(name)
    try:
        with capture.Capture([name]) as watching:
            namespaces.delete(name)
            namespaces.create(name)
            watching.add([name])
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
            with entered(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(mark, ("127.0.0.1", 9))
            watching.flush()
            assert {one.device for one in watching.sightings(mark)} == {"lo"}
    finally:
        namespaces.delete(name)
