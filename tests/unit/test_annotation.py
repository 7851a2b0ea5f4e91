"""What is said of captured packets: names, hops, rewrites, rules."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from fake_lab import DOCUMENTS, FakeLive
from frames import MACS, arp, ether, ip4, ip6, vxlan

from netlab import pcapng
from netlab.annotation.blocks import STRANGER, Annotator, Met, Rules
from netlab.annotation.headers import ARP, Ends, headers
from netlab.annotation.names import Names, names
from netlab.annotation.sightings import FORGET, Sightings
from netlab.packets import unchanged
from netlab.sensors import traces

PAIR, WEB, NODE1, NODE2 = "10.244.1.2", "10.244.2.2", "192.168.50.11", "192.168.50.12"
SERVICE, OUTSIDE = "10.96.0.7", "203.0.113.10"
SERVED = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "served", "namespace": "default"},
    "spec": {"clusterIP": SERVICE, "ports": [{"name": "http", "port": 80, "nodePort": 30080}]},
}
NAMES = names(FakeLive(documents=[*DOCUMENTS, SERVED]).cluster())


def packed(address: str) -> bytes:
    return ip_address(address).packed


# -- headers


@pytest.mark.parametrize(
    ("frame", "ends"),
    [
        pytest.param(
            ether(ip4(PAIR, WEB, ports=(5, 80))),
            Ends(6, packed(PAIR), 5, packed(WEB), 80),
            id="tcp",
        ),
        pytest.param(
            ether(ip4(PAIR, WEB, "udp", (5, 53), options=b"\1\1\1\0")),
            Ends(17, packed(PAIR), 5, packed(WEB), 53),
            id="udp-with-ip-options",
        ),
        pytest.param(
            ether(ip4(PAIR, WEB, "sctp", (5, 6))), Ends(132, packed(PAIR), 5, packed(WEB), 6),
            id="sctp",
        ),
        pytest.param(
            ether(ip4(PAIR, WEB, "icmp", (8, 0))), Ends(1, packed(PAIR), 0, packed(WEB), 0),
            id="icmp",
        ),
        pytest.param(
            ether(ip6("fd00::1", "fd00::2", ports=(5, 6))),
            Ends(6, packed("fd00::1"), 5, packed("fd00::2"), 6),
            id="ip6",
        ),
        pytest.param(arp(PAIR, WEB), Ends(ARP, packed(PAIR), 0, packed(WEB), 0), id="arp"),
        pytest.param(
            vxlan(ether(ip4(PAIR, WEB, ports=(5, 6))), NODE1, NODE2),
            Ends(6, packed(PAIR), 5, packed(WEB), 6),
            id="vxlan",
        ),
        pytest.param(
            ether(ip4(PAIR, WEB, fragment=7)), Ends(6, packed(PAIR), 0, packed(WEB), 0),
            id="fragment",
        ),
        pytest.param(
            MACS + b"\x81\0\0\5\x08\0" + ip4(PAIR, WEB, ports=(5, 6)),
            Ends(6, packed(PAIR), 5, packed(WEB), 6),
            id="vlan",
        ),
    ],
)  # fmt: skip
def test_ends_are_read(frame: bytes, ends: Ends) -> None:
    found = headers(frame)
    assert found is not None
    assert found.ends == ends


def test_a_packet_without_ethernet_header_is_read() -> None:
    for packet in (ip4(PAIR, WEB), ip6("fd00::1", "fd00::2")):
        bare, whole = headers(packet, pcapng.RAW_IP), headers(ether(packet))
        assert bare is not None
        assert whole is not None
        assert (bare.ends, bare.mark) == (whole.ends, whole.mark)


@pytest.mark.parametrize("length", range(118))
def test_a_frame_cut_anywhere_is_no_error(length: int) -> None:
    for frame in (
        vxlan(ether(ip4(PAIR, WEB)), NODE1, NODE2),
        vxlan(arp(PAIR, WEB), NODE1, NODE2),
        ether(ip6("fd00::1", "fd00::2")),
        ether(ip4(PAIR, WEB, "icmp", (3, 1), ip4(WEB, PAIR))),
    ):
        headers(frame[:length])


def mark(frame: bytes) -> bytes:
    found = headers(frame)
    assert found is not None
    return found.mark


def quoting(source: str, destination: str, port: int) -> bytes:
    """An ICMP error about a UDP packet."""
    quoted = ip4(source, destination, "udp", (port, 53), ident=99)
    return ether(ip4(NODE1, PAIR, "icmp", (3, 3), quoted[:28]))


SAME = [
    pytest.param(
        ether(ip4(PAIR, SERVICE, ports=(5, 80))),
        ether(ip4(NODE1, WEB, ports=(777, 8080), ttl=62)),
        id="dnat-and-masquerade",
    ),
    pytest.param(
        ether(ip4(PAIR, SERVICE, "udp", (5, 80))),
        vxlan(ether(ip4(PAIR, WEB, "udp", (5, 53), ttl=63)), NODE1, NODE2),
        id="into-vxlan",
    ),
    pytest.param(
        ether(ip4(PAIR, SERVICE, "sctp", (5, 80))),
        ether(ip4(PAIR, WEB, "sctp", (5, 99))),
        id="sctp",
    ),
    pytest.param(
        ether(ip4(PAIR, OUTSIDE, "icmp", (8, 0))),
        ether(ip4(NODE1, OUTSIDE, "icmp", (8, 0)).replace(b"\xbe\xef\0\5", b"\xca\xfe\7\7")),
        id="echo-with-another-id",
    ),
    pytest.param(quoting(NODE1, OUTSIDE, 700), quoting(PAIR, OUTSIDE, 5), id="icmp-error"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_packet_is_known_again_after_a_rewrite(one: bytes, other: bytes) -> None:
    assert mark(one) == mark(other)


DIFFERENT = [
    pytest.param(ether(ip4(PAIR, WEB)), ether(ip4(PAIR, WEB, ident=4712)), id="ip-id"),
    pytest.param(ether(ip4(PAIR, WEB)), ether(ip4(PAIR, WEB, payload=b"another")), id="payload"),
    pytest.param(ether(ip4(PAIR, WEB)), ether(ip4(PAIR, WEB, flags=0x11)), id="tcp-flags"),
    pytest.param(
        ether(ip4(PAIR, WEB, "icmp", (8, 0))), ether(ip4(WEB, PAIR, "icmp", (0, 0))), id="echo"
    ),
    pytest.param(arp(PAIR, WEB), arp(WEB, PAIR), id="arp"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_packets_are_told_apart(one: bytes, other: bytes) -> None:
    assert mark(one) != mark(other)


# -- sightings


class Seer:
    """Sightings, one every millisecond."""

    def __init__(self, known: Names = NAMES) -> None:
        self.sightings = Sightings(known)
        self.now = 1_000_000_000

    def __call__(
        self, packet: bytes, interface: int = 0, *, outgoing: bool = False, later: int = 1_000_000
    ) -> tuple[int, int, list[str]]:
        self.now += later
        seen = headers(packet)
        assert seen is not None
        return tuple(
            self.sightings.note(seen, interface=interface, outgoing=outgoing, time=self.now)
        )


def test_the_way_to_a_service_and_back_is_told() -> None:
    see = Seer()
    asked = {"ident": 1, "flags": 0x02, "payload": b""}
    said = {"ident": 2, "flags": 0x12, "payload": b""}
    request = [
        see(ether(ip4(PAIR, SERVICE, ports=(5, 80), **asked)), 1),
        see(ether(ip4(PAIR, WEB, ports=(5, 8080), **asked)), 2),
        see(ether(ip4(NODE1, WEB, ports=(700, 8080), **asked)), 3),
        see(vxlan(ether(ip4(NODE1, WEB, ports=(700, 8080), **asked)), NODE1, NODE2), 4),
    ]
    reply = [
        see(ether(ip4(WEB, NODE1, ports=(8080, 700), **said)), 5),
        see(ether(ip4(WEB, PAIR, ports=(8080, 5), **said)), 6),
        see(ether(ip4(SERVICE, PAIR, ports=(80, 5), **said)), 7),
    ]
    then = see(ether(ip4(PAIR, SERVICE, ports=(5, 80), ident=3)), 1)
    after = see(ether(ip4(NODE1, WEB, ports=(700, 8080), ident=3)), 3)
    assert [one[:2] for one in request] == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert [one[:2] for one in (*reply, then, after)] == [(2, 1), (2, 2), (2, 3), (3, 1), (3, 2)]
    assert request[0][2] == [
        "pod default/pair -> Service default/served:http",
        "packet 1, hop 1",
    ]
    assert request[1][2] == [
        "pod default/pair -> pod default/web-1",
        "packet 1, hop 2, 1000.0 us on",
        "DNAT: to 10.96.0.7:80, now 10.244.2.2:8080",
    ]
    assert request[2][2][2:] == ["masquerade: from 10.244.1.2:5, now 192.168.50.11:700"]
    assert request[3][2][0] == "node1 -> pod default/web-1, in VXLAN 1 node1 -> node2"
    assert reply[1][2][2:] == ["un-masquerade: to 192.168.50.11:700, now 10.244.1.2:5"]
    assert reply[2][2][2:] == ["un-DNAT: from 10.244.2.2:8080, now 10.96.0.7:80"]
    assert after[2][2:] == [
        "DNAT: to 10.96.0.7:80, now 10.244.2.2:8080",
        "masquerade: from 10.244.1.2:5, now 192.168.50.11:700",
    ]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        pytest.param(
            ip4(WEB, PAIR, ports=(8080, 5)), ip4(SERVICE, PAIR, ports=(80, 5)), ["un-DNAT"],
            id="un-dnat",
        ),
        pytest.param(
            ip4(PAIR, OUTSIDE), ip4(NODE1, OUTSIDE, ports=(700, 80)), ["masquerade"],
            id="masquerade",
        ),
        pytest.param(
            ip4(OUTSIDE, NODE1, ports=(80, 700)), ip4(OUTSIDE, PAIR, ports=(80, 5)),
            ["un-masquerade"], id="un-masquerade",
        ),
        pytest.param(
            ip4(OUTSIDE, NODE1, ports=(5, 30080)), ip4(OUTSIDE, WEB, ports=(5, 8080)), ["DNAT"],
            id="node-port",
        ),
    ],
)  # fmt: skip
def test_a_rewrite_whose_beginning_nobody_saw_is_told_by_addresses(
    before: bytes, after: bytes, words: list[str]
) -> None:
    see = Seer()
    see(ether(before), 1)
    assert [one.partition(":")[0] for one in see(ether(after), 2)[2][2:]] == words


def test_the_same_bytes_once_more_are_another_packet() -> None:
    see = Seer()
    question = arp(PAIR, WEB)
    assert [see(question, 1)[:2], see(question, 2)[:2]] == [(1, 1), (1, 2)]
    assert [see(question, 1)[:2], see(question, 2)[:2]] == [(2, 1), (2, 2)]


def test_two_alike_that_overtake_each_other_are_told_apart() -> None:
    see = Seer()
    packet = ether(ip4(PAIR, WEB, "udp", ident=0))
    seen = [see(packet, place)[:2] for place in (1, 1, 2, 2, 3, 3)]
    assert seen == [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3)]


def test_a_packet_in_a_loop_is_the_same_packet() -> None:
    see = Seer()
    seen = [see(ether(ip4(PAIR, WEB, ttl=ttl)), 1)[:2] for ttl in (64, 63, 62)]
    assert seen == [(1, 1), (1, 2), (1, 3)]


def test_what_was_long_ago_is_another_packet() -> None:
    see = Seer()
    see(arp(PAIR, WEB), 1)
    assert see(arp(PAIR, WEB), 2, later=FORGET)[:2] == (2, 1)


def test_memory_is_bounded() -> None:
    see = Seer()
    for number in range(60_000):
        see(ether(ip4(PAIR, WEB, "udp", (number, 80), ident=number)))
        see(ether(ip4(NODE1, WEB, "udp", (number, 80), ident=number)), 2)
    assert len(see.sightings._packets) <= 20_001
    assert len(see.sightings._turned) <= 20_001


def test_addresses_of_nobody_stay_addresses() -> None:
    see = Seer(Names())
    assert see(ether(ip4("1.2.3.4", "5.6.7.8")))[2][0] == "1.2.3.4 -> 5.6.7.8"
    assert see(ether(ip6("fd00::1", "fd00::2")))[2][0] == "fd00::1 -> fd00::2"


# -- blocks


def comments(block: bytes) -> list[str]:
    options = pcapng.options(pcapng.read_packet(block).options)
    return [value.decode() for code, value in options if code == pcapng.COMMENT]


def test_a_block_keeps_its_flags_losses_and_length() -> None:
    annotator = Annotator(NAMES)
    annotator.interface("lab.node1", pcapng.ETHERNET)
    frame = ether(ip4(PAIR, WEB))
    plain = pcapng.packet(0, 5, frame, length=9000, flags=2, dropped=7)
    read = pcapng.read_packet(annotator.annotated(plain))
    assert read[:4] == (0, 5, frame, 9000)
    found = dict(pcapng.options(read.options))
    assert struct.unpack("<I", found[pcapng.FLAGS]) == (2,)
    assert struct.unpack("<Q", found[pcapng.DROPPED]) == (7,)
    assert struct.unpack("<Q", found[pcapng.PACKET_ID]) == (1,)


def test_a_card_that_only_overhears_says_so_and_a_bridges_port_does_not() -> None:
    annotator = Annotator(NAMES)
    annotator.interface("lab.node1", pcapng.ETHERNET, card=True)
    annotator.interface("lab.node1", pcapng.ETHERNET)
    flags = pcapng.flags(outgoing=False, kind=pcapng.PROMISCUOUS)
    blocks = [pcapng.packet(number, 5, ether(ip4(PAIR, WEB)), flags=flags) for number in (0, 1)]
    assert [STRANGER in comments(annotator.annotated(block)) for block in blocks] == [True, False]


def test_a_block_that_is_no_ip_stays_as_it_was() -> None:
    annotator = Annotator(NAMES)
    annotator.interface("lab.node1", pcapng.ETHERNET)
    block = pcapng.packet(0, 5, MACS + b"\x88\xcc" + bytes(50), flags=1)
    assert annotator.annotated(block) == block


def test_rules_are_told_where_the_packet_was_as_it_came_to_them() -> None:
    annotator = Annotator(NAMES)
    for netns in ("lab.pair", "lab.node1", "lab.node1"):
        annotator.interface(netns, pcapng.ETHERNET)
    before, after = ip4(PAIR, SERVICE, ports=(5, 80)), ip4(PAIR, WEB, ports=(5, 8080))
    key = unchanged(6, before[20:40])
    sent = Ends(6, packed(PAIR), 5, packed(SERVICE), 80)
    led = Ends(6, packed(PAIR), 5, packed(WEB), 8080)
    annotator.rules = Rules()
    annotator.rules.add(
        [
            Met("lab.node1", sent, key, ("nat KUBE-SVC", "nat KUBE-SEP")),
            Met("lab.node1", led, key, ("filter FORWARD",)),
            Met("lab.other", sent, key, ("elsewhere",)),
        ]
    )
    told = [
        [line for line in comments(annotator.annotated(block)) if line.startswith("rule")]
        for block in (
            pcapng.packet(0, 5, ether(before)),
            pcapng.packet(1, 6, ether(before)),
            pcapng.packet(2, 7, ether(after)),
        )
    ]
    assert told == [[], ["rule: nat KUBE-SVC", "rule: nat KUBE-SEP"], ["rule: filter FORWARD"]]


def test_rules_of_what_a_node_sends_itself_are_told_at_its_first_device() -> None:
    rules = Rules()
    sent = Ends(6, packed(NODE1), 5, packed(SERVICE), 80)
    led = Ends(6, packed(NODE1), 5, packed(WEB), 8080)
    rules.add([Met("n", sent, b"k", ("nat OUTPUT",)), Met("n", led, b"k", ("nat POSTROUTING",))])
    assert rules.take("n", led, b"k") == ["nat OUTPUT", "nat POSTROUTING"]
    assert rules.take("n", led, b"k") == []


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp", "sctp"])
def test_a_trace_and_a_frame_know_a_packet_by_the_same_bytes(protocol: str) -> None:
    packet = ip4(PAIR, WEB, protocol, (8, 0))
    traced = traces._packet({8: packet[:20], 9: packet[20:40]})
    assert traced is not None
    seen = headers(ether(packet))
    assert seen is not None
    assert traced.fingerprint[1] == unchanged(seen.ends.protocol, packet[20:40])
