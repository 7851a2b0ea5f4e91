"""One client of a container's TCP or SCTP port, and what it is answered.

HTTP gets a JSON document for each request; anything else gets a JSON line at its first bytes and
for each further line; a client that says nothing gets the line after `SILENCE`. Whatever arrives,
memory per client is bounded: `HEAD_BYTES` in, `PENDING_BYTES` out.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable
from typing import Protocol

SILENCE = 0.2  # seconds until a client that says nothing is answered
IDLE = 30.0  # seconds until a client that says nothing more is left
LINGER = 2.0  # seconds a client may take to close after we have
HEAD_BYTES = 16384  # an HTTP request's head; longer is refused with 431
LINES_AT_ONCE = 256  # of what one read brought are answered
LINE_BYTES = 4096  # an unfinished line; longer is forgotten up to its end
PENDING_BYTES = 65536  # answers waiting; above it no more is read
SHOWN_BYTES = 128  # of a request, shown in its answer

_METHODS = tuple(
    f"{method} ".encode()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
)
_SHOWN = bytes(b if 0x20 <= b < 0x7F or b > 0xA0 else 0x2E for b in range(256))  # others: a dot

Facts = dict[str, str]  # pod, namespace, container, node, hostname
Endpoint = tuple[str, int]


class Loop(Protocol):
    """What a conversation needs of the loop it lives in."""

    def now(self) -> float: ...
    def watch(self, fd: int, ready: Callable[[int], None], events: int) -> None: ...
    def rewatch(self, fd: int, events: int) -> None: ...
    def forget(self, fd: int) -> None: ...


def answer(
    facts: Facts, protocol: str, *, client: Endpoint, server: Endpoint, request: bytes
) -> bytes:
    """Return the JSON line that tells a client who answered and whom that one saw.

    What was asked comes first: there, sensors look for the token of a probe (`sensors/sieve`).
    """
    document = {
        "request": request[:SHOWN_BYTES].translate(_SHOWN).decode("latin-1"),
        **facts,
        "client": client[0],
        "clientPort": client[1],
        "server": server[0],
        "serverPort": server[1],
        "protocol": protocol,
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


class Channel:
    """A non-blocking stream whose unsent bytes wait here, and hold reading back when many."""

    __slots__ = ("_events", "ended", "loop", "pending", "sock")

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.loop = loop
        self.sock = sock
        self.pending = bytearray()
        self.ended = False  # the other side has finished sending
        self._events = select.EPOLLIN
        sock.setblocking(False)
        loop.watch(sock.fileno(), self.ready, self._events)

    @property
    def open(self) -> bool:
        return self.sock.fileno() >= 0

    def ready(self, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self.flush()
                if self.open and not self.pending:
                    self.drained()
            if events & ~select.EPOLLOUT and self.open:
                if self.ended:  # only an error or a hang-up can wake us now
                    self.close()
                else:
                    data = self.sock.recv(65536)
                    self.ended = not data
                    self.received(data)
        except BlockingIOError:
            pass
        except OSError:  # the client is gone
            self.close()

    def received(self, data: bytes) -> None:
        """Bytes have come; none: the other side has finished sending."""
        raise NotImplementedError

    def drained(self) -> None:
        """What had to wait has been sent."""

    def send(self, data: bytes) -> None:
        self.pending += data
        self.flush()

    def flush(self) -> None:
        """Send as much as goes; watch for what is possible next. Raises OSError."""
        try:
            while self.pending:
                sent = self.sock.send(self.pending)
                del self.pending[:sent]
        except BlockingIOError:
            pass
        full = self.ended or len(self.pending) > PENDING_BYTES
        events = (0 if full else select.EPOLLIN) | (select.EPOLLOUT if self.pending else 0)
        if events != self._events:
            self._events = events
            self.loop.rewatch(self.sock.fileno(), events)

    def close(self) -> None:
        if self.open:
            self.loop.forget(self.sock.fileno())
            self.sock.close()


class Conversation(Channel):
    """A client of a container's port. *closed* is called once when it is over."""

    __slots__ = (
        "_buffer",
        "_closed",
        "_facts",
        "_mode",
        "_protocol",
        "_server",
        "_skip",
        "last",
        "peer",
    )

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        peer: Endpoint,
        *,
        facts: Facts,
        protocol: str,
        closed: Callable[[Conversation], None],
    ) -> None:
        self.peer = peer
        self.last = loop.now()  # when something last came
        self._server: Endpoint = sock.getsockname()[:2]
        self._facts = facts
        self._protocol = protocol
        self._closed = closed
        self._buffer = bytearray()
        self._mode = "new"  # then http or plain; at the end, closing
        self._skip = 0  # bytes of an HTTP body to pass over; -1: all up to the end of the line
        super().__init__(loop, sock)

    def silent(self) -> None:
        """`SILENCE` is over: answer a client that has not said what it wants."""
        if self._mode == "new" and self.open:
            try:
                self._begin_plain()
                self.flush()
            except OSError:
                self.close()

    def expired(self, now: float) -> bool:
        return now - self.last > (LINGER if self._mode == "closing" else IDLE)

    def received(self, data: bytes) -> None:
        self.last = self.loop.now()
        if self._mode == "closing":
            data = b""
        self._buffer += data
        if self._mode == "new":
            self._mode = _mode(bytes(self._buffer[:8]), ended=self.ended)
            if self._mode == "plain":
                self._begin_plain()
        elif self._mode == "plain":
            self._lines()
        if self._mode == "http":
            self._requests()
        if self.ended:
            if self._mode == "plain" and self._buffer and self._skip == 0:
                self._say(bytes(self._buffer))
            self._mode = "closing"
        self.flush()

    def flush(self) -> None:
        super().flush()
        if self._mode == "closing" and not self.pending:
            if self.ended:
                self.close()
            else:  # a close with unread bytes would reset what we have just sent
                self.sock.shutdown(socket.SHUT_WR)

    def drained(self) -> None:
        if self._mode == "http":
            self._requests()
            self.flush()

    def _answer(self, request: bytes) -> bytes:
        return answer(
            self._facts, self._protocol, client=self.peer, server=self._server, request=request
        )

    def _say(self, request: bytes) -> None:
        self.pending += self._answer(request)

    def _begin_plain(self) -> None:
        """Answer the first bytes (or none) of a client that does not speak HTTP."""
        self._mode = "plain"
        first, newline, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        self._skip = -1 if first and not newline else 0
        self._say(first + newline)
        self._lines()

    def _lines(self) -> None:
        if self._skip:
            _, newline, rest = bytes(self._buffer).partition(b"\n")
            self._buffer[:] = rest
            self._skip = 0 if newline else -1
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer[:] = rest
        for line in lines[:LINES_AT_ONCE]:
            self._say(line + b"\n")
        if len(self._buffer) > LINE_BYTES:
            self._buffer.clear()
            self._skip = -1

    def _requests(self) -> None:
        """Answer every request that is here whole, as far as the answers can be kept."""
        while self._mode == "http" and self._request():
            if len(self.pending) > PENDING_BYTES:
                super().flush()
                if len(self.pending) > PENDING_BYTES:
                    return

    def _request(self) -> bool:
        """Answer one HTTP/1.x request if its head is here; return whether another may be."""
        passed = min(self._skip, len(self._buffer))
        del self._buffer[:passed]
        self._skip -= passed
        head, end, _ = bytes(self._buffer[: HEAD_BYTES + 4]).partition(b"\r\n\r\n")
        if not end:
            head, end, _ = head.partition(b"\n\n")
        if self._skip or not end:
            if len(self._buffer) > HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")
            return False
        del self._buffer[: len(head) + len(end)]
        self._respond(head)
        return True

    def _respond(self, head: bytes) -> None:
        first, *lines = head.splitlines() or [b""]
        words = first.split()
        fields = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        length = fields.get(b"content-length", b"0")
        version = words[-1] if len(words) == 3 else b""
        if not version.startswith(b"HTTP/1.") or not length.isdigit() or len(length) > 15:
            self._refuse(b"400 Bad Request")
            return
        self._skip = int(length)
        if fields.get(b"expect") == b"100-continue":
            self.pending += b"HTTP/1.1 100 Continue\r\n\r\n"
        wish = fields.get(b"connection", b"")
        stays = b"close" not in wish and b"transfer-encoding" not in fields
        if version == b"HTTP/1.0":
            stays = stays and b"keep-alive" in wish
        body = self._answer(head)
        self.pending += _response(b"200 OK", body, stays=stays, whole=words[0] != b"HEAD")
        if not stays:
            self._mode = "closing"

    def _refuse(self, status: bytes) -> None:
        self.pending += _response(status, b'{"error":"%b"}\n' % status, stays=False)
        self._mode = "closing"

    def close(self) -> None:
        if self.open:
            super().close()
            self._closed(self)


def _mode(start: bytes, *, ended: bool) -> str:
    """Return what a client speaks whose first (at most 8) bytes are *start*."""
    if start.startswith(_METHODS):
        return "http"
    unclear = any(method.startswith(start) for method in _METHODS)
    return "new" if unclear and not ended else "plain"


def _response(status: bytes, body: bytes, *, stays: bool, whole: bool = True) -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n" % (
        status,
        len(body),
        b"Connection: keep-alive\r\n" if stays else b"Connection: close\r\n",
    )
    return head + body if whole else head
