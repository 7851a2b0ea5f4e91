"""UDP: a socket to an endpoint for each client, for as long as they talk.

1. An answer comes from the address the client asked, whichever of the node's addresses the rules
   led it to: else conntrack would not know it.
2. A client whose endpoint is gone, or refuses, is sent to another one by its next datagram.
3. Of silence a session ends, after longer than upstream's 250 ms: a resolver waits five seconds for
   an answer, and one that came later than a quarter of a second was lost.

Source: kubernetes pkg/proxy/userspace/proxysocket.go, udpProxySocket (v1.25), which cuts datagrams
at 4,096 bytes.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from netlab.portals.rotation import Endpoint

if TYPE_CHECKING:
    from netlab.portals.server import Portal

IDLE = 5.0  # seconds of silence
LONGEST = 65535  # bytes of a datagram
AT_ONCE = 64  # datagrams, then the others get their turn
IP_PKTINFO = 8  # include/uapi/linux/in.h; not in Python 3.11's socket
_FULL = (errno.EMFILE, errno.ENFILE)

Source = list[tuple[int, int, bytes]]  # what has a datagram sent from an address: cmsg(3)


class Datagrams:
    """The port of a portal: takes datagrams."""

    __slots__ = ("_portal", "_sessions", "sock")

    def __init__(self, portal: Portal, sock: socket.socket) -> None:
        self._portal = portal
        self._sessions: dict[tuple[Endpoint, bytes], Session] = {}  # by client, and what it asked
        self.sock = sock
        if portal.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        portal.loop.watch(sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        for _ in range(AT_ONCE):
            try:
                data, ancillary, _, peer = self.sock.recvmsg(LONGEST, 256)
            except OSError:
                return
            source = _asked(ancillary)
            key = (peer[:2], source[0][2] if source else b"")
            session = self._sessions.get(key) or self._begun(key, peer, source)
            if session is not None:
                session.send(data)

    def _begun(self, key: tuple[Endpoint, bytes], peer: Endpoint, source: Source) -> Session | None:
        endpoint = self._portal.rotation.next(peer[0], self._portal.loop.now())
        if endpoint is None:
            return None
        sock = self._connected(endpoint)
        if sock is None:
            return None

        def over() -> None:
            del self._sessions[key]

        self._portal.sent(peer[:2], sock.getsockname()[:2], endpoint)
        session = Session(self, sock, peer, source, over)
        self._sessions[key] = session
        return session

    def _connected(self, endpoint: Endpoint) -> socket.socket | None:
        for _ in range(2):
            try:
                sock = socket.socket(self._portal.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                if error.errno in _FULL and self._portal.make_room():
                    continue
                return None
            try:
                sock.connect(endpoint)
                return sock
            except OSError:  # no way there
                sock.close()
                return None
        return None

    @property
    def portal(self) -> Portal:
        return self._portal

    def leave(self) -> None:
        """End the sessions with endpoints that are gone."""
        for session in list(self._sessions.values()):
            if session.endpoint not in self._portal.rotation.endpoints:
                session.close()

    def close(self) -> None:
        for session in list(self._sessions.values()):
            session.close()
        self._portal.loop.forget(self.sock.fileno())
        self.sock.close()


class Session:
    """One client and its endpoint. *over* is called once, at the end."""

    __slots__ = ("_over", "_owner", "_peer", "_source", "endpoint", "sock", "used")

    def __init__(
        self,
        owner: Datagrams,
        sock: socket.socket,
        peer: Endpoint,
        source: Source,
        over: Callable[[], None],
    ) -> None:
        self._owner = owner
        self._peer = peer
        self._source = source
        self._over = over
        self.sock = sock
        self.endpoint: Endpoint = sock.getpeername()[:2]
        self.used = 0.0
        owner.portal.loop.watch(sock.fileno(), self._ready, select.EPOLLIN)
        self._use()

    def _use(self) -> None:
        self.used = self._owner.portal.loop.now()
        sessions = self._owner.portal.sessions
        sessions.pop(self, None)
        sessions[self] = None

    def send(self, data: bytes) -> None:
        try:
            self.sock.send(data)
        except BlockingIOError:
            pass  # no room: UDP promises none
        except OSError:
            self._refused()
            return
        self._use()

    def _refused(self) -> None:
        """Take that what was sent before was refused: the client's next datagram goes elsewhere."""
        self._owner.portal.rotation.leave(self._peer[0])
        self.close()

    def _ready(self, events: int) -> None:
        for _ in range(AT_ONCE):
            try:
                data = self.sock.recv(LONGEST)
            except BlockingIOError:
                return
            except OSError:
                self._refused()
                return
            self._use()
            try:
                self._owner.sock.sendmsg([data], self._source, 0, self._peer)
            except OSError:  # no way back, or no room
                continue

    def close(self) -> None:
        portal = self._owner.portal
        portal.sessions.pop(self, None)
        portal.loop.forget(self.sock.fileno())
        self.sock.close()
        self._over()


def _asked(ancillary: Source) -> Source:
    """Return what has an answer sent from the address that the datagram came to."""
    for level, kind, info in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return [(level, kind, struct.pack("=i4s4x", 0, info[8:12]))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, info[:20])]
    return []
