"""Every example of every help text works when it is pasted, with topologies/notes.yaml up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise

import click
import pytest
from labs import ROOT, Cli, namespaces

from netlab.capabilities import tried
from netlab.cli import menu
from netlab.cli.options import Command
from netlab.cli.program import program

pytestmark = pytest.mark.lab
# What ends only with ^C, needs a file of the reader's own or another program, or is another lab's.
NOT_HERE = {
    *("-w", "clock -f", "-f web.yaml", "jq", "paths.xml", "notes", "kubectl", "services.yaml"),
    *("netlab up", "netlab plan", "netlab down", "netlab completion"),
    "netlab proxy",  # see tests/kernel/test_proxy_command.py
    # Machines, and namespaces that are not the lab's: see test_machines.py, test_attach.py
    *("netlab agent", "netlab join", "netlab attach", "netlab detach"),
}
LAST = ("delete", "drain")  # what makes others fail, in this order


def examples() -> list[str]:
    found: list[str] = []
    for name in sorted((entry.name for entry in menu.COMMANDS), key=_turn):
        command = program.get_command(click.Context(program), name)
        assert isinstance(command, Command)
        found += [line.strip() for line in command.example.strip().splitlines()]
    return [line for line in found if not NOT_HERE & set(words_and_pairs(line))]


def _turn(name: str) -> int:
    return LAST.index(name) + 1 if name in LAST else 0


def words_and_pairs(line: str) -> list[str]:
    words = line.split()
    return [*words, *map(" ".join, pairwise(words))]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    command = Cli(f"e{os.getpid()}", tmp_path_factory.mktemp("lab"))
    text = (ROOT / "topologies/notes.yaml").read_text()
    try:
        command("up", command.file(text.replace("name: notes ", f"name: {command.lab} ", 1)))
        for name in ("topologies", "examples", "docs"):
            (command.directory / name).symlink_to(ROOT / name)
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


# Two modes do differ, these flows are stopped, nobody else asks web: told by exit code 1.
TELLING = ("diff-modes", "why client node/node1:22", "why pair archive:7001", "--attach")
REFUSED = "netlab drain node1 --ignore-daemonsets"  # two of its pods would not be replaced
LACKING = {"netlab link delay node1 50ms 5ms": "netem"}  # exit code 3 where the kernel lacks it


@pytest.mark.parametrize("line", examples())
def test_an_example_works_when_it_is_pasted(lab: Cli, line: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'netlab() {{ {sys.executable} -m netlab "$@"; }}; set -o pipefail; {line}'],
        cwd=lab.directory,  # some write pictures
        env={**os.environ, "NETLAB_LAB": lab.lab},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if lacking := LACKING.get(line):
        found = tried(lacking)[0]
        assert done.returncode == (0 if found.ok else 3)
        assert found.ok or f"this kernel lacks {lacking}" in done.stderr
        return
    tells = line == REFUSED or any(word in line for word in TELLING)
    assert done.returncode == tells, f"{line}\n{done.stdout}{done.stderr}"
