"""What every loop of the agent does: it goes on, and looks again where it must."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from netlab.agent.loop import Loop, applied, takes_more
from netlab.errors import NetlabError
from netlab.kernel.fake import FakeKernel
from netlab.objects import Address, Bridge, Netns, Object, Route
from netlab.plan import Op, Verb

ADDRESS = Address("t.n1", "eth0", "192.168.50.11/24")
BRIDGE = Bridge("t.n1", "docker0", "02:00:00:00:00:01", 1450)


class Broken(Loop):
    """A loop whose first look at what to watch fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__("broken")
        self.failure: Exception | None = error

    def once(self) -> None:
        pass

    def watched(self) -> Mapping[int, Callable[[], None]]:
        error, self.failure = self.failure, None
        if error is not None:
            raise error
        return {}


@pytest.mark.parametrize("error", [NetlabError("no server"), ValueError("-1"), OSError("gone")])
def test_a_loop_survives_what_it_cannot_watch(error: Exception) -> None:
    loop = Broken(error)
    loop.start()
    try:
        deadline = time.monotonic() + 5
        while loop.passes < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert loop.is_alive()
        assert loop.passes >= 2
    finally:
        loop.end()
        loop.join(5)


class Hearing(Loop):
    """A loop that is told of things, some of which are nothing to look again for."""

    def __init__(self, interval: float) -> None:
        super().__init__("hearing")
        self.interval = interval
        self.heard_of = os.eventfd(0, os.EFD_NONBLOCK)
        self.drained = 0
        self.news = False

    def once(self) -> None:
        pass

    def watched(self) -> Mapping[int, Callable[[], bool]]:
        return {self.heard_of: self._drain}

    def _drain(self) -> bool:
        os.eventfd_read(self.heard_of)
        self.drained += 1
        return self.news

    def close(self) -> None:
        os.close(self.heard_of)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("interval", [30.0, 0.5], ids=["woken", "by its clock"])
def test_a_loop_looks_again_for_news_and_when_its_time_has_come(interval: float) -> None:
    loop = Hearing(interval)
    loop.start()
    try:
        until(lambda: loop.passes == 1)
        passed = loop.passes
        while loop.drained < 20:
            before = loop.drained
            os.eventfd_write(loop.heard_of, 1)
            until(lambda before=before: loop.drained > before)  # type: ignore[misc]
            time.sleep(0.05)
        assert (loop.passes > passed) is (interval < 1.0)
        loop.news, passed = True, loop.passes
        os.eventfd_write(loop.heard_of, 1)
        until(lambda: loop.passes > passed)
        loop.news, passed = False, loop.passes
        loop.wake()
        until(lambda: loop.passes > passed)
    finally:
        loop.end()
        loop.join(5)


def test_a_loop_that_has_ended_holds_no_descriptor_and_may_be_woken() -> None:
    before = len(os.listdir("/proc/self/fd"))
    loop = Broken(NetlabError("no server"))
    loop.start()
    loop.end()
    loop.join(5)
    loop.wake()
    loop.end()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("verb", "thing", "more"),
    [
        pytest.param(Verb.DELETE, ADDRESS, True, id="routes go with an address"),
        pytest.param(Verb.CHANGE, BRIDGE, True, id="a bridge's new MAC"),
        pytest.param(Verb.ADD, ADDRESS, False, id="nothing goes with a new address"),
        pytest.param(Verb.DELETE, Route("t.n1", "default", "eth0"), False, id="a route alone"),
        pytest.param(Verb.DELETE, Netns("t.n1.a.b"), False, id="a pod that leaves"),
    ],
)
def test_which_operations_may_take_more_with_them(verb: Verb, thing: Object, more: bool) -> None:
    assert takes_more([Op(verb, thing)]) is more


class Unmoved(FakeKernel):
    """One in which nothing is done."""

    def apply(self, ops: Sequence[Op]) -> None:
        pass


def test_a_machine_that_gets_an_address_is_announced() -> None:
    """Neither a pod is, whose MAC follows from its address, nor another link, nor what goes."""
    kernel = Unmoved()
    others = [
        Address("t.n1.default.web", "eth0", "10.244.1.2/24"),
        Address("t.n1", "lo", "1.1.1.1/32"),
    ]
    added = [Op(Verb.ADD, one) for one in (*others, ADDRESS)]
    applied(kernel, [*added, Op(Verb.DELETE, Address("t.n2", "eth0", "192.168.50.12/24"))])
    assert kernel.announced == [ADDRESS]


class Long(Loop):
    """A loop each of whose passes lasts until it is let go."""

    def __init__(self) -> None:
        super().__init__("long")
        self.inside, self.go = threading.Event(), threading.Event()

    def once(self) -> None:
        self.inside.set()
        self.go.wait(5)


@pytest.mark.parametrize(("error", "expected"), [("", True), ("etcd is away", False)])
def test_a_loop_is_at_work_in_a_long_pass_after_one_that_went_well(
    error: str, expected: bool
) -> None:
    loop = Long()
    loop.error = error
    assert not loop.at_work(seconds=0)
    loop.start()
    try:
        assert loop.inside.wait(5)
        assert loop.at_work(seconds=0) == expected
        assert not loop.at_work(seconds=60)
        loop.go.set()
        deadline = time.monotonic() + 5
        while loop.passes < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert loop.passes and not loop.at_work(seconds=0)
    finally:
        loop.end()
        loop.go.set()
        loop.join(5)
