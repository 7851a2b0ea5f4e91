"""Queries that come over UDP and TCP, answered now or later."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Protocol

from netlab.dns.answers import Answers, Forward, failure
from netlab.pods.conversation import Channel, Loop
from netlab.pods.listening import IP_PKTINFO

DATAGRAMS_AT_ONCE = 64  # then the others get their turn
CLIENTS_MAX = 1000  # over TCP
IDLE = 10.0  # seconds until a client that asks nothing is left: RFC 7766, 6.2.3
Say = Callable[[bytes], None]


class Others(Protocol):
    """Whom questions are passed on to."""

    def ask(self, asked: bytes, forward: Forward, *, stream: bool, say: Say) -> None:
        """Have *say* called with the answer to *asked*, sooner or later."""


class Nobody:
    """No others: what one does not know, nobody is asked about."""

    def ask(self, asked: bytes, forward: Forward, *, stream: bool, say: Say) -> None:
        say(failure(asked, forward.query))


class Service:
    """Answers and others, to be changed while sockets serve."""

    def __init__(self, answers: Answers, others: Others) -> None:
        self.answers = answers
        self.others = others


class Datagrams:
    """A UDP socket; each answer leaves from the address that was asked."""

    def __init__(self, loop: Loop, sock: socket.socket, service: Service) -> None:
        self._loop = loop
        self._sock = sock
        self._service = service
        loop.watch(sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        receive, send, service = self._sock.recvmsg, self._sock.sendmsg, self._service
        answer = service.answers.answer
        for _ in range(DATAGRAMS_AT_ONCE):
            try:
                asked, ancillary, _, peer = receive(65535, 64)
            except OSError:
                return
            said = answer(asked)
            if said is None:
                continue
            source = _source(ancillary)
            if isinstance(said, Forward):
                say = partial(self._say, source, peer)
                service.others.ask(asked, said, stream=False, say=say)
                continue
            try:
                send((said,), source, 0, peer)
            except OSError:  # no way back, or no room: UDP promises neither
                pass

    def _say(
        self, source: list[tuple[int, int, bytes]], peer: tuple[str, int], said: bytes
    ) -> None:
        try:
            self._sock.sendmsg((said,), source, 0, peer)
        except OSError:  # as above; or the socket is closed
            pass

    def close(self) -> None:
        self._loop.forget(self._sock.fileno())
        self._sock.close()


def _source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Return what makes an answer leave from the address a question came to: ip(7)."""
    for level, kind, info in ancillary:
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            return [(level, kind, struct.pack("=i4s4x", 0, info[4:8]))]
        if level == socket.IPPROTO_IPV6:
            return [(level, kind, info[:20])]
    return []


class Listener:
    """A listening TCP socket and its clients."""

    def __init__(self, loop: Loop, sock: socket.socket, service: Service) -> None:
        self._loop = loop
        self._sock = sock
        self._service = service
        self._clients: dict[Client, None] = {}  # by age
        loop.watch(sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            return
        if len(self._clients) >= CLIENTS_MAX:
            self._make_room()
        self._clients[Client(self._loop, sock, self._service, self._clients)] = None

    @property
    def busy(self) -> bool:
        """Whether there are clients."""
        return bool(self._clients)

    def _make_room(self) -> None:
        """Close the oldest client."""
        for oldest in list(self._clients)[:1]:
            oldest.close()

    def sweep(self) -> None:
        """Close the clients that have been idle too long."""
        now = self._loop.now()
        for client in [one for one in self._clients if now - one.last > IDLE]:
            client.close()

    def close(self) -> None:
        for client in list(self._clients):
            client.close()
        self._loop.forget(self._sock.fileno())
        self._sock.close()


class Client(Channel):
    """A client over TCP: each message has its length before it (RFC 1035, 4.2.2)."""

    __slots__ = ("_buffer", "_clients", "_service", "last")

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        service: Service,
        clients: dict[Client, None],
    ) -> None:
        self._buffer = bytearray()
        self._service = service
        self._clients = clients
        self.last = loop.now()  # when something last came
        super().__init__(loop, sock)

    def received(self, data: bytes) -> None:
        if not data:
            self.close()
            return
        self.last = self.loop.now()
        self._buffer += data
        while self.open and (asked := taken(self._buffer)) is not None:
            said = self._service.answers.answer(asked, datagram=False)
            if said is None:
                self.close()
            elif isinstance(said, Forward):
                self._service.others.ask(asked, said, stream=True, say=self.say)
            else:
                self.say(said)

    def say(self, said: bytes) -> None:
        if self.open:
            try:
                self.send(len(said).to_bytes(2, "big") + said)
            except OSError:  # the client is gone
                self.close()

    def close(self) -> None:
        super().close()
        self._clients.pop(self, None)


def taken(buffer: bytearray) -> bytes | None:
    """Return the first message of *buffer*, taken out of it; None as long as it is not whole."""
    end = 2 + int.from_bytes(buffer[:2], "big")
    if len(buffer) < max(2, end):
        return None
    message = bytes(buffer[2:end])
    del buffer[:end]
    return message
