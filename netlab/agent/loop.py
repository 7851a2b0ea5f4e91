"""A thread that makes one part of the lab agree, again and again.

1. `once()` is a full comparison; it is safe to call at any time and any number of times.
2. Between two passes the thread sleeps in poll(2) on whatever `watched()` names, until one of
   them is readable, `wake()` is called, or `interval` seconds have gone.
3. A storm of wake-ups is one: a loop that was woken more than a few times within a second rests
   longer than its passes take, so that a large lab coming up is not compared once per pod.
4. An error is logged once, at this level; the pass is repeated with back-off, 0.1 s to 0.5 s, so
   that what was repaired meanwhile is used within a second.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from netlab import world
from netlab.errors import NetlabError
from netlab.kernel import Kernel
from netlab.objects import Address, Bridge, Object, Tun, Vxlan
from netlab.plan import Op, Verb, words
from netlab.store.session import Drain

FIRST_RETRY, LAST_RETRY = 0.1, 0.5  # seconds
BURST, WITHIN = 5, 1.0  # passes in as many seconds before the loop rests
LONGEST_REST = 0.5  # seconds


LOOKS = 3  # in one pass, while what was done may have taken more with it


def takes_more(operations: Sequence[Op]) -> bool:
    """Return whether *operations* may have removed more than they say, so that one must look again.

    With an address go the routes that need it, and with a network's first address its others
    (fib_del_ifaddr(), __inet_del_ifa()); a tunnel or bridge that changes forgets neighbours.
    """
    return any(
        op.verb is not Verb.ADD and isinstance(op.object, Address | Bridge | Vxlan | Tun)
        for op in operations
    )


def applied(kernel: Kernel, operations: Sequence[Op]) -> None:
    """Apply *operations*; where a machine of the underlay gets an address, tell the others: who
    had it before may be in their memory. Raises what `Kernel.apply` does."""
    kernel.apply(operations)
    for op in operations:
        thing = op.object
        if op.verb is Verb.ADD and isinstance(thing, Address) and world.is_uplink(thing):
            kernel.announce(thing)


class Loop(threading.Thread):
    """One level-triggered loop. Subclasses give `once`, `watched` and `close`."""

    interval = 30.0  # seconds between two full comparisons when nothing wakes the loop
    rest = 2.0  # in a storm, times the length of the last pass

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.log = logging.getLogger(f"netlab.agent.{name}")
        self.error = ""
        self.passes = 0
        self._since: float | None = None  # when the pass that goes on began, monotonic seconds
        self.recorded: list[Op] | None = None  # what was done, while somebody wants to know
        self._ending = threading.Event()
        self._retry = 0.0
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waking = threading.Lock()  # nobody may write to a number that is another's by now
        self._gone = False

    def once(self) -> None:
        """Compare and act, once."""
        raise NotImplementedError

    def watched(self) -> Mapping[int, Drain]:
        """Return file descriptors that wake the loop, each with what drains it."""
        return {}

    def heard(self, descriptors: Collection[int]) -> None:
        """Take which descriptors ended the sleep; its own wake-up is among them."""

    def pause(self) -> float:
        """Return how many seconds the loop may sleep after a pass that went well."""
        return self.interval

    def close(self) -> None:
        """Give back what the loop holds; called in its own thread at the end."""

    def wake(self) -> None:
        """Make the loop look again, from any thread."""
        with self._waking:
            if not self._gone:
                os.eventfd_write(self._wakeup, 1)

    def end(self) -> None:
        """Ask the loop to stop, from any thread."""
        self._ending.set()
        self.wake()

    def at_work(self, *, seconds: float) -> bool:
        """Return whether a pass has gone on for as many *seconds*, and the one before went well."""
        since = self._since
        return since is not None and not self.error and time.monotonic() - since > seconds

    @property
    def ended(self) -> bool:
        return self._ending.is_set()

    def note(self, operations: Sequence[Op], *, agreed: Collection[Object]) -> None:
        """Tell what is about to be done: each repair of what was *agreed*, the rest as a sum."""
        repairs = [op for op in operations if op.verb is not Verb.DELETE and op.object in agreed]
        for operation in repairs:
            for line in words(operation):
                self.log.info("repaired: %s", line)
        if len(operations) > len(repairs):
            self.log.info("%d changes", len(operations) - len(repairs))
        if self.recorded is not None:
            self.recorded += operations

    def agree(
        self, kernel: Kernel, missing: Callable[[], list[Op]], *, agreed: Collection[Object]
    ) -> list[Op]:
        """Apply what is *missing*, looking again where that may take more with it; return it all.

        *agreed*: what the kernel held when last looked at; what is missing of it is a repair.
        """
        done: list[Op] = []
        for _ in range(LOOKS):
            operations = missing()
            self.note(operations, agreed=agreed)
            applied(kernel, operations)
            done += operations
            if not takes_more(operations):
                break
        return done

    def run(self) -> None:
        Path("/proc/thread-self/comm").write_text(self.name[:15])  # for `top -H` and perf(1)
        try:
            heard: list[Drain] = []
            begun: deque[float] = deque(maxlen=BURST)
            due = 0.0
            while not self.ended:
                began = time.monotonic()
                pause = self._pass(heard)
                ended = time.monotonic()
                if pause is None:
                    heard = self._sleep(max(0.0, due - ended), 0.0)
                    continue
                begun.append(began)
                due = ended + pause
                storm = len(begun) == BURST and begun[-1] - begun[0] < WITHIN
                rest = min(self.rest * (ended - began), LONGEST_REST) if storm else 0.0
                heard = self._sleep(pause, rest)
        finally:
            with self._waking:
                self._gone = True
                os.close(self._wakeup)
            self.close()

    def _pass(self, heard: list[Drain]) -> float | None:
        """Return how many seconds to sleep; None: nothing to look again for was *heard*."""
        self._since = time.monotonic()
        try:
            told = [drain() for drain in heard]
            if told and all(one is False for one in told):
                return None
            self.once()
        except Exception as error:
            return self._after(error)
        finally:
            self._since = None
        if self.error:
            self.log.info("recovered")
        self.error, self._retry = "", 0.0
        self.passes += 1
        return self.pause()

    def _after(self, error: Exception) -> float:
        """Tell *error*; return how many seconds to wait before the next pass."""
        if isinstance(error, NetlabError):
            self._failed(str(error))
        else:
            # A defect must not end the loop silently: it is told like any failure, with its trace.
            message = f"{type(error).__name__}: {error}"
            if message != self.error:
                self.log.error("unexpected failure", exc_info=error)
            self._failed(message)
        return self._retry

    def _failed(self, message: str) -> None:
        if message != self.error:
            self.log.warning("%s", message)
        self.error = message
        self._retry = min(max(2 * self._retry, FIRST_RETRY), LAST_RETRY)

    def _sleep(self, seconds: float, rest: float) -> list[Drain]:
        """Wait *rest* seconds, then until something wakes the loop; return what drains it."""
        if self.ended:
            return []
        poll = select.poll()
        watched: dict[int, Drain] = {self._wakeup: lambda: None}
        try:
            watched.update(self.watched())
            for descriptor in watched:
                poll.register(descriptor, select.POLLIN | select.POLLPRI)
        except Exception as error:  # a server does not come up: the next pass sees to it
            seconds = self._after(error)
        time.sleep(min(rest, seconds))
        ready = poll.poll(max(0.0, seconds - rest) * 1000)
        woken = [descriptor for descriptor, _ in ready]
        if self._wakeup in woken:
            os.eventfd_read(self._wakeup)
        self.heard(woken)
        return [watched[descriptor] for descriptor in woken]
