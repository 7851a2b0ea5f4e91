"""docs/three-machines.md, on three machines: its commands, and what they print."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from boxes import Box, boxes, converged
from labs import ROOT, eventually

pytestmark = pytest.mark.lab
PAGE = ROOT / "docs/three-machines.md"
PROMPT = re.compile(r"node(\d)\$ (.*)")
BEFORE = f'cd /run; netlab() {{ {sys.executable} -m netlab "$@"; }}; sudo() {{ "$@"; }}; '
LISTENS = "listening on"  # tcpdump's word
# What is another one each time: MACs, devices, leases, numbers, columns' widths.
VARIES = (
    (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "MAC"),
    (r"veth[0-9a-f]{8}", "VETH"),
    (r"10\.244\.\d+", "10.244.N"),
    (r"\d\d:\d\d:\d\d\.\d+", "TIME"),
    (r"[\d.]+ (ms|s|µs)\b|\b\d+s\b", "TOOK"),
    (r"\b(id|ack|win|seq|val|ecr) \d+|192\.168\.56\.(\d+)\.\d{5}\b", r"\1 \2"),
    (r"\d+ kernel operations", "OPERATIONS"),
    (r"objects? changed", "CHANGED"),
    (r"Flags \[.*", "FLAGS"),
    (r"\s+", " "),
)


class Step(NamedTuple):
    """A command of the page: on which machine, and the lines it shows."""

    machine: int
    command: str
    shown: tuple[str, ...]
    block: int


BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def steps() -> list[Step]:
    found: list[Step] = []
    for number, block in enumerate(BLOCK.finditer(PAGE.read_text())):
        if block[1] or not PROMPT.match(block[2]):
            continue  # the lab; a picture
        for line in block[2].splitlines():
            if match := PROMPT.fullmatch(line):
                found.append(Step(int(match[1]), match[2], (), number))
            else:
                found[-1] = found[-1]._replace(shown=(*found[-1].shown, line))
    return found


def lab() -> str:
    return next(block[2] for block in BLOCK.finditer(PAGE.read_text()) if block[1] == "yaml")


def general(line: str) -> str:
    for pattern, word in VARIES:
        line = re.sub(pattern, word, line)
    return line.strip()


def missing(step: Step, printed: str) -> list[str]:
    """Return the shown lines that were not printed; without `…` also what was and is not shown."""
    shown = sorted(general(line) for line in step.shown if line != "…")
    got = sorted(general(line) for line in printed.splitlines())
    lacking = [line for line in shown if line not in got]
    return lacking if "…" in step.shown else lacking + [one for one in got if one not in shown]


class Reader:
    """Somebody who does what the page says, on three machines."""

    def __init__(self, machines: list[Box], directory: Path, until: ExitStack) -> None:
        self._machines = machines
        self._directory = directory
        self._until = until
        self._left: list[tuple[Step, Path]] = []

    def does(self, step: Step) -> None:
        box = self._machines[step.machine - 1]
        if step.command.endswith("&"):
            self._begins(box, step)
            return
        done = box.run("bash", "-c", f"{{ {BEFORE}{step.command}; }} 2>&1", code=None)
        assert missing(step, done.stdout) == [], f"{step.command}\n{done.stdout}"

    def _begins(self, box: Box, step: Step) -> None:
        """Have it run beside what follows; what it has to say may take until the block's end."""
        log = self._directory / f"said{len(self._left)}"
        command = f"{BEFORE}{step.command.removesuffix('&')}"
        with log.open("wb") as out:
            child = subprocess.Popen(
                box._inside(["bash", "-c", command]), env=box.environment, stdout=out, stderr=out
            )
        self._until.callback(child.wait)
        self._until.callback(child.kill)
        self._left.append((step, log))
        if "tcpdump" in command:
            eventually(lambda: LISTENS in log.read_text(), what=LISTENS)

    def ends_block(self) -> None:
        for step, log in self._left:
            lines = step._replace(shown=(*step.shown, "…"))  # between them are logs
            try:
                eventually(lambda: not missing(lines, log.read_text()), what=step.command)  # noqa: B023
            finally:
                print(f"{step.command}\n{log.read_text()}")
        self._left.clear()


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Box]]:
    with boxes(3) as found:
        found[0].run("sh", "-c", f"cat >/run/lab.yaml <<'END'\n{lab()}END")
        yield found


def test_the_page_says_what_happens(machines: list[Box], tmp_path: Path) -> None:
    all_steps = steps()
    with ExitStack() as until:
        reader = Reader(machines, tmp_path, until)
        for index, step in enumerate(all_steps):
            reader.does(step)
            if all_steps[index + 1 : index + 2] and all_steps[index + 1].block != step.block:
                reader.ends_block()
                if "join" in step.command:
                    eventually(lambda: converged(machines[0]), what="three nodes")
    assert len(all_steps) > 20
    for box in machines:
        assert "flannel.1" not in box.out("ip", "-o", "link")
