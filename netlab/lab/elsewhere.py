"""A command of netlab that runs on another machine of the lab, as if it ran here."""

from __future__ import annotations

import os
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any
from uuid import uuid4

from netlab import patience
from netlab.agent.reports import ALIVE
from netlab.errors import NetlabError
from netlab.lab.live import Live
from netlab.processes import MARK
from netlab.processes.errand import FED, Piece
from netlab.store.mailbox import Correspondent
from netlab.world import MASTER

ASKED = 3  # times for the time: the quickest answer tells most
ANSWER = patience.seconds(10.0)  # seconds: half of it the other side waits for output


class There:
    """`netlab WORDS`, run on *machine*: see `Live.machine_of`. Close it, which ends it.

    Raises NetlabError when the machine does not answer, then and later.
    """

    def __init__(
        self, live: Live, machine: str, words: Sequence[str], *, source: int | None = None
    ) -> None:
        """*source*: the descriptor of its input, None for none."""
        if MARK in os.environ:  # we are run there for somebody ourselves
            raise NetlabError(f"it is on {machine} by now", hint="the same command again")
        _require_life(live, machine)
        self.machine = machine
        self._live = live
        self._name = uuid4().hex
        self._ended = False
        with ExitStack() as stack:
            self._asked = self._another(stack)
            self._beside = self._another(stack)  # for what does not wait for output
            self._ask("begin", words=list(words), fed=source is not None)
            self._stack = stack.pop_all()
        if source is not None:
            threading.Thread(target=self._feed, args=(source,), daemon=True).start()

    def _another(self, stack: ExitStack) -> Correspondent:
        made = Correspondent(self._live.connection(), self.machine)
        return stack.enter_context(closing(made))

    def _ask(self, deed: str, *, beside: bool = False, **more: Any) -> dict[str, Any]:
        asked = self._beside if beside else self._asked
        return asked.ask({"do": deed, "errand": self._name, **more}, timeout=ANSWER)

    def pieces(self) -> Iterator[Piece]:
        """Yield what it writes; the last piece has its exit code."""
        while not self._ended:
            told = self._ask("more")
            self._ended = told["code"] is not None
            yield Piece(b64decode(told["out"]), b64decode(told["err"]), told["code"])

    def stop(self) -> None:
        """Ask it to end, as SIGTERM does; what it still writes comes. For any thread."""
        self._ask("stop", beside=True)

    def _feed(self, source: int) -> None:
        """Have what is read from *source* be its input, until it reads no more.

        A thread of its own: nobody knows when there is something to read.
        """
        rest, last = b"", False
        try:
            while rest or not last:
                if not rest:
                    rest = os.read(source, FED)
                    last = not rest
                more = {"data": b64encode(rest).decode(), "last": last}
                taken = self._ask("feed", beside=True, **more)["taken"]
                if taken < 0:
                    return
                rest = rest[taken:]
        except (NetlabError, OSError):
            return  # who fetches the output is told

    def close(self) -> None:
        with self._stack:
            if not self._ended:
                try:
                    self._ask("end")
                except NetlabError:
                    pass  # it has ended, or does so by itself


def clock(live: Live, machine: str) -> int:
    """Return by how many ns the clock of *machine* is ahead of ours; 0 where that is less than can
    be told by asking. Raises NetlabError when it does not answer."""
    best, apart = 0, 0
    with closing(Correspondent(live.connection(), machine)) as asked:
        for _ in range(ASKED):
            before = time.time_ns()
            told = int(asked.ask({"do": "place"}, timeout=ANSWER).get("time", 0))
            took = time.time_ns() - before
            if told and (not best or took < best):
                best, apart = took, told - (before + took // 2)
    return apart if abs(apart) > best // 2 else 0


def _require_life(live: Live, machine: str) -> None:
    """Raise NetlabError if *machine* has not been heard from."""
    if machine == MASTER:
        return  # it has no sign of life
    with closing(live.connection()) as etcd:
        if etcd.get(ALIVE + machine) is None:
            raise NetlabError(
                f"node {machine} is another machine, {live.lab.node(machine).address}, and it, or "
                "the agent on it, is not heard from",
                hint=f"`netlab agent` there; `netlab status` says when {machine} is back",
            )
