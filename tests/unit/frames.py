"""Frames made by hand, with no code of netlab's."""

from __future__ import annotations

import struct
from ipaddress import ip_address

MACS = bytes.fromhex("020000000002020000000001")
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132, "icmp6": 58}


def transport(
    protocol: str,
    ports: tuple[int, int],
    payload: bytes,
    *,
    flags: int = 0x18,
    numbers: tuple[int, int] = (7, 9),
) -> bytes:
    if protocol == "tcp":
        return struct.pack("!HHIIBBHHH", *ports, *numbers, 0x50, flags, 512, 0xBEEF, 0) + payload
    if protocol == "udp":
        return struct.pack("!HHHH", *ports, 8 + len(payload), 0xBEEF) + payload
    if protocol == "sctp":
        return struct.pack("!HHII", *ports, 1, 0xBEEF) + payload
    return struct.pack("!BBHHH", ports[0], ports[1], 0xBEEF, 5, 1) + payload


def ip4(
    source: str,
    destination: str,
    protocol: str = "tcp",
    ports: tuple[int, int] = (40000, 80),
    payload: bytes = b"payload",
    *,
    ttl: int = 64,
    ident: int = 4711,
    fragment: int = 0,
    options: bytes = b"",
    flags: int = 0x18,
    numbers: tuple[int, int] = (7, 9),
) -> bytes:
    body = transport(protocol, ports, payload, flags=flags, numbers=numbers)
    length = 5 + len(options) // 4
    ends = ip_address(source).packed + ip_address(destination).packed
    head = struct.pack(
        "!BBHHHBBH",
        *(0x40 | length, 0, length * 4 + len(body), ident, fragment),
        *(ttl, PROTOCOLS[protocol], 0xDEAD),
    )
    return head + ends + options + body


def ip6(
    source: str,
    destination: str,
    protocol: str = "tcp",
    ports: tuple[int, int] = (40000, 80),
    payload: bytes = b"payload",
) -> bytes:
    body = transport(protocol, ports, payload)
    ends = ip_address(source).packed + ip_address(destination).packed
    return struct.pack("!IHBB", 6 << 28, len(body), PROTOCOLS[protocol], 64) + ends + body


def ether(packet: bytes, kind: int = 0) -> bytes:
    kind = kind or (0x0800 if packet[0] >> 4 == 4 else 0x86DD)
    return MACS + struct.pack("!H", kind) + packet


def vxlan(frame: bytes, source: str, destination: str, *, vni: int = 1, port: int = 8472) -> bytes:
    payload = b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0" + frame
    return ether(ip4(source, destination, "udp", (55555, port), payload, ident=1))


def arp(source: str, destination: str) -> bytes:
    ends = MACS[6:] + ip_address(source).packed + bytes(6) + ip_address(destination).packed
    return ether(struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + ends, 0x0806)
