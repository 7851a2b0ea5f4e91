"""Health probes of nodes: HTTP questions over the network, many at once, without a thread.

1. A node is well when it answers 200. One answer makes it so, `FAILURES` in a row end it: with a
   period and a timeout of half a second a node that falls silent is given up within 1.5 s, one
   that refuses within 1 s. One that was never heard of is asked more often, and longer.
2. Time counts against a node only from what was done here: from the call until it is connected,
   from the request, once that is sent, until the answer. Whoever looks late so reads what came
   meanwhile, and blames nobody for his own delay.
3. All that are due are asked at once, so that few wake-ups serve many nodes.
4. Nothing is asked, and nobody woken, while there is nothing to ask.

The sockets live where the calling thread is: a probe takes the way that clients' packets will.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Collection

from netlab.balancing.listeners import Probe

PERIOD = 0.5  # seconds from one question to the next
TIMEOUT = 0.5  # seconds for the connection, and for the answer
FAILURES = 2  # in a row
SOON = 0.1  # seconds to a question about what may just have changed
FIRST_FAILURES = 5  # in a row, of a node never heard of: it may just be coming up
_ANSWER = b"HTTP/1."
_STATUS_END = 12  # bytes of `HTTP/1.1 200`
_STARTED = (0, errno.EINPROGRESS)


class _Asked:
    """One target: its question that goes on, if any, and what is known of it."""

    __slots__ = ("began", "due", "failures", "heard", "sent", "since", "sock", "told", "well")

    def __init__(self) -> None:
        self.well: bool | None = None  # None: not known yet
        self.due = 0.0  # monotonic seconds
        self.failures = 0
        self.sock: socket.socket | None = None
        self.began = 0.0
        self.since = 0.0  # when the last thing was done about it
        self.told = 0.0  # when the last question that has ended began
        self.sent = False
        self.heard = b""


class Probing:
    """The probes that go on. `step` is due when `fileno` is readable or `pause` is over."""

    def __init__(self) -> None:
        self._targets: dict[Probe, _Asked] = {}
        self._poll = select.epoll()
        self._of: dict[int, Probe] = {}  # by the descriptor of the question that goes on
        self._hurried = 0.0  # monotonic seconds

    def fileno(self) -> int:
        return self._poll.fileno()

    def want(self, targets: Collection[Probe]) -> None:
        """Ask *targets* from now on, and no others."""
        for gone in self._targets.keys() - set(targets):
            self._end(self._targets.pop(gone))
        for new in set(targets) - self._targets.keys():
            self._targets[new] = _Asked()

    def hurry(self) -> None:
        """Ask everybody soon: what they answer may have changed."""
        self._hurried = time.monotonic()
        for asked in self._targets.values():
            asked.due = min(asked.due, self._hurried + SOON)

    def well(self, target: Probe) -> bool:
        """Return whether *target* is well, as far as is known."""
        asked = self._targets.get(target)
        return asked is not None and bool(asked.well)

    @property
    def known(self) -> bool:
        """Whether every target is known, by what it said after the last `hurry`."""
        return all(
            asked.well is not None and asked.told >= self._hurried
            for asked in self._targets.values()
        )

    def pause(self) -> float | None:
        """Return the seconds until something is due; None: nothing ever."""
        ends = [
            asked.due if asked.sock is None else asked.since + TIMEOUT
            for asked in self._targets.values()
        ]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def step(self) -> set[Probe]:
        """Read answers, give up what is overdue, ask what is due; return who is otherwise now."""
        before = {target: asked.well for target, asked in self._targets.items()}
        for descriptor, _ in self._poll.poll(0):
            target = self._of.get(descriptor)
            if target is not None:
                self._hear(self._targets[target])
        now = time.monotonic()
        for target, asked in self._targets.items():
            if asked.sock is not None and now >= asked.since + TIMEOUT:
                self._told(asked, well=None)
            if asked.sock is None and now >= asked.due:
                self._ask(target, asked, now)
        return {target for target, asked in self._targets.items() if asked.well != before[target]}

    def _ask(self, target: Probe, asked: _Asked, now: float) -> None:
        sock = asked.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        asked.began = asked.since = now
        asked.due, asked.sent, asked.heard = now + PERIOD, False, b""
        if sock.connect_ex(target) not in _STARTED:  # unreachable at once: no link, no route
            self._told(asked, well=None)
            return
        self._of[sock.fileno()] = target
        self._poll.register(sock, select.EPOLLOUT)

    def _hear(self, asked: _Asked) -> None:
        sock = asked.sock
        if sock is None:
            return
        try:
            if not asked.sent:
                sock.send(b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
                asked.sent, asked.since = True, time.monotonic()
                self._poll.modify(sock, select.EPOLLIN)
                return
            data = sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            self._told(asked, well=None)
            return
        asked.heard += data
        if len(asked.heard) >= _STATUS_END or not data:
            status = asked.heard[:_STATUS_END]
            self._told(asked, well=status.startswith(_ANSWER) and status.endswith(b" 200"))

    def _told(self, asked: _Asked, *, well: bool | None) -> None:
        """End the question that goes on, and draw the conclusion; None: there was no answer."""
        self._end(asked)
        asked.told = asked.began
        asked.failures = 0 if well else asked.failures + 1
        if well:
            asked.well = True
        elif asked.well is not None:
            asked.well = asked.well and asked.failures < FAILURES
        elif well is False or asked.failures >= FIRST_FAILURES:
            asked.well = False
        else:
            asked.due = min(asked.due, asked.began + SOON)

    def _end(self, asked: _Asked) -> None:
        if asked.sock is not None:
            self._of.pop(asked.sock.fileno(), None)
            asked.sock.close()  # the kernel takes it out of the epoll set
            asked.sock = None

    def close(self) -> None:
        """End all questions."""
        self.want(())
        self._poll.close()
