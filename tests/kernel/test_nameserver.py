"""The DNS server on real sockets: UDP, TCP, other resolvers good and bad, etcd come and gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
from podplaces import SOON

from netlab.dns.zone import Settings
from netlab.kernel import netns
from netlab.model.inventory import inventory
from netlab.nameserver import forwarding
from netlab.nameserver.__main__ import NameServer

pytestmark = pytest.mark.kernel
pytest_plugins = ["podplaces"]  # the fixture `place`

OWN = "127.0.0.1"
UPSTREAM_PORT = 5353  # 53 is taken, on every address
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}


def service(name: str, **spec: object) -> dict[str, object]:
    meta = {"name": name, "namespace": "shop"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def slice_of(name: str, addresses: list[str]) -> dict[str, object]:
    meta = {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one]} for one in addresses],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    }


OBJECTS = [
    NAMESPACE,
    service("web", clusterIP="10.96.0.1", ports=[{"port": 80}]),
    service("many", clusterIP="None"),
    slice_of("many", [f"10.244.0.{n}" for n in range(1, 101)]),
    service("outside", type="ExternalName", externalName="www.example.com"),
]


class Upstream:
    """A resolver at *address* that answers each query with what *answer* makes of it."""

    def __init__(self, address: str, answer: Callable[[dns.message.Message], list[bytes]]) -> None:
        self.heard: list[tuple[int, int]] = []  # source ports and numbers
        self.answer = answer
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, UPSTREAM_PORT))
        self._tcp = socket.create_server((address, UPSTREAM_PORT))
        for serve in (self._datagrams, self._streams):
            threading.Thread(target=serve, daemon=True).start()

    def _datagrams(self) -> None:
        while True:
            try:
                data, peer = self._udp.recvfrom(65535)
            except OSError:
                return
            query = dns.message.from_wire(data)
            self.heard.append((peer[1], query.id))
            for reply in self.answer(query):
                self._udp.sendto(reply, peer)

    def _streams(self) -> None:
        while True:
            try:
                client, _ = self._tcp.accept()
            except OSError:
                return
            with client:
                size = int.from_bytes(client.recv(2), "big")
                for reply in self.answer(dns.message.from_wire(client.recv(size))):
                    client.sendall(len(reply).to_bytes(2, "big") + reply)

    def close(self) -> None:
        self._udp.close()
        self._tcp.shutdown(socket.SHUT_RDWR)
        self._tcp.close()


def addressed(query: dns.message.Message, address: str = "203.0.113.10") -> list[bytes]:
    reply = dns.message.make_response(query)
    reply.answer = [dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address)]
    return [reply.to_wire()]


@pytest.fixture
def here(place: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A namespace that the test's thread is in."""
    monkeypatch.setattr(forwarding, "PORT", UPSTREAM_PORT)
    name = place()
    with netns.entered(name):
        yield name


def serving(*upstreams: str, known: bool = True) -> NameServer:
    """Return a server that serves from a thread of its own, in the namespace we are in."""
    server = NameServer(Settings(own=OWN), list(upstreams))
    server.open()
    if known:
        server.publish(inventory(OBJECTS), 1)
    threading.Thread(target=server.serve, daemon=True).start()
    return server


def udp(name: str, kind: str = "A", **more: object) -> dns.message.Message:
    return dns.query.udp(dns.message.make_query(name, kind, **more), OWN, timeout=SOON)


def tcp(name: str, kind: str = "A") -> dns.message.Message:
    return dns.query.tcp(dns.message.make_query(name, kind), OWN, timeout=SOON)


@pytest.mark.parametrize("ask", [udp, tcp])
def test_a_name_of_the_cluster(here: str, ask: Callable[[str], dns.message.Message]) -> None:
    serving()
    found = ask("Web.shop.svc.cluster.local.")
    assert [one.to_text() for one in found.answer] == [
        "Web.shop.svc.cluster.local. 5 IN A 10.96.0.1"
    ]


def test_an_answer_too_large_comes_whole_over_tcp(here: str) -> None:
    serving()
    name = "many.shop.svc.cluster.local."
    assert udp(name).flags & dns.flags.TC
    assert len(tcp(name).answer[0]) == 100


def test_several_queries_over_one_connection(here: str) -> None:
    serving()
    queries = [dns.message.make_query("web.shop.svc.cluster.local", kind) for kind in ("A", "AAAA")]
    with socket.create_connection((OWN, 53), timeout=SOON) as client:
        frames = b"".join(len(q.to_wire()).to_bytes(2, "big") + q.to_wire() for q in queries)
        client.sendall(frames[:5])  # half of the first …
        time.sleep(0.01)
        client.sendall(frames[5:])  # … and all the rest
        found = [dns.query.receive_tcp(client)[0] for _ in queries]
    assert [one.id for one in found] == [one.id for one in queries]


@pytest.mark.parametrize("ask", [udp, tcp])
def test_other_names_are_asked_of_others(
    here: str, ask: Callable[[str], dns.message.Message]
) -> None:
    upstream = Upstream("127.0.0.2", addressed)
    serving("127.0.0.2")
    found = ask("Example.com.")
    assert [one.to_text() for one in found.answer] == ["Example.com. 60 IN A 203.0.113.10"]
    upstream.close()


def test_an_alias_is_completed(here: str) -> None:
    upstream = Upstream("127.0.0.2", addressed)
    serving("127.0.0.2")
    found = udp("outside.shop.svc.cluster.local.")
    assert [one.to_text() for one in found.answer] == [
        "outside.shop.svc.cluster.local. 5 IN CNAME www.example.com.",
        "www.example.com. 60 IN A 203.0.113.10",
    ]
    upstream.close()


def test_ports_and_numbers_cannot_be_guessed(here: str) -> None:
    upstream = Upstream("127.0.0.2", addressed)
    serving("127.0.0.2")
    for number in range(20):
        udp(f"n{number}.example.com.", id=7)
    ports, numbers = zip(*upstream.heard, strict=True)
    assert len(set(ports)) > 10
    assert len(set(numbers)) > 15
    upstream.close()


def test_an_answer_to_another_question_is_passed_over(here: str) -> None:
    def forged(query: dns.message.Message) -> list[bytes]:
        (right,) = addressed(query)
        (evil,) = addressed(query, "192.0.2.66")
        other = dns.message.make_query("evil.test", "A", id=query.id)
        wrong_number = bytes([evil[0] ^ 1]) + evil[1:]
        not_an_answer = evil[:2] + bytes([evil[2] & 0x7F]) + evil[3:]
        return [*addressed(other, "192.0.2.66"), wrong_number, not_an_answer, evil[:20], right]

    upstream = Upstream("127.0.0.2", forged)
    serving("127.0.0.2")
    found = udp("example.com.")
    assert found.answer[0][0].to_text() == "203.0.113.10"
    assert found.question[0].name.to_text() == "example.com."
    upstream.close()


def test_the_next_is_asked_when_one_is_silent(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "PATIENCE", 0.1)
    silent, good = Upstream("127.0.0.2", lambda _: []), Upstream("127.0.0.3", addressed)
    serving("127.0.0.2", "127.0.0.3")
    assert udp("example.com.").answer[0][0].to_text() == "203.0.113.10"
    assert len(silent.heard) == 1
    silent.close()
    good.close()


def test_nobody_answers(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "PATIENCE", 0.1)
    silent = Upstream("127.0.0.2", lambda _: [])
    serving("127.0.0.2", "127.0.0.9")  # nobody is at the second
    for ask in (udp, tcp):
        assert ask("example.com.").rcode() == dns.rcode.SERVFAIL
    assert udp("web.shop.svc.cluster.local.").answer, "its own names need nobody"
    silent.close()


def test_readiness_is_told_over_http(here: str) -> None:
    server = serving(known=False)

    def status(path: str) -> bytes:
        with socket.create_connection((OWN, 8181), timeout=SOON) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            return client.recv(100).split(b"\r\n")[0]

    assert status("/health") == b"HTTP/1.1 200 OK"
    assert status("/ready") == b"HTTP/1.1 503 Service Unavailable"
    assert udp("web.shop.svc.cluster.local.").rcode() == dns.rcode.SERVFAIL
    server.publish(inventory(OBJECTS), 1)
    assert status("/ready") == b"HTTP/1.1 200 OK"
    assert udp("web.shop.svc.cluster.local.").rcode() == dns.rcode.NOERROR


def test_what_is_answered_leaves_room_for_others(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "WAITING_MAX", 2)
    monkeypatch.setattr(forwarding, "PATIENCE", SOON)

    def answer(query: dns.message.Message) -> list[bytes]:
        return [] if "silent" in query.question[0].name.to_text() else addressed(query)

    upstream = Upstream("127.0.0.2", answer)
    serving("127.0.0.2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting:
        waiting.sendto(dns.message.make_query("silent.example.com.", "A").to_wire(), (OWN, 53))
        for number in range(6):
            assert udp(f"n{number}.example.com.").rcode() == dns.rcode.NOERROR
    upstream.close()
