"""Filters for whole conversations: both ways, behind rewrites; and what belongs to one."""

from __future__ import annotations

import pytest
from bpf import taken
from fake_lab import DOCUMENTS, FakeLive
from frames import ether, ip4, vxlan

from netlab import filters
from netlab.filters import conversations, names
from netlab.filters.grammar import Kind
from netlab.filters.kernel import ICMP_ERROR
from netlab.packets import Direction, Entry, Flow, Outer, Protocol, Sighting
from netlab.sensors import dissect
from netlab.telling.selecting import Caught
from netlab.tracing.attached import selectors
from netlab.tracing.followed import LAST, Conversation

PAIR, WEB, CART = "10.244.1.2", "10.244.2.2", "10.244.1.3"  # as tests/unit/fake_lab.py has them
NODE1, NODE2, CLIENT, VIP = "192.168.50.11", "192.168.50.12", "198.51.100.10", "10.96.0.7"
TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP
SERVED = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "served", "namespace": "default"},
        "spec": {
            "clusterIP": VIP,
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
        },
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "served-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "served"},
        },
        "endpoints": [{"addresses": [WEB]}],
        "ports": [{"port": 8080, "protocol": "TCP"}],
    },
]
CLUSTER = FakeLive(documents=[*DOCUMENTS, *SERVED]).cluster()


def tree(words: str) -> conversations.Condition:
    return filters.parsed(words, names.names(CLUSTER))


ASKED = Flow(PAIR, WEB, TCP, 40000, 80)
WRAPPED = Outer(NODE1, NODE2, 7, 50000, 8472, 64)
FITTING = [
    ("tcp", ASKED, None, True),
    ("udp", ASKED, None, False),
    ("icmp", Flow(PAIR, WEB, ICMP), None, True),
    ("port 80", ASKED, None, True),
    ("src port 80", ASKED, None, False),
    ("dst port 80", ASKED, None, True),
    ("udp port 80", ASKED, None, False),
    ("port 0", Flow(PAIR, WEB, ICMP), None, False),
    ("pod pair", ASKED, None, True),
    ("dst host pair", ASKED, None, False),
    ("net 10.244.0.0/16 and not port 80", ASKED, None, False),
    ("net 10.244.0.0/16 and portrange 1-79", ASKED, None, False),
    ("vxlan 7", ASKED, WRAPPED, True),
    ("vxlan 8", ASKED, WRAPPED, False),
    ("vxlan", ASKED, None, False),
    ("node node1", ASKED, None, False),
    ("node node1", ASKED, WRAPPED, True),
    ("svc served", Flow(PAIR, VIP, TCP, 1, 80), None, True),
    ("svc served", Flow(PAIR, VIP, TCP, 1, 81), None, False),
    ("svc served", Flow(WEB, PAIR, TCP, 8080, 1), None, True),
    ("ip6", ASKED, None, False),
    ("arp or sctp", ASKED, None, False),
]


@pytest.mark.parametrize(("words", "flow", "outer", "is_so"), FITTING)
def test_a_filter_fits_a_flow_as_the_kernel_says(
    words: str, flow: Flow, outer: Outer | None, is_so: bool
) -> None:
    assert conversations.fits(tree(words), flow, outer) == is_so
    if flow.protocol is not ICMP:
        frame = ether(ip4(flow.source, flow.destination, flow.protocol.value, _ports(flow)))
        frame = vxlan(frame, outer.source, outer.destination, vni=outer.vni) if outer else frame
        assert bool(taken(filters.program(tree(words)), frame)) == is_so


def _ports(flow: Flow) -> tuple[int, int]:
    return flow.source_port, flow.destination_port


@pytest.mark.parametrize(
    "words", ["dst port 80", "src host pair and not dst port 22", "svc served", "vxlan 7"]
)
def test_a_mirrored_filter_fits_the_answers(words: str) -> None:
    mirrored = conversations.mirrored(tree(words))
    for flow in (ASKED, Flow(PAIR, VIP, TCP, 9, 80), Flow(PAIR, WEB, TCP, 9, 22)):
        for outer in (None, WRAPPED):
            assert conversations.fits(tree(words), flow, outer) == conversations.fits(
                mirrored, flow.reply, outer
            )


WIDER = [
    ("port 30080", Flow(CLIENT, WEB, TCP, 9, 8080), True),  # behind the Service's rule
    ("port 30080", Flow("10.244.1.0", WEB, TCP, 9, 8080), True),  # and the masquerade
    (f"dst host {VIP}", Flow(WEB, PAIR, TCP, 8080, 9), True),
    (f"dst host {VIP}", Flow(PAIR, CART, TCP, 9, 8080), False),
    ("dst port 80", Flow(VIP, PAIR, TCP, 80, 9), True),  # the answer
    ("pod pair", Flow(NODE1, "203.0.113.10", TCP, 9, 443), True),  # its node in its place
    ("pod pair", Flow(NODE2, "203.0.113.10", TCP, 9, 443), False),  # not another's
    ("host client", Flow("10.244.2.0", WEB, TCP, 9, 8080), True),  # any node it asks
    ("port 22", Flow(PAIR, WEB, TCP, 9, 8080), False),
]


@pytest.mark.parametrize(("words", "flow", "is_so"), WIDER)
def test_a_widened_filter_takes_what_rewrites_make_of_it(
    words: str, flow: Flow, is_so: bool
) -> None:
    assert conversations.fits(conversations.widened(tree(words), CLUSTER), flow) == is_so


def test_envelopes_between_nodes_are_not_taken_for_masqueraded_packets() -> None:
    wider = conversations.widened(tree("pod pair"), CLUSTER)
    strange = Flow(CART, "10.244.2.9", TCP, 5, 6)
    assert not conversations.fits(wider, strange, Outer(NODE1, NODE2, 7, 50000, 8472, 64))


def test_an_exact_filter_takes_one_flow_both_ways_and_no_other() -> None:
    code = filters.program(conversations.exact([ASKED]))
    assert taken(code, ether(ip4(PAIR, WEB, "tcp", (40000, 80))))
    assert taken(code, ether(ip4(WEB, PAIR, "tcp", (80, 40000))))
    assert taken(code, vxlan(ether(ip4(PAIR, WEB, "tcp", (40000, 80))), NODE1, NODE2))
    assert not taken(code, ether(ip4(PAIR, WEB, "tcp", (40001, 80))))
    assert not taken(code, ether(ip4(PAIR, WEB, "udp", (40000, 80))))


def test_icmp_errors_are_taken_and_echoes_are_not() -> None:
    code = filters.program(Kind(ICMP_ERROR))
    assert taken(code, ether(ip4(PAIR, WEB, "icmp", (3, 1))))
    assert not taken(code, ether(ip4(PAIR, WEB, "icmp", (8, 0))))
    assert not taken(code, ether(ip4(PAIR, WEB, "icmp", (0, 0))))
    assert not taken(code, ether(ip4(PAIR, WEB, "tcp", (3, 1))))


def test_what_is_traced_from_the_start_is_paced_and_has_both_ways() -> None:
    found = selectors(tree(f"tcp and dst host {VIP} and dst port 80"), CLUSTER)
    assert all(one.pace for one in found)
    opening = {one.flow for one in found if not one.whole}
    whole = {one.flow for one in found if one.whole}
    assert Flow("", VIP, TCP, 0, 80) in opening & whole
    assert Flow(VIP, "", TCP, 80, 0) in whole
    assert Flow("", WEB, TCP, 0, 8080) in opening & whole  # the endpoint
    bare = selectors(tree("tcp"), CLUSTER)
    assert [(one.whole, one.flow.destination) for one in bare] == [(False, "")]


# -- the conversation that a packet is of

NODE1_MADE = Entry(
    Flow(CLIENT, NODE1, TCP, 5000, 30080), Flow(WEB, "10.244.1.0", TCP, 8080, 7000), state="x"
)
NODE2_SAW = Entry(
    Flow("10.244.1.0", WEB, TCP, 7000, 8080), Flow(WEB, "10.244.1.0", TCP, 8080, 7000)
)
ENTRIES = {"n1": [NODE1_MADE], "n2": [NODE2_SAW]}
REQUESTS = {NODE1_MADE.original, NODE2_SAW.original}


def seen(
    flow: Flow, *, flags: int = 0x10, time: int = 1, netns: str = "n1", sequence: int = 1
) -> Caught:
    frame = bytearray(ether(ip4(flow.source, flow.destination, "tcp", _ports(flow))))
    frame[38:42], frame[47] = sequence.to_bytes(4, "big"), flags
    shown = dissect.Frame(time, 1, False, False, bytes(frame))
    sighting = dissect.sighting(shown, netns=netns, device="eth0")
    assert isinstance(sighting, Sighting) and sighting.direction is Direction.IN
    return Caught(sighting, bytes(frame))


@pytest.mark.parametrize("flow", [*REQUESTS, *(one.reply for one in REQUESTS)])
@pytest.mark.parametrize("flags", [0x10, 0x18])
def test_a_conversation_is_known_by_any_of_its_packets(flow: Flow, flags: int) -> None:
    found = Conversation(seen(flow, flags=flags), ENTRIES)
    assert found.requests == REQUESTS
    assert found.asked == NODE1_MADE.original  # nobody's rewrite gives it
    assert not found.opened


def test_a_kernel_that_heard_of_it_by_an_answer_does_not_turn_it_round() -> None:
    late = Entry(NODE2_SAW.reply, NODE2_SAW.original)
    syn = seen(NODE1_MADE.original, flags=0x02)
    found = Conversation(syn, {"n1": [NODE1_MADE], "n2": [late]})
    assert (found.requests, found.opened) == (REQUESTS, True)


def test_without_conntrack_the_lower_port_is_the_servers() -> None:
    assert Conversation(seen(ASKED.reply), {}).asked == ASKED


def test_it_ends_when_both_have_said_so() -> None:
    found = Conversation(seen(ASKED, flags=0x02), {})
    for number, (flow, flags) in enumerate(
        [(ASKED, 0x02), (ASKED, 0x11), (ASKED.reply, 0x10), (ASKED.reply, 0x11)]
    ):
        assert not found.closed
        found.take(seen(flow, flags=flags, time=number + 1, sequence=number), most=20)
    assert found.closed and found.ended_at == 4
    assert found.past(10**9) and not found.past(5)


def test_the_first_packets_are_told_wherever_they_are_seen_and_no_others() -> None:
    found = Conversation(seen(ASKED, flags=0x02), {})
    for number in range(5):
        for netns in ("n1", "n2"):
            found.take(seen(ASKED, sequence=number, time=number + 1, netns=netns), most=2)
    told = [(int.from_bytes(one.transport[4:8], "big"), one.sighting.netns) for one in found.told()]
    assert told == [(0, "n1"), (0, "n2"), (1, "n1"), (1, "n2")]
    assert found.ended_at and not found.closed


def test_a_packet_that_was_on_its_way_when_the_telling_begins_is_not_told() -> None:
    found = Conversation(seen(ASKED), {})
    found.since = 100
    for sequence, time in ((1, 99), (1, 101), (2, 102)):
        found.take(seen(ASKED, sequence=sequence, time=time), most=5)
    assert [one.sighting.time for one in found.told()] == [102]


def test_packets_that_look_alike_are_counted_one_by_one() -> None:
    found = Conversation(seen(ASKED, flags=0x02), {})
    for number in range(50):
        for netns in ("n1", "n2"):
            found.take(seen(ASKED, time=number + 1, netns=netns), most=2)
    told = [(one.sighting.time, one.sighting.netns) for one in found.told()]
    assert told == [(1, "n1"), (1, "n2"), (2, "n1"), (2, "n2")]
    assert found.ended_at


def test_what_looks_like_a_packet_from_before_is_told_once_that_has_come_to_its_end() -> None:
    found = Conversation(seen(ASKED), {})
    found.since = 100
    for time in (99, 101, 100 + LAST):
        found.take(seen(ASKED, time=time), most=5)
    assert [one.sighting.time for one in found.told()] == [100 + LAST]


def test_an_icmp_error_is_of_the_conversation_that_it_quotes() -> None:
    found = Conversation(seen(ASKED), {})
    assert found.has(_error(ASKED))
    assert not found.has(_error(Flow(PAIR, WEB, TCP, 40001, 80)))


def _error(flow: Flow) -> Caught:
    about = ip4(flow.source, flow.destination, "tcp", _ports(flow))
    packet = bytearray(ip4(WEB, PAIR, "icmp", (3, 1)))
    packet = packet[:20] + b"\x03\x01" + bytes(6) + about[:28]
    packet[2:4] = len(packet).to_bytes(2, "big")
    shown = dissect.Frame(1, 1, False, False, ether(bytes(packet)))
    sighting = dissect.sighting(shown, netns="n1", device="eth0")
    assert sighting is not None
    return Caught(sighting, shown.data)


def test_datagrams_that_look_alike_are_counted_one_by_one() -> None:
    flow = Flow(PAIR, WEB, UDP, 40000, 53)
    frame = ether(ip4(PAIR, WEB, "udp", (40000, 53)))

    def datagram(time: int, netns: str) -> Caught:
        sighting = dissect.sighting(
            dissect.Frame(time, 1, False, False, frame), netns=netns, device="eth0"
        )
        assert sighting is not None and sighting.flow == flow
        return Caught(sighting, frame)

    found = Conversation(datagram(1, "n1"), {})
    for number in range(4):
        for place, netns in enumerate(("n1", "n2")):
            found.take(datagram(10 * number + place, netns), most=3)
    assert [one.sighting.time for one in found.told()] == [0, 1, 10, 11, 20, 21]


HOSTS = [f"10.0.{number // 3}.{number}" for number in range(12)]


@pytest.mark.parametrize("side", ["", "src ", "dst "])
@pytest.mark.parametrize("end", ["tcp {}", "udp {} and port 53", "svc served or tcp {}"])
def test_many_hosts_at_once_are_what_each_of_them_is(side: str, end: str) -> None:
    singles = [tree(end.format(f"{side}host {host}")) for host in HOSTS]
    together = filters.program(conversations.OneOf(tuple(singles)))
    apart = [filters.program(one) for one in singles]
    for source in (*HOSTS[::3], PAIR, WEB):
        for destination in (HOSTS[1], HOSTS[-1], VIP, "10.0.9.9"):
            for kind, ports in (("tcp", (9, 80)), ("udp", (53, 9)), ("udp", (1, 2))):
                for frame in (
                    ether(ip4(source, destination, kind, ports)),
                    ether(ip4(source, destination, kind, ports, fragment=100)),
                    vxlan(ether(ip4(source, destination, kind, ports)), NODE1, NODE2),
                ):
                    wanted = any(taken(one, frame) for one in apart)
                    assert bool(taken(together, frame)) == wanted


def test_a_filter_that_many_services_fit_traces_so_many_endpoints_and_no_more() -> None:
    many = []
    for number in range(200):
        meta = {"name": f"s{number}", "namespace": "default"}
        labels = {"kubernetes.io/service-name": meta["name"]}
        ports = [{"port": 80, "protocol": "TCP"}]
        spec = {"clusterIP": f"10.96.1.{number}", "ports": ports}
        many.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        many.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**meta, "labels": labels},
                "endpoints": [{"addresses": [f"10.244.9.{number}"]}],
                "ports": [{"port": 8080, "protocol": "TCP"}],
            }
        )
    cluster = FakeLive(documents=[*DOCUMENTS, *many]).cluster()
    fitting = filters.parsed("port 80", names.names(cluster))
    ends = conversations.endpoints(fitting, cluster)
    assert len(ends) == conversations.MOST
    assert len(selectors(fitting, cluster)) < 5 * conversations.MOST
