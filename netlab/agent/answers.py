"""One thread that answers HTTP on any number of ports, each with one answer whatever is asked.

1. Whoever sets an answer does not wait for clients, and clients see what was set last at once.
2. Anybody may connect: a client has `LIFE` to ask and to listen and `HEAD_BYTES` to ask in, and
   when there are `MOST_CLIENTS` the oldest makes room. So the honest, who are quick, are served.
3. An answer ends its connection; what is sent after the request is read and ignored for a while,
   since closing on it would take the answer back (RFC 9112, 9.6).
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import threading
import time
from collections.abc import Collection, Hashable, Mapping
from contextlib import suppress
from http import HTTPStatus

import msgspec

LIFE = 5.0  # seconds from a client's connection to its end
HEAD_BYTES = 8192  # of a request
IGNORED_BYTES = 1 << 20  # of what comes after it
MOST_CLIENTS = 256
PAUSE = 0.05  # seconds without new clients, when there is no descriptor left for one

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) [!-~]+ HTTP/1\.[0-9]\r?\n")
_END = re.compile(rb"\n\r?\n")
_UNPRINTABLE = re.compile(rb"[^ -~]")  # a line's end too
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Answer(msgspec.Struct, frozen=True):
    """What clients of one port are told."""

    status: int
    headers: Mapping[str, str]
    body: str


def reply(head: bytes, answer: Answer) -> bytes | None:
    """Return what a client is sent that has sent *head* so far; None: there must come more.

    What cannot become a request of HTTP/1 is told so. Any method and path will do.
    """
    asked = head.lstrip(b"\r\n")  # RFC 9112, 2.2
    line = _REQUEST.match(asked)
    if line is None and _UNPRINTABLE.search(asked.rstrip(b"\r")):
        return _error(HTTPStatus.BAD_REQUEST)
    if line is not None and _END.search(asked, line.end() - 1):
        return _written(answer, with_body=line[1] != b"HEAD")
    if len(head) > HEAD_BYTES:
        return _error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    return None


def _error(status: HTTPStatus) -> bytes:
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    return _written(Answer(status, headers, f"{status} {status.phrase}\n"), with_body=True)


def _written(answer: Answer, *, with_body: bool) -> bytes:
    body = answer.body.encode()
    headers = {
        **answer.headers,
        "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
    return head + body if with_body else head


class _Port:
    """A listening socket and what its clients are told."""

    __slots__ = ("answer", "sock")

    def __init__(self, sock: socket.socket, answer: Answer) -> None:
        self.sock = sock
        self.answer = answer


class _Client:
    """A connection: what it has sent, and whether it was answered."""

    __slots__ = ("answered", "end", "head", "ignored", "port", "sock")

    def __init__(self, sock: socket.socket, port: _Port) -> None:
        self.sock = sock
        self.port = port
        self.end = time.monotonic() + LIFE
        self.head = b""
        self.answered = False
        self.ignored = 0  # bytes


class Answers:
    """The ports that are answered, by names of the caller's choice. `close` ends the thread."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)
        self._lock = threading.Lock()  # of all below; never held while anybody waits
        self._ports: dict[Hashable, _Port] = {}
        self._listening: dict[int, _Port] = {}  # by descriptor
        self._clients: dict[int, _Client] = {}  # by descriptor, the oldest first
        self._full = False  # no descriptor was left for a client
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="netlab-answers", daemon=True)
        self._thread.start()

    @property
    def names(self) -> Collection[Hashable]:
        """The ports that are open."""
        return self._ports.keys()

    def open(self, name: Hashable, sock: socket.socket, answer: Answer) -> None:
        """Answer the clients of a listening socket, which is ours from now on."""
        sock.setblocking(False)
        with self._lock:
            port = self._ports[name] = self._listening[sock.fileno()] = _Port(sock, answer)
            self._poll.register(port.sock, select.EPOLLIN)

    def say(self, name: Hashable, answer: Answer) -> None:
        """Let the port give another answer."""
        with self._lock:
            self._ports[name].answer = answer

    def shut(self, name: Hashable) -> None:
        """Close the port, and the connections it has."""
        with self._lock:
            port = self._ports.pop(name)
            for client in [one for one in self._clients.values() if one.port is port]:
                self._drop(client)
            del self._listening[port.sock.fileno()]
            self._poll.unregister(port.sock)
            port.sock.close()

    def close(self) -> None:
        """Close all ports and end the thread."""
        for name in list(self._ports):
            self.shut(name)
        self._ended = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._poll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while not self._ended:
            events = self._poll.poll(self._patience())
            with self._lock:
                # One that was closed meanwhile may be among them, or its number be another's by
                # now: asking a socket in vain does no harm.
                ready = [descriptor for descriptor, _ in events]
                for client in [self._clients[one] for one in ready if one in self._clients]:
                    self._hear(client)
                for port in [self._listening[one] for one in ready if one in self._listening]:
                    self._accept(port)
                self._part()
            if self._full:
                time.sleep(PAUSE)

    def _patience(self) -> float | None:
        """Return the seconds until the oldest client's time is over; None: there is none."""
        with self._lock:
            end = self._oldest().end if self._clients else None
        return None if end is None else max(0.0, end - time.monotonic())

    def _part(self) -> None:
        """Close the connections whose time is over."""
        now = time.monotonic()
        while self._clients and self._oldest().end <= now:
            self._drop(self._oldest())

    def _accept(self, port: _Port) -> None:
        """Take in one client; whoever is next is told of again. Where there is no room, make it."""
        if len(self._clients) >= MOST_CLIENTS:
            self._drop(self._oldest())
        sock = self._accepted(port)
        if sock is None and self._full and self._clients:
            self._drop(self._oldest())
            sock = self._accepted(port)
        if sock is not None:
            sock.setblocking(False)
            self._clients[sock.fileno()] = _Client(sock, port)
            self._poll.register(sock, select.EPOLLIN)

    def _accepted(self, port: _Port) -> socket.socket | None:
        """Return a new connection, None: there is none, or no descriptor for it (`_full`)."""
        try:
            sock, _ = port.sock.accept()
        except OSError as error:  # it went away, or
            self._full = error.errno in _FULL
            return None
        self._full = False
        return sock

    def _oldest(self) -> _Client:
        return next(iter(self._clients.values()))

    def _hear(self, client: _Client) -> None:
        try:
            data = client.sock.recv(HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
        elif client.answered:
            client.ignored += len(data)
            if client.ignored > IGNORED_BYTES:
                self._drop(client)
        else:
            client.head += data
            told = reply(client.head, client.port.answer)
            if told is not None:
                self._tell(client, told)

    def _tell(self, client: _Client, told: bytes) -> None:
        """Send an answer; it is small, and a new connection has room for it."""
        try:
            sent = client.sock.send(told)
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            sent = 0
        client.answered = True
        client.head = b""
        if sent < len(told):
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.sock.fileno()]
        with suppress(OSError):
            self._poll.unregister(client.sock)
        client.sock.close()
