"""The table of NetworkPolicies in the real kernel: written both ways, read back, changed, gone."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from policy_cases import CASES, IN_BOTH, Case

from netlab.agent.policies import PolicyRules, observed
from netlab.kernel import netns, nft_names, nftables
from netlab.model.inventory import Inventory
from netlab.policy.naming import TABLE
from netlab.processes.commands import run
from netlab.proxy.addresses import Family
from netlab.proxy.nft_text import POLICY_TABLES
from netlab.proxy.ruleset import same

pytestmark = pytest.mark.kernel

BY_NFT, BY_MESSAGES = 0, 10**9  # most statements sent as messages
BUSY = [case for case in IN_BOTH if case.policies]
NOTHING = Case("nothing", {}, [], {}).inventory()


@pytest.fixture(params=[BY_NFT, BY_MESSAGES], ids=["by-nft", "by-messages"])
def inside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test's thread is in a namespace of its own; everything is written in one of two ways."""
    monkeypatch.setattr(nftables, "FEW", request.param)
    name = f"nltest-{os.getpid()}-policies"
    netns.create(name)
    try:
        with netns.entered(name):
            yield
    finally:
        netns.delete(name)


def there() -> bool:
    return bool(nft_names.those_there([(family, TABLE) for family in Family]))


def hold(rules: PolicyRules, objects: Inventory) -> None:
    """Have *rules* hold what is in *objects*, and find in the kernel just that, in its words."""
    rules.agree(objects)
    found = observed()
    assert found.keys() == rules.blocks.keys()
    assert [key for key, one in rules.blocks.items() if not same(one, found[key])] == []
    assert there() is bool(rules.blocks)


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_every_case_lists_as_it_was_written(inside: None, node: str) -> None:
    """One after the other: each is a change of the one before."""
    rules = PolicyRules(node)
    for case in BUSY:
        hold(rules, case.inventory())


def test_who_comes_later_finds_nothing_to_do(inside: None) -> None:
    objects = next(case for case in CASES if case.name == "a-chain-of-three").inventory()
    assert PolicyRules("n1").agree(objects).steps
    assert PolicyRules("n1").agree(objects) == ([], [])


def test_the_table_goes_with_the_last_policy(inside: None) -> None:
    rules = PolicyRules("n1")
    rules.agree(BUSY[0].inventory())
    assert there()
    rules.agree(NOTHING)
    assert not there()


def test_a_table_left_behind_goes(inside: None) -> None:
    PolicyRules("n1").agree(BUSY[0].inventory())
    PolicyRules("n1").agree(NOTHING)
    assert not there()


@pytest.mark.parametrize(
    "harm",
    [
        f"delete table ip {TABLE}",
        f"flush chain ip {TABLE} ingress",
        f"flush map ip {TABLE} ingress-pods",
        f"insert rule ip {TABLE} ingress accept",
        f"add chain ip {TABLE} stranger",
    ],
    ids=["table", "chain", "map", "rule", "stranger"],
)
def test_what_others_do_is_undone_and_told(inside: None, harm: str) -> None:
    rules = PolicyRules("n1")
    objects = BUSY[0].inventory()
    rules.agree(objects)
    assert rules.agree(objects).repaired == []
    run(("nft", harm))
    assert rules.agree(objects).repaired != []
    hold(rules, objects)
    assert rules.agree(objects) == ([], [])


def test_no_proxy_takes_the_table_for_its_own(inside: None) -> None:
    PolicyRules("n1").agree(BUSY[0].inventory())
    assert nftables.read(Family) == {}
    assert set(POLICY_TABLES) == {TABLE}
