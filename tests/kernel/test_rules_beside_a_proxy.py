"""flannel's rules in a namespace that a proxy fills with chains of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from netlab.kernel import generation, iptables, netns, rules
from netlab.kernel.real import RealKernel
from netlab.objects import IptablesChain, IptablesJump, Netns, Object
from netlab.plan import Op, Verb, difference
from netlab.processes.commands import Completed, run
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Sort, Step

pytestmark = pytest.mark.kernel
NODE = "nltest-beside.node1"
ACCEPTS = ("-s 10.244.0.0/16 -j ACCEPT", "-d 10.244.0.0/16 -j ACCEPT")
WANTED: list[Object] = [
    Netns(NODE),
    IptablesChain(NODE, "filter", "FLANNEL-FWD", ACCEPTS),
    IptablesJump(NODE, "filter", "FORWARD", "-j FLANNEL-FWD"),
    IptablesChain(NODE, "nat", "NOT-FLANNELS", ("-j RETURN",)),
]
SERVICES = [
    Block(Family.IPV4, Sort.CHAIN, "nat", f"KUBE-SVC-{number:016}", (), ("-j RETURN",))
    for number in range(rules.FEW)
]


@pytest.fixture
def kernel() -> Iterator[RealKernel]:
    """A kernel, and the calling thread in a node that has flannel's rules."""
    made = RealKernel()
    made.apply([Op(Verb.ADD, Netns(NODE))])
    try:
        with netns.entered(NODE):
            made.apply(plan(made))
            assert plan(made) == []
            yield made
    finally:
        made.apply([Op(Verb.DELETE, Netns(NODE))])


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The tools that flannel's side runs."""
    found: list[tuple[str, ...]] = []

    def noted(argv: Sequence[str], **more: Any) -> Completed:
        found.append(tuple(argv))
        return run(argv, **more)

    monkeypatch.setattr(rules, "run", noted)
    return found


def plan(kernel: RealKernel) -> list[Op]:
    return difference(WANTED, kernel.observe(NODE, WANTED))


def test_a_proxys_rules_do_not_make_flannels_be_listed(
    kernel: RealKernel, runs: list[tuple[str, ...]]
) -> None:
    iptables.write([Step(block, None) for block in SERVICES])
    iptables.write([Step(None, SERVICES[0])])
    assert plan(kernel) == []
    assert runs == []


def test_flannels_rules_do_not_make_a_proxys_be_listed(kernel: RealKernel) -> None:
    since = generation.generation()
    kernel.apply([Op(Verb.DELETE, WANTED[2])])
    kernel.apply([Op(Verb.ADD, WANTED[2])])
    assert generation.generation() == since + 2
    assert generation.here().unchanged(since)


DRIFTS = {
    "rule-added": "iptables-nft -A FLANNEL-FWD -j DROP",
    "rule-gone": "iptables-nft -D FLANNEL-FWD 1",
    "jump-gone": "iptables-nft -D FORWARD -j FLANNEL-FWD",
    "another-chain": "iptables-nft -t nat -N FLANNEL-OLD",
    "another-jump": "iptables-nft -A INPUT -j FLANNEL-FWD",
    "all-flushed": "iptables-nft -F",
}


@pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS)
def test_drift_is_seen_without_listing_a_proxys_chains(
    kernel: RealKernel, runs: list[tuple[str, ...]], drift: str
) -> None:
    iptables.write([Step(block, None) for block in SERVICES])
    run(drift.split())
    found = plan(kernel)
    assert found != []
    kernel.apply(found)
    assert plan(kernel) == []
    assert ("iptables-nft-save",) not in runs
    assert not any("KUBE-" in word for argv in runs for word in argv)
    assert set(iptables.read([Family.IPV4])) == {block.key for block in SERVICES}


def test_a_rule_of_others_is_no_drift(kernel: RealKernel) -> None:
    iptables.write([Step(block, None) for block in SERVICES])
    run(["iptables-nft", "-A", "FORWARD", "-s", "192.0.2.1/32", "-j", "DROP"])
    run(["nft", "add", "table", "ip", "other"])
    assert plan(kernel) == []
