"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK = 0.002  # seconds between looks


def until(condition: Callable[[], bool], *, within: float) -> bool:
    """Return whether *condition* became true within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK)
    return True
