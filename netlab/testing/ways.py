"""A traced conversation, to be asserted about.

A failing `assert` shows its one-line repr; the plugin puts the hop list below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from netlab.journeys import End, Fate, Journey, Place, Rewrite, RewriteKind, Rule, Seen, Track
from netlab.packets import Flow, Leg
from netlab.testing.tracing import Traced

if TYPE_CHECKING:
    from netlab.testing.machines import Machine

REPR_MAX = 200  # characters; pytest shortens what has more than 240


class Trace:
    """One conversation, packet by packet; true when it was answered.

    `journey` is all that was seen (netlab.journeys.Journey); the methods ask the usual of it.
    """

    def __init__(self, found: Traced, *, number: int = 1) -> None:
        self.journey: Journey = found.journey
        self.number = number
        self._asked = found.asked
        self._lines = found.lines

    def __bool__(self) -> bool:
        return self.journey.answered

    def lines(self) -> list[str]:
        """Return the hop list, as `netlab trace` prints it."""
        return list(self._lines)

    def __repr__(self) -> str:
        words = f"trace {self.number}: {self.journey.source} -> {self._asked}, {self.outcome}"
        return f"<{words}>" if len(words) < REPR_MAX else f"<{words[:REPR_MAX]}…>"

    def __str__(self) -> str:
        return "\n".join(self._lines)

    @property
    def outcome(self) -> str:
        """`answered by default/web-1`, `refused: …`, `dropped at node1: by rule …`."""
        journey = self.journey
        if journey.answered:
            says = journey.says
            by = f"{says.get('namespace', 'default')}/{says['pod']}" if says.get("pod") else ""
            return f"answered by {by or journey.endpoint or journey.destination}"
        end = self.end
        if end is not None and end.fate is not Fate.DELIVERED:
            why = self.dropped_by or end.words
            return f"{end.fate} at {end.place}{f': {why}' if why else ''}"
        return f"refused: {journey.refused}" if journey.refused else "not answered"

    @property
    def end(self) -> End | None:
        """Where the last packet's way ended that went wrong, else the first request's."""
        found = [step for track in self.journey.tracks for step in _ends(track)]
        return next((e for e in reversed(found) if e.fate is not Fate.DELIVERED), None) or next(
            iter(found), None
        )

    @property
    def dropped(self) -> bool:
        """Whether a packet was dropped or refused on its way, or lost."""
        return self.end is not None and self.end.fate is not Fate.DELIVERED

    @property
    def dropped_by(self) -> str:
        """The rule that dropped or refused a packet, in its tool's words; "" when none did."""
        words = (
            rule.hit.rule or f"policy of {rule.hit.table} {rule.hit.chain}"
            for rule in reversed(self.rules)
            if rule.hit.verdict.endswith("drop")
        )
        return next(words, "") if self.dropped else ""

    @property
    def hops(self) -> tuple[str, ...]:
        """Where its first request was seen: `default/a:eth0`, `n1:docker0`, …"""
        seen = [_hop(step) for track in self._tracks(Leg.REQUEST)[:1] for step in track.sightings]
        return tuple(dict.fromkeys(seen))

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """Each change of addresses or ports on the way, in order, of all packets."""
        return tuple(step for step in self._steps() if isinstance(step, Rewrite))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Each rule that its packets fitted, in order."""
        return tuple(step for step in self._steps() if isinstance(step, Rule) and step.fitted)

    def reaches(self, who: str | Machine) -> bool:
        """Whether a request was delivered to *who*: `default/web-1`, `web-1`, `n1`, `client`."""
        ends = [end for track in self._tracks(Leg.REQUEST) for end in _ends(track)]
        return any(end.fate is Fate.DELIVERED and _is(end.place, str(who)) for end in ends)

    def passes(self, hop: str, *, leg: str = "") -> bool:
        """Whether a packet was seen at *hop*: a place `n1`, or a device there, `n1:docker0`.

        *leg*: `request` or `reply`, both without.
        """
        return bool(self.seen(hop, leg=leg))

    def seen(self, hop: str, *, leg: str = "") -> tuple[Seen, ...]:
        """Return each sighting at *hop*, as `passes` has it; `outer` is the envelope it was in."""
        who, _, device = hop.partition(":")
        tracks = self._tracks(Leg(leg)) if leg else list(self.journey.tracks)
        return tuple(
            step
            for track in tracks
            for step in track.sightings
            if _is(step.place, who) and device in ("", step.device) and not step.foreign
        )

    def rewritten(
        self,
        kind: str = "",
        *,
        source: str = "",
        destination: str = "",
        at: str = "",
    ) -> bool:
        """Whether addresses were changed so: *kind* `dnat`, `snat`, `un-dnat` or `un-snat`, *at* a
        place, to a new *source* or *destination*: an address, or `ADDRESS:PORT`."""
        wanted = RewriteKind(kind) if kind else None
        return any(
            wanted in (None, one.kind)
            and (not at or _is(one.place, at))
            and _end_is(one.after, source, sending=True)
            and _end_is(one.after, destination, sending=False)
            for one in self.rewrites
        )

    def rules_named(self, word: str) -> tuple[Rule, ...]:
        """Return the rules its packets fitted with *word* in them: in the chain's name, in where
        they lead (`KUBE-SVC-`), or in their text."""
        return tuple(
            rule
            for rule in self.rules
            if word in f"{rule.hit.table} {rule.hit.chain} {rule.hit.verdict} {rule.hit.rule}"
        )

    def _steps(self) -> Iterator[object]:
        for track in self.journey.tracks:
            yield from track.steps

    def _tracks(self, leg: Leg) -> list[Track]:
        return [track for track in self.journey.tracks if track.leg is leg]


def _ends(track: Track) -> list[End]:
    return [step for step in track.steps if isinstance(step, End)]


def _hop(step: Seen) -> str:
    return f"{step.place.name}:{step.device}"


def _is(place: Place, who: str) -> bool:
    """Return whether *who* means *place*: a pod of namespace default may be said without it."""
    name = who.removeprefix("node/").removeprefix("pod/")
    return place.name in (name, f"default/{name}")


def _end_is(flow: Flow, wanted: str, *, sending: bool) -> bool:
    """Return whether an end of *flow* is *wanted*, `ADDRESS` or `ADDRESS:PORT`; "" fits all."""
    address, port = (
        (flow.source, flow.source_port) if sending else (flow.destination, flow.destination_port)
    )
    return wanted in ("", address, f"{address}:{port}")
