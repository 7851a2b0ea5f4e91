"""TCP: a connection from a client, another one to an endpoint, and what goes between them.

1. Nobody waits for another: an endpoint that does not answer costs its own client the time, not
   whoever comes next (upstream dials before it accepts again).
2. One end is closed as the other was: a side that has finished sending may still be answered
   (upstream closes both then), and a reset is passed on as a reset.
3. Memory is bounded. What one side does not take is not read from the other.

Source: kubernetes pkg/proxy/userspace/proxysocket.go, tryConnect and ProxyLoop (v1.25).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import TYPE_CHECKING

from netlab.portals.rotation import Endpoint
from netlab.residents.loop import Timer

if TYPE_CHECKING:
    from netlab.portals.server import Portal

DIAL_SECONDS = (0.25, 0.5, 1.0, 2.0)  # one endpoint after the other; upstream's endpointDialTimeout
BACKLOG = 1024  # connections not yet accepted
ACCEPTS_AT_ONCE = 64  # then the others get their turn
BREATH = 0.1  # seconds until accepting is tried again when there are no descriptors left
ALIVE_AFTER = 15  # seconds of silence after which a peer is asked whether it is there; Go's
_RESET = struct.pack("=ii", 1, 0)  # struct linger: on, for no time

_buffer = bytearray(1 << 18)  # the one everything goes through; what is not taken at once is copied
_view = memoryview(_buffer)
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """The port of a portal: takes connections."""

    __slots__ = ("_portal", "sock")

    def __init__(self, portal: Portal, sock: socket.socket) -> None:
        self._portal = portal
        self.sock = sock
        portal.loop.watch(sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, peer = self.sock.accept()
            except OSError as error:
                if error.errno in _FULL:
                    self._rest()
                return
            Relay(self._portal, sock, peer[:2])

    def _rest(self) -> None:
        """Let those who wait wait a little; else the loop would do nothing but ask."""
        loop, fd = self._portal.loop, self.sock.fileno()
        loop.rewatch(fd, self._ready, 0)

        def again() -> None:
            if self.sock.fileno() == fd:
                loop.rewatch(fd, self._ready, select.EPOLLIN)

        loop.after(BREATH, again)

    def close(self) -> None:
        """Take no more; what was taken goes on."""
        self._portal.loop.forget(self.sock.fileno())
        self.sock.close()


class End:
    """One of the two sockets of a relay."""

    __slots__ = ("ended", "events", "pending", "shut", "sock", "watched")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.pending = b""  # for it, not sent yet
        self.ended = False  # it has finished sending
        self.shut = False  # it was told that nothing more comes
        self.events = 0
        self.watched = False


class Relay:
    """One client's connection, and the one made for it."""

    __slots__ = ("_again", "_loop", "_portal", "_timer", "_tries", "client", "peer", "server")

    def __init__(self, portal: Portal, sock: socket.socket, peer: Endpoint) -> None:
        self._portal = portal
        self._loop = portal.loop
        self._tries = iter(DIAL_SECONDS)
        self._again = False
        self._timer = Timer(None)
        self.peer = peer
        self.client = End(sock)
        self.server: End | None = None
        _prepare(sock)
        portal.relays[self] = None
        self._dial()

    # -- finding an endpoint

    def _dial(self) -> None:
        """Ask the next endpoint, and so on until one can be asked; give up after the last try."""
        for seconds in self._tries:
            endpoint = self._portal.rotation.next(self.peer[0], self._loop.now(), again=self._again)
            if endpoint is None:
                break
            self._again = True
            try:
                sock = socket.socket(self._portal.family, socket.SOCK_STREAM)
            except OSError:  # no descriptors
                break
            _prepare(sock)
            if sock.connect_ex(endpoint) in (0, errno.EINPROGRESS):
                self.server = End(sock)
                self._portal.sent(self.peer, sock.getsockname()[:2], endpoint)
                self.server.watched = True
                self._loop.watch(sock.fileno(), self._dialled, select.EPOLLOUT)
                self._timer = self._loop.after(seconds, self._late)
                return
            sock.close()
        self.close()

    def _late(self) -> None:
        """Go on to the next endpoint, unless this one has answered and only this loop is late."""
        assert self.server is not None
        look = select.poll()
        look.register(self.server.sock, select.POLLOUT)
        if ready := look.poll(0):
            self._dialled(ready[0][1])
        else:
            self._next()

    def _next(self) -> None:
        assert self.server is not None
        self._loop.forget(self.server.sock.fileno())
        self.server.sock.close()
        self.server = None
        self._dial()

    def _dialled(self, events: int) -> None:
        assert self.server is not None
        self._timer.cancel()
        sock = self.server.sock
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._next()
            return
        self.server.events = select.EPOLLIN
        self._loop.rewatch(sock.fileno(), self._from_server, select.EPOLLIN)
        self.client.events = select.EPOLLIN
        self.client.watched = True
        self._loop.watch(self.client.sock.fileno(), self._from_client, select.EPOLLIN)

    # -- what goes between them

    def _from_client(self, events: int) -> None:
        assert self.server is not None
        self._ready(events, self.client, self.server)

    def _from_server(self, events: int) -> None:
        assert self.server is not None
        self._ready(events, self.server, self.client)

    def _ready(self, events: int, this: End, other: End) -> None:
        try:
            if events & select.EPOLLOUT:
                self._flush(this, other)
            if events & select.EPOLLERR:
                self.reset()
                return
            if events & (select.EPOLLIN | select.EPOLLHUP) and not this.ended:
                if not other.pending:
                    self._carry(this, other)
            elif events & select.EPOLLHUP:  # nothing more goes either way, and nothing was said
                self.reset()
                return
        except BlockingIOError:
            pass
        except OSError:
            self.reset()
            return
        if this.shut and other.shut:
            self.close()
            return
        self._look(this, other)
        self._look(other, this)

    def _carry(self, this: End, other: End) -> None:
        """Send *other* what *this* has sent. Raises OSError."""
        size = this.sock.recv_into(_buffer)
        if not size:
            this.ended = True
            self._finish(other)
            return
        try:
            sent = other.sock.send(_view[:size])
        except BlockingIOError:
            sent = 0
        if sent < size:
            other.pending = bytes(_view[sent:size])

    def _flush(self, this: End, other: End) -> None:
        """Send *this* what waits for it. Raises OSError."""
        if this.pending:
            this.pending = this.pending[this.sock.send(this.pending) :]
        if not this.pending and other.ended:
            self._finish(this)

    def _finish(self, end: End) -> None:
        """Tell *end* that nothing more comes, once it has all that came before."""
        if not end.pending and not end.shut:
            end.shut = True
            end.sock.shutdown(socket.SHUT_WR)

    def _look(self, end: End, other: End) -> None:
        """Watch *end* for what is possible next."""
        reads = 0 if end.ended or other.pending else select.EPOLLIN
        events = reads | (select.EPOLLOUT if end.pending else 0)
        if events != end.events:
            end.events = events
            ready = self._from_client if end is self.client else self._from_server
            self._loop.rewatch(end.sock.fileno(), ready, events)

    # -- the end

    def reset(self) -> None:
        """End both connections as one of them was: at once, whatever was on its way."""
        for end in (self.client, self.server):
            if end is not None:
                end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        self._timer.cancel()
        self._portal.relays.pop(self, None)
        for end in (self.client, self.server):
            if end is not None:
                if end.watched:
                    self._loop.forget(end.sock.fileno())
                end.sock.close()


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ALIVE_AFTER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ALIVE_AFTER)
