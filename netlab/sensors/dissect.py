"""A frame taken apart: the sighting it stands for.

1. Cheap: a trace takes hundreds of frames apart, some microseconds each.
2. Never surprised: whatever is on a wire gives a sighting or None, no error.
3. VXLAN is known by its looks, not by its port: flannel's `Backend.Port` may be any. So is the
   bare packet in a datagram of flannel's udp back end: by its length and its checksum.

4. A packet of IPv6 is read alike where the two differ in nothing but their layout; with extension
   headers, which no probe has, it is none.

Source: RFC 791, 792, 768, 9293, 7348, 8200, 4443.
"""

from __future__ import annotations

import socket
import struct

from netlab.packets import BARE, Direction, Flow, Outer, Protocol, Sighting
from netlab.sensors.ring import Frame

# ICMP type and code (RFC 792, RFC 1812) to the name a sighting carries
ICMP_NAMES = {
    (0, 0): "echo-reply",
    (8, 0): "echo-request",
    (3, 0): "net-unreachable",
    (3, 1): "host-unreachable",
    (3, 2): "protocol-unreachable",
    (3, 3): "port-unreachable",
    (3, 4): "fragmentation-needed",
    (3, 9): "net-prohibited",
    (3, 10): "host-prohibited",
    (3, 13): "admin-prohibited",
    (5, 0): "redirect",
    (5, 1): "redirect",
    (11, 0): "time-exceeded",
}

# ICMPv6 type and code (RFC 4443) to the same names, where ICMP has the like
ICMPV6_NAMES = {
    (129, 0): "echo-reply",
    (128, 0): "echo-request",
    (1, 0): "net-unreachable",
    (1, 1): "admin-prohibited",
    (1, 3): "host-unreachable",
    (1, 4): "port-unreachable",
    (2, 0): "packet-too-big",
    (3, 0): "time-exceeded",
    (137, 0): "redirect",
}

ETHERNET = 14  # bytes
IPV4_TYPE, IPV6_TYPE = b"\x08\x00", b"\x86\xdd"
_IPV4 = struct.Struct("!BxHHHBBxx4s4s")  # version, length, id, fragment, TTL, protocol, ends
_IPV6 = struct.Struct("!IHBB16s16s")  # version and flow, length, next header, hop limit, ends
_PORTS = struct.Struct("!HH")
_HEADER_WORDS = struct.Struct("!10H")  # whose sum is a multiple of 0xFFFF (RFC 1071)
_OFFSET = 0x1FFF  # of a fragment; only the first has the transport's header
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_PROTOCOLS = {_TCP: Protocol.TCP, _UDP: Protocol.UDP}
_HEADER = {_ICMP: 8, _TCP: 20, _UDP: 8, _ICMPV6: 8}  # bytes, at least
_CHECKSUM_AT = {_ICMP: 2, _TCP: 16, _UDP: 6, _ICMPV6: 2}  # of the transport's header
_UDP_HEADER = _VXLAN_HEADER = 8  # bytes
_VXLAN_FLAGS = b"\x08\0\0\0"  # the I bit alone, reserved zeroes


class _Ip:
    """The IP packet that follows the Ethernet header at byte *link* of *data*, or without one
    (None) begins at *start*; whole headers only.

    Raises ValueError when there is none, of ICMP, TCP or UDP.
    """

    __slots__ = (
        "destination",
        "id",
        "length",
        "link",
        "protocol",
        "source",
        "start",
        "transport",
        "ttl",
    )

    def __init__(self, data: bytes, link: int | None, start: int = 0) -> None:
        self.link, self.start = link, start if link is None else link + ETHERNET
        kind = IPV4_TYPE if link is None else data[self.start - 2 : self.start]
        if kind == IPV6_TYPE:
            self._read_ipv6(data)
            return
        if kind != IPV4_TYPE or len(data) < self.start + _IPV4.size:
            raise ValueError("no IPv4 packet")
        first, self.length, self.id, fragment, self.ttl, self.protocol, source, destination = (
            _IPV4.unpack_from(data, self.start)
        )
        header = (first & 0xF) * 4
        self.transport = self.start + header
        needed = header + _HEADER.get(self.protocol, len(data))
        if first >> 4 != 4 or header < _IPV4.size or fragment & _OFFSET:
            raise ValueError("no IPv4 header, or no first fragment")
        if self.length < needed or len(data) < self.start + needed:
            raise ValueError("another protocol, or cut off in its header")
        self.source, self.destination = socket.inet_ntoa(source), socket.inet_ntoa(destination)

    def _read_ipv6(self, data: bytes) -> None:
        if len(data) < self.start + _IPV6.size:
            raise ValueError("no IPv6 header")
        first, payload, self.protocol, self.ttl, source, destination = _IPV6.unpack_from(
            data, self.start
        )
        self.transport, self.id = self.start + _IPV6.size, 0
        self.length = _IPV6.size + payload
        needed = _HEADER.get(self.protocol, len(data))
        if first >> 28 != 6 or payload < needed or len(data) < self.transport + needed:
            raise ValueError("no IPv6 header, another protocol, or cut off in its header")
        self.source, self.destination = (
            socket.inet_ntop(socket.AF_INET6, end) for end in (source, destination)
        )

    def ports(self, data: bytes) -> tuple[int, int]:
        source, destination = _PORTS.unpack_from(data, self.transport)
        return source, destination


def sighting(frame: Frame, *, netns: str, device: str) -> Sighting | None:
    """Return what *frame* shows; None when it is no IP packet of a protocol netlab sends."""
    data = frame.data
    try:
        ip, outer = _opened(data, _Ip(data, None if frame.headless else 0))
    except ValueError:
        return None
    flow, icmp = _flow(data, ip)
    to, by = ("", "") if ip.link is None else _macs(data, ip.link)
    return Sighting(
        time=frame.time,
        netns=netns,
        device=device,
        direction=Direction.OUT if frame.outgoing else Direction.IN,
        flow=flow,
        ttl=ip.ttl,
        length=ip.length,
        source_mac=by,
        destination_mac=to,
        outer=outer,
        ip_id=ip.id,
        foreign=frame.foreign,
        icmp=icmp,
        content=content(data[ip.start : ip.start + ip.length]),
        frame=data,
    )


def _macs(data: bytes, link: int) -> tuple[str, str]:
    return data[link : link + 6].hex(":"), data[link + 6 : link + 12].hex(":")


def content(packet: bytes) -> bytes:
    """Return an IP packet with zeroes for its TTL and checksums: what must arrive as it was sent.

    The transport's checksum may be left to a card that never sees the packet (CHECKSUM_PARTIAL).
    """
    kept = bytearray(packet)
    if packet[0] >> 4 == 6:
        header, protocol, own = _IPV6.size, packet[6], [(7, 8)]
    else:
        header, protocol, own = (packet[0] & 0xF) * 4, packet[9], [(8, 9), (10, 12)]
    at = header + _CHECKSUM_AT.get(protocol, len(packet))
    for start, end in (*own, (at, at + 2)):
        kept[start:end] = bytes(len(kept[start:end]))
    return bytes(kept)


def _opened(data: bytes, ip: _Ip) -> tuple[_Ip, Outer | None]:
    """Return the packet in the envelope *ip* and that envelope; *ip* if it is none.

    What is no IP inside (ARP) is not looked at. Raises ValueError for an IP packet that is not
    whole, or of another protocol.
    """
    at, link = ip.transport + _UDP_HEADER, ip.transport + _UDP_HEADER + _VXLAN_HEADER
    if ip.protocol == _UDP and _is_bare(data, at, ip.start + ip.length - at):
        inner = _Ip(data, None, at)
        return inner, Outer(ip.source, ip.destination, BARE, *ip.ports(data), ip.ttl)
    if (
        ip.protocol != _UDP
        or data[at : at + 4] != _VXLAN_FLAGS
        or data[link - 1 : link] != b"\0"
        or data[link + ETHERNET - 2 : link + ETHERNET] not in (IPV4_TYPE, IPV6_TYPE)
    ):
        return ip, None
    inner, vni = _Ip(data, link), int.from_bytes(data[at + 4 : at + 7], "big")
    return inner, Outer(ip.source, ip.destination, vni, *ip.ports(data), ip.ttl)


def _is_bare(data: bytes, at: int, length: int) -> bool:
    """Return whether the *length* bytes of a datagram's payload at byte *at* are an IPv4 packet."""
    if length < _IPV4.size or data[at : at + 1] != b"\x45":
        return False
    if int.from_bytes(data[at + 2 : at + 4], "big") != length:
        return False
    return sum(_HEADER_WORDS.unpack_from(data, at)) % 0xFFFF == 0 if len(data) >= at + 20 else False


def _flow(data: bytes, ip: _Ip) -> tuple[Flow, str]:
    if ip.protocol in (_ICMP, _ICMPV6):
        kind, code = data[ip.transport], data[ip.transport + 1]
        names = ICMP_NAMES if ip.protocol == _ICMP else ICMPV6_NAMES
        name = names.get((kind, code), f"icmp-{kind}-{code}")
        return Flow(ip.source, ip.destination, Protocol.ICMP), name
    protocol = _PROTOCOLS[ip.protocol]
    return Flow(ip.source, ip.destination, protocol, *ip.ports(data)), ""
