"""What somebody said of a packet: by an ICMP error, a reset, to the sender's socket, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from netlab import patience
from netlab.journeys import (
    Cause,
    Journey,
    Kind,
    Place,
    Rule,
    Seen,
)
from netlab.kernel import lookup
from netlab.kernel.netns import entered, exists
from netlab.packets import Flow, Leg, Protocol
from netlab.telling.naming import Names
from netlab.telling.packets import before_ip
from netlab.telling.selecting import transport
from netlab.tracing import ruled, state
from netlab.tracing.asking import Asking
from netlab.tracing.stops import Stop, errors, reset

THINKING = patience.seconds(0.4)  # seconds for a server that was reached
_LISTENING = {"tcp": "0A", "udp": "07"}  # states in /proc/net/tcp and udp, include/net/tcp_states.h


def causes(names: Names, asked: Asking, journey: Journey, stop: Stop | None) -> Iterator[Cause]:
    """Yield what somebody on the way, the server's kernel or the sender's own said."""
    for name, seen in errors(journey):
        yield from _error(names, journey, name, seen, stop)
    refused = reset(journey)
    if refused is not None:
        yield no_listener(journey, refused.place)
    untold = journey.refused and not any(track.sightings for track in journey.tracks)
    if untold and exists(asked.source.netns):
        yield _not_sent(names, asked, journey)


def _not_sent(names: Names, asked: Asking, journey: Journey) -> Cause:
    place, told = names.place(asked.source.netns), journey.refused
    proof = (f"the sender's socket was told: {told}",)
    to = journey.flow.destination
    look = (f"netlab exec {state.exec_target(place)} -- ip route get {to}",)
    if told == "message too long":
        with entered(place.netns):
            way = lookup.route(to)
            mtu = next((n.mtu for n in lookup.interfaces().values() if n.ifindex == way.device), 0)
        what = f"{place} cannot send it in one piece: its device takes {mtu} bytes"
        return Cause(Kind.MTU, place, what, proof, ("a smaller --size", *look))
    if "unreachable" in told or "no route" in told:
        return Cause(Kind.ROUTE, place, f"{place} has no route to {to}", proof, look)
    return Cause(Kind.SENDER, place, f"the kernel of {place} does not send it: {told}", proof, look)


def _error(
    names: Names, journey: Journey, name: str, seen: Seen, stop: Stop | None
) -> Iterator[Cause]:
    teller, place = seen.flow.source, seen.place
    who = names.who(teller) or teller
    proof = (f"ICMP {name.replace('-', ' ')} from {teller}{f' ({who})' if who != teller else ''}",)
    flow = stop.flow if stop else journey.flow
    match name:
        case "port-unreachable":
            yield no_listener(journey, place, proof)
        case "fragmentation-needed":
            yield Cause(
                Kind.MTU,
                place,
                f"{place} cannot pass it on: it is too long for the next device (DF)",
                (*proof, f"next hop's MTU {next_mtu(seen)}"),
                ("a smaller MTU at the sender, or the larger one at that device",),
            )
        case "time-exceeded":
            yield _ttl_ended(stop, place, proof)
        case "net-unreachable" | "host-unreachable" if stop is not None:
            yield Cause(
                Kind.ROUTE if name == "net-unreachable" else Kind.NEIGHBOUR,
                place,
                f"{place} found no way to {flow.destination}",
                proof,
                (state.no_route_words(names, stop),),
            )
        case _:
            yield Cause(Kind.RULE, place, f"{place} refused it", proof, ("netlab get rules",))


def _ttl_ended(stop: Stop | None, place: Place, proof: tuple[str, ...]) -> Cause:
    """Return why a packet's TTL ended: a rule had set it, it went in a circle, or far."""
    steps = stop.track.steps if stop else ()
    rules = [step for step in steps if isinstance(step, Rule) and step.fitted]
    for step in rules:
        if "-j TTL" in step.hit.rule or "ip ttl set" in step.hit.rule:
            what = f"{step.hit.table} {step.hit.chain}: {step.hit.rule}"
            return Cause(
                Kind.TTL,
                step.place,
                f"a rule set its TTL, which ended at {place}: {what}",
                proof,
                ruled.rule_repair(step.place, step.hit),
            )
    passed = [
        (one.place.netns, one.device, one.direction) for one in steps if isinstance(one, Seen)
    ]
    if len(passed) != len(set(passed)):
        words = "it went round in a circle"
        repair = "netlab trace shows where it passed twice; ip route there"
    else:
        words = "it was sent with too few, or went further than it may"
        repair = "netlab trace shows its TTL at each device"
    return Cause(Kind.TTL, place, f"its TTL ended at {place}: {words}", proof, (repair,))


def next_mtu(seen: Seen) -> int:
    """Return the MTU that an ICMP error tells (RFC 1191), 0 if it is not found."""
    packet = seen.frame[before_ip(seen) :]
    return int.from_bytes(transport(packet)[6:8], "big")


def no_listener(journey: Journey, place: Place, proof: tuple[str, ...] = ()) -> Cause:
    flow = as_arrived(journey)
    port = f"{flow.destination_port}/{flow.protocol}"
    known = listening(place.netns)
    has = f"it listens on {', '.join(known)}" if known else "it listens on nothing"
    return Cause(
        Kind.NO_LISTENER,
        place,
        f"nothing in {place} listens on {port}: {has}",
        proof or (f"its kernel answered with a reset from {flow.destination}",),
        ("the port a container serves, or the Service's targetPort",),
    )


def listening(netns: str) -> list[str]:
    """Return what processes of a namespace listen on, `80/tcp`, from /proc/net."""
    found: dict[str, None] = {}
    if not exists(netns):
        return []
    with entered(netns):
        for protocol, wanted in _LISTENING.items():
            for file in (protocol, f"{protocol}6"):
                try:
                    lines = Path(f"/proc/thread-self/net/{file}").read_text().splitlines()[1:]
                except OSError:
                    continue
                for line in lines:
                    words = line.split()
                    if words[3] == wanted:
                        port = int(words[1].rpartition(":")[2], 16)
                        found[f"{port}/{protocol}"] = None
    return sorted(found, key=lambda one: (int(one.partition("/")[0]), one))


def as_arrived(journey: Journey) -> Flow:
    """Return the flow as its first packet was last seen."""
    for track in journey.tracks:
        if track.leg is Leg.REQUEST and track.sightings:
            return track.sightings[-1].flow
    return journey.flow


def silence(names: Names, journey: Journey) -> Iterator[Cause]:
    """Every packet arrived, and no answer came."""
    flow = as_arrived(journey)
    place = names.place(names.home(flow.destination) or "")
    if not any(track.sightings for track in journey.tracks if track.leg is Leg.REPLY):
        yield from _no_way_back(place, flow)
    port = f"{flow.destination_port}/{flow.protocol}"
    if flow.protocol is not Protocol.ICMP and port not in listening(place.netns):
        yield no_listener(journey, place, ("it arrived, and nothing came back",))
        return
    yield Cause(
        Kind.SILENT_SERVER,
        place,
        f"{place} took it and did not answer within {THINKING} s",
        ("every packet arrived",),
        (f"netlab logs {place.name}" if place.kind == "pod" else "look at the server",),
    )


def _no_way_back(place: Place, flow: Flow) -> Iterator[Cause]:
    """Yield that the server's own kernel has no route for what it would answer."""
    if not exists(place.netns):
        return
    with entered(place.netns):
        way = lookup.route(flow.source)
        policy = next((p for p in lookup.policies() if p.fits(flow.destination, flow.source)), None)
    if not way.refused and way.kind in ("unicast", "local"):
        return
    has = f"a {way.kind} route to {way.prefix}" if way.kind else "no route"
    if not way.kind and policy is not None:
        has = f"a rule of policy routing, {policy}"
    yield Cause(
        Kind.ROUTE,
        place,
        f"{place} has no way back to {flow.source}: {has}",
        ("it arrived, and no answer left",),
        (f"netlab exec {state.exec_target(place)} -- ip route get {flow.source}",),
    )
