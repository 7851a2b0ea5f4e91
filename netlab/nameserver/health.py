"""/ready and /health over HTTP, for the kubelet's probes: CoreDNS's plugins of these names."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from netlab.pods.conversation import Channel, Loop

PORT = 8181  # of CoreDNS's plugin ready
HEAD_MAX = 16384  # bytes of a request


class Health:
    """A listening socket: /health is always well, /ready once *ready* says so."""

    def __init__(self, loop: Loop, sock: socket.socket, ready: Callable[[], bool]) -> None:
        self._loop = loop
        self._sock = sock
        self._is_ready = ready
        loop.watch(sock.fileno(), self._accept, select.EPOLLIN)

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        _Request(self._loop, sock, self.status)

    def status(self, path: str) -> tuple[str, str]:
        """Return status and body for *path*."""
        if path == "/health" or (path == "/ready" and self._is_ready()):
            return "200 OK", "OK"
        if path == "/ready":
            return "503 Service Unavailable", "kubernetes"
        return "404 Not Found", ""


class _Request(Channel):
    """One request; the connection ends with its answer."""

    __slots__ = ("_buffer", "_status")

    def __init__(
        self, loop: Loop, sock: socket.socket, status: Callable[[str], tuple[str, str]]
    ) -> None:
        self._buffer = bytearray()
        self._status = status
        super().__init__(loop, sock)

    def received(self, data: bytes) -> None:
        self._buffer += data
        if not data or len(self._buffer) > HEAD_MAX:
            self.close()
        elif b"\r\n\r\n" in self._buffer:
            words = bytes(self._buffer).split(b" ", 2)
            status, body = self._status(words[1].decode("latin-1") if len(words) > 1 else "")
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.send((head + body).encode())
            self.close()
