"""The hops to a Service's address and back, as they were seen on real devices."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from test_paths import NODES, short, state

from netlab import paths
from netlab.model.modes import Mode
from netlab.packets import Expectation, Flow, Hop, Leg, Outcome, Outer, Protocol, Sighting
from netlab.paths import serviceways
from netlab.paths.comparison import leg_of
from netlab.paths.serviceways import Rewrite

VIP, PORT, TARGET = "10.96.0.1", 80, 8080
NODE_PORT = 30000
TUNNEL1, BRIDGE1 = "10.244.1.0", "10.244.1.1"
CLIENT = "198.51.100.10"


def way(
    source: str,
    endpoint: str,
    *,
    node: str = "n1",
    masquerade: bool = False,
    mode: Mode = Mode.IPTABLES,
) -> Expectation:
    """From a pod, a node or the client, decided by *node*, to *endpoint* port 8080."""
    seen = state()
    seen = replace(seen, lab=replace(seen.lab, proxyMode=mode))
    start, goal = paths.place(seen, source), paths.place(seen, endpoint)
    to, port = (NODES[node], NODE_PORT) if source == "client" else (VIP, PORT)
    address = paths.source_address(seen, start, paths.Place(to))
    flow = Flow(address, to, Protocol.TCP, 40000, port)
    rewrite = Rewrite(seen.node(node), goal, TARGET, masquerade)
    return serviceways.expected(seen, start, flow, rewrite)


def told(hop: Hop) -> str:
    """`n1 veth-a in 64: 10.244.1.2:40000 > 10.96.0.1:80`; a port nobody knows is `*`."""
    return (
        f"{short(hop)}: {hop.source}:{hop.source_port or '*'} > "
        f"{hop.destination}:{hop.destination_port or '*'}"
    )


def tunnel(sender: str, receiver: str, ttl: int, ends: str) -> list[str]:
    return [
        f"{sender} flannel.1 out {ttl}: {ends}",
        f"{sender} eth0 out {ttl} vxlan: {ends}",
        f"underlay {sender} in {ttl} vxlan: {ends}",
        f"underlay {receiver} out {ttl} vxlan: {ends}",
        f"{receiver} eth0 in {ttl} vxlan: {ends}",
        f"{receiver} flannel.1 in {ttl}: {ends}",
    ]


def into(node: str, pod: str, ttl: int, ends: str) -> list[str]:
    return [
        f"{node} docker0 out {ttl}: {ends}",
        f"{node} veth-{pod} out {ttl}: {ends}",
        f"{node}/{pod} eth0 in {ttl}: {ends}",
    ]


def out_of(node: str, pod: str, ends: str, bridge: str = "") -> list[str]:
    return [
        f"{node}/{pod} eth0 out 64: {ends}",
        f"{node} veth-{pod} in 64: {ends}",
        f"{node} docker0 in 64: {bridge or ends}",
    ]


def from_client() -> list[str]:
    ends = f"{CLIENT}:40000 > {NODES['n1']}:{NODE_PORT}"
    return [
        f"client eth0 out 64: {ends}",
        f"gateway client in 64: {ends}",
        *(f"{place} 63: {ends}" for place in ("gateway eth0 out", "underlay gateway in")),
        *(f"{place} 63: {ends}" for place in ("underlay n1 out", "n1 eth0 in")),
    ]


def to_client(ttl: int) -> list[str]:
    ends = f"{NODES['n1']}:{NODE_PORT} > {CLIENT}:40000"
    return [
        *(f"{place} {ttl}: {ends}" for place in ("n1 eth0 out", "underlay n1 in")),
        *(f"{place} {ttl}: {ends}" for place in ("underlay gateway out", "gateway eth0 in")),
        f"gateway client out {ttl - 1}: {ends}",
        f"client eth0 in {ttl - 1}: {ends}",
    ]


ASKED = f"10.244.1.2:40000 > {VIP}:80"
ANSWERED = f"{VIP}:80 > 10.244.1.2:40000"
WAYS = {
    "pod, endpoint on another node": (
        way("a", "c"),
        [
            *out_of("n1", "a", ASKED, bridge="10.244.1.2:40000 > 10.244.2.2:8080"),
            *tunnel("n1", "n2", 63, "10.244.1.2:40000 > 10.244.2.2:8080"),
            *into("n2", "c", 62, "10.244.1.2:40000 > 10.244.2.2:8080"),
        ],
        [
            *out_of("n2", "c", "10.244.2.2:8080 > 10.244.1.2:40000"),
            *tunnel("n2", "n1", 63, "10.244.2.2:8080 > 10.244.1.2:40000"),
            *into("n1", "a", 62, ANSWERED),
        ],
    ),
    "pod, endpoint on another node, by a virtual server": (
        way("a", "c", mode=Mode.IPVS),
        [
            *out_of("n1", "a", ASKED),
            *tunnel("n1", "n2", 63, "10.244.1.2:40000 > 10.244.2.2:8080"),
            *into("n2", "c", 62, "10.244.1.2:40000 > 10.244.2.2:8080"),
        ],
        [
            *out_of("n2", "c", "10.244.2.2:8080 > 10.244.1.2:40000"),
            *tunnel("n2", "n1", 63, "10.244.2.2:8080 > 10.244.1.2:40000"),
            *into("n1", "a", 62, ANSWERED),
        ],
    ),
    "pod, endpoint behind the same bridge, by a virtual server": (
        way("a", "b", mode=Mode.IPVS),
        [
            *out_of("n1", "a", ASKED),
            *into("n1", "b", 63, "10.244.1.2:40000 > 10.244.1.3:8080"),
        ],
        [
            *out_of("n1", "b", "10.244.1.3:8080 > 10.244.1.2:40000")[:2],
            *into("n1", "a", 64, ANSWERED)[1:],
        ],
    ),
    "pod, endpoint behind the same bridge": (
        way("a", "b"),
        [
            *out_of("n1", "a", ASKED)[:2],
            *into("n1", "b", 64, "10.244.1.2:40000 > 10.244.1.3:8080")[1:],
        ],
        [
            *out_of("n1", "b", "10.244.1.3:8080 > 10.244.1.2:40000")[:2],
            *into("n1", "a", 64, ANSWERED)[1:],
        ],
    ),
    "pod, endpoint itself": (
        way("a", "a", masquerade=True),
        [
            *out_of("n1", "a", ASKED)[:2],
            *into("n1", "a", 64, f"{BRIDGE1}:* > 10.244.1.2:8080")[1:],
        ],
        [
            *out_of("n1", "a", f"10.244.1.2:8080 > {BRIDGE1}:*")[:2],
            *into("n1", "a", 64, ANSWERED)[1:],
        ],
    ),
    "node, endpoint of its own": (
        way("node/n1", "b", masquerade=True),
        into("n1", "b", 64, f"{BRIDGE1}:* > 10.244.1.3:8080"),
        out_of(
            *("n1", "b", f"10.244.1.3:8080 > {BRIDGE1}:*"),
            bridge=f"10.244.1.3:8080 > {NODES['n1']}:40000",
        ),
    ),
    "node, endpoint on another": (
        way("node/n1", "c", masquerade=True),
        [
            *tunnel("n1", "n2", 64, f"{TUNNEL1}:* > 10.244.2.2:8080"),
            *into("n2", "c", 63, f"{TUNNEL1}:* > 10.244.2.2:8080"),
        ],
        [
            *out_of("n2", "c", f"10.244.2.2:8080 > {TUNNEL1}:*"),
            *tunnel("n2", "n1", 63, f"10.244.2.2:8080 > {TUNNEL1}:*"),
        ],
    ),
    "client, endpoint on the node it asks": (
        way("client", "b", masquerade=True),
        [*from_client(), *into("n1", "b", 62, f"{BRIDGE1}:* > 10.244.1.3:8080")],
        [
            *out_of(
                *("n1", "b", f"10.244.1.3:8080 > {BRIDGE1}:*"),
                bridge=f"10.244.1.3:8080 > {CLIENT}:40000",
            ),
            *to_client(63),
        ],
    ),
    "client kept, policy Local": (
        way("client", "b"),
        [*from_client(), *into("n1", "b", 62, f"{CLIENT}:40000 > 10.244.1.3:8080")],
        [*out_of("n1", "b", f"10.244.1.3:8080 > {CLIENT}:40000"), *to_client(63)],
    ),
    "client, endpoint on another node": (
        way("client", "c", masquerade=True),
        [
            *from_client(),
            *tunnel("n1", "n2", 62, f"{TUNNEL1}:* > 10.244.2.2:8080"),
            *into("n2", "c", 61, f"{TUNNEL1}:* > 10.244.2.2:8080"),
        ],
        [
            *out_of("n2", "c", f"10.244.2.2:8080 > {TUNNEL1}:*"),
            *tunnel("n2", "n1", 63, f"10.244.2.2:8080 > {TUNNEL1}:*"),
            *to_client(62),
        ],
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_hops_are_those_that_were_seen(name: str) -> None:
    found, request, reply = WAYS[name]
    assert [told(hop) for hop in found.request] == request
    assert [told(hop) for hop in found.reply] == reply


REFUSED = [
    ("a", ["n1/a eth0 out 64", "n1 veth-a in 64", "n1 docker0 in 64"]),
    ("node/n1", []),
    (
        "client",
        [
            *("client eth0 out 64", "gateway client in 64", "gateway eth0 out 63"),
            *("underlay gateway in 63", "underlay n1 out 63", "n1 eth0 in 63"),
        ],
    ),
]


@pytest.mark.parametrize(("source", "hops"), REFUSED, ids=[source for source, _ in REFUSED])
def test_a_refused_flow_ends_where_its_nodes_rules_see_it(source: str, hops: list[str]) -> None:
    seen = state()
    start = paths.place(seen, source)
    flow = Flow(start.address, VIP, Protocol.TCP, 40000, 80)
    found = serviceways.refused(seen, start, flow, seen.node("n1"), why="a rule refuses it")
    assert [short(hop) for hop in found.request] == hops
    assert (found.reply, found.ends) == ((), "a rule refuses it")


# -- against sightings


def seen_on(found: Expectation) -> list[Sighting]:
    """What the sensors see when all is as it should be; a masquerade took port 50000."""
    hops = [(Leg.REQUEST, hop) for hop in found.request] + [(Leg.REPLY, hop) for hop in found.reply]
    return [
        Sighting(
            time=time,
            netns=hop.netns,
            device=hop.device,
            direction=hop.direction,
            flow=Flow(
                hop.source,
                hop.destination,
                found.flow.protocol,
                hop.source_port or 50000,
                hop.destination_port or 50000,
            ),
            ttl=hop.ttl or 64,
            length=60,
            source_mac=hop.source_mac or "",
            destination_mac=hop.destination_mac or "",
            outer=hop.outer,
        )
        for time, (_, hop) in enumerate(hops, start=1)
    ]


@pytest.mark.parametrize("name", WAYS)
def test_a_way_seen_as_it_should_be_passes(name: str) -> None:
    found = WAYS[name][0]
    verdict = paths.compare(found, seen_on(found), answered=True)
    assert verdict.outcome is Outcome.PASS, verdict


def test_where_the_rewriting_is_missing_the_node_that_should_do_it_is_named() -> None:
    found = way("a", "c")
    sightings = seen_on(found)
    sightings[2:] = [replace(sightings[2], flow=found.flow)]
    verdict = paths.compare(found, sightings, answered=False)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.last_seen == "t.n1 veth-a in".replace("veth-a", found.request[1].device)
    assert "n1 send it to 10.244.2.2:8080" in verdict.expected_next


WRONG = {
    "another endpoint": (3, {"destination": "10.244.3.2"}, "not 10.244.1.2 -> 10.244.2.2"),
    "another port of it": (3, {"destination_port": 80}, "destination port 80, not 8080"),
    "another source port": (4, {"source_port": 1}, "source port 1, not 40000"),
    "a reply from the endpoint": (22, {"source": "10.244.2.2"}, f"not {VIP} -> 10.244.1.2"),
    "a reply from its port": (22, {"source_port": 8080}, "source port 8080, not 80"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_packet_that_looks_otherwise_fails_its_hop(name: str) -> None:
    index, fields, words = WRONG[name]
    found = way("a", "c")
    sightings = seen_on(found)
    changed = replace(sightings[index], flow=replace(sightings[index].flow, **fields))
    sightings[index] = changed
    verdict = paths.compare(found, sightings, answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert words in verdict.evidence[0], verdict.evidence


def test_the_ports_behind_the_rewriting_tell_request_from_reply() -> None:
    found = way("a", "c")
    request, reply = (sighting for sighting in (seen_on(found)[4], seen_on(found)[14]))
    assert leg_of(found.flow, request, found.translated) is Leg.REQUEST
    assert leg_of(found.flow, reply, found.translated) is Leg.REPLY
    assert leg_of(found.flow, request) is None


def test_outside_the_tunnel_a_client_is_only_seen_on_its_own_half_of_the_way() -> None:
    found = way("client", "c", masquerade=True)
    sightings = seen_on(found)
    wrapped = next(s for s in sightings if s.outer and s.netns == "t.n1" and s.device == "eth0")
    bare = replace(wrapped, outer=None, time=1000)
    verdict = paths.compare(found, [*sightings, bare], answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert "outside VXLAN" in verdict.evidence[0]
    assert isinstance(wrapped.outer, Outer)


def test_while_the_endpoints_mac_is_unknown_the_bridge_shows_it_going_out() -> None:
    found = way("a", "b")
    sightings = seen_on(found)
    slow = replace(sightings[2], device="docker0", time=1000)
    assert paths.compare(found, [*sightings, slow], answered=True).outcome is Outcome.PASS
    elsewhere = replace(slow, netns="t.n2")
    assert paths.compare(found, [*sightings, elsewhere], answered=True).outcome is Outcome.FAIL


def test_an_endpoint_on_the_same_node_is_never_asked_through_the_uplink() -> None:
    found = way("a", "b")
    sightings = seen_on(found)
    astray = replace(sightings[2], device="eth0", time=1000)
    verdict = paths.compare(found, [*sightings, astray], answered=True)
    assert "must not show" in verdict.evidence[0]
