"""What a sensor's socket takes of all frames, decided in the kernel: what may be a probe's.

Bulk data beside a probe would use the ring up before anybody reads it. A filter cannot search a
frame for the token, but it can look where a token is: where a payload begins, or behind the first
bytes of an answer of netlab's servers, which is JSON; and take TCP segments with SYN or RST, and
ICMP. The same inside VXLAN, on any port. Frames longer than any probe are left out.

Classic BPF (linux/filter.h), in which a load beyond the end of the frame refuses it.
"""

from __future__ import annotations

import socket
import struct

LONGEST = 1400  # bytes of a frame that is kept: a probe, its answer, an ICMP error quoting it
EVERYTHING = 65535  # bytes
ETHERNET = 14  # bytes
INNER = 64  # bytes before the IP packet in VXLAN: Ethernet, IP 20, UDP 8, VXLAN 8, Ethernet
TOKEN = int.from_bytes(b"netl", "big")  # how a token begins, and a flush marker
ANSWER = len('{"request":"')  # bytes of an answer before what it answers
SYN_OR_RST = 0x06
VXLAN = 0x08000000  # RFC 7348: flags with the I bit alone, reserved zeroes

# Codes: LD word, half, byte at k; at X + k. LDX 4 * (byte & 0xf), an IP header's length.
_LENGTH, _WORD, _HALF, _BYTE = 0x80, 0x20, 0x28, 0x30
_WORD_X, _BYTE_X, _HEADER = 0x40, 0x50, 0xB1
_AND, _SHIFT, _ADD_X, _TO_X = 0x54, 0x74, 0x0C, 0x07
_EQUAL, _GREATER, _ANY, _RETURN = 0x15, 0x25, 0x45, 0x06

Step = tuple[int, int, str, str]  # code, k, label if true, label if false; "": the next step
Program = list[Step | str]  # a text is the label of the step after it


def _plain(code: int, k: int) -> Step:
    return code, k, "", ""


def _packet(ip: int, name: str, *, tunnel: str) -> Program:
    """Look at the IP packet that starts at byte *ip*; *tunnel*: the label for UDP with VXLAN."""
    return [
        _plain(_HALF, ip - 2),
        (_EQUAL, 0x0800, "", "drop"),
        _plain(_BYTE, ip + 9),
        (_EQUAL, socket.IPPROTO_ICMP, "keep", ""),
        (_EQUAL, socket.IPPROTO_TCP, "", f"{name} udp"),
        _plain(_HEADER, ip),
        _plain(_BYTE_X, ip + 13),
        (_ANY, SYN_OR_RST, "keep", ""),
        _plain(_BYTE_X, ip + 12),
        _plain(_AND, 0xF0),
        _plain(_SHIFT, 2),
        _plain(_ADD_X, 0),
        _plain(_TO_X, 0),
        _plain(_WORD_X, ip),
        (_EQUAL, TOKEN, "keep", ""),
        _plain(_WORD_X, ip + ANSWER),
        (_EQUAL, TOKEN, "keep", "drop"),
        f"{name} udp",
        (_EQUAL, socket.IPPROTO_UDP, "", "drop"),
        _plain(_HEADER, ip),
        _plain(_WORD_X, ip + 8),
        (_EQUAL, TOKEN, "keep", ""),
        (_EQUAL, VXLAN, tunnel, ""),
        _plain(_WORD_X, ip + 8 + ANSWER),
        (_EQUAL, TOKEN, "keep", "drop"),
    ]


def program() -> bytes:
    """Return the filter as an array of struct sock_filter."""
    steps: Program = [
        _plain(_LENGTH, 0),
        (_GREATER, LONGEST, "drop", ""),
        *_packet(ETHERNET, "outer", tunnel="inner"),
        "inner",
        *_packet(INNER, "inner", tunnel="drop"),
        "keep",
        _plain(_RETURN, EVERYTHING),
        "drop",
        _plain(_RETURN, 0),
    ]
    places: dict[str, int] = {}
    flat: list[Step] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(flat)
        else:
            flat.append(step)

    def jump(at: int, label: str) -> int:
        return places[label] - at - 1 if label else 0

    return b"".join(
        struct.pack("=HBBI", code, jump(at, true), jump(at, false), k)
        for at, (code, k, true, false) in enumerate(flat)
    )
