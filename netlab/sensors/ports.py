"""Source ports that no flow of the same ends had lately, whichever process asks.

The kernel remembers a flow for up to 180 s (nf_conntrack_udp_timeout_stream). A later one of the
same tuple meets no NAT rule, and one whose answers would look alike is given another port. So ports
follow the clock: `PER_SECOND` a second, for each pair of ends, and come again after `RANGE` is
through.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Hashable

PER_SECOND = 100
SINGLE = range(10000, 30000)  # of probes that are looked at one by one: 200 s
MANY = range(32768, 61000)  # of questions asked in bulk, as the kernel has them: 282 s


class Ports:
    """Ports of *numbers*, which begin anew each time these are through."""

    def __init__(self, numbers: range) -> None:
        self._numbers = numbers
        self._last: dict[Hashable, int] = {}
        self._turn = threading.Lock()

    def next(self, ends: Hashable) -> int:
        """Return the next port for a flow between *ends*."""
        with self._turn:
            now = int(time.time() * PER_SECOND)
            last = self._last[ends] = max(self._last.get(ends, 0) + 1, now)
        return self._numbers[last % len(self._numbers)]

    def bind(self, sock: socket.socket, ends: Hashable, *, address: str = "", to: int = 0) -> None:
        """Give *sock* the next port that is free, and is not *to*. Raises OSError."""
        for _ in self._numbers:
            port = self.next(ends)
            if port == to:
                continue  # requests and replies are told from each other by it
            try:
                sock.bind((address, port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
