"""Which nodes are heard from, which are lost, and of which nobody can say yet.

A node whose key goes while others' stay is lost: etcd has waited for it long enough. But whoever
has just begun to look, or heard nobody at all for a while, gives every node its time again.
Source: kube-controller-manager pkg/controller/nodelifecycle (v1.34), monitorNodeHealth and
handleDisruption.
"""

from __future__ import annotations

from collections.abc import Collection

from netlab.controllers import Health


class Liveness:
    """What is known of the nodes. Times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # by node: the end of the benefit of the doubt
        self._silent = True
        self.due: float | None = None  # when somebody's benefit ends

    def health(
        self, nodes: Collection[str], alive: Collection[str], *, grace: float, now: float
    ) -> Health:
        """Return the health of *nodes*, given whose keys are there *now*."""
        heard = frozenset(nodes) & frozenset(alive)
        if (self._silent and heard) or not self._until:
            self._until = dict.fromkeys(nodes, now + grace)
        self._silent = not heard
        for name in nodes:
            if name in heard:
                self._until[name] = 0.0
            else:
                self._until.setdefault(name, now + grace)  # it has just been declared
        waiting = [t for name in nodes if name not in heard and (t := self._until[name]) > now]
        self.due = min(waiting, default=None)
        lost = frozenset(name for name in nodes if name not in heard and self._until[name] <= now)
        return Health(heard, lost)
