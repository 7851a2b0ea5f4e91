"""What `trace --attach` rests on, in namespaces made by hand: conntrack asked for one flow, traces
that begin at a moment and keep a pace, filters that are changed while frames come."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import handmade
import pytest

from netlab import filters
from netlab.cluster import Cluster
from netlab.filters import names
from netlab.filters.grammar import End, OneOf
from netlab.kernel import conntrack
from netlab.kernel.netns import entered
from netlab.packets import Flow, Passing, Protocol
from netlab.sensors.capture import Capture
from netlab.sensors.ring import Frame
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.traceswitch import Selector
from netlab.tracing.attached import Watch
from netlab.tracing.followed import remembered
from netlab.tracing.wires import has_rules

pytestmark = pytest.mark.kernel

NAME = f"nltest{os.getpid()}"
NODE1, NODE2, POD = f"{NAME}.node1", f"{NAME}.node2", f"{NAME}.node1.default.a"
A, C, INTERNET = "10.244.1.2", "10.244.2.2", "203.0.113.10"
UDP, TCP = Protocol.UDP, Protocol.TCP
CHAIN = (
    "table ip t { chain c { type filter hook forward priority 0;\n"
    f"ip daddr {C} counter accept\nip saddr {C} counter accept\n"
    "ct state established counter accept\n}; }\n"
)


@pytest.fixture(scope="module")
def state() -> Iterator[Cluster]:
    with handmade.two_nodes(NAME) as found:
        for node in (NODE1, NODE2):
            words = ["ip", "netns", "exec", node, "nft", "-f", "-"]
            subprocess.run(words, input=CHAIN, text=True, check=True)
        yield found


@contextmanager
def sender(destination: str, port: int = 80) -> Iterator[socket.socket]:
    with entered(POD):
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with opened:
        opened.connect((destination, port))
        yield opened


def told(trace: RuleTrace, flow: Flow) -> list[Passing]:
    return [one for one in trace.passes(lambda packet: packet.flow == flow) if one.table == "t"]


def flow_of(opened: socket.socket) -> Flow:
    return Flow(*(A, opened.getpeername()[0], UDP), *(opened.getsockname()[1], 80))


def test_one_flow_is_asked_for_as_it_came_and_as_it_went_on(state: Cluster) -> None:
    with sender(INTERNET) as opened:
        opened.send(b"hello")
        flow = flow_of(opened)
        with entered(NODE1):
            found = conntrack.entries_of([flow])
            assert [one.original for one in found] == [flow]
            assert found[0].masqueraded
            for other in (found[0].reply, found[0].reply.reply, flow.reply):
                assert [one.id for one in conntrack.entries_of([other])] == [found[0].id]
            assert conntrack.entries_of([Flow(A, INTERNET, UDP, 1, 80)]) == []


def test_a_pace_lets_so_many_packets_be_traced_and_no_more(state: Cluster) -> None:
    with sender(C) as opened, RuleTrace([NODE1], [Selector(flow_of(opened), pace=5)]) as trace:
        for number in range(60):
            opened.send(b"%d" % number)
        assert 5 <= len(told(trace, flow_of(opened))) < 20


def test_what_is_followed_later_is_traced_from_one_moment_on(state: Cluster) -> None:
    other = Selector(Flow("", "192.0.2.1", UDP))
    with sender(C) as opened, RuleTrace([NODE1, NODE2], [other]) as trace:
        flow = flow_of(opened)
        since = time.time_ns() + 300_000_000
        chosen = Selector(flow, whole=True, since=since, pace=4)
        trace.follow({NODE1: [chosen], NODE2: [chosen]})
        number = before = 0
        while number < before + 10:
            opened.send(b"%012d" % number)
            number += 1
            before = number if time.time_ns() < since else before
            time.sleep(0.002)
        first, second = (
            [one.identity for one in told(trace, flow) if one.netns == node]
            for node in (NODE1, NODE2)
        )
        assert len(first) >= 4 and first[:4] == second[:4]
        assert int(first[0][1]) >= before > 20


def test_of_many_selectors_each_is_traced_and_what_is_followed_later_is_too(
    state: Cluster,
) -> None:
    many = [Selector(Flow("", f"192.0.2.{number}", UDP, 0, 80)) for number in range(1, 30)]
    with sender(C) as opened, sender(INTERNET) as other:
        chosen = Selector(Flow(C, "", UDP, 80, 0), whole=True)  # the answers
        with RuleTrace([NODE1], [*many, chosen]) as trace:
            opened.send(b"hello")
            opened.settimeout(3)
            opened.recv(2000)
            other.send(b"hello")
            assert told(trace, flow_of(opened).reply) and not told(trace, flow_of(opened))
            trace.follow({NODE1: [Selector(flow_of(other), whole=True)]})
            other.send(b"again")
            passes = trace.passes(lambda packet: packet.flow == flow_of(other))
            assert {one.identity[1] for one in passes} == {b"again"}


def test_what_is_in_an_envelope_is_traced_too(state: Cluster) -> None:
    # The envelope is a packet of the node's own, so no hook that the inner one comes to sees it.
    rules = (
        "table ip u { chain o { type filter hook output priority 0; udp dport 8472 counter; }; }"
    )
    words = ["ip", "netns", "exec", NODE1, "nft"]
    subprocess.run([*words, "-f", "-"], input=rules, text=True, check=True)
    try:
        with sender(C) as opened:
            chosen = Selector(flow_of(opened), whole=True, wrapped=True)
            with RuleTrace([NODE1], [chosen]) as trace:
                opened.send(b"hello")
                passes = trace.passes(lambda packet: packet.flow.destination_port == 8472)
        assert "u" in [one.table for one in passes]
    finally:
        subprocess.run([*words, "delete table ip u"], check=True)


def test_a_filter_is_changed_while_frames_come_however_long_it_is(state: Cluster) -> None:
    ends = [End(low=number, high=number) for number in range(1000, 1024)]
    long = filters.program(OneOf((*ends, End(low=80, high=80), _flush())))
    with sender(C) as opened, Capture([POD], program=long) as capture:
        other = filters.program(OneOf((*ends, End(low=81, high=81), _flush())))
        opened.send(b"one")
        capture.flush()
        assert [one.frame.data[-3:] for one in capture.taken()][:1] == [b"one"]
        capture.narrow(other)
        opened.send(b"two")
        capture.flush()
        assert not [one for one in capture.taken() if b"two" in one.frame.data]
        capture.narrow(long)
        opened.send(b"three")
        capture.flush()
        assert any(b"three" in one.frame.data for one in capture.taken())


def _flush() -> End:
    return End("dst", None, "udp", 9, 9)


def test_a_fast_conversation_is_told_whole_and_bounded(state: Cluster) -> None:
    """A flood that the filter fits: of its packets a few, each on its whole way, with its rules."""
    tree = filters.parsed("udp and pod a", names.names(state))
    code = (
        "import socket, time\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"s.connect(({C!r}, 80))\n"
        "until = time.monotonic() + 60\n"
        "number = 0\n"
        "while time.monotonic() < until:\n"
        "    try: s.send(b'%012d' % number)\n"
        "    except OSError: pass\n"
        "    number += 1\n"
        "    time.sleep(0.00005)\n"
    )
    flood = subprocess.Popen(["ip", "netns", "exec", POD, "python3", "-c", code])
    try:
        with Watch(state, tree, count=60, most=1) as watch:
            deadline = time.monotonic() + 20
            while not watch.finished and time.monotonic() < deadline:
                watch.look(1)
            watch.rest()
            (journey,) = watch.journeys(all_rules=False)
    finally:
        flood.kill()
        flood.wait()
    assert watch.finished
    requests = [one for one in journey.tracks if one.leg == "request"]
    assert 0 < len(journey.tracks) <= 60 and requests
    nodes = {step.place.netns for one in requests for step in one.steps if hasattr(step, "hit")}
    assert nodes >= {NODE1, NODE2}


def test_a_place_that_is_gone_is_remembered_by_nobody(state: Cluster) -> None:
    assert remembered([f"{NAME}.gone"], Flow(A, C, TCP, 1, 2)) == {}


def test_a_namespace_that_is_gone_has_nothing_to_tell() -> None:
    gone = f"{NAME}.gone"
    subprocess.run(["ip", "netns", "add", gone], check=True)
    try:
        words = ["ip", "netns", "exec", gone]
        subprocess.run([*words, "ip", "link", "set", "lo", "up"], check=True)
        output = "table ip t { chain c { type filter hook output priority 0; counter accept; }; }"
        subprocess.run([*words, "nft", output], check=True)
        with RuleTrace([gone], [Selector(Flow("", "", UDP))]) as trace, Capture([gone]) as capture:
            with entered(gone):
                sent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with sent:
                sent.sendto(b"one", ("127.0.0.1", 9))
            assert len(trace.passes(lambda _: True)) == 1
            subprocess.run(["ip", "netns", "del", gone], check=True)
            assert trace.passes(lambda _: True) == []
            assert capture.device(gone, Frame(time.time_ns(), 99, False, False, b"")) == "if99"
            assert not has_rules(gone)
    finally:
        subprocess.run(["ip", "netns", "del", gone], capture_output=True)
