"""The kernel's drop reasons: of our own packets, of nobody else's, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netlab.errors import CapabilityError
from netlab.kernel import netns
from netlab.processes import run
from netlab.sensors import drops
from netlab.sensors.drops import PREFIX, Drops

pytestmark = pytest.mark.kernel
NAME = "nltestdrops"


@pytest.fixture
def place() -> Iterator[str]:
    """A namespace whose own rules drop what it sends to port 5."""
    try:
        with Drops():
            pass
    except CapabilityError as error:
        pytest.skip(f"drop reasons: {error}")
    netns.create(NAME)
    try:
        run(["ip", "link", "set", "lo", "up"], netns=NAME)
        text = (
            "table ip t {\nchain c {\ntype filter hook input priority 0;\nudp dport 5 drop\n}\n}\n"
        )
        run(("nft", "-f", "-"), netns=NAME, input=text)
        yield NAME
    finally:
        netns.delete(NAME)


def sent(port: int) -> int:
    """Send a datagram over lo; return when (ns)."""
    with netns.entered(NAME), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        began = time.time_ns()
        sock.sendto(b"x", ("127.0.0.1", port))
    return began


def test_a_drop_has_the_kernels_reason(place: str) -> None:
    with Drops() as noted:
        first = noted.told(since=sent(5))
        second = noted.told(since=sent(7))
    assert [str(one) for one in first] == ["NETFILTER_DROP in nft_do_chain"]
    assert [one.reason for one in second] == ["NO_SOCKET"]


def test_others_drops_are_not_told(place: str) -> None:
    script = "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 5))"
    with Drops() as noted:
        began = time.time_ns()
        run((sys.executable, "-c", script), netns=place)
        assert noted.told(since=began, within=10**10) == []


def test_what_came_before_or_much_later_is_not_told(place: str) -> None:
    with Drops() as noted:
        began = sent(5)
        assert noted.told(since=time.time_ns() + 10_000) == []
        assert noted.told(since=began - 10_000_000, within=1000) == []


def instances() -> list[str]:
    mount = drops._mounted()
    try:
        return [n for n in os.listdir(f"/proc/self/fd/{mount}/instances") if n.startswith(PREFIX)]
    finally:
        os.close(mount)


def test_nothing_is_left_and_what_a_killed_process_left_goes(place: str) -> None:
    script = (
        "from netlab.sensors.drops import Drops; import time\n"
        "with Drops(): print(flush=True); time.sleep(60)"
    )
    killed = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert killed.stdout is not None
    killed.stdout.readline()
    left = [name for name in instances() if name.startswith(f"{PREFIX}{killed.pid}-")]
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(left) == 1
    with Drops():
        assert not set(left) & set(instances())
    assert not [name for name in instances() if name.startswith(f"{PREFIX}{os.getpid()}-")]


def test_whose_pids_we_do_not_see_is_left_alone(place: str) -> None:
    """A lab in a container of its own: to us its processes are not there, or are others."""
    script = (
        "from netlab.sensors.drops import Drops; import sys\n"
        "with Drops(): print(flush=True); sys.stdin.read()"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
    before, pipe = set(instances()), subprocess.PIPE
    with subprocess.Popen([*command, "-c", script], stdin=pipe, stdout=pipe) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        (kept,) = {name for name in instances() if name.startswith(f"{PREFIX}1-")} - before
        with Drops():
            assert kept in instances()
        other.stdin.close()
    assert kept not in instances()


def test_no_mount_is_seen(place: str) -> None:
    with Drops():
        assert PREFIX not in Path("/proc/self/mountinfo").read_text()
        before = Path("/proc/self/mountinfo").read_text()
    assert Path("/proc/self/mountinfo").read_text() == before
