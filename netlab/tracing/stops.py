"""Where a conversation ended: the first of its packets that did not arrive, and what was told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netlab.journeys import End, Fate, Journey, Place, Rewrite, Rule, Seen, Track
from netlab.packets import Flow, Leg, RuleHit
from netlab.telling.selecting import PASSED_ON


class Stop(NamedTuple):
    """A packet that did not arrive: its last sighting, and the rules it met after that."""

    track: Track
    end: End
    last: Seen | None
    hits: tuple[RuleHit, ...]
    flow: Flow  # as it was then
    visited: tuple[Place, ...]  # in their order

    @property
    def place(self) -> Place:
        return self.end.place

    @property
    def where(self) -> str:
        """`node1, behind docker0 in`."""
        if self.last is None:
            return f"{self.place}, before any device"
        return f"{self.place}, behind {self.last.device} {self.last.direction}"


def stop_of(journey: Journey) -> Stop | None:
    """Return the first packet of a conversation that did not arrive, None if all did."""
    for track in journey.tracks:
        end = next((step for step in reversed(track.steps) if isinstance(step, End)), None)
        if end is not None and end.fate is not Fate.DELIVERED:
            return stop(track, end)
    return None


def stop(track: Track, end: End) -> Stop:
    last: Seen | None = None
    hits: list[RuleHit] = []
    flow = track.flow
    places: dict[Place, None] = {}
    for step in track.steps:
        places[step.place] = None
        if isinstance(step, Seen):
            last, flow, hits = step, step.flow, []
        elif isinstance(step, Rule) and step.fitted:
            hits.append(step.hit)
        elif isinstance(step, Rewrite):
            flow = step.after
    return Stop(track, end, last, tuple(hits), flow, tuple(places))


def dropped_by(found: Stop) -> RuleHit | None:
    """Return the rule, or the policy, that let the packet go no further; None if none did."""
    if found.hits and found.hits[-1].verdict.endswith(("drop", "queue")):
        return found.hits[-1]
    return None


def errors(journey: Journey) -> Iterator[tuple[str, Seen]]:
    """Yield the ICMP errors about a conversation: each name and its first sighting."""
    for track in journey.tracks:
        first = next(iter(track.sightings), None)
        if first is not None and first.icmp and first.icmp not in PASSED_ON:
            yield first.icmp, first


def reset(journey: Journey) -> Seen | None:
    """Return the first sighting of a reset that answered the opening of a connection."""
    for track in journey.tracks:
        if track.leg is Leg.REPLY and "RST" in track.name.split():
            return next(iter(track.sightings), None)
    return None
