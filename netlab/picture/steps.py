"""A journey as the steps of a show: each in words, and where in the picture it happens.

Rules that decided nothing are left out, as in the text of a trace; those that the packet did not
fit are counted. A packet that took the same way as an earlier one is one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from netlab.journeys import (
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
    Track,
)
from netlab.journeys import Step as Event
from netlab.packets import Direction, Flow, Outer
from netlab.picture.layout import Layout, Point
from netlab.picture.spots import spot
from netlab.picture.text import count
from netlab.telling.text import shown, without_comment

REWRITES = {
    RewriteKind.DNAT: "destination rewritten (DNAT)",
    RewriteKind.SNAT: "source rewritten (SNAT, masquerade)",
    RewriteKind.UN_DNAT: "source put back (un-DNAT)",
    RewriteKind.UN_SNAT: "destination put back (un-SNAT)",
}


class Sort(StrEnum):
    DEVICE = "device"
    RULE = "rule"
    REWRITE = "rewrite"
    NEXT_HOP = "next-hop"
    ENVELOPE = "envelope"
    END = "end"
    SAME = "same"  # a whole packet, like an earlier one


class Packet(msgspec.Struct, frozen=True):
    """The packet as it is at a step: None and 0 for what has not been seen of it yet."""

    flow: Flow
    outer: Outer | None = None
    ttl: int = 0
    length: int = 0
    icmp: str = ""


def rewrite_title(event: Rewrite) -> str:
    """Return `destination rewritten (DNAT)`, in brackets what did it."""
    title = REWRITES[event.kind]
    return f"{title.partition(' (')[0]} ({event.by})" if event.by else title


class Step(msgspec.Struct, frozen=True):
    """One step. `way`: the points to draw to get here, the last one is where the packet then is.

    `means` says what it is for, `text` the rule's own words, `facts` more, each (name, value).
    `microseconds` since the packet was first seen, -1 if no clock says.
    """

    track: int
    sort: Sort
    place: str
    short: str  # the same in a word
    netns: str
    title: str
    packet: Packet
    way: tuple[Point, ...]
    means: str = ""
    text: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    before: Flow | None = None
    microseconds: float = -1
    fate: Fate | None = None


def steps(journey: Journey, drawn: Layout) -> list[Step]:
    """Return all steps of *journey*, with their places in *drawn*."""
    found: list[Step] = []
    for number, track in enumerate(journey.tracks):
        if 0 <= track.same_as < number:
            found.append(_same(journey, number, drawn))
        else:
            found += _of_track(number, track, drawn)
    return found


def _of_track(number: int, track: Track, drawn: Layout) -> Iterator[Step]:
    packet = Packet(track.flow)
    began = min((seen.time for seen in track.sightings), default=0)
    missed = 0
    for event in shown(track.steps):
        if not _fitted(event):
            missed += 1
            continue
        packet = _after(packet, event)
        step = _told(number, event, packet, missed)
        missed = 0
        if isinstance(event, Seen):
            step = msgspec.structs.replace(step, microseconds=(event.time - began) / 1000)
        point = _point(event, drawn)
        yield msgspec.structs.replace(step, way=(point,) if point else ())


def _fitted(event: Event) -> bool:
    return not isinstance(event, Rule) or event.fitted


def _point(event: Event, drawn: Layout) -> Point | None:
    device = event.device if isinstance(event, Seen | Envelope) else ""
    return spot(drawn, event.place.netns, device)


def _after(packet: Packet, event: Event) -> Packet:
    """Return how *packet* looks once *event* has happened to it."""
    if isinstance(event, Seen):
        return Packet(event.flow, event.outer, event.ttl, event.length, event.icmp)
    if isinstance(event, Rewrite):
        return msgspec.structs.replace(packet, flow=event.after)
    if isinstance(event, Envelope):
        return msgspec.structs.replace(packet, outer=None if event.opened else event.outer)
    return packet


def _told(number: int, event: Event, packet: Packet, missed: int) -> Step:
    """Return *event* in words."""
    place = event.place
    step = Step(number, Sort.DEVICE, str(place), short(place), place.netns, "", packet, ())
    replace = msgspec.structs.replace
    if isinstance(event, Seen):
        return replace(step, title=device_words(event), facts=_seen_facts(event))
    if isinstance(event, Rule):
        title = f"{event.hit.table} {event.hit.chain}"
        text = without_comment(event.hit.rule) or event.hit.verdict
        facts = _rule_facts(event, missed)
        return replace(step, sort=Sort.RULE, title=title, text=text, means=event.means, facts=facts)
    if isinstance(event, Rewrite):
        return replace(
            step,
            sort=Sort.REWRITE,
            title=rewrite_title(event),
            means=event.means,
            before=event.before,
            facts=(("conntrack entry", str(event.conntrack)),) if event.conntrack else (),
        )
    if isinstance(event, NextHop):
        title = f"next hop: {event.device}" + (f" via {event.gateway}" if event.gateway else "")
        return replace(step, sort=Sort.NEXT_HOP, title=title, means=event.words)
    if isinstance(event, Envelope):
        return replace(step, sort=Sort.ENVELOPE, title=envelope_words(event))
    return replace(step, sort=Sort.END, title=str(event.fate), means=event.words, fate=event.fate)


def short(place: Place) -> str:
    """Return `web-1`, `shop/cart`, `node2`."""
    return place.name.removeprefix("default/") if place.kind == "pod" else place.name


def ends(flow: Flow) -> tuple[str, str]:
    """Return source and destination of *flow*: `10.96.0.10:80`, without ports for ICMP."""
    pairs = ((flow.source, flow.source_port), (flow.destination, flow.destination_port))
    source, destination = (f"{address}:{port}" if port else address for address, port in pairs)
    return source, destination


def device_words(seen: Seen) -> str:
    """Return `into docker0`, `out of eth0, in VXLAN 1`."""
    way = "in from" if seen.direction is Direction.IN else "out through"
    inside = f", in {seen.outer.title}" if seen.outer else ""
    return f"{way} {seen.device}{inside}"


def envelope_words(event: Envelope) -> str:
    outer = event.outer
    if event.opened:
        return f"taken out of {outer.title} by {event.device}"
    return f"put into {outer.title} by {event.device}"


def _seen_facts(seen: Seen) -> tuple[tuple[str, str], ...]:
    found = []
    if seen.source_mac or seen.destination_mac:
        found.append(("MAC", f"{seen.source_mac} → {seen.destination_mac}"))
    if seen.mtu:
        found.append(("MTU", f"{seen.mtu} bytes"))
    return tuple(found)


def _rule_facts(event: Rule, missed: int) -> tuple[tuple[str, str], ...]:
    hit = event.hit
    found = [("hook", hit.hook), ("then", hit.verdict)]
    if hit.state:
        found.append(("conntrack", hit.state))
    if hit.mark:
        found.append(("mark", f"{hit.mark:#x}"))
    if missed:
        found.append(("before it", f"{count(missed, 'rule')} that did not fit"))
    return tuple(found)


def _same(journey: Journey, number: int, drawn: Layout) -> Step:
    """Return a packet that went as an earlier one as one step along all its way."""
    track = journey.tracks[number]
    earlier = journey.tracks[track.same_as]
    events: Sequence[Event] = track.steps or earlier.steps
    points = [
        point for event in shown(events) if _fitted(event) and (point := _point(event, drawn))
    ]
    packet = Packet(track.flow)
    for event in track.steps:
        packet = _after(packet, event)
    last = events[-1] if events else None
    devices = len(track.sightings)
    facts = []
    if devices:
        facts.append(("seen on", f"{count(devices, 'device')} in {duration(track.nanoseconds)}"))
    return Step(
        number,
        Sort.SAME,
        str(last.place) if last else "",
        short(last.place) if last else "",
        last.place.netns if last else "",
        f"the way of {earlier.name} once more",
        packet,
        tuple(points),
        facts=tuple(facts),
        microseconds=track.nanoseconds / 1000,
        fate=last.fate if isinstance(last, End) else None,
    )


def duration(nanoseconds: float) -> str:
    """Return `84 µs`, `1.25 ms`."""
    if nanoseconds < 1e6:
        return f"{nanoseconds / 1000:.0f} µs"
    return f"{nanoseconds / 1e6:.2f} ms"
