"""The contract of `Kernel`, kept by the real one and the fake one alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from worlds import plan, sh, words_of, world

from netlab.errors import KernelError
from netlab.kernel import Kernel
from netlab.kernel.fake import FakeKernel
from netlab.kernel.real import RealKernel
from netlab.objects import (
    Address,
    Bridge,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netns,
    NftTable,
    Object,
    Route,
    Sysctl,
    Veth,
    Vxlan,
)
from netlab.plan import Op, Verb, difference

pytestmark = pytest.mark.kernel
LAB = "nltest-k"
NODE, POD, UNDERLAY = f"{LAB}.node1", f"{LAB}.node1.default.web", f"{LAB}.underlay"
THINGS = [thing for things in world(LAB).values() for thing in things]


@pytest.fixture(params=["real", "fake"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    made: Kernel = RealKernel() if request.param == "real" else FakeKernel()
    yield made
    made.apply([Op(Verb.DELETE, Netns(name)) for name in made.namespaces(LAB)])


def without(thing: Object, wanted: dict[str, list[Object]]) -> dict[str, list[Object]]:
    return {name: [each for each in them if each != thing] for name, them in wanted.items()}


def test_second_plan_is_empty(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []


def test_observed_is_exactly_what_was_wanted(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    for name, things in wanted.items():
        observed = kernel.observe(name, things)
        assert sorted(observed, key=repr) == sorted(things, key=repr)


def test_nothing_is_observed_where_there_is_no_namespace(kernel: Kernel) -> None:
    assert kernel.observe(f"{LAB}.nowhere", []) == []
    assert kernel.namespaces(LAB) == []


# What nobody wants any more and can be told to be netlab's, or is deleted when asked to.
UNWANTED = [
    thing
    for thing in THINGS
    if isinstance(
        thing, Veth | Bridge | Route | Address | Neighbor | FdbEntry | IptablesJump | NftTable
    )
    and (thing.netns, getattr(thing, "name", "")) not in ((UNDERLAY, "br0"), (NODE, "docker0"))
]


@pytest.mark.parametrize("thing", UNWANTED, ids=words_of)
def test_what_is_not_wanted_any_more_goes_and_comes_back(kernel: Kernel, thing: Object) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    less = without(thing, wanted)
    ops = plan(kernel, less)
    assert (Verb.DELETE, thing.key) in [(op.verb, op.object.key) for op in ops]
    kernel.apply([op for op in ops if op.verb is Verb.DELETE])
    observed = kernel.observe(thing.netns, wanted[thing.netns])
    assert thing.key not in [each.key for each in observed]
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []


def test_a_chain_goes_after_the_jump_to_it(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    less = {
        name: [each for each in them if not isinstance(each, IptablesChain | IptablesJump)]
        for name, them in wanted.items()
    }
    ops = plan(kernel, less)
    assert [type(op.object) for op in ops] == [IptablesJump, IptablesChain]
    kernel.apply(ops)
    assert plan(kernel, less) == []


CHANGES: list[tuple[type, str, dict[str, Any]]] = [
    (Bridge, "docker0", {"mtu": 1400}),
    (Bridge, "docker0", {"mac": "02:00:00:00:00:ff"}),
    (Veth, "veth1", {"mtu": 1400}),
    (Veth, "veth1", {"mac": "02:00:00:00:01:ff"}),
    (Veth, "veth1", {"peer_mac": "02:00:00:00:01:fe"}),
    (Veth, "veth1", {"peer_name": "eth9"}),
    (Veth, "veth1", {"hairpin": False}),
    (Veth, "veth1", {"bridge": None, "hairpin": False}),
    (Vxlan, "flannel.1", {"mtu": 1400}),
    (Vxlan, "flannel.1", {"mac": "02:00:00:00:02:ff"}),
    (Vxlan, "flannel.1", {"vni": 7}),
    (Vxlan, "flannel.1", {"port": 4789}),
    (Vxlan, "flannel.1", {"local": "192.168.50.99"}),
    (Vxlan, "flannel.1", {"learning": True}),
    (Route, "10.244.2.0/24", {"via": "10.244.9.9"}),
    (Route, "default", {"via": "192.168.50.2"}),
    (Neighbor, "10.244.2.0", {"mac": "02:00:00:00:02:fe"}),
    (FdbEntry, "02:00:00:00:02:02", {"destination": "192.168.50.13"}),
    (Sysctl, "net.ipv4.ip_forward", {"value": "0"}),
    (IptablesChain, "FLANNEL-FWD", {"rules": ("-s 10.0.0.0/8 -j RETURN",)}),
    (IptablesChain, "FLANNEL-FWD", {"rules": ()}),
    (NftTable, "firewall", {"body": "\tcounter hits {\n\t\tpackets 0 bytes 0\n\t}\n"}),
]


def change_id(value: object) -> str:
    if isinstance(value, dict):
        return next(iter(value))
    return value.__name__ if isinstance(value, type) else str(value).replace("/", "_")


@pytest.mark.parametrize(("kind", "name", "fields"), CHANGES, ids=change_id)
def test_what_is_wanted_otherwise_is_changed(
    kernel: Kernel, kind: type, name: str, fields: dict[str, Any]
) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    changed = changed_world(kind, name, fields)
    ops = plan(kernel, changed)
    assert ops
    kernel.apply(ops)
    assert plan(kernel, changed) == []
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []


def changed_world(kind: type, name: str, fields: dict[str, Any]) -> dict[str, list[Object]]:
    """Return the world with one object of the node changed, and what hangs on a renamed link."""
    renamed = fields.get("peer_name")

    def other(thing: Object) -> Object:
        if isinstance(thing, kind) and thing.netns == NODE and name in thing.key:
            return replace(thing, **fields)
        if renamed and thing.netns == POD and isinstance(thing, Address | Route):
            return replace(thing, link=renamed)
        return thing

    return {netns: [other(thing) for thing in things] for netns, things in world(LAB).items()}


STEPS = len(difference(THINGS, []))


@pytest.mark.parametrize("done", range(STEPS))
def test_a_plan_cut_off_anywhere_is_finished_by_the_next(kernel: Kernel, done: int) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted)[:done])
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []


@pytest.mark.parametrize("done", range(3))
def test_removal_cut_off_anywhere_is_finished_by_the_next(kernel: Kernel, done: int) -> None:
    kernel.apply(plan(kernel, world(LAB)))
    names = kernel.namespaces(LAB)
    assert names == sorted(world(LAB))
    removal = difference([], [thing for name in names for thing in kernel.observe(name, [])])
    kernel.apply(removal[:done])
    rest = [thing for name in kernel.namespaces(LAB) for thing in kernel.observe(name, [])]
    kernel.apply(difference([], rest))
    assert kernel.namespaces(LAB) == []


def test_a_pod_that_goes_takes_its_cable_along(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    node = [thing for thing in wanted[NODE] if getattr(thing, "peer_netns", "") != POD]
    observed = [*kernel.observe(NODE, node), *kernel.observe(POD, [])]
    ops = difference(node, observed)
    assert [(op.verb, type(op.object)) for op in ops] == [
        (Verb.DELETE, Veth),
        (Verb.DELETE, Netns),
    ]
    kernel.apply(ops)
    assert kernel.observe(POD, []) == []
    assert difference(node, kernel.observe(NODE, node)) == []


def test_a_namespace_that_goes_takes_its_cables_along(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    kernel.apply([Op(Verb.DELETE, Netns(POD))])
    deadline = time.monotonic() + 5
    while any(getattr(thing, "name", "") == "veth1" for thing in kernel.observe(NODE, [])):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_namespace_that_vanished_is_filled_and_cabled_again(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    kernel.apply([Op(Verb.DELETE, Netns(POD))])
    ops = plan(kernel, wanted)
    assert {op.object.netns for op in ops} == {NODE, POD}
    kernel.apply(ops)
    assert plan(kernel, wanted) == []


def test_a_foreign_link_in_the_way_is_an_error_and_stays(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply([op for op in plan(kernel, wanted) if type(op.object) is Netns])
    if isinstance(kernel, FakeKernel):
        kernel.block(NODE, "docker0")
    else:
        sh(f"ip -n {NODE} link add docker0 address 02:11:22:33:44:55 type bridge")
    with pytest.raises(KernelError, match=rf"^{NODE}: cannot add bridge docker0: file exists") as e:
        kernel.apply(plan(kernel, wanted))
    assert "not netlab's" in (e.value.hint or "")
    observed = kernel.observe(NODE, wanted[NODE])
    assert not [thing for thing in observed if isinstance(thing, Bridge)]
    if isinstance(kernel, RealKernel):
        assert "02:11:22:33:44:55" in sh(f"ip -n {NODE} link show docker0")


def test_a_missing_link_is_named(kernel: Kernel) -> None:
    kernel.apply([Op(Verb.ADD, Netns(NODE))])
    with pytest.raises(KernelError, match=rf"^{NODE}: cannot add address .* no link docker0"):
        kernel.apply([Op(Verb.ADD, Address(NODE, "docker0", "10.244.1.1/24"))])


def test_a_missing_namespace_is_named_and_not_made(kernel: Kernel) -> None:
    with pytest.raises(KernelError, match=rf"{NODE}: no such network namespace"):
        kernel.apply([Op(Verb.ADD, Bridge(NODE, "docker0", "02:00:00:00:00:01"))])
    assert kernel.namespaces(LAB) == []


def test_deleting_what_is_gone_is_no_error(kernel: Kernel) -> None:
    wanted = world(LAB)
    kernel.apply(plan(kernel, wanted))
    jumps = [thing for thing in wanted[NODE] if isinstance(thing, IptablesJump)]
    kernel.apply([Op(Verb.DELETE, jump) for jump in jumps])
    things = [thing for thing in wanted[NODE] if thing not in jumps]
    deletions = difference([Netns(NODE)], things)
    assert {Address, Route, Bridge, Veth, Vxlan} <= {type(op.object) for op in deletions}
    kernel.apply(deletions)
    kernel.apply(deletions)
    kernel.apply([Op(Verb.DELETE, Netns(NODE))])
    kernel.apply(deletions)


def test_labs_with_a_common_beginning_do_not_see_each_other(kernel: Kernel) -> None:
    kernel.apply([Op(Verb.ADD, Netns(f"{LAB}.a")), Op(Verb.ADD, Netns(f"{LAB}2.a"))])
    try:
        assert kernel.namespaces(LAB) == [f"{LAB}.a"]
        assert kernel.namespaces(f"{LAB}2") == [f"{LAB}2.a"]
    finally:
        kernel.apply([Op(Verb.DELETE, Netns(f"{LAB}2.a"))])
