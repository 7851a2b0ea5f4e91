"""The process of userspace mode with real sockets, in a namespace whose loopback has all ends."""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import stranger

from netlab import processes
from netlab.kernel import netns
from netlab.portals import control, datagrams
from netlab.portals.control import Home, Portals
from netlab.portals.rotation import Rotation
from netlab.portals.streams import Relay
from netlab.proxy.portals import Portal
from netlab.residents.loop import Loop

pytestmark = pytest.mark.kernel

PLACE = f"nltestportal{os.getpid()}"
ENDS = ("10.244.1.2", "10.244.1.3", "10.244.1.4")
NODE = ("192.168.50.11", "10.244.1.1")  # where clients come to
NOWHERE = "10.244.9.9"  # answers nothing: its packets are dropped
PATIENCE = 20.0  # seconds, for what takes one
PORT = 12000
MANY = 1000  # connections


@pytest.fixture
def place() -> Iterator[str]:
    netns.create(PLACE)
    try:
        with netns.entered(PLACE):
            for address in (*ENDS, *NODE):
                _ip("addr", "add", f"{address}/32", "dev", "lo")
            _ip("link", "set", "lo", "up")
            _ip("route", "add", NOWHERE, "dev", "lo", "src", NODE[0])
            rule = f"add table ip t; add chain ip t o {{ type filter hook output priority 0; }}; \
add rule ip t o ip daddr {NOWHERE} drop"
            subprocess.run(["nft", rule], check=True)
            yield PLACE
    finally:
        netns.delete(PLACE)


@pytest.fixture
def portals(place: str) -> Iterator[Portals]:
    found = Portals(Home(log=Path("/dev/null")))
    yield found
    found.close()
    eventually(lambda: not control.ports(), "the process is gone")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def eventually(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def portal(
    *endpoints: tuple[str, int],
    protocol: str = "tcp",
    port: int = PORT,
    affinity: int = 0,
    name: str = "web",
) -> Portal:
    return Portal(f"default/{name}/{protocol}", 4, protocol, port, endpoints, affinity)


Served = Callable[[socket.socket], None]


@contextmanager
def serving(address: str, serve: Served) -> Iterator[tuple[str, int]]:
    """Have *serve* called with each connection to *address*, in a thread; yield where that is."""
    listener = socket.create_server((address, 0), backlog=MANY)

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)


def name_and_client(sock: socket.socket) -> None:
    """Tell who serves and who is seen."""
    with sock:
        sock.sendall(f"{sock.getsockname()[0]} {sock.getpeername()[0]}".encode())


def ask(*, port: int = PORT, source: str = "", to: str = NODE[0]) -> list[str]:
    with socket.create_connection((to, port), PATIENCE, (source, 0) if source else None) as sock:
        return all_of(sock).decode().split()


def all_of(sock: socket.socket) -> bytes:
    found = bytearray()
    while data := sock.recv(1 << 16):
        found += data
    return bytes(found)


@contextmanager
def three() -> Iterator[list[tuple[str, int]]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving(one, name_and_client)) for one in ENDS]


# -- TCP


def test_clients_are_sent_to_one_endpoint_after_the_other(portals: Portals) -> None:
    with three() as ends:
        assert portals.declare([portal(*ends)]).ports == {"default/web/tcp": PORT}
        first, second = ([ask()[0] for _ in range(3)] for _ in range(2))
    assert first == second
    assert set(first) == set(ENDS)


def test_an_endpoint_sees_the_process_and_not_the_client(portals: Portals) -> None:
    with three() as ends:
        portals.declare([portal(ends[0])])
        assert ask(source=NODE[1]) == [ENDS[0], ENDS[0]]  # by the loopback it is its own address
        (flow,) = control.flows_of(_last_client(), "tcp")
    assert (flow.key, flow.endpoint) == ("default/web/tcp", ends[0])


def _last_client() -> tuple[str, int]:
    with socket.create_connection((NODE[0], PORT), PATIENCE) as sock:
        all_of(sock)
        client: tuple[str, int] = sock.getsockname()
        return client


def test_a_client_stays_with_its_endpoint(portals: Portals) -> None:
    with three() as ends:
        portals.declare([portal(*ends, affinity=3600)])
        by_client = {one: {ask(source=one)[0] for _ in range(6)} for one in (*NODE, ENDS[0])}
        assert [len(found) for found in by_client.values()] == [1, 1, 1]
        assert len(set.union(*by_client.values())) == 3
        gone = by_client[NODE[0]].pop()
        portals.declare([portal(*(one for one in ends if one[0] != gone), affinity=3600)])
        assert ask(source=NODE[0])[0] != gone
        assert {ask(source=NODE[1])[0] for _ in range(4)} <= set(ENDS) - {gone}


def test_an_endpoint_that_refuses_costs_nothing_and_one_that_is_silent_its_time(
    portals: Portals,
) -> None:
    with three() as ends:
        refusing = (ENDS[0], 9)
        portals.declare([portal(refusing, ends[1])])
        assert [ask()[0] for _ in range(4)] == [ENDS[1]] * 4
        portals.declare([portal(refusing, ends[1], affinity=3600)])
        assert [ask(source=one)[0] for one in (*ENDS, *NODE)] == [ENDS[1]] * 5
        portals.declare([portal((NOWHERE, 80), ends[1])])
        began = time.monotonic()
        assert [ask()[0] for _ in range(4)] == [ENDS[1]] * 4
        assert time.monotonic() - began > 0.25


def test_a_silent_endpoint_keeps_nobody_else_waiting(portals: Portals) -> None:
    with three() as ends:
        silent = portal((NOWHERE, 80), name="silent", port=PORT + 1)
        portals.declare([silent, portal(ends[0])])
        waiting = [socket.create_connection((NODE[0], PORT + 1), PATIENCE) for _ in range(20)]
        began = time.monotonic()
        assert ask()[0] == ENDS[0]
        assert time.monotonic() - began < 0.25
        assert [one.recv(1) for one in waiting] == [b""] * 20
        for one in waiting:
            one.close()


def test_an_endpoint_that_has_answered_a_busy_loop_is_not_given_up(place: str) -> None:
    """Its answer is in the kernel, and the time is over before anybody looks."""
    loop, rotation = Loop(), Rotation()
    with serving(ENDS[0], name_and_client) as end, socket.create_server((NODE[0], 0)) as listener:
        rotation.declare([end], 0)
        portal = SimpleNamespace(
            family=socket.AF_INET, loop=loop, relays={}, rotation=rotation, sent=lambda *_: None
        )
        with socket.create_connection(listener.getsockname(), PATIENCE) as client:
            sock, peer = listener.accept()
            relay = Relay(portal, sock, peer)  # type: ignore[arg-type]
            assert relay.server is not None
            assert select.select([], [relay.server.sock], [], PATIENCE)[1]
            dialled = relay.server.sock.fileno()
            assert relay._timer.due is not None
            relay._timer.due()
            assert relay.server is not None and relay.server.sock.fileno() == dialled
            client.shutdown(socket.SHUT_WR)
            end_at = time.monotonic() + PATIENCE
            while relay in portal.relays and time.monotonic() < end_at:
                loop.turn(loop.now() + 0.05)
            assert all_of(client).decode().split()[0] == ENDS[0]


def test_without_an_endpoint_a_client_is_let_in_and_out_again(portals: Portals) -> None:
    portals.declare([portal()])
    assert ask() == []


def test_whoever_has_finished_sending_is_still_answered(portals: Portals) -> None:
    size = 8 << 20

    def count_then_answer(sock: socket.socket) -> None:
        with sock:
            sock.sendall(len(all_of(sock)).to_bytes(8, "big"))
            sock.sendall(bytes(size))

    with serving(ENDS[0], count_then_answer) as end:
        portals.declare([portal(end)])
        with socket.create_connection((NODE[0], PORT), PATIENCE) as sock:
            sock.sendall(bytes(size))
            sock.shutdown(socket.SHUT_WR)
            answer = all_of(sock)
    assert int.from_bytes(answer[:8], "big") == size
    assert len(answer) == 8 + size


def test_what_is_not_taken_is_not_read(portals: Portals) -> None:
    let_go, size = threading.Event(), 64 << 20
    taken: list[int] = []

    def read_late(sock: socket.socket) -> None:
        with sock:
            let_go.wait(PATIENCE)
            taken.append(len(all_of(sock)))

    with serving(ENDS[0], read_late) as end:
        portals.declare([portal(end)])
        with socket.create_connection((NODE[0], PORT), PATIENCE) as sock:
            sock.setblocking(False)
            sent = _pushed(sock, size)
            assert sent < size
            busy, began = _seconds_busy(_pid()), time.monotonic()
            assert _pushed(sock, 1 << 20) == 0
            assert _seconds_busy(_pid()) - busy < (time.monotonic() - began) / 4
            assert _resident(_pid()) < 64 << 20
            let_go.set()
            sock.setblocking(True)
            sock.sendall(bytes(size - sent))
            sock.shutdown(socket.SHUT_WR)
            assert all_of(sock) == b""
    assert taken == [size]


def _pushed(sock: socket.socket, size: int) -> int:
    """Send up to *size* bytes until nothing more is taken for a while; return how many were."""
    sent = 0
    while sent < size and select.select([], [sock], [], 0.5)[1]:
        sent += sock.send(bytes(min(1 << 20, size - sent)))
    return sent


def _pid() -> int:
    """Return the pid of the process, by its name in the namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.connect(control.NAME)
        told = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(told[:4], "little")


def _seconds_busy(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_a_reset_is_passed_on(portals: Portals) -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()

    with serving(ENDS[0], reset) as end:
        portals.declare([portal(end)])
        with socket.create_connection((NODE[0], PORT), PATIENCE) as sock:
            sock.send(b"x")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


def test_a_thousand_connections_at_once(portals: Portals) -> None:
    def echo(sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(100):
                sock.sendall(data)

    with ExitStack() as stack:
        ends = [stack.enter_context(serving(one, echo)) for one in ENDS]
        portals.declare([portal(*ends)])
        clients = []
        for number in range(MANY):
            sock = stack.enter_context(socket.create_connection((NODE[0], PORT), PATIENCE))
            sock.send(b"%d" % number)
            clients.append(sock)
        assert [int(sock.recv(100)) for sock in clients] == list(range(MANY))
        assert len({one.endpoint for one in _flows(clients[:30])}) == 3
        portals.declare([])  # the Service goes; what goes through it stays, as upstream's did
        clients[0].send(b"again")
        assert clients[0].recv(100) == b"again"


def _flows(clients: list[socket.socket]) -> list[control.Relayed]:
    return [control.flows_of(one.getsockname(), "tcp")[0] for one in clients]


# -- UDP


@contextmanager
def answering(address: str) -> Iterator[tuple[str, int]]:
    """Answer datagrams to *address* with it and what was sent."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 0))

    def answer() -> None:
        while True:
            data, peer = sock.recvfrom(65535)
            if data == b"end":
                return
            sock.sendto(address.encode() + b" " + data, peer)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    end: tuple[str, int] = sock.getsockname()
    try:
        yield end
    finally:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"end", end)
        thread.join(PATIENCE)
        sock.close()


@contextmanager
def client(to: str = NODE[0]) -> Iterator[socket.socket]:
    """A client that takes answers from the address it asks alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((to, PORT))
        yield sock


def say(sock: socket.socket, words: bytes = b"hello") -> str:
    sock.send(words)
    answer = sock.recv(65535).split(b" ")
    assert answer[1] == words
    return answer[0].decode()


def test_a_client_talks_with_one_endpoint_and_the_next_client_with_another(
    portals: Portals,
) -> None:
    with ExitStack() as stack:
        ends = [stack.enter_context(answering(one)) for one in ENDS]
        portals.declare([portal(*ends, protocol="udp")])
        found = []
        for to in (*NODE, NODE[0]):
            with client(to) as sock:
                (one,) = {say(sock) for _ in range(5)}
                found.append(one)
    assert set(found) == set(ENDS)


def test_a_large_datagram_goes_through_whole(portals: Portals) -> None:
    with answering(ENDS[0]) as end:
        portals.declare([portal(end, protocol="udp")])
        with client() as sock:
            assert say(sock, b"x" * 40000) == ENDS[0]


def test_a_session_moves_when_its_endpoint_goes(portals: Portals) -> None:
    with answering(ENDS[0]) as one, answering(ENDS[1]) as other:
        portals.declare([portal(one, protocol="udp")])
        with client() as sock:
            assert say(sock) == ENDS[0]
            portals.declare([portal(other, protocol="udp")])
            assert say(sock) == ENDS[1]


def test_a_session_moves_when_its_endpoint_refuses(portals: Portals) -> None:
    with answering(ENDS[0]) as one:
        refusing = (ENDS[1], 9)
        for affinity in (0, 0, 3600, 3600):  # each second one begins with the one that refuses
            portals.declare([portal(refusing, one, protocol="udp", affinity=affinity)])
            with client() as sock:
                sock.settimeout(0.2)

                def answered(sock: socket.socket = sock) -> bool:
                    sock.send(b"hello")
                    try:
                        return bool(sock.recv(100))
                    except TimeoutError:
                        return False

                eventually(answered, "the next datagram goes to the other endpoint")


def test_flows_of_one_port_and_two_protocols_are_told_apart(portals: Portals) -> None:
    with answering(ENDS[0]) as end, serving(ENDS[1], name_and_client) as other, client() as sock:
        portals.declare([portal(end, protocol="udp"), portal(other, port=PORT)])
        say(sock)
        with socket.create_connection((NODE[0], PORT), PATIENCE, sock.getsockname()) as stream:
            all_of(stream)
        (by_udp,) = control.flows_of(sock.getsockname(), "udp")
        (by_tcp,) = control.flows_of(sock.getsockname(), "tcp")
    assert (by_udp.endpoint, by_tcp.endpoint) == (end, other)


def test_a_session_ends_after_silence(portals: Portals) -> None:
    with answering(ENDS[0]) as end:
        portals.declare([portal(end, protocol="udp")])
        with client() as sock:
            say(sock)
            (flow,) = control.flows_of(sock.getsockname(), "udp")
            assert flow.source in _udp_sockets()
            began = time.monotonic()
            eventually(lambda: flow.source not in _udp_sockets(), "the session is over")
            assert time.monotonic() - began > datagrams.IDLE - 1


def _udp_sockets() -> set[tuple[str, int]]:
    """Return the addresses and ports that UDP sockets have here."""
    lines = Path("/proc/thread-self/net/udp").read_text().splitlines()[1:]
    ends = [line.split()[1].split(":") for line in lines]
    return {(socket.inet_ntoa(bytes.fromhex(raw)[::-1]), int(port, 16)) for raw, port in ends}


# -- the process


def test_a_port_that_is_taken_is_left_to_whoever_has_it(portals: Portals) -> None:
    with socket.create_server(("0.0.0.0", PORT)), three() as ends:
        (port,) = portals.declare([portal(*ends)]).ports.values()
        assert port == PORT + 1
        assert ask(port=port)[0] in ENDS


def test_endpoints_change_without_the_port(portals: Portals) -> None:
    with three() as ends:
        portals.declare([portal(ends[0])])
        portals.update([portal(ends[1])], [])
        assert control.ports() == {"default/web/tcp": PORT}
        assert {ask()[0] for _ in range(3)} == {ENDS[1]}
        portals.update([], ["default/web/tcp"])
        assert control.ports() == {}
        with pytest.raises(ConnectionRefusedError):
            ask()


def test_one_that_was_killed_is_replaced_with_the_same_ports(portals: Portals) -> None:
    with three() as ends:
        portals.declare([portal(*ends)])
        assert ask()
        first = _pid()
        assert portals.connected
        os.kill(first, 9)
        eventually(lambda: not portals.connected, "it is missed")
        assert portals.declare([portal(*ends)]).ports == {"default/web/tcp": PORT}
        assert _pid() != first
        assert ask()[0] in ENDS


def test_another_one_takes_over_the_process_that_runs(portals: Portals) -> None:
    portals.declare([portal()])
    first = _pid()
    other = Portals(Home(log=Path("/dev/null")))
    other.declare([portal()])
    assert _pid() == first
    other.close()


def test_it_ends_when_it_is_told_to(place: str) -> None:
    stays = Portals(Home(attached=False, log=Path("/dev/null")))
    stays.declare([portal()])
    pid = _pid()
    stays.close()
    assert control.ports() == {"default/web/tcp": PORT}
    assert control.end()
    assert processes.wait(pid, seconds=PATIENCE)
    assert not control.end()


def test_it_ends_with_the_name_of_its_namespace(place: str) -> None:
    stays = Portals(Home(netns=netns.path(place), attached=False, log=Path("/dev/null")))
    stays.declare([portal()])
    pid = _pid()
    stays.close()
    netns.delete(place)
    assert processes.wait(pid, seconds=PATIENCE)
    netns.create(place)  # for the fixture


def test_nonsense_is_answered_and_changes_nothing(portals: Portals) -> None:
    portals.declare([portal()])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(control.NAME)
        sock.settimeout(PATIENCE)
        for line in (b"{", b"[]", b'{"all":[{}]}', b'{"ask":"x"}', b'{"set":[{"key":"k"}]}'):
            sock.sendall(line + b"\n")
            assert b"not a message" in sock.recv(1000)
    assert control.ports() == {"default/web/tcp": PORT}


def test_another_user_is_not_listened_to(portals: Portals) -> None:
    portals.declare([portal()])
    assert not stranger.is_heard(control.NAME, patience=PATIENCE)
    assert control.ports() == {"default/web/tcp": PORT}
