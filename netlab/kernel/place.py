"""One namespace while a plan is carried out: its descriptor, its socket, what waits to be sent."""

from __future__ import annotations

import os
import socket

from netlab.kernel import links, netlink
from netlab.objects import PEER_GROUP
from netlab.plan import Op

INDEX_GAP = 64  # links that others may make in a namespace while a batch is under way


class Place:
    """One namespace of a batch: its descriptor, its socket, and what waits to be sent."""

    __slots__ = (
        *("_far_ends", "_indexes", "_next", "_outdated"),
        *("descriptor", "doomed", "name", "ops", "requests", "socket"),
    )

    def __init__(self, name: str, descriptor: int, *, fresh: bool) -> None:
        """The calling thread is inside. *fresh*: just made, so there is nothing but lo."""
        self.name = name
        self.descriptor = descriptor
        self.socket = netlink.Socket()
        self.requests: list[bytes] = []
        self.ops: list[Op] = []
        self.doomed: list[tuple[int, Op]] = []
        self._indexes: dict[str, int] = {"lo": links.LOOPBACK}
        self._next = links.LOOPBACK + 1 if fresh else 0
        self._far_ends: set[str] = set()
        self._outdated = not fresh

    def close(self) -> None:
        self.socket.close()
        os.close(self.descriptor)

    @property
    def waiting(self) -> bool:
        return bool(self.requests or self.doomed)

    def index(self, link: str) -> int | None:
        """Return the index of a link, also of one whose message still waits; None: no such."""
        if link not in self._indexes and self._outdated:
            self._look()
        return self._indexes.get(link)

    def new_index(self, link: str) -> int:
        """Return a free index, from now on that of *link*."""
        if not self._next:
            self._look()
        index = self._indexes[link] = self._next
        self._next += 1
        return index

    def found(self, link: str) -> int:
        """Return the index of a link that was just made otherwise than by a message."""
        self._indexes[link] = socket.if_nametoindex(link)
        return self._indexes[link]

    def new_far_index(self, link: str) -> int:
        """Return the index for a far end to be made from elsewhere; 0: let the kernel choose."""
        if self._next and not self._outdated:
            return self.new_index(link)
        self._indexes.pop(link, None)
        self._outdated = True
        return 0

    def left_over(self, link: str) -> int | None:
        """Return the index of a far end of netlab's whose cable should be gone, if there is one.

        The kernel takes its time to free a namespace, and waits for its last process; until then
        the far ends of its cables are still there.
        """
        index = self.index(link)
        return index if link in self._far_ends else None

    def forget(self, link: str) -> None:
        self._indexes.pop(link, None)
        self._far_ends.discard(link)

    def _look(self) -> None:
        every = [links.link(body) for body in self.socket.dump(links.GET, links.DUMP_BODY)]
        for link in every:
            self._indexes.setdefault(link.name, link.ifindex)
            if link.group == PEER_GROUP:
                self._far_ends.add(link.name)
        self._next = max(self._next, max(link.ifindex for link in every) + INDEX_GAP)
        self._outdated = False

    def queue(self, op: Op, *requests: bytes) -> None:
        self.requests += requests
        for _ in requests:
            self.ops.append(op)
