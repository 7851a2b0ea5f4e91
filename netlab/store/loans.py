"""What is kept here for other machines, under names of theirs, until they end or forget it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from netlab import patience

KEPT = patience.seconds(60.0)  # seconds: what nobody has asked for so long is forgotten
T = TypeVar("T")


class Loans(Generic[T]):
    """Things by name. For several threads; a thing is ended by one of them, and by no lock held."""

    def __init__(self, end: Callable[[T], None]) -> None:
        """*end*: what ends one."""
        self._end = end
        self._lock = threading.Lock()
        self._things: dict[str, T] = {}
        self._asked: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._things)

    def lend(self, name: str, thing: T) -> None:
        """Keep *thing* from now on."""
        with self._lock:
            self._things[name], self._asked[name] = thing, time.monotonic()

    def asked(self, name: str) -> T | None:
        """Return the thing of that name, which so is not forgotten; None when it has ended."""
        with self._lock:
            if name in self._things:
                self._asked[name] = time.monotonic()
            return self._things.get(name)

    def end(self, name: str) -> None:
        """End the thing of that name, if it has not ended."""
        with self._lock:
            thing = self._things.pop(name, None)
            self._asked.pop(name, None)
        if thing is not None:
            self._end(thing)

    def tidy(self) -> None:
        """End what was forgotten."""
        now = time.monotonic()
        with self._lock:
            forgotten = [name for name, asked in self._asked.items() if now - asked > KEPT]
        for name in forgotten:
            self.end(name)

    def close(self) -> None:
        """End all."""
        for name in list(self._things):
            self.end(name)
