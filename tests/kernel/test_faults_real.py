"""Faults in the real kernel: made, read back, and what a process before this one left undone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from netlab import faults
from netlab.errors import KernelError
from netlab.kernel.real import RealKernel
from netlab.model.faults import Fault, Sort
from netlab.objects import Bridge, Netem, Netns, Object, Veth
from netlab.plan import Op, Verb, difference

pytestmark = pytest.mark.kernel
HERE, FAR = "nltest-f.underlay", "nltest-f.n1"
CABLE = Veth(HERE, "n1", "02:00:00:00:00:01", FAR, "eth0", "02:00:00:00:00:02", bridge="br-lan")
WHOLE: list[Object] = [
    Netns(FAR),
    Netns(HERE),
    Bridge(HERE, "br-lan", "02:00:00:00:00:03"),
    CABLE,
]
LOSS = Fault(Sort.LINK_LOSS, "n1", loss=12.5)
CUT = Fault(Sort.ETCD_PARTITION, "n1")


@pytest.fixture
def kernel() -> Iterator[RealKernel]:
    made = RealKernel()
    yield made
    made.apply([Op(Verb.DELETE, Netns(name)) for name in made.namespaces("nltest-f")])


def missing(kernel: RealKernel, wanted: list[Object]) -> list[Op]:
    names = dict.fromkeys(one.netns for one in wanted)
    observed = [thing for name in names for thing in kernel.observe(name, wanted)]
    return difference(wanted, observed)


def make(kernel: RealKernel, wanted: list[Object]) -> None:
    kernel.apply(missing(kernel, wanted))
    assert missing(kernel, wanted) == []


def test_a_port_goes_down_and_up_again(kernel: RealKernel) -> None:
    make(kernel, WHOLE)
    down = [*WHOLE[:-1], replace(CABLE, up=False)]
    make(kernel, down)
    [op] = missing(kernel, WHOLE)
    assert op.old == down[-1]
    make(kernel, WHOLE)


def test_rules_are_made_and_go_even_by_a_process_that_did_not_make_them(
    kernel: RealKernel,
) -> None:
    rules = faults.rules(HERE, {"n1": LOSS}, {"n1": CUT}, etcd="192.168.50.10")
    make(kernel, [*WHOLE, *rules])
    another = RealKernel()
    assert missing(another, [*WHOLE, *rules]) == []
    [op] = missing(RealKernel(), WHOLE)
    assert (op.verb, op.object.key) == (Verb.DELETE, rules[0].key)
    make(another, WHOLE)
    assert missing(RealKernel(), WHOLE) == []


@pytest.mark.parametrize("loss", [0.01, 99.99, 100.0])
def test_any_loss_is_listed_as_it_was_written(kernel: RealKernel, loss: float) -> None:
    rules = faults.rules(HERE, {"n1": replace(LOSS, loss=loss)}, {})
    make(kernel, [*WHOLE, *rules])
    assert missing(RealKernel(), [*WHOLE, *rules]) == []


@pytest.mark.stock
def test_a_delay_and_a_loss_are_made_changed_and_taken_away(kernel: RealKernel) -> None:
    make(kernel, WHOLE)
    try:
        make(kernel, [*WHOLE, Netem(HERE, "n1", 50.0, 5.0)])
    except KernelError as error:
        if "netem" in str(error):
            pytest.skip(f"netem: {error.message}")
        raise
    make(kernel, [*WHOLE, Netem(HERE, "n1", 0.2)])
    make(kernel, [*WHOLE, Netem(HERE, "n1", 20.0, loss=0.01), Netem(FAR, "eth0", loss=12.34)])
    make(kernel, [*WHOLE, Netem(HERE, "n1", loss=100.0)])
    [op] = missing(RealKernel(), WHOLE)
    assert op.verb is Verb.DELETE
    make(kernel, WHOLE)
