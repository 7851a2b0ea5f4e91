"""Whole labs, brought up through the command line as a user would, and taken down again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Cli, namespaces, topology


@pytest.fixture
def cli(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cli]:
    """A lab name of this test's own; whatever is left of the lab afterwards is taken down."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    command = Cli(f"t{worker[2:]}x{abs(hash(request.node.nodeid)) % 10_000}", tmp_path)
    yield command
    if command.run_directory.exists() or namespaces(command.lab):
        command("down", code=None)
    assert namespaces(command.lab) == []
    assert not command.run_directory.exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cli]:
    """A lab of two nodes with two pods each, up for the tests of one module."""
    command = Cli(f"m{worker_id.removeprefix('gw')}x{os.getpid()}", tmp_path_factory.mktemp("lab"))
    command("up", command.file(topology(command.lab)))
    yield command
    command("down")
    assert namespaces(command.lab) == []
