"""Sandboxes, and what is executed in them, in namespaces made by hand."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from podplaces import ROOT, SOON, made, populate

from netlab import processes
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.pods import execution, sandbox
from netlab.pods.execution import Target, inside, run_in
from netlab.pods.waiting import until

pytestmark = pytest.mark.kernel
pytest_plugins = ["podplaces"]  # the fixtures `rundir` and `place`


@pytest.fixture(autouse=True)
def hostname_of_the_machine() -> Iterator[None]:
    """No test may change it; if one does, it is put back."""
    before = socket.gethostname()
    yield
    if socket.gethostname() != before:
        socket.sethostname(before)
        pytest.fail("the machine's own host name was changed")


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
        rundir,
        netns=name,
        namespace="shop",
        pod="web-0",
        hostname="web-0",
        files={"hosts": "10.9.9.9 x\n"},
    )
    assert pid == target.sandbox
    assert inside(target, Path("/etc/hosts").read_text) == "10.9.9.9 x\n"


def test_sandbox_shows_its_own_processes_and_devices_and_holds_no_other_namespace(
    rundir: Path, place: Callable[[], str]
) -> None:
    other, name = place(), place()
    mounted = re.compile(rf"/run/netns/({other}|{name}) ")
    assert mounted.search(Path("/proc/self/mountinfo").read_text())
    target = made(rundir, name)
    assert not mounted.search(inside(target, Path("/proc/self/mountinfo").read_text))
    assert until(lambda: inside(target, lambda: len(_pids())) == 3, within=SOON)
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


def test_a_command_has_ended_although_another_thread_got_the_signal(
    place: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, waited = Target(place(), "node1"), execution._exit_code

    def late(child: int) -> int:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # ended before we wait
        time.sleep(0.1)
        return waited(child)

    def in_vain(*_: object) -> None:
        pytest.fail("it is waited for, though it has ended")

    monkeypatch.setattr(execution, "_exit_code", late)
    before = signal.signal(signal.SIGALRM, in_vain)
    signal.alarm(10)
    over = threading.Event()
    taker = threading.Thread(target=over.wait)  # blocks no signal, so the kernel may choose it
    taker.start()
    try:
        assert run_in(target, ["true"]) == 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        over.set()
        taker.join()
