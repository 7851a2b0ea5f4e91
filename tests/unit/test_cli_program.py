"""The command line as a process: help, start, exit codes, broken pipes, completion."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netlab.cli import menu
from netlab.cli.program import program

ROOT = Path(__file__).parents[2]
NAMES = [entry.name for entry in menu.COMMANDS]


def netlab(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "netlab", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", NAMES)
def test_each_help_has_an_example_that_names_the_command(name: str) -> None:
    done = netlab(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: netlab {name}" in done.stdout
    examples = done.stdout.partition("\nExample")[2]
    assert f"  netlab {name}" in examples or f"| netlab {name}" in examples
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("words", [(), ("-h",), ("--help",), ("help",)], ids=str)
def test_top_level_help_lists_every_command_in_its_section(words: tuple[str, ...]) -> None:
    done = netlab(*words)
    assert (done.returncode, done.stderr) == (0, "")
    sections = done.stdout.split("\n\n")
    for entry in menu.COMMANDS:
        (section,) = [text for text in sections if text.lstrip().startswith(f"{entry.section}:")]
        assert f"  {entry.name} " in section


@pytest.mark.parametrize("name", ["up", "get"])
def test_help_of_a_command_can_be_asked_for_in_front(name: str) -> None:
    assert netlab("help", name).stdout == netlab(name, "--help").stdout != ""


def test_click_prints_the_same_help_as_the_menu() -> None:
    assert netlab("-v", "--help").stdout == netlab("--help").stdout


@pytest.mark.parametrize("words", [("version",), ("--version",), ("-v", "--version")], ids=str)
def test_version_names_netlab_python_and_kernel(words: tuple[str, ...]) -> None:
    done = netlab(*words)
    assert done.returncode == 0
    assert done.stdout == menu.version_text()


def test_the_light_answers_load_no_library() -> None:
    for words in (["--help"], ["version"]):
        code = (
            "import sys; sys.argv[1:] = sys.argv[2:]; from netlab.__main__ import main\n"
            "try: main()\n"
            "except SystemExit: print(*sys.modules, file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "-", *words], cwd=ROOT, capture_output=True, text=True
        )
        loaded = set(done.stderr.split())
        assert "netlab.cli.menu" in loaded
        assert loaded & {"click", "rich", "yaml", "scapy", "msgspec", "typing", "logging"} == set()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("gte",), 2, "error: no command 'gte'; did you mean `netlab get`?"),
        (("get",), 2, "error: Missing argument"),
        (("get", "--nonsense"), 2, "error: No such option"),
        (("--nonsense",), 2, "error: No such option"),
        (("up", "/nonexistent.yaml"), 2, "/nonexistent.yaml: does not exist"),
        (("-L", "no-such-lab", "status"), 4, "error: no lab"),
        (("down", "no-such-lab"), 4, "error: no lab"),
        (("down", "a-lab", "--all"), 2, "error: both a lab and --all"),
        (("completion", "tcsh"), 2, "error: Invalid value"),
        (("probe", "a", "b:0"), 2, "error: b:0: no port '0'"),
        (("probe", "a", "b:80/quic"), 2, "error: b:80/quic: no protocol 'quic'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_errors_are_one_line_with_their_exit_code(
    words: tuple[str, ...], code: int, said: str
) -> None:
    done = netlab(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_came_from() -> None:
    done = netlab("-L", "no-such-lab", "status", NETLAB_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("words", ["--help", "version", "completion bash", "get --help"])
def test_a_reader_that_leaves_is_no_error(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "netlab", *words.split()],
            cwd=ROOT,
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_an_interrupt_is_one_line_and_130(tmp_path: Path) -> None:
    """`up -` waits for its standard input until it is interrupted."""
    child = subprocess.Popen(
        [sys.executable, "-m", "netlab", "up", "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        # In read(2) of a pipe and past all imports: interruptible without a doubt.
        waiting = Path(f"/proc/{child.pid}/wchan")
        while "pipe" not in waiting.read_text() and child.poll() is None:
            pass
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err.strip()) == (130, "", "interrupted")


def test_an_interrupt_before_all_is_imported_is_one_line_and_130() -> None:
    code = (
        "import sys; sys.argv[1:] = ['get', 'pods']\n"
        "class Late:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Late())\n"
        "from netlab.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("words", ["--help", "get --help", "plan topologies/no-such.yaml"])
def test_closed_streams_are_no_error_of_their_own(words: str, closed: str) -> None:
    line = f"{sys.executable} -m netlab {words} {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == (2 if words.startswith("plan") else 0)
    assert "AttributeError" not in done.stderr + done.stdout


@pytest.mark.parametrize("environment", [{}, dict(os.environ)], ids=["bare", "ours"])
@pytest.mark.parametrize("words", ["--help", "get --help"])
def test_a_full_disk_is_one_line(words: str, environment: dict[str, str]) -> None:
    """Wherever it is noticed: at a write, or when what is left is flushed."""
    line = f"{sys.executable} -m netlab {words} > /dev/full"
    command = ["/bin/sh", "-c", line]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_a_locale_without_a_character_writes_it_another_way(tmp_path: Path) -> None:
    code = "from netlab.cli import menu; menu.open_streams(); print('15 \\xb5s')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("15 \\xb5s\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_completion_script_is_printed(shell: str) -> None:
    done = netlab("completion", shell)
    assert done.returncode == 0
    assert f"_NETLAB_COMPLETE={shell}_complete" in done.stdout


def completed(*words: str, **environment: str) -> list[str]:
    """Return what bash would offer for the last of *words*."""
    done = netlab(
        _NETLAB_COMPLETE="bash_complete",
        COMP_WORDS=" ".join(["netlab", *words]),
        COMP_CWORD=str(len(words)),
        **environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("",), set(NAMES)),
        (("de",), {"describe", "delete"}),
        (("get", "depl"), {"deployments"}),
        (("get", "l"), {"leases", "labs", "limitranges"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "offered",
)
def test_commands_and_kinds_are_completed(words: tuple[str, ...], offered: set[str]) -> None:
    assert set(completed(*words)) >= offered


def test_completion_of_live_names_is_silent_without_a_lab() -> None:
    assert completed("-L", "no-such-lab", "exec", "") == []


@pytest.mark.parametrize("script", ["lab", "test"])
def test_a_script_says_what_it_does_without_doing_it(script: str) -> None:
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / script), "--help"], cwd="/", capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"sudo scripts/{script} [" in done.stdout
    assert "#" not in done.stdout


def test_every_command_is_where_the_menu_says() -> None:
    import click

    for name in NAMES:
        command = program.get_command(click.Context(program), name)
        assert command is not None
        assert command.name == name


def test_a_real_bash_completes_from_the_printed_script(tmp_path: Path) -> None:
    directory = tmp_path / "bin"
    directory.mkdir()
    command = directory / "netlab"
    command.write_text(f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m netlab "$@"\n')
    command.chmod(0o755)
    script = (
        'eval "$(netlab completion bash)"; COMP_WORDS=(netlab ver); COMP_CWORD=1; '
        '_netlab_completion netlab; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == {"verify", "version"}
