"""A packet made by hand: an echo request, for which the kernel has no ordinary socket.

A flow over TCP or UDP is sent from a real socket instead (`sending`): a SYN made here would get a
reset from its own sender's kernel.
"""

from __future__ import annotations

from struct import pack, unpack

_ECHO_REQUEST = 8  # ICMP type, RFC 792
_ECHO_REQUEST_V6 = 128  # ICMPv6 type, RFC 4443


def echo_request(token: bytes, *, ident: int, sequence: int = 1, ipv6: bool = False) -> bytes:
    """Return an ICMP echo request (RFC 792) that carries *token*, without IP header.

    *ipv6*: one of ICMPv6, whose checksum the kernel fills in, as it is of the addresses too.
    """
    fields = ident, sequence, token
    if ipv6:
        return pack(f"!BBHHH{len(token)}s", _ECHO_REQUEST_V6, 0, 0, *fields)
    unsigned = pack(f"!BBHHH{len(token)}s", _ECHO_REQUEST, 0, 0, *fields)
    return pack(f"!BBHHH{len(token)}s", _ECHO_REQUEST, 0, checksum(unsigned), *fields)


def checksum(data: bytes) -> int:
    """Return the internet checksum of *data* (RFC 1071), in which its own field is zero."""
    data += bytes(len(data) % 2)
    total: int = sum(unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
