"""Questions for others: asked of the upstream resolvers in turn, from a port and with a number of
their own, and passed on to who has asked.

Each question over UDP has a socket, so the kernel chooses its port at random, and takes answers
from its resolver alone; an answer must also have its number and question (RFC 5452). One that
came over TCP is asked over TCP, so that what is large comes whole.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence

from netlab.dns import wire
from netlab.dns.answers import Forward, completed, failure, pack
from netlab.dns.wire import Malformed
from netlab.nameserver.serving import Say, taken
from netlab.pods.conversation import Channel, Loop

PORT = 53
PATIENCE = 1.5  # seconds, for each try
TRIES = 3  # all of them together in less than a stub resolver's 5 s: resolv.conf(5)
WAITING_MAX = 1000  # questions; CoreDNS's max_concurrent in kubeadm's configuration
SIZE = 1232  # bytes of an answer, of questions of our own: DNS flag day 2020


class Forwarder:
    """Asks *upstreams*, addresses of resolvers."""

    def __init__(self, loop: Loop, upstreams: Sequence[str]) -> None:
        self.loop = loop
        self.upstreams = tuple(upstreams)
        self._waiting: dict[Errand, float] = {}  # whose try is late when; the first one first

    def ask(self, asked: bytes, forward: Forward, *, stream: bool, say: Say) -> None:
        """Have *say* called with the answer to *asked*, sooner or later."""
        if not self.upstreams or len(self._waiting) >= WAITING_MAX:
            say(failure(asked, forward.query, wire.REFUSED))
        else:
            Errand(self, asked, forward, say, stream=stream).next()

    def wait(self, errand: Errand) -> None:
        """Have the errand's present try end when its answer has not come in time."""
        self.leave(errand)
        self._waiting[errand] = self.loop.now() + PATIENCE

    def leave(self, errand: Errand) -> None:
        """Wait for the errand no more."""
        self._waiting.pop(errand, None)

    def due(self) -> float | None:
        """Return when the next one is late; None: nobody waits."""
        return next(iter(self._waiting.values()), None)

    def sweep(self) -> None:
        """Ask the next upstream for those whose answers are late."""
        now = self.loop.now()
        for errand in [one for one, late in self._waiting.items() if late <= now]:
            errand.next()


class Errand:
    """One question on its way: asked of one upstream after the other, until one answers."""

    def __init__(
        self, home: Forwarder, asked: bytes, forward: Forward, say: Say, *, stream: bool
    ) -> None:
        self._home = home
        self._asked = asked
        self._forward = forward
        self._say = say
        self._stream = stream
        self._way: _Datagram | _Stream | None = None
        self._message = b""
        self.tries = 0
        self.over = False

    def next(self) -> None:
        """Ask the next upstream, or give up."""
        self._leave()
        way = _Stream if self._stream else _Datagram
        while self.tries < TRIES:
            address = self._home.upstreams[self.tries % len(self._home.upstreams)]
            self.tries += 1
            self._message = self._question(os.urandom(2))
            try:
                self._way = way(self._home.loop, address, self._message, self)
            except OSError:  # no way there
                continue
            self._home.wait(self)
            return
        self._end(failure(self._asked, self._forward.query))

    def _question(self, number: bytes) -> bytes:
        forward = self._forward
        if not forward.chased:
            return number + self._asked[2:]
        return number + wire.query(forward.name, forward.query.type, number=0, size=SIZE)[2:]

    def heard(self, data: bytes) -> bool:
        """Take what came; return whether it was the answer."""
        asked, end = self._message, _question_end(self._message)
        right = (
            len(data) >= end
            and data[:2] == asked[:2]
            and bool(data[2] & wire.QR >> 8)
            and data[wire.HEADER : end].lower() == asked[wire.HEADER : end].lower()
        )
        if right:
            self._end(self._passed_on(data, end))
        return right

    def _passed_on(self, data: bytes, end: int) -> bytes:
        """Return the answer *data*, whose question ends at *end*, as an answer to our client."""
        asked, query = self._asked, self._forward.query
        if not self._forward.chased:
            head = asked[:2] + data[2 : wire.HEADER]
            return head + asked[wire.HEADER : query.end] + data[end:]
        try:
            heard = wire.read_answer(data)
        except Malformed:
            return failure(asked, query)
        limit = wire.MOST if self._stream else query.size
        packed = pack(query, completed(self._forward, heard), limit=limit, cut=heard.truncated)
        return packed.message(asked, query.end, 0)

    def _leave(self) -> None:
        if self._way is not None:
            self._way.close()
            self._way = None

    def _end(self, said: bytes) -> None:
        self.over = True
        self._leave()
        self._home.leave(self)
        self._say(said)


def _question_end(message: bytes) -> int:
    """Return where the question of *message*, which is ours, ends."""
    return wire.read_name(message, wire.HEADER)[1] + 4


class _Datagram:
    """A question over UDP. Raises OSError when there is no way."""

    def __init__(self, loop: Loop, address: str, message: bytes, errand: Errand) -> None:
        self._loop = loop
        self._errand = errand
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._sock.connect((address, PORT))
            self._sock.send(message)
        except BaseException:
            self._sock.close()
            raise
        loop.watch(self._sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        try:
            data = self._sock.recv(65535)
        except BlockingIOError:
            return
        except OSError:  # refused
            self._errand.next()
            return
        self._errand.heard(data)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.forget(self._sock.fileno())
            self._sock.close()


class _Stream(Channel):
    """A question over TCP. Raises OSError when there is no way."""

    __slots__ = ("_buffer", "_errand")

    def __init__(self, loop: Loop, address: str, message: bytes, errand: Errand) -> None:
        self._buffer = bytearray()
        self._errand = errand
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect((address, PORT))
        except BlockingIOError:  # on its way
            pass
        except BaseException:
            sock.close()
            raise
        super().__init__(loop, sock)
        try:
            self.send(len(message).to_bytes(2, "big") + message)
        except BaseException:
            self.close()
            raise

    def ready(self, events: int) -> None:
        super().ready(events)
        if not self.open and not self._errand.over:
            self._errand.next()

    def received(self, data: bytes) -> None:
        self._buffer += data
        message = taken(self._buffer)
        if (message is None or not self._errand.heard(message)) and not data:
            self.close()
