"""Machines of one lab that run different versions of netlab: it is said, and harms nobody.

The other version is a copy of this one with another number, in which whatever goes from machine to
machine has a field more: what one machine says the other does not know, and the other way round.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import ETCD, LAB, Box, asked, boxes, converged, joined, name, pods, status, written
from labs import ROOT, eventually

from netlab import __version__

pytestmark = pytest.mark.lab
OTHER = "9.9.9"
MODULES = ("model/lab.py", "agent/reports.py", "packets.py", "proxy/options.py")  # what is said


def extended(source: str) -> str:
    """Return a module's text in which every msgspec.Struct has a field more."""
    lines = source.splitlines()
    structs = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and "Struct" in ast.unparse(node.bases[0])
    ]
    for struct in reversed(structs):
        fields = [one for one in struct.body if isinstance(one, ast.AnnAssign)]
        if fields and fields[-1].end_lineno and "kw_only" not in source:
            lines.insert(fields[-1].end_lineno, "    novelty: tuple[int, ...] = (4, 2)")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of another version."""
    made = tmp_path_factory.mktemp("other")
    shutil.copytree(ROOT / "netlab", made / "netlab", ignore=shutil.ignore_patterns("__pycache__"))
    init = made / "netlab/__init__.py"
    init.write_text(init.read_text().replace(__version__, OTHER))
    for module in MODULES:
        path = made / "netlab" / module
        path.write_text(extended(path.read_text()))
        assert "novelty" in path.read_text(), module
    return made


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, other: Path) -> Iterator[tuple[Box, Box]]:
    """Both machines in the lab; the first, with the master, has the other version."""
    with boxes(2) as (first, second):
        first.root = other
        first.netlab("up", "--master", written(tmp_path_factory.mktemp("lab")))
        joined(second)
        eventually(lambda: converged(first), what="the first machine converges")
        yield first, second


def test_versions_that_differ_are_told_and_work_together(two: tuple[Box, Box]) -> None:
    first, second = two
    held = first.run("etcdctl", f"--endpoints={ETCD}", "get", "--prefix", "/netlab/").stdout
    assert held.count('"novelty":[4,2]') > 3  # the Lab and what node1 says of itself
    assert f"note: node2 runs netlab {__version__}, this machine {OTHER}" in (
        first.netlab("status").stdout
    )
    assert f"note: node1 runs netlab {OTHER}, this machine {__version__}" in (
        second.netlab("status").stdout
    )
    there = pods(second)
    for box, peer in (two, two[::-1]):
        address = there[peer.name]["status"]["podIP"]
        assert asked(box, address, pod=name(there[box.name]))["client"]
        assert asked(box, "10.96.7.7")["node"]
        done = box.netlab("exec", name(there[peer.name]), "--", "hostname")
        assert done.stdout == f"{name(there[peer.name])}\n"
        proven = json.loads(box.netlab("verify", "pod-pod-cross-node", "-o", "json").stdout)
        assert proven["paths"][0]["outcome"] == "pass"


def test_a_machine_that_gets_the_other_version_goes_on(two: tuple[Box, Box], other: Path) -> None:
    first, second = two
    before = pods(first)["node2"]["status"]["podIP"]
    second.kill_agent(LAB)
    second.root = other
    joined(second)
    eventually(lambda: converged(first) and converged(second), what="both converge")
    eventually(lambda: "runs netlab" not in first.netlab("status").stdout, what="one version")
    assert {one["version"] for one in status(second)["nodes"]} == {OTHER}
    assert pods(first)["node2"]["status"]["podIP"] == before
