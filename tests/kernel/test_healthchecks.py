"""Health-check node ports, asked by clients of every kind."""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from netlab.agent import answers, healthchecks
from netlab.agent.healthchecks import HealthChecks
from netlab.kernel import netns
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.processes import run
from netlab.processes.holder import holder
from netlab.proxy import HealthCheck, Options, Situation
from netlab.proxy.addresses import Family
from netlab.proxy.options import situations

pytestmark = pytest.mark.kernel

PORT = 30100
SECONDS = 5.0  # until something must have happened
V4, V6 = Family.IPV4, Family.IPV6
GET = b"GET / HTTP/1.1\r\nHost: lb\r\n\r\n"


def on(*prefixes: str) -> dict[Family, Situation]:
    """Return a node with NodePorts on *prefixes*; none: on all of its addresses."""
    addresses = [{"type": "InternalIP", "address": one} for one in ("192.0.2.1", "2001:db8::1")]
    node = {"metadata": {"name": "node1"}, "status": {"addresses": addresses}}
    return situations(view(node, ProxyNode), Options(node_port_addresses=prefixes))


@pytest.fixture
def inside() -> Iterator[str]:
    """A namespace with the addresses 127.0.0.1, ::1, 192.0.2.1 and .2; the thread is in it."""
    name = f"nltest-{os.getpid()}-health"
    netns.create(name)
    try:
        with netns.entered(name):
            run(["ip", "link", "set", "lo", "up"])
            for address in ("192.0.2.1/32", "192.0.2.2/32"):
                run(["ip", "addr", "add", address, "dev", "lo"])
            yield name
    finally:
        netns.delete(name)


@pytest.fixture
def health(inside: str) -> Iterator[HealthChecks]:
    """Health checks; afterwards neither a thread nor a descriptor of theirs is left."""
    descriptors = set(os.listdir("/proc/self/fd"))
    checks = HealthChecks()
    yield checks
    checks.close()
    assert threads() == []
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "netlab-answers"]


def check(endpoints: int = 1, *, port: int = PORT, family: Family = V4) -> HealthCheck:
    return HealthCheck("default", "web", family, port, endpoints)


def connect(address: str = "127.0.0.1", port: int = PORT) -> socket.socket:
    return socket.create_connection((address, port), timeout=SECONDS)


def status(address: str = "127.0.0.1", port: int = PORT) -> int:
    """Return the status of an answer, 0 when nobody listens."""
    try:
        with connect(address, port) as connection:
            connection.sendall(GET)
            return int(everything(connection).split()[1])
    except ConnectionRefusedError:
        return 0


def say(*parts: bytes, finish: bool = False) -> bytes:
    """Return all that comes back when *parts* are sent one after another."""
    with connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        if finish:
            connection.shutdown(socket.SHUT_WR)
        return everything(connection)


def everything(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def await_route(address: str) -> None:
    """Wait for the route to a new IPv6 address, which comes after it."""
    deadline = time.monotonic() + SECONDS
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as trial:
        while trial.connect_ex((address, 9)):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def await_descriptors(number: int) -> None:
    """Wait until the process, clients and servers being in it, has so many open."""
    deadline = time.monotonic() + SECONDS
    while len(os.listdir("/proc/self/fd")) != number:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_left(connection: socket.socket) -> bool:
    """Return whether the other side ends the connection, and earlier than it does at the latest."""
    connection.settimeout(answers.LIFE / 2)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


# -- what is answered


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(("endpoints", "expected"), [(2, 200), (0, 503)])
def test_a_load_balancer_is_told_how_many_endpoints_are_here(
    health: HealthChecks, method: str, endpoints: int, expected: int
) -> None:
    assert health.set([check(endpoints)], on()) == []
    with closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)) as client:
        client.request(method, "/any/path?x=1", body="ignored" if method == "POST" else None)
        found = client.getresponse()
        body = found.read()
    assert found.status == expected
    assert found.headers["X-Load-Balancing-Endpoint-Weight"] == str(endpoints)
    assert found.headers["Content-Type"] == "application/json"
    assert int(found.headers["Content-Length"]) == len(check(endpoints).body)
    if method != "HEAD":
        assert json.loads(body)["localEndpoints"] == endpoints


def test_head_is_told_no_body(health: HealthChecks) -> None:
    health.set([check()], on())
    assert say(b"HEAD / HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_a_changed_count_is_answered_at_once_by_the_same_listener(health: HealthChecks) -> None:
    health.set([check(0)], on())
    with connect() as early:  # before the change; asks after it
        health.set([check(3)], on())
        early.sendall(GET)
        assert b" 200 OK" in everything(early)
    for endpoints in (0, 1, 0, 2):
        assert health.set([check(endpoints)], on()) == []
        assert status() == (200 if endpoints else 503)


def test_ports_come_and_go(health: HealthChecks) -> None:
    health.set([check(port=30100), check(0, port=30101)], on())
    assert (status(port=30100), status(port=30101)) == (200, 503)
    with connect(port=30100) as silent:
        assert status(port=30100) == 200  # whoever came before is in by now
        health.set([check(0, port=30101)], on())
        assert (status(port=30100), status(port=30101)) == (0, 503)
        assert is_left(silent)  # its connections go with the port
    health.set([], on())
    assert status(port=30101) == 0
    assert threads() == []
    health.set([check(port=30101)], on())
    assert status(port=30101) == 200


def test_the_families_have_ports_of_their_own(health: HealthChecks) -> None:
    assert health.set([check(1), check(0, family=V6)], on()) == []
    assert (status("127.0.0.1"), status("::1")) == (200, 503)
    assert health.set([check(0, family=V6)], on()) == []
    assert (status("127.0.0.1"), status("::1")) == (0, 503)


@pytest.mark.parametrize(
    ("prefixes", "listening"),
    [
        ((), ("127.0.0.1", "192.0.2.1", "192.0.2.2")),
        (("192.0.2.0/24",), ("192.0.2.1", "192.0.2.2")),
        (("primary",), ("192.0.2.1",)),
        (("127.0.0.0/8",), ("127.0.0.1",)),
    ],
    ids=str,
)
def test_health_checks_are_where_node_ports_are(
    health: HealthChecks, prefixes: tuple[str, ...], listening: tuple[str, ...]
) -> None:
    assert health.set([check()], on(*prefixes)) == []
    every = ("127.0.0.1", "192.0.2.1", "192.0.2.2")
    assert tuple(one for one in every if status(one)) == listening


def test_where_node_ports_are_may_change(health: HealthChecks) -> None:
    for prefixes in ((), ("primary",), ()):
        assert health.set([check()], on(*prefixes)) == []
        assert status("192.0.2.1") == 200
        assert status("192.0.2.2") == (0 if prefixes else 200)


# -- what is in the way


def test_a_port_that_is_taken_is_told_and_tried_again(health: HealthChecks) -> None:
    with socket.create_server(("192.0.2.1", PORT)):
        problems = health.set([check(), check(port=30101)], on("192.0.2.0/24"))
        (problem,) = problems
        holder = rf"by \S+ \(pid {os.getpid()}\)"
        title = "Service default/web: health check port 30100: 192.0.2.1:30100"
        assert re.fullmatch(rf"{title}: address already in use {holder}", problem)
        assert (status("192.0.2.2"), status(port=30101, address="192.0.2.1")) == (200, 200)
        assert health.set([check()], on("192.0.2.0/24")) == problems
    assert health.set([check()], on("192.0.2.0/24")) == []
    assert status("192.0.2.1") == 200


def test_who_has_a_port_is_looked_up_once(
    health: HealthChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(healthchecks, "holder", lambda port: str(asked.append(port) or "somebody"))
    for _ in range(2):
        with socket.create_server(("", PORT)):
            for _ in range(3):
                assert health.set([check()], on())[0].endswith("already in use by somebody")
        assert health.set([check()], on()) == []
        health.set([], on())
    assert asked == [PORT, PORT]


def test_only_who_listens_has_a_port(inside: str) -> None:
    with socket.create_server(("127.0.0.1", PORT)), socket.socket() as client:
        client.bind(("127.0.0.1", 30101))
        client.connect(("127.0.0.1", PORT))
        assert holder(PORT).endswith(f"(pid {os.getpid()})")
        assert holder(30101) == ""


def test_link_local_addresses_are_not_listened_on(health: HealthChecks) -> None:
    for address in ("fe80::1/64", "2001:db8::1/128"):
        run(["ip", "addr", "add", address, "dev", "lo", "nodad"])
    await_route("2001:db8::1")
    assert health.set([check(family=V6)], on("fe80::/10", "2001:db8::/32")) == []
    assert status("2001:db8::1") == 200


def test_a_node_without_an_address_for_node_ports_is_told(health: HealthChecks) -> None:
    problems = health.set([check()], on("198.51.100.0/24"))
    assert problems == [
        "Service default/web: health check port 30100: the node has no address for NodePorts"
    ]
    assert threads() == []


# -- clients nobody wishes for


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01"], b"HTTP/1.1 400 "),
        ([b"hello\r\n"], b"HTTP/1.1 400 "),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], b"HTTP/1.1 400 "),
        ([b"GET /" + b"a" * answers.HEAD_BYTES], b"HTTP/1.1 431 "),
        ([b"GET / HTTP/1.1\r\n", *[b"X: " + b"y" * 1000 + b"\r\n"] * 9], b"HTTP/1.1 431 "),
        ([*(bytes([one]) for one in GET)], b"HTTP/1.1 200 "),
        ([b"\r\n", GET], b"HTTP/1.1 200 "),
        ([b"GET / HTTP/1.0\n\n"], b"HTTP/1.1 200 "),
        ([GET * 100], b"HTTP/1.1 200 "),
        ([GET, b"z" * 500_000], b"HTTP/1.1 200 "),
    ],
    ids=[
        *("tls", "text", "http2", "long-line", "long-head", "byte-by-byte", "empty-line-first"),
        *("bare-newlines", "pipelined", "sends-on"),
    ],
)
def test_whatever_is_sent_gets_one_answer(
    health: HealthChecks, parts: list[bytes], expected: bytes
) -> None:
    health.set([check()], on())
    found = say(*parts, finish=True)
    assert found.startswith(expected)
    assert found.count(b"HTTP/1.1") == 1
    assert status() == 200


def test_silent_clients_are_left(health: HealthChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIFE", 0.2)
    health.set([check()], on())
    with connect() as silent:
        assert silent.recv(1) == b""
    assert status() == 200


def test_slow_clients_are_left(health: HealthChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LIFE", 0.2)
    health.set([check()], on())
    with connect() as slow:
        assert is_refused(slow, b"G", pause=0.01)
    assert status() == 200


def test_clients_that_never_stop_are_left(
    health: HealthChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "LIFE", 2 * SECONDS)
    health.set([check()], on())
    with connect() as loud:
        loud.sendall(GET)
        assert loud.recv(1)
        assert is_refused(loud, b"z" * 65536)


def is_refused(connection: socket.socket, data: bytes, *, pause: float = 0.0) -> bool:
    """Return whether *data*, sent again and again, is not taken any more in the end."""
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            connection.sendall(data)
            time.sleep(pause)
    except ConnectionError:
        return True
    return False


def test_a_crowd_keeps_nobody_out(health: HealthChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_CLIENTS", 20)
    health.set([check()], on())
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect()) for _ in range(60)]
        assert status() == 200
        assert is_left(crowd[0])
        crowd[-1].sendall(GET)
        assert everything(crowd[-1]).startswith(b"HTTP/1.1 200 ")


def test_clients_that_reset_do_no_harm(health: HealthChecks) -> None:
    health.set([check()], on())
    for said in (b"", b"GET /", GET):
        with connect() as connection:
            connection.sendall(said)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert status() == 200


def test_without_descriptors_left_the_oldest_client_makes_room(health: HealthChecks) -> None:
    health.set([check()], on())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_before = len(os.listdir("/proc/self/fd"))
    waiting = [connect() for _ in range(3)]
    await_descriptors(open_before + 2 * len(waiting))
    asking = [socket.socket() for _ in range(3)]
    lowest = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        os.close(lowest)
        with pytest.raises(OSError, match="Too many open files"):
            os.open("/dev/null", os.O_RDONLY)
        for one in asking:
            one.settimeout(SECONDS)
            one.connect(("127.0.0.1", PORT))
            one.sendall(GET)
        found = [everything(one) for one in asking]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in (*waiting, *asking):
            one.close()
    assert [one.split()[1] for one in found] == [b"200"] * 3
