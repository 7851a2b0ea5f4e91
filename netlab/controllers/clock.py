"""The time as controllers see it, and when somebody must look again though nothing changes."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """One moment, in seconds since the epoch. `next`: the earliest moment anybody waits for."""

    def __init__(self, moment: float | None = None) -> None:
        self.now = time.time() if moment is None else moment
        self.next: float | None = None

    def reached(self, moment: float) -> bool:
        """Return whether *moment* has come; if not, it is waited for."""
        if moment <= self.now:
            return True
        self.next = moment if self.next is None else min(self.next, moment)
        return False

    def after(self, timestamp: object, seconds: float) -> bool:
        """Return whether *seconds* have gone since *timestamp*; an unreadable one is long ago."""
        since = epoch(timestamp)
        return since is None or self.reached(since + seconds)


def epoch(timestamp: object) -> float | None:
    """Return *timestamp* (RFC 3339) in seconds since the epoch, None if it cannot be read."""
    try:
        found = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def stamp(moment: float) -> str:
    """Return seconds since the epoch as Kubernetes writes them, whole seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
