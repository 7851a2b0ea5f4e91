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

from netlab.packets import Expectation, Hop, Leg, Sighting
from netlab.paths.comparison import leg_in


def reconciled(
    expectation: Expectation, sightings: Sequence[Sighting], machine: Callable[[str], str]
) -> list[Sighting]:
    """Return *sightings* by the clock of the machine that the flow begins on, in order of time.

    *machine*: where a namespace is. Where the answer was not seen on both sides of a wire, the
    request is taken to have been no time on it.
    """

    def seen(hop: Hop, leg: Leg) -> list[int]:
        return [
            one.time
            for one in sightings
            if one.where == hop.where and leg_in(expectation, one) is leg
        ]

    request, reply = expectation.request, expectation.reply
    ahead = {machine(request[0].netns): 0} if request else {}
    for out, into in pairwise(request):
        here, there = machine(out.netns), machine(into.netns)
        if there in ahead:
            continue
        ahead[there] = ahead.get(here, 0)
        sent, came = seen(out, Leg.REQUEST), seen(into, Leg.REQUEST)
        if not sent or not came:
            continue
        apart = min(came) - min(sent)
        for left, back in pairwise(reply):
            if (machine(left.netns), machine(back.netns)) == (there, here):
                answered, heard = seen(left, Leg.REPLY), seen(back, Leg.REPLY)
                if answered and heard:
                    apart = (min(came) - min(sent) + min(answered) - min(heard)) // 2
        ahead[there] += apart
    moved = [replace(one, time=one.time - ahead.get(machine(one.netns), 0)) for one in sightings]
    return sorted(moved, key=lambda one: one.time)
