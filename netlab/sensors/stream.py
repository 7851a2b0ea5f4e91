"""New flows at a steady pace, and one client that goes on: what each of them was told.

A thread sends them, so that what happens meanwhile can be done by another. They carry a mark and
ports of their own: sensors that look for probes meanwhile, and rule traces, pass over them.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence
from itertools import cycle
from types import TracebackType

import msgspec

from netlab import patience
from netlab.packets import Flow
from netlab.sensors.ports import MANY, Ports
from netlab.sensors.sending import Answer, Sent, send
from netlab.sensors.token import token

PATIENCE = patience.seconds(1.0)  # seconds for an answer
LOOK = 0.005  # seconds between two looks at what is under way
MARK = b"stream:"
_ports = Ports(MANY)


class Told(msgspec.Struct, frozen=True):
    """What became of one flow, begun at *began* (monotonic seconds). Nobody answered: None."""

    began: float
    flow: Flow
    answer: Answer | None

    @property
    def pod(self) -> str:
        """`default/web-1`, which answered, or ""."""
        says = self.answer.says if self.answer else {}
        return f"{says['namespace']}/{says['pod']}" if "pod" in says else ""

    @property
    def trouble(self) -> str:
        """Why it was not answered, "" if it was."""
        if self.answer is None:
            return "no answer"
        return self.answer.refused


class Stream:
    """A context manager: *pace* flows per second from *netns*, the *flows* by turns.

    Raises KernelError, when it begins, for a namespace that does not exist.
    """

    def __init__(self, netns: str, flows: Sequence[Flow], *, pace: float) -> None:
        self._netns = netns
        self._flows = cycle(flows)
        self._gap = 1 / pace
        self._told: list[Told] = []
        self._under_way: list[tuple[float, Sent]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._begin(time.monotonic())
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> list[Told]:
        """Begin no more, wait for what is under way, and return all that was told, in order."""
        self._ending.set()
        self._thread.join()
        return sorted(self._told, key=lambda one: one.began)

    def _run(self) -> None:
        due = time.monotonic() + self._gap
        while self._under_way or not self._ending.is_set():
            now = time.monotonic()
            if now >= due and not self._ending.is_set():
                self._begin(now)
                due = max(due + self._gap, now)  # what was missed is not made up for in a burst
            self._look(now)
            _wait([sent for _, sent in self._under_way])

    def _begin(self, now: float) -> None:
        sent = send(self._netns, next(self._flows), token(MARK), ports=_ports)
        self._under_way.append((now, sent))

    def _look(self, now: float) -> None:
        left = []
        for began, sent in self._under_way:
            answer = sent.answer()
            if answer is None and now - began < PATIENCE:
                left.append((began, sent))
                continue
            sent.close()
            self._told.append(Told(began, sent.flow, answer))
        self._under_way = left


class Client:
    """One UDP client that keeps its port: a flow that the kernel remembers. Close it."""

    def __init__(self, netns: str, flow: Flow) -> None:
        self._sent = send(netns, flow, token(MARK), ports=_ports)
        self.flow = self._sent.flow

    def ask(self) -> str:
        """Return the pod that answers now, `default/web-1`; "" when nobody does in time."""
        mark = token(MARK)
        deadline = time.monotonic() + PATIENCE
        self._sent.again(mark)
        while time.monotonic() < deadline:
            answer = self._sent.answer()
            if answer is not None:
                return Told(0, self.flow, answer).pod
            _wait([self._sent])
        return ""

    def close(self) -> None:
        self._sent.close()


def _wait(some: Sequence[Sent]) -> None:
    poll = select.poll()
    for sent in some:
        poll.register(sent, select.POLLIN)
    poll.poll(LOOK * 1000)
