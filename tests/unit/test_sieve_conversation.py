"""Which frames the kernel keeps for a trace: of one conversation, in VXLAN too; ARP; ICMP."""

from __future__ import annotations

import pytest
from bpf import taken
from frames import arp, ether, ip4, ip6, vxlan
from watched import ACK, NODES, PUSH, RST, SYN, icmp, tcp, udp

from netlab.sensors import sieve
from netlab.sensors.traceswitch import WINDOW

MARK = b"netlab:0123456789abcdef."
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00"
CLIENT, SERVER = "10.244.1.2:40001", "10.244.2.2:80"
NUMBER = 0xABCD0000
WINDOW_OF = NUMBER // WINDOW
TCP = sieve.conversation(WINDOW_OF, b"", [80])
UDP = sieve.conversation(None, MARK, [53, 5353])
DNS = sieve.conversation(None, QUERY, [53])
ECHO = sieve.conversation(None, MARK, [])
RELAYED = sieve.conversation(WINDOW_OF, b"", [80], [8080, 9090])


def segment(sequence: int, acknowledged: int, **more: object) -> bytes:
    return tcp(CLIENT, SERVER, numbers=(sequence % 2**32, acknowledged % 2**32), **more)


TUN = 0xFFFE  # ARPHRD_NONE
KEPT = {
    "SYN": (TCP, segment(NUMBER, 0, flags=SYN)),
    "SYN ACK": (TCP, segment(5, NUMBER + 1, flags=SYN | ACK)),
    "data": (TCP, segment(NUMBER + 1, 6, flags=PUSH | ACK, payload=b"x" * 1400)),
    "the last byte of the window": (TCP, segment(NUMBER + WINDOW - 1, 6, flags=ACK)),
    "ACK of the last byte": (TCP, segment(9, NUMBER + WINDOW - 1, flags=ACK)),
    "reset": (TCP, segment(0, NUMBER + 1, flags=RST | ACK)),
    "datagram": (UDP, udp(CLIENT, "10.244.2.2:9999", MARK)),
    "answer from its port": (UDP, udp("10.244.2.2:53", CLIENT, b"\x08")),
    "answer from the endpoint's port": (UDP, udp("10.244.2.2:5353", CLIENT, b"any")),
    "query": (DNS, udp(CLIENT, "10.9.9.9:9999", QUERY)),
    "answer of DNS": (DNS, udp("10.9.9.9:53", CLIENT, b"\x12\x34\x81\x80")),
    "echo": (ECHO, icmp("10.244.1.2", "10.244.2.2", MARK)),
    "error": (TCP, icmp("10.244.1.1", "10.244.1.2", segment(NUMBER, 0)[:28], kind=(3, 3))),
    "of a process's own connection": (RELAYED, tcp("10.244.1.0:50000", "10.244.2.2:9090")),
    "the answer to it": (RELAYED, tcp("10.244.2.2:8080", "10.244.1.0:50000")),
    "the conversation itself": (RELAYED, segment(5, NUMBER + 1, flags=SYN | ACK)),
    "with IP options": (TCP, ip4("1.1.1.1", "2.2.2.2", numbers=(NUMBER, 0), options=b"\1" * 8)),
}
LEFT = {
    "another connection": (TCP, segment(NUMBER + WINDOW, 7, flags=SYN)),
    "the byte before": (TCP, segment(NUMBER - 1, 7, flags=ACK)),
    "a flood of others": (TCP, segment(12345, 999, flags=PUSH | ACK, payload=b"x" * 1400)),
    "a datagram of others": (TCP, udp(CLIENT, "10.244.2.2:53", b"hello")),
    "another port": (UDP, udp("10.244.2.2:54", CLIENT, b"any")),
    "TCP, for UDP": (UDP, segment(NUMBER, 0)),
    "UDP, for an echo": (ECHO, udp(CLIENT, "10.244.2.2:53", b"hello")),
    "of neither port": (RELAYED, tcp("10.244.1.0:50000", "10.244.2.2:9091")),
    "UDP of such a port": (RELAYED, udp("10.244.1.0:50000", "10.244.2.2:9090", b"hello")),
    "SCTP": (TCP, ip4("1.1.1.1", "2.2.2.2", "sctp")),
}


def in_datagram(packet: bytes) -> bytes:
    """As flannel's udp back end sends it."""
    return ether(udp(f"{NODES[0]}:8285", f"{NODES[1]}:8285", packet))


@pytest.mark.parametrize("name", [name for name in KEPT if name != "with IP options"])
def test_what_flannels_udp_back_end_carries_is_kept(name: str) -> None:
    program, packet = KEPT[name]
    assert taken(program, in_datagram(packet))


@pytest.mark.parametrize("name", KEPT)
def test_a_packet_of_the_conversation_is_kept_on_a_tun(name: str) -> None:
    program, packet = KEPT[name]
    assert taken(program, packet, hardware=TUN)


@pytest.mark.parametrize("name", LEFT)
def test_a_packet_of_others_is_left_out_there_and_in_datagrams(name: str) -> None:
    program, packet = LEFT[name]
    assert not taken(program, packet, hardware=TUN)
    assert not taken(program, in_datagram(packet))


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in VXLAN"])
@pytest.mark.parametrize("name", KEPT)
def test_a_frame_of_the_conversation_is_kept(name: str, wrapped: bool) -> None:
    program, packet = KEPT[name]
    assert taken(program, vxlan(ether(packet), *NODES) if wrapped else ether(packet))


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in VXLAN"])
@pytest.mark.parametrize("name", LEFT)
def test_a_frame_of_others_is_left_out(name: str, wrapped: bool) -> None:
    program, packet = LEFT[name]
    assert not taken(program, vxlan(ether(packet), *NODES) if wrapped else ether(packet))


@pytest.mark.parametrize("program", [TCP, UDP, ECHO], ids=["tcp", "udp", "icmp"])
def test_arp_is_kept_and_ipv6_is_not(program: bytes) -> None:
    assert taken(program, arp("10.244.1.2", "10.244.1.3"))
    assert not taken(program, ether(ip6("fd00::1", "fd00::2")))


@pytest.mark.parametrize("port", [4789, 8472, 12345])
def test_the_tunnels_port_may_be_any(port: int) -> None:
    assert taken(TCP, vxlan(ether(segment(NUMBER, 0)), *NODES, port=port))


@pytest.mark.parametrize("program", [TCP, UDP, DNS, ECHO], ids=["tcp", "udp", "dns", "icmp"])
def test_a_flush_marker_is_kept(program: bytes) -> None:
    assert taken(program, ether(udp("127.0.0.1:4444", "127.0.0.1:9", b"netlab-flush:7")))


@pytest.mark.parametrize("length", range(14, 120, 3))
def test_what_is_cut_off_is_refused_or_kept_but_no_error(length: int) -> None:
    for program in (TCP, UDP):
        taken(program, vxlan(ether(segment(NUMBER, 0)), *NODES)[:length])


def test_many_ports_of_servers_fit() -> None:
    program = sieve.conversation(None, MARK, range(1000, 1020))
    assert all(taken(program, ether(udp(f"1.1.1.1:{port}", CLIENT, b"x"))) for port in (1000, 1019))
    assert not taken(program, ether(udp("1.1.1.1:1020", CLIENT, b"x")))
