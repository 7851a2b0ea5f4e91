"""Processes found by their mark, and commands."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab import processes
from netlab.errors import CapabilityError, NetlabError
from netlab.pods.waiting import until


@pytest.fixture
def rundir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end_all(tmp_path, grace=0)
    for pid in heirs(tmp_path):
        os.kill(pid, signal.SIGKILL)


def heirs(rundir: Path) -> list[int]:
    """Return the processes that inherited a mark of *rundir* from one that has ended."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"={rundir}:".encode() in Path("/proc", name, "environ").read_bytes():
                found.append(int(name))
        except OSError:  # ended, or another user's
            continue
    return found


def test_process_is_found_by_role_and_its_children_are_not(rundir: Path) -> None:
    script = "sleep 60 & setsid sleep 60 & echo $$ > pids; wait"
    pid = processes.spawn(
        rundir, "a/b", ["sh", "-c", script], stdout=rundir / "out", cwd=str(rundir)
    )
    assert until(lambda: len(processes.strays(rundir, "a/b")) == 3, within=5)
    assert processes.marked(rundir)["a/b"][0] == pid
    assert processes.marked(rundir / "other") == {}


def test_own_start_time_tells_a_program_from_a_session_it_has_made(rundir: Path) -> None:
    become = (
        "import os, sys; start = open('/proc/self/stat').read().rpartition(')')[2].split()[19];"
        "env = {'NETLAB_PROCESS': os.environ['NETLAB_PROCESS'], 'NETLAB_PROCESS_START': start};"
        "os.execve(sys.executable, ['python', '-c', sys.argv[1]], env)"
    )
    daemon = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); os.execv('/bin/sleep', ['sleep', '60'])\n"
        "time.sleep(60)"
    )
    pid = processes.spawn(
        rundir, "program", [sys.executable, "-c", become, daemon], stdout=rundir / "out"
    )
    assert until(lambda: len(processes.strays(rundir, "program")) == 2, within=5)
    assert until(lambda: _is_sleep(rundir), within=5)
    assert processes.marked(rundir) == {"program": [pid]}
    for stray in processes.strays(rundir, "program"):
        processes.end(stray, grace=0)


def _is_sleep(rundir: Path) -> bool:
    pids = processes.strays(rundir, "program")
    return any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in pids)


def test_ended_child_is_neither_alive_nor_a_zombie(rundir: Path) -> None:
    pid = processes.spawn(rundir, "x", ["true"], stdout=rundir / "out")
    assert until(lambda: processes.marked(rundir) == {} and not _exists(pid), within=5)


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_alive_is_false_for_another_process_of_that_pid(rundir: Path) -> None:
    pid = processes.spawn(rundir, "x", ["sleep", "60"], stdout=rundir / "out")
    start = processes.start_time(pid)
    assert start is not None
    assert processes.alive(pid, start)
    assert not processes.alive(pid, start + 1)
    processes.end(pid, grace=0, start=start + 1)
    assert processes.alive(pid, start)
    processes.end(pid, grace=0, start=start)
    assert not processes.alive(pid, start)


def test_process_that_ignores_sigterm_is_killed_after_the_grace(rundir: Path) -> None:
    pid = processes.spawn(
        rundir, "x", ["sh", "-c", "trap '' TERM; echo ready; sleep 60"], stdout=rundir / "out"
    )
    assert until(lambda: (rundir / "out").read_text() == "ready\n", within=5)
    began = time.monotonic()
    processes.end(pid, grace=0.2)
    assert 0.2 <= time.monotonic() - began < 3
    assert processes.marked(rundir) == {}


def test_end_all_ends_every_role_and_names_them(rundir: Path) -> None:
    for role in ("one", "two", "spared"):
        processes.spawn(rundir, role, ["sleep", "60"], stdout=rundir / "out")
    assert processes.end_all(rundir, spare=("spared",)) == ["one", "two"]
    assert list(processes.marked(rundir)) == ["spared"]


def test_forked_copy_of_a_marked_process_does_not_count(rundir: Path) -> None:
    script = "import os, time\nif os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    pid = processes.spawn(rundir, "x", [sys.executable, "-c", script], stdout=rundir / "out")
    assert until(lambda: len(processes.strays(rundir, "x")) == 2, within=5)
    assert processes.marked(rundir) == {"x": [pid]}
    for stray in processes.strays(rundir, "x"):
        processes.end(stray, grace=0)


def test_command_output_is_returned() -> None:
    done = processes.run(["sh", "-c", "cat; echo err >&2; exit 3"], input="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "in", "err\n")


def test_failed_command_says_why() -> None:
    with pytest.raises(NetlabError, match=r"^sh -c 'echo no luck >&2; exit 1': no luck$"):
        processes.run(["sh", "-c", "echo no luck >&2; exit 1"])


def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netlab.processes.commands._PATH", "/nowhere")
    with pytest.raises(CapabilityError, match="install the package iproute2") as caught:
        processes.run(["bridge", "link"])
    assert caught.value.exit_code == 3


def test_command_that_takes_too_long_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(NetlabError, match=r"not done after 0\.1 s"):
        processes.run(["sleep", "20"], timeout=0.1)
    assert time.monotonic() - began < 10


def test_command_is_logged_as_a_line_that_does_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "netlab.commands")
    text = "a 'quoted' 100%\n\\back\tslash\n"
    first = processes.run(["cat", "-"], input=text)
    pasted = subprocess.run(["sh", "-c", caplog.messages[-1]], capture_output=True, text=True)
    assert pasted.stdout == first.stdout == text
    assert processes.pasteable(["ip", "link"], netns="demo.n1") == "ip netns exec demo.n1 ip link"


def test_a_program_has_its_input_whole_before_it_starts() -> None:
    # A pipe holds 64 KiB; somebody killed while feeding it would leave a program with a part.
    text = "x" * (1 << 20)
    size = "import os, stat; s = os.fstat(0); print(stat.S_ISREG(s.st_mode), s.st_size)"
    assert processes.run([sys.executable, "-c", size], input=text).stdout == f"True {len(text)}\n"
    assert processes.run(["cat"], input="ä\n").stdout == "ä\n"
    assert processes.run(["cat"], input="").stdout == ""


def test_output_goes_to_a_stderr_that_cannot_be_opened_again() -> None:
    """A socket, or the console of a virtual machine."""
    code = (
        "import os; from netlab import processes;"
        "words = ('/run/netlab/none', 'test', ['echo', 'told']);"
        "pid = processes.spawn(*words, stdout=processes.STDERR);"
        "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)"
    )
    ours, its = socket.socketpair()
    with ours, its:
        subprocess.run([sys.executable, "-c", code], stderr=its, check=True, timeout=60)
        assert ours.recv(100) == b"told\n"
