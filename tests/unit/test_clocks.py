"""Sightings of several machines, whose clocks differ, in the order in which they happened."""

from __future__ import annotations

import pytest

from netlab.packets import Direction, Flow, Leg, Protocol, Sighting
from netlab.paths.clocks import reconciled

REQUEST = Flow("10.244.1.2", "10.244.2.2", Protocol.UDP, 4001, 80)
WIRE = 30_000  # ns


def machine(netns: str) -> str:
    return netns.split(".")[1]


def leg(sighting: Sighting) -> Leg | None:
    return Leg.REQUEST if sighting.flow == REQUEST else Leg.REPLY


def seen(where: str, at: int, flow: Flow = REQUEST) -> Sighting:
    return Sighting(at, f"lab.{where}", "eth0", Direction.OUT, flow, 64, 60)


def conversation(*, answered: bool = True) -> list[Sighting]:
    """A request over a, b and c, and its answer, by one true clock (ns)."""
    there = [("a.x", 0), ("a", 5), ("b", 5 + WIRE), ("b", 9 + WIRE), ("c", 9 + 2 * WIRE)]
    end = 9 + 2 * WIRE
    back = [
        ("c", 9),
        ("b", 9 + WIRE),
        ("b", 12 + WIRE),
        ("a", 12 + 2 * WIRE),
        ("a.x", 14 + 2 * WIRE),
    ]
    found = [seen(where, at) for where, at in there]
    return found + [seen(where, end + at, REQUEST.reply) for where, at in back if answered]


def wrong(sightings: list[Sighting], ahead: dict[str, int]) -> list[Sighting]:
    """Return them as clocks that are *ahead* by so many ns tell them, machine after machine."""
    told = [Sighting(one.time + ahead[machine(one.netns)], *list(_rest(one))) for one in sightings]
    return sorted(told, key=lambda one: (machine(one.netns), one.time))


def _rest(one: Sighting) -> list[object]:
    return [one.netns, one.device, one.direction, one.flow, one.ttl, one.length]


def order_of(sightings: list[Sighting]) -> list[tuple[str, Flow]]:
    return [(one.netns, one.flow) for one in sightings]


@pytest.mark.parametrize("ahead", [0, 1_000_000_000, -1_000_000_000, 86_400_000_000_000])
def test_an_answered_conversation_is_in_order_whatever_the_clocks_say(ahead: int) -> None:
    true = conversation()
    told = wrong(true, {"a": 0, "b": ahead, "c": -2 * ahead})
    found = reconciled(told, leg=leg, machine=machine, order=["a", "b", "c"])
    assert order_of(found) == order_of(true)
    assert [one.time for one in found] == [one.time for one in true]


def test_without_an_answer_the_wire_takes_no_time() -> None:
    told = wrong(conversation(answered=False), {"a": 0, "b": 777, "c": -(10**9)})
    found = reconciled(told, leg=leg, machine=machine, order=["a", "b", "c"])
    assert order_of(found) == order_of(conversation(answered=False))
    assert [one.time for one in found] == [0, 5, 5, 9, 9]


def test_who_saw_nothing_of_it_is_left_as_it_is() -> None:
    here = [seen("a", 5), seen("d", 3)]
    found = reconciled(here, leg=leg, machine=machine, order=["a", "b"])
    assert [one.time for one in found] == [3, 5]
    assert reconciled([], leg=leg, machine=machine, order=[]) == []
