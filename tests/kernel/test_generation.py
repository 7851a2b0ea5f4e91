"""Whose commits they were: ours and others', counted by the real nftables."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from netlab.kernel import netns
from netlab.kernel.generation import generation, here
from netlab.processes import run

pytestmark = pytest.mark.kernel


@pytest.fixture
def inside() -> Iterator[str]:
    """A namespace; the test's thread is in it."""
    name = f"nltest-{os.getpid()}-commits"
    netns.create(name)
    try:
        with netns.entered(name):
            yield name
    finally:
        netns.delete(name)


def commit(*tables: str) -> None:
    for table in tables:
        run(["nft", "-f", "-"], input=f"add table ip {table}\n")


def test_our_own_commits_change_nothing(inside: str) -> None:
    start = generation()
    with here().ours(expected=1):
        commit("a")
    with here().ours(expected=2):
        commit("b", "c")
    assert generation() == start + 3
    assert here().unchanged(start)
    assert here().unchanged(start + 2)
    assert not here().unchanged(start - 1)
    assert not here().unchanged(start + 4)


def test_a_commit_of_others_is_noticed_before_between_and_after_ours(inside: str) -> None:
    start = generation()
    commit("other1")
    with here().ours(expected=1):
        commit("a")
    assert not here().unchanged(start)
    assert here().unchanged(start + 1)
    commit("other2")
    assert not here().unchanged(start + 1)
    assert here().unchanged(start + 3)
    with here().ours(expected=1):
        commit("b")
    assert not here().unchanged(start + 2)
    assert here().unchanged(start + 3)


def test_a_commit_of_others_beside_ours_makes_both_theirs(inside: str) -> None:
    start = generation()
    with here().ours(expected=1):
        commit("a", "other")
    assert not here().unchanged(start)
    assert here().unchanged(start + 2)


def test_a_failed_writer_owns_nothing(inside: str) -> None:
    start = generation()
    with pytest.raises(RuntimeError), here().ours(expected=1):
        commit("a")
        raise RuntimeError
    assert not here().unchanged(start)
    with here().ours(expected=1):  # the turn was given back
        commit("b")


def test_whoever_asks_waits_for_the_writer(inside: str) -> None:
    start = generation()
    answers: list[bool] = []

    def ask() -> None:
        with netns.entered(inside):
            answers.append(here().unchanged(start))

    asking = threading.Thread(target=ask)
    with here().ours(expected=2):
        commit("a")
        asking.start()
        asking.join(0.2)
        assert answers == []
        commit("b")
    asking.join()
    assert answers == [True]


def test_each_namespace_has_its_own_numbers(inside: str) -> None:
    mine = here()
    other = f"{inside}-2"
    netns.create(other)
    try:
        with netns.entered(other):
            assert here() is not mine
            assert here() is here()
    finally:
        netns.delete(other)
    assert here() is mine
