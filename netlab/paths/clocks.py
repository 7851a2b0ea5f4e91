"""The clocks of several machines, brought to one by a conversation that both sides of a wire saw.

A packet takes some time from one machine to the next, its answer about as long back. Half of what
the one seems to take more than the other is how far the clocks are apart: what NTP does with its
own packets (RFC 5905, section 8). It is all that is needed here, where the order counts in which
one conversation crossed the machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from msgspec.structs import replace

from netlab.packets import Leg, Sighting


def reconciled(
    sightings: Sequence[Sighting],
    *,
    leg: Callable[[Sighting], Leg | None],
    machine: Callable[[str], str],
    order: Sequence[str],
) -> list[Sighting]:
    """Return *sightings* by the clock of the first machine in *order*, in order of time.

    *leg*: which half of the conversation a sighting belongs to; *machine*: where a namespace is;
    *order*: the machines as the request crosses them. Where the answer was not seen on both sides,
    the request is taken to have been no time on the wire.
    """
    ahead = {order[0]: 0} if order else {}
    for before, after in pairwise(order):
        seen = {
            (where, half): [
                one.time for one in sightings if machine(one.netns) == where and leg(one) is half
            ]
            for where in (before, after)
            for half in Leg
        }
        ahead[after] = ahead[before] + _difference(
            seen[before, Leg.REQUEST],
            seen[after, Leg.REQUEST],
            seen[after, Leg.REPLY],
            seen[before, Leg.REPLY],
        )
    moved = [replace(one, time=one.time - ahead.get(machine(one.netns), 0)) for one in sightings]
    return sorted(moved, key=lambda one: one.time)


def _difference(
    sent: Sequence[int], came: Sequence[int], answered: Sequence[int], heard: Sequence[int]
) -> int:
    """Return by how many ns the clock of the machine that a request *came* to is ahead of that of
    the one it was *sent* by; 0 when it came to only one of them."""
    if not sent or not came:
        return 0
    there = min(came) - max(sent)
    return (there + max(answered) - min(heard)) // 2 if answered and heard else there
