"""What the two walkers through rules share: what comes of all the ways a packet may go."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from netlab.proxy import Outcome, Packet, Verdict


class Sent(Protocol):
    """A packet on its way, as both walkers know it."""

    @property
    def to(self) -> str:
        """What it was translated to; "": nothing."""

    @property
    def chance(self) -> float:
        """How often it comes this far."""


class Ways:
    """The rules of one node and family, of whichever mode."""

    def paths(
        self, packet: Packet, local: Collection[str], remembered: Collection[str] = ()
    ) -> Iterator[tuple[Verdict, Sent, bool]]:
        """Yield each way *packet* may go: the verdict, its state, whether it is masqueraded."""
        raise NotImplementedError

    def outcome(
        self, packet: Packet, *, local: Collection[str], remembered: Collection[str] = ()
    ) -> Outcome:
        """Return what becomes of *packet*; see `shares` for how often."""
        paths = list(self.paths(packet, local, remembered))
        verdicts = {verdict for verdict, _, _ in paths}
        assert len(verdicts) == 1, f"by chance {verdicts}"
        endpoints: dict[str, bool] = {}
        for _, state, masquerade in paths:
            if state.to:
                assert endpoints.setdefault(state.to, masquerade) is masquerade
        return Outcome(verdicts.pop(), endpoints)

    def shares(self, packet: Packet, local: Collection[str]) -> dict[str, float]:
        """Return how often *packet* goes to each endpoint."""
        found: dict[str, float] = {}
        for _, state, _ in self.paths(packet, local):
            found[state.to] = found.get(state.to, 0.0) + state.chance
        return found
