"""A frame taken apart by its bytes alone: ends, TTL, envelope, and what no rewrite changes.

A capture has too many frames for a library that makes an object of each header (scapy: 200 us):
this takes two. Source: RFC 791, 793, 768, 792, 826, 8200, 7348.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from netlab.packets import ICMP_ERRORS
from netlab.pcapng import ETHERNET

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132  # IP protocol numbers
ARP = -1  # stands in for one

_IPV4, _IPV6, _ARP_TYPE, _VLAN = b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x81\0"
_VXLAN_FLAGS = b"\x08\0\0\0"  # the I bit alone
_KEPT = 48  # bytes of payload and options that tell two packets apart
_FRAGMENT = 0x1FFF
_SYN, _ACK = 0x02, 0x10

_ipv4 = Struct("!BxHHHBBxx4s4s").unpack_from  # version, length, id, fragment, TTL, protocol, ends
_ports = Struct("!HH").unpack_from


class Ends(NamedTuple):
    """Who speaks to whom: addresses as 4 or 16 bytes, ports 0 where there are none."""

    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int

    @property
    def reply(self) -> Ends:
        return Ends(
            *(self.protocol, self.destination, self.destination_port),
            *(self.source, self.source_port),
        )


class Envelope(NamedTuple):
    """VXLAN around a packet."""

    source: bytes
    destination: bytes
    vni: int


class Headers(NamedTuple):
    """A packet; inside VXLAN the inner one.

    `mark` is the same wherever the packet is seen: no router, no NAT changes what is in it.
    `transport` is where its transport header begins in the frame.
    """

    ends: Ends
    ttl: int
    mark: bytes
    transport: int
    opens: bool = False  # a TCP SYN
    envelope: Envelope | None = None


def headers(frame: bytes, link: int = ETHERNET) -> Headers | None:
    """Return the packet in *frame*; None when it is no IP and no ARP, or too short for one."""
    if link == ETHERNET:
        kind, at = frame[12:14], 14
        if kind == _VLAN:
            kind, at = frame[16:18], 18
    else:
        kind, at = (_IPV6 if frame[:1] and frame[0] >> 4 == 6 else _IPV4), 0
    if kind == _IPV4:
        return _of_ipv4(frame, at)
    if kind == _IPV6:
        return _of_ipv6(frame, at)
    if kind == _ARP_TYPE and len(frame) >= at + 28:
        body = frame[at : at + 28]
        return Headers(Ends(ARP, body[14:18], 0, body[24:28], 0), 0, b"arp" + body, at)
    return None


def _of_ipv4(frame: bytes, at: int) -> Headers | None:
    if len(frame) < at + 20:
        return None
    first, length, number, fragment, ttl, protocol, source, destination = _ipv4(frame, at)
    transport = at + (first & 0xF) * 4
    if fragment & _FRAGMENT:
        mark = frame[at + 2 : at + 8] + frame[at + 9 : at + 10] + frame[transport:][:_KEPT]
        return Headers(Ends(protocol, source, 0, destination, 0), ttl, mark, transport)
    stem = b"%d %d %d " % (protocol, length, number)
    return _over(frame, transport, stem, protocol, source, destination, ttl)


def _of_ipv6(frame: bytes, at: int) -> Headers | None:
    if len(frame) < at + 40:
        return None
    protocol, ttl = frame[at + 6], frame[at + 7]
    stem = b"%d " % protocol + frame[at + 1 : at + 6]  # flow label and length
    source, destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    return _over(frame, at + 40, stem, protocol, source, destination, ttl)


def _over(
    frame: bytes, at: int, stem: bytes, protocol: int, source: bytes, destination: bytes, ttl: int
) -> Headers:
    if protocol in (TCP, UDP, SCTP) and len(frame) >= at + 8:
        ports = _ports(frame, at)
        ends = Ends(protocol, source, ports[0], destination, ports[1])
        if protocol == TCP:
            mark = stem + frame[at + 4 : at + 16] + frame[at + 20 : at + 20 + _KEPT]
            opens = len(frame) > at + 13 and frame[at + 13] & (_SYN | _ACK) == _SYN
            return Headers(ends, ttl, mark, at, opens)
        if protocol == SCTP:
            return Headers(ends, ttl, stem + frame[at + 12 : at + 12 + _KEPT], at)
        if frame[at + 8 : at + 12] == _VXLAN_FLAGS and frame[at + 15 : at + 16] == b"\0":
            inner = _inside(frame, at + 16, source, destination)
            if inner is not None:
                return inner
        return Headers(ends, ttl, stem + frame[at + 8 : at + 8 + _KEPT], at)
    ends = Ends(protocol, source, 0, destination, 0)
    if protocol == ICMP:
        return Headers(ends, ttl, stem + _icmp_mark(frame, at), at)
    return Headers(ends, ttl, stem + frame[at : at + _KEPT], at)


def _inside(frame: bytes, at: int, source: bytes, destination: bytes) -> Headers | None:
    kind = frame[at + 12 : at + 14]
    if kind == _IPV4:
        found = _of_ipv4(frame, at + 14)
    elif kind == _IPV6:
        found = _of_ipv6(frame, at + 14)
    elif kind == _ARP_TYPE:
        found = headers(frame[at:])
    else:
        return None
    if found is None or found.envelope is not None:
        return None
    vni = int.from_bytes(frame[at - 4 : at - 1], "big")
    return found._replace(envelope=Envelope(source, destination, vni))


def _icmp_mark(frame: bytes, at: int) -> bytes:
    """What NAT leaves alone: it changes the id of an echo, and what an error quotes of ends."""
    if frame[at : at + 1] and frame[at] in ICMP_ERRORS:
        quoted = at + 8
        ports = quoted + (frame[quoted] & 0xF) * 4 if len(frame) > quoted else quoted
        kept = frame[quoted + 2 : quoted + 6] + frame[quoted + 9 : quoted + 10]
        return frame[at : at + 2] + kept + frame[ports + 4 : ports + 6]
    return frame[at : at + 2] + frame[at + 6 : at + 8 + _KEPT]
