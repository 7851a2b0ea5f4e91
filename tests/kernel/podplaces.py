"""Network namespaces and run directories for the tests of pods, gone afterwards."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netlab import processes
from netlab.dns import files
from netlab.kernel import netns
from netlab.pods import sandbox
from netlab.pods.execution import Target

ROOT = Path(__file__).parents[2]
SOON = 10.0  # seconds; a deadline, not a wait
_numbers = itertools.count()


@pytest.fixture
def rundir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end_all(tmp_path, grace=0)


@pytest.fixture
def place() -> Iterator[Callable[[], str]]:
    """Make network namespaces with `lo` up, IPv6 off; all gone afterwards."""
    made: list[str] = []

    def make() -> str:
        made.append(f"nltest{os.getpid()}.pod{next(_numbers)}")
        populate(made[-1])
        return made[-1]

    yield make
    for name in made:
        netns.delete(name)


def populate(name: str) -> None:
    netns.create(name)
    with netns.entered(name):
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def made(rundir: Path, name: str, pod: str = "web-0", hostname: str = "web-0") -> Target:
    pid = sandbox.ensure(
        rundir,
        netns=name,
        namespace="shop",
        pod=pod,
        hostname=hostname,
        files={
            "hosts": files.hosts("10.1.2.3", [hostname]),
            "hostname": f"{hostname}\n",
            "resolv.conf": "nameserver 10.96.0.10\n",
        },
    )
    return Target(name, hostname, pid)
