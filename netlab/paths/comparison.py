"""What should have been seen against what was seen: the verdict names the first difference."""

from __future__ import annotations

from collections.abc import Sequence

from netlab.packets import (
    Direction,
    Expectation,
    Flow,
    Hop,
    Leg,
    Outcome,
    Passage,
    Protocol,
    Sighting,
    Verdict,
)

SHOWN = 3  # sightings off the way that a verdict names


def leg_of(
    flow: Flow, sighting: Sighting, translated: Flow | None = None, between: Sequence[int] = ()
) -> Leg | None:
    """Return which half of *flow* a sighting belongs to; None for an ICMP error about it.

    Ports decide, because NAT changes addresses: the request keeps its destination port, or has
    that of *translated* once a Service's address was rewritten, or one *between* these; the reply
    has it as its source.
    """
    if flow.protocol is Protocol.ICMP:
        return {"echo-request": Leg.REQUEST, "echo-reply": Leg.REPLY}.get(sighting.icmp)
    if sighting.icmp:
        return None
    ports = {one.destination_port for one in (flow, translated) if one is not None} | {*between}
    if sighting.flow.destination_port in ports:
        return Leg.REQUEST
    return Leg.REPLY if sighting.flow.source_port in ports else None


def leg_in(expectation: Expectation, sighting: Sighting) -> Leg | None:
    """Return which half of the expected conversation a sighting belongs to, as `leg_of`."""
    return leg_of(expectation.flow, sighting, expectation.translated, expectation.between)


def difference(hop: Hop, sighting: Sighting) -> str:
    """Return how *sighting* looks otherwise than *hop* asks for, "" when it does not."""
    flow = sighting.flow
    if (flow.source, flow.destination) != (hop.source, hop.destination):
        return (
            f"seen there as {flow.source} -> {flow.destination}, "
            f"not {hop.source} -> {hop.destination}"
        )
    for name in ("source_port", "destination_port"):
        port = getattr(hop, name)
        if port is not None and port != getattr(flow, name):
            words = name.replace("_", " ")
            return f"seen there with {words} {getattr(flow, name)}, not {port}"
    if hop.outer is None and sighting.outer is not None:
        return (
            f"seen there inside {sighting.outer.kind} {sighting.outer.source} -> "
            f"{sighting.outer.destination}, not by itself"
        )
    if hop.outer is not None:
        wrong = _outer_difference(hop, sighting)
        if wrong:
            return wrong
    if hop.ttl is not None and sighting.ttl != hop.ttl:
        return f"seen there with TTL {sighting.ttl}, not {hop.ttl}"
    for end in ("source", "destination"):
        wanted, seen = getattr(hop, f"{end}_mac"), getattr(sighting, f"{end}_mac")
        if wanted is not None and wanted != seen:
            return f"seen there with {end} MAC {seen}, not the VTEP's {wanted}"
    if hop.own and sighting.foreign:
        return f"seen there addressed to another card, {sighting.destination_mac}"
    return ""


def _outer_difference(hop: Hop, sighting: Sighting) -> str:
    wanted, outer = hop.outer, sighting.outer
    assert wanted is not None
    if outer is None:
        return f"seen there by itself, not inside {wanted.kind}"
    if (outer.source, outer.destination) != (wanted.source, wanted.destination):
        return (
            f"seen there in {outer.kind} {outer.source} -> {outer.destination}, "
            f"not {wanted.source} -> {wanted.destination}"
        )
    if outer.kind != wanted.kind:
        return f"seen there in {outer.kind}, not in {wanted.kind}"
    if outer.vni != wanted.vni:
        return f"seen there with VNI {outer.vni}, not {wanted.vni}"
    if wanted.destination_port not in (0, outer.destination_port):
        return (
            f"seen there in {outer.kind} on UDP port {outer.destination_port}, "
            f"not {wanted.destination_port}"
        )
    return ""


def passages(leg: Leg, hops: Sequence[Hop], sightings: Sequence[Sighting]) -> list[Passage]:
    """Return each hop with the sighting that stands for it: the first fitting one not used.

    Sightings count in the order of time, so a hop is only looked for after the one before it.
    """
    found: list[Passage] = []
    rest = [(s.where, s) for s in sorted(sightings, key=lambda sighting: sighting.time)]
    for hop in hops:
        where = hop.where
        here = [s for at, s in rest if at == where]
        fitting = next((s for s in here if not difference(hop, s)), None)
        chosen = fitting or (here[0] if here else None)
        if chosen is None:
            found.append(Passage(leg, hop, None, "not seen there"))
            continue
        found.append(Passage(leg, hop, chosen, difference(hop, chosen)))
        rest = [(at, s) for at, s in rest if s is not chosen and s.time >= chosen.time]
    return found


def stray(
    expectation: Expectation, found: Sequence[Passage], sightings: Sequence[Sighting]
) -> list[Sighting]:
    """Return the sightings at places where the flow has no hop, in order of time."""
    places = {passage.hop.where for passage in found}
    return sorted(
        (s for s in sightings if s.where not in places and leg_in(expectation, s)),
        key=lambda sighting: sighting.time,
    )


def forbidden_sighting(expectation: Expectation, sightings: Sequence[Sighting]) -> Sighting | None:
    """Return a sighting of the flow itself on a device where it must not show."""
    for sighting in sightings:
        shown = (sighting.netns, sighting.device)
        if shown in expectation.forbidden and leg_in(expectation, sighting):
            return sighting
    return None


def bare_sighting(
    expectation: Expectation, found: Sequence[Passage], sightings: Sequence[Sighting]
) -> Sighting | None:
    """Return a sighting outside VXLAN where the flow may only be inside: on such a device, or on
    any device of a namespace that the flow only crosses wrapped; not where that half of the
    conversation has a hop outside (a client's request to a node that sends it on to another)."""
    wrapped = {(p.hop.netns, p.hop.device) for p in found if p.hop.outer is not None}
    bare = {(p.leg, p.hop.where) for p in found if p.hop.outer is None}
    crossed = {netns for netns, _ in wrapped} - {p.hop.netns for p in found if not p.hop.outer}
    for sighting in sightings:
        if sighting.outer or (sighting.icmp and not sighting.icmp.startswith("echo-")):
            continue
        if (leg_in(expectation, sighting), sighting.where) in bare:
            continue
        if sighting.netns in crossed or (sighting.netns, sighting.device) in wrapped:
            return sighting
    return None


def _kinds(found: Sequence[Passage]) -> str:
    """Return what kind of envelope the flow has on its way: `VXLAN`."""
    return " or ".join(sorted({p.hop.outer.kind for p in found if p.hop.outer is not None}))


def astray(
    expectation: Expectation, found: Sequence[Passage], sightings: Sequence[Sighting]
) -> Sighting | None:
    """Return a sighting off the way that no flooding bridge explains: somebody else got a copy."""

    def flooded(sighting: Sighting) -> bool:
        return sighting.foreign or any(
            sighting.netns == netns
            and sighting.device.startswith(port)
            and sighting.direction is Direction.OUT
            for netns, port in expectation.ports
        )

    return next((s for s in stray(expectation, found, sightings) if not flooded(s)), None)


def refusals(sightings: Sequence[Sighting]) -> list[str]:
    """Return who refused the flow by an ICMP error, `port-unreachable from 10.244.1.2`."""
    ordered = sorted(sightings, key=lambda sighting: sighting.time)
    words = [
        f"{s.icmp} from {s.flow.source}"
        for s in ordered
        if s.icmp and not s.icmp.startswith("echo-")
    ]
    return list(dict.fromkeys(words))


def compare(
    expectation: Expectation,
    sightings: Sequence[Sighting],
    *,
    answered: bool | None = None,
    refused: str = "",
    path: str = "probe",
    title: str = "",
) -> Verdict:
    """Return what the sightings say about the expected way.

    *answered*: whether the sender got its answer; None when it was not waited for. *refused*:
    what the sender's socket was told instead. An answer alone never passes: every hop must have
    been seen, and looked as it should.
    """
    flow = expectation.flow
    legs: dict[Leg | None, list[Sighting]] = {Leg.REQUEST: [], Leg.REPLY: [], None: []}
    for sighting in sightings:
        legs[leg_in(expectation, sighting)].append(sighting)
    found = passages(Leg.REQUEST, expectation.request, legs[Leg.REQUEST])
    found += passages(Leg.REPLY, expectation.reply, legs[Leg.REPLY])

    def verdict(
        outcome: Outcome, evidence: Sequence[str], last: str = "", following: str = ""
    ) -> Verdict:
        return Verdict(
            path,
            outcome,
            title,
            tuple(evidence),
            last,
            following,
            flow=flow,
            passages=tuple(found),
        )

    shown = forbidden_sighting(expectation, sightings)
    if shown is not None:
        return verdict(
            Outcome.FAIL,
            [f"seen on {shown.where}, where this flow must not show"],
            shown.where,
            "never there",
        )
    if answered and not any(p.sighting for p in found) and found:
        return verdict(Outcome.FAIL, ["answered without having been seen anywhere on its way"])
    for index, passage in enumerate(found):
        if passage.problem:
            before = found[index - 1] if index else None
            return verdict(
                Outcome.FAIL,
                _what_went_wrong(
                    expectation, found, index, sightings, answered=answered, refused=refused
                ),
                before.hop.where if before else "nowhere",
                f"{passage.hop.where} as {passage.hop.looks}"
                + (f" ({before.hop.why})" if before and before.hop.why else ""),
            )
    bare = bare_sighting(expectation, found, sightings)
    if bare is not None:
        return verdict(
            Outcome.FAIL,
            [f"seen on {bare.where} outside {_kinds(found)}"],
            bare.where,
            f"only inside {_kinds(found)} there",
        )
    if expectation.ends:
        beyond = stray(expectation, found, sightings)
        if beyond or answered:
            what = f"went on to {beyond[0].where}" if beyond else "was answered"
            last = found[-1].hop.where if found else "nowhere"
            return verdict(Outcome.FAIL, [f"it {what}"], last, f"nothing: {expectation.ends}")
        return verdict(Outcome.PASS, _stopped_evidence(expectation, found, sightings, refused))
    if answered is False:
        last = found[-1].hop.where if found else "nowhere"
        return verdict(
            Outcome.FAIL,
            [
                "every hop seen, but the sender got no answer",
                *_refused_words(refused, sightings),
            ],
            last,
            "an answer to the sender's socket",
        )
    copy = astray(expectation, found, sightings)
    if copy is not None:
        return verdict(
            Outcome.FAIL,
            [f"every hop seen, but also {copy.where}, which is not on its way"],
            copy.where,
            "never there",
        )
    return verdict(Outcome.PASS, _pass_evidence(found))


def _what_went_wrong(
    expectation: Expectation,
    found: Sequence[Passage],
    index: int,
    sightings: Sequence[Sighting],
    *,
    answered: bool | None,
    refused: str,
) -> list[str]:
    """The problem of the first bad hop, then what else was seen that may explain it."""
    passage = found[index]
    lines = [f"{passage.leg}: {passage.problem}"]
    lines += _refused_words(refused, sightings)
    elsewhere = stray(expectation, found, sightings)[:SHOWN]
    for sighting in elsewhere:
        outer = sighting.outer
        inside = f" in {outer.kind} {outer.source} -> {outer.destination}" if outer else ""
        lines.append(f"seen off its way: {sighting.where}{inside}")
    if answered:
        lines.append("the sender was answered all the same")
    return lines


def _stopped_evidence(
    expectation: Expectation,
    found: Sequence[Passage],
    sightings: Sequence[Sighting],
    refused: str,
) -> list[str]:
    last = f"last seen at {found[-1].hop.where}" if found else "not even sent"
    return [f"{last}: {expectation.ends}", *_refused_words(refused, sightings)]


def _refused_words(refused: str, sightings: Sequence[Sighting]) -> list[str]:
    words = [f"the sender was told: {refused}"] if refused else []
    return words + [f"refused: {word}" for word in refusals(sightings)]


def _pass_evidence(found: Sequence[Passage]) -> list[str]:
    lines = []
    for leg in Leg:
        mine = [p for p in found if p.leg is leg and p.sighting is not None]
        if not mine:
            continue
        first, last = mine[0].sighting, mine[-1].sighting
        assert first is not None and last is not None
        lines.append(
            f"{leg}: {len(mine)} hops seen in {(last.time - first.time) // 1000} µs, "
            f"TTL {first.ttl} -> {last.ttl}"
        )
    return lines
