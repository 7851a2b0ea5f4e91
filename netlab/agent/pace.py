"""How long the lab takes to follow a change: from when etcd told of it to the last node's rules."""

from __future__ import annotations

import time
from typing import Any


class Pace:
    """One stopwatch. Not for threads at once: the blackboard calls it under its own lock."""

    def __init__(self) -> None:
        self._heard: float | None = None  # when etcd told of what is not published yet
        self._moving: float | None = None  # since when the lab follows a change
        self._changed: float | None = None  # when the last one that was followed had come
        self._took: float | None = None  # seconds until all had followed it

    def heard(self) -> None:
        """Etcd told of something; that it concerns a node is known when it is published."""
        if self._heard is None:
            self._heard = time.time()

    def published(self, *, moves: bool) -> None:
        """What was heard is known to the nodes now; *moves*: it concerns one."""
        if moves and self._moving is None:
            self._moving = self._heard if self._heard is not None else time.time()
        self._heard = None

    @property
    def moving(self) -> bool:
        return self._moving is not None

    def agreed(self) -> None:
        """All nodes follow what was published."""
        if self._moving is not None:
            self._changed, self._took = self._moving, time.time() - self._moving
            self._moving = None

    def told(self) -> dict[str, Any]:
        """Return the last change (seconds since the epoch), how many seconds all nodes took to
        follow it, and for how many they have been following one now; null where there is none."""
        moving = None if self._moving is None else round(time.time() - self._moving, 4)
        took = None if self._took is None else round(self._took, 4)
        changed = self._changed if self._moving is None else self._moving
        return {"changed": changed, "seconds": took, "converging": moving}
