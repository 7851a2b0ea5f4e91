"""A capture that reaches another machine: here two that share a kernel, but not a clock."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import handmade
import pytest

from netlab import paths
from netlab.cluster import Cluster
from netlab.packets import Outcome, Protocol
from netlab.probe import flow_between, shoot, watched
from netlab.sensors import lent
from netlab.sensors.capture import Capture
from netlab.sensors.sending import send
from netlab.sensors.token import token
from netlab.sensors.wide import Borrowed, WideCapture
from netlab.store import loans

pytestmark = pytest.mark.kernel

NAME = f"nltestwide{os.getpid()}"
HOUR = 3600 * 10**9  # ns


@pytest.fixture(scope="module")
def state() -> Iterator[Cluster]:
    with handmade.two_nodes(NAME) as state:
        yield state


def machine(netns: str) -> str:
    """node2 and its pod are elsewhere."""
    return "node2" if netns.split(".")[1] in ("node2", "c") else ""


class Elsewhere:
    """Another machine, whose clock is an hour ahead."""

    def __init__(self) -> None:
        self.lender = lent.Lender()
        self.asked: list[str] = []

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request["do"])
        answer = self.lender.do(request)
        for one in (one for each in answer.get("seen", ()) for one in each):
            one["time"] += HOUR
        return answer


@pytest.mark.parametrize(("protocol", "port"), [("udp", 80), ("tcp", 80), ("icmp", 0), ("tcp", 81)])
def test_what_both_machines_saw_is_one_way(state: Cluster, protocol: str, port: int) -> None:
    there = Elsewhere()
    start, goal = paths.place(state, "a"), paths.place(state, "c")
    flow = flow_between(state, start, goal, protocol=Protocol(protocol), port=port)
    names = [start.netns, *watched(state, paths.expected(state, start, goal, flow))]
    verdicts = []
    for made in (
        WideCapture(names, Borrowed(machine, {"node2": there})),
        Capture(names),
    ):
        with made as capture:
            shot = shoot(state, capture, start, goal, protocol=Protocol(protocol), port=port)
            verdicts.append(shot.verdict)
    wide, narrow = verdicts
    assert wide.outcome is narrow.outcome is (Outcome.FAIL if port == 81 else Outcome.PASS)
    seen = [
        [(p.hop.where, p.problem) for p in verdict.passages if p.sighting] for verdict in verdicts
    ]
    assert seen[0] == seen[1]
    times = [p.sighting.time for p in wide.passages if p.sighting]
    assert times == sorted(times)
    assert there.asked[0] == "watch" and there.asked[-1] == "unwatch"
    assert there.lender.lent == 0


def test_what_was_forgotten_elsewhere_is_lent_anew_as_a_whole(state: Cluster) -> None:
    there = Elsewhere()
    start, goal = paths.place(state, "a"), paths.place(state, "c")
    flow = flow_between(state, start, goal, protocol=Protocol.ICMP, port=0)
    names = [start.netns, *watched(state, paths.expected(state, start, goal, flow))]
    early = [name for name in names if name != goal.netns]
    with WideCapture(early, Borrowed(machine, {"node2": there})) as capture:
        there.lender.close()
        capture.add([goal.netns])
        shot = shoot(state, capture, start, goal, protocol=Protocol.ICMP)
    assert shot.verdict.outcome is Outcome.PASS, shot.verdict.evidence


def test_another_machine_is_asked_once_for_many_probes(state: Cluster) -> None:
    there = Elsewhere()
    start, goal = paths.place(state, "a"), paths.place(state, "c")
    with WideCapture([start.netns, goal.netns], Borrowed(machine, {"node2": there})) as capture:
        flow = flow_between(state, start, goal, protocol=Protocol.UDP, port=80)
        sent = [send(start.netns, flow, token()) for _ in range(5)]
        time.sleep(0.2)
        capture.gather([one.token for one in sent])
        found = [capture.sightings(one.token) for one in sent]
        for one in sent:
            one.close()
    assert there.asked == ["watch", "seen", "unwatch"]
    assert all({seen.netns for seen in each} == {start.netns, goal.netns} for each in found)


def test_what_is_lent_ends_when_nobody_asks_any_longer(
    state: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = lent.Lender()
    netns = paths.place(state, "c").netns
    try:
        lender.do({"do": "watch", "capture": "x", "netns": [netns]})
        lender.tidy()
        assert lender.lent == 1
        monkeypatch.setattr(loans, "KEPT", -1.0)
        lender.tidy()
        assert lender.lent == 0
        with pytest.raises(LookupError, match="the capture x has ended"):
            lender.do({"do": "seen", "capture": "x", "tokens": ["t"]})
    finally:
        lender.close()


def test_a_connection_that_began_elsewhere_is_known_by_its_opening(state: Cluster) -> None:
    """As that of a process there, which nobody here has sent."""
    there = Elsewhere()
    start, goal = paths.place(state, "c"), paths.place(state, "a")
    names = [start.netns, goal.netns]
    with WideCapture(names, Borrowed(machine, {"node2": there})) as capture:
        flow = flow_between(state, start, goal, protocol=Protocol.TCP, port=80)
        shot = shoot(state, capture, start, goal, protocol=Protocol.TCP, port=80)
        seen = capture.handshake(shot.flow, netns=start.netns)
        assert {one.netns for one in seen} == set(names)
        assert capture.handshake(flow, netns=start.netns) == []  # nobody's: it has no port
    assert "number" in there.asked
