"""Just enough HTTP/1.1 for etcd's JSON gateway: one kept connection, one request at a time.

http.client would do, but its e-mail parser costs more than etcd's answer takes, and a watch needs
the bare socket for poll(2).
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from netlab import patience

if TYPE_CHECKING:  # ssl takes as long to load as all that is here
    from ssl import SSLContext

CHUNK = 1 << 18  # bytes asked of the kernel at once
CONNECT_WITHIN = patience.seconds(0.7)  # a lost SYN is sent again after 1 s: a fresh one is quicker
PROBE_AFTER = 1  # seconds a peer may be silent before the kernel asks whether it lives
GIVE_UP_AFTER = 1000  # ms of unanswered bytes or probes; with PROBE_AFTER a cut is seen in 1-2 s


class Stale(OSError):
    """The kept connection was closed by the peer before it answered anything."""


class Server(NamedTuple):
    """Whom to connect to: whoever of *addresses* answers first, in their order."""

    addresses: tuple[tuple[str, int], ...]
    tls: SSLContext | None = None


def request_bytes(
    host: str, method: str, path: str, body: bytes, *, last: bool, token: str = ""
) -> bytes:
    """Return a whole HTTP request; *last* asks the server to close after its answer. *token*: what
    tells the server who asks."""
    extra = ("Connection: close\r\n" if last else "") + (
        f"Authorization: {token}\r\n" if token else ""
    )
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def opened(server: Server, timeout: float) -> socket.socket:
    """Return a TCP connection, made in the calling thread's network namespace. Raises OSError."""
    *others, last = server.addresses
    for address in others:
        try:
            return _opened(address, server.tls, timeout)
        except OSError:
            continue
    return _opened(last, server.tls, timeout)


def _opened(address: tuple[str, int], tls: SSLContext | None, timeout: float) -> socket.socket:
    sock = socket.create_connection(address, timeout=min(timeout, CONNECT_WITHIN))
    sock.settimeout(timeout)
    if tls is not None:
        try:
            sock = tls.wrap_socket(sock, server_hostname=address[0])
        except OSError:
            sock.close()
            raise
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVE_UP_AFTER),
    ):
        sock.setsockopt(level, option, value)
    return sock


class Reader:
    """What arrives on a socket, cut into lines and counted bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.buffer = bytearray()
        self.received = 0  # bytes

    def more(self) -> None:
        """Wait for bytes. Raises OSError: TimeoutError, or ConnectionError at the stream's end."""
        data = self._sock.recv(CHUNK)
        if not data:
            raise ConnectionError("connection closed by the peer")
        self.buffer += data
        self.received += len(data)

    def line(self) -> bytes:
        """Return the next line without its CR LF."""
        while (end := self.buffer.find(b"\r\n")) < 0:
            self.more()
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        return line

    def exactly(self, count: int) -> bytes:
        """Return the next *count* bytes."""
        while len(self.buffer) < count:
            self.more()
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Return status and header fields (names in lower case) of the next response."""
        parts = self.line().split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise ConnectionError("the answer is not HTTP")
        fields: dict[bytes, bytes] = {}
        while line := self.line():
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        return int(parts[1]), fields

    def chunk(self) -> bytes:
        """Return the next chunk of a chunked body; b"" is the last one."""
        size = self.line().partition(b";")[0]
        try:
            count = int(size, 16)
        except ValueError:
            raise ConnectionError("the answer is badly chunked") from None
        data = self.exactly(count)
        self.line()
        return data

    def body(self, fields: dict[bytes, bytes]) -> bytes:
        """Return the whole body that belongs to header *fields*."""
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            return b"".join(iter(self.chunk, b""))
        try:
            return self.exactly(int(fields.get(b"content-length", b"0")))
        except ValueError:
            raise ConnectionError("the answer's length is no number") from None


class Chunks:
    """A chunked body that arrives piece by piece, on a socket that nobody waits for."""

    def __init__(self, begun: bytes = b"") -> None:
        self._buffer = bytearray(begun)

    def take(self, data: bytes = b"") -> bytes:
        """Return what *data* adds to the body. Raises ConnectionError at its end."""
        self._buffer += data
        body = bytearray()
        at = 0
        while (end := self._buffer.find(b"\r\n", at)) >= 0:
            try:
                size = int(self._buffer[at:end].partition(b";")[0], 16)
            except ValueError:
                raise ConnectionError("the answer is badly chunked") from None
            if not size:
                raise ConnectionError("ended by the peer")
            if len(self._buffer) < end + size + 4:
                break
            body += self._buffer[end + 2 : end + 2 + size]
            at = end + size + 4
        del self._buffer[:at]
        return bytes(body)


class Connection:
    """One kept HTTP connection, opened when first needed, reopened once when found closed.

    `opened` counts the connections made so far: a server that was restarted in between cannot
    hide behind an equal count.
    """

    def __init__(self, server: Server, *, timeout: float) -> None:
        self.server, self.timeout = server, timeout
        self.opened = 0
        self._sock: socket.socket | None = None

    def close(self) -> None:
        """Close the connection; the next exchange opens another."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def exchange(
        self, method: str, path: str, body: bytes = b"", *, token: str = ""
    ) -> tuple[int, bytes]:
        """Return (status, body) of the answer. Raises OSError; the timeout is per wait, in s."""
        host = self.server.addresses[0][0]
        request = request_bytes(host, method, path, body, last=False, token=token)
        if self._sock is not None:
            try:
                return self._answer(self._sock, request)
            except Stale:
                pass
        return self._answer(self._opened(), request)

    def _opened(self) -> socket.socket:
        self._sock = opened(self.server, self.timeout)
        self.opened += 1
        return self._sock

    def _answer(self, sock: socket.socket, request: bytes) -> tuple[int, bytes]:
        reader = Reader(sock)
        began = time.monotonic()
        try:
            sock.sendall(request)
            status, fields = reader.head()
            body = reader.body(fields)
        except OSError as error:
            self.close()
            # A wait that ran out must not be followed by another: the caller was promised one.
            if not reader.received and time.monotonic() - began < self.timeout / 2:
                raise Stale(error.errno, str(error)) from error
            raise
        if fields.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, body
