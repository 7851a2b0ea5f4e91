"""IPv4 packets on their way through a process: one more to live by less, and what is said of those
that go no further.

Source: RFC 791, 792, 1624; flannel v0.28 pkg/backend/udp/proxy_amd64.c.
"""

from __future__ import annotations

import socket
from struct import Struct

HEADER = 20  # bytes
ICMP, NET_UNREACHABLE, TIME_EXCEEDED = 1, (3, 0), (11, 0)
ERROR_TTL = 8  # flannel's
_QUOTED = 8  # bytes behind the header that an error quotes
_word = Struct("!H")
_header = Struct("!BBHHHBBH4s4s")


def destination(packet: bytes | bytearray) -> int:
    """Return where an IPv4 packet is for, as a number; -1 if it is no such packet."""
    if len(packet) < HEADER or packet[0] >> 4 != 4:
        return -1
    return int.from_bytes(packet[16:20], "big")


def aged(packet: bytearray) -> bool:
    """Take one off the TTL, and keep the checksum right; return whether it still lives.

    The TTL is the upper half of a word, so its sum grows by 0x100 (RFC 1624, eqn. 3).
    """
    if packet[8] <= 1:
        return False
    packet[8] -= 1
    total = _word.unpack_from(packet, 10)[0] + 0x100
    _word.pack_into(packet, 10, (total + (total >> 16)) & 0xFFFF)
    return True


def checksum(data: bytes) -> int:
    """Return the Internet checksum of *data* (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(word for (word,) in _word.iter_unpack(data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def refusal(packet: bytes | bytearray, source: str, what: tuple[int, int]) -> bytes:
    """Return the ICMP error *what* about *packet*, from the address *source*; b"" when none is due:
    none is about ICMP, nor about a fragment but the first.
    """
    length = (packet[0] & 0xF) * 4
    fragment = _word.unpack_from(packet, 6)[0] & 0x1FFF
    if packet[9] == ICMP or fragment or len(packet) < length:
        return b""
    quoted = bytes(packet[: length + _QUOTED])
    kind, code = what
    message = bytes([kind, code]) + bytes(6) + quoted
    message = message[:2] + _word.pack(checksum(message)) + message[4:]
    ends = socket.inet_aton(source), bytes(packet[12:16])
    total = HEADER + len(message)
    bare = _header.pack(0x45, 0, total, 0, 0, ERROR_TTL, ICMP, 0, *ends)
    return bare[:10] + _word.pack(checksum(bare)) + bare[12:] + message
