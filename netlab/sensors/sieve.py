"""What a sensor's socket takes of all frames, decided in the kernel: what may be a probe's.

Bulk data beside a probe would use the ring up before anybody reads it. A filter cannot search a
frame for the token, but it can look where a token is: where a payload begins, or behind the first
bytes of an answer of netlab's servers, which is JSON, or in HTTP as a probe's request puts it; and
take TCP segments with SYN or RST, and ICMP. The same inside VXLAN, on any port, inside datagrams
that begin as an IPv4 packet does (flannel's udp back end), and on devices without an Ethernet
header (its tun). Of IPv6 the same, inside VXLAN over IPv6 too; of that back end it has none.
Frames longer than any probe are left out.

A load beyond the end of the frame refuses it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from netlab.filters.machine import (
    ADD_X,
    AND,
    ANY,
    BYTE,
    BYTE_X,
    DEVICE_TYPE,
    EQUAL,
    GREATER,
    HALF,
    HALF_X,
    HEADER,
    LENGTH,
    RETURN,
    SHIFT,
    TO_X,
    WORD,
    WORD_X,
    Program,
    assembled,
    plain,
)

IPV4, IPV6 = 0x0800, 0x86DD  # Ethernet types
LONGEST = 1400  # bytes of a frame that is kept: a probe, its answer, an ICMP error quoting it
EVERYTHING = 65535  # bytes
ETHERNET = 14  # bytes
ETHERNET_TYPES = (1, 772)  # linux/if_arp.h: ARPHRD_ETHER, ARPHRD_LOOPBACK
BARE = 42  # bytes before the IP packet in a datagram of flannel's udp back end
INNER = 64  # bytes before the IP packet in VXLAN: Ethernet, IP 20, UDP 8, VXLAN 8, Ethernet
INNER_V6 = 84  # bytes before it in VXLAN over IPv6, whose header has 40
HEADER_V6 = 40  # bytes
TOKEN = int.from_bytes(b"netl", "big")  # how a token begins, and a flush marker
ANSWER = len('{"request":"')  # bytes of an answer before what it answers
REQUEST = 32  # bytes of an HTTP request before the token, if it is a probe's: see `http_target`
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n"
    b"Connection: keep-alive\r\n\r\n"
)
REPLY = len(_HEAD) + ANSWER + REQUEST  # bytes before the token in a server's answer to that
SYN_OR_RST = 0x06
VXLAN = 0x08000000  # RFC 7348: flags with the I bit alone, reserved zeroes


def http_target(path: str, token: bytes) -> str:
    """Return what to GET so that a sensor sees *token* in the request, whoever passes it on.

    Raises ValueError for a *path* that leaves no room.
    """
    room = REQUEST - len("GET ?") - len(path.encode())
    if room < 0:
        raise ValueError(f"{path} is too long")
    return f"{path}?{'-' * room}{token.decode()}"


def _by_device(headless: Program, ethernet: Program) -> Program:
    """Return *headless* for devices without an Ethernet header (a tun), *ethernet* for others."""
    return [
        plain(WORD, DEVICE_TYPE),
        *((EQUAL, one, "ethernet", "") for one in ETHERNET_TYPES),
        *headless,
        "ethernet",
        *ethernet,
    ]


def _wrapped(ip: int, tunnel: str, bare: str) -> Program:
    """Look at the payload of UDP, whose header X and *ip* lead to: go to *tunnel* for VXLAN, to
    *bare* for what begins as an IPv4 packet does; else the payload's first word is loaded."""
    return [
        plain(BYTE_X, ip + 8),
        (EQUAL, 0x45, bare, ""),
        plain(WORD_X, ip + 8),
        (EQUAL, VXLAN, tunnel, ""),
    ]


def _typed(ip: int, kind: int = IPV4) -> Program:
    return [plain(HALF, ip - 2), (EQUAL, kind, "", "drop")]


def _packet(ip: int, name: str, *, tunnel: str, bare: str = "drop") -> Program:
    """Look at the IP packet that starts at byte *ip*; *tunnel*: the label for UDP with VXLAN,
    *bare*: for UDP with an IPv4 packet."""
    return [
        plain(BYTE, ip + 9),
        (EQUAL, socket.IPPROTO_ICMP, "keep", ""),
        (EQUAL, socket.IPPROTO_TCP, "", f"{name} udp"),
        plain(HEADER, ip),
        plain(BYTE_X, ip + 13),
        (ANY, SYN_OR_RST, "keep", ""),
        plain(BYTE_X, ip + 12),
        plain(AND, 0xF0),
        plain(SHIFT, 2),
        plain(ADD_X, 0),
        plain(TO_X, 0),
        plain(WORD_X, ip),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD_X, ip + ANSWER),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD_X, ip + REQUEST),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD_X, ip + REPLY),
        (EQUAL, TOKEN, "keep", "drop"),
        f"{name} udp",
        (EQUAL, socket.IPPROTO_UDP, "", "drop"),
        plain(HEADER, ip),
        *_wrapped(ip, tunnel, bare),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD_X, ip + 8 + ANSWER),
        (EQUAL, TOKEN, "keep", "drop"),
    ]


def _packet_v6(ip: int, name: str, *, tunnel: str) -> Program:
    """Look at the IPv6 packet that starts at byte *ip*; *tunnel*: the label for UDP with VXLAN."""
    at = ip + HEADER_V6
    return [
        plain(BYTE, ip + 6),
        (EQUAL, socket.IPPROTO_ICMPV6, "keep", ""),
        (EQUAL, socket.IPPROTO_TCP, "", f"{name} udp"),
        plain(BYTE, at + 13),
        (ANY, SYN_OR_RST, "keep", ""),
        plain(BYTE, at + 12),
        plain(AND, 0xF0),
        plain(SHIFT, 2),
        plain(TO_X, 0),
        plain(WORD_X, at),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD_X, at + ANSWER),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD_X, at + REQUEST),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD_X, at + REPLY),
        (EQUAL, TOKEN, "keep", "drop"),
        f"{name} udp",
        (EQUAL, socket.IPPROTO_UDP, "", "drop"),
        plain(WORD, at + 8),
        (EQUAL, VXLAN, tunnel, ""),
        (EQUAL, TOKEN, "keep", ""),
        plain(WORD, at + 8 + ANSWER),
        (EQUAL, TOKEN, "keep", "drop"),
    ]


def program() -> bytes:
    """Return the filter as an array of struct sock_filter."""
    return _kept(
        [
            plain(LENGTH, 0),
            (GREATER, LONGEST, "drop", ""),
            *_by_device(
                _packet(0, "headless", tunnel="drop"),
                [
                    plain(HALF, ETHERNET - 2),
                    (EQUAL, IPV6, "six", ""),
                    (EQUAL, IPV4, "", "drop"),
                    *_packet(ETHERNET, "outer", tunnel="inner", bare="bare"),
                    "bare",
                    *_packet(BARE, "bare", tunnel="drop"),
                    "inner",
                    *_typed(INNER),
                    *_packet(INNER, "inner", tunnel="drop"),
                    "six",
                    *_packet_v6(ETHERNET, "outer six", tunnel="inner six"),
                    "inner six",
                    *_typed(INNER_V6, IPV6),
                    *_packet_v6(INNER_V6, "inner six", tunnel="drop"),
                ],
            ),
        ]
    )


def _kept(program: Program) -> bytes:
    """Return *program*, which jumps to `keep` or `drop`, as an array of struct sock_filter."""
    return assembled([*program, "keep", plain(RETURN, EVERYTHING), "drop", plain(RETURN, 0)])


def conversation(
    window: int | None, opening: bytes, ports: Iterable[int], further: Iterable[int] = ()
) -> bytes:
    """Return a filter for one conversation, both ways, in VXLAN too, and for ARP and ICMP.

    With *further*, for all TCP that has one of these ports, as well.
    *window*: what the upper half of its TCP sequence numbers is; None: it is UDP or ICMP, which
    begins with *opening*, and whose other packets have one of *ports*.
    """
    word = int.from_bytes(opening[:4], "big")
    wanted = sorted(set(ports if window is None else further))
    what = window, word, wanted
    return _kept(
        _by_device(
            _conversing(0, "headless", *what, tunnel="drop"),
            [
                plain(HALF, ETHERNET - 2),
                (EQUAL, 0x0806, "keep", ""),
                *_typed(ETHERNET),
                *_conversing(ETHERNET, "outer", *what, tunnel="inner", bare="bare"),
                "bare",
                *_conversing(BARE, "bare", *what, tunnel="drop"),
                "inner",
                *_typed(INNER),
                *_conversing(INNER, "inner", *what, tunnel="drop"),
            ],
        )
    )


def _of_ports(ip: int, ports: Sequence[int]) -> Program:
    """Keep what has one of *ports* at either end, and drop the rest; nothing without any."""
    found: Program = []
    for port in ports:
        for offset in (0, 2):
            found += [plain(HALF_X, ip + offset), (EQUAL, port, "keep", "")]
    return [*found, plain(RETURN, 0)] if found else []


def _conversing(
    ip: int,
    name: str,
    window: int | None,
    word: int,
    ports: Sequence[int],
    *,
    tunnel: str,
    bare: str = "drop",
) -> Program:
    if window is None:
        own: Program = [
            (EQUAL, socket.IPPROTO_UDP, "", "drop"),
            plain(HEADER, ip),
        ]
        for port in ports:  # first: an answer may be too short for the rest
            for offset in (0, 2):
                own += [plain(HALF_X, ip + offset), (EQUAL, port, "keep", "")]
        own += [
            *_wrapped(ip, tunnel, bare),
            (EQUAL, word, "keep", ""),
            (EQUAL, TOKEN, "keep", ""),
        ]
    else:
        own = [
            (EQUAL, socket.IPPROTO_TCP, "", f"{name} udp"),
            plain(HEADER, ip),
            plain(HALF_X, ip + 4),
            (EQUAL, window, "keep", ""),
            plain(HALF_X, ip + 8),
            (EQUAL, window, "keep", "" if ports else "drop"),
            *_of_ports(ip, ports),
            f"{name} udp",
            (EQUAL, socket.IPPROTO_UDP, "", "drop"),
            plain(HEADER, ip),
            *_wrapped(ip, tunnel, bare),
            (EQUAL, TOKEN, "keep", ""),
        ]
    return [
        plain(BYTE, ip + 9),
        (EQUAL, socket.IPPROTO_ICMP, "keep", ""),
        *own,
        plain(RETURN, 0),
    ]
