"""epoll and timers, for one thread."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from itertools import count

Ready = Callable[[int], None]  # gets the events


class Timer:
    """Something to be done later; nothing once it is cancelled."""

    __slots__ = ("due",)

    def __init__(self, due: Callable[[], None] | None) -> None:
        self.due = due

    def cancel(self) -> None:
        self.due = None


class Loop:
    """What is ready, and what is due."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = count()

    def now(self) -> float:
        return time.monotonic()

    def watch(self, fd: int, ready: Ready, events: int) -> None:
        self._ready[fd] = ready
        self._epoll.register(fd, events)

    def rewatch(self, fd: int, ready: Ready, events: int) -> None:
        self._ready[fd] = ready
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        del self._ready[fd]
        self._epoll.unregister(fd)

    def after(self, seconds: float, due: Callable[[], None]) -> Timer:
        """Have *due* called in so many seconds."""
        timer = Timer(due)
        heapq.heappush(self._timers, (self.now() + seconds, next(self._number), timer))
        return timer

    def turn(self, until: float) -> None:
        """Serve whoever is ready, waiting for it until *until* at the latest."""
        first = min(until, self._timers[0][0]) if self._timers else until
        told = self._epoll.poll(max(0.0, first - self.now()))
        for fd, events, ready in [(fd, events, self._ready.get(fd)) for fd, events in told]:
            # One before may have closed it, and another may have got its number: what is still so
            # is told again by the next turn.
            if ready is not None and self._ready.get(fd) is ready:
                ready(events)
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.due is not None:
                timer.due()
