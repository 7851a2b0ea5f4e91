"""The pod server, in namespaces made by hand; and all tests of pods again without root."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from podplaces import ROOT, SOON, populate

from netlab import processes
from netlab.kernel import netns
from netlab.pods.control import Port, Served, Servers
from netlab.pods.listening import opened
from netlab.pods.waiting import until

pytestmark = pytest.mark.kernel
pytest_plugins = ["podplaces"]  # the fixtures `rundir` and `place`


@pytest.fixture
def servers(rundir: Path) -> Iterator[Servers]:
    made = Servers(rundir)
    yield made
    made.close()


def served(name: str, *ports: int, protocol: str = "TCP", container: str = "c") -> Served:
    return Served(
        netns=name,
        node="n1",
        namespace="shop",
        pod=name,
        container=container,
        ports=tuple(Port(port, protocol) for port in ports),
        hostname="web-0",
    )


def connected(name: str, port: int) -> socket.socket:
    with netns.entered(name):
        client = socket.create_connection(("127.0.0.1", port), timeout=SOON)
    client.settimeout(SOON)
    return client


def asked(name: str, port: int, text: bytes = b"hello\n") -> dict[str, Any]:
    """Return what a server answers to one line over TCP."""
    with connected(name, port) as client:
        client.sendall(text)
        return json.loads(client.makefile("rb").readline())


def answers(name: str, port: int) -> bool:
    try:
        return bool(asked(name, port))
    except (OSError, ValueError):
        return False


def test_server_says_who_answers_and_whom_it_saw(
    servers: Servers, place: Callable[[], str]
) -> None:
    name = place()
    result = servers.declare([served(name, 80, 81)])
    assert result[served(name).key].bound == ("80/tcp", "81/tcp")
    with connected(name, 80) as client:
        client.sendall(b"GET /path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
        mine = client.getsockname()
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json")
    assert json.loads(body) == {
        "pod": name,
        "namespace": "shop",
        "container": "c",
        "node": "n1",
        "hostname": "web-0",
        "client": "127.0.0.1",
        "clientPort": mine[1],
        "server": "127.0.0.1",
        "serverPort": 80,
        "protocol": "tcp",
        "request": "GET /path HTTP/1.1..Host: x..Connection: close",
    }
    assert asked(name, 81)["request"] == "hello."


def test_datagram_is_answered_from_the_address_it_was_sent_to(
    servers: Servers, place: Callable[[], str]
) -> None:
    name = place()
    servers.declare([served(name, 53, protocol="UDP")])
    with netns.entered(name):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.settimeout(SOON)
        client.connect(("127.0.0.2", 53))  # takes datagrams from that address only
        client.send(b"token-1")
        answer = json.loads(client.recv(2048))
        assert (answer["server"], answer["protocol"], answer["request"]) == (
            "127.0.0.2",
            "udp",
            "token-1",
        )
        client.send(json.dumps(answer, separators=(",", ":")).encode())
        client.send(b"token-2")
        assert json.loads(client.recv(2048))["request"] == "token-2"  # an answer is not answered


def test_ipv6_is_served_where_it_is_on(servers: Servers, place: Callable[[], str]) -> None:
    name = place()
    with netns.entered(name):
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("0")
        Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").write_text("0")
    servers.declare([served(name, 80)])
    with netns.entered(name):
        client = socket.create_connection(("::1", 80), timeout=SOON)
    with client:
        client.sendall(b"x\n")
        assert json.loads(client.makefile("rb").readline())["client"] == "::1"


def test_sctp_is_served_or_the_lack_of_it_named(servers: Servers, place: Callable[[], str]) -> None:
    name = place()
    result = servers.declare([served(name, 9, protocol="SCTP")])[served(name).key]
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        assert result.errors == ("bind sctp/9: this kernel lacks SCTP",)
    else:
        assert result.bound == ("9/sctp",)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_second_bind_of_a_port_is_refused(
    servers: Servers, place: Callable[[], str], protocol: str
) -> None:
    name, other = place(), place()
    first = served(name, 80, protocol=protocol, container="a")
    second = served(name, 80, 90, protocol=protocol, container="b")
    elsewhere = served(other, 80, protocol=protocol)
    results = servers.declare([first, second, elsewhere])
    word = protocol.lower()
    assert results[first.key].bound == (f"80/{word}",)
    assert results[second.key].bound == (f"90/{word}",)
    assert results[second.key].errors == (f"bind {word}/80: address already in use",)
    assert results[elsewhere.key].bound == (f"80/{word}",)
    # Nor can a program in the pod take it, whatever options it sets.
    with netns.entered(name), pytest.raises(OSError, match="already in use"):
        opened((80, word))
    # It is tried again once the port is free.
    assert servers.update([second], [first.key])[second.key].errors == ()


def test_declaration_leaves_what_stays_the_same_alone(
    servers: Servers, place: Callable[[], str]
) -> None:
    name, other = place(), place()
    servers.declare([served(name, 80, 81), served(other, 80)])
    with connected(name, 80) as client, connected(name, 81) as closing:
        closing.sendall(b"x\n")
        assert closing.recv(2048)
        servers.declare([served(name, 80, 82)])
        client.sendall(b"still here\n")
        assert b"still here" in client.recv(2048)
        assert closing.recv(2048) == b""  # its port is no more
    assert answers(name, 82)
    assert not answers(name, 81)
    assert not answers(other, 80)


def test_declaration_of_a_node_leaves_the_other_nodes_alone(
    servers: Servers, place: Callable[[], str]
) -> None:
    name, other = place(), place()
    far = Served(other, "n2", "shop", other, "c", (Port(80),))
    servers.declare([served(name, 80), far])
    servers.declare([served(name, 81)], node="n1")
    assert [answers(name, 80), answers(name, 81), answers(other, 80)] == [False, True, True]


def test_clients_that_say_nothing_or_garbage_hold_nobody_up(
    servers: Servers, place: Callable[[], str]
) -> None:
    name = place()
    servers.declare([served(name, 80)])
    silent = [connected(name, 80) for _ in range(200)]
    rude = connected(name, 80)
    rude.sendall(os.urandom(100_000).replace(b"\n", b""))
    began = time.monotonic()
    assert asked(name, 80)["request"] == "hello."
    assert time.monotonic() - began < 1
    for client in silent:
        assert json.loads(client.makefile("rb").readline())["request"] == ""
        client.close()
    rude.close()


def test_killed_server_is_replaced_and_told_everything(
    servers: Servers, place: Callable[[], str]
) -> None:
    name, other = place(), place()
    servers.declare([served(name, 80)])
    servers.update([served(other, 80)])
    old = servers.ensure()
    os.kill(old, signal.SIGKILL)
    assert select.select([servers.fileno()], [], [], SOON)  # whichever server it is by now
    new = servers.ensure()
    assert new != old
    assert [answers(name, 80), answers(other, 80)] == [True, True]


def test_death_of_the_server_is_seen_at_once(servers: Servers) -> None:
    pid, fd = servers.ensure(), servers.fileno()
    assert not select.select([fd], [], [], 0)[0]
    os.kill(pid, signal.SIGKILL)
    assert select.select([fd], [], [], SOON)[0]


def test_declaration_after_a_kill_is_not_lost(servers: Servers, place: Callable[[], str]) -> None:
    name, other = place(), place()
    servers.declare([served(name, 80)])
    os.kill(servers.ensure(), signal.SIGKILL)
    assert servers.update([served(other, 80)])[served(other).key].bound == ("80/tcp",)
    assert answers(name, 80)


def test_running_server_is_adopted(
    rundir: Path, servers: Servers, place: Callable[[], str]
) -> None:
    name = place()
    servers.declare([served(name, 80)])
    with connected(name, 80) as client:
        second = Servers(rundir)
        assert second.ensure() == servers.ensure()
        assert second.declare([served(name, 80)])[served(name).key].bound == ("80/tcp",)
        client.sendall(b"x\n")
        assert client.recv(2048)
        second.close()


def test_ten_threads_get_one_server(rundir: Path) -> None:
    pids: list[int] = []
    clients = [Servers(rundir) for _ in range(10)]
    threads = [threading.Thread(target=lambda c=c: pids.append(c.ensure())) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    assert len(set(pids)) == 1
    assert until(lambda: processes.marked(rundir)["pods"] == [pids[0]], within=SOON)


def test_namespace_made_again_under_its_name_is_served_again(
    servers: Servers, place: Callable[[], str]
) -> None:
    name = place()
    servers.declare([served(name, 80)])
    netns.delete(name)
    populate(name)
    assert until(lambda: answers(name, 80), within=SOON)


def test_declaration_binds_in_a_namespace_made_again_at_once(
    servers: Servers, place: Callable[[], str]
) -> None:
    name = place()
    servers.declare([served(name, 80)])
    netns.delete(name)
    populate(name)
    servers.update([served(name, 80)])
    assert answers(name, 80)


def test_missing_namespace_is_named_and_bound_when_it_comes(
    servers: Servers, place: Callable[[], str]
) -> None:
    name = place()
    netns.delete(name)
    result = servers.declare([served(name, 80)])[served(name).key]
    assert result.errors == (f"no network namespace {name}",)
    populate(name)
    assert until(lambda: answers(name, 80), within=SOON)


def test_deleted_namespace_is_let_go(servers: Servers, place: Callable[[], str]) -> None:
    near, name = place(), place()
    processes.run(
        ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", name],
        netns=near,
    )
    servers.declare([served(name, 80)])
    with connected(name, 80) as client:
        client.sendall(b"x\n")
        client.recv(2048)
        netns.delete(name)
        client.close()
        # The other end goes with the last socket in there.
        assert until(
            lambda: "v0" not in processes.run(["ip", "link"], netns=near).stdout, within=SOON
        )


def test_server_ends_with_its_run_directory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    servers = Servers(run)
    pid = servers.ensure()
    servers.close()
    start = processes.start_time(pid)
    assert start is not None
    subprocess.run(["rm", "-r", str(run)], check=True)
    assert until(lambda: not processes.alive(pid, start), within=SOON)


def test_nonsense_on_the_control_socket_is_refused_and_survived(
    rundir: Path, servers: Servers
) -> None:
    pid = servers.ensure()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(rundir / "pods.sock"))
        client.sendall(b'not json\n{"set":[{"key":1}]}\n[]\n')
        replies = [json.loads(client.makefile("rb").readline()) for _ in range(1)]
    assert "not a declaration" in replies[0]["error"]
    assert servers.declare([]) == {}
    assert servers.ensure() == pid


def test_without_root() -> None:
    """All tests of pods, in a user namespace where we are root over nothing else."""
    if "NLTEST_ROOTLESS" in os.environ:
        pytest.skip("this is that run")
    files = " ".join(str(path) for path in Path(__file__).parent.glob("test_pods*.py"))
    inner = (
        "mount -t tmpfs run /run && mkdir /run/netns && "
        f"exec {sys.executable} -m pytest -q -p no:cacheprovider -p no:xdist {files} "
        "-k 'not without_root'"
    )
    argv = ["unshare", "-Urnm", "sh", "-c", inner]
    environment = {**os.environ, "NLTEST_ROOTLESS": "1"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    if subprocess.run(["unshare", "-Urnm", "true"], check=False).returncode:
        pytest.skip("capability missing: user namespaces")
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
