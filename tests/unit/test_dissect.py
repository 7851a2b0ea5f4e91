"""Frames taken apart by hand, beside scapy's reading of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from netlab.packets import BARE, Direction, Flow, Outer, Protocol, Sighting
from netlab.sensors import dissect
from netlab.sensors.build import checksum, echo_request
from netlab.sensors.ring import Frame

MARK = b"netlab:0123456789abcdef"
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
INNER = Ether(src="ee:73:1b:b0:cd:3a", dst="d2:1a:b6:2f:34:92")
PODS = {"src": "10.244.1.2", "dst": "10.244.2.3"}
NODES = {"src": "192.168.50.11", "dst": "192.168.50.12"}
SYN = TCP(sport=40001, dport=80, flags="S", options=[("MSS", 1460), ("Timestamp", (1, 0))])
QUOTED = IP(ttl=3, **PODS) / UDP(sport=40001, dport=53) / MARK


def tunnelled(packet: Packet, *, port: int = 8472, vni: int = 1, options: Any = None) -> Packet:
    envelope = UDP(sport=51234, dport=port) / VXLAN(flags="Instance", NextProtocol=0, vni=vni)
    return LINK / IP(ttl=62, id=7, options=options or [], **NODES) / envelope / INNER / packet


SEEN = [
    pytest.param(LINK / IP(**PODS) / TCP(sport=40001, dport=80) / MARK, id="tcp"),
    pytest.param(LINK / IP(ttl=1, id=0xBEEF, **PODS) / UDP(sport=9, dport=53) / MARK, id="udp"),
    pytest.param(LINK / IP(**PODS) / ICMP(type=8, id=5) / MARK, id="echo-request"),
    pytest.param(LINK / IP(**PODS) / ICMP(type=0, id=5) / MARK, id="echo-reply"),
    pytest.param(LINK / IP(**PODS) / SYN, id="tcp-options"),
    pytest.param(LINK / IP(**PODS) / TCP(sport=1, dport=2), id="tcp-empty"),
    pytest.param(LINK / IP(**PODS) / UDP(sport=1, dport=2), id="udp-empty"),
    pytest.param(
        LINK / IP(options=[IPOption_RR(routers=["0.0.0.0"] * 3)], **PODS) / UDP() / MARK,
        id="ip-options",
    ),
    pytest.param(
        LINK / IP(options=[IPOption_RR(routers=["0.0.0.0"] * 9)], **PODS) / SYN / MARK,
        id="ip-options-all-there-is-room-for",
    ),
    pytest.param(LINK / IP(flags="MF", **PODS) / UDP(sport=1, dport=2) / MARK, id="first-fragment"),
    pytest.param(LINK / IP(**PODS) / ICMP(type=3, code=3) / QUOTED, id="port-unreachable"),
    pytest.param(LINK / IP(**PODS) / ICMP(type=3, code=13) / QUOTED, id="admin-prohibited"),
    pytest.param(LINK / IP(**PODS) / ICMP(type=11, code=0) / QUOTED, id="time-exceeded"),
    pytest.param(LINK / IP(**PODS) / ICMP(type=42, code=9) / MARK, id="unnamed-icmp"),
    pytest.param(
        LINK / IP(**NODES) / ICMP(type=3, code=1) / bytes(tunnelled(QUOTED))[14:],
        id="icmp-quoting-an-envelope",
    ),
    pytest.param(tunnelled(IP(**PODS) / SYN / MARK), id="vxlan-8472"),
    pytest.param(tunnelled(IP(**PODS) / UDP() / MARK, port=4789, vni=0xABCDEF), id="vxlan-4789"),
    pytest.param(tunnelled(IP(**PODS) / ICMP() / MARK, port=12345), id="vxlan-on-an-odd-port"),
    pytest.param(
        tunnelled(IP(**PODS) / SYN / MARK, options=[IPOption_RR(routers=["0.0.0.0"])]),
        id="vxlan-with-ip-options-outside",
    ),
    pytest.param(tunnelled(IP(**PODS) / ICMP(type=3, code=0) / QUOTED), id="vxlan-icmp-error"),
    pytest.param(tunnelled(ARP(pdst="10.244.2.3"), port=12345), id="vxlan-arp"),
    pytest.param(LINK / IP(**PODS) / UDP(sport=1, dport=7) / (b"\x08" + bytes(60)), id="alike"),
    pytest.param(LINK / IP(**PODS) / UDP(sport=1, dport=2) / MARK / Raw(bytes(1300)), id="long"),
]

UNSEEN = [
    pytest.param(LINK / ARP(pdst="10.244.2.3"), id="arp"),
    pytest.param(LINK / IPv6() / SCTP() / MARK, id="sctp-over-ipv6"),
    pytest.param(LINK / IP(**PODS) / SCTP(sport=1, dport=2), id="sctp"),
    pytest.param(LINK / IP(frag=5, proto=17, **PODS) / Raw(MARK * 4), id="later-fragment"),
    pytest.param(LINK / Dot1Q(vlan=5) / IP(**PODS) / UDP() / MARK, id="vlan"),
    pytest.param(tunnelled(IP(**PODS) / SCTP(sport=1, dport=2)), id="vxlan-sctp"),
    pytest.param(tunnelled(IP(frag=5, proto=17, **PODS) / Raw(MARK * 2)), id="vxlan-fragment"),
    pytest.param(LINK / IP(len=10, **PODS) / UDP() / MARK, id="shorter-than-its-headers"),
    pytest.param(LINK / IP(ihl=4, **PODS) / UDP() / MARK, id="header-too-short"),
    pytest.param(LINK / IP(version=5, **PODS) / UDP() / MARK, id="another-version"),
]


def seen(data: bytes) -> Sighting | None:
    return dissect.sighting(Frame(5, 2, True, False, data), netns="n", device="d")


def scapys(data: bytes) -> Sighting | None:
    """Return scapy's reading of *data*, as a sighting without `content`."""
    packet: Any = Ether(data)
    outer = None
    if IP in packet and isinstance(packet[IP].payload, UDP):
        envelope: Any = VXLAN(bytes(packet[UDP].payload))
        if envelope.flags == "Instance" and IP in envelope:
            ip, udp = packet[IP], packet[UDP]
            outer = Outer(ip.src, ip.dst, envelope.vni, udp.sport, udp.dport, ip.ttl)
            packet = envelope[Ether]
    if IP not in packet:
        return None
    ip = packet[IP]
    kinds = {ICMP: Protocol.ICMP, TCP: Protocol.TCP, UDP: Protocol.UDP}
    layer = next((layer for layer in kinds if layer in ip), None)
    if layer is None:
        return None
    ports = () if layer is ICMP else (ip[layer].sport, ip[layer].dport)
    icmp = ""
    if layer is ICMP:
        kind, code = ip[ICMP].type, ip[ICMP].code
        icmp = dissect.ICMP_NAMES.get((kind, code), f"icmp-{kind}-{code}")
    return Sighting(
        *(5, "n", "d", Direction.OUT),
        Flow(ip.src, ip.dst, kinds[layer], *ports),
        *(ip.ttl, ip.len, packet.src, packet.dst, outer, ip.id),
        icmp=icmp,
        frame=data,
    )


@pytest.mark.parametrize("packet", SEEN)
def test_a_frame_reads_as_scapy_reads_it(packet: Packet) -> None:
    data = bytes(packet)
    found, expected = seen(data), scapys(data)
    assert found is not None and expected is not None
    assert replace(found, content=b"") == expected


@pytest.mark.parametrize("packet", UNSEEN)
def test_what_no_probe_can_be_is_no_sighting(packet: Packet) -> None:
    assert seen(bytes(packet)) is None


def test_an_icmp_error_is_named_and_told_from_what_it_quotes() -> None:
    found = seen(bytes(LINK / IP(**NODES) / ICMP(type=3, code=3) / QUOTED))
    assert found is not None
    assert (found.icmp, found.flow) == (
        "port-unreachable",
        Flow(NODES["src"], NODES["dst"], Protocol.ICMP),
    )
    assert MARK in found.content


@pytest.mark.parametrize("packet", SEEN)
def test_a_frame_cut_off_anywhere_reads_as_the_whole_one_or_not_at_all(packet: Packet) -> None:
    data = bytes(packet)
    whole = seen(data)
    assert whole is not None
    for length in range(len(data)):
        found = seen(data[:length])
        if found is not None and found.outer == whole.outer:
            assert replace(found, frame=data, content=whole.content) == whole
        elif found is not None:  # of an envelope that was cut off, the outside
            assert (found.flow.protocol, found.outer) == (Protocol.UDP, None)


@pytest.mark.parametrize("packet", SEEN)
def test_garbage_never_raises(packet: Packet) -> None:
    data, chance = bytes(packet), random.Random(1)
    for _ in range(1500):
        spoilt = bytearray(data[: chance.randint(0, len(data))])
        for _ in range(chance.randint(1, 8)):
            if spoilt:
                spoilt[chance.randrange(len(spoilt))] = chance.choice((0, 1, 0x45, 0xFF))
        seen(bytes(spoilt))
        seen(chance.randbytes(chance.randint(0, 120)))


@pytest.mark.parametrize("protocol", [SYN, UDP(), ICMP()], ids=["tcp", "udp", "icmp"])
def test_content_is_all_but_ttl_and_checksums(protocol: Packet) -> None:
    sent = LINK / IP(ttl=64, **PODS) / protocol / MARK
    arrived = sent.copy()
    arrived[IP].ttl = 62
    arrived[type(protocol)].chksum = 0x1234
    other = LINK / IP(ttl=64, **PODS) / protocol / MARK.replace(b"5", b"6")
    first, second, third = (seen(bytes(one)) for one in (sent, arrived, other))
    assert first and second and third
    assert second.content == first.content != third.content


def test_what_pads_a_short_frame_is_not_of_the_packet() -> None:
    packet = bytes(LINK / IP(**PODS) / UDP() / b"x")
    found, padded = seen(packet), seen(packet + bytes(20))
    assert found is not None and padded is not None
    assert padded.content == found.content


@pytest.mark.parametrize("token", [b"", b"x", MARK, MARK + b"!"], ids=len)
def test_an_echo_request_is_the_one_scapy_makes(token: bytes) -> None:
    made = echo_request(token, ident=0xABCD, sequence=3)
    assert made == bytes(ICMP(type=8, id=0xABCD, seq=3) / token)


def test_a_checksum_carries_over_more_than_once() -> None:
    assert checksum(b"\xff\xff" * 70_000 + b"\x00\x01") == 0xFFFE


@pytest.mark.parametrize(
    "packet", [one for one in SEEN if "fragment" not in str(one.id)], ids=lambda one: None
)
def test_a_frame_without_ethernet_is_seen_as_with_it(packet: Packet) -> None:
    whole = seen(bytes(packet))
    bare = dissect.sighting(
        Frame(5, 2, True, False, bytes(packet)[14:], headless=True), netns="n", device="d"
    )
    assert whole is not None
    assert bare == replace(whole, source_mac=bare.source_mac if whole.outer else "",
                           destination_mac=bare.destination_mac if whole.outer else "",
                           frame=bytes(packet)[14:])  # fmt: skip


@pytest.mark.parametrize("port", [8285, 7])
def test_a_bare_packet_in_a_datagram_is_opened(port: int) -> None:
    inner = IP(ttl=62, **PODS) / SYN
    envelope = LINK / IP(ttl=64, **NODES) / UDP(sport=port, dport=port)
    found, alone = seen(bytes(envelope / inner)), seen(bytes(LINK / inner))
    assert found is not None and alone is not None
    outer = Outer(NODES["src"], NODES["dst"], BARE, port, port, 64)
    assert found == replace(
        alone, outer=outer, source_mac="", destination_mac="", frame=found.frame
    )


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"E" * 40, id="begins-like-one"),
        pytest.param(bytes(IP(chksum=1, **PODS) / SYN), id="wrong-checksum"),
        pytest.param(bytes(IP(**PODS) / SYN) + b"x", id="longer-than-it-says"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_datagram_that_holds_no_packet_is_itself(payload: bytes) -> None:
    found = seen(bytes(LINK / IP(**NODES) / UDP(sport=8285, dport=8285) / payload))
    assert found is not None and found.outer is None
    assert found.flow == Flow(NODES["src"], NODES["dst"], Protocol.UDP, 8285, 8285)
