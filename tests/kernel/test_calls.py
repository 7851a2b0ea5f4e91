"""What comes of real calls: answers, refusals of either kind, silence."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from netlab.kernel import netns
from netlab.sensors.calls import ICMP, Calls, Came, Reply

pytestmark = pytest.mark.kernel

REJECT = """
table ip filter {
    chain output {
        type filter hook output priority 0;
        ip daddr 127.0.0.2 reject
        ip daddr 127.0.0.3 drop
    }
}
"""


@pytest.fixture
def calls() -> Iterator[Calls]:
    """In a namespace whose 127.0.0.2 refuses and whose 127.0.0.3 is silent."""
    name = f"nltestcalls{os.getpid()}"
    netns.create(name)
    opened = Calls()
    try:
        with netns.entered(name):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            subprocess.run(["nft", "-f", "-"], input=REJECT, text=True, check=True)
            for setting in ("ping_group_range=0 0", "icmp_ratemask=0"):
                subprocess.run(["sysctl", "-qw", f"net.ipv4.{setting}"], check=True)
            yield opened
    finally:
        opened.close()
        netns.delete(name)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_an_answer_tells_who_gave_it_and_whom_it_saw(calls: Calls, protocol: str) -> None:
    calls.serve("one", protocol, "127.0.0.1", 8080)
    calls.serve("two", protocol, "127.0.0.4", 8080)
    for _ in range(3):
        calls.call("to one", protocol, "127.0.0.1", 8080, source="127.0.0.9")
        calls.call("to two", protocol, "127.0.0.4", 8080, source="127.0.0.8")
    assert calls.replies() == {
        "to one": [Reply(Came.ANSWER, "one", "127.0.0.9")] * 3,
        "to two": [Reply(Came.ANSWER, "two", "127.0.0.8")] * 3,
    }
    assert calls.replies() == {}


@pytest.mark.parametrize("protocol", ["TCP", "UDP", ICMP])
def test_refusals_and_silence_are_told_apart(calls: Calls, protocol: str) -> None:
    calls.call("refused", protocol, "127.0.0.2", 9)
    calls.call("silent", protocol, "127.0.0.3", 9)
    calls.call("nobody", protocol, "127.0.0.5", 9)
    calls.call("nowhere", protocol, "192.0.2.1", 9)
    assert calls.replies(quiet=0.2) == {
        "refused": [Reply(Came.REFUSAL)],
        "silent": [Reply(Came.SILENCE)],
        "nobody": [Reply(Came.ANSWER if protocol == ICMP else Came.REFUSAL)],
        "nowhere": [Reply(Came.UNREACHABLE)],
    }


def test_what_a_host_sends_nobody_is_told_as_such(calls: Calls) -> None:
    calls.call("not mine", "UDP", "127.0.0.1", 9, source="192.0.2.7")
    assert calls.replies() == {"not mine": [Reply(Came.UNSENDABLE)]}
