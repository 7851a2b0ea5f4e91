"""Which of what sensors bring is of one conversation: through NAT, envelopes, errors."""

from __future__ import annotations

import pytest
from watched import ACK, NODES, PUSH, RST, SYN, Watch, icmp, tcp, udp

from netlab.packets import Flow, Protocol
from netlab.telling import selecting
from netlab.telling.selecting import Opening

MARK = b"netlab:0123456789abcdef."
CLIENT, VIP, SERVER = "10.244.1.2:40001", "10.96.0.10:80", "10.244.2.2:8080"
MASQUERADED = "10.244.1.0:51000"
NUMBER = 0x10000
SENT = Flow("10.244.1.2", "10.96.0.10", Protocol.TCP, 40001, 80)
OPENING = Opening(Protocol.TCP, sequence=NUMBER)


def chosen(watch: Watch, opening: Opening = OPENING, flow: Flow = SENT) -> selecting.Chosen:
    return selecting.chosen(opening, [flow], watch.caught, watch.passings, tunnel_port=8472)


def error(quoted: bytes, *, to: str = "10.244.1.2", kind: tuple[int, int] = (3, 3)) -> bytes:
    return icmp("10.244.1.1", to, quoted[:28], kind=kind)


MINE = {
    "SYN as it was sent": tcp(CLIENT, VIP),
    "SYN behind DNAT": tcp(CLIENT, SERVER),
    "SYN behind DNAT and masquerade": tcp(MASQUERADED, SERVER),
    "SYN sent again": tcp(CLIENT, VIP, ttl=63),
    "SYN ACK of the server": tcp(SERVER, CLIENT, flags=SYN | ACK, numbers=(9, NUMBER + 1)),
    "SYN ACK as the client sees it": tcp(VIP, CLIENT, flags=SYN | ACK, numbers=(9, NUMBER + 1)),
    "reset": tcp(VIP, CLIENT, flags=RST | ACK, numbers=(0, NUMBER + 1)),
    "data": tcp(CLIENT, VIP, flags=PUSH | ACK, numbers=(NUMBER + 1, 10), payload=MARK),
    "data behind NAT": tcp(MASQUERADED, SERVER, flags=PUSH | ACK, payload=MARK),
    "an error that quotes the SYN": error(tcp(CLIENT, VIP)),
    "an error that quotes it behind NAT": error(tcp(MASQUERADED, SERVER), to="10.244.1.0"),
    "an error about a reply": error(tcp(SERVER, MASQUERADED), to="10.244.2.2", kind=(11, 0)),
}
OTHERS = {
    "another port of the client": tcp("10.244.1.2:40002", VIP, numbers=(NUMBER * 2, 0)),
    "another port of the server": tcp(CLIENT, "10.244.2.2:8081", numbers=(NUMBER * 2, 0)),
    "another client": tcp("10.244.1.3:40001", VIP, numbers=(NUMBER * 2, 0)),
    "another number behind other NAT": tcp("10.244.1.0:51001", SERVER, numbers=(NUMBER * 2, 0)),
    "the same ends over UDP": udp(CLIENT, VIP, MARK),
    "a SYN ACK with that number": tcp("1.1.1.1:1", "2.2.2.2:2", flags=SYN | ACK),
    "data with that number": tcp("1.1.1.1:1", "2.2.2.2:2", flags=ACK),
    "an error about another": error(tcp("10.244.1.2:40002", VIP)),
    "an error that quotes nothing": icmp("10.244.1.1", "10.244.1.2", b"", kind=(3, 3)),
    "an echo": icmp("10.244.1.2", "10.96.0.10", MARK),
}


def with_handshake() -> Watch:
    """What shows every end of the conversation, as namespace after namespace has it."""
    watch = Watch()
    for at, packet in (("t.p", MINE["SYN as it was sent"]), ("t.n1", MINE["SYN behind DNAT"]),
                       ("t.n2", MINE["SYN behind DNAT and masquerade"])):  # fmt: skip
        watch.seen(f"{at} eth0 out", packet)
    return watch


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in VXLAN"])
@pytest.mark.parametrize("name", MINE)
def test_what_is_of_the_conversation_is_chosen(name: str, wrapped: bool) -> None:
    watch = with_handshake()
    watch.seen("t.n1 x in", MINE[name], wrapped=NODES if wrapped else None)
    assert chosen(watch).caught == watch.caught


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "in VXLAN"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_of_another_is_left_out(name: str, wrapped: bool) -> None:
    watch = with_handshake()
    watch.seen("t.n1 x in", OTHERS[name], wrapped=NODES if wrapped else None)
    assert chosen(watch).caught == watch.caught[:-1]


def test_the_ends_are_known_as_each_namespace_sees_them() -> None:
    found = chosen(with_handshake()).flows
    assert {str(one) for one in found} == {
        "10.244.1.2:40001 -> 10.96.0.10:80 tcp",
        "10.244.1.2:40001 -> 10.244.2.2:8080 tcp",
        "10.244.1.0:51000 -> 10.244.2.2:8080 tcp",
    }


def test_sightings_come_in_the_order_of_time() -> None:
    watch = with_handshake()
    watch.caught.reverse()
    times = [one.sighting.time for one in chosen(watch).caught]
    assert times == sorted(times)


def test_a_datagram_is_known_by_how_it_begins_and_its_answer_by_the_ends() -> None:
    opening = Opening(Protocol.UDP, payload=MARK)
    flow = Flow("10.244.1.2", "10.96.0.10", Protocol.UDP, 40001, 53)
    watch = Watch()
    watch.seen("t.p eth0 out", udp(CLIENT, "10.96.0.10:53", MARK))
    watch.seen("t.n1 eth0 out", udp(CLIENT, "10.244.2.2:53", MARK), wrapped=NODES)
    watch.seen("t.n1 eth0 in", udp("10.244.2.2:53", CLIENT, b"{}"), wrapped=NODES)
    watch.seen("t.p eth0 in", udp("10.96.0.10:53", CLIENT, b"{}"))
    watch.seen("t.n1 x in", error(udp(CLIENT, "10.244.2.2:53", MARK)))
    mine = list(watch.caught)
    watch.seen("t.n1 x in", udp("10.244.1.3:40001", "10.244.2.2:53", b"netlab:another"))
    watch.seen("t.n1 x in", udp("10.244.2.2:53", "10.244.1.3:40001", b"{}"))
    assert chosen(watch, opening, flow).caught == mine


def test_an_echo_is_known_by_its_payload_alone() -> None:
    opening = Opening(Protocol.ICMP, payload=MARK)
    flow = Flow("10.244.1.2", "10.244.2.2", Protocol.ICMP)
    other = MARK[:12] + b"!" + MARK[13:]
    watch = Watch()
    for payload in (MARK, other):
        watch.seen("t.p eth0 out", icmp("10.244.1.2", "10.244.2.2", payload))
        watch.seen("t.p eth0 in", icmp("10.244.2.2", "10.244.1.2", payload, kind=(0, 0)))
        quoted = icmp("10.244.1.2", "10.244.2.2", payload)
        watch.seen("t.p eth0 in", icmp("10.244.1.1", "10.244.1.2", quoted, kind=(3, 1)))
    assert chosen(watch, opening, flow).caught == watch.caught[:3]


def test_passes_of_other_echoes_between_the_same_ends_are_left_out() -> None:
    """Traced by somebody else at the same time: the kernel tells every listener."""
    opening = Opening(Protocol.ICMP, payload=MARK)
    flow = Flow("10.244.1.2", "10.244.2.2", Protocol.ICMP)
    watch = Watch()
    watch.passed("t.n1 output", icmp("10.244.1.2", "10.244.2.2", MARK))  # no device shows it
    watch.passed("t.n1 input", icmp("10.244.2.2", "10.244.1.2", MARK, kind=(0, 0)))
    for digit in b"05afZ":
        other = MARK[:11] + bytes([digit]) + MARK[12:]
        watch.passed("t.n1 output", icmp("10.244.1.2", "10.244.2.2", other))
    assert MARK[11:12] not in b"05afZ"
    assert chosen(watch, opening, flow).passings == watch.passings[:2]


def test_passes_are_chosen_by_packet_and_by_ends() -> None:
    watch = with_handshake()
    watch.passed("t.n1 output", tcp(CLIENT, VIP, flags=RST))  # by its ends alone
    watch.passed("t.n3 forward", tcp("10.9.9.9:1", SERVER))  # by its number: NAT none has seen
    mine = list(watch.passings)
    watch.passed("t.n1 output", OTHERS["another port of the client"])
    watch.passed("t.n1 output", OTHERS["another client"])
    assert chosen(watch).passings == mine


def test_of_envelopes_those_of_the_tunnels_port_are_chosen() -> None:
    watch = with_handshake()
    packet = watch.envelope(*NODES, MINE["SYN behind DNAT"])
    watch.passed("t.n1 output", packet)
    watch.passed("t.n1 output", udp("192.168.50.101:55555", "192.168.50.102:4789", b"x" * 20))
    assert chosen(watch).passings == watch.passings[:1]
    assert chosen(watch).wraps(watch.passings[0])


def test_what_was_sent_when_all_was_over_is_left_out_with_its_passes() -> None:
    watch = with_handshake()
    before = tcp(SERVER, CLIENT, flags=ACK, numbers=(9, NUMBER + 1))
    after = tcp(SERVER, CLIENT, flags=0x11, numbers=(9, NUMBER + 1))
    watch.seen("t.n2 eth0 out", before)
    watch.passed("t.n2 output", before)
    until = watch.clock
    watch.passed("t.n2 output", after)
    watch.seen("t.n2 eth0 out", after)
    watch.seen("t.n1 eth0 in", before)  # sent before, and still on its way
    found = selecting.chosen(OPENING, [SENT], watch.caught, watch.passings, until=until)
    assert [one.transport[13] for one in found.caught[3:]] == [ACK, ACK]
    assert found.passings == watch.passings[:1]
    assert len(chosen(watch).caught) == len(watch.caught)
