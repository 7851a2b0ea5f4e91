"""A journey as a mermaid sequence diagram: who passes the packet to whom, what happens where.

A participant is a namespace. Between two of them an arrow says on which devices the packet was
seen; what a namespace does with it in between is an arrow to itself or a note.
"""

from __future__ import annotations

from collections.abc import Iterator

from netlab.journeys import End, Envelope, Fate, Journey, NextHop, Place, Rewrite, Rule, Seen, Track
from netlab.packets import Flow
from netlab.picture.mermaid import escaped
from netlab.picture.steps import duration, ends, envelope_words, rewrite_title
from netlab.picture.text import count, plain
from netlab.telling.text import shown, without_comment

RULE_MAX = 90  # characters of a rule; a note is as wide as its longest word


def mermaid(journey: Journey) -> str:
    """Return *journey* as the text of a sequence diagram."""
    return "\n".join(_lines(journey)) + "\n"


def _lines(journey: Journey) -> Iterator[str]:
    end = journey.service or journey.destination
    yield "sequenceDiagram"
    yield f"  %% {plain(f'{journey.source} to {end}: {journey.flow}')}"
    places = list(dict.fromkeys(step.place for track in journey.tracks for step in track.steps))
    names = {place: f"p{number}" for number, place in enumerate(places)}
    for place, name in names.items():
        yield f"  participant {name} as {escaped(str(place))}"
    for track in journey.tracks:
        yield from _of_track(journey, track, names)


def _of_track(journey: Journey, track: Track, names: dict[Place, str]) -> Iterator[str]:
    """Yield one packet: whole, or as a note when it went as an earlier one."""
    events = track.steps
    if not events:
        return
    first, last = names[events[0].place], names[events[-1].place]
    over = first if first == last else f"{first},{last}"
    if track.same_as >= 0:
        earlier = journey.tracks[track.same_as].name
        words = f"{track.name} ({track.leg}): the way of {earlier} once more"
        seen = f"{count(len(track.sightings), 'device')} in {duration(track.nanoseconds)}"
        yield f"  Note over {over}: {escaped(f'{words}, {seen}')}"
        return
    yield f"  Note over {over}: {escaped(f'{track.name} ({track.leg})')}"
    before: Seen | None = None
    for event in shown(events):
        me = names[event.place]
        if isinstance(event, Seen):
            if before is not None:
                yield _arrow(before, event, names)
            before = event
        elif isinstance(event, End):
            mark = "-x" if event.fate is Fate.DROPPED else "->>"
            yield f"  {me}{mark}{me}: {escaped(f'{event.fate} {event.words}'.strip())}"
        elif not isinstance(event, Rule) or event.fitted:
            yield f"  Note over {me}: {'<br/>'.join(map(escaped, _note(event)))}"


def _arrow(one: Seen, other: Seen, names: dict[Place, str]) -> str:
    """Return the packet's step from a device to the next; between two places with its ends."""
    lines = [f"{one.device} → {other.device}"]
    if one.place != other.place:
        inside = f" in {other.outer.title}" if other.outer else ""
        lines.append(" → ".join(ends(other.flow)) + inside)
    words = "<br/>".join(map(escaped, lines))
    return f"  {names[one.place]}->>{names[other.place]}: {words}"


def _note(event: Rule | Rewrite | NextHop | Envelope) -> list[str]:
    if isinstance(event, Rule):
        rule = without_comment(event.hit.rule) or event.hit.verdict
        short = rule if len(rule) <= RULE_MAX else f"{rule[: RULE_MAX - 1]}…"
        return [f"{event.hit.table} {event.hit.chain}", *filter(None, [event.means]), short]
    if isinstance(event, NextHop):
        return event.words.split("; ")
    if isinstance(event, Envelope):
        outer = event.outer
        return [envelope_words(event), f"{outer.source} → {outer.destination}"]
    return [rewrite_title(event), _changed(event.before, event.after), *filter(None, [event.means])]


def _changed(before: Flow, after: Flow) -> str:
    """Return what of a flow's ends is another: `10.96.0.10:80 → 10.244.2.2:8080`."""
    pairs = zip(ends(before), ends(after), strict=True)
    return ", ".join(f"{was} → {is_}" for was, is_ in pairs if was != is_)
