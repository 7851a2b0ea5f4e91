"""Emulated machines on one wire, in a test's hands: what they run, their power, their plugs.

`scripts/vm --count N` has each run machines/inside.py, which takes commands by files. QEMU's
monitors reset a machine, and pull its plug out of the hub.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
INSIDE = ROOT / "tests/vm/machines/inside.py"
LINE = re.compile(r"vm(\d+)\| (.*)")


class Said(NamedTuple):
    """A line that something watched on a machine printed; *at* by this computer's clock."""

    at: float
    machine: int
    text: str


class Vm:
    """One machine, of the number *number*."""

    def __init__(self, number: int, directory: Path, monitors: Path, patience: float) -> None:
        self.number = number
        self.directory = directory / f"vm{number}"
        self.directory.mkdir()
        self._monitors = monitors
        self._patience = patience
        self._asked = 0

    def begin(self, script: str, *, ending: str = "sh") -> Path:
        """Have the machine run *script*; return where it tells of it, without an ending."""
        self._asked += 1
        place = self.directory / f"{self._asked:03}"
        unfinished = place.with_suffix(".new")
        unfinished.write_text(script)
        unfinished.rename(place.with_suffix(f".{ending}"))
        return place

    def run(self, script: str, *, code: int | None = 0, within: float = 0.0) -> str:
        """Return what *script* printed; *code*: the exit code demanded, None for any. *within*: how
        many seconds it may take, if it is not as everything."""
        place, done = self.begin(script), within or self._patience
        eventually(place.with_suffix(".code").exists, done, f"vm{self.number}: {script}")
        got = int(place.with_suffix(".code").read_text())
        out = place.with_suffix(".out").read_text()
        assert code in (None, got), f"{script}: {got}\n{out}{place.with_suffix('.err').read_text()}"
        return out

    def boots(self) -> int:
        """Return how often it has been up and ready for commands."""
        told = self.directory / "boots"
        return told.read_text().count("boot") if told.exists() else 0

    def reset(self) -> None:
        """Take its power away and give it back: what was in its memory is gone."""
        for old in self.directory.glob("*.sh"):
            old.unlink()
        self.monitor("set-action", reboot="reset")
        self.monitor("system_reset")

    def monitor(self, command: str, **arguments: Any) -> None:
        """Have QEMU do something with it, by QMP."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(self._patience)
            link.connect(str(self._monitors / f"vm{self.number}"))
            answers = link.makefile()
            answers.readline()  # its greeting
            for name, given in (("qmp_capabilities", {}), (command, arguments)):
                words = {"execute": name, "arguments": given}
                link.sendall(json.dumps(words).encode() + b"\n")
                answer = json.loads(answers.readline())
                while "event" in answer:
                    answer = json.loads(answers.readline())
                assert "return" in answer, answer


@dataclass
class Wired:
    """The machines of a run, and what they have said."""

    machines: list[Vm]
    said: list[Said]
    process: subprocess.Popen[str]

    def plug(self, number: int, *, into: bool) -> None:
        """Pull the plug of machine *number* out of the hub, which only its neighbours' silence
        tells it; or put it *into* it. The hub is the first machine's."""
        assert number > 1
        self.machines[0].monitor("set_link", name=f"port{number}", up=into)

    def lines(self, since: float, number: int | None = None) -> list[Said]:
        return [one for one in self.said if one.at >= since and number in (None, one.machine)]


@contextmanager
def wired(count: int, *, memory: int, within: float, patience: float) -> Iterator[Wired]:
    """Have *count* machines meanwhile, for *within* seconds at most."""
    with tempfile.TemporaryDirectory() as name:
        out, monitors = Path(name, "out"), Path(name, "monitors")
        out.mkdir()
        machines = [Vm(number, out, monitors, patience) for number in range(1, count + 1)]
        words = ["--count", str(count), "--memory", str(memory), "--timeout", str(within)]
        words += ["--out", str(out), "--monitors", str(monitors)]
        process = subprocess.Popen(
            [str(ROOT / "scripts/vm"), *words, "--", "python3", "-SE", str(INSIDE), str(out)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        run = Wired(machines, [], process)
        listening = threading.Thread(target=_listen, args=(run,))
        listening.start()
        try:
            eventually(lambda: all(one.boots() for one in machines), patience, "all boot")
            yield run
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(patience)
            listening.join(patience)


def _listen(run: Wired) -> None:
    assert run.process.stdout is not None
    for line in run.process.stdout:
        at, found = time.monotonic(), LINE.match(line)
        number, text = (int(found[1]), found[2]) if found else (0, line)
        run.said.append(Said(at, number, text.rstrip("\n")))


def eventually(true: Callable[[], Any], within: float, what: str) -> float:
    """Poll until *true* holds; return the seconds it took. Fails at the deadline."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within, f"not within {within} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began
