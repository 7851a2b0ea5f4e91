"""The flows the kernel remembers: real packets make them, through real rules."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from netlab.errors import CapabilityError
from netlab.kernel import conntrack, netns
from netlab.kernel.addresses import local_addresses
from netlab.kernel.conntrack import Entry, delete, entries
from netlab.model.kubernetes import view
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.packets import Flow, Protocol
from netlab.processes import run
from netlab.proxy import Decision, Options, decision
from netlab.proxy.addresses import Family
from netlab.proxy.staleness import judge, ports

pytestmark = [pytest.mark.kernel, pytest.mark.stock]

SECONDS = 5.0  # until a packet must have come
V4, V6 = Family.IPV4, Family.IPV6
UDP, TCP = Protocol.UDP, Protocol.TCP
CLIENT, VIP, OTHER_VIP = "192.0.2.1", "10.96.0.1", "10.96.0.2"
A, B = "10.244.1.5", "10.244.1.6"
MANY = 20_000

# All of it in one namespace: what is for nobody here leaves by `out` and is lost.
WORLD = f"""
ip link set lo up
ip addr add {CLIENT}/32 dev lo
ip addr add {A}/32 dev lo
ip addr add {B}/32 dev lo
ip link add out type veth peer name lost
ip link set out up
ip link set lost up
ip addr add 198.51.100.1/24 dev out
ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev out
ip route add default via 198.51.100.2
"""
TRACKED = "table inet tracking { chain out { type filter hook output priority 0; ct state new; }; }"

MARKING = """
table inet marking {
    chain early {
        type filter hook output priority raw;
        udp dport 1001 ct zone set 5
        udp dport 1002 ct original zone set 6
        udp dport 1005 ct reply zone set 7
    }
    chain late {
        type filter hook output priority 0
        udp dport 1003 ct mark set 0x4001
    }
    chain post {
        type nat hook postrouting priority srcnat
        udp dport 1004 snat ip to 198.51.100.1
    }
}
"""


@pytest.fixture
def inside() -> Iterator[str]:
    """A namespace that tracks flows; the test's thread is in it."""
    name = f"nltest-{os.getpid()}-flows"
    netns.create(name)
    try:
        with netns.entered(name):
            for line in WORLD.strip().splitlines():
                run(line.split())
            rules(TRACKED)
            yield name
    finally:
        netns.delete(name)


def rules(text: str) -> None:
    run(["nft", "-f", "-"], input=text + "\n")


def translate(*targets: str) -> None:
    """Have what is sent to `address:port` sent on to another; each as `VIP:53 A:5353`."""
    lines = ""
    for one in targets:
        address, port, to = one.replace(" ", ":", 1).split(":", 2)
        for protocol in ("udp", "tcp"):
            lines += f"ip daddr {address} {protocol} dport {port} dnat to {to}\n"
    hook = "type nat hook output priority -100"
    rules(
        f"table ip translation\ndelete table ip translation\n"
        f"table ip translation {{ chain out {{ {hook}; {lines} }}; }}"
    )


def bound(address: str = CLIENT, port: int = 0, *, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.socket(family, kind)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind((address, port))
    found.settimeout(SECONDS)
    return found


def to(found: list[Entry], destination: str) -> list[Entry]:
    return [one for one in found if one.original.destination == destination]


# -- what is listed


def test_only_what_has_an_address_at_one_of_its_ends_is_listed(inside: str) -> None:
    translate(f"{VIP}:53 {A}:5353", f"{OTHER_VIP}:53 {B}:5353")
    with bound() as client, bound(A, 5353), bound(B, 5353):
        for vip in (VIP, OTHER_VIP):
            client.sendto(b"?", (vip, 53))
    every = entries(V4, UDP)
    assert {one.original.destination for one in every} == {VIP, OTHER_VIP}
    for address, vip in ((VIP, VIP), (A, VIP), (B, OTHER_VIP)):
        assert [one.original.destination for one in entries(V4, UDP, of=address)] == [vip]
    assert {one.id for one in entries(V4, UDP, of=CLIENT)} == {one.id for one in every}
    assert entries(V4, UDP, of="192.0.2.9") == []


def test_a_translated_flow_is_listed_as_it_came_and_as_it_is_answered(inside: str) -> None:
    translate(f"{VIP}:53 {A}:5353")
    with bound() as client, bound(A, 5353) as server:
        client.sendto(b"?", (VIP, 53))
        assert server.recv(10) == b"?"
        (entry,) = entries(V4, UDP)
        assert entry.original == Flow(CLIENT, VIP, UDP, client.getsockname()[1], 53)
        assert entry.reply == Flow(A, CLIENT, UDP, 5353, client.getsockname()[1])
        assert (entry.redirected, entry.masqueraded, entry.replied) == (True, False, False)
        assert (entry.zone, entry.mark, entry.state) == (0, 0, "")
        assert entry.id
        assert 0 < entry.timeout <= 30
        server.sendto(b"!", client.getsockname())
        assert client.recv(10) == b"!"
        (answered,) = entries(V4, UDP)
        assert (answered.replied, answered.id) == (True, entry.id)


def test_marks_zones_and_masquerading_are_listed(inside: str) -> None:
    rules(MARKING)
    with bound() as client:
        for port in range(1000, 1006):
            client.sendto(b"?", ("203.0.113.1", port))
    found = {one.original.destination_port: one for one in entries(V4, UDP)}
    assert {port: one.zone for port, one in found.items() if one.zone} == {
        1001: 5,
        1002: 6,
        1005: 7,
    }
    assert {port: one.mark for port, one in found.items() if one.mark} == {1003: 0x4001}
    assert [port for port, one in found.items() if one.masqueraded] == [1004]
    assert not any(one.redirected for one in found.values())
    delete(found.values())
    assert entries(V4, UDP) == []


def test_other_protocols_and_families_are_listed_apart(inside: str) -> None:
    with ExitStack() as stack:
        for address in (CLIENT, "::1"):
            stack.enter_context(bound(address)).sendto(b"?", (address, 9))
        server = stack.enter_context(bound(kind=socket.SOCK_STREAM))
        server.listen()
        stack.enter_context(bound(kind=socket.SOCK_STREAM)).connect(server.getsockname())
        ping = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
        ping.sendto(b"\x08\x00\xf7\xfd\x00\x01\x00\x01", ("203.0.113.1", 0))
        strange = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, 253))
        strange.sendto(b"?", ("203.0.113.1", 0))
        assert {one.original.protocol for one in entries(V4)} == {TCP, UDP, Protocol.ICMP}
        assert [one.original.protocol for one in entries(V6)] == [UDP]
        assert [one.original.destination for one in entries(V6, "UDP")] == ["::1"]
        (tcp,) = entries(V4, "TCP")
        assert tcp.state == "ESTABLISHED"
        assert tcp.original.destination_port == server.getsockname()[1]
        assert entries(V6, "TCP") == []
        (icmp,) = entries(V4, Protocol.ICMP)
        assert str(icmp.original) == "198.51.100.1 -> 203.0.113.1 icmp"
        delete([icmp, *entries(V6)])
        assert (entries(V4, Protocol.ICMP), entries(V6)) == ([], [])
        assert entries(V4, "TCP") == [
            msgspec.structs.replace(tcp, timeout=entries(V4, TCP)[0].timeout)
        ]


@pytest.mark.parametrize("asked", [[1003], [1001, 1004, 1], range(1002, 1100), []], ids=str)
@pytest.mark.parametrize("many", [0, 20_000], ids=["a-dump-for-each", "one-dump"])
def test_only_flows_to_the_ports_asked_for_are_listed(
    inside: str, asked: list[int], monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    monkeypatch.setattr(conntrack, "MANY", many)
    with bound() as client, bound() as other:
        for port in range(1000, 1006):
            client.sendto(b"?", ("203.0.113.1", port))
        other.sendto(b"?", ("203.0.113.1", 1003))
    found = sorted(one.original.destination_port for one in entries(V4, UDP, ports=asked))
    every = [1000, 1001, 1002, 1003, 1003, 1004, 1005]
    assert found == [port for port in every if port in asked or not asked]


def test_other_namespaces_are_not_listed(inside: str) -> None:
    with bound() as client:
        client.sendto(b"?", ("203.0.113.1", 9))
    other = f"{inside}-2"
    netns.create(other)
    try:
        with netns.entered(other):
            assert entries(V4) == []
    finally:
        netns.delete(other)
    assert len(entries(V4)) == 1


def test_a_kernel_without_it_is_told(inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with bound() as client:
        client.sendto(b"?", ("203.0.113.1", 9))
    (entry,) = entries(V4)
    monkeypatch.setattr(conntrack, "_GET", 200 << 8)  # a subsystem no kernel has
    monkeypatch.setattr(conntrack, "_DELETE", 200 << 8)
    with pytest.raises(CapabilityError, match="this kernel tells of no flows"):
        entries(V4, UDP)
    with pytest.raises(CapabilityError, match="this kernel tells of no flows"):
        delete([entry])


def test_who_sorts_them_out_is_asked_once_for_flows_between_the_same_ends(inside: str) -> None:
    translate(f"{VIP}:53 {A}:5353", f"{OTHER_VIP}:53 {A}:5353")
    with ExitStack() as stack:
        for client in [stack.enter_context(bound()) for _ in range(20)]:
            for vip, port in ((VIP, 53), (OTHER_VIP, 53), (VIP, 54)):
                client.sendto(b"?", (vip, port))
    asked: list[Entry] = []

    def only(one: Entry) -> bool:
        asked.append(one)
        return one.redirected and one.original.destination == VIP

    found = entries(V4, UDP, only=only)
    assert len(asked) == 3
    every = {one.id for one in entries(V4, UDP) if one.redirected}
    assert len(found) == 20
    assert {one.id for one in found} == every - {one.id for one in to(entries(V4), OTHER_VIP)}


def test_flows_between_the_same_ends_in_other_zones_are_sorted_out_apart(inside: str) -> None:
    with bound() as client:
        client.sendto(b"?", ("203.0.113.1", 1001))
        rules(MARKING)
        client.sendto(b"?", ("203.0.113.1", 1001))
    assert {one.zone for one in entries(V4, UDP)} == {0, 5}
    for zone in (0, 5):
        found = entries(V4, UDP, only=lambda one, zone=zone: one.zone == zone)  # type: ignore[misc]
        assert [one.zone for one in found] == [zone]


# -- what is forgotten


def test_nothing_else_is_forgotten(inside: str) -> None:
    with bound() as client:
        for port in (1, 2, 3):
            client.sendto(b"?", ("203.0.113.1", port))
    first, second, third = sorted(entries(V4, UDP), key=lambda one: one.original.destination_port)
    successor = msgspec.structs.replace(second, id=second.id ^ 1)  # as if it had come in its place
    delete([first, successor])
    assert [one.id for one in entries(V4, UDP) if one.id != third.id] == [second.id]
    delete([])
    delete([first, second])  # one is gone already
    assert [one.id for one in entries(V4, UDP)] == [third.id]


def test_many_flows_are_listed_and_forgotten(inside: str) -> None:
    with bound() as client:
        for port in range(1, MANY + 1):
            client.sendto(b"?", ("203.0.113.1", port))
    found = entries(V4, UDP)
    assert sorted(one.original.destination_port for one in found) == list(range(1, MANY + 1))
    delete(found[1:])
    assert [one.id for one in entries(V4, UDP)] == [found[0].id]
    delete(found)  # almost all of them refused
    assert entries(V4, UDP) == []


# -- what it is for


def node() -> ProxyNode:
    return view({"metadata": {"name": "node1"}}, ProxyNode)


def dns(*endpoints: str) -> Decision:
    """Return what a node does about two Services, UDP and TCP; the other's endpoint stays."""
    services, slices = [], []
    for name, address, targets in (("dns", VIP, endpoints), ("other", OTHER_VIP, (A,))):
        wanted = [{"port": 53, "name": one, "protocol": one} for one in ("UDP", "TCP")]
        spec = {"clusterIP": address, "ports": wanted}
        services.append(view({"metadata": {"name": name}, "spec": spec}, Service))
        ready = [{"addresses": [one], "conditions": {"ready": True}} for one in targets]
        slices.append(
            view(
                {
                    "metadata": {
                        "name": f"{name}-1",
                        "labels": {"kubernetes.io/service-name": name},
                    },
                    "addressType": "IPv4",
                    "endpoints": ready,
                    "ports": [{**one, "port": 5353} for one in wanted],
                },
                EndpointSlice,
            )
        )
    return decision(services, slices, node(), Options())


def forget_stale(now: Decision) -> list[Entry]:
    found = entries(V4, UDP, ports=ports(now.frontends))
    is_stale = judge(now.frontends, now.situations[V4], local=local_addresses(V4))
    gone = [one for one in found if is_stale(one)]
    delete(gone)
    return gone


def test_a_udp_client_that_never_stops_follows_the_endpoint(inside: str) -> None:
    with ExitStack() as stack:
        a, b = (stack.enter_context(bound(one, 5353)) for one in (A, B))
        servers = [stack.enter_context(bound(A, 5353, kind=socket.SOCK_STREAM))]
        servers[0].listen()
        translate(f"{VIP}:53 {A}:5353", f"{OTHER_VIP}:53 {A}:5353")
        client, other, direct = (stack.enter_context(bound()) for _ in range(3))
        stream = stack.enter_context(bound(kind=socket.SOCK_STREAM))
        client.sendto(b"1", (VIP, 53))
        other.sendto(b"2", (OTHER_VIP, 53))
        direct.sendto(b"3", (A, 5353))
        assert [a.recv(10) for _ in range(3)] == [b"1", b"2", b"3"]
        stream.connect((VIP, 53))
        peer = stack.enter_context(servers[0].accept()[0])
        before = {one.id for one in entries(V4)}

        translate(f"{VIP}:53 {B}:5353", f"{OTHER_VIP}:53 {A}:5353")
        client.sendto(b"still", (VIP, 53))
        assert a.recv(10) == b"still"  # why there must be somebody who forgets
        (gone,) = forget_stale(dns(B))
        assert gone.original.source_port == client.getsockname()[1]
        assert {one.id for one in entries(V4)} == before - {gone.id}

        client.sendto(b"moved", (VIP, 53))
        assert b.recv(10) == b"moved"
        for one, where in ((other, OTHER_VIP), (direct, A)):
            one.sendto(b"stays", (where, 53 if where == OTHER_VIP else 5353))
            assert a.recv(10) == b"stays"
        stream.sendall(b"as if nothing had been")
        assert peer.recv(100) == b"as if nothing had been"
        assert forget_stale(dns(B)) == []


def test_a_udp_client_that_came_too_early_finds_the_service(inside: str) -> None:
    with bound() as client, bound(A, 5353) as server:
        client.sendto(b"early", (VIP, 53))  # leaves the node: there is no rule
        assert [one.redirected for one in to(entries(V4, UDP), VIP)] == [False]
        assert forget_stale(dns()) == []  # nobody serves it yet
        translate(f"{VIP}:53 {A}:5353")
        client.sendto(b"still lost", (VIP, 53))
        assert [one.redirected for one in to(entries(V4, UDP), VIP)] == [False]
        assert len(forget_stale(dns(A))) == 1
        client.sendto(b"found", (VIP, 53))
        assert server.recv(10) == b"found"
