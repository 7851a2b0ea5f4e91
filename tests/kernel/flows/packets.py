"""Packets with a token each: made as a client's first packet, and recognised wherever they appear.

The token is in what no translation alters: a TCP SYN's sequence number, the first bytes of a UDP
datagram, an SCTP INIT's initiate tag. An answer repeats it, so that it tells which packet it is
for: a TCP reset acknowledges it, an SCTP abort carries it as its tag, an ICMP error quotes it.
"""

from __future__ import annotations

import socket
import struct
from enum import StrEnum
from typing import NamedTuple

TCP, UDP, SCTP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, 132
ICMP, ICMPV6 = socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6
PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
MARK = b"flow"  # begins every datagram, before its token

_SYN, _RST, _ACK = 0x02, 0x04, 0x10  # RFC 9293
_INIT, _ABORT = 1, 6  # SCTP chunk types, RFC 9260
# ICMP types: destination unreachable; of IPv6 also parameter problem, which a host says to a
# protocol it does not have. Then type and code of port unreachable. RFC 792, RFC 4443.
_ERRORS = {ICMP: (3,), ICMPV6: (1, 4)}
_NO_PORT = {ICMP: (3, 3), ICMPV6: (1, 4)}
_CRC_OF_BYTE: list[int] = []  # for SCTP's checksum


class Sort(StrEnum):
    """What a packet with a token is."""

    REQUEST = "request"
    DATA = "data"  # of a TCP connection
    ACCEPTED = "accepted"  # SYN and ACK, INIT ACK
    RESET = "reset"
    PORT_UNREACHABLE = "port-unreachable"
    UNREACHABLE = "unreachable"  # any other ICMP error


class Packet(NamedTuple):
    """One packet, sent or seen. Addresses are text as inet_ntop(3) writes it."""

    source: str
    source_port: int
    destination: str
    port: int
    protocol: int
    token: int
    sort: Sort = Sort.REQUEST

    @property
    def ipv6(self) -> bool:
        return ":" in self.destination


class Error(NamedTuple):
    """An ICMP error: from whom, to whom, and the packet it quotes."""

    source: str
    destination: str
    quoted: Packet
    sort: Sort

    @property
    def token(self) -> int:
        return self.quoted.token


def wire(packet: Packet) -> bytes:
    """Return *packet*, a request, with its IP header, checksums included."""
    body = _transport(packet)
    if packet.ipv6:
        head = struct.pack("!IHBB", 6 << 28, len(body), packet.protocol, 64)
        return head + _raw(packet.source) + _raw(packet.destination) + body
    return _in_ipv4(packet, body)


def _in_ipv4(packet: Packet, body: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, packet.protocol, 0)
    head += _raw(packet.source) + _raw(packet.destination)
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + body


def _transport(packet: Packet) -> bytes:
    ports = struct.pack("!HH", packet.source_port, packet.port)
    token = packet.token.to_bytes(4, "big")
    if packet.protocol == SCTP:
        chunk = struct.pack("!BBH", _INIT, 0, 20) + token + struct.pack("!IHHI", 65536, 1, 1, 1)
        return ports + bytes(4) + _crc32c(ports + bytes(8) + chunk) + chunk
    if packet.protocol == UDP:
        body, at = ports + struct.pack("!HH", 16, 0) + MARK + token, 6
    else:
        body, at = ports + token + struct.pack("!IBBHHH", 0, 5 << 4, _SYN, 64240, 0, 0), 16
    return body[:at] + _checksum(packet, body) + body[at + 2 :]


def _checksum(packet: Packet, body: bytes) -> bytes:
    """Return the checksum of a TCP segment or UDP datagram that has zero in its place."""
    ends = _raw(packet.source) + _raw(packet.destination)
    found = _sum(ends + struct.pack("!HH", packet.protocol, len(body)) + body)
    # RFC 768: zero says that there is none.
    return struct.pack("!H", found or (0xFFFF if packet.protocol == UDP else 0))


def segment(packet: Packet, sequence: int, acknowledged: int) -> bytes:
    """Return a TCP segment of an open connection, with IPv4 header, that carries the token."""
    ports = struct.pack("!HH", packet.source_port, packet.port)
    flags = struct.pack("!BBHHH", 5 << 4, _ACK, 1, 0, 0)
    body = ports + struct.pack("!II", sequence, acknowledged) + flags
    body += MARK + packet.token.to_bytes(4, "big")
    return _in_ipv4(packet, body[:16] + _checksum(packet, body) + body[18:])


def _raw(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _sum(data: bytes) -> int:
    """Return the Internet checksum of an even number of bytes (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc32c(data: bytes) -> bytes:
    """Return SCTP's checksum as it is sent (RFC 9260, appendix A)."""
    if not _CRC_OF_BYTE:
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
            _CRC_OF_BYTE.append(byte)
    found = 0xFFFFFFFF
    for byte in data:
        found = _CRC_OF_BYTE[(found ^ byte) & 0xFF] ^ found >> 8
    return struct.pack("<I", found ^ 0xFFFFFFFF)


def seen(data: bytes) -> Packet | Error | None:
    """Return what a captured packet is, from its IP header on; None: nothing with a token."""
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        ends = [socket.inet_ntop(socket.AF_INET, data[at : at + 4]) for at in (12, 16)]
        return transported(ends[0], ends[1], data[9], data[(data[0] & 15) * 4 :])
    if data[0] >> 4 == 6 and len(data) >= 40:
        ends = [socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24)]
        return transported(ends[0], ends[1], data[6], data[40:])
    return None


def transported(source: str, destination: str, protocol: int, body: bytes) -> Packet | Error | None:
    """Return what a packet is, of whose IP header only this is known."""
    if protocol in (ICMP, ICMPV6):
        return _error(source, destination, protocol, body)
    found = _TOKENS[protocol](body) if protocol in _TOKENS else None
    if found is None:
        return None
    token, sort = found
    source_port, port = struct.unpack_from("!HH", body)
    return Packet(source, source_port, destination, port, protocol, token, sort)


def _error(source: str, destination: str, protocol: int, body: bytes) -> Error | None:
    if len(body) < 8 or body[0] not in _ERRORS[protocol]:
        return None
    quoted = seen(body[8:])
    if not isinstance(quoted, Packet):
        return None
    is_port = (body[0], body[1]) == _NO_PORT[protocol]
    sort = Sort.PORT_UNREACHABLE if is_port else Sort.UNREACHABLE
    return Error(source, destination, quoted, sort)


def _of_tcp(body: bytes) -> tuple[int, Sort] | None:
    if len(body) < 20:  # quoted by an ICMP error that gives no more than RFC 792 asks for
        return (int.from_bytes(body[4:8], "big"), Sort.REQUEST) if len(body) >= 8 else None
    number, acknowledged, offset, flags = struct.unpack_from("!IIBB", body, 4)
    payload = body[(offset >> 4) * 4 :]
    if payload[:4] == MARK and len(payload) == 8:
        return int.from_bytes(payload[4:], "big"), Sort.DATA
    match flags & (_SYN | _RST | _ACK):
        case 0x02:
            return number, Sort.REQUEST
        case 0x12:
            return acknowledged - 1 & 0xFFFFFFFF, Sort.ACCEPTED
        case 0x14:
            return acknowledged - 1 & 0xFFFFFFFF, Sort.RESET
    return None


def _of_udp(body: bytes) -> tuple[int, Sort] | None:
    if body[8:12] != MARK or len(body) < 16:
        return None
    return int.from_bytes(body[12:16], "big"), Sort.REQUEST


def _of_sctp(body: bytes) -> tuple[int, Sort] | None:
    if len(body) >= 20 and body[12] == _INIT:
        return int.from_bytes(body[16:20], "big"), Sort.REQUEST
    if len(body) >= 16 and body[12] == _ABORT:
        return int.from_bytes(body[4:8], "big"), Sort.RESET
    return None


_TOKENS = {TCP: _of_tcp, UDP: _of_udp, SCTP: _of_sctp}
