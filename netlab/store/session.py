"""A client of etcd and a watch, opened together when they are needed, and closed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netlab.store.etcd import EVERYTHING, Etcd
from netlab.store.watch import Watch

Drain = Callable[[], bool | None]  # reads what is there; False: it is nothing to look again for


class Session:
    """For one thread, whose namespace it is opened in. `watch` is None while it is closed."""

    def __init__(self, prefixes: Sequence[str] = EVERYTHING) -> None:
        """*prefixes*: of the keys that are watched."""
        self.etcd: Etcd | None = None
        self.watch: Watch | None = None
        self._prefixes = prefixes

    def open(self, connect: Callable[[], Etcd]) -> Etcd:
        """Return the client, made by *connect* if there is none, and watch. Raises StoreError."""
        if self.etcd is None or self.watch is None:
            self.close()
            self.etcd = connect()
            self.watch = self.etcd.watch(self._prefixes)
        return self.etcd

    def watched(self, drain: Drain) -> dict[int, Drain]:
        """Return the descriptor that is readable when something changed, with *drain*."""
        return {} if self.watch is None else {self.watch.fileno(): drain}

    def drain(self) -> bool:
        """Read what the watch tells, as `Watch.drain`. Raises StoreError when it has ended."""
        assert self.watch is not None
        return self.watch.drain()

    def close(self) -> None:
        for connection in (self.watch, self.etcd):
            if connection is not None:
                connection.close()
        self.watch = self.etcd = None
