"""The rules of a pass in the order met: those that fitted, and those that did not."""

from __future__ import annotations

import pytest
from watched import hit

from netlab.packets import RuleHit
from netlab.telling import chains

LISTED = {
    "BASE": {1: "to a", 2: "to b", 3: "mark", 4: "to c", 5: "last"},
    "a": {6: "a1", 7: "a2"},
    "b": {8: "b1", 9: "b2", 10: "b3"},
    "c": {11: "c1", 12: "c2"},
}


def met(*hits: tuple[str, int, str]) -> list[str]:
    """Return the rules met, `+` before those that fitted. *hits*: chain, handle, verdict."""
    seen = [hit(f"{chain}: rule -> {verdict}", handle=handle) for chain, handle, verdict in hits]

    def listing(like: RuleHit, chain: str) -> dict[int, str]:
        assert like.table == "nat"
        return LISTED[chain]

    found = []
    for one, fitted in chains.met(seen, listing):
        assert fitted or not one.verdict
        text = LISTED[one.chain].get(one.handle, one.verdict) if fitted else one.rule
        found.append(f"{'+' if fitted else '-'} {one.chain} {text}")
    return found


CASES = {
    "only the policy": (
        [("BASE", 0, "policy accept")],
        "- BASE to a, - BASE to b, - BASE mark, - BASE to c, - BASE last, + BASE policy accept",
    ),
    "a chain in which none fitted": (
        [("BASE", 1, "jump a"), ("BASE", 5, "accept")],
        "+ BASE to a, - a a1, - a a2, - BASE to b, - BASE mark, - BASE to c, + BASE last",
    ),
    "a chain that one of fitted, and the rest of it": (
        [("BASE", 2, "jump b"), ("b", 9, "continue"), ("BASE", 5, "drop")],
        "- BASE to a, + BASE to b, - b b1, + b b2, - b b3, - BASE mark, - BASE to c, + BASE last",
    ),
    "a return leaves the rest out": (
        [("BASE", 2, "jump b"), ("b", 8, "return"), ("BASE", 3, "continue"), ("BASE", 5, "drop")],
        "- BASE to a, + BASE to b, + b b1, + BASE mark, - BASE to c, + BASE last",
    ),
    "an end leaves the rest out": (
        [("BASE", 1, "jump a"), ("a", 6, "accept")],
        "+ BASE to a, + a a1",
    ),
    "who goes does not come back": (
        [("BASE", 2, "goto b"), ("b", 9, "continue"), ("BASE", 0, "policy accept")],
        "- BASE to a, + BASE to b, - b b1, + b b2, - b b3, + BASE policy accept",
    ),
    "the same chain twice": (
        [("BASE", 1, "jump a"), ("a", 6, "return"), ("BASE", 4, "jump a"), ("a", 7, "accept")],
        "+ BASE to a, + a a1, - BASE to b, - BASE mark, + BASE to c, - a a1, + a a2",
    ),
    "a rule that is no longer listed": (
        [("BASE", 99, "continue"), ("BASE", 2, "accept")],
        "+ BASE continue, - BASE to a, + BASE to b",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rules_are_told_in_the_order_met(name: str) -> None:
    hits, expected = CASES[name]
    assert ", ".join(met(*hits)) == expected
