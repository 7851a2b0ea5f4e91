"""Bursts of packets, and what became of each.

1. Packets leave from raw sockets, so a flow costs its first packet and no connection. Those of a
   node pass its OUTPUT hooks as any process's do.
2. Nothing is waited for by the clock. Between namespaces packets are handed on by the CPU that
   sent them, in order; so the sender stays on one CPU, and when a sentinel that went through the
   node under test after a burst is back, all of the burst has come as far as the sentinel has.
   Several of them, one after the other, outlast the longest way there and back.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from netlab.kernel.netns import entered

from .cabling import usable
from .packets import UDP, Packet, Sort, wire
from .sensors import Sensor, Sighting
from .topology import OVERLAY, UPLINK, Place, Topology, version

SENTINEL = "198.51.100.66"  # routed to the world outside, by way of the node under test
SENTINEL_SOURCE = "198.51.100.1"
SENTINELS = 3  # each goes three hops
PATIENCE = 5.0  # seconds for new cables, or for a sentinel; a deadline
LATE = (
    1.0  # seconds for a packet that must be seen after the sentinels, on whatever CPU; a deadline
)
PAUSE = 0.002  # seconds between trials of new cables
_HDRINCL = {False: (0, 3), True: (41, 36)}  # IP_HDRINCL, IPV6_HDRINCL
# What only the sender is told of: dropped on its way out; translated to where it has no route.
_DROPPED = (errno.EPERM, errno.EINVAL)
_RAW = 255  # linux/in.h, IPPROTO_RAW
_IP = {False: 0x0800, True: 0x86DD}  # Ethernet types

_tokens = itertools.count(0x10_0000)
_ports = itertools.cycle(range(33000, 60000))


def token() -> int:
    """Return a number that no other packet of this process has."""
    return next(_tokens)


def fresh_port() -> int:
    """Return a client's port that was not used for long."""
    return next(_ports)


class Traffic:
    """Sends from, and sees at, the places of a topology. To be closed by who closes *sensors*."""

    def __init__(self, world: Topology, sensors: Sequence[Sensor]) -> None:
        self.world = world
        self._sensors = {one.fileno(): one for one in sensors}
        self._poll = select.epoll()
        for number in self._sensors:
            self._poll.register(number, select.EPOLLIN)
        self._senders: dict[tuple[str, bool], socket.socket] = {}
        self._seen: dict[int, list[Sighting]] = {}

    def close(self) -> None:
        self._poll.close()
        for one in self._senders.values():
            one.close()

    def send(self, place: Place, packets: Iterable[Packet]) -> None:
        """Send *packets* as a process in *place* would."""
        for packet in packets:
            self.send_raw(place, wire(packet), packet.destination)

    def send_raw(self, place: Place, data: bytes, destination: str) -> None:
        """Send one packet, given with its IP header."""
        try:
            self._sender(place, ":" in destination).sendto(data, (destination, 0))
        except OSError as error:
            if error.errno not in _DROPPED:
                raise

    def inject(self, place: Place, packets: Iterable[Packet], node: Place) -> None:
        """Put *packets* on the wire to the card of *node*, whatever routing would say to them."""
        card = bytes.fromhex(node.mac(UPLINK).replace(":", ""))
        ours = bytes.fromhex(place.mac(UPLINK).replace(":", ""))
        with entered(place.netns), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((UPLINK, 0))
            for packet in packets:
                kind = struct.pack("!H", _IP[packet.ipv6])
                sender.send(card + ours + kind + wire(packet))

    def _sender(self, place: Place, ipv6: bool) -> socket.socket:
        key = place.netns, ipv6
        if key not in self._senders:
            with entered(place.netns):
                family = socket.AF_INET6 if ipv6 else socket.AF_INET
                opened = socket.socket(family, socket.SOCK_RAW, _RAW)
            opened.setsockopt(*_HDRINCL[ipv6], 1)
            self._senders[key] = opened
        return self._senders[key]

    def settle(self, place: Place, tokens: Iterable[int] = ()) -> None:
        """Return when what *place* sent before has arrived where it ever will.

        Those *tokens* that must be seen somewhere are waited for, up to a deadline.
        """
        for _ in range(SENTINELS):
            number = token()
            self.send(place, [Packet(SENTINEL_SOURCE, 9, SENTINEL, 9, UDP, number)])
            self._wait_for({number}, PATIENCE)
            self._seen.pop(number, None)
        self._wait_for(set(tokens), LATE)

    def warm_up(self) -> None:
        """Return when every cable carries packets both ways, in both families.

        The kernel readies new cards and addresses in the background, which may take it a second
        where others make some too; what is sent before is lost. Raises TimeoutError.
        """
        left = dict(self._trials())
        deadline = time.monotonic() + PATIENCE
        while left or not usable(self.world):
            for packet, place in left.items():
                self.send(place, [packet])
            self.look()
            left = {one: place for one, place in left.items() if one.token not in self._seen}
            if time.monotonic() > deadline:
                raise TimeoutError(f"no packet gets through: {list(left)}")
            self._poll.poll(PAUSE)
        self._seen.clear()

    def _trials(self) -> Iterator[tuple[Packet, Place]]:
        """Yield packets that together pass every cable both ways, and who sends each."""
        places = self.world.places.values()
        for place in places:
            yield Packet(SENTINEL_SOURCE, 9, SENTINEL, 9, UDP, token()), place
        for node in self.world.nodes:
            for other in places:
                if other is not node and other is not self.world.outside:
                    goal = other.own(OVERLAY, 4) if other.is_node else other.addresses[0]
                    source = node.own(OVERLAY, version(goal))
                    yield Packet(source, 9, goal, 9, UDP, token()), node

    def _wait_for(self, tokens: set[int], patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            self.look()
            tokens = {one for one in tokens if one not in self._seen}
            left = deadline - time.monotonic()
            if not tokens or left < 0:
                return
            self._poll.poll(left)

    def look(self) -> None:
        """Read what all sensors have seen by now."""
        while ready := self._poll.poll(0):
            for number, _ in ready:
                for sighting in self._sensors[number].sightings():
                    self._seen.setdefault(sighting.what.token, []).append(sighting)

    def sightings(self, number: int) -> list[Sighting]:
        """Return where the packet of this token, or an answer to it, was seen; the first first."""
        return self._seen.get(number, [])

    def arrivals(self, number: int) -> list[tuple[str, Packet]]:
        """Return the places this packet arrived at, and as what."""
        return [
            (place, what)
            for place, what in self.sightings(number)
            if isinstance(what, Packet) and what.sort is Sort.REQUEST
        ]

    def answers(self, number: int, place: str) -> list[Sighting]:
        """Return what *place* was answered to this packet."""
        return [
            one
            for one in self.sightings(number)
            if one.place == place
            and not (isinstance(one.what, Packet) and one.what.sort is Sort.REQUEST)
        ]

    @property
    def lost(self) -> int:
        """How many frames no sensor had room for."""
        return sum(one.lost for one in self._sensors.values())


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Keep the calling thread on one CPU for the duration."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
