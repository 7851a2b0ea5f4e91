"""The rules of one pass through a base chain, with those that did not fit, in the order met.

The kernel tells which rules a packet fitted. Which it met besides follows from the listings: those
between two that it fitted in one chain; all of a chain that it was led to and in which none did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from netlab.packets import RuleHit

# The rules of a chain, by its name, of the table that a hit is in: handle to text, in their order
Listing = Callable[[RuleHit, str], Mapping[int, str]]


class _Visit:
    """A chain that the packet is in, and what is left of it."""

    def __init__(self, like: RuleHit, chain: str, listing: Listing) -> None:
        self.chain = chain
        self._like = replace(like, chain=chain, verdict="", handle=0)
        self._left = list(listing(like, chain).items())

    def before(self, handle: int) -> Iterator[RuleHit]:
        """Yield the rules before that one, which is then passed; all for 0."""
        numbers = [number for number, _ in self._left]
        if handle and handle not in numbers:
            return  # the chain was changed meanwhile
        end = numbers.index(handle) if handle else len(numbers)
        for _, text in self._left[:end]:
            yield replace(self._like, rule=text)
        self._left = self._left[end + 1 :]

    def leave(self) -> None:
        self._left = []


def met(hits: Sequence[RuleHit], listing: Listing) -> Iterator[tuple[RuleHit, bool]]:
    """Yield the rules of a pass, each with whether the packet fitted it. *hits*: those it did."""
    visits: list[_Visit] = []
    for hit in hits:
        while visits and visits[-1].chain != hit.chain:
            yield from ((one, False) for one in visits.pop().before(0))
        if not visits:
            visits.append(_Visit(hit, hit.chain, listing))
        yield from ((one, False) for one in visits[-1].before(hit.handle))
        yield hit, True
        how, _, target = hit.verdict.partition(" ")
        if how not in ("jump", "continue"):
            visits[-1].leave()
        if how in ("jump", "goto"):
            visits.append(_Visit(hit, target, listing))
