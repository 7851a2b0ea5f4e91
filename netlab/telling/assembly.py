"""Sightings and rule traces of one conversation, put together as tracks: packet by packet.

1. A packet is known by what no rewrite changes; sent again, it is another packet.
2. A rewrite is a difference between two views of one packet: a device's, or a chain's.
3. Where a packet was lost and an error about it begins, that is what became of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from msgspec.structs import replace

from netlab.journeys import (
    IP_VS,
    End,
    Envelope,
    Fate,
    Rewrite,
    RewriteKind,
    Rule,
    Seen,
    Step,
    Track,
)
from netlab.packets import Direction, Flow, Identity, Leg, Passing, Protocol, RuleHit
from netlab.telling.chains import Listing, met
from netlab.telling.naming import Names
from netlab.telling.order import Wraps, merged
from netlab.telling.passes import Passes
from netlab.telling.selecting import PASSED_ON, Caught, Chosen

AGAIN = 150_000_000  # ns; TCP repeats after 200 ms at the earliest (TCP_RTO_MIN), ARP lets wait 1 s
_FLAGS = ((0x02, "SYN"), (0x01, "FIN"), (0x04, "RST"), (0x10, "ACK"))
Means = Callable[[RuleHit], str]


def tracks(
    chosen: Chosen, names: Names, means: Means, *, listing: Listing | None = None
) -> tuple[Track, ...]:
    """Return the packets of a conversation in the order in which they were first seen.

    *listing*: of the chains' rules; with it, those that did not fit become steps, too.
    """
    made: list[Track] = []
    passes = Passes(chosen.passings, chosen.wraps)
    for packet in _packets(chosen.caught):
        leg = _leg(packet[0], chosen.flows)
        mine = passes.take(packet)
        steps = tuple(_Walk(names, means, listing, leg, chosen.wraps).steps(packet, mine))
        made.append(Track(_name(packet[0]), leg, _first_flow(packet, mine), steps))
    unseen = list(_unseen(passes.left(), names, means, listing, chosen))
    # What no device shows was refused where it was sent.
    return tuple(_alike(_explained([*unseen, *made])))


def _packets(caught: Sequence[Caught]) -> list[list[Caught]]:
    """Return the sightings packet by packet, each in order of time."""
    found: list[list[Caught]] = []
    alike: dict[tuple[Identity, int], list[list[Caught]]] = {}
    for one in caught:
        same = alike.setdefault((one.identity, one.sighting.length), [])
        # Of two that look alike and are on their way, the older one is further on.
        held = next((packet for packet in same if _comes_next(packet, one)), None)
        if held is None and same and not _is_again(same[-1], one):
            held = same[-1]
        if held is None:
            held = []
            found.append(held)
            same.append(held)
        held.append(one)
    return found


def _comes_next(packet: Sequence[Caught], one: Caught) -> bool:
    """Return whether *one* shows, further on, the packet that was seen a moment ago."""
    here = one.sighting
    if here.time - packet[-1].sighting.time > AGAIN:
        return False
    return all(each.sighting.where != here.where for each in packet)


def _is_again(packet: Sequence[Caught], one: Caught) -> bool:
    """Return whether *one* shows the packet where it was already, with as long to live, or much
    earlier."""
    here = one.sighting
    return any(
        each.sighting.where == here.where
        and (here.time - each.sighting.time > AGAIN or here.ttl == each.sighting.ttl)
        for each in packet
    )


def _leg(one: Caught, flows: Collection[Flow]) -> Leg:
    sighting = one.sighting
    if sighting.flow.protocol is Protocol.ICMP:
        return Leg.REQUEST if sighting.icmp == "echo-request" else Leg.REPLY
    return Leg.REQUEST if sighting.flow in flows else Leg.REPLY


def _name(one: Caught) -> str:
    sighting, behind = one.sighting, one.transport
    if sighting.flow.protocol is Protocol.ICMP:
        return sighting.icmp.replace("-", " ")
    if sighting.flow.protocol is Protocol.UDP:
        return f"datagram {_size(one) - 8} bytes"
    if sighting.flow.protocol is not Protocol.TCP or len(behind) < 14:
        return str(sighting.flow.protocol)
    size = _size(one) - (behind[12] >> 4) * 4
    words = " ".join(name for bit, name in _FLAGS if behind[13] & bit)
    if not size:
        return words
    return f"data {size} bytes" + (" FIN" if behind[13] & 0x01 else "")


def _size(one: Caught) -> int:
    """Return the bytes behind the IP header, though the frame may have been cut off."""
    return one.sighting.length - (one.sighting.content[0] & 0xF) * 4


def _first_flow(packet: Sequence[Caught], passings: Sequence[Passing]) -> Flow:
    """Return the flow as it was sent: a process's own packet is rewritten before a device shows
    it."""
    first = packet[0].sighting
    if first.direction is Direction.OUT:
        for one in passings:
            if (
                one.netns == first.netns
                and one.hook == "output"
                and one.flow.protocol is (first.flow.protocol)
            ):
                return one.flow
    return first.flow


def _explained(made: Sequence[Track]) -> list[Track]:
    """Return the tracks; where one was lost and an error begins, that is what became of it."""
    told: dict[str, str] = {}
    for track in made:
        first = next(iter(track.sightings), None)
        if first is not None and first.icmp and first.icmp not in PASSED_ON:
            told.setdefault(first.place.netns, f"{first.place} answered {track.name}")
    return [_refused(track, told) for track in made]


def _refused(track: Track, told: dict[str, str]) -> Track:
    last = track.steps[-1] if track.steps else None
    if not isinstance(last, End) or last.fate is not Fate.LOST or track.leg is not Leg.REQUEST:
        return track
    words = told.get(last.place.netns)
    if words is None:
        return track
    return replace(track, steps=(*track.steps[:-1], End(last.place, Fate.REFUSED, words)))


def _alike(made: Sequence[Track]) -> Iterator[Track]:
    """Yield the tracks, each with the number of an earlier one that took the same way."""
    ways: dict[tuple[object, ...], int] = {}
    for number, track in enumerate(made):
        way = (
            track.leg,
            *((one.place.netns, one.device, one.direction) for one in track.sightings),
            *((step.place.netns, step.fate) for step in track.steps if isinstance(step, End)),
        )
        yield replace(track, same_as=ways.get(way, -1))
        ways.setdefault(way, number)


def _unseen(
    left: Sequence[Passing],
    names: Names,
    means: Means,
    listing: Listing | None,
    chosen: Chosen,
) -> Iterator[Track]:
    """Yield the packets that rules met and no device showed: dropped where they were made."""
    groups: dict[Identity, list[Passing]] = {}
    for one in left:
        if not chosen.wraps(one) and (one.hook == "output" or one.identity in groups):
            groups.setdefault(one.identity, []).append(one)
    for passings in groups.values():
        flow = passings[0].flow
        leg = Leg.REQUEST if flow in chosen.flows else Leg.REPLY
        steps = tuple(_Walk(names, means, listing, leg, chosen.wraps).steps((), passings))
        name = "SYN" if passings[0].opens else f"{flow.protocol} packet"
        yield Track(name, leg, flow, steps)


class _Walk:
    """One packet followed from view to view."""

    def __init__(
        self, names: Names, means: Means, listing: Listing | None, leg: Leg, wraps: Wraps
    ) -> None:
        self._names, self._means, self._listing, self._leg = names, means, listing, leg
        self._wraps = wraps
        self._flow: Flow | None = None
        self._netns = ""
        self._entry: dict[str, int] = {}

    def steps(self, packet: Sequence[Caught], passings: Sequence[Passing]) -> Iterator[Step]:
        own = [one for one in passings if one.conntrack and not self._wraps(one)]
        self._entry = {one.netns: one.conntrack for one in own}
        last: Caught | Passing | None = None
        previous: Caught | None = None
        for view in merged(packet, passings, self._names, self._wraps):
            last = view
            if isinstance(view, Passing):
                yield from self._passed(view)
            else:
                yield from self._wrapping(view, previous)
                yield from self._rewritten(view.sighting.netns, view.sighting.flow)
                yield self._seen(view)
                previous = view
        if last is not None:
            yield self._end(last, passings)

    def _seen(self, view: Caught) -> Seen:
        one = view.sighting
        return Seen(
            place=self._names.place(one.netns),
            time=one.time,
            device=one.device,
            direction=one.direction,
            flow=one.flow,
            ttl=one.ttl,
            length=one.length,
            mtu=view.mtu,
            source_mac=one.source_mac,
            destination_mac=one.destination_mac,
            outer=one.outer,
            icmp=one.icmp,
            foreign=one.foreign,
            frame=view.frame,
        )

    def _wrapping(self, view: Caught, previous: Caught | None) -> Iterator[Step]:
        """Yield the envelope, where the packet is put into one or taken out of it."""
        now = view.sighting
        before = previous.sighting if previous else None
        if now.outer and (before is None or before.outer is None):
            device = before.device if before and before.netns == now.netns else now.device
            yield Envelope(self._names.place(now.netns), device, now.outer)
        elif before and before.outer and now.outer is None and now.netns == before.netns:
            yield Envelope(self._names.place(now.netns), now.device, before.outer, opened=True)

    def _passed(self, view: Passing) -> Iterator[Step]:
        if not self._wraps(view):
            yield from self._rewritten(view.netns, view.flow)
        place = self._names.place(view.netns)
        if self._listing is None:
            yield from (Rule(place, hit, means=self._means(hit)) for hit in view.hits)
            return
        for hit, fitted in met(view.hits, self._listing):
            yield Rule(place, hit, fitted, self._means(hit) if fitted else "")

    def _rewritten(self, netns: str, now: Flow) -> Iterator[Step]:
        before, where = self._flow, self._netns or netns
        self._flow, self._netns = now, netns
        if before is None or before == now or before.protocol is not now.protocol:
            return
        asking = self._leg is Leg.REQUEST
        ways = (
            ("destination", RewriteKind.DNAT if asking else RewriteKind.UN_SNAT),
            ("source", RewriteKind.SNAT if asking else RewriteKind.UN_DNAT),
        )
        for end, kind in ways:
            changed = {end: getattr(now, end), f"{end}_port": getattr(now, f"{end}_port")}
            after = replace(before, **changed)
            if after != before:
                who = self._names.who(changed[end], changed[f"{end}_port"], now.protocol)
                entry, place = self._entry.get(where, 0), self._names.place(where)
                by = self._by(where, kind, before, after)
                yield Rewrite(place, kind, before, after, entry, who, by)
                before = after

    def _by(self, netns: str, kind: RewriteKind, before: Flow, after: Flow) -> str:
        asked = {RewriteKind.DNAT: before, RewriteKind.UN_DNAT: after.reply}.get(kind)
        return IP_VS if asked is not None and self._names.by_ip_vs(netns, asked) else ""

    def _end(self, last: Caught | Passing, passings: Sequence[Passing]) -> End:
        if isinstance(last, Passing):
            place = self._names.place(last.netns)
            hit = last.hits[-1] if last.hits else None
            if hit is not None and hit.verdict.endswith("drop"):
                refusing = "reject" in hit.rule.lower()
                fate = Fate.REFUSED if refusing else Fate.DROPPED
                return End(place, fate, f"by {hit.table} {hit.chain} at {hit.hook}")
            arrived = last.hook == "input" and not self._wraps(last)
            if arrived and self._is_home(last.flow, last.netns):
                return End(place, Fate.DELIVERED, _to(last.flow, self._names))
            return End(place, Fate.LOST, f"behind {last.hook} of {place}")
        one = last.sighting
        place = self._names.place(one.netns)
        mine = self._is_home(one.flow, one.netns) or one.device == "lo"
        if one.direction is Direction.IN and mine and not one.outer and not one.foreign:
            return End(place, Fate.DELIVERED, _to(one.flow, self._names))
        if one.direction is Direction.OUT and self._names.is_foreign(one.netns, one.device):
            return End(place, Fate.LEFT, f"by {one.device}, to a foreign machine")
        return End(place, Fate.LOST, f"last seen on {one.device} {one.direction}")

    def _is_home(self, flow: Flow, netns: str) -> bool:
        to = flow.destination
        return to.startswith("127.") or self._names.home(to) == netns


def _to(flow: Flow, names: Names) -> str:
    who = names.who(flow.destination)
    port = f" {flow.destination_port}/{flow.protocol}" if flow.destination_port else ""
    return f"to {who or flow.destination}{port}"
