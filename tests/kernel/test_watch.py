"""A watch wakes for what an observation would show, and sleeps through the rest."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest
from worlds import plan, sh, world

from netlab.errors import KernelError
from netlab.kernel import Kernel, Watch
from netlab.kernel.fake import FakeKernel
from netlab.kernel.real import RealKernel
from netlab.objects import Netns
from netlab.plan import Op, Verb

pytestmark = pytest.mark.kernel
LAB = "nltest-w"
NODE, POD, UNDERLAY = f"{LAB}.node1", f"{LAB}.node1.default.web", f"{LAB}.underlay"
PATIENCE = 2.0  # seconds
QUIET = 1.2  # seconds


@pytest.fixture
def kernel() -> Iterator[RealKernel]:
    made = RealKernel()
    made.apply(plan(made, world(LAB)))
    yield made
    made.apply([Op(Verb.DELETE, Netns(name)) for name in made.namespaces(LAB)])


@pytest.fixture
def watch(kernel: RealKernel) -> Iterator[Watch]:
    made = kernel.watch(NODE)
    made.drain()
    yield made
    made.close()


def settle(watch: Watch) -> None:
    """Wait until the states of links are all told; linkwatch does so once a second."""
    deadline = time.monotonic() + 10 * QUIET
    while select.select([watch], [], [], QUIET)[0]:
        watch.drain()
        assert time.monotonic() < deadline


def heard(watch: Watch, what: str) -> set[str]:
    """Return what the watch tells until it tells *what*. Fails after a while."""
    found: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    while what not in found:
        ready, _, _ = select.select([watch], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"{what} not heard, only {found}"
        found |= watch.drain()
    return found


CHANGES = {
    "link-deleted": ("self", f"ip -n {NODE} link delete veth1"),
    "link-down": ("self", f"ip -n {NODE} link set docker0 down"),
    "hairpin": ("self", f"bridge -n {NODE} link set dev veth1 hairpin off"),
    "address": ("self", f"ip -n {NODE} address delete 10.244.1.1/24 dev docker0"),
    "route": ("self", f"ip -n {NODE} route delete 10.244.2.0/24"),
    "neighbor": ("self", f"ip -n {NODE} neighbor delete 10.244.2.0 dev flannel.1"),
    "fdb": (
        "self",
        f"bridge -n {NODE} fdb delete 02:00:00:00:02:02 dev flannel.1 dst 192.168.50.12",
    ),
    "pod-address": ("pods", f"ip -n {POD} address flush dev eth0"),
    "pod-route": ("pods", f"ip -n {POD} route delete default"),
    "pod-link": ("pods", f"ip -n {POD} link set eth0 mtu 1300"),
    "iptables": ("rules", f"ip netns exec {NODE} iptables-nft -F FLANNEL-FWD"),
    "nft": ("rules", f"ip netns exec {NODE} nft delete table ip firewall"),
}


@pytest.mark.parametrize(("what", "command"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_heard(watch: Watch, what: str, command: str) -> None:
    sh(command)
    assert what in watch.drain()  # told before the command ended


def test_a_deleted_pod_is_heard(watch: Watch) -> None:
    sh(f"ip netns delete {POD}")
    heard(watch, "self")  # the kernel takes its time


def test_a_tunnel_made_later_is_watched_too(kernel: RealKernel, watch: Watch) -> None:
    sh(f"ip -n {NODE} link delete flannel.1")
    kernel.apply(plan(kernel, world(LAB)))
    assert "self" in watch.drain()
    sh(f"ip -n {NODE} neighbor delete 10.244.2.0 dev flannel.1")
    assert "self" in watch.drain()


SILENT = {
    "neighbor-learned": f"ip -n {NODE} neighbor add 10.244.1.9 lladdr 02:aa:aa:aa:aa:aa"
    " dev docker0 nud stale",
    "mac-learned": f"bridge -n {NODE} fdb add 02:aa:aa:aa:aa:aa dev veth1 master dynamic",
    "beyond-the-uplink": f"ip -n {UNDERLAY} address add 172.16.0.1/24 dev br0",
    "elsewhere": f"ip -n {UNDERLAY} link add other type bridge",
}


@pytest.mark.parametrize("command", SILENT.values(), ids=SILENT)
def test_what_netlab_does_not_manage_wakes_nobody(watch: Watch, command: str) -> None:
    settle(watch)
    sh(command)
    sh(f"ip netns exec {NODE} nft add table ip other")
    assert watch.drain() == {"rules"}


def test_lost_events_count_as_everything(watch: Watch) -> None:
    sh(
        "for i in $(seq 8000); do echo address add 10.9.$((i / 256)).$((i % 256))/32 dev lo; done"
        f" | ip -n {NODE} -batch -"
    )
    assert watch.drain() == {"self", "pods", "rules"}
    sh(f"ip -n {POD} route delete default")
    heard(watch, "pods")


def test_a_watch_needs_a_namespace() -> None:
    for kernel in (RealKernel(), FakeKernel()):
        with pytest.raises(KernelError, match="no such network namespace"):
            kernel.watch(f"{LAB}.nowhere")


def test_the_fake_tells_the_same() -> None:
    kernel: Kernel = FakeKernel()
    assert isinstance(kernel, FakeKernel)
    objects = world(LAB)
    kernel.apply(plan(kernel, objects))
    watch = kernel.watch(NODE)
    try:
        assert watch.drain() == set()
        kernel.lose(objects[POD][-1])
        assert heard(watch, "pods") == {"pods"}
        kernel.lose(objects[NODE][-1])
        assert heard(watch, "rules") == {"rules"}
        kernel.lose(objects[NODE][-4])
        assert heard(watch, "self") == {"self"}
        kernel.lose(objects[UNDERLAY][1])
        assert watch.drain() == set()
    finally:
        watch.close()
