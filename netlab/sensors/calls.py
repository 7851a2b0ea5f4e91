"""Many connections at once: real sockets at both ends, and what came of each.

1. Clients and servers are served by one loop of one thread, so nobody waits for anybody.
2. A server says its name and the client's address as it sees it; so the answer tells who was
   reached and what was done to the source.
3. A refusal by ICMP that comes while connect() is still at work is only in the socket's error
   queue: on veths the answer is there before the system call has ended (net/ipv4/tcp_ipv4.c,
   tcp_v4_err).
4. Silence is known only by waiting. While answers come it is not over; after the last of them
   silence lasts `QUIET`.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections.abc import Hashable
from enum import StrEnum
from typing import NamedTuple

QUIET = 0.4  # seconds without anything new, after which the rest is silence
MOST = 4096  # bytes of an answer or a question
BACKLOG = 512
QUESTION = b"who?\n"
_ECHO = {socket.AF_INET: 8, socket.AF_INET6: 128}  # ICMP and ICMPv6: echo request
_PROTOCOL = {
    "TCP": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "UDP": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "SCTP": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
ICMP = "ICMP"
# IP_RECVERR, IPV6_RECVERR (linux/in.h, linux/in6.h)
_TELL_ERRORS = {
    socket.AF_INET: (socket.IPPROTO_IP, 11),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25),
}
_ERRNO = struct.Struct("I")  # the first field of struct sock_extended_err, linux/errqueue.h
_ICMP = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}


class Came(StrEnum):
    """What came of a call."""

    ANSWER = "answer"
    REFUSAL = "refusal"  # connection refused, port unreachable
    CLOSED = "closed"  # somebody took the connection, and closed it without a word
    SILENCE = "silence"
    UNSENDABLE = "unsendable"  # the caller's own kernel sends no such packet
    UNREACHABLE = "unreachable"  # no route, told by somebody on the way


class Reply(NamedTuple):
    """What came of a call, and of an answer who gave it and which client it saw."""

    came: Came
    server: str = ""
    client: str = ""


_ERRORS = {
    errno.ECONNREFUSED: Came.REFUSAL,
    errno.EINVAL: Came.UNSENDABLE,
    errno.EADDRNOTAVAIL: Came.UNSENDABLE,
    errno.EHOSTUNREACH: Came.UNREACHABLE,
    errno.ENETUNREACH: Came.UNREACHABLE,
}


def spoken(protocol: str) -> bool:
    """Return whether this kernel has sockets of *protocol*: some have none of SCTP."""
    if protocol == ICMP:
        return True
    try:
        socket.socket(socket.AF_INET, *_PROTOCOL[protocol]).close()
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return False
        raise
    return True


class Calls:
    """Servers, and rounds of calls to them. To be closed.

    What is opened is in the namespace that the calling thread is in at that moment.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._listening: dict[int, tuple[str, str, socket.socket]] = {}
        self._accepted: dict[int, socket.socket] = {}
        self._calling: dict[int, tuple[Hashable, str, socket.socket]] = {}
        self._replies: dict[Hashable, list[Reply]] = {}

    def serve(self, name: str, protocol: str, address: str, port: int) -> None:
        """Answer as *name* at *address* and *port*. Raises OSError."""
        kind, number = _PROTOCOL[protocol]
        opened = socket.socket(_family(address), kind | socket.SOCK_NONBLOCK, number)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(BACKLOG)
        self._listening[opened.fileno()] = (name, protocol, opened)
        self._poll.register(opened.fileno(), select.EPOLLIN)

    def call(
        self, key: Hashable, protocol: str, address: str, port: int, *, source: str = ""
    ) -> None:
        """Begin a call whose outcome is told under *key*; ICMP: an echo request."""
        family = _family(address)
        kind, number = _PROTOCOL.get(protocol) or (socket.SOCK_DGRAM, _ICMP[family])
        opened = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
        opened.setsockopt(*_TELL_ERRORS[family], 1)
        try:
            if source:
                opened.bind((source, 0))
            opened.connect((address, port))
        except BlockingIOError:
            pass
        except OSError as error:
            opened.close()
            self._note(key, Reply(_came(error)))
            return
        wanted = select.EPOLLIN
        if kind == socket.SOCK_DGRAM:
            echo = bytes((_ECHO[family], 0, 0, 0, 0, 0, 0, 1)) + QUESTION
            try:
                opened.send(echo if protocol == ICMP else QUESTION)
            except PermissionError:
                pass  # its own host's rules took it; if they refuse, they also tell
            except OSError as error:
                opened.close()
                self._note(key, Reply(_came(error)))
                return
        self._calling[opened.fileno()] = (key, protocol, opened)
        self._poll.register(opened.fileno(), wanted)

    def replies(self, *, quiet: float = QUIET) -> dict[Hashable, list[Reply]]:
        """Return what came of all calls begun since the last time, by their keys."""
        last = time.monotonic()
        while self._calling:
            events = self._poll.poll(quiet)
            if sum(self._serve_event(number) for number, _ in events):
                last = time.monotonic()
            elif time.monotonic() - last >= quiet:
                break
        for number in list(self._calling):
            self._end(number, Reply(Came.SILENCE))
        found, self._replies = self._replies, {}
        return found

    def close(self) -> None:
        """End all servers and calls."""
        for _, _, one in (*self._listening.values(), *self._calling.values()):
            one.close()
        for one in self._accepted.values():
            one.close()
        self._poll.close()

    def _serve_event(self, number: int) -> bool:
        """Do what *number* is ready for; return whether a call has ended by it."""
        if number in self._listening:
            self._answer(*self._listening[number])
        elif number in self._accepted:
            self._hung_up(number)
        elif number in self._calling:
            return self._heard(number)
        return False

    def _answer(self, name: str, protocol: str, opened: socket.socket) -> None:
        while True:
            try:
                if protocol == "UDP":
                    _, client = opened.recvfrom(MOST)
                    opened.sendto(_said(name, client[0]), client)
                    continue
                connection, client = opened.accept()
            except BlockingIOError:
                return
            except OSError:
                continue  # a client that is gone, an error of an answer before
            connection.setblocking(False)
            try:
                connection.send(_said(name, client[0]))
            except OSError:
                connection.close()
                continue
            self._accepted[connection.fileno()] = connection
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def _hung_up(self, number: int) -> None:
        self._poll.unregister(number)
        self._accepted.pop(number).close()

    def _heard(self, number: int) -> bool:
        _, protocol, opened = self._calling[number]
        try:
            data = opened.recv(MOST)
        except BlockingIOError:
            return self._told(number)
        except OSError as error:
            self._end(number, Reply(_came(error)))
            return True
        if protocol == ICMP:
            reply = Reply(Came.ANSWER)
        elif data:
            server, _, client = data.decode().partition(" ")
            reply = Reply(Came.ANSWER, server, client)
        else:
            reply = Reply(Came.CLOSED)
        self._end(number, reply)
        return True

    def _told(self, number: int) -> bool:
        """Return whether the error queue says that a call has ended."""
        _, _, opened = self._calling[number]
        try:
            _, extra, _, _ = opened.recvmsg(MOST, MOST, socket.MSG_ERRQUEUE)
        except OSError:
            return False
        codes = [
            _ERRNO.unpack_from(data)[0]
            for level, kind, data in extra
            if (level, kind) == _TELL_ERRORS[socket.AddressFamily(opened.family)]
        ]
        if not codes:
            return False
        self._end(number, Reply(_came(OSError(codes[0], "told by ICMP"))))
        return True

    def _end(self, number: int, reply: Reply) -> None:
        key, _, opened = self._calling.pop(number)
        self._poll.unregister(number)
        opened.close()
        self._note(key, reply)

    def _note(self, key: Hashable, reply: Reply) -> None:
        self._replies.setdefault(key, []).append(reply)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _said(name: str, client: str) -> bytes:
    return f"{name} {client}".encode()


def _came(error: OSError) -> Came:
    if error.errno in _ERRORS:
        return _ERRORS[error.errno]
    if error.errno in (errno.ECONNRESET, errno.EPIPE):
        return Came.REFUSAL
    raise error
