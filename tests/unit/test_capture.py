"""What a capture tells from a frame at a glance, with frames made by scapy."""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from netlab.sensors.capture import Opening, opening

PODS = {"src": "10.244.1.2", "dst": "10.244.2.3"}
ENDS = socket.inet_aton(PODS["src"]) + socket.inet_aton(PODS["dst"]) + b"\x9c\x41\x00\x50"


def segment(flags: str, *, seq: int = 0, ack: int = 0) -> Packet:
    return Ether() / IP(**PODS) / TCP(sport=40001, dport=80, flags=flags, seq=seq, ack=ack)


def tunnelled(inner: Packet) -> Packet:
    envelope = UDP(dport=8472) / VXLAN(flags="Instance", NextProtocol=0, vni=1)
    return Ether() / IP(src="192.168.50.11", dst="192.168.50.12") / envelope / inner


def datagram(packet: Packet) -> Packet:
    """As flannel's udp back end sends it."""
    return Ether() / IP(src="192.168.50.11", dst="192.168.50.12") / UDP(dport=8285) / packet[IP]


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        pytest.param(segment("S", seq=7), Opening(7, ENDS), id="syn"),
        pytest.param(segment("SA", seq=99, ack=8), Opening(7), id="syn-ack"),
        pytest.param(segment("RA", ack=8), Opening(7), id="reset-of-a-syn"),
        pytest.param(
            segment("SA", ack=0), Opening(0xFFFFFFFF), id="number-at-the-end-of-its-range"
        ),
        pytest.param(tunnelled(segment("S", seq=7)), Opening(7), id="syn-in-vxlan"),
        pytest.param(tunnelled(segment("SA", ack=8)), Opening(7), id="syn-ack-in-vxlan"),
        pytest.param(datagram(segment("S", seq=7)), Opening(7), id="syn-in-a-datagram"),
        pytest.param(datagram(segment("SA", ack=8)), Opening(7), id="syn-ack-in-a-datagram"),
        pytest.param(datagram(segment("A", ack=8)), None, id="ack-in-a-datagram"),
        pytest.param(segment("A", ack=8), None, id="ack"),
        pytest.param(segment("PA", ack=8) / b"netlab:", None, id="data"),
        pytest.param(Ether() / IP(**PODS) / UDP() / bytes(60), None, id="udp"),
        pytest.param(tunnelled(Ether() / IP(**PODS) / UDP() / bytes(60)), None, id="udp-in-vxlan"),
        pytest.param(Ether() / IP(**PODS) / ICMP() / bytes(60), None, id="icmp"),
        pytest.param(Ether() / (b"\x45" * 5), None, id="cut-off"),
    ],
)
def test_what_opens_a_connection_is_known_by_the_number_of_its_syn(
    packet: Packet, found: Opening | None
) -> None:
    assert opening(bytes(packet)) == found


@pytest.mark.parametrize(
    ("flags", "found"), [("S", Opening(7, ENDS)), ("SA", Opening(7)), ("A", None)]
)
def test_on_a_tun_device_a_frame_begins_with_its_ip_header(
    flags: str, found: Opening | None
) -> None:
    packet = bytes(segment(flags, seq=7, ack=8)[IP])
    assert opening(packet, headless=True) == found
