"""A frame taken apart by scapy: the sighting it stands for.

scapy takes 0.3 s to import, so it is imported at first use; `warm()` does it beforehand, while
something else is waited for.
"""

from __future__ import annotations

import logging
from typing import Any

from netlab.packets import Direction, Flow, Outer, Protocol, Sighting
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

# Of the transport's header, by protocol number: ICMP, TCP, UDP
_CHECKSUM_AT = {1: 2, 6: 16, 17: 6}


class Layers:
    """scapy's layers, loaded once."""

    def __init__(self) -> None:
        # Without this, scapy warns on stderr of every interface that has no address.
        logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
        from scapy.layers.inet import ICMP, IP, TCP, UDP
        from scapy.layers.l2 import Ether
        from scapy.layers.vxlan import VXLAN

        self.ether, self.ip, self.icmp, self.tcp, self.udp = Ether, IP, ICMP, TCP, UDP
        self.vxlan = VXLAN


_layers: Layers | None = None


def layers() -> Layers:
    """Return scapy's layers, importing them at the first call."""
    global _layers
    if _layers is None:
        _layers = Layers()
    return _layers


def warm() -> None:
    """Import scapy now; call it in a thread while waiting for something else."""
    layers()


def sighting(frame: Frame, *, netns: str, device: str) -> Sighting | None:
    """Return what *frame* shows; None when it is no IPv4 packet of a protocol netlab sends."""
    scapy = layers()
    packet = _unusual_vxlan(scapy, scapy.ether(frame.data))
    outer = None
    if scapy.vxlan in packet and scapy.ip in packet[scapy.vxlan]:
        outer = _outer(scapy, packet)
        packet = packet[scapy.vxlan].payload
    if scapy.ip not in packet:
        return None
    ip = packet[scapy.ip]
    flow, icmp = _flow(scapy, ip)
    if flow is None:
        return None
    return Sighting(
        time=frame.time,
        netns=netns,
        device=device,
        direction=Direction.OUT if frame.outgoing else Direction.IN,
        flow=flow,
        ttl=ip.ttl,
        length=ip.len,
        source_mac=packet.src,
        destination_mac=packet.dst,
        outer=outer,
        ip_id=ip.id,
        foreign=frame.foreign,
        icmp=icmp,
        content=content(bytes(ip.original)[: ip.len]),
    )


def content(packet: bytes) -> bytes:
    """Return an IPv4 packet with zeroes for its TTL and checksums: what must arrive as it was sent.

    The transport's checksum may be left to a card that never sees the packet (CHECKSUM_PARTIAL).
    """
    kept, header = bytearray(packet), (packet[0] & 0xF) * 4
    at = header + _CHECKSUM_AT.get(packet[9], len(packet))
    for start, end in ((8, 9), (10, 12), (at, at + 2)):
        kept[start:end] = bytes(len(kept[start:end]))
    return bytes(kept)


def _unusual_vxlan(scapy: Layers, packet: Any) -> Any:
    """*packet* with VXLAN recognised on any UDP port: flannel's `Backend.Port` may be any."""
    if scapy.udp not in packet or scapy.vxlan in packet or scapy.icmp in packet:
        return packet
    data = bytes(packet[scapy.udp].payload)
    # RFC 7348: flags with the I bit alone, reserved zeroes; then Ethernet with IPv4.
    if data[:4] == b"\x08\0\0\0" and data[7:8] == b"\0" and data[20:23] == b"\x08\0\x45":
        packet[scapy.udp].remove_payload()
        packet[scapy.udp].add_payload(scapy.vxlan(data))
    return packet


def _outer(scapy: Layers, packet: Any) -> Outer:
    ip, udp = packet[scapy.ip], packet[scapy.udp]
    return Outer(ip.src, ip.dst, packet[scapy.vxlan].vni, udp.sport, udp.dport, ip.ttl)


def _flow(scapy: Layers, ip: Any) -> tuple[Flow | None, str]:
    if scapy.icmp in ip:
        message = ip[scapy.icmp]
        name = ICMP_NAMES.get((message.type, message.code), f"icmp-{message.type}-{message.code}")
        return Flow(ip.src, ip.dst, Protocol.ICMP), name
    for layer, protocol in ((scapy.tcp, Protocol.TCP), (scapy.udp, Protocol.UDP)):
        if layer in ip:
            ports = ip[layer]
            return Flow(ip.src, ip.dst, protocol, ports.sport, ports.dport), ""
    return None, ""
