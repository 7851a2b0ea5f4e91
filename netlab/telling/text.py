"""A journey as lines for people: at most 100 columns, to be read on a projector.

SYN  10.244.1.2:40001 -> 10.96.0.10:80                                    12 hops in 96 µs
  pod default/pair on node1
     0 µs        eth0 out         10.244.1.2:40001 -> 10.96.0.10:80  ttl 64  mtu 1450
  node1
     5 µs     +5 veth3f1a90c2 in
             | nat KUBE-SERVICES: -d 10.96.0.10/32 … -j KUBE-SVC-ERIFXISQEP7F7OF4
             |   Service default/web:http
             DNAT: destination 10.96.0.10:80 => 10.244.3.2:80, conntrack 3914
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from netlab.journeys import (
    Diagnosis,
    End,
    Envelope,
    Fate,
    Journey,
    NextHop,
    Place,
    Rewrite,
    RewriteKind,
    Rule,
    Seen,
    Step,
    Track,
)
from netlab.packets import BARE, Flow, RuleHit

WIDTH = 100  # columns
GREEN, RED, YELLOW, CYAN, DIM, BOLD = "32", "31", "33", "36", "2", "1"  # ECMA-48 SGR
Paint = Callable[[str, str], str]  # a text and a colour to the text in that colour

REWRITES = {
    RewriteKind.DNAT: "DNAT",
    RewriteKind.SNAT: "masquerade",
    RewriteKind.UN_DNAT: "un-DNAT",
    RewriteKind.UN_SNAT: "un-masquerade",
}
FATES = {
    Fate.DELIVERED: GREEN,
    Fate.LEFT: GREEN,
    Fate.DROPPED: RED,
    Fate.REFUSED: RED,
    Fate.LOST: YELLOW,
}
_COMMENT = re.compile(r'-m comment --comment ("[^"]*"|\S+) ?|\s?\bcomment "([^"]*)"')
_AT = 17  # the column where what is on a device begins
_RULE = " " * _AT + "| "


def plain(text: str, _: str) -> str:
    """Return *text* as it is: without colours."""
    return text


def lines(
    journey: Journey, *, width: int = WIDTH, paint: Paint = plain, every: bool = False
) -> list[str]:
    """Return a journey: what became of it, then the first packet each way, and those that did not
    arrive, step by step; the others have a line each, unless *every* one is asked for."""
    found = heading(journey, width=width, paint=paint)
    brief = False
    by = ""
    for number, track in enumerate(journey.tracks):
        if track.by != by:
            by, brief = track.by, False
            found += ["", *folded(by, width=width, rest="    ", paint=paint, colour=BOLD)]
        if every or _is_told(journey.tracks, number):
            found += ["", *_track_lines(track, width=width, paint=paint)]
            brief = False
            continue
        if not brief:
            found.append("")
        brief = True
        way = f"{len(track.sightings)} hops"
        if track.same_as >= 0:
            way = f"the same way as {journey.tracks[track.same_as].name}"
        words = f"{track.leg}: {way}, {_micro(track.nanoseconds)}, delivered"
        found += folded(words, width=width, first=f"{track.name:<16}  ", rest=" " * 18)
    found += _remembered(journey, width=width, paint=paint)
    return found + _virtual(journey, width=width, paint=paint)


def _is_told(tracks: Sequence[Track], number: int) -> bool:
    """Return whether a packet's steps are worth their room."""
    track = tracks[number]
    ends = [one.fate for one in track.steps if isinstance(one, End)]
    arrived = Fate.DELIVERED in ends or Fate.LEFT in ends
    before = [one for one in tracks[:number] if one.by == track.by]
    return not arrived or all(one.leg is not track.leg for one in before)


def heading(journey: Journey, *, width: int = WIDTH, paint: Paint = plain) -> list[str]:
    """Return what became of a conversation, and what a reader must know of it."""
    told = [(f"{journey.source} -> {journey.destination}, {journey.flow}", BOLD)]
    if journey.endpoint:
        told.append((f"sent to endpoint {journey.endpoint}", ""))
    told.append(_outcome(journey))
    told += [(f"note: {note}", DIM) for note in journey.notes]
    if journey.lost:
        told.append((f"note: {journey.lost} frames or rule messages were lost", YELLOW))
    return [
        line
        for words, colour in told
        for line in folded(words, width=width, rest="    ", paint=paint, colour=colour)
    ]


def _outcome(journey: Journey) -> tuple[str, str]:
    """Return what became of a conversation, and its colour."""
    if journey.attached:
        return _followed(journey)
    if journey.answered:
        return f"answered in {journey.seconds * 1000:.2f} ms{_by(journey)}", GREEN
    return (f"refused: {journey.refused}" if journey.refused else "not answered"), RED


def _followed(journey: Journey) -> tuple[str, str]:
    """Return what was seen of a conversation that others had, and its colour."""
    count = len(journey.tracks)
    number = f"{count} packet{'s' if count != 1 else ''} in {journey.seconds * 1000:.2f} ms"
    if journey.refused:
        return f"{number}, refused: {journey.refused}", RED
    if journey.answered:
        return f"{number}, answered", GREEN
    return f"{number}, not answered meanwhile", YELLOW


def _by(journey: Journey) -> str:
    says = journey.says
    if "status" in says:
        return f", HTTP {says['status']} {says.get('reason', '')}".rstrip()
    if "garbled" in says:
        return f", not in the words that were asked for: {says['garbled']!r}"
    if "rcode" in says:
        return f", {says['rcode']}, {says['answers']} answers"
    if "pod" in says:
        who = f"{says['namespace']}/{says['pod']}" if says.get("namespace") else says["pod"]
        return f" by {who}, which saw {says.get('client')}"
    return ""


def _track_lines(track: Track, *, width: int, paint: Paint) -> Iterator[str]:
    seen = track.sightings
    hops = f"{len(seen)} hops in {_micro(track.nanoseconds)}" if seen else "seen on no device"
    head = f"{track.name}  {_ends(track.flow)}"
    ttl = f", ttl {seen[0].ttl} -> {seen[-1].ttl}" if seen else ""
    right = f"{hops}{ttl}"
    gap = width - len(head) - len(right)
    if gap >= 2:
        yield paint(head, BOLD) + " " * gap + paint(right, DIM)
    else:
        yield from folded(head, width=width, rest="    ", paint=paint, colour=BOLD)
        yield from folded(right, width=width, first="    ", paint=paint, colour=DIM)
    began = min((step.time for step in seen), default=0)
    place: Place | None = None
    before: Seen | None = None
    for step in shown(track.steps):
        if step.place != place:
            place = step.place
            yield from folded(f"{place}", width=width, first="  ", paint=paint, colour=CYAN)
        if isinstance(step, Seen):
            yield from _seen_lines(step, began, before, width=width, paint=paint)
            before = step
        elif isinstance(step, Rule):
            yield from _rule_lines(step, width=width, paint=paint)
        else:
            yield from _other_lines(step, width=width, paint=paint)


def _seen_lines(
    step: Seen, began: int, before: Seen | None, *, width: int, paint: Paint
) -> Iterator[str]:
    since = f"+{(step.time - before.time) / 1000:.0f}" if before else ""
    times = f"{_micro(step.time - began):>9} {since:>6} "
    head = f"{times}{f'{step.device} {step.direction}':<17} "
    words = f"ttl {step.ttl}"
    if step.mtu:
        words += f"  mtu {step.mtu}"
    rest = "" if before and step.flow == before.flow else _ends(step.flow)
    if rest and len(head) + len(words) + 2 + len(rest) > width:
        yield head + paint(words, DIM)
        yield from folded(rest, width=width, first=" " * _AT)
    else:
        yield head + paint(words, DIM) + (f"  {rest}" if rest else "")


def _rule_lines(step: Rule, *, width: int, paint: Paint) -> Iterator[str]:
    hit = step.hit
    where = f"{hit.hook} {hit.table} {hit.chain}"
    if not step.fitted:
        yield paint(_cut(f"{_RULE}- {where}: {without_comment(hit.rule)}", width), DIM)
        return
    ended = hit.verdict.endswith("drop")
    text = hit.rule or hit.verdict
    text = text if ended else without_comment(text)
    colour = RED if ended else YELLOW if step.means else ""
    if len(_RULE) + len(f"{where}: {text}") <= width:
        yield _RULE + (paint(f"{where}: {text}", colour) if colour else f"{where}: {text}")
    else:
        deeper = _RULE + "    "
        yield from folded(where, width=width, first=_RULE, rest=deeper, paint=paint, colour=colour)
        yield from folded(text, width=width, first=deeper, paint=paint, colour=colour)
    mapped = f"{hit.verdict}: " if " vmap " in hit.rule or " map " in hit.rule else ""
    if step.means or mapped:
        means = f"{mapped}{step.means}".removesuffix(": ")
        colour = GREEN if not ended else RED
        first, rest = _RULE + "  => ", _RULE + "     "
        yield from folded(means, width=width, first=first, rest=rest, paint=paint, colour=colour)


def folded(
    text: str,
    *,
    width: int,
    first: str = "",
    rest: str | None = None,
    paint: Paint = plain,
    colour: str = "",
) -> Iterator[str]:
    """Yield *text* in lines of *width* columns, the first behind *first*, the others behind *rest*
    (as *first*, if it is not given). A word that is longer is left whole. Control characters,
    which a server may have said and a terminal would obey, become U+FFFD."""
    text = "".join(one if one.isprintable() else "\ufffd" for one in text)
    before = first
    while text:
        part, text = _split(text, max(width - len(before), 1))
        yield before + (paint(part, colour) if colour else part)
        before = first if rest is None else rest


def _split(text: str, room: int) -> tuple[str, str]:
    """Return as much of *text* as fits, at a blank, and the rest."""
    if len(text) <= room:
        return text, ""
    at = text.rfind(" ", 0, room + 1)
    at = at if at > 0 else (text.find(" ") if " " in text else len(text))
    return text[:at], text[at + 1 :]


def _other_lines(
    step: Rewrite | NextHop | Envelope | End, *, width: int, paint: Paint
) -> Iterator[str]:
    if isinstance(step, Rewrite):
        words, colour = rewrite_words(step), YELLOW
    elif isinstance(step, Envelope):
        words, colour = envelope_words(step), CYAN
    elif isinstance(step, NextHop):
        words, colour = step.words, CYAN
    else:
        words, colour = f"{step.fate}: {step.words}", FATES[step.fate]
    first = " " * _AT
    yield from folded(
        words, width=width, first=first, rest=first + "    ", paint=paint, colour=colour
    )


def rewrite_words(step: Rewrite) -> str:
    """Return `DNAT: destination 10.96.0.10:80 => 10.244.3.2:80, conntrack 3914 (default/web-2)`;
    instead of DNAT what did it, if it was no NAT."""
    source = step.kind in (RewriteKind.SNAT, RewriteKind.UN_DNAT)
    before, after = (_end(flow, source=source) for flow in (step.before, step.after))
    means = f" ({step.means})" if step.means else ""
    entry = f", conntrack {step.conntrack}" if step.conntrack else ""
    what = "source" if source else "destination"
    return f"{step.by or REWRITES[step.kind]}: {what} {before} => {after}{entry}{means}"


def envelope_words(step: Envelope) -> str:
    """Return `into VXLAN 1: 192.168.50.11:40001 -> 192.168.50.12:8472, ttl 64`."""
    outer = step.outer
    ends = f"{outer.source}:{outer.source_port} -> {outer.destination}:{outer.destination_port}"
    if step.opened:
        return f"out of {outer.title} by {_wrapper(step)}"
    return f"into {outer.title} by {_wrapper(step)}: {ends}, ttl {outer.ttl}"


def _wrapper(step: Envelope) -> str:
    """Return what wraps a packet: the device, or the process that the device gives it to."""
    return f"the process behind {step.device}" if step.outer.vni == BARE else step.device


def without_comment(text: str) -> str:
    """Return a rule without the comment its writer gave it."""
    return " ".join(_COMMENT.sub("", text).split())


def shown(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps that say something: not the returns, nor the jumps that led to nothing, nor
    policies that let pass. With rules that did not fit among them, all."""
    every = any(isinstance(step, Rule) and not step.fitted for step in steps)
    for number, step in enumerate(steps):
        if every or not isinstance(step, Rule) or _says(step.hit, steps[number + 1 :]):
            yield step


def _says(hit: RuleHit, later: Sequence[Step]) -> bool:
    how, _, target = hit.verdict.partition(" ")
    if how in ("jump", "goto"):
        return any(
            isinstance(step, Rule) and step.hit.chain == target and _says(step.hit, later[n + 1 :])
            for n, step in enumerate(_same_pass(hit, later))
        )
    if hit.verdict.endswith("drop"):
        return True
    return bool(hit.rule) and how not in ("return", "")


def _same_pass(hit: RuleHit, later: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps of the same pass through the same base chain."""
    for step in later:
        if not isinstance(step, Rule) or (step.hit.table, step.hit.base) != (hit.table, hit.base):
            return
        yield step


def _remembered(journey: Journey, *, width: int, paint: Paint) -> list[str]:
    if not journey.entries:
        return []
    found = ["", paint("conntrack remembers", BOLD)]
    for one in journey.entries:
        entry = one.entry
        state = f" {entry.state}" if entry.state else ""
        asked = f"{one.place}: {_ends(entry.original)} {entry.original.protocol}{state}"
        found += folded(asked, width=width, first="  ", rest=" " * 6)
        answered = f"answered {_ends(entry.reply)}, id {entry.id}"
        found += folded(answered, width=width, first=" " * 6)
    return found


def _virtual(journey: Journey, *, width: int, paint: Paint) -> list[str]:
    """Return what ip_vs remembers: virtual server, how it chose, real server, connection."""
    if not journey.virtual:
        return []
    found = ["", paint("ip_vs remembers", BOLD)]
    for place, one in ((each.place, each.connection) for each in journey.virtual):
        chosen = f"{place}: virtual server {one.server} {one.scheduler} -> real server {one.real}"
        found += folded(chosen, width=width, first="  ", rest=" " * 6)
        kept = f"connection from {_end(one.flow, source=True)}: {one.state}, {one.timeout} s left"
        found += folded(kept, width=width, first=" " * 6)
    return found


def _ends(flow: Flow) -> str:
    return f"{_end(flow, source=True)} -> {_end(flow, source=False)}"


def _end(flow: Flow, *, source: bool) -> str:
    if source:
        return f"{flow.source}:{flow.source_port}" if flow.source_port else flow.source
    port = flow.destination_port
    return f"{flow.destination}:{port}" if port else flow.destination


def _micro(nanoseconds: int) -> str:
    return f"{nanoseconds / 1000:.0f} µs"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def diagnosis(
    found: Diagnosis, *, width: int = WIDTH, paint: Paint = plain, every: bool = False
) -> list[str]:
    """Return what stopped a flow, what shows it and what would repair it; *every*: all causes that
    were found, and the journey."""
    journey = found.journey
    told = heading(journey, width=width, paint=paint)
    behind = len(told)
    if found.works:
        told.append("nothing stops it")
    for number, cause in enumerate(found.causes if every else found.causes[:1]):
        head = "also:" if number else "cause:"
        facts = [(head, cause.what, RED), ("kind:", str(cause.kind), "")]
        facts += [("proof:", one, "") for one in cause.proof]
        facts += [("repair:", one, GREEN) for one in cause.repair]
        told.append("")
        for label, words, colour in facts:
            first, rest = f"{label:<10}", " " * 10
            told += folded(words, width=width, first=first, rest=rest, paint=paint, colour=colour)
    if every:
        told += ["", *lines(journey, width=width, paint=paint)[behind:]]
    return told
