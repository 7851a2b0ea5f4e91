"""The clocks of several machines, brought to one by a conversation that both sides of a wire saw.

No packet arrives before it was sent: each crossing of the wire in one direction says by how much
the other clock is ahead at most, each in the other at least. The middle is taken, as NTP takes
it of its own packets (RFC 5905, section 8): so the order is kept in which one conversation crossed
the machines, which is all that counts here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from msgspec.structs import replace

from netlab.packets import Expectation, Hop, Leg, Sighting
from netlab.paths.comparison import leg_in


def reconciled(
    expectation: Expectation, sightings: Sequence[Sighting], machine: Callable[[str], str]
) -> list[Sighting]:
    """Return *sightings* by the clock of the machine that the flow begins on, in order of time.

    *machine*: where a namespace is. Where the answer was not seen on both sides of a wire, the
    request is taken to have been no time on it.
    """

    def seen(hop: Hop, leg: Leg) -> dict[bytes, int]:
        """When each packet was seen there first: one that was lost on the wire is sent again."""
        found: dict[bytes, int] = {}
        for one in sightings:
            if one.where == hop.where and leg_in(expectation, one) is leg:
                found[one.content] = min(one.time, found.get(one.content, one.time))
        return found

    off = {machine(hop.netns): 0 for hop in expectation.request[:1]}
    for out, into in pairwise(expectation.request):
        here, there = machine(out.netns), machine(into.netns)
        if there in off:
            continue
        most, least = list[int](), list[int]()  # by how much that clock may be ahead
        for leg, way in ((Leg.REQUEST, expectation.request), (Leg.REPLY, expectation.reply)):
            for left, came in pairwise(way):
                ends = machine(left.netns), machine(came.netns)
                if ends not in ((here, there), (there, here)):
                    continue
                at, then = seen(left, leg), seen(came, leg)
                took = [then[one] - at[one] for one in at if one in then]
                if ends == (here, there):
                    most += took
                else:
                    least += [-one for one in took]
        off[there] = off.get(here, 0) + _apart(most, least)
    moved = [replace(one, time=one.time - off.get(machine(one.netns), 0)) for one in sightings]
    return sorted(moved, key=lambda one: one.time)


def ahead(crossings: Mapping[tuple[str, str], Sequence[int]]) -> dict[str, int]:
    """Return by how many ns the clock of each machine is ahead of that of "", the one we are on.

    *crossings*: from one machine to another, by how much more the other's clock showed when a
    packet came than the one's when it left. Machines that nothing leads to are left out.
    """
    found, before = {"": 0}, 0
    while len(found) != before:
        before = len(found)
        for here, there in crossings:
            for known, other in ((here, there), (there, here)):
                if known in found and other not in found:
                    most = crossings.get((known, other), ())
                    least = [-one for one in crossings.get((other, known), ())]
                    found[other] = found[known] + _apart(most, least)
    return found


def _apart(most: Sequence[int], least: Sequence[int]) -> int:
    """Return by how much a clock is ahead: at most, and at least, by each of these."""
    if most and least:
        return (min(most) + max(least)) // 2
    return min(most) if most else max(least, default=0)
