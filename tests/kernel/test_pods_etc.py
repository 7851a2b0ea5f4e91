"""Files shown over those of /etc, in mount namespaces of their own, whatever is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from podplaces import ROOT

from netlab.pods import etc

pytestmark = pytest.mark.kernel

# What stands in for the machine's /etc is mounted over it first, then the files over that.
SHOWN = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from netlab.pods import etc
from netlab.pods.namespaces import CLONE_NEWNS, MS_BIND, MS_PRIVATE, MS_REC, mount, unshare
unshare(CLONE_NEWNS)
mount("none", "/", flags=MS_REC | MS_PRIVATE)
mount(sys.argv[1], "/etc", flags=MS_BIND)
mount("none", "/", flags=MS_REC | 1 << 20)  # MS_SHARED
pid = os.fork()
if pid == 0 or sys.argv[3] == "inside":
    unshare(CLONE_NEWNS)
    etc.private()
    etc.show(sys.argv[2])
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
for name in ("resolv.conf", "passwd"):
    print(open("/etc/" + name).read().strip())
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine's /etc: with a file that is none of ours."""
    place = tmp_path / "machine"
    place.mkdir()
    (place / "passwd").write_text("the machine's\n")
    return place


def shown(machine: Path, files: Path, who: str = "inside") -> list[str]:
    argv = [sys.executable, "-c", SHOWN, str(machine), str(files), who]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("how", ["file", "missing", "dangling"])
def test_the_files_are_shown_over_whatever_is_there(
    tmp_path: Path, machine: Path, how: str
) -> None:
    own = machine / "resolv.conf"
    if how == "file":
        own.write_text("nameserver 192.0.2.1\n")
    elif how == "dangling":
        own.symlink_to("../nowhere/stub-resolv.conf")
    files = etc.write(tmp_path / "pod", {"resolv.conf": "nameserver 10.96.0.10\n"})
    assert shown(machine, files) == ["nameserver 10.96.0.10", "the machine's"]
    assert sorted(path.name for path in machine.iterdir()) == (
        ["passwd"] if how == "missing" else ["passwd", "resolv.conf"]
    )


def test_nothing_of_it_is_seen_outside(tmp_path: Path, machine: Path) -> None:
    (machine / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    before = Path("/proc/self/mountinfo").read_text()
    files = etc.write(tmp_path / "pod", {"resolv.conf": "nameserver 10.96.0.10\n"})
    assert shown(machine, files, "outside")[0] == "nameserver 192.0.2.1"
    assert Path("/proc/self/mountinfo").read_text() == before
    assert (machine / "resolv.conf").read_text() == "nameserver 192.0.2.1\n"
