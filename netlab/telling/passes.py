"""Which passes through base chains are of which packet.

Sent again, a packet is the same to the rules: what one leaves, the next one takes. An envelope that
no device showed follows the packet that was put into it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence

from netlab.packets import Direction, Identity, Passing
from netlab.telling.order import Wraps
from netlab.telling.selecting import Caught, envelope_of

_Spot = tuple[str, str, str, str, str, bool]  # where a packet passes once
_Waiting = dict[Hashable, dict[_Spot, deque[int]]]  # numbers of passes, in their order
_NONE: Mapping[_Spot, deque[int]] = {}


class Passes:
    """The passes of a conversation, until a packet takes them."""

    def __init__(self, passings: Sequence[Passing], wraps: Wraps) -> None:
        self._passings = passings
        self._taken: set[int] = set()
        self._own: _Waiting = {}  # by the packet's identity
        self._wrapped: _Waiting = {}  # by the envelope's flow
        self._behind: _Waiting = {}  # of envelopes, by who passed before
        before: dict[str, Identity] = {}
        for number, one in enumerate(passings):
            spot = _spot(one, wrapped=wraps(one))
            if not wraps(one):
                before[one.netns] = one.identity
                _put(self._own, one.identity, spot, number)
                continue
            _put(self._wrapped, one.flow, spot, number)
            if one.netns in before and one.hook in ("output", "postrouting"):
                _put(self._behind, before[one.netns], spot, number)

    def take(self, packet: Sequence[Caught]) -> list[Passing]:
        """Return the passes of one packet, in their order: its own, and of the envelopes it was
        in; they are no other's then."""
        shown = {
            one.sighting.netns
            for one in packet
            if one.sighting.outer and one.sighting.direction is Direction.OUT
        }
        found: dict[_Spot, int] = {}
        for spot, number in self._waiting(packet, shown):
            found[spot] = min(number, found.get(spot, number))
        self._taken.update(found.values())
        return [self._passings[number] for number in sorted(found.values())]

    def _waiting(self, packet: Sequence[Caught], shown: set[str]) -> Iterator[tuple[_Spot, int]]:
        """Yield the first pass at each spot that may be *packet*'s. *shown*: the namespaces whose
        devices show it in an envelope."""
        known = {one.identity for one in packet}
        for one in known:
            yield from self._first(self._own.get(one, _NONE))
            behind = self._first(self._behind.get(one, _NONE))
            yield from ((spot, number) for spot, number in behind if spot[0] not in shown)
        for envelope in {envelope_of(one.sighting) for one in packet}:
            yield from self._first(self._wrapped.get(envelope, _NONE))

    def _first(self, spots: Mapping[_Spot, deque[int]]) -> Iterator[tuple[_Spot, int]]:
        for spot, numbers in spots.items():
            while numbers and numbers[0] in self._taken:
                numbers.popleft()
            if numbers:
                yield spot, numbers[0]

    def left(self) -> list[Passing]:
        """Return the passes that are of no packet."""
        every = enumerate(self._passings)
        return [one for number, one in every if number not in self._taken]


def _spot(one: Passing, *, wrapped: bool) -> _Spot:
    base = one.hits[0].base if one.hits else ""  # a table may have several at one hook
    return one.netns, one.hook, one.table, base, one.incoming + one.outgoing, wrapped


def _put(waiting: _Waiting, key: Hashable, spot: _Spot, number: int) -> None:
    waiting.setdefault(key, {}).setdefault(spot, deque()).append(number)
