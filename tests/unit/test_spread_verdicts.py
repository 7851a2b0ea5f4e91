"""One verdict on a path from those of several machines."""

from __future__ import annotations

import pytest

from netlab.packets import Outcome, Verdict
from netlab.verify.spread import together

PASS, FAIL, SKIP = Outcome.PASS, Outcome.FAIL, Outcome.SKIP


def found(outcome: Outcome, node: str) -> Verdict:
    where = f"lab.{node} eth1 out" if outcome is FAIL else ""
    return Verdict("pod-node", outcome, "pods and nodes", (f"seen by {node}",), where, seconds=1.0)


@pytest.mark.parametrize(
    ("outcomes", "whole", "told"),
    [
        ((PASS, PASS), PASS, ("a: seen by a", "b: seen by b")),
        ((PASS, FAIL), FAIL, ("b: seen by b",)),
        ((FAIL, SKIP), FAIL, ("a: seen by a",)),
        ((SKIP, PASS), PASS, ("a: seen by a", "b: seen by b")),
        ((SKIP, SKIP), SKIP, ("a: seen by a", "b: seen by b")),
    ],
)
def test_it_fails_where_one_failed_and_is_skipped_where_all_were(
    outcomes: tuple[Outcome, Outcome], whole: Outcome, told: tuple[str, ...]
) -> None:
    by_node = {node: found(one, node) for node, one in zip("ab", outcomes, strict=True)}
    verdict = together(by_node)
    assert (verdict.outcome, verdict.evidence) == (whole, told)
    assert verdict.seconds == 2.0
    where = {node: one.last_seen for node, one in by_node.items() if one.outcome is FAIL}
    assert verdict.last_seen == next(iter(where.values()), "")
