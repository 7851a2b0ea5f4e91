"""A whole conversation, told by the kernel and by nobody else's packets: selectors, numbers,
journeys through a world that no code of netlab's has made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import handmade
import pytest

from netlab import tracing
from netlab.cluster import Cluster
from netlab.errors import UsageError
from netlab.journeys import End, Fate, Journey, Rewrite, Rule
from netlab.kernel.netns import entered
from netlab.packets import Flow, Passing, Protocol
from netlab.sensors import sending
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.sending import Question
from netlab.sensors.token import token
from netlab.sensors.traceswitch import PREFIX, WINDOW, Selector
from netlab.telling import text
from netlab.telling.naming import Names
from netlab.tracing import wires

pytestmark = pytest.mark.kernel

NAME = f"nltest{os.getpid()}c"
NODE1, NODE2, UNDERLAY = f"{NAME}.node1", f"{NAME}.node2", f"{NAME}.underlay"
POD, SERVER = f"{NAME}.node1.default.a", f"{NAME}.node2.default.c"
VIP, A, C = "10.96.0.1", "10.244.1.2", "10.244.2.2"
NUMBER = 7 * WINDOW
PATIENCE = 3.0  # seconds
TCP, UDP, ICMP = Protocol.TCP, Protocol.UDP, Protocol.ICMP
NAT = f"""*nat
:KUBE-SVC - [0:0]
:KUBE-MASQ - [0:0]
-A PREROUTING -d {VIP}/32 -j KUBE-SVC
-A OUTPUT -d {VIP}/32 -j KUBE-SVC
-A POSTROUTING -j KUBE-MASQ
-A KUBE-SVC -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SVC -p tcp -j DNAT --to-destination {C}:80
-A KUBE-SVC -p udp -j DNAT --to-destination {C}
-A KUBE-MASQ -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
COMMIT
"""
HOOKS = {"prerouting": -150, "input": 5, "forward": 5, "output": -150, "postrouting": 5}
EVERY = "".join(  # chains before all NAT
    f"table ip every {{ chain {hook} {{ type filter hook {hook} priority {at}; counter; }}; }}\n"
    for hook, at in HOOKS.items()
)


def inside(netns: str, *argv: str, given: str = "") -> str:
    words = ["ip", "netns", "exec", netns, *argv]
    return subprocess.run(words, input=given, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def state() -> Iterator[Cluster]:
    with handmade.two_nodes(NAME) as found:
        inside(NODE1, "iptables-nft-restore", "--noflush", given=NAT)
        for node in (NODE1, NODE2):
            inside(node, "nft", "-f", "-", given=EVERY)
            inside(node, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
        yield found


def asked(
    protocol: Protocol, *, to: str = VIP, port: int = 80, sender: str = POD, number: int = NUMBER
) -> tuple[Flow, bytes, sending.Answer | None]:
    """Ask as a trace does; return the flow as it was sent, its mark, and what came back."""
    mark = token()
    question = Question(sequence=number if protocol is TCP else None)
    flow = Flow("", to, protocol, 0, 0 if protocol is ICMP else port)
    with sending.send(sender, flow, mark, question) as sent:
        deadline = time.monotonic() + PATIENCE
        while (answer := sent.answer()) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return sent.flow, mark, answer


def selector(protocol: Protocol, mark: bytes = b"") -> Selector:
    return Selector(Flow("", "", protocol), mark, conversation=NUMBER if protocol is TCP else 0)


def told(
    protocol: Protocol,
    *,
    to: str = VIP,
    port: int = 80,
    sender: str = POD,
    places: tuple[str, ...] = (NODE1, NODE2),
    meanwhile: Callable[[], object] = lambda: None,
) -> tuple[Flow, list[Passing]]:
    """Trace one conversation; *meanwhile* others take place. Return its flow and its passes."""
    mark = token()
    with RuleTrace(places, [selector(protocol, mark)]) as trace:
        meanwhile()
        question = Question(sequence=NUMBER if protocol is TCP else None)
        flow = Flow("", to, protocol, 0, 0 if protocol is ICMP else port)
        with sending.send(sender, flow, mark, question) as sent:
            deadline = time.monotonic() + PATIENCE
            while sent.answer() is None and time.monotonic() < deadline:
                time.sleep(0.001)
            assert sent.answer() is not None
        meanwhile()
        assert not trace.lost
        return sent.flow, trace.passes(lambda _: True)


def hooks(passes: list[Passing], netns: str, flow: str) -> list[str]:
    """Return the hooks at which packets of *flow* (`A -> B`, without ports) passed `every`."""
    return [
        one.hook
        for one in passes
        if one.netns == netns
        and one.table == "every"
        and f"{one.flow.source} -> {one.flow.destination}" == flow
    ]


def others() -> None:
    """Conversations with the same ends, of all protocols, that no selector fits."""
    for protocol in (TCP, UDP, ICMP):
        assert asked(protocol, to=VIP if protocol is not ICMP else C, number=NUMBER * 3)[2]


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_conversation_is_told_both_ways_through_nat_and_the_tunnel(
    state: Cluster, protocol: Protocol
) -> None:
    _, passes = told(protocol)
    tunnel = "10.244.1.0"  # what masquerading takes on flannel.1
    times = 4 if protocol is TCP else 1  # SYN, ACK, data, and at least an ACK of the answer
    there = hooks(passes, NODE1, f"{A} -> {VIP}")
    assert there.count("prerouting") >= times
    assert hooks(passes, NODE1, f"{A} -> {C}").count("forward") >= times
    assert hooks(passes, NODE2, f"{tunnel} -> {C}").count("forward") >= times
    back = hooks(passes, NODE2, f"{C} -> {tunnel}")
    assert back.count("prerouting") == back.count("forward") >= (2 if protocol is TCP else 1)
    assert hooks(passes, NODE1, f"{C} -> {tunnel}").count("prerouting") == back.count("forward")
    assert hooks(passes, NODE1, f"{C} -> {A}").count("forward") == back.count("forward")
    outer = hooks(passes, NODE1, "192.168.50.11 -> 192.168.50.12")
    assert outer.count("output") == outer.count("postrouting") >= times
    assert hooks(passes, NODE2, "192.168.50.11 -> 192.168.50.12").count("input") >= times


def test_an_echo_is_told_both_ways(state: Cluster) -> None:
    _, passes = told(ICMP, to=C)
    assert hooks(passes, NODE1, f"{A} -> {C}") == ["prerouting", "forward", "postrouting"]
    assert hooks(passes, NODE2, f"{C} -> {A}") == ["prerouting", "forward", "postrouting"]
    assert hooks(passes, NODE2, "192.168.50.12 -> 192.168.50.11") == ["output", "postrouting"]


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
def test_nothing_of_other_conversations_is_told(state: Cluster, protocol: Protocol) -> None:
    to = C if protocol is ICMP else VIP
    sent, passes = told(protocol, to=to, meanwhile=others)
    inner = [one for one in passes if not one.flow.source.startswith("192.168.")]
    assert {one.flow.protocol for one in inner} == {protocol}
    if protocol is ICMP:
        assert len([one for one in inner if one.table == "every"]) == 2 * 2 * 3
        return
    mine = sent.source_port
    seen = [one for one in inner if one.netns == NODE1 and A in (one.flow.source,)]
    assert seen and {one.flow.source_port for one in seen} == {mine}
    envelopes = [one for one in passes if one.netns == NODE1 and one.hook == "output"]
    requests = [one for one in inner if one.netns == NODE1 and one.hook == "forward"
                and one.table == "every" and one.flow.destination == C]  # fmt: skip
    assert len([one for one in envelopes if one.table == "every"]) == len(requests)


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_an_icmp_error_about_it_is_told(state: Cluster, protocol: Protocol) -> None:
    inside(NODE2, "nft", "add table ip no")
    inside(NODE2, "nft", "add chain ip no c { type filter hook forward priority 9; }")
    inside(NODE2, "nft", f"add rule ip no c ip daddr {C} reject with icmp type admin-prohibited")
    try:
        _, passes = told(protocol, meanwhile=lambda: asked(UDP, to=C))
    finally:
        inside(NODE2, "nft", "delete table ip no")
    errors = [one for one in passes if one.icmp_error]
    assert {one.netns for one in errors} == {NODE1, NODE2}
    assert hooks(errors, NODE2, "10.244.2.0 -> 10.244.1.0") == ["output", "postrouting"]
    assert hooks(errors, NODE1, "10.244.2.0 -> 10.244.1.0") == ["prerouting"]
    assert hooks(errors, NODE1, f"10.244.2.0 -> {A}") == ["forward", "postrouting"]
    last = [one for one in passes if one.table == "no"][-1]
    assert last.hits[-1].verdict == "drop" and "reject" in last.hits[-1].rule


def test_rules_of_bridges_are_told_of_envelopes_too(state: Cluster) -> None:
    inside(UNDERLAY, "nft", "add table bridge x")
    inside(UNDERLAY, "nft", "add chain bridge x c { type filter hook forward priority 0; }")
    inside(UNDERLAY, "nft", "add rule bridge x c udp dport 8472 counter")
    try:
        _, passes = told(TCP, places=(UNDERLAY,), meanwhile=others)
    finally:
        inside(UNDERLAY, "nft", "delete table bridge x")
    assert {(one.hook, one.hits[0].family, one.table) for one in passes} == {
        ("forward", "bridge", "x")
    }
    assert {str(one.flow).split(":")[0] for one in passes} == {"192.168.50.11", "192.168.50.12"}
    assert len(passes) < 12  # those of `others` would be many more


def test_a_connection_begins_with_the_number_it_is_told(state: Cluster) -> None:
    _, passes = told(TCP)
    opening = [one for one in passes if one.opens and one.netns == NODE1]
    assert opening
    assert {int.from_bytes(one.identity[1][:4], "big") for one in opening} == {NUMBER}


def test_entries_of_conntrack_are_told_by_their_ids(state: Cluster) -> None:
    _, passes = told(TCP)
    ids = {one.conntrack for one in passes if one.netns == NODE1 and one.flow.protocol is TCP}
    if ids == {0}:
        pytest.skip("traces tell of conntrack since Linux 6.16")
    flows = {one.flow for one in passes if one.flow.destination == VIP}
    names = Names(state)
    (entry,) = wires.remembered(names, [NODE1], flows, TCP)
    assert ids - {0} == {entry.entry.id}
    assert (entry.entry.redirected, entry.entry.masqueraded) == (True, True)


def test_of_echoes_between_the_same_ends_the_entry_is_told_by_its_id(state: Cluster) -> None:
    for _ in range(3):
        asked(ICMP, to=C)
    _, passes = told(ICMP, to=C)
    ids = {one.conntrack for one in passes} - {0}
    if not ids:
        pytest.skip("traces tell of conntrack since Linux 6.16")
    flows = {Flow(A, C, ICMP)}
    assert len(wires.remembered(Names(state), [NODE1], flows, ICMP)) > 1
    assert len(wires.remembered(Names(state), [NODE1], flows, ICMP, ids=ids)) == 1


# -- nothing is left


def tables(netns: str) -> list[str]:
    return [line for line in inside(netns, "nft", "list", "tables").splitlines() if PREFIX in line]


KILLED = f"""
import sys, time
from netlab.kernel.netns import move
from netlab.packets import Flow, Protocol
from netlab.sensors.traceswitch import Selector, Switch
move({NODE1!r})
flows = Flow("", "", Protocol.UDP), Flow("", "", Protocol.TCP)
selectors = [Selector(one, b"netlab:123456789", conversation=7 << 16) for one in flows]
switch = Switch(selectors, owned=sys.argv[1] == "owned", bridged=True)
print("there", flush=True)
time.sleep(60)
"""


def killed(how: str) -> None:
    words = [sys.executable, "-c", KILLED, how]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        assert len(tables(NODE1)) == 2  # of IP and of bridges
        process.send_signal(signal.SIGKILL)


def test_a_killed_process_leaves_no_table(state: Cluster) -> None:
    killed("owned")
    deadline = time.monotonic() + PATIENCE
    while tables(NODE1) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tables(NODE1) == []


def test_what_it_leaves_where_there_are_no_owners_goes_with_the_next_use(state: Cluster) -> None:
    killed("not owned")
    assert len(tables(NODE1)) == 2
    told(ICMP, to=C)
    assert tables(NODE1) == []


def test_tables_are_gone_when_it_ends(state: Cluster) -> None:
    told(UDP)
    assert tables(NODE1) == tables(NODE2) == []


# -- journeys


def trace(state: Cluster, source: str, destination: str, **words: Any) -> Journey:
    return tracing.trace(SimpleNamespace(cluster=lambda: state), source, destination, **words)


def way(journey: Journey, number: int = 0) -> str:
    steps = journey.tracks[number].sightings
    return " ".join(f"{one.place.netns.partition('.')[2]}/{one.device}" for one in steps)


def fates(journey: Journey) -> list[Fate]:
    return [step.fate for track in journey.tracks for step in track.steps if isinstance(step, End)]


CROSS = (
    "node1.default.a/eth0 node1/VETH node1/docker0 node1/flannel.1 node1/eth0 underlay/node1 "
    "underlay/node2 node2/eth0 node2/flannel.1 node2/docker0 node2/VETH node2.default.c/eth0"
)


@pytest.mark.parametrize(
    ("words", "packets"),
    [
        ({"port": 80}, ("SYN", "SYN ACK", "ACK")),
        ({"port": 80, "protocol": "udp"}, ("datagram 23 bytes",)),
        ({}, ("echo request", "echo reply")),
        ({"port": 80, "size": 1450, "protocol": "udp"}, ("datagram 1422 bytes",)),
        ({"size": 1450}, ("echo request", "echo reply")),
    ],
    ids=str,
)
def test_every_packet_is_followed_over_every_device(
    state: Cluster, words: dict[str, Any], packets: tuple[str, ...]
) -> None:
    journey = trace(state, "a", "c", **words)
    assert journey.answered and not journey.lost
    veths = {f"node1/{state.pod('a').veth}", f"node2/{state.pod('c').veth}"}
    there = [
        one if one not in veths else one.split("/")[0] + "/VETH" for one in way(journey).split()
    ]
    assert " ".join(there) == CROSS
    assert way(journey, 1).split() == way(journey).split()[::-1]
    assert set(packets) <= {track.name for track in journey.tracks}
    assert set(fates(journey)) == {Fate.DELIVERED}


def test_a_translation_is_told_with_rules_and_entry(state: Cluster) -> None:
    journey = trace(state, "a", VIP, port=80)
    assert journey.answered and journey.says["client"] == "10.244.1.0"
    there, back = (
        [step for step in journey.tracks[number].steps if isinstance(step, Rewrite)]
        for number in (0, 1)
    )
    assert [step.kind for step in there] == ["dnat", "snat"]
    assert [step.kind for step in back] == ["un-snat", "un-dnat"]
    assert {step.place.name for step in (*there, *back)} == {"node1"}
    assert len({step.conntrack for step in (*there, *back)}) == 1
    rules = [step.hit.rule for step in journey.tracks[0].steps if isinstance(step, Rule)]
    assert f"-p tcp -j DNAT --to-destination {C}:80" in rules
    assert "-m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully" in rules


def test_all_rules_tells_those_that_did_not_fit(state: Cluster) -> None:
    journey = trace(state, "node/node1", VIP, port=80, protocol="udp", all_rules=True)
    steps = [step for step in journey.tracks[0].steps if isinstance(step, Rule)]
    unfit = [step.hit.rule for step in steps if not step.fitted]
    assert f"-p tcp -j DNAT --to-destination {C}:80" in unfit
    fitted = [step.hit.rule for step in steps if step.fitted]
    assert not {rule for rule in unfit if "-j KUBE-SVC" in rule} & set(fitted)


@pytest.mark.parametrize(
    ("source", "destination", "words", "end"),
    [
        ("client", "node/node1", {"port": 22}, "dropped: by firewall forward at forward"),
        ("client", "c", {"port": 80}, "refused: gateway answered net unreachable"),
        ("a", "c", {"port": 81, "protocol": "udp"}, "delivered: to default/c 81/udp"),
        ("a", "c", {"port": 81}, "delivered: to default/c 81/tcp"),
    ],
)
def test_what_is_not_answered_is_told(
    state: Cluster, source: str, destination: str, words: dict[str, Any], end: str
) -> None:
    began = time.monotonic()
    journey = trace(state, source, destination, **words)
    assert time.monotonic() - began < 2
    assert not journey.answered
    last = journey.tracks[0].steps[-1]
    assert isinstance(last, End) and f"{last.fate}: {last.words}" == end


def test_a_packet_that_is_too_long_is_not_cut(state: Cluster) -> None:
    journey = trace(state, "a", "c", port=80, protocol="udp", size=1451)
    assert not journey.answered
    lengths = [step.length for track in journey.tracks for step in track.sightings]
    assert not lengths or max(lengths) == 1451
    with pytest.raises(UsageError):
        trace(state, "a", "c", size=70000)


FLOOD = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((sys.argv[1], 9))
print("there", flush=True)
while True:
    try:
        sock.send(b"x" * 1000)
    except OSError:
        pass
"""


@pytest.mark.parametrize("words", [{"port": 80}, {}, {"port": 80, "protocol": "udp"}], ids=str)
def test_a_flood_beside_it_does_not_show(state: Cluster, words: dict[str, Any]) -> None:
    with entered(POD):
        flood = subprocess.Popen(
            [sys.executable, "-c", FLOOD, C], stdout=subprocess.PIPE, text=True
        )
    with flood:
        assert flood.stdout is not None and flood.stdout.readline() == "there\n"
        try:
            journey = trace(state, "a", "c", **words)
        finally:
            flood.kill()
    assert journey.answered and not journey.lost
    ports = {track.flow.source_port for track in journey.tracks}
    ports |= {track.flow.destination_port for track in journey.tracks}
    assert ports <= {journey.flow.source_port, journey.flow.destination_port}


@pytest.mark.parametrize("words", [{"port": 80}, {}, {"port": 80, "protocol": "udp"}], ids=str)
def test_many_traces_at_once_do_not_mix(state: Cluster, words: dict[str, Any]) -> None:
    """Every listener in a namespace hears all traces there."""
    found: list[Journey] = []

    def run() -> None:
        found.append(trace(state, "a", "c", **words))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 8 and all(one.answered for one in found)
    for journey in found:
        assert all(track.sightings for track in journey.tracks)
        assert set(fates(journey)) == {Fate.DELIVERED}, "\n".join(text.lines(journey))
        assert len({one.place.netns for one in journey.entries}) == len(journey.entries)
        assert sum(track.name in ("SYN", "echo request") for track in journey.tracks) <= 1
    assert tables(NODE1) == tables(NODE2) == []


def test_queues_are_drained_wherever_the_thread_is(state: Cluster) -> None:
    bare = f"{NAME}.bare"
    subprocess.run(["ip", "netns", "add", bare], check=True)
    try:
        before = os.sched_getaffinity(0)
        for netns in (NODE1, bare):  # in the second one, lo is down
            began = time.monotonic()
            with entered(netns):
                wires.drained(40)
            assert time.monotonic() - began < 0.5
        assert os.sched_getaffinity(0) == before
    finally:
        subprocess.run(["ip", "netns", "delete", bare], check=True)
