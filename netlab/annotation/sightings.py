"""One packet on its way over many devices: the n-th sighting, what was changed before it.

1. A packet is known again by what no rewrite changes (`Headers.mark`). Two packets may look alike
   (an ARP request repeated, a datagram sent twice): one that shows at a place where its like was
   seen before is another one.
2. Which way a rewrite goes is known from the packet that opened the conversation: a reply is turned
   back the way the request was changed. Where a capture began too late for that, the lab's own
   addresses decide.
3. Memory is bounded: a packet is forgotten `FORGET` seconds after it was last seen.
"""

from __future__ import annotations

from typing import NamedTuple

from netlab.annotation.headers import ARP, ICMP, ICMPV6, Ends, Envelope, Headers
from netlab.annotation.names import Names, words

FORGET = 5_000_000_000  # ns
MOST = 20_000  # marks, and conversations, until those are forgotten that are over
ALIKE = 64  # packets that look alike and are under way at once


class Note(NamedTuple):
    """What is to be said of one sighting. *packet*: the number of the packet, from 1."""

    packet: int
    hop: int
    comments: list[str]


class _Packet:
    __slots__ = ("began", "ends", "first", "hops", "last", "number", "places", "ttl")

    def __init__(self, number: int, ends: Ends, time: int) -> None:
        self.number = number
        self.first = self.ends = ends
        self.began = self.last = time
        self.hops = 0
        self.places: set[tuple[int, bool, int]] = set()


class Sightings:
    """Tells the sightings of a capture apart; they are to come in the order of their times."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._said: dict[tuple[Ends, Envelope | None], str] = {}  # of ends, as long as names hold
        self._packets: dict[bytes, list[_Packet]] = {}
        self._turned: dict[tuple[Ends, Ends], int] = {}
        self._count = 0

    def know(self, names: Names) -> None:
        """Use other names from now on."""
        self._names = names
        self._said = {}

    def note(self, seen: Headers, *, interface: int, outgoing: bool, time: int) -> Note:
        """Return what is to be said of a packet *seen* on an interface at a time (ns)."""
        packet = self._packet(seen, (interface, outgoing, seen.ttl), time)
        before, packet.ends, packet.last = packet.ends, seen.ends, time
        packet.hops += 1
        comments = [self._who(seen), _hop(packet, time)]
        if before != seen.ends and seen.ends.protocol != ARP:
            told = self._rewrites(before, seen)
            comments += told
            if not any(one.startswith("un-") for one in told):
                for one in {before, packet.first}:
                    self._turned[one, seen.ends] = time
        if len(self._packets) > MOST or len(self._turned) > MOST:
            self._forget(time)
        return Note(packet.number, packet.hops, comments)

    def _packet(self, seen: Headers, place: tuple[int, bool, int], time: int) -> _Packet:
        alike = self._packets.get(seen.mark)
        if alike is None:
            alike = self._packets[seen.mark] = []
        for packet in alike:
            if place not in packet.places and time - packet.last < FORGET:
                packet.places.add(place)
                return packet
        self._count += 1
        packet = _Packet(self._count, seen.ends, time)
        packet.places.add(place)
        alike.append(packet)
        del alike[:-ALIKE]
        return packet

    def _who(self, seen: Headers) -> str:
        key = seen.ends, seen.envelope
        said = self._said.get(key)
        if said is None:
            if len(self._said) > MOST:
                self._said = {}
            said = self._said[key] = self._words(*key)
        return said

    def _words(self, ends: Ends, envelope: Envelope | None) -> str:
        names = self._names
        source = names.end(ends.protocol, ends.source, ends.source_port)
        destination = names.end(ends.protocol, ends.destination, ends.destination_port)
        said = f"{source} -> {destination}"
        if envelope is None:
            return said
        outer = [names.end(0, one, 0) for one in (envelope.source, envelope.destination)]
        return f"{said}, in VXLAN {envelope.vni} {outer[0]} -> {outer[1]}"

    def _rewrites(self, before: Ends, seen: Headers) -> list[str]:
        after = seen.ends
        back = (after.reply, before.reply) in self._turned
        told = []
        if (before.destination, before.destination_port) != (
            *(after.destination, after.destination_port),
        ):
            word = "un-masquerade" if back or self._given_back(before, seen) else "DNAT"
            told.append(f"{word}: to {_end(before.reply)}, now {_end(after.reply)}")
        if (before.source, before.source_port) != (after.source, after.source_port):
            served = self._names.service(after.protocol, after.source, after.source_port)
            word = "un-DNAT" if back or served else "masquerade"
            told.append(f"{word}: from {_end(before)}, now {_end(after)}")
        return told

    def _given_back(self, before: Ends, seen: Headers) -> bool:
        """Whether a changed destination is the undoing of a masquerade nobody saw."""
        at = before.protocol, before.destination, before.destination_port
        return (
            not seen.opens
            and before.destination in self._names.nodes
            and not (self._names.service(*at))
        )

    def _forget(self, now: int) -> None:
        fresh = {
            mark: kept
            for mark, alike in self._packets.items()
            if (kept := [one for one in alike if now - one.last < FORGET])
        }
        self._packets = (
            fresh if len(fresh) <= MOST // 2 else dict(list(fresh.items())[-MOST // 2 :])
        )
        self._turned = dict(list(self._turned.items())[-MOST // 2 :])


def _hop(packet: _Packet, time: int) -> str:
    if packet.hops == 1:
        return f"packet {packet.number}, hop 1"
    return f"packet {packet.number}, hop {packet.hops}, {(time - packet.began) / 1000:.1f} us on"


def _end(ends: Ends) -> str:
    """The source of *ends*, `10.244.1.2:4001`."""
    address = words(ends.source)
    if not ends.source_port or ends.protocol in (ICMP, ICMPV6):
        return address
    return f"[{address}]:{ends.source_port}" if ":" in address else f"{address}:{ends.source_port}"
