"""Pods' servers, sandboxes and containers, in namespaces made by hand.

The whole file also runs without root, inside one user namespace: `test_without_root`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from netlab import processes
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.pods import sandbox
from netlab.pods.containers import Containers, Wanted
from netlab.pods.control import Port, Served, Servers
from netlab.pods.execution import Target, inside, run_in
from netlab.pods.listening import opened
from netlab.pods.logs import logs
from netlab.pods.waiting import until

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
SOON = 10.0  # seconds; a deadline, not a wait
_numbers = itertools.count()


@pytest.fixture
def rundir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end_all(tmp_path, grace=0)


@pytest.fixture
def place() -> Iterator[Callable[[], str]]:
    """Make network namespaces with `lo` up, IPv6 off; all gone afterwards."""
    made: list[str] = []

    def make() -> str:
        made.append(f"nltest{os.getpid()}.pod{next(_numbers)}")
        populate(made[-1])
        return made[-1]

    yield make
    for name in made:
        netns.delete(name)


def populate(name: str) -> None:
    netns.create(name)
    with netns.entered(name):
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


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


# -- servers


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


# -- sandboxes


def made(rundir: Path, name: str, pod: str = "web-0", hostname: str = "web-0") -> Target:
    pid = sandbox.ensure(
        rundir,
        netns=name,
        namespace="shop",
        pod=pod,
        hostname=hostname,
        hosts=sandbox.hosts_file("10.1.2.3", hostname),
    )
    return Target(name, hostname, pid)


def view() -> dict[str, str]:
    kinds = ("uts", "ipc", "pid", "mnt", "net")
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds} | {
        "hostname": os.uname().nodename,
        "first": Path("/proc/1/cmdline").read_bytes().decode(errors="replace")[:5],
    }


def test_executions_in_one_pod_share_everything_and_pods_share_nothing(
    rundir: Path, place: Callable[[], str]
) -> None:
    one = made(rundir, place())
    other = made(rundir, place(), pod="web-1", hostname="web-1")
    first, again, elsewhere = (inside(target, view) for target in (one, one, other))
    assert first == again
    assert first["hostname"] == "web-0"
    assert first["first"] == "pause"
    shared = [kind for kind in first if first[kind] == elsewhere[kind] and kind != "first"]
    assert shared == []
    assert not set(first.values()) & set(view().values())


def test_pod_finds_its_own_name(
    rundir: Path, place: Callable[[], str], capfd: pytest.CaptureFixture[str]
) -> None:
    target = made(rundir, place())
    assert run_in(target, ["sh", "-c", "getent hosts $(hostname); cat /etc/hostname"]) == 0
    assert capfd.readouterr().out.split() == ["10.1.2.3", "web-0", "web-0"]


def test_changed_hosts_file_is_seen_in_the_living_sandbox(
    rundir: Path, place: Callable[[], str]
) -> None:
    name = place()
    target = made(rundir, name)
    pid = sandbox.ensure(
        rundir, netns=name, namespace="shop", pod="web-0", hostname="web-0", hosts="10.9.9.9 x\n"
    )
    assert pid == target.sandbox
    assert inside(target, Path("/etc/hosts").read_text) == "10.9.9.9 x\n"


def test_sandbox_shows_its_own_processes_and_devices_and_holds_no_other_namespace(
    rundir: Path, place: Callable[[], str]
) -> None:
    place()
    target = made(rundir, place())
    mounts = inside(target, Path("/proc/self/mountinfo").read_text)
    assert " - nsfs " not in mounts
    assert inside(target, lambda: sum(map(str.isdigit, os.listdir("/proc")))) == 3
    assert inside(target, lambda: os.listdir("/sys/class/net")) == ["lo"]


def test_first_process_reaps_orphans(rundir: Path, place: Callable[[], str]) -> None:
    target = made(rundir, place())
    # The subshell leaves a process behind that ends later; its parent is then the first one.
    assert run_in(target, ["sh", "-c", "(sleep 0.2 & echo $! > /tmp/nltest-orphan) ; exit 0"]) == 0
    orphan = Path("/tmp/nltest-orphan")
    pid = orphan.read_text().strip()
    orphan.unlink()

    def state() -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return ""

    parent = inside(target, state).rpartition(")")[2].split()[1:2]
    assert parent == ["1"]
    assert until(lambda: inside(target, state) == "", within=SOON)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_end_of_the_first_process_is_the_end_of_all(
    rundir: Path, place: Callable[[], str], number: int
) -> None:
    target = made(rundir, place())
    assert target.sandbox is not None
    running = subprocess.Popen(
        [sys.executable, "-c", _SLEEPING, target.netns, str(target.sandbox)], cwd=ROOT
    )
    assert until(lambda: inside(target, lambda: len(_pids())) == 4, within=SOON)
    os.kill(target.sandbox, number)
    assert running.wait(SOON) == 128 + signal.SIGKILL
    assert sandbox.find(rundir, "shop", "web-0") is None


_SLEEPING = """if True:
    import sys
    from netlab.pods.execution import Target, run_in
    target = Target(sys.argv[1], 'web-0', int(sys.argv[2]) if sys.argv[2:] else None)
    sys.exit(run_in(target, ['sleep', '60']))
"""


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def test_many_at_once_make_one_sandbox(rundir: Path, place: Callable[[], str]) -> None:
    name = place()
    pids: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: pids.append(made(rundir, name).sandbox)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 6
    assert len(set(pids)) == 1
    assert processes.marked(rundir) == {"sandbox/shop/web-0": [pids[0]]}


def test_sandbox_of_a_namespace_made_again_is_replaced(
    rundir: Path, place: Callable[[], str]
) -> None:
    name = place()
    old = made(rundir, name)
    netns.delete(name)
    populate(name)
    new = made(rundir, name)
    assert new.sandbox != old.sandbox
    assert inside(new, lambda: os.stat("/proc/self/ns/net").st_ino) == netns.identity(name)
    assert processes.marked(rundir) == {"sandbox/shop/web-0": [new.sandbox]}


def test_removed_sandbox_leaves_no_process_and_no_file(
    rundir: Path, place: Callable[[], str]
) -> None:
    name = place()
    made(rundir, name)
    assert not sandbox.remove(rundir, "shop", "web-0", netns="another.place")
    assert sandbox.find(rundir, "shop", "web-0") is not None
    assert sandbox.remove(rundir, "shop", "web-0", netns=name)
    assert processes.marked(rundir) == {}
    assert list((rundir / "sandbox").iterdir()) == []


def test_sandbox_that_cannot_be_made_says_why(rundir: Path) -> None:
    with pytest.raises(NetlabError, match=r"nltest\.nowhere: no such network namespace"):
        made(rundir, "nltest.nowhere")
    assert processes.marked(rundir) == {}


# -- execution


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-program"], 127),
        (["/no/such/program"], 127),
        (["/etc/hosts"], 126),
        (["/etc"], 126),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
@pytest.mark.parametrize("in_pod", [True, False], ids=["pod", "node"])
def test_exit_code(
    rundir: Path, place: Callable[[], str], argv: Sequence[str], code: int, in_pod: bool
) -> None:
    name = place()
    target = made(rundir, name) if in_pod else Target(name, "node1")
    assert run_in(target, argv) == code


def test_execution_on_a_node_has_its_network_and_name_only(
    place: Callable[[], str], capfd: pytest.CaptureFixture[str]
) -> None:
    name = place()
    before = view()
    code = run_in(
        Target(name, "node1"),
        ["sh", "-c", 'hostname; pwd; echo "$A"; readlink /proc/self/ns/net /proc/self/ns/mnt'],
        env={"A": "b"},
    )
    lines = capfd.readouterr().out.split("\n")
    assert code == 0
    assert lines[:3] == ["node1", os.getcwd(), "b"]
    assert lines[3] == f"net:[{netns.identity(name)}]"
    assert lines[4] == before["mnt"]
    assert view() == before


def test_execution_does_not_pass_the_mark_on(
    rundir: Path, place: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETLAB_PROCESS", f"{rundir}:agent")
    assert run_in(Target(place(), "n"), ["sh", "-c", "test -z $NETLAB_PROCESS"]) == 0


@pytest.mark.parametrize("in_pod", [True, False], ids=["pod", "node"])
def test_signal_is_passed_on(rundir: Path, place: Callable[[], str], in_pod: bool) -> None:
    name = place()
    pid = str(made(rundir, name).sandbox) if in_pod else ""
    running = subprocess.Popen(
        [sys.executable, "-c", _SLEEPING, name, *([pid] if pid else [])], cwd=ROOT
    )
    asleep = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    assert until(lambda: _command(asleep) == "sleep", within=SOON)
    running.send_signal(signal.SIGTERM)
    assert running.wait(SOON) == 128 + signal.SIGTERM


def _command(children: Path) -> str:
    try:
        return Path(f"/proc/{children.read_text().split()[0]}/comm").read_text().strip()
    except (OSError, IndexError):
        return ""


def test_terminal_is_kept(rundir: Path, place: Callable[[], str]) -> None:
    name = place()
    pid = str(made(rundir, name).sandbox)
    script = _SLEEPING.replace("['sleep', '60']", "['sh', '-c', 'test -t 0 && test -t 1 && tty']")
    child, terminal = os.forkpty()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", script, name, pid])
    output = b""
    try:
        while data := os.read(terminal, 4096):
            output += data
    except OSError:  # EIO: the other end is closed
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, output
    assert output.startswith(b"/dev/pts/")


def test_question_that_fails_names_place_and_reason(place: Callable[[], str]) -> None:
    name = place()
    with pytest.raises(NetlabError, match=rf"{re.escape(name)}: ZeroDivisionError"):
        inside(name, lambda: 1 // 0)
    assert inside(name, lambda: [line for _, line in socket.if_nameindex()]) == ["lo"]


# -- containers


@pytest.fixture
def containers(rundir: Path) -> Iterator[Containers]:
    made = Containers(rundir)
    yield made
    made.reconcile([])
    made.close()


def wanted(name: str, script: str, *, container: str = "c", **other: Any) -> Wanted:
    return Wanted(
        namespace="shop",
        pod="web-0",
        container=container,
        netns=name,
        hostname="web-0",
        address="10.1.2.3",
        **{"argv": ["sh", "-c", script], **other},
    )


def settled(
    containers: Containers,
    each: Wanted,
    enough: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Reconcile until the container's status is *enough*; return it."""
    deadline = time.monotonic() + SOON
    while True:
        status = containers.reconcile([each])[each.key]
        if enough(status):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.01)


def text(rundir: Path, container: str = "c") -> str:
    return "".join(logs(rundir, "shop", "web-0", container))


def test_program_runs_in_its_pod_with_its_environment(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    script = 'hostname; pwd; echo "$A|$B|$1"; echo wrong >&2; readlink /proc/self/ns/net; sleep 60'
    name = place()
    each = wanted(
        name,
        script,
        argv=["sh", "-c", script, "sh", "$(A)!"],
        env={"A": "1", "B": "$(A)2"},
        cwd="/usr",
    )
    status = containers.reconcile([each])[each.key]
    assert set(status["state"]) == {"running"}
    assert status["restartCount"] == 0
    assert until(lambda: text(rundir).count("\n") == 5, within=SOON)
    inode = netns.identity(name)
    assert text(rundir) == f"web-0\n/usr\n1|12|1!\nwrong\nnet:[{inode}]\n"


def test_containers_of_a_pod_share_its_namespaces(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    script = (
        "readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/ipc /proc/self/ns/pid; sleep 60"
    )
    containers.reconcile([wanted(name, script, container=c) for c in ("a", "b")])
    assert until(
        lambda: text(rundir, "a") == text(rundir, "b") and text(rundir, "a").count("\n") == 4,
        within=SOON,
    )


@pytest.mark.parametrize(
    ("policy", "code", "state"),
    [
        ("Always", 0, "waiting"),
        ("Always", 3, "waiting"),
        ("OnFailure", 3, "waiting"),
        ("OnFailure", 0, "terminated"),
        ("Never", 0, "terminated"),
        ("Never", 3, "terminated"),
    ],
)
def test_end_of_a_program_is_followed_by_what_the_policy_says(
    containers: Containers, place: Callable[[], str], policy: str, code: int, state: str
) -> None:
    each = wanted(place(), f"exit {code}", restart=policy)
    status = settled(containers, each, lambda s: state in s["state"])
    ended = (status["lastState"] if state == "waiting" else status["state"])["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, "Error" if code else "Completed")
    if state == "waiting":
        assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        again = settled(containers, each, lambda s: s["restartCount"] >= 1)
        assert again["lastState"]["terminated"]["exitCode"] == code
    else:
        assert containers.due() is None


def test_back_off_doubles_up_to_its_most(rundir: Path, place: Callable[[], str]) -> None:
    now = [1000.0]
    containers = Containers(rundir, clock=lambda: now[0])
    each = wanted(place(), "exit 1")
    waits = []
    for _ in range(8):
        settled(containers, each, lambda s: "waiting" in s["state"])
        waits.append(containers.due())
        now[0] += waits[-1] or 0
        containers.reconcile([each])
    containers.reconcile([])
    containers.close()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_signal_that_killed_a_program_is_in_its_status(
    containers: Containers, place: Callable[[], str]
) -> None:
    status = settled(
        containers,
        wanted(place(), "kill -SEGV $$$$", restart="Never"),  # $$ is a dollar here
        lambda s: "terminated" in s["state"],
    )
    ended = status["state"]["terminated"]
    assert (ended["exitCode"], ended["signal"]) == (139, 11)


def test_program_that_is_not_there_waits_with_a_clear_reason(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    each = wanted(place(), "", argv=["foo", "bar"])
    status = settled(containers, each, lambda s: "waiting" in s["state"])
    assert status["state"]["waiting"] == {
        "reason": "RunContainerError",
        "message": 'exec: "foo": not found',
    }
    assert until(lambda: 'exec: "foo": not found\n' in text(rundir), within=SOON)


def test_missing_namespace_is_a_reason_to_wait(
    containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    netns.delete(name)
    each = wanted(name, "sleep 60")
    status = containers.reconcile([each])[each.key]
    assert status["state"]["waiting"]["message"] == f"no network namespace {name}"
    populate(name)
    settled(containers, each, lambda s: "running" in s["state"])


def test_end_of_a_program_is_seen_at_once(containers: Containers, place: Callable[[], str]) -> None:
    each = wanted(place(), "read x < /nowhere; sleep 0.1", restart="Never")
    containers.reconcile([each])
    assert select.select([containers.fileno()], [], [], SOON)[0]
    settled(containers, each, lambda s: "terminated" in s["state"])
    assert not select.select([containers.fileno()], [], [], 0)[0]


_DYING_AGENT = """if True:
    import os, signal, sys
    from pathlib import Path
    from netlab.pods.containers import Containers, Wanted
    containers = Containers(Path(sys.argv[1]))
    containers.reconcile([Wanted('shop', 'web-0', 'c', sys.argv[2], 'web-0', '10.1.2.3',
                                 ['sh', '-c', sys.argv[3]])])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_agent(rundir: Path, name: str, script: str) -> None:
    """Have an agent start a container and be killed."""
    argv = [sys.executable, "-c", _DYING_AGENT, str(rundir), name, script]
    assert subprocess.run(argv, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def test_program_outlives_its_agent_and_is_adopted_by_the_next(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name, flag = place(), rundir / "flag"
    script = f"echo one; until test -e {flag}; do sleep 0.01; done; echo two; exit 5"
    killed_agent(rundir, name, script)
    before = processes.marked(rundir)["container/shop/web-0/c"]
    each = wanted(name, script, restart="Never")
    assert "running" in containers.reconcile([each])[each.key]["state"]
    assert processes.marked(rundir)["container/shop/web-0/c"] == before
    flag.touch()
    status = settled(containers, each, lambda s: "terminated" in s["state"])
    assert status["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert "exit code is lost" in status["state"]["terminated"]["message"]
    assert until(lambda: text(rundir) == "one\ntwo\n", within=SOON)


def test_program_that_completed_before_this_agent_is_not_run_again(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    past = {"restartCount": 2, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    each = wanted(place(), "touch flag", cwd=str(rundir), restart="OnFailure", past=past)
    assert containers.reconcile([each])[each.key] == past
    assert not (rundir / "flag").exists()


def test_changed_container_is_run_anew(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    containers.reconcile([wanted(name, "echo old; sleep 60")])
    assert until(lambda: text(rundir) == "old\n", within=SOON)
    containers.reconcile([wanted(name, "echo new; sleep 60")])
    assert until(lambda: text(rundir) == "old\nnew\n", within=SOON)
    assert len(processes.strays(rundir, "container/shop/web-0/c")) == 2  # sh and sleep


def test_unwanted_pod_is_ended_with_all_it_started(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    script = "trap '' TERM; setsid sleep 60 & echo ready; wait; sleep 60"
    containers.reconcile([wanted(place(), script)])
    assert until(lambda: text(rundir) == "ready\n", within=SOON)
    assert containers.reconcile([]) == {}
    assert processes.marked(rundir) == {}
    assert processes.strays(rundir, "container/shop/web-0/c") == []
    assert [path for path in rundir.rglob("*") if not path.is_dir()] == []


def test_children_of_an_ended_program_do_not_keep_its_port(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    holder = textwrap.dedent("""
        import os, socket, time
        server = socket.create_server(("127.0.0.1", 80))
        print("bound", flush=True)
        if os.fork() == 0:
            os.setsid()
            time.sleep(60)
        os._exit(1)
    """)
    each = wanted(place(), "", argv=[sys.executable, "-c", holder])
    settled(containers, each, lambda s: s["restartCount"] >= 1)
    assert until(lambda: text(rundir).startswith("bound\nbound\n"), within=SOON)


def test_sandbox_of_a_pod_without_namespace_is_removed(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    made(rundir, name)  # as `netlab exec` does, for a pod without programs
    containers.reconcile([])
    assert sandbox.find(rundir, "shop", "web-0") is not None
    netns.delete(name)
    containers.reconcile([])
    assert processes.marked(rundir) == {}


def test_namespace_made_again_gets_its_program_again(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    each = wanted(name, "readlink /proc/self/ns/net; sleep 60")
    containers.reconcile([each])
    assert until(lambda: text(rundir).count("\n") == 1, within=SOON)
    netns.delete(name)
    populate(name)
    settled(containers, each, lambda s: s["restartCount"] == 1 and "running" in s["state"])
    assert until(lambda: f"net:[{netns.identity(name)}]" in text(rundir), within=SOON)


def test_log_of_a_talkative_program_is_bounded(
    rundir: Path,
    containers: Containers,
    place: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netlab.pods.logs.LOG_BYTES", 100_000)
    containers.reconcile([wanted(place(), "exec yes")])
    rotated = rundir / "logs/shop/web-0/c.log.1"
    assert until(rotated.exists, within=SOON)
    for _ in range(200):
        assert sum(size(path) for path in rotated.parent.glob("c.log*")) <= 3 * 100_000


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # just renamed
        return 0


# -- without root


def test_without_root() -> None:
    """All of the above, in a user namespace where we are root over nothing else."""
    if "NLTEST_ROOTLESS" in os.environ:
        pytest.skip("this is that run")
    inner = (
        "mount -t tmpfs run /run && mkdir /run/netns && "
        f"exec {sys.executable} -m pytest -q -p no:cacheprovider -p no:xdist {__file__} "
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
