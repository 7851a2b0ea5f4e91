"""Packets on their way through flannel's udp process, beside scapy's reading of them."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet

from netlab.encapsulation import datagrams
from netlab.encapsulation.server import Peers

PODS = {"src": "10.244.1.2", "dst": "10.244.2.3"}


def packet(**more: object) -> Packet:
    return IP(**PODS, **more) / UDP(sport=1, dport=53) / b"netlab"


@pytest.mark.parametrize("seed", range(50))
def test_one_less_to_live_and_the_checksum_is_right(seed: int) -> None:
    rng = random.Random(seed)
    sent = packet(ttl=rng.randint(2, 255), id=rng.randrange(65536), tos=rng.randrange(256))
    raw = bytearray(bytes(sent))
    assert datagrams.aged(raw)
    wanted = IP(bytes(sent))
    wanted.ttl -= 1
    del wanted.chksum
    assert bytes(raw) == bytes(wanted)


@pytest.mark.parametrize("ttl", [0, 1])
def test_what_has_lived_its_life_goes_no_further(ttl: int) -> None:
    raw = bytearray(bytes(packet(ttl=ttl)))
    assert not datagrams.aged(raw)


@pytest.mark.parametrize(
    ("what", "kind", "code"),
    [(datagrams.NET_UNREACHABLE, 3, 0), (datagrams.TIME_EXCEEDED, 11, 0)],
)
def test_a_refusal_quotes_the_packet_and_has_right_checksums(
    what: tuple[int, int], kind: int, code: int
) -> None:
    sent = IP(**PODS, options=b"\x01" * 4) / TCP(sport=4001, dport=80)
    told = IP(datagrams.refusal(bytes(sent), "10.244.1.1", what))
    assert (told.src, told.dst, told.ttl) == ("10.244.1.1", "10.244.1.2", datagrams.ERROR_TTL)
    assert (told[ICMP].type, told[ICMP].code) == (kind, code)
    assert bytes(told[ICMP].payload) == bytes(sent)[: 24 + 8]
    again = IP(bytes(told))
    del again.chksum, again[ICMP].chksum
    assert bytes(again) == bytes(told)


@pytest.mark.parametrize(
    "sent",
    [IP(**PODS) / ICMP(), packet(frag=5)],
    ids=["about-icmp", "about-a-later-fragment"],
)
def test_no_refusal_is_due(sent: Packet) -> None:
    assert datagrams.refusal(bytes(sent), "10.244.1.1", datagrams.NET_UNREACHABLE) == b""


@pytest.mark.parametrize("raw", [b"", b"\x45" * 19, b"\x60" + bytes(60)])
def test_what_is_no_ipv4_packet_is_for_nobody(raw: bytes) -> None:
    assert datagrams.destination(raw) == -1


def test_the_longest_prefix_leads_the_way() -> None:
    peers = Peers([("10.244.0.0/16", "1.1.1.1"), ("10.244.2.0/24", "2.2.2.2")])
    found = [peers.of(datagrams.destination(bytes(IP(dst=one)))) for one in
             ("10.244.2.9", "10.244.3.9", "10.245.0.1")]  # fmt: skip
    assert found == ["2.2.2.2", "1.1.1.1", ""]
