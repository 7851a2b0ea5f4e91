"""Sockets that see packets with tokens: at a pod's or the world's card, and in a node's stack.

A card shows all that comes in by it, also what its namespace does not own. A node's stack shows
what it was delivered after the proxy's filter and translation, which its card cannot.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from netlab.kernel.netns import entered

from .packets import ICMP, ICMPV6, SCTP, TCP, UDP, Error, Packet, seen, transported
from .topology import Place

_ROOM = 4 << 20  # bytes of frames that may wait
_RCVBUFFORCE = 33  # asm-generic/socket.h: also above net.core.rmem_max
_ALL = 0x0003  # linux/if_ether.h, ETH_P_ALL
_TO_US = 0  # linux/if_packet.h, PACKET_HOST: a bridge may flood what is for another pod
_STATISTICS = (263, 6)  # SOL_PACKET, PACKET_STATISTICS
_PKTINFO = 50  # linux/in6.h, IPV6_PKTINFO; IPV6_RECVPKTINFO is 49
_CLOSERS = ThreadPoolExecutor(16)  # each close of a packet socket waits for all CPUs


class Sighting(NamedTuple):
    """A packet, and the name of the place that it arrived at."""

    place: str
    what: Packet | Error


class Card:
    """What comes in by any card of the namespace the calling thread is in."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _ROOM)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def sightings(self) -> Iterator[Sighting]:
        """Yield what came in since the last call."""
        while True:
            try:
                data, (device, _, how, _, _) = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            what = seen(data) if how == _TO_US and device != "lo" else None
            if what is not None:
                yield Sighting(self.place, what)

    @property
    def lost(self) -> int:
        """How many frames there was no room for."""
        return int(struct.unpack("=II", self._socket.getsockopt(*_STATISTICS, 8))[1])


class Stack:
    """What is delivered to the stack of the namespace the calling thread is in, of one protocol."""

    lost = 0  # not counted for these sockets; their room is as large

    def __init__(self, place: str, family: int, protocol: int) -> None:
        self.place = place
        self._protocol = protocol
        self._ipv6 = family == socket.AF_INET6
        self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _ROOM)
        if self._ipv6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def sightings(self) -> Iterator[Sighting]:
        """Yield what was delivered since the last call."""
        while True:
            try:
                data, extra, _, sender = self._socket.recvmsg(2048, 64)
            except BlockingIOError:
                return
            what = self._in_ipv6(data, extra, sender) if self._ipv6 else seen(data)
            if what is not None:
                yield Sighting(self.place, what)

    def _in_ipv6(
        self, data: bytes, extra: list[tuple[int, int, bytes]], sender: tuple[str, int, int, int]
    ) -> Packet | Error | None:
        # Such sockets hand over what follows the IP header, unlike those of IPv4.
        goal = next(value[:16] for level, sort, value in extra if sort == _PKTINFO)
        destination = socket.inet_ntop(socket.AF_INET6, goal)
        return transported(sender[0].partition("%")[0], destination, self._protocol, data)


Sensor = Card | Stack


def sensors(places: Iterable[Place]) -> Iterator[Sensor]:
    """Yield what sees all that arrives at *places*."""
    for place in places:
        with entered(place.netns):
            if not place.is_node:
                yield Card(place.name)
                continue
            for protocol in (TCP, UDP, SCTP):
                yield Stack(place.name, socket.AF_INET, protocol)
                yield Stack(place.name, socket.AF_INET6, protocol)
            yield Stack(place.name, socket.AF_INET, ICMP)
            yield Stack(place.name, socket.AF_INET6, ICMPV6)


def close(open_ones: Iterable[Sensor]) -> None:
    """Close sensors, all at the same time."""
    for _ in _CLOSERS.map(lambda one: one.close(), open_ones):
        pass
