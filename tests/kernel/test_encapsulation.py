"""The process of flannel's udp back end, with real devices: two nodes and a cable between them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import stranger

from netlab import processes
from netlab.encapsulation import control
from netlab.encapsulation.control import Process, Told
from netlab.errors import CapabilityError
from netlab.kernel import netns, tun
from netlab.kernel.real import RealKernel
from netlab.objects import Address, Netns, Object, Route, Sysctl, Tun, Veth
from netlab.plan import difference
from netlab.sensors import counters

pytestmark = pytest.mark.kernel

HERE, THERE = f"nltestudp{os.getpid()}a", f"nltestudp{os.getpid()}b"
NODES = {HERE: "192.168.50.11", THERE: "192.168.50.12"}
SUBNETS = {HERE: "10.244.1", THERE: "10.244.2"}
PATIENCE = 20.0  # seconds, for what takes one


def objects(name: str) -> list[Object]:
    return [
        Netns(name),
        Sysctl(name, "net.ipv4.conf.all.rp_filter", "0"),
        Address(name, "eth0", f"{NODES[name]}/24"),
        Address(name, "lo", f"{SUBNETS[name]}.1/32"),  # as a pod there
        Tun(name, "flannel0", 1472),
        Address(name, "flannel0", f"{SUBNETS[name]}.0/32"),
        Sysctl(name, "net.ipv4.conf.flannel0.accept_local", "1"),
        Route(name, "10.244.0.0/16", "flannel0"),
    ]


def told(name: str, *, port: int = 8285, knows: bool = True) -> Told:
    other = THERE if name == HERE else HERE
    peers = ((f"{SUBNETS[other]}.0/24", NODES[other]),) if knows else ()
    return Told(NODES[name], port, f"{SUBNETS[name]}.1", peers)


def process(name: str, run: Path) -> Process:
    return Process(run, name, netns=Path(netns.path(name)), device="flannel0")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, Process]]:
    """Two nodes, each with a process that knows the other."""
    try:
        tun.require()
    except CapabilityError as error:
        pytest.skip(str(error))
    cable = Veth(*(HERE, "eth0", "02:00:00:00:00:01", THERE, "eth0", "02:00:00:00:00:02"))
    kernel = RealKernel()
    try:
        kernel.apply(difference([*objects(HERE), *objects(THERE), cable], []))
        started = {name: process(name, tmp_path) for name in (HERE, THERE)}
        for name, one in started.items():
            with netns.entered(name):
                assert one.keep(told(name))
        yield started
    finally:
        for name in (HERE, THERE):
            netns.delete(name)
        eventually(lambda: not processes.marked(tmp_path), "the processes go with their names")


def eventually(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def pinged(name: str, address: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", name, "ping", "-n", "-c1", "-W2", address],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_packet_loses_one_of_its_ttl_in_each_process(nodes: dict[str, Process]) -> None:
    assert "ttl=62" in pinged(HERE, f"{SUBNETS[THERE]}.1")


def test_on_the_wire_is_the_bare_packet_from_port_to_port(nodes: dict[str, Process]) -> None:
    with netns.entered(THERE):
        wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    with wire:
        wire.settimeout(PATIENCE)
        pinged(HERE, f"{SUBNETS[THERE]}.1")
        frame = wire.recv(2000)
    assert frame[12:20] == socket.inet_aton(NODES[HERE]) + socket.inet_aton(NODES[THERE])
    assert frame[6] & 0x40  # DF, as flannel's
    assert frame[20:24] == (8285).to_bytes(2, "big") * 2
    inner = frame[28:]
    assert (inner[0], inner[8], inner[9]) == (0x45, 63, socket.IPPROTO_ICMP)
    assert inner[16:20] == socket.inet_aton(f"{SUBNETS[THERE]}.1")


def test_who_asks_for_what_nobody_leases_is_told_so(nodes: dict[str, Process]) -> None:
    with netns.entered(HERE):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with client:
        client.settimeout(PATIENCE)
        client.bind((f"{SUBNETS[HERE]}.1", 0))
        with pytest.raises(OSError, match="unreachable"):
            client.connect(("10.244.77.7", 80))


@pytest.mark.parametrize("ttl", [1, 2], ids=["here", "there"])
def test_who_sends_with_too_small_a_ttl_is_told_so(nodes: dict[str, Process], ttl: int) -> None:
    """Of a datagram: about ICMP there are no errors, as in flannel."""
    with netns.entered(HERE):
        errors = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with errors, client:
        errors.settimeout(PATIENCE)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        client.bind((f"{SUBNETS[HERE]}.1", 0))
        client.sendto(b"x", (f"{SUBNETS[THERE]}.1", 9))
        error = errors.recv(2000)
    assert error[20:22] == bytes([11, 0])


def test_what_it_is_too_slow_for_is_counted(nodes: dict[str, Process], tmp_path: Path) -> None:
    """Both on its way out, in the device's queue of 500, and on its way in, in the socket's."""
    for slow, counted in ((HERE, range(100, 200)), (THERE, range(1, 20_000))):
        assert counters.overrun(slow, "flannel0", 8285) == 0
        (pid,) = processes.marked(tmp_path)[f"flannel/{slow}"]
        with netns.entered(HERE), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            goal = (f"{SUBNETS[THERE]}.1", 9) if slow == HERE else (NODES[THERE], 8285)
            os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(600 if slow == HERE else 20_000):
                    sender.sendto(bytes(1000), goal)
            finally:
                os.kill(pid, signal.SIGCONT)
        assert counters.overrun(slow, "flannel0", 8285) in counted


def test_a_process_that_was_killed_is_replaced_and_the_device_stays(
    nodes: dict[str, Process], tmp_path: Path
) -> None:
    (pid,) = processes.marked(tmp_path)[f"flannel/{HERE}"]
    os.kill(pid, signal.SIGKILL)
    with netns.entered(HERE):
        eventually(lambda: control.reached() is None, "it is gone")
        assert socket.if_nametoindex("flannel0")
        assert nodes[HERE].keep(told(HERE))
        assert control.reached() == {f"{SUBNETS[THERE]}.0/24": NODES[THERE]}
    assert "ttl=62" in pinged(HERE, f"{SUBNETS[THERE]}.1")


def test_another_agent_takes_the_process_over(nodes: dict[str, Process], tmp_path: Path) -> None:
    before = processes.marked(tmp_path)
    with netns.entered(HERE):
        assert process(HERE, tmp_path).keep(told(HERE))
        assert not nodes[HERE].keep(told(HERE))
    assert processes.marked(tmp_path) == before


def test_what_it_is_told_changes_without_a_new_process(
    nodes: dict[str, Process], tmp_path: Path
) -> None:
    before = processes.marked(tmp_path)
    for name, one in nodes.items():
        with netns.entered(name):
            assert one.keep(told(name, port=7777))
    assert "ttl=62" in pinged(HERE, f"{SUBNETS[THERE]}.1")
    with netns.entered(HERE):
        assert nodes[HERE].keep(told(HERE, port=7777, knows=False))
    assert " 0% packet loss" not in pinged(HERE, f"{SUBNETS[THERE]}.1")
    assert processes.marked(tmp_path) == before


def test_it_ends_when_it_is_told_and_when_its_device_goes(
    nodes: dict[str, Process], tmp_path: Path
) -> None:
    with netns.entered(HERE):
        assert control.end()
        assert not control.end()
    subprocess.run(["ip", "-n", THERE, "link", "del", "flannel0"], check=True)
    eventually(lambda: not processes.marked(tmp_path), "both are gone")


NOISE = (b"", b"x", b"\x45", b"\x45" * 19, b"\x60" + bytes(60), b"\x45" + bytes(40), b"E" * 900)


def test_what_strangers_send_does_it_no_harm(nodes: dict[str, Process]) -> None:
    with netns.entered(HERE):
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with stranger:
        for noise in NOISE:
            with suppress(OSError):
                stranger.sendto(noise, (NODES[THERE], 8285))
    assert "ttl=62" in pinged(HERE, f"{SUBNETS[THERE]}.1")


def test_nonsense_on_its_control_socket_is_answered(nodes: dict[str, Process]) -> None:
    with netns.entered(HERE):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(control.NAME)
    with connection:
        connection.settimeout(PATIENCE)
        for line in (b"{}", b"[]", b"x", b'{"local": 1}', b"\xff"):
            connection.sendall(line + b"\n")
            assert b'"error"' in connection.recv(4096), line
    assert "ttl=62" in pinged(HERE, f"{SUBNETS[THERE]}.1")


def test_who_goes_with_the_answer_unread_does_no_harm(nodes: dict[str, Process]) -> None:
    with netns.entered(HERE):
        for _ in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(control.NAME)
                connection.sendall(b'{"ask":"peers"}\n' * 2)
        assert control.reached() == {f"{SUBNETS[THERE]}.0/24": NODES[THERE]}


def test_another_user_is_not_listened_to(nodes: dict[str, Process]) -> None:
    with netns.entered(HERE):
        assert not stranger.is_heard(control.NAME, patience=PATIENCE)
        assert control.reached() == {f"{SUBNETS[THERE]}.0/24": NODES[THERE]}
