"""What the loop of a resident tells, and whom."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator

import pytest

from netlab.residents.loop import Loop

Pipe = Callable[[], int]


@pytest.fixture
def readable() -> Iterator[Pipe]:
    """Make descriptors with something to read; all are closed in the end."""
    opened: list[int] = []

    def made() -> int:
        reading, writing = os.pipe()
        os.write(writing, b"x")
        opened.extend((reading, writing))
        return reading

    yield made
    for fd in set(opened):
        os.close(fd)


def test_who_gets_the_number_of_one_that_was_closed_is_not_told_of_its_events(
    readable: Pipe,
) -> None:
    """The first to be told closes the other, and a new one, of which nothing is known, has its
    number."""
    loop, told = Loop(), []
    pair = [readable(), readable()]
    empty, silent = os.pipe()
    try:
        for fd in pair:

            def closes(_: int, this: int = fd) -> None:
                (other,) = {*pair} - {this}
                told.append("first")
                loop.forget(other)
                os.dup2(empty, other)
                loop.watch(other, lambda _: told.append("new"), select.EPOLLIN)

            loop.watch(fd, closes, select.EPOLLIN)
        loop.turn(loop.now() + 5)
        assert told == ["first"]
    finally:
        os.close(empty)
        os.close(silent)


def test_who_is_watched_anew_is_told_by_the_next_turn(readable: Pipe) -> None:
    loop, told = Loop(), []
    pair = [readable(), readable()]
    for fd in pair:

        def rewatches(_: int, this: int = fd) -> None:
            (other,) = {*pair} - {this}
            told.append("first")
            loop.forget(this)
            loop.rewatch(other, lambda _: told.append("anew"), select.EPOLLIN)

        loop.watch(fd, rewatches, select.EPOLLIN)
    loop.turn(loop.now() + 5)
    loop.turn(loop.now() + 5)
    assert told == ["first", "anew"]
