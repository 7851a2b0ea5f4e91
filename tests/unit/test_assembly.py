"""Sightings and rule traces put together: the order of devices, rules, rewrites, envelopes."""

from __future__ import annotations

from typing import Any

import pytest
from drawn_labs import drawn_lab
from msgspec.structs import replace
from watched import ACK, NODES, PUSH, RST, SYN, Watch, icmp, tcp, udp

from netlab.cluster import Cluster
from netlab.journeys import End, Envelope, Rewrite, Rule, Seen, Step, Track
from netlab.packets import Flow, Protocol
from netlab.telling import assembly, selecting
from netlab.telling.naming import Names
from netlab.telling.selecting import Opening
from netlab.telling.text import rewrite_words

# web-1-1 and web-1-2 are on n1, web-2-1 on n2; their Service web is 10.96.0.10
ONE, TWO, FAR = "10.244.1.2:40001", "10.244.1.3:80", "10.244.2.2:80"
VIP = "10.96.0.10:80"
POD, OTHER, THERE = "t.n1.default.web-1-1", "t.n1.default.web-1-2", "t.n2.default.web-2-1"
NUMBER = 0x10000
NAMES = Names(drawn_lab(2, 2))
PORT = "docker0 > "  # br_netfilter calls a bridge's port by the bridge's name


def served_by_ipvs(cluster: Cluster) -> Cluster:
    return replace(cluster, lab=replace(cluster.lab, proxyMode="ipvs"))


def told(
    watch: Watch, *, source: str = ONE, to: str = VIP, protocol: str = "tcp", **others: Any
) -> list[Track]:
    """Return the tracks of the conversation between the two."""
    (here, sport), (there, dport) = (end.split(":") for end in (source, to))
    flow = Flow(here, there, Protocol(protocol), int(sport), int(dport))
    mark, names = others.pop("mark", b""), others.pop("names", NAMES)
    opening = Opening(flow.protocol, None if mark else NUMBER, mark)
    chosen = selecting.chosen(opening, [flow], watch.caught, watch.passings, tunnel_port=8472)
    return list(assembly.tracks(chosen, names, lambda hit: "", **others))


def words(track: Track) -> list[str]:
    return [_word(step) for step in track.steps]


def _word(step: Step) -> str:
    place = step.place.name.removeprefix("default/")
    match step:
        case Seen():
            return f"{place} {step.device} {step.direction}"
        case Rule():
            return f"{place} {step.hit.hook} {step.hit.table}"
        case Rewrite():
            return f"{place} {step.kind} {step.conntrack or ''}".strip()
        case Envelope():
            return f"{place} {'out of' if step.opened else 'into'} {step.device}"
        case End():
            return f"{place} {step.fate}: {step.words}"


def across(watch: Watch, number: int = NUMBER) -> None:
    """A SYN from web-1-1 to the Service, to web-2-1 on the other node, with all there is to see."""
    sent, changed = (tcp(ONE, to, numbers=(number, 0)) for to in (VIP, FAR))
    routed = tcp(ONE, FAR, numbers=(number, 0), ttl=63)
    envelope = watch.envelope(*NODES, routed)
    watch.seen(f"{POD} eth0 out", sent)
    watch.seen("t.n1 veth1 in", sent, foreign=True)
    watch.passed("t.n1 prerouting", sent, devices=PORT, conntrack=7)
    watch.seen("t.n1 docker0 in", changed)
    watch.passed(
        "t.n1 forward", changed, devices="docker0 > flannel.1", conntrack=7, table="filter"
    )
    watch.passed("t.n1 postrouting", changed, devices=" > flannel.1", conntrack=7)
    watch.seen("t.n1 flannel.1 out", routed)
    watch.passed("t.n1 output", envelope, devices=" > eth0", conntrack=99)
    watch.passed("t.n1 postrouting", envelope, devices=" > eth0", conntrack=99)
    watch.seen("t.n1 eth0 out", routed, wrapped=NODES)
    watch.seen("t.underlay n1 in", routed, wrapped=NODES)
    watch.seen("t.underlay n2 out", routed, wrapped=NODES)
    watch.seen("t.n2 eth0 in", routed, wrapped=NODES)
    watch.passed("t.n2 prerouting", envelope, devices="eth0 > ", conntrack=98)
    watch.passed("t.n2 input", envelope, devices="eth0 > ", conntrack=98, table="filter")
    watch.seen("t.n2 flannel.1 in", routed)
    watch.passed("t.n2 prerouting", routed, devices="flannel.1 > ", conntrack=8)
    watch.passed("t.n2 forward", routed, devices="flannel.1 > docker0", table="filter")
    watch.seen("t.n2 docker0 out", routed)
    watch.seen("t.n2 veth3 out", routed)
    watch.seen(f"{THERE} eth0 in", routed)


ACROSS = [
    "web-1-1 eth0 out",
    "n1 veth1 in",
    "n1 prerouting nat",
    "n1 dnat 7",
    "n1 docker0 in",
    "n1 forward filter",
    "n1 postrouting nat",
    "n1 flannel.1 out",
    "n1 output nat",
    "n1 postrouting nat",
    "n1 into flannel.1",
    "n1 eth0 out",
    "underlay n1 in",
    "underlay n2 out",
    "n2 eth0 in",
    "n2 prerouting nat",
    "n2 input filter",
    "n2 out of flannel.1",
    "n2 flannel.1 in",
    "n2 prerouting nat",
    "n2 forward filter",
    "n2 docker0 out",
    "n2 veth3 out",
    "web-2-1 eth0 in",
    "web-2-1 delivered: to default/web-2-1 80/tcp",
]


def test_a_packet_through_a_service_to_another_node() -> None:
    watch = Watch()
    across(watch)
    (track,) = told(watch)
    assert words(track) == ACROSS
    assert (track.name, track.leg, str(track.flow)) == (
        *("SYN", "request", "10.244.1.2:40001 -> 10.96.0.10:80 tcp"),
    )
    assert track.nanoseconds == 11_000
    assert [step.foreign for step in track.sightings].count(True) == 1
    assert {step.mtu for step in track.sightings} == {1450}


def test_a_rewrite_tells_both_flows_and_who_is_meant() -> None:
    watch = Watch()
    across(watch)
    (track,) = told(watch)
    (change,) = [step for step in track.steps if isinstance(step, Rewrite)]
    assert (str(change.before), str(change.after), change.means) == (
        "10.244.1.2:40001 -> 10.96.0.10:80 tcp",
        "10.244.1.2:40001 -> 10.244.2.2:80 tcp",
        "default/web-2-1",
    )


@pytest.mark.parametrize(
    ("names", "by", "said"),
    [
        (NAMES, "", ("DNAT", "un-DNAT")),
        (Names(served_by_ipvs(drawn_lab(2, 2))), "ip_vs", ("ip_vs", "ip_vs")),
    ],
    ids=["by-rules", "by-ip_vs"],
)
def test_a_rewrite_tells_what_did_it(names: Names, by: str, said: tuple[str, str]) -> None:
    watch = Watch()
    watch.seen("t.n1 veth1 in", tcp(ONE, VIP))
    watch.seen("t.n1 flannel.1 out", tcp(ONE, FAR, ttl=63))
    back: dict[str, Any] = {"flags": SYN | ACK, "numbers": (9, NUMBER + 1)}
    watch.seen("t.n1 flannel.1 in", tcp(FAR, ONE, **back))
    watch.seen("t.n1 veth1 out", tcp(VIP, ONE, ttl=63, **back))
    changes = [
        (track.name, str(step.kind), step.by, rewrite_words(step).partition(":")[0])
        for track in told(watch, names=names)
        for step in track.steps
        if isinstance(step, Rewrite)
    ]
    assert changes == [
        ("SYN", "dnat", by, said[0]),
        ("SYN ACK", "un-dnat", by, said[1]),
    ]


def test_a_bridge_that_only_switches_is_not_waited_for() -> None:
    """DNAT to a pod behind the same bridge: no sighting on docker0, all hooks behind the port."""
    watch, sent, changed = Watch(), tcp(ONE, VIP), tcp(ONE, TWO)
    watch.seen(f"{POD} eth0 out", sent)
    watch.seen("t.n1 veth1 in", sent)
    watch.passed("t.n1 prerouting", sent, devices=PORT)
    watch.passed("t.n1 forward", changed, devices="docker0 > docker0", table="filter")
    watch.passed("t.n1 postrouting", changed, devices=" > docker0")
    watch.seen("t.n1 veth2 out", changed)
    watch.seen(f"{OTHER} eth0 in", changed)
    (track,) = told(watch)
    assert words(track) == [
        "web-1-1 eth0 out",
        "n1 veth1 in",
        "n1 prerouting nat",
        "n1 dnat",
        "n1 forward filter",
        "n1 postrouting nat",
        "n1 veth2 out",
        "web-1-2 eth0 in",
        "web-1-2 delivered: to default/web-1-2 80/tcp",
    ]


def test_a_pod_that_reaches_itself_through_its_service() -> None:
    """The bridge device sends it to a new neighbour, so it is seen there before it is forwarded."""
    watch = Watch()
    itself, node = "10.244.1.2:80", "10.244.1.1:5000"
    sent, changed, masqueraded = tcp(ONE, VIP), tcp(ONE, itself), tcp(node, itself)
    watch.seen(f"{POD} eth0 out", sent)
    watch.seen("t.n1 veth1 in", sent)
    watch.passed("t.n1 prerouting", sent, devices=PORT, conntrack=7)
    watch.passed("t.n1 forward", changed, devices="docker0 > docker0", table="filter")
    watch.passed("t.n1 postrouting", changed, devices=" > docker0", conntrack=7)
    watch.seen("t.n1 docker0 out", changed)
    watch.seen("t.n1 veth1 out", masqueraded)
    watch.seen(f"{POD} eth0 in", masqueraded)
    flags = {"flags": SYN | ACK, "numbers": (9, NUMBER + 1)}
    watch.seen(f"{POD} eth0 out", tcp(itself, node, **flags))
    watch.seen("t.n1 veth1 in", tcp(itself, node, **flags))
    watch.seen("t.n1 docker0 out", tcp(itself, ONE, **flags))
    watch.passed(
        "t.n1 forward", tcp(itself, ONE, **flags), devices="docker0 > docker0", conntrack=7
    )
    watch.seen("t.n1 veth1 out", tcp(VIP, ONE, **flags))
    watch.seen(f"{POD} eth0 in", tcp(VIP, ONE, **flags))
    there, here = told(watch)
    assert words(there) == [
        "web-1-1 eth0 out",
        "n1 veth1 in",
        "n1 prerouting nat",
        "n1 dnat 7",
        "n1 docker0 out",
        "n1 forward filter",
        "n1 postrouting nat",
        "n1 snat 7",
        "n1 veth1 out",
        "web-1-1 eth0 in",
        "web-1-1 delivered: to default/web-1-1 80/tcp",
    ]
    assert words(here) == [
        "web-1-1 eth0 out",
        "n1 veth1 in",
        "n1 un-snat 7",
        "n1 docker0 out",
        "n1 forward nat",
        "n1 un-dnat 7",
        "n1 veth1 out",
        "web-1-1 eth0 in",
        "web-1-1 delivered: to default/web-1-1 40001/tcp",
    ]
    assert (there.name, there.leg, here.name, here.leg) == ("SYN", "request", "SYN ACK", "reply")


def test_masquerading_is_put_before_the_device_it_leaves_by() -> None:
    """Though no other chain says where the packet is by then."""
    away, node = "203.0.113.10:80", "192.168.50.101:7000"
    watch, sent, changed = Watch(), tcp(ONE, away), tcp(node, away, ttl=63)
    watch.seen(f"{POD} eth0 out", sent)
    watch.seen("t.n1 veth1 in", sent)
    watch.seen("t.n1 docker0 in", sent)
    watch.passed("t.n1 postrouting", sent, devices=" > eth0", conntrack=7)
    watch.seen("t.n1 eth0 out", changed)
    (track,) = told(watch, to=away)
    assert words(track)[2:6] == ["n1 docker0 in", "n1 postrouting nat", "n1 snat 7", "n1 eth0 out"]


def test_what_a_node_sends_meets_its_rules_before_any_device() -> None:
    """Several chains of one table on one hook, as in nftables mode; the flow is the one sent."""
    watch = Watch()
    own, changed = "192.168.50.101:40001", "10.244.1.1:6000"
    watch.passed("t.n1 output nat-output", tcp(own, VIP), table="kube-proxy", conntrack=7)
    watch.passed("t.n1 output filter-output", tcp(own, TWO), table="kube-proxy", conntrack=7)
    watch.passed("t.n1 postrouting", tcp(own, TWO), table="kube-proxy", devices=" > docker0")
    watch.seen("t.n1 docker0 out", tcp(changed, TWO))
    watch.seen("t.n1 veth2 out", tcp(changed, TWO))
    watch.seen(f"{OTHER} eth0 in", tcp(changed, TWO))
    (track,) = told(watch, source=own)
    assert words(track) == [
        "n1 output kube-proxy",
        "n1 dnat 7",
        "n1 output kube-proxy",
        "n1 postrouting kube-proxy",
        "n1 snat 7",
        "n1 docker0 out",
        "n1 veth2 out",
        "web-1-2 eth0 in",
        "web-1-2 delivered: to default/web-1-2 80/tcp",
    ]
    assert str(track.flow) == "192.168.50.101:40001 -> 10.96.0.10:80 tcp"


@pytest.mark.parametrize(
    ("rule", "fate"),
    [
        ("OUTPUT: -j DROP -> drop", "dropped: by filter OUTPUT at output"),
        ("OUTPUT: -> policy drop", "dropped: by filter OUTPUT at output"),
        ("reject-chain: counter reject -> drop", "refused: by filter reject-chain at output"),
        ("X: -j REJECT --reject-with tcp-reset -> drop", "refused: by filter X at output"),
    ],
)
def test_a_packet_that_no_device_showed_is_told_first(rule: str, fate: str) -> None:
    watch = Watch()
    own = "192.168.50.101:40001"
    watch.seen("t.n1 lo in", icmp("192.168.50.101", "192.168.50.101", tcp(own, VIP), kind=(3, 3)))
    watch.passed("t.n1 output", tcp(own, VIP), rule, table="filter")
    first, second = told(watch, source=own)
    assert (first.name, first.sightings) == ("SYN", [])
    assert words(first) == ["n1 output filter", f"n1 {fate}"]
    assert second.name == "port unreachable"


def test_what_comes_to_a_machine_itself_meets_input_behind_the_device() -> None:
    watch, packet = Watch(), tcp(ONE, "192.168.50.102:22")
    watch.seen("t.n2 eth0 in", packet)
    watch.passed("t.n2 prerouting", packet, devices="eth0 > ")
    watch.passed("t.n2 input", packet, devices="eth0 > ", table="filter")
    (track,) = told(watch, to="192.168.50.102:22")
    assert words(track) == [
        "n2 eth0 in",
        "n2 prerouting nat",
        "n2 input filter",
        "n2 delivered: to n2 22/tcp",
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "10.244.1.2"])
@pytest.mark.parametrize("ruled", [False, True])
def test_what_a_machine_sends_itself_arrives_by_lo(address: str, ruled: bool) -> None:
    ends = f"{address}:40001", f"{address}:80"
    watch, packet = Watch(), tcp(*ends)
    if ruled:
        watch.passed(f"{POD} output", packet, devices=" > lo")
        watch.passed(f"{POD} input", packet, devices="lo > ", table="filter")
    watch.seen(f"{POD} lo out", packet)
    watch.seen(f"{POD} lo in", packet)
    (track,) = told(watch, source=ends[0], to=ends[1])
    assert [word.split(" ", 1)[1].partition(":")[0] for word in words(track)] == [
        *(["output nat"] if ruled else []),
        "lo out",
        "lo in",
        *(["input filter"] if ruled else []),
        "delivered",
    ]


def test_a_packet_sent_again_is_another_with_rules_of_its_own() -> None:
    watch = Watch()
    for _ in range(2):
        watch.seen(f"{POD} eth0 out", tcp(ONE, FAR))
        watch.seen("t.n1 veth1 in", tcp(ONE, FAR))
        watch.passed("t.n1 prerouting", tcp(ONE, FAR), devices=PORT)
        watch.clock += 1_000_000_000
    first, again = told(watch, to=FAR)
    assert words(first) == words(again)
    assert words(first)[-1] == "n1 lost: behind prerouting of n1"
    assert len(first.sightings) == 2
    assert (first.same_as, again.same_as) == (-1, 0)


def test_a_packet_that_comes_by_again_at_once_is_one_that_goes_round() -> None:
    watch = Watch()
    watch.seen(f"{POD} eth0 out", tcp(ONE, FAR))
    for round_ in range(3):
        watch.seen("t.n1 flannel.1 out", tcp(ONE, FAR, ttl=63 - round_))
    (track,) = told(watch, to=FAR)
    assert [step.ttl for step in track.sightings] == [64, 63, 62, 61]


def test_an_envelope_that_is_dropped_follows_what_was_put_into_it() -> None:
    watch, packet = Watch(), tcp(ONE, FAR)
    watch.seen(f"{POD} eth0 out", packet)
    watch.seen("t.n1 docker0 in", packet)
    watch.seen("t.n1 flannel.1 out", packet)
    watch.passed("t.n1 forward", packet, devices="docker0 > flannel.1", table="filter")
    envelope = watch.envelope(*NODES, packet)
    watch.passed("t.n1 output", envelope, "OUTPUT: -p udp -j DROP -> drop", table="filter")
    (track,) = told(watch, to=FAR)
    assert words(track)[-3:] == [
        "n1 flannel.1 out",
        "n1 output filter",
        "n1 dropped: by filter OUTPUT at output",
    ]


def test_an_envelope_of_another_packet_is_left_out() -> None:
    watch = Watch()
    across(watch)
    other = udp("192.168.50.101:44444", "192.168.50.102:8472", b"\x08" + bytes(80))
    at = next(n for n, one in enumerate(watch.passings) if one.hook == "output")
    watch.passed("t.n1 output", other, devices=" > eth0")
    watch.passings.insert(at, watch.passings.pop())
    (track,) = told(watch)
    assert words(track) == ACROSS


@pytest.mark.parametrize(
    ("kind", "name"),
    [((3, 0), "net unreachable"), ((3, 4), "fragmentation needed"), ((11, 0), "time exceeded")],
)
def test_who_answers_with_an_error_has_refused_it(kind: tuple[int, int], name: str) -> None:
    watch = Watch()
    watch.seen(f"{POD} eth0 out", tcp(ONE, FAR))
    watch.seen("t.n1 docker0 in", tcp(ONE, FAR))
    error = icmp("10.244.1.1", "10.244.1.2", tcp(ONE, FAR)[:28], kind=kind)
    watch.seen("t.n1 docker0 out", error)
    watch.seen(f"{POD} eth0 in", error)
    lost, answer = told(watch, to=FAR)
    assert words(lost)[-1] == f"n1 refused: n1 answered {name}"
    assert (answer.name, answer.leg) == (name, "reply")
    assert words(answer)[-1] == "web-1-1 delivered: to default/web-1-1"


def test_a_router_that_knows_a_better_way_has_refused_nothing() -> None:
    watch = Watch()
    watch.seen("t.n1 docker0 in", tcp(ONE, FAR))
    watch.seen(
        "t.n1 docker0 out", icmp("10.244.1.1", "10.244.1.2", tcp(ONE, FAR)[:28], kind=(5, 1))
    )
    sent, told_so = told(watch, to=FAR)
    assert told_so.name == "redirect"
    assert words(sent)[-1] == "n1 lost: last seen on docker0 in"


def test_an_error_from_elsewhere_explains_nothing() -> None:
    watch = Watch()
    watch.seen("t.n1 docker0 in", tcp(ONE, FAR))
    error = icmp("192.168.50.102", "10.244.1.2", tcp(ONE, FAR)[:28], kind=(3, 1))
    watch.seen("t.n2 eth0 out", error)
    assert words(told(watch, to=FAR)[0])[-1] == "n1 lost: last seen on docker0 in"


def test_a_frame_for_another_card_is_not_delivered() -> None:
    watch = Watch()
    watch.seen(f"{THERE} eth0 in", tcp(ONE, FAR), foreign=True)
    assert words(told(watch, to=FAR)[0])[-1] == "web-2-1 lost: last seen on eth0 in"


def test_what_goes_out_of_a_foreign_port_has_left_and_is_not_lost() -> None:
    watch = Watch()
    for number, port in enumerate(("ext_box", "n2")):
        sent = tcp(ONE, "10.244.9.2:80", numbers=(NUMBER + number, 0))
        watch.seen("t.underlay n1 in", sent, wrapped=NODES)
        watch.seen(f"t.underlay {port} out", sent, wrapped=NODES)
    watch.seen("t.n1 ext_box out", tcp(ONE, "10.244.9.2:80", numbers=(NUMBER + 2, 0)))
    assert [words(one)[-1] for one in told(watch, to="10.244.9.2:80")] == [
        "underlay left: by ext_box, to a foreign machine",
        "underlay lost: last seen on n2 out",
        "n1 lost: last seen on ext_box out",
    ]


def test_packets_are_named_by_what_they_are() -> None:
    watch = Watch()
    flags = {
        SYN: (NUMBER, 0),
        ACK: (NUMBER + 1, 10),
        PUSH | ACK: (NUMBER + 1, 10),
        0x11 | PUSH: (NUMBER + 4, 10),
        0x11: (NUMBER + 6, 10),
        RST: (NUMBER + 7, 0),
    }
    for bits, numbers in flags.items():
        payload = b"abc" if bits & PUSH else b""
        watch.seen("t.n1 x in", tcp(ONE, FAR, flags=bits, numbers=numbers, payload=payload))
    assert [track.name for track in told(watch, to=FAR)] == [
        *("SYN", "ACK", "data 3 bytes", "data 3 bytes FIN", "FIN ACK", "RST"),
    ]


def test_datagrams_and_echoes_are_named() -> None:
    mark = b"netlab:0123456789abcdef."
    watch = Watch()
    watch.seen("t.n1 x in", udp(ONE, FAR, mark))
    watch.seen("t.n1 x in", udp(FAR, ONE, b"{}"))
    found = told(watch, to=FAR, protocol="udp", mark=mark)
    assert [(one.name, one.leg) for one in found] == [
        *(("datagram 24 bytes", "request"), ("datagram 2 bytes", "reply")),
    ]
    watch = Watch()
    watch.seen("t.n1 x in", icmp("10.244.1.2", "10.244.2.2", mark))
    watch.seen("t.n1 x in", icmp("10.244.2.2", "10.244.1.2", mark, kind=(0, 0)))
    found = told(watch, source="10.244.1.2:0", to="10.244.2.2:0", protocol="icmp", mark=mark)
    assert [(one.name, one.leg) for one in found] == [
        *(("echo request", "request"), ("echo reply", "reply")),
    ]


def test_packets_of_one_way_are_alike() -> None:
    watch = Watch()
    for at in range(3):
        packet = tcp(ONE, FAR, flags=ACK if at else SYN, numbers=(NUMBER + at, 9 * at))
        watch.seen(f"{POD} eth0 out", packet)
        watch.seen("t.n1 veth1 in", packet)
    watch.seen(f"{POD} eth0 out", tcp(ONE, FAR, flags=RST, numbers=(NUMBER + 5, 0)))
    assert [track.same_as for track in told(watch, to=FAR)] == [-1, 0, 0, -1]


def test_with_listings_the_rules_that_did_not_fit_are_steps_too() -> None:
    watch = Watch()
    across(watch)
    (track,) = told(watch, listing=lambda hit, chain: {1: f"never in {hit.table}"})
    unfit = [step for step in track.steps if isinstance(step, Rule) and not step.fitted]
    fitted = [step for step in track.steps if isinstance(step, Rule) and step.fitted]
    assert len(unfit) == len(fitted) == 9
    assert unfit[0].hit.rule == "never in nat"
