"""Which of many sightings and rule traces are of one conversation.

Its first packet is known by what the sender put into it: a TCP sequence number, or how the payload
begins. Its ends, as each namespace sees them (NAT changes them on the way), make all other packets
known, both ways. An ICMP error is known by the packet it quotes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from netlab.packets import Flow, Identity, Outer, Passing, Protocol, Sighting, identity

_SYN, _ACK = 0x02, 0x10
_PROTOCOLS = {1: Protocol.ICMP, 6: Protocol.TCP, 17: Protocol.UDP, 132: Protocol.SCTP}
ECHOES = ("echo-request", "echo-reply")
PASSED_ON = (*ECHOES, "redirect")  # a router that tells of a better way sends the packet on


class Opening(msgspec.Struct, frozen=True):
    """What a conversation's first packet is known by; empty: by its ends alone.

    *sequence*: what a TCP connection begins with. *payload*: what a UDP datagram or an echo
    request begins with.
    """

    protocol: Protocol
    sequence: int | None = None
    payload: bytes = b""


class Caught(NamedTuple):
    """A frame on a device, taken apart. *mtu*: the device's, in bytes, 0 if not known."""

    sighting: Sighting
    frame: bytes
    mtu: int = 0

    @property
    def transport(self) -> bytes:
        """The transport's header and payload."""
        return transport(self.sighting.content)

    @property
    def identity(self) -> Identity:
        return identity(self.sighting.flow.protocol, self.transport)


def transport(packet: bytes) -> bytes:
    """Return what is behind the header of an IPv4 packet."""
    return packet[(packet[0] & 0xF) * 4 :] if packet else b""


def ends(packet: bytes) -> Flow | None:
    """Return the flow of an IPv4 packet, perhaps cut off; None if it is of no known protocol."""
    if len(packet) < 20 or packet[9] not in _PROTOCOLS:
        return None
    protocol, behind = _PROTOCOLS[packet[9]], transport(packet)
    source, destination = (".".join(map(str, packet[at : at + 4])) for at in (12, 16))
    if protocol is Protocol.ICMP or len(behind) < 4:
        return Flow(source, destination, protocol)
    ports = int.from_bytes(behind[:2], "big"), int.from_bytes(behind[2:4], "big")
    return Flow(source, destination, protocol, *ports)


def quoted(caught: Caught) -> bytes:
    """Return the packet that an ICMP error quotes, as far as it does."""
    return caught.transport[8:]


class Chosen(NamedTuple):
    """What is of one conversation: its sightings and rule traces, in their order, and its ends:
    each flow that some namespace saw its asking side as."""

    caught: list[Caught]
    passings: list[Passing]
    flows: set[Flow]

    def wraps(self, one: Passing) -> bool:
        """Return whether a pass is that of an envelope, not of the packet in it."""
        if one.flow.protocol is not Protocol.UDP or one.flow in self.flows:
            return False
        return one.flow.reply not in self.flows and not one.icmp_error


def chosen(
    opening: Opening,
    flows: Iterable[Flow],
    caught: Sequence[Caught],
    passings: Sequence[Passing],
    *,
    tunnel_port: int = 0,
    until: int = 0,
) -> Chosen:
    """Return what of *caught* and *passings* is of the conversation that begins with *opening*
    and has, where it was sent from, one of the ends *flows*.

    *tunnel_port*: of VXLAN; an envelope that was dropped before any device showed it is known by
    it, as the kernel traces no others. *until*: packets that were first seen after it (ns since the
    epoch) are left out, as they may not have come to their end; 0: none are.
    """
    known = set(flows)
    begun = [one for one in caught if _opens(opening, one)]
    known.update(one.sighting.flow for one in begun)
    first = {one.identity for one in begun}
    known.update(one.flow for one in passings if one.identity in first)
    both = known | {flow.reply for flow in known}
    mine = [one for one in caught if _belongs(opening, both, one)]
    late = _first_seen_after(until, mine) if until else set()
    mine = [one for one in mine if one.identity not in late]
    identities = {one.identity for one in mine} | _identities(opening)
    # Echoes have no ports: between two ends there may be many.
    ends = both if opening.protocol is not Protocol.ICMP else set()
    outside = both | {one.sighting.flow for one in mine}
    return Chosen(
        sorted(mine, key=lambda one: one.sighting.time),
        [
            one
            for one in passings
            if one.identity in identities
            or (one.flow in ends and one.identity not in late)
            or _wraps(one, outside, tunnel_port)
        ],
        known,
    )


def _first_seen_after(until: int, caught: Iterable[Caught]) -> set[Identity]:
    first: dict[Identity, int] = {}
    for one in caught:
        first[one.identity] = min(one.sighting.time, first.get(one.identity, one.sighting.time))
    return {packet for packet, time in first.items() if time > until}


def _identities(opening: Opening) -> set[Identity]:
    """Return what an echo and its answer are known by, though no device may show them."""
    if opening.protocol is not Protocol.ICMP:
        return set()
    return {
        identity(opening.protocol, bytes([kind]) + bytes(7) + opening.payload) for kind in (8, 0)
    }


def _wraps(one: Passing, flows: set[Flow], tunnel_port: int) -> bool:
    is_udp = one.flow.protocol is Protocol.UDP and one.flow not in flows
    return is_udp and one.flow.destination_port == tunnel_port


def _opens(opening: Opening, one: Caught) -> bool:
    if one.sighting.flow.protocol is not opening.protocol:
        return False
    behind = one.transport
    if opening.sequence is not None:
        syn = len(behind) > 13 and behind[13] & (_SYN | _ACK) == _SYN
        return syn and int.from_bytes(behind[4:8], "big") == opening.sequence
    if not opening.payload:
        return False
    if opening.protocol is Protocol.ICMP and one.sighting.icmp != "echo-request":
        return False
    return behind[8:].startswith(opening.payload)


def _belongs(opening: Opening, both: set[Flow], one: Caught) -> bool:
    sighting = one.sighting
    if sighting.flow.protocol is not Protocol.ICMP:
        return sighting.flow in both
    if sighting.icmp in ECHOES:
        if opening.protocol is not Protocol.ICMP:
            return False
        return one.transport[8:].startswith(opening.payload) and sighting.flow in both
    inside = quoted(one)
    flow = ends(inside)
    if flow is None or flow not in both:
        return False
    return flow.protocol is not Protocol.ICMP or opening.payload in inside


def _envelope(outer: Outer) -> Flow:
    return Flow(
        *(outer.source, outer.destination, Protocol.UDP),
        *(outer.source_port, outer.destination_port),
    )


def envelope_of(sighting: Sighting) -> Flow | None:
    """Return the flow that the envelope of a sighting is of, None without one."""
    return _envelope(sighting.outer) if sighting.outer else None
