"""The sockets of a containerPort: opened in the namespace the thread is in, then served."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Protocol

from netlab.pods.conversation import Conversation, Facts, answer

if TYPE_CHECKING:
    from netlab.pods.server import Loop

BACKLOG = 512  # connections not yet accepted, per port
ACCEPTS_AT_ONCE = 64  # then the others get their turn
IP_PKTINFO = 8  # include/uapi/linux/in.h; not in Python 3.11's socket
_IPV6_OFF = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
_OURS = b'{"request":'  # how an answer begins: two servers must not answer each other for ever

Port = tuple[int, str]  # number, and tcp, udp or sctp


class Socket(Protocol):
    """An open port."""

    def close(self) -> None: ...


def opened(port: Port) -> list[socket.socket]:
    """Return sockets bound to *port* on every address, IPv4's and, where it is on, IPv6's.

    Two sockets never share a port: TCP's SO_REUSEADDR only skips TIME_WAIT, and UDP's is not set
    since there it would let the second bind succeed. Raises OSError.
    """
    families = [(socket.AF_INET, "0.0.0.0")]
    if _ipv6_is_on():
        families.append((socket.AF_INET6, "::"))
    sockets: list[socket.socket] = []
    try:
        for family, address in families:
            sock = _unbound(family, port[1])
            sockets.append(sock)
            sock.bind((address, port[0]))
            if port[1] != "udp":
                sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _unbound(family: socket.AddressFamily, protocol: str) -> socket.socket:
    if protocol == "udp":
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif protocol in ("tcp", "sctp"):
        number = socket.IPPROTO_SCTP if protocol == "sctp" else socket.IPPROTO_TCP
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, number)
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        raise OSError(errno.EPROTONOSUPPORT, "unknown protocol")
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _ipv6_is_on() -> bool:
    try:
        fd = os.open(_IPV6_OFF, os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.read(fd, 1) == b"0"
    finally:
        os.close(fd)


def refusal(port: Port, error: OSError) -> str:
    """Return why *port* is not open: `bind tcp/80: address already in use`."""
    number, protocol = port
    if protocol == "sctp" and error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
        return f"bind sctp/{number}: this kernel lacks SCTP"
    return f"bind {protocol}/{number}: {(error.strerror or str(error)).lower()}"


class Listener:
    """A listening TCP or SCTP socket and its conversations."""

    __slots__ = ("_conversations", "_facts", "_loop", "_protocol", "_sock")

    def __init__(self, loop: Loop, sock: socket.socket, facts: Facts, protocol: str) -> None:
        self._loop = loop
        self._sock = sock
        self._facts = facts
        self._protocol = protocol
        self._conversations: set[Conversation] = set()
        loop.watch(sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._loop.make_room():
                    continue
                return
            self._begin(sock, peer[:2])

    def _begin(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        try:
            conversation = Conversation(
                self._loop,
                sock,
                peer,
                facts=self._facts,
                protocol=self._protocol,
                closed=self._closed,
            )
        except OSError:  # the client is gone already
            sock.close()
            return
        self._conversations.add(conversation)
        self._loop.begun(conversation)

    def _closed(self, conversation: Conversation) -> None:
        self._conversations.discard(conversation)
        self._loop.conversations.pop(conversation, None)

    def close(self) -> None:
        """Close the port and its conversations: each would keep the namespace alive."""
        for conversation in list(self._conversations):
            conversation.close()
        self._loop.forget(self._sock.fileno())
        self._sock.close()


class Datagrams:
    """A UDP socket: each datagram is answered by one, from the address it was sent to."""

    __slots__ = ("_facts", "_loop", "_protocol", "_sock")

    def __init__(self, loop: Loop, sock: socket.socket, facts: Facts, protocol: str) -> None:
        self._loop = loop
        self._sock = sock
        self._facts = facts
        self._protocol = protocol
        loop.watch(sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                data, ancillary, _, peer = self._sock.recvmsg(2048, 256)
            except OSError:
                return
            if data.startswith(_OURS):
                continue
            try:
                self._answer(data, ancillary, peer)
            except OSError:  # no way back, or no room: UDP promises neither
                continue

    def _answer(
        self, data: bytes, ancillary: list[tuple[int, int, bytes]], peer: tuple[str, int]
    ) -> None:
        port = self._sock.getsockname()[1]
        server, source = "", []
        for level, kind, info in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                server = socket.inet_ntop(socket.AF_INET, info[8:12])
                source = [(level, kind, struct.pack("=i4s4x", 0, info[8:12]))]
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                server = socket.inet_ntop(socket.AF_INET6, info[:16])
                source = [(level, kind, info[:20])]
        line = answer(
            self._facts, self._protocol, client=peer[:2], server=(server, port), request=data
        )
        self._sock.sendmsg([line], source, 0, peer)

    def close(self) -> None:
        self._loop.forget(self._sock.fileno())
        self._sock.close()
