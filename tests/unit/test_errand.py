"""Programs that run for somebody on another machine: fetched piece by piece, fed, ended."""

from __future__ import annotations

import os
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from netlab import processes
from netlab.agent import errands
from netlab.agent.errands import Errands
from netlab.errors import NetlabError, UsageError
from netlab.processes.errand import Errand
from netlab.store import loans


@contextmanager
def running(*argv: str, fed: bool = False) -> Iterator[Errand]:
    errand = Errand(argv, env=dict(os.environ), fed=fed)
    try:
        yield errand
    finally:
        errand.close()


def whole(errand: Errand) -> tuple[bytes, bytes, int]:
    """Return all that it writes, and its exit code."""
    out, err = b"", b""
    while True:
        piece = errand.more(10.0)
        out, err = out + piece.out, err + piece.err
        if piece.code is not None:
            return out, err, piece.code


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo out; echo err >&2; exit 7", (b"out\n", b"err\n", 7)),
        ("kill -9 $$", (b"", b"", 137)),
        ("head -c 3000000 /dev/zero", (bytes(3_000_000), b"", 0)),
        ("exec >&- 2>&-; sleep 0.2; exit 3", (b"", b"", 3)),
        ("sleep 3 & exit 4", (b"", b"", 4)),  # what goes on behind it keeps nobody
    ],
)
def test_all_output_comes_and_then_the_exit_code(
    script: str, told: tuple[bytes, bytes, int]
) -> None:
    with running("sh", "-c", script) as errand:
        assert whole(errand) == told


def test_output_is_waited_for_no_longer_than_asked() -> None:
    with running("sleep", "60") as errand:
        began = time.monotonic()
        assert errand.more(0.1) == (b"", b"", None)
        assert time.monotonic() - began < 5


def test_input_comes_in_pieces_and_ends() -> None:
    with running("cat", fed=True) as errand:
        assert errand.feed(b"one ", last=False) == 4
        assert errand.feed(b"two", last=True) == 3
        assert whole(errand) == (b"one two", b"", 0)
        assert errand.feed(b"x", last=False) == -1
    with running("cat") as errand:
        assert whole(errand) == (b"", b"", 0)


def test_a_program_that_does_not_end_by_itself_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netlab.processes.errand.GRACE", 0.1)
    with running("sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait; wait") as errand:
        child = int(errand.more(10.0).out)
    deadline = time.monotonic() + 10
    while processes.start_time(child) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
    assert time.monotonic() < deadline


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Errands]:
    """What runs for others, with a shell in the place of netlab."""
    shell = tmp_path / "shell"  # -m netlab -L LAB exec SCRIPT; a shell's exec sorts its environment
    words = 'import os, sys; os.execv("/bin/sh", ["sh", "-c", sys.argv[6]])'
    shell.write_text(f"#!{sys.executable} -S\n{words}\n")
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    made = Errands(tmp_path)
    yield made
    made.close()


def begin(others: Errands, script: str, name: str = "a") -> None:
    others.do({"do": "begin", "errand": name, "words": ["exec", script], "fed": False})


def told(others: Errands, deed: str = "more", name: str = "a", **more: Any) -> dict[str, Any]:
    return others.do({"do": deed, "errand": name, **more})


def test_a_command_is_begun_and_fetched(others: Errands) -> None:
    begin(others, "echo hello; exit 3")
    answer = {"code": None}
    seen = b""
    while answer["code"] is None:
        answer = told(others)
        seen += b64decode(answer["out"])
    assert (seen, answer["code"], others.running) == (b"hello\n", 3, 0)
    with pytest.raises(LookupError, match="has ended"):
        told(others)


def test_what_is_not_for_others_does_not_run(others: Errands) -> None:
    for words in ([], ["down"], ["-L", "x", "exec"]):
        with pytest.raises(UsageError, match="does not run for another machine"):
            others.do({"do": "begin", "errand": "a", "words": words, "fed": False})
    assert others.running == 0


def test_who_writes_too_much_or_is_forgotten_is_ended(
    others: Errands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errands, "LIMIT", 100_000)
    begin(others, "cat /dev/zero")
    with pytest.raises(NetlabError, match="of output"):
        while True:
            told(others)
    begin(others, "sleep 60", "b")
    monkeypatch.setattr(loans, "KEPT", -1.0)
    others.tidy()
    assert others.running == 0
    assert processes.marked(tmp_path) == {}


def test_what_an_agent_before_left_running_is_ended(others: Errands, tmp_path: Path) -> None:
    begin(others, "sleep 60 & echo on; wait")
    told(others)  # the shell has started what it will start
    (role,) = processes.marked(tmp_path)
    assert role.partition("/")[0] == "errand" and len(processes.strays(tmp_path, role)) == 2
    Errands(tmp_path)
    assert processes.strays(tmp_path, role) == []


def test_what_a_command_had_started_ends_with_it(others: Errands, tmp_path: Path) -> None:
    begin(others, "sleep 60 & echo on; wait")
    told(others)
    (role,) = processes.marked(tmp_path)
    told(others, "end")
    deadline = time.monotonic() + 10
    while processes.strays(tmp_path, role):  # the kernel ends what was killed in its own time
        assert time.monotonic() < deadline
        time.sleep(0.01)
