"""One proxy at a time in a namespace: who is refused, who waits, and that death ends a turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from netlab.errors import KernelError
from netlab.kernel import netns, turns

pytestmark = pytest.mark.kernel

HOLD = """
import sys
from netlab.kernel import netns, turns
with netns.entered(sys.argv[1]), getattr(turns, sys.argv[2])():
    print("there", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place() -> Iterator[str]:
    name = f"nltestturn{os.getpid()}"
    netns.create(name)
    yield name
    netns.delete(name)


@pytest.fixture(params=["turn", "post"])
def other(place: str, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process that is the proxy of *place*, for long (post) or a while (turn)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, place, request.param],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "there\n"
    yield process
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


def test_an_agent_is_refused_at_once_and_told_by_whom(
    place: str, other: subprocess.Popen[str]
) -> None:
    with netns.entered(place), pytest.raises(KernelError, match=rf"-c .*\(pid {other.pid}\)"):
        turns.taken_post()


def test_a_dead_proxy_holds_nothing(place: str, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait(10)
    with netns.entered(place), turns.post(patience=0.0):
        pass


def test_other_namespaces_are_free(place: str, other: subprocess.Popen[str]) -> None:
    netns.create(f"{place}b")
    try:
        with netns.entered(f"{place}b"), turns.turn(patience=0.0):
            pass
    finally:
        netns.delete(f"{place}b")


@pytest.mark.parametrize("other", ["post"], indirect=True)
def test_nobody_waits_for_one_that_stays(place: str, other: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    with netns.entered(place), pytest.raises(KernelError, match="programmed by"):
        turns.turn(patience=60.0).__enter__()
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("other", ["turn"], indirect=True)
def test_one_waits_for_another_that_soon_ends(place: str, other: subprocess.Popen[str]) -> None:
    assert other.stdin is not None
    had: list[bool] = []

    def come() -> None:
        with netns.entered(place), turns.turn(patience=20.0):
            had.append(True)

    thread = threading.Thread(target=come)
    thread.start()
    thread.join(4 * turns.LOOK)
    assert had == []
    other.stdin.close()
    thread.join(20)
    assert had == [True]
