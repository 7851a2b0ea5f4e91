"""Packets made by scapy, for flows that need no socket of the kernel's at the sender.

A flow that is to be answered over TCP or UDP is sent from a real socket instead (`sending`):
a SYN made here would get a reset from its own sender's kernel.
"""

from __future__ import annotations

from netlab.packets import Flow
from netlab.sensors.dissect import layers


def echo_request(token: bytes, *, ident: int, sequence: int = 1) -> bytes:
    """Return an ICMP echo request (RFC 792) that carries *token*, without IP header."""
    made = layers().icmp(type=8, id=ident, seq=sequence) / token
    return bytes(made)


def syn(flow: Flow, token: bytes, *, sequence: int = 1) -> bytes:
    """Return a TCP SYN that carries *token*, with IP header, as a port scanner sends one."""
    scapy = layers()
    tcp = scapy.tcp(sport=flow.source_port, dport=flow.destination_port, flags="S", seq=sequence)
    return bytes(scapy.ip(src=flow.source, dst=flow.destination) / tcp / token)


def datagram(flow: Flow, token: bytes) -> bytes:
    """Return a UDP datagram that carries *token*, with IP header."""
    scapy = layers()
    udp = scapy.udp(sport=flow.source_port, dport=flow.destination_port)
    return bytes(scapy.ip(src=flow.source, dst=flow.destination) / udp / token)
