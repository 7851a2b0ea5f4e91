"""What devices and rules saw of one packet, in one order.

Devices have a time, the kernel's traces of rules have none, but both come in order. So each pass
through a base chain is put where the kernel makes it: `prerouting` behind the device the packet
came in by, `postrouting` before the one it goes out by, and none before the one before.
br_netfilter calls the hooks of IP for what a bridge's port takes in, before the bridge device shows
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netlab.packets import Direction, Passing
from netlab.telling.naming import Names
from netlab.telling.selecting import Caught, envelope_of

Wraps = Callable[[Passing], bool]  # whether it is the pass of an envelope


def merged(
    packet: Sequence[Caught], passings: Sequence[Passing], names: Names, wraps: Wraps
) -> list[Caught | Passing]:
    """Return the views of one packet in their order: see the goals above."""
    behind: dict[int, list[Passing]] = {}  # by the number of the sighting they come behind
    before: dict[int, list[Passing]] = {}
    alone: list[Passing] = []
    for netns in dict.fromkeys(one.netns for one in passings):
        here = [(number, one) for number, one in enumerate(packet) if one.sighting.netns == netns]
        at = -1  # in `here`: the sighting that the pass before came behind
        for passing in (one for one in passings if one.netns == netns):
            if wraps(passing):
                at = max(at, _wrapped_position(here, passing))
            else:
                at = _position(here, passing, at, bridge=names.bridge(netns))
            if at >= 0:
                behind.setdefault(here[at][0], []).append(passing)
            elif here:
                before.setdefault(here[0][0], []).append(passing)
            else:
                alone.append(passing)
    merged: list[Caught | Passing] = []
    for number, one in enumerate(packet):
        merged += [*before.get(number, ()), one, *behind.get(number, ())]
    return merged + alone


def _wrapped_position(here: Sequence[tuple[int, Caught]], passing: Passing) -> int:
    """Return the place in *here* of the sighting that the pass of an envelope comes behind: the
    envelope's own as it came in, or the packet's before it was put in."""
    for place, (_, one) in enumerate(here):
        if envelope_of(one.sighting) == passing.flow:
            return place - (one.sighting.direction is Direction.OUT)
    return len(here) - 1


def _position(here: Sequence[tuple[int, Caught]], passing: Passing, at: int, *, bridge: str) -> int:
    """Return the place in *here* of the sighting that *passing* comes behind, not before *at*;
    -1: it comes before all of them."""
    if passing.hook == "output":
        return at
    for place in range(max(at, 0), len(here)):
        one = here[place][1].sighting
        if passing.hook == "postrouting":
            if one.direction is Direction.OUT and place > at:
                return place - 1
            continue
        if one.direction is not Direction.IN or one.outer:
            continue
        if passing.hook == "prerouting":
            if one.device == passing.incoming or bridge == passing.incoming:
                return place if not (one.device == bridge and place > 0) else place - 1
        elif one.device == passing.incoming:
            return place
        elif passing.incoming == bridge:
            behind = here[place + 1][1].sighting if place + 1 < len(here) else None
            if behind is None or behind.device != bridge:
                return place  # it is only switched, so the bridge device does not show it
            if behind.direction is Direction.OUT:
                return place + 1  # DNAT to behind the same bridge, by a new neighbour entry
    return at
