"""Whom the balancer takes for well: by answers over real sockets, on the loopback."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from netlab.agent import probing
from netlab.agent.answers import Answer, Answers
from netlab.agent.probing import Probing
from netlab.balancing.listeners import Probe

DEADLINE = 10.0  # seconds


class Node:
    """Something that answers health checks with `status`, or listens and says nothing."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.silent: socket.socket | None = None
        sock = socket.create_server(("127.0.0.1", 0))
        self.probe = Probe("127.0.0.1", sock.getsockname()[1])
        self.answers.open("health", sock, self._answer(200))

    @staticmethod
    def _answer(status: int) -> Answer:
        return Answer(status, {"Content-Type": "application/json"}, "{}")

    def says(self, status: int) -> None:
        self.answers.say("health", self._answer(status))

    def gone(self) -> None:
        self.answers.shut("health")

    def deaf(self) -> None:
        """Take connections, as the kernel does, and never answer."""
        self.gone()
        self.silent = socket.create_server(("127.0.0.1", self.probe.port))

    def close(self) -> None:
        self.answers.close()
        if self.silent is not None:
            self.silent.close()


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Probing]:
    monkeypatch.setattr(probing, "PERIOD", 0.02)
    monkeypatch.setattr(probing, "SOON", 0.01)
    monkeypatch.setattr(probing, "TIMEOUT", 0.2)
    made = Probing()
    yield made
    made.close()


def until(asking: Probing, true: Callable[[], bool]) -> int:
    """Go on as the loop does until *true*; return how often somebody's health changed."""
    deadline, changes = time.monotonic() + DEADLINE, 0
    while True:
        changes += len(asking.step())
        if true():
            return changes
        assert time.monotonic() < deadline
        pause = asking.pause()
        select.select([asking], [], [], pause)


def test_who_answers_200_is_well(asking: Probing, node: Node) -> None:
    asking.want([node.probe])
    assert not asking.known
    until(asking, lambda: asking.known)
    assert asking.well(node.probe)


def test_who_answers_otherwise_is_not(asking: Probing, node: Node) -> None:
    node.says(503)
    asking.want([node.probe])
    until(asking, lambda: asking.known)
    assert not asking.well(node.probe)


@pytest.mark.parametrize("end", [Node.gone, Node.deaf], ids=["refuses", "is silent"])
def test_who_stops_answering_is_given_up_and_comes_back(
    asking: Probing, node: Node, end: Callable[[Node], None]
) -> None:
    asking.want([node.probe])
    until(asking, lambda: asking.well(node.probe))
    end(node)
    assert until(asking, lambda: not asking.well(node.probe)) == 1
    if node.silent is not None:
        node.silent.close()
    sock = socket.create_server(("127.0.0.1", node.probe.port))
    node.answers.open("health", sock, Node._answer(200))
    assert until(asking, lambda: asking.well(node.probe)) == 1


def test_one_answer_missing_is_not_the_end(
    asking: Probing, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "FAILURES", 1_000_000)
    asking.want([node.probe])
    until(asking, lambda: asking.well(node.probe))
    node.says(500)
    failed = asking._targets[node.probe]
    until(asking, lambda: failed.failures >= 1)
    assert asking.well(node.probe)


def test_nobody_is_asked_who_is_not_wanted(asking: Probing, node: Node) -> None:
    asking.want([node.probe])
    until(asking, lambda: asking.known)
    asking.want([])
    assert asking.pause() is None
    assert asking.step() == set()
    assert not asking.well(node.probe)


def test_after_a_hurry_nobody_is_known_before_asked_again(asking: Probing, node: Node) -> None:
    asking.want([node.probe])
    until(asking, lambda: asking.known)
    asking.hurry()
    assert not asking.known
    assert asking.well(node.probe)
    until(asking, lambda: asking.known)


def test_who_looks_late_blames_nobody(
    asking: Probing, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking.want([node.probe])
    until(asking, lambda: asking.well(node.probe))
    monkeypatch.setattr(probing, "FAILURES", 1)
    late = 0.0
    monkeypatch.setattr(probing.time, "monotonic", lambda: time.perf_counter() + late)
    asked = asking._targets[node.probe]
    for stage in (lambda: not asked.sent, lambda: asked.sent):  # connecting, then waiting
        until(asking, lambda stage=stage: asked.sock is not None and stage())  # type: ignore[misc]
        select.select([asking], [], [], DEADLINE)  # it is there to be read
        late += 2 * probing.TIMEOUT
        assert asking.step() == set()
    until(asking, lambda: asked.sock is None)
    assert asking.well(node.probe)


def test_who_does_not_answer_for_a_while_is_not_excused(
    asking: Probing, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking.want([node.probe])
    until(asking, lambda: asking.well(node.probe))
    monkeypatch.setattr(probing, "FAILURES", 1)
    node.deaf()
    began = time.monotonic()
    until(asking, lambda: not asking.well(node.probe))
    assert time.monotonic() - began < probing.PERIOD + 2 * probing.TIMEOUT + 1
