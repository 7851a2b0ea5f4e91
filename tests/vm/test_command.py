"""scripts/vm as its callers see it: what goes in, what comes out, and that nothing stays."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
VM = str(ROOT / "scripts/vm")
PATIENCE = 120.0  # seconds for what takes ten on a quiet machine


def call(*words: str, temporary: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run scripts/vm, with what it makes for the run below *temporary*."""
    return subprocess.run(
        [VM, *words],
        cwd=ROOT,
        env=environment(temporary),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def environment(temporary: Path | None) -> dict[str, str]:
    return {**os.environ, **({"TMPDIR": str(temporary)} if temporary else {})}


def processes_of(temporary: Path) -> list[int]:
    """Return the processes whose command line names *temporary*: the machines of its runs."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue
        if str(temporary).encode() in words and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def eventually(true: object, what: str) -> None:
    """Poll until *true()* holds."""
    deadline = time.monotonic() + PATIENCE
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param((), "one of COMMAND, --shell and --prepare is needed", id="nothing"),
        pytest.param(("--shell", "ls"), "one of COMMAND, --shell", id="two-ways"),
        pytest.param(("--count", "0", "ls"), "'0' is not a whole number from 1 on", id="none"),
        pytest.param(("--count", "two", "ls"), "'two' is not a whole number", id="no-number"),
        pytest.param(("--count", "900", "ls"), "at most 200", id="too-many"),
        pytest.param(("--memory", "16", "ls"), "from 64 on", id="no-memory"),
        pytest.param(("--memroy", "512", "ls"), "unrecognized arguments: --memroy", id="misspelt"),
        pytest.param(("--out", "README.md", "ls"), "is not a directory", id="out-is-a-file"),
        pytest.param(("--monitors", "README.md", "ls"), "is not a directory", id="monitors"),
        pytest.param(("--shell",), "--shell takes a terminal", id="no-terminal"),
        pytest.param(("--timeout", "soon", "ls"), "--timeout", id="no-time"),
    ],
)
def test_wrong_words_are_one_clear_error(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run([VM, *words], cwd=ROOT, capture_output=True, text=True, input="")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("error:") == 1
    assert done.stdout == ""


def test_help_is_the_comment_at_the_top() -> None:
    done = call("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--count N" in done.stdout


def test_a_kernel_that_apt_does_not_know_is_named() -> None:
    done = call("--kernel", "linux-image-of-nobody", "true")
    assert done.returncode == 3
    assert "linux-image-of-nobody" in done.stderr


class Ran(NamedTuple):
    done: subprocess.CompletedProcess[str]
    out: Path
    temporary: Path


INSIDE = """
echo "kernel $(uname -r)"; echo "user $(id -u)"; echo "directory $(pwd)"
echo "netlab $(command -v netlab)"; sudo -n sh -c 'echo "sudo $HOW"'
ls -d pyproject.toml; cat "$TOLD"
echo complaint >&2
touch scripts/unwanted && echo "written to memory"
mkdir -p "$OUT/deep" && printf 'bytes\\0back\\n' >"$OUT/deep/file"
head -c 300000 /dev/zero | tr '\\0' x; echo
exit 7
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """One machine in which everything is tried that one machine can tell of."""
    out, temporary = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("run")
    told = ROOT / "scripts/vm"
    os.environ.update(OUT=str(out), TOLD=str(told), HOW="a 'quoted' word\nand a line")
    try:
        done = call("--out", str(out), "--", "sh", "-c", INSIDE, temporary=temporary)
        yield Ran(done, out, temporary)
    finally:
        for name in ("OUT", "TOLD", "HOW"):
            del os.environ[name]


def test_the_exit_code_is_the_commands(ran: Ran) -> None:
    assert ran.done.returncode == 7, ran.done.stderr


def test_it_is_another_kernel_with_root_and_the_checkout(ran: Ran) -> None:
    words = ran.done.stdout
    assert f"kernel {os.uname().release}\n" not in words
    assert re.search(r"^kernel \d+\.\d+\S*-(amd64|generic)$", words, re.MULTILINE)
    assert "user 0\n" in words
    assert f"directory {ROOT}\n" in words
    assert f"netlab {ROOT}/.venv/bin/netlab\n" in words
    assert "pyproject.toml\n" in words
    assert (ROOT / "scripts/vm").read_text() in words


def test_the_environment_goes_along_and_sudo_is_there(ran: Ran) -> None:
    assert "sudo a 'quoted' word\nand a line\n" in ran.done.stdout


def test_both_outputs_come_out_apart_and_whole(ran: Ran) -> None:
    assert ran.done.stderr == "complaint\n"
    assert ran.done.stdout.endswith("\n" + "x" * 300_000 + "\n")


def test_files_come_back_and_nothing_else_is_changed(ran: Ran) -> None:
    assert (ran.out / "deep/file").read_bytes() == b"bytes\0back\n"
    assert "written to memory\n" in ran.done.stdout
    assert not (ROOT / "scripts/unwanted").exists()


def test_nothing_is_left_of_a_run(ran: Ran) -> None:
    assert list(ran.temporary.iterdir()) == []
    assert processes_of(ran.temporary) == []


def test_two_machines_meet_on_their_wire(tmp_path: Path) -> None:
    """Each pings the other; the second also ends differently, and that is the exit code."""
    script = (
        "ping -c 3 -i 0.2 -W 10 vm$((3 - NODE)) | sed -n 's/.*packets transmitted, //p'; "
        "ip -4 -br addr show eth0; exit $((NODE - 1))"
    )
    done = call("--count", "2", "--memory", "512", "--", "sh", "-c", script, temporary=tmp_path)
    assert done.returncode == 1, done.stderr
    for node in (1, 2):
        assert f"vm{node}| 3 received, 0% packet loss" in done.stdout
        assert re.search(rf"^vm{node}\| eth0 +UP +192\.168\.50\.1{node}/24", done.stdout, re.M)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_whoever_ends_it_nothing_goes_on(tmp_path: Path, number: int, code: int) -> None:
    """Two machines, so that the others end with the first, too."""
    words = [VM, "--count", "2", "--memory", "512", "--", "sleep", "1000"]
    process = subprocess.Popen(words, cwd=ROOT, env=environment(tmp_path), start_new_session=True)
    eventually(lambda: len(processes_of(tmp_path)) == 2, "two machines")
    os.killpg(process.pid, number)
    assert process.wait(PATIENCE) == code
    eventually(lambda: processes_of(tmp_path) == [], "the end of the machines")
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


def test_a_machine_that_does_not_start_says_why(tmp_path: Path) -> None:
    """64 MiB do not hold the kernel and its initramfs."""
    done = call("--memory", "64", "true", temporary=tmp_path)
    assert done.returncode == 125
    assert "error: vm1 did not start" in done.stderr
    assert re.search(r"^  console: .*Kernel panic - not syncing: .*memory", done.stderr, re.M)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_dies_under_its_command_is_no_success(tmp_path: Path) -> None:
    done = call("--", "sh", "-c", "echo c >/proc/sysrq-trigger", temporary=tmp_path)
    assert done.returncode == 125
    assert "error: vm1 ended before its command did" in done.stderr
    assert "console: " in done.stderr
    assert "sysrq" in done.stderr


def test_the_time_can_be_limited(tmp_path: Path) -> None:
    done = call("--timeout", "1.5", "--", "sleep", "1000", temporary=tmp_path)
    assert done.returncode == 124
    assert "the time was up after 1.5 s" in done.stderr
    assert processes_of(tmp_path) == []


def test_a_shell_has_a_terminal(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execve(VM, [VM, "--shell"], {**environment(tmp_path), "SHELL": "/bin/sh"})
    seen = b""
    typed = False
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.5)[0]:
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other side is gone
            break
        seen += data
        if b"# " in seen and not typed:
            os.write(terminal, b'tty; echo "$((6 * 7)) in $(hostname)"; exit 3\n')
            typed = True
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3, seen
    assert b"42 in vm1\r\n" in seen
    assert b"/dev/hvc0\r\n" in seen
    assert list(tmp_path.iterdir()) == []
