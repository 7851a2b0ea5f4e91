"""Which endpoint comes next: round robin, and the one a client had, under ClientIP affinity.

As upstream's, but for two things: a client's affinity goes with its endpoint alone, whatever else
changes; and what no client has used for its time is forgotten without being asked for.
Source: kubernetes pkg/proxy/userspace/roundrobin.go, NextEndpoint (v1.25).
"""

from __future__ import annotations

import random
from collections.abc import Collection

Endpoint = tuple[str, int]


class Rotation:
    """The endpoints of one port of a Service; none before the first `declare`."""

    __slots__ = ("_clients", "_next", "affinity", "endpoints")

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self.affinity = 0
        self._next = 0
        self._clients: dict[str, tuple[Endpoint, float]] = {}  # by last use, the oldest first

    def declare(self, endpoints: Collection[Endpoint], affinity: int) -> None:
        """Have these *endpoints*; *affinity*: seconds a client stays at one, 0: it does not.

        Where the endpoints are others than before they are shuffled, lest every node begin with
        the same one.
        """
        self.affinity = affinity
        if set(endpoints) != set(self.endpoints):
            self.endpoints = list(endpoints)
            random.shuffle(self.endpoints)
            self._next = 0
        held = self._clients.items() if affinity else ()
        self._clients = {client: one for client, one in held if one[0] in self.endpoints}

    def next(self, client: str, now: float, *, again: bool = False) -> Endpoint | None:
        """Return where *client*, an address, is sent at *now* (monotonic); None: there is nowhere.

        *again*: the one before did not answer, so what the client had does not count.
        """
        if not self.endpoints:
            return None
        held = self._clients.pop(client, None) if self.affinity else None
        if held is not None and not again and now - held[1] < self.affinity:
            endpoint = held[0]
        else:
            endpoint = self.endpoints[self._next % len(self.endpoints)]
            self._next = (self._next + 1) % len(self.endpoints)
        if self.affinity:
            self._clients[client] = (endpoint, now)
            self._forget(now)
        return endpoint

    def leave(self, client: str) -> None:
        """Have *client* go to whichever endpoint comes next."""
        self._clients.pop(client, None)

    def _forget(self, now: float) -> None:
        while self._clients:
            oldest = next(iter(self._clients))
            if now - self._clients[oldest][1] < self.affinity:
                return
            del self._clients[oldest]
