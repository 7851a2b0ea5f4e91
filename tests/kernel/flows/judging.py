"""What a row of the table expects, against what became of its packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from flow_cases import masquerades

from netlab.proxy.addresses import is_loopback

from .packets import PROTOCOLS, SCTP, Error, Packet, Sort
from .topology import OUTSIDE, Place, Topology, host
from .traffic import Traffic

Words = dict[str, Any]


class Burst(NamedTuple):
    """The packets of one flow, sent."""

    flow: Words
    sender: Place
    translator: str  # the node whose proxy handles them
    expected: str | list[str]
    packets: list[Packet]


def goal(flow: Words) -> tuple[str, int, int]:
    """Return the address, port and protocol number a flow goes to."""
    where, _, protocol = flow["to"].partition("/")
    return host(where), int(where.rpartition(":")[2]), PROTOCOLS[protocol]


def endpoint(packet: Packet) -> str:
    """Return where a packet goes as the table writes it: `10.180.0.1:80`, `[fd00::1]:80`."""
    where = f"[{packet.destination}]" if packet.ipv6 else packet.destination
    return f"{where}:{packet.port}"


def complaints(burst: Burst, traffic: Traffic) -> Iterator[str]:
    """Yield what differs from what the row expects, each in words."""
    match burst.expected:
        case list():
            yield from _endpoints(burst, traffic)
        case "rejected":
            yield from _each(burst, traffic, _is_rejected)
        case "dropped":
            yield from _each(burst, traffic, _is_dropped)
        case "host":
            yield from _each(burst, traffic, _is_delivered)
        case "no-match":
            yield from _each(burst, traffic, _is_untouched)
        case other:
            raise AssertionError(f"the table expects {other!r}, which means nothing here")


def chosen(burst: Burst, traffic: Traffic) -> set[str]:
    """Return the endpoints that saw a packet of the burst."""
    found = (traffic.arrivals(one.token) for one in burst.packets)
    return {endpoint(seen[0][1]) for seen in found if seen}


def _each(burst: Burst, traffic: Traffic, holds: Any) -> Iterator[str]:
    wrong = Counter(_words(one, traffic) for one in burst.packets if not holds(burst, one, traffic))
    for what, number in wrong.items():
        yield f"expected {burst.expected}, but {number} of {len(burst.packets)}: {what}"


def _words(packet: Packet, traffic: Traffic) -> str:
    """Return what became of a packet, where it was seen first to last."""
    said = []
    for place, what in traffic.sightings(packet.token):
        if isinstance(what, Error):
            said.append(
                f"{place} was told {what.sort} for {endpoint(what.quoted)} by {what.source}"
            )
        elif what.sort is Sort.REQUEST:
            said.append(f"arrived at {place} as {endpoint(what)} from {what.source}")
        else:
            said.append(f"{place} was answered {what.sort} by {what.source}:{what.source_port}")
    return "; ".join(said) or "seen nowhere"


def _is_rejected(burst: Burst, sent: Packet, traffic: Traffic) -> bool:
    """Return whether the client was told, about the packet as it sent it, and nobody saw it."""
    told = [one.what for one in traffic.answers(sent.token, burst.sender.name)]
    return not traffic.arrivals(sent.token) and any(
        isinstance(one, Error) and one.sort is Sort.PORT_UNREACHABLE and one.quoted == sent
        for one in told
    )


def _is_dropped(burst: Burst, sent: Packet, traffic: Traffic) -> bool:
    return not traffic.sightings(sent.token)


def _is_delivered(burst: Burst, sent: Packet, traffic: Traffic) -> bool:
    """Return whether the host that has the address got it as it was sent."""
    return traffic.arrivals(sent.token)[:1] == [(_owner(burst, sent, traffic.world), sent)]


def _is_untouched(burst: Burst, sent: Packet, traffic: Traffic) -> bool:
    """Return whether no proxy did anything: it arrives as it was sent.

    That is where the row says (`direct_to`), at the host that has the address, whose stack then
    answers, or, when nobody has it, where the node's default route leads.
    """
    if goal := burst.flow.get("direct_to"):
        where = traffic.world.at(sent.destination)
        assert where is not None and goal == endpoint(sent)
        return traffic.arrivals(sent.token) == [(where.name, sent)]
    owner = _owner(burst, sent, traffic.world)
    if traffic.arrivals(sent.token) != [(owner or OUTSIDE, sent)]:
        return False
    if not owner or sent.protocol == SCTP:  # of which a sensor keeps the stack from answering
        return True
    answers = traffic.answers(sent.token, burst.sender.name)
    return any(_is_answer(one.what, sent) for one in answers)


def _owner(burst: Burst, sent: Packet, world: Topology) -> str:
    """Return the node that has the address of a packet; "": none."""
    if is_loopback(sent.destination):
        return burst.translator
    where = world.at(sent.destination)
    return where.name if where and where.is_node else ""


def _is_answer(what: Packet | Error, sent: Packet) -> bool:
    """Return whether this answers *sent*, from the address and port it was sent to."""
    if isinstance(what, Error):
        return what.quoted == sent
    ends = (what.source, what.source_port, what.destination, what.port)
    return ends == (sent.destination, sent.port, sent.source, sent.source_port)


def _endpoints(burst: Burst, traffic: Traffic) -> Iterator[str]:
    expected = set(burst.expected)
    seen = chosen(burst, traffic)
    stray = [
        one
        for one in burst.packets
        if not _lands(traffic.arrivals(one.token), expected, traffic.world)
    ]
    for what, number in Counter(_words(one, traffic) for one in stray).items():
        yield f"expected {sorted(expected)}, but {number} of {len(burst.packets)}: {what}"
    if burst.flow.get("selection") == "one-for-all":
        if len(seen) > 1:
            yield f"expected one endpoint for all, but saw {sorted(seen)}"
    elif not stray and not burst.flow.get("source_port") and seen != expected:
        yield f"expected all of {sorted(expected)}, but saw only {sorted(seen)}"
    wrong = Counter(
        what for one in burst.packets if one not in stray for what in _sources(burst, one, traffic)
    )
    for what, number in wrong.items():
        yield f"{what} ({number} of {len(burst.packets)})"


def _lands(arrivals: list[tuple[str, Packet]], expected: set[str], world: Topology) -> bool:
    """Return whether a packet arrived first at one of *expected*, at the place that has it."""
    if not arrivals:
        return False
    place, what = arrivals[0]
    return endpoint(what) in expected and what.destination in world.places[place].addresses


def _sources(burst: Burst, sent: Packet, traffic: Traffic) -> Iterator[str]:
    """Yield what is wrong with the source an endpoint saw, and with the way back."""
    world = traffic.world
    place, what = traffic.arrivals(sent.token)[0]
    wanted = masquerades(burst.flow["masqueraded"])
    masqueraded = wanted.get(endpoint(what), wanted.get("*"))
    if masqueraded:
        source = world.masquerade(burst.translator, what.destination)
        if what.source != source:
            yield f"{endpoint(what)} saw {what.source}, not the node's {source}"
    elif masqueraded is False and what.source != sent.source:
        yield f"{endpoint(what)} saw {what.source}, not the client's {sent.source}"
    elif masqueraded is False and what.source_port != sent.source_port:
        yield f"{endpoint(what)} saw another port than the client's"
    # An answer that does not have to come back through the translating node may take another road.
    here = burst.translator in (burst.sender.node, world.places[place].node)
    if not (masqueraded or here) or "via" in burst.flow:
        return
    answers = traffic.answers(sent.token, burst.sender.name)
    if not answers:
        yield f"{endpoint(what)}'s answer did not reach the client"
    elif not all(_is_answer(one.what, sent) for one in answers):
        yield f"{endpoint(what)}'s answer was not translated back: {_words(sent, traffic)}"
