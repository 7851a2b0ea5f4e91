"""Fair shares by χ²: against printed tables, and against shares that are not fair."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from netlab.verify.shares import P, flows_for, shares, tail

# Critical values as printed in every table: (degrees of freedom, probability, χ²).
TABLE = [
    (1, 0.05, 3.841),
    (1, 0.001, 10.828),
    (2, 0.001, 13.816),
    (3, 0.05, 7.815),
    (5, 0.001, 20.515),
    (10, 0.99, 2.558),
    (19, 0.01, 36.191),
    (30, 0.001, 59.703),
    (100, 0.05, 124.342),
]


@pytest.mark.parametrize(("freedom", "probability", "critical"), TABLE)
def test_the_tail_is_that_of_printed_tables(
    freedom: int, probability: float, critical: float
) -> None:
    assert tail(critical, freedom) == pytest.approx(probability, rel=2e-3)


def test_the_tail_of_one_endpoint_and_of_equal_shares_is_certain() -> None:
    assert tail(0.0, 5) == 1.0
    assert tail(7.0, 0) == 1.0


def test_a_very_large_statistic_is_no_error() -> None:
    assert tail(1e6, 3) == 0.0
    assert 0 <= tail(900.0, 999) <= 1


SIX = ["a", "b", "c", "d", "e", "f"]


def drawn(weights: dict[str, float], flows: int, *, seed: int) -> Counter[str]:
    source = random.Random(seed)
    return Counter(source.choices(list(weights), list(weights.values()), k=flows))


@pytest.mark.parametrize("seed", range(20))
def test_equal_chances_are_fair(seed: int) -> None:
    found = shares(drawn(dict.fromkeys(SIX, 1.0), 100, seed=seed), SIX)
    assert found.fair, str(found)


UNFAIR = {
    "one is left out": {**dict.fromkeys(SIX, 1.0), "f": 0.0},
    "the first a fifth as often": {**dict.fromkeys(SIX, 1.0), "a": 0.2},
    "rules without their probabilities": {"a": 1.0},
    "the first doubled": {**dict.fromkeys(SIX, 1.0), "a": 3.0},
    "somebody else as well": {**dict.fromkeys(SIX, 1.0), "z": 0.5},
}


@pytest.mark.parametrize("name", UNFAIR)
def test_other_chances_are_not(name: str) -> None:
    found = shares(drawn(UNFAIR[name], 400, seed=1), SIX)
    assert not found.fair, str(found)


def test_nobody_answering_is_not_fair() -> None:
    assert not shares({}, SIX).fair
    assert not shares({}, []).fair
    assert not shares({"a": 5}, ["a", "b"]).fair  # though chance might do it: p 0.025


def test_the_words_name_who_is_missing_and_who_is_not_meant() -> None:
    found = shares({"a": 50, "z": 3}, ["a", "b"])
    assert "never: b" in str(found) and "others: z" in str(found)
    assert "2 endpoints answered 0 to 50 of 50 flows" in str(found)


@pytest.mark.parametrize("endpoints", [1, 2, 6, 20, 100])
def test_enough_flows_are_asked_for_that_all_answer(endpoints: int) -> None:
    missed = endpoints * (1 - 1 / endpoints) ** flows_for(endpoints)
    assert missed < P * 1e-3
