"""Who is meant by a word, and the hops a packet should take, without any kernel."""

from __future__ import annotations

import pytest

from netlab import paths
from netlab.cluster import Cluster, cluster
from netlab.errors import NotFoundError
from netlab.model.kubernetes import Meta
from netlab.model.lab import (
    Backend,
    Gateway,
    Lab,
    LabNode,
    Master,
    Network,
    Segment,
    Underlay,
)
from netlab.packets import BARE, Expectation, Flow, Hop, Outer, Protocol
from netlab.paths import rules

SEGMENTS = [
    Segment("east", "192.168.50.0/24", "192.168.50.254"),
    Segment("west", "192.168.60.0/24", "192.168.60.254"),
]
PODS = {
    "a": ("n1", "10.244.1.2"),
    "b": ("n1", "10.244.1.3"),
    "c": ("n2", "10.244.2.2"),
    "far": ("n3", "10.244.3.2"),
}
NODES = {"n1": "192.168.50.11", "n2": "192.168.50.12", "n3": "192.168.60.13"}
MACS = {"n1": "02:00:00:00:00:01", "n2": "02:00:00:00:00:02", "n3": "02:00:00:00:00:03"}


def lab(backend: Backend) -> Lab:
    return Lab(
        metadata=Meta(name="t"),
        underlay=Underlay(SEGMENTS),
        master=Master("192.168.50.10"),
        nodes=[LabNode(name, address) for name, address in NODES.items()],
        network=Network("10.244.0.0/16", Backend=backend),
        gateway=Gateway("192.168.50.1", publish=["30000-30010/tcp", "53/udp"]),
    )


def state(backend: Backend | None = None) -> Cluster:
    documents = tuple(
        {
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": []},
            "status": {"podIP": address, "phase": "Running"},
        }
        for name, (node, address) in PODS.items()
    )
    leases = {
        address: (f"10.244.{number}.0/24", MACS[name])
        for number, (name, address) in enumerate(NODES.items(), start=1)
    }
    return cluster(lab(backend or Backend()), documents, leases=leases)


def expected(
    source: str, destination: str, *, port: int = 80, backend: Backend | None = None
) -> Expectation:
    seen = state(backend)
    start, goal = paths.place(seen, source), paths.place(seen, destination)
    address = paths.source_address(seen, start, goal)
    return paths.expected(seen, start, goal, Flow(address, goal.address, Protocol.TCP, 40000, port))


VETHS = {pod.veth: f"veth-{pod.name}" for pod in state().pods}


def short(hop: Hop) -> str:
    """`n1 flannel.1 out 63`, with `vxlan` inside the tunnel; the pods' veths by their pod."""
    where = hop.netns.removeprefix("t.").replace(".default.", "/")
    words = f"{where} {VETHS.get(hop.device, hop.device)} {hop.direction} {hop.ttl}"
    return words + (" vxlan" if hop.outer else "")


def test_same_node_stays_on_the_bridges_ports() -> None:
    way = expected("a", "b")
    assert [short(hop) for hop in way.request] == [
        "n1/a eth0 out 64",
        "n1 veth-a in 64",
        "n1 veth-b out 64",
        "n1/b eth0 in 64",
    ]
    assert way.forbidden == (("t.n1", "flannel.1"), ("t.n1", "eth0"))


def test_cross_node_goes_through_the_tunnel() -> None:
    way = expected("a", "c")
    assert [short(hop) for hop in way.request] == [
        "n1/a eth0 out 64",
        "n1 veth-a in 64",
        "n1 docker0 in 64",
        "n1 flannel.1 out 63",
        "n1 eth0 out 63 vxlan",
        "underlay n1 in 63 vxlan",
        "underlay n2 out 63 vxlan",
        "n2 eth0 in 63 vxlan",
        "n2 flannel.1 in 63",
        "n2 docker0 out 62",
        "n2 veth-c out 62",
        "n2/c eth0 in 62",
    ]
    inside = [hop for hop in way.request if hop.outer]
    assert {(hop.source_mac, hop.destination_mac) for hop in inside} == {(MACS["n1"], MACS["n2"])}
    assert {(hop.outer.source, hop.outer.destination) for hop in inside if hop.outer} == {
        (NODES["n1"], NODES["n2"])
    }
    assert [short(hop).split()[:3] for hop in way.reply][-1] == ["n1/a", "eth0", "in"]


def test_by_udp_two_processes_take_part() -> None:
    way = expected("a", "c", backend=Backend(Type="udp", Port=7777))
    assert [short(hop) for hop in way.request][2:] == [
        "n1 docker0 in 64",
        "n1 flannel0 out 63",
        "n1 eth0 out 62 vxlan",
        "underlay n1 in 62 vxlan",
        "underlay n2 out 62 vxlan",
        "n2 eth0 in 62 vxlan",
        "n2 flannel0 in 61",
        "n2 docker0 out 60",
        "n2 veth-c out 60",
        "n2/c eth0 in 60",
    ]
    outer = {hop.outer for hop in way.request if hop.outer}
    assert outer == {Outer(NODES["n1"], NODES["n2"], BARE, destination_port=7777)}
    assert all(hop.destination_mac is None for hop in way.request)


def test_between_segments_the_underlay_routes_the_envelope() -> None:
    way = expected("a", "far")
    assert [short(hop) for hop in way.request][5:9] == [
        "underlay n1 in 63 vxlan",
        "underlay br-east in 63 vxlan",
        "underlay br-west out 63 vxlan",
        "underlay n3 out 63 vxlan",
    ]


def test_between_segments_a_bare_packet_loses_ttl_in_the_underlay() -> None:
    way = expected("far", "node/n1")
    assert [short(hop) for hop in way.request][3:] == [
        "n3 eth0 out 63",
        "underlay n3 in 63",
        "underlay br-west in 63",
        "underlay br-east out 62",
        "underlay n1 out 62",
        "n1 eth0 in 62",
    ]


@pytest.mark.parametrize(
    "backend", [Backend(Type="host-gw"), Backend(DirectRouting=True)], ids=["host-gw", "direct"]
)
def test_without_a_tunnel_pods_meet_by_plain_routes(backend: Backend) -> None:
    way = expected("a", "c", backend=backend)
    assert not any(hop.outer or hop.device == "flannel.1" for hop in way.request)
    assert way.request[-1].ttl == 62
    assert {(hop.source, hop.destination) for hop in way.request} == {("10.244.1.2", "10.244.2.2")}


def test_direct_routing_still_tunnels_between_segments() -> None:
    way = expected("a", "far", backend=Backend(DirectRouting=True))
    assert any(hop.device == "flannel.1" for hop in way.request)


def test_the_internet_sees_the_node_and_the_reply_is_turned_back() -> None:
    way = expected("a", "internet")
    sources = {(hop.netns, hop.device): hop.source for hop in way.request}
    assert sources[("t.n1", "docker0")] == "10.244.1.2"
    assert sources[("t.n1", "eth0")] == NODES["n1"]
    assert sources[("t.internet", "eth0")] == NODES["n1"]
    goals = {(hop.netns, hop.device): hop.destination for hop in way.reply}
    assert goals[("t.n1", "eth0")] == NODES["n1"]
    assert goals[("t.n1", "docker0")] == "10.244.1.2"
    assert [short(hop) for hop in way.request][-2:] == [
        "gateway internet out 62",
        "internet eth0 in 62",
    ]


SOURCES = [
    pytest.param("node/n1", "a", "10.244.1.1", id="own-pod-docker0"),
    pytest.param("node/n1", "c", "10.244.1.0", id="other-pod-tunnel"),
    pytest.param("node/n1", "node/n2", NODES["n1"], id="node-to-node"),
    pytest.param("node/n1", "node/n1", NODES["n1"], id="itself"),
    pytest.param("a", "internet", "10.244.1.2", id="pod"),
    pytest.param("gateway", "client", "198.51.100.1", id="gateway-to-client"),
    pytest.param("gateway", "node/n1", "192.168.50.1", id="gateway-to-node"),
    pytest.param("master", "node/n1", "192.168.50.10", id="master"),
]


@pytest.mark.parametrize(("source", "destination", "address"), SOURCES)
def test_a_sender_takes_the_address_of_the_device_its_route_names(
    source: str, destination: str, address: str
) -> None:
    seen = state()
    start, goal = paths.place(seen, source), paths.place(seen, destination)
    assert paths.source_address(seen, start, goal) == address


ENDS = [
    pytest.param("client", "a", 80, "no route", id="client-to-pod"),
    pytest.param("internet", "a", 80, "no route", id="internet-to-pod"),
    pytest.param("client", "node/n1", 22, '"not published"', id="client-to-ssh"),
    pytest.param("client", "node/n1", 30011, '"not published"', id="just-above-the-range"),
    pytest.param("client", "node/n1", 53, '"not published"', id="published-for-udp-only"),
    pytest.param("client", "master", 30000, '"not published"', id="published-for-nodes-only"),
    pytest.param("a", "10.96.0.1", 443, "no route", id="nobody"),
    pytest.param("a", "10.244.77.2", 80, "no route", id="a-lease-nobody-has"),
    pytest.param("client", "node/n1", 30010, "", id="published"),
    pytest.param("client", "internet", 80, "", id="outside"),
    pytest.param("a", "client", 80, "", id="pod-to-client"),
]


@pytest.mark.parametrize(("source", "destination", "port", "ends"), ENDS)
def test_what_the_gateway_stops(source: str, destination: str, port: int, ends: str) -> None:
    way = expected(source, destination, port=port)
    assert ends in way.ends
    assert bool(way.ends) == bool(ends)
    assert bool(way.reply) != bool(ends)


def test_every_hop_but_the_last_says_what_carries_the_packet_on() -> None:
    seen = state()
    words = ["a", "b", "c", "far", "node/n1", "node/n3", "master", "gateway", "internet", "client"]
    for source in words:
        for destination in words:
            way = expected(source, destination, port=30000)
            for leg in (way.request, way.reply):
                bare = [short(hop) for hop in leg[:-1] if not hop.why]
                assert not bare, (source, destination, bare)
    assert seen.pods


def test_words_that_mean_nothing_name_the_nearest() -> None:
    seen = state()
    with pytest.raises(NotFoundError, match="did you mean node/n1"):
        paths.place(seen, "node/n11")
    with pytest.raises(NotFoundError, match=r"default/farr.*did you mean.*far"):
        paths.place(seen, "farr")


PLACES = [
    pytest.param("default/a", "t.n1.default.a", "10.244.1.2", id="pod"),
    pytest.param("10.244.1.2", "t.n1.default.a", "10.244.1.2", id="pod-address"),
    pytest.param("10.244.2.0", "t.n2", "10.244.2.0", id="tunnel-address"),
    pytest.param("203.0.113.10", "t.internet", "203.0.113.10", id="internet-address"),
    pytest.param("192.168.60.254", "t.underlay", "192.168.60.254", id="router"),
    pytest.param("8.8.8.8", "", "8.8.8.8", id="nobody"),
]


@pytest.mark.parametrize(("word", "netns", "address"), PLACES)
def test_places(word: str, netns: str, address: str) -> None:
    found = paths.place(state(), word)
    assert (found.netns, found.address) == (netns, address)


def test_published_reads_ranges_and_single_ports() -> None:
    declared = lab(Backend())
    assert rules.published(declared, 30000, Protocol.TCP)
    assert rules.published(declared, 53, Protocol.UDP)
    assert not rules.published(declared, 54, Protocol.UDP)
