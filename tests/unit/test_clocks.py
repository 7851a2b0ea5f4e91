"""Sightings of several machines, whose clocks differ, in the order in which they happened."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from netlab.packets import Direction, Expectation, Flow, Hop, Protocol, Sighting
from netlab.paths.clocks import reconciled

REQUEST = Flow("10.244.1.2", "10.244.2.2", Protocol.UDP, 4001, 80)
OUT, IN = Direction.OUT, Direction.IN
WIRE, STEP = 30_000, 4_000  # ns
# Over b to c, and one that comes back to a: what a node sends on to a pod of who asked.
STRAIGHT = [("a.x", OUT), ("a", IN), ("a", OUT), ("b", IN), ("b", OUT), ("c", IN)]
AND_BACK = [("a", OUT), ("b", IN), ("b", OUT), ("a", IN), ("a.x", IN)]


def machine(netns: str) -> str:
    return netns.split(".")[1]


def hops(places: Sequence[tuple[str, Direction]], flow: Flow) -> tuple[Hop, ...]:
    return tuple(
        Hop(f"lab.{netns}", "eth0", direction, flow.source, flow.destination)
        for netns, direction in places
    )


def turned(places: Sequence[tuple[str, Direction]]) -> list[tuple[str, Direction]]:
    return [(netns, IN if way is OUT else OUT) for netns, way in reversed(places)]


def expected(places: Sequence[tuple[str, Direction]]) -> Expectation:
    return Expectation(REQUEST, hops(places, REQUEST), hops(turned(places), REQUEST.reply))


def conversation(expectation: Expectation, *, answered: bool = True) -> list[Sighting]:
    """What is seen of it, by one true clock: from machine to machine it takes WIRE, else STEP."""
    found, at, before = [], 0, "a"
    legs = [(expectation.request, REQUEST)]
    legs += [(expectation.reply, REQUEST.reply)] if answered else []
    for way, flow in legs:
        for hop in way:
            at += WIRE if machine(hop.netns) != before else STEP
            before = machine(hop.netns)
            found.append(Sighting(at, hop.netns, "eth0", hop.direction, flow, 64, 60))
    return found


def wrong(sightings: list[Sighting], ahead: dict[str, int]) -> list[Sighting]:
    """Return them as clocks that are *ahead* by so many ns tell them, machine after machine."""
    told = [replace(one, time=one.time + ahead[machine(one.netns)]) for one in sightings]
    return sorted(told, key=lambda one: (machine(one.netns), one.time))


@pytest.mark.parametrize("places", [STRAIGHT, AND_BACK], ids=["straight", "and back"])
@pytest.mark.parametrize("ahead", [0, 1_000_000_000, -1_000_000_000, 86_400_000_000_000])
def test_an_answered_conversation_is_in_order_whatever_the_clocks_say(
    places: list[tuple[str, Direction]], ahead: int
) -> None:
    expectation = expected(places)
    true = conversation(expectation)
    told = wrong(true, {"a": 0, "b": ahead, "c": -2 * ahead})
    assert reconciled(expectation, told, machine) == true


def test_a_packet_that_was_lost_on_the_wire_and_sent_again_misleads_nobody() -> None:
    expectation = expected(STRAIGHT)
    true = [replace(one, content=b"again") for one in conversation(expectation)]
    sent_first = [replace(one, time=one.time - 10**9, content=b"first") for one in true[:3]]
    told = wrong([*sent_first, *true], {"a": 0, "b": 777, "c": -(10**9)})
    assert reconciled(expectation, told, machine) == [*sent_first, *true]


def test_without_an_answer_the_wire_takes_no_time() -> None:
    expectation = expected(STRAIGHT)
    true = conversation(expectation, answered=False)
    told = wrong(true, {"a": 0, "b": 777, "c": -(10**9)})
    found = reconciled(expectation, told, machine)
    assert [one.where for one in found] == [one.where for one in true]
    assert found[-1].time == true[-1].time - 2 * WIRE


def test_who_saw_nothing_of_it_is_left_as_it_is() -> None:
    expectation = expected(STRAIGHT)
    here = conversation(expectation)[:3]
    stranger = Sighting(1, "lab.d", "eth0", IN, REQUEST, 64, 60)
    assert reconciled(expectation, [*here, stranger], machine) == [stranger, *here]
    assert reconciled(Expectation(REQUEST, (), ()), [stranger], machine) == [stranger]
