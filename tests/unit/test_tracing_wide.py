"""What several machines saw of one conversation, brought together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from netlab import paths
from netlab.cluster import NodeState
from netlab.journeys import Cause, End, Fate, Journey, Kind, Place, Seen, Track
from netlab.model.lab import LabNode
from netlab.packets import Direction, Flow, Leg, Outer, Protocol, Sighting
from netlab.paths.clocks import ahead
from netlab.telling.selecting import Caught
from netlab.tracing.asking import Destination
from netlab.tracing.lent import fitting
from netlab.tracing.part import HEADERS, Case, merged, without_payload
from netlab.tracing.wide import crossings

REQUEST = Flow("10.244.1.2", "10.244.2.2", Protocol.TCP, 4000, 80)
OUTER = Outer("192.168.56.11", "192.168.56.12", 1, 5000, 8472)
CARDS = {"lab.node1": "eth1", "lab.node2": "eth1"}


def machine(netns: str) -> str:
    return "" if netns.split(".")[1] == "node1" else netns.split(".")[1]


@pytest.mark.parametrize(
    ("crossed", "told"),
    [
        ({}, {"": 0}),
        # It took 100 ns there and back, and that clock is 5,000 ahead.
        ({("", "b"): [5100], ("b", ""): [-4900]}, {"": 0, "b": 5000}),
        # The quickest packets tell most.
        ({("", "b"): [5900, 5100], ("b", ""): [-4900, -4000]}, {"": 0, "b": 5000}),
        # One way alone: as if it took no time.
        ({("", "b"): [700, 500]}, {"": 0, "b": 500}),
        ({("b", ""): [-700, -500]}, {"": 0, "b": 700}),
        # By the way of another machine.
        (
            {("", "b"): [1100], ("b", ""): [-900], ("b", "c"): [-2900], ("c", "b"): [3100]},
            {"": 0, "b": 1000, "c": -2000},
        ),
        # Nothing leads there from here.
        ({("b", "c"): [10], ("c", "b"): [10]}, {"": 0}),
    ],
)
def test_by_how_much_a_clock_is_ahead(
    crossed: Mapping[tuple[str, str], Sequence[int]], told: Mapping[str, int]
) -> None:
    assert ahead(crossed) == told


def caught(
    netns: str, device: str, direction: Direction, time: int, number: int = 7, **more: object
) -> Caught:
    content = bytes([number]) * 40
    flow, outer = more.get("flow", REQUEST), more.get("outer", OUTER)
    assert isinstance(flow, Flow) and (outer is None or isinstance(outer, Outer))
    seen = Sighting(
        *(time, netns, device, direction, flow, 64, 40), outer=outer, ip_id=number, content=content
    )
    return Caught(seen, content, 1500)


def test_what_leaves_one_card_and_comes_to_another_tells_of_their_clocks() -> None:
    seen = [
        caught("lab.node1", "eth1", Direction.OUT, 1000),
        caught("lab.node2", "eth1", Direction.IN, 6100),
        caught("lab.node2", "flannel.1", Direction.IN, 6200, outer=None),  # no card
        caught("lab.node1", "eth1", Direction.OUT, 2000, 8),  # it came nowhere
        caught("lab.node2", "eth1", Direction.IN, 9000, 9),  # nobody saw it leave
        caught("lab.node2", "eth1", Direction.OUT, 7000, 10, flow=REQUEST.reply),
        caught("lab.node1", "eth1", Direction.IN, 2100, 10, flow=REQUEST.reply),
    ]
    found = crossings(seen, machine, CARDS)
    assert found == {("", "node2"): [5100], ("node2", ""): [-4900]}
    assert ahead(found) == {"": 0, "node2": 5000}


def cause(what: str) -> Cause:
    return Cause(Kind.ROUTE, Place("lab.node1", "node", "node1"), what)


def test_of_each_stage_what_the_machines_found_is_joined() -> None:
    a, b, c, d = map(cause, "abcd")
    assert merged([[[a], [], [b]]]) == [[a], [], [b]]
    assert merged([[[a], [], [b]], [[], [c], [d]]]) == [[a], [c], [b, d]]
    assert merged([[[a]], [[], [b]]]) == [[a], [b]]  # another version may know of more stages


def test_a_case_is_the_same_behind_its_way_to_another_machine() -> None:
    place = Place("lab.node1", "node", "node1")
    seen = Seen(place, 5, "eth1", Direction.OUT, REQUEST, 64, 900, outer=OUTER, frame=bytes(900))
    steps = (seen, End(place, Fate.LOST))
    journey = Journey("a", "b", REQUEST, (Track("SYN", Leg.REQUEST, REQUEST, steps),))
    node = NodeState(LabNode("node1", "192.168.56.11"), "lab.node1")
    goal = Destination(paths.Place("10.244.2.2"), "b", 80, Protocol.TCP, {"kind": "Service"})
    sent = paths.Place("192.168.56.11", "lab.node1", node=node)
    case = Case(sent, goal, REQUEST, without_payload(journey), ("NO_SOCKET",))
    told = msgspec.json.encode(msgspec.to_builtins(case))
    assert msgspec.json.decode(told, type=Case) == case
    assert len(case.journey.tracks[0].sightings[0].frame) == HEADERS


def test_an_answer_holds_what_fits_into_it() -> None:
    assert fitting(["aaa", "bbb", "ccc"], room=10) == ["aaa", "bbb"]
    assert fitting([], room=10) == []
