"""Why a flow does not arrive: the exact place, the cause, what shows it, and what would repair it.

1. A conversation is sent and followed as for a trace; nobody waits for a timeout.
2. A rule's verdict, an ICMP answer, a reset are proof by themselves.
3. Otherwise what should be on the packet's way is compared with what is, as the agent does it; and
   the kernel is asked, where the packet stopped, what it would do with it.
4. The first cause in this order counts; the others are told behind it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol as Interface

import msgspec

from netlab.agent.rules import State, programmed
from netlab.cluster import Cluster, NodeState
from netlab.errors import CapabilityError
from netlab.flannel.lease import Lease
from netlab.flannel.lease import peers as leases_of
from netlab.journeys import (
    Cause,
    Diagnosis,
    End,
    Fate,
    Journey,
    Kind,
    Place,
    Rewrite,
    RewriteKind,
    Rule,
    Seen,
    Track,
)
from netlab.kernel import lookup
from netlab.kernel.netns import entered, exists
from netlab.packets import Flow, Leg, Protocol, RuleHit
from netlab.paths import places
from netlab.proxy.claims import Owner
from netlab.sensors.drops import Drops
from netlab.store.etcd import Listing
from netlab.telling.naming import Names
from netlab.telling.packets import ETHERNET, INNER
from netlab.telling.selecting import transport
from netlab.tracing import astray, drift, shot, state
from netlab.tracing.asking import Asking, asking
from netlab.tracing.stops import Stop, dropped_by, errors, reset, stop, stop_of

THINKING = 0.4  # seconds for a server that was reached
_EXACT = (Kind.TUNNEL, Kind.RP_FILTER, Kind.CONNTRACK_FULL)  # nothing explains these better
_LISTENING = {"tcp": "0A", "udp": "07"}  # states in /proc/net/tcp and udp, include/net/tcp_states.h


class Live(Interface):
    """What this needs of a running lab."""

    def cluster(self) -> Cluster: ...
    def leases(self) -> Listing: ...


def why(
    live: Live,
    source: str,
    destination: str,
    *,
    protocol: str = "",
    port: int | str = 0,
    http: str = "",
    dns: str = "",
    size: int = 0,
) -> Diagnosis:
    """Send one conversation through a lab and return what stopped it.

    The words are those of `asking`. Raises NotFoundError, UsageError, CapabilityError.
    """
    began = time.monotonic()
    cluster = live.cluster()
    asked = asking(
        cluster, source, destination, protocol=protocol, port=port, http=http, dns=dns, size=size
    )
    names = Names(cluster)
    with shot.opened(cluster, asked, names) as watch, _drops() as drops:
        fired = shot.fired(cluster, asked, watch, names, thinking=THINKING, remembering=False)
        journey = shot.journey(fired, names)
        dropped = _dropped(journey, drops)
    found: list[Cause] = []
    if not journey.answered:
        found = list(_once(_causes(live, cluster, names, asked, journey)))
        stop = stop_of(journey)
        found = found or list(astray.untraced(stop, dropped))
        found = found or [_unknown(names, asked, journey, stop, dropped)]
        proof = (*found[0].proof, *astray.rewrites(journey), *dropped)
        found[0] = msgspec.structs.replace(found[0], proof=proof)
    return Diagnosis(journey, tuple(found), time.monotonic() - began)


@contextmanager
def _drops() -> Iterator[Drops | None]:
    """Have the kernel's drop reasons noted; None where it does not tell them."""
    with ExitStack() as stack:
        try:
            noted: Drops | None = stack.enter_context(Drops())
        except CapabilityError:
            noted = None
        yield noted


def _dropped(journey: Journey, drops: Drops | None) -> tuple[str, ...]:
    """Return, as proof, the kernel's drop reason for the packet that did not arrive."""
    stop = stop_of(journey)
    if drops is None or stop is None:
        return ()
    since = stop.last.time if stop.last else 0
    told = drops.told(since=since)
    return (f"the kernel's drop reason: {told[0]}",) if told else ()


def _once(causes: Iterable[Cause]) -> Iterator[Cause]:
    seen: set[tuple[Kind, Place]] = set()
    for cause in causes:
        if (cause.kind, cause.place) not in seen:
            seen.add((cause.kind, cause.place))
            yield cause


def _causes(
    live: Live, cluster: Cluster, names: Names, asked: Asking, journey: Journey
) -> Iterator[Cause]:
    stop = stop_of(journey) or _at_sender(names, asked, journey)
    way = _way(cluster, asked, journey)
    leases = leases_of(live.leases().items)[0]
    drifted = list(drift.causes(drift.differences(cluster, leases, way), names))
    looked = list(state.causes(cluster, names, journey, stop)) if stop else []
    yield from _without_lease(cluster, names, way, leases)
    hit = dropped_by(stop) if stop else None
    if hit is not None and stop is not None:
        before = {place.netns for place in stop.visited} - {stop.place.netns}
        yield from (one for one in drifted if one.place.netns in before)
        if hit.chain == "cluster-ips-check":
            yield from _nobody(cluster, names, asked, journey)
        yield _by_rule(stop, hit, journey)
    else:
        yield from _nobody(cluster, names, asked, journey)
        yield from (one for one in looked if one.kind in _EXACT)
        yield from _without_rules(cluster, names, asked, journey)
    yield from drifted
    if stop is not None and hit is None:
        yield from astray.wrong_mac(names, stop)
    yield from looked
    yield from _told(names, asked, journey, stop)
    if stop is None and any(track.sightings for track in journey.tracks):
        yield from _silence(names, journey)


def _at_sender(names: Names, asked: Asking, journey: Journey) -> Stop | None:
    """Return the stop of a packet that no device showed, and whose sender was told nothing."""
    if journey.refused or any(track.steps for track in journey.tracks):
        return None
    end = End(names.place(asked.source.netns), Fate.LOST)
    track = Track("request", Leg.REQUEST, journey.flow, (end,))
    return stop(track, end)


def _way(cluster: Cluster, asked: Asking, journey: Journey) -> drift.Way:
    """Return what the flow depends on: where it was, then where it should have come."""
    goal = asked.destination.place
    visited = [step.place.netns for track in journey.tracks for step in track.steps]
    ends = {end for track in journey.tracks for end in _addresses(track.steps)}
    addresses = {journey.flow.source, journey.flow.destination, *ends} - {""}
    pods = [pod for pod in cluster.pods if pod.ip in addresses and not pod.host_network]
    near = {pod.node for pod in pods} | {p.node.name for p in (asked.source, goal) if p.node}
    netns = [asked.source.netns, *visited]
    nodes = [one for one in cluster.nodes if one.name in near or one.netns in visited]
    netns += [one.netns for one in nodes]
    if len(nodes) > 1 or not (asked.source.pod and goal.pod):
        netns += [cluster.lab.netns("underlay"), cluster.lab.netns("gateway")]
    netns += [goal.netns, *(pod.netns for pod in pods)]
    return drift.Way(
        tuple(dict.fromkeys(one for one in netns if one)), frozenset(addresses), tuple(nodes)
    )


def _addresses(steps: Iterable[object]) -> Iterator[str]:
    for step in steps:
        if isinstance(step, Rewrite):
            yield from (step.after.source, step.after.destination)


def _without_lease(
    cluster: Cluster, names: Names, way: drift.Way, leases: Iterable[Lease]
) -> Iterator[Cause]:
    held = {one.public_ip for one in leases}
    for node in way.nodes:
        if node.address not in held:
            yield _no_lease(names, node)


def _no_lease(names: Names, node: NodeState) -> Cause:
    return Cause(
        Kind.LEASE,
        names.place(node.netns),
        f"{node.name} ({node.address}) has no lease in etcd: nobody knows a way to its pods",
        ("no key below /coreos.com/network/subnets has its address",),
        ("its node takes one again: is the lab's agent running? `netlab status`",),
    )


# -- what is proof by itself


def _by_rule(stop: Stop, hit: RuleHit, journey: Journey) -> Cause:
    proof: tuple[str, ...] = (
        f"the kernel's trace: verdict {hit.verdict} at {hit.hook} of {stop.place}",
    )
    if journey.refused:
        proof += (f"the sender was told: {journey.refused}",)
    called = _called(stop, hit)
    if called is not None:
        by = f"{called.table} {called.chain}: {called.rule}"
        proof = (*proof, f"{hit.chain} was called by {by}")
    what = f"{hit.table} {hit.chain}: {hit.rule}" if hit.rule else (
        f"the policy of {hit.table} {hit.chain} is {hit.verdict.removeprefix('policy ')}"
    )  # fmt: skip
    rule = hit.rule
    if "has no endpoints" in rule or "no-endpoint" in rule or "no local endpoints" in rule:
        return _no_endpoints(stop, hit, what, proof, journey)
    asked_of = called.rule if called is not None else ""
    if hit.chain.startswith(("no-endpoint", "service-endpoints")) or "no-endpoint" in asked_of:
        return _no_endpoints(stop, hit, what, proof, journey)
    if "INVALID" in rule or "ct state invalid" in rule:
        return Cause(
            Kind.CONNTRACK_INVALID,
            stop.place,
            f"to the connection tracking of {stop.place} the packet is of no connection; {what}",
            proof,
            (
                "it saw no beginning of it: is the way there another one than the way back, "
                "or does a `notrack` rule hide one?",
            ),
        )
    verb = "refuses" if stop.end.fate is Fate.REFUSED else "drops"
    if hit.verdict == "queue":
        what = f"a rule hands it to a queue, and no program gives it back: {what}"
        return Cause(Kind.RULE, stop.place, what, proof, rule_repair(stop.place, hit))
    return Cause(
        Kind.RULE, stop.place, f"a rule {verb} it: {what}", proof, rule_repair(stop.place, hit)
    )


def _called(stop: Stop, hit: RuleHit) -> RuleHit | None:
    """Return the rule that sent the packet to the chain of *hit*, None for a base chain."""
    words = (f"jump {hit.chain}", f"goto {hit.chain}")
    return next((one for one in reversed(stop.hits) if one.verdict in words), None)


def _no_endpoints(
    stop: Stop, hit: RuleHit, what: str, proof: tuple[str, ...], journey: Journey
) -> Cause:
    service = journey.service or "the Service"
    # Both modes drop where only others' endpoints are left, and refuse where there is none at all.
    local = hit.verdict == "drop" and ("no local endpoints" in hit.rule or "vmap" in hit.rule)
    which = f" on {stop.place}, and its policy is Local" if local else ""
    return Cause(
        Kind.NO_ENDPOINTS,
        stop.place,
        f"Service {service} has no ready endpoint{which}: {what}",
        proof,
        (f"netlab describe service {service.partition(':')[0]}",),
    )


def rule_repair(place: Place, hit: RuleHit) -> tuple[str, ...]:
    run = f"netlab exec {state.exec_target(place)} --"
    if hit.chain.startswith(("KUBE-", "FLANNEL-")) or hit.table == "kube-proxy":
        return ("netlab get rules, netlab describe service: it is what the objects ask for",)
    if "not published" in hit.rule:
        return ("publish the port: `gateway.publish` of the lab's file, and `netlab up` it",)
    if hit.rule.startswith("-") and hit.family in ("ip", "ip6"):
        tool = "iptables-nft" if hit.family == "ip" else "ip6tables-nft"
        words = (tool, "-t", hit.table, "-D", hit.chain, *rule_words(hit.rule))
        return (f"{run} {shlex.join(words)}",)
    at = hit.family, hit.table, hit.chain
    if not hit.rule:
        policy = f"chain {' '.join(at)} {{ policy accept; }}"
        return (f"{run} nft {shlex.quote(policy)}",)
    return (f"{run} {shlex.join(('nft', 'delete', 'rule', *at, 'handle', str(hit.handle)))}",)


def rule_words(rule: str) -> list[str]:
    """Return the words of a rule as iptables-save prints it: what has more than letters, digits,
    `-` and `_` is in double quotes, with a backslash before `"`, `'` and itself.

    Source: iptables libxtables/xtables.c, xtables_save_string, v1.8.9.
    """
    return shlex.split(rule.replace("\\'", "'"))


def _told(names: Names, asked: Asking, journey: Journey, stop: Stop | None) -> Iterator[Cause]:
    """Yield what somebody on the way, the server's kernel or the sender's own said."""
    for name, seen in errors(journey):
        yield from _error(names, journey, name, seen, stop)
    refused = reset(journey)
    if refused is not None:
        yield _no_listener(names, journey, refused.place)
    if journey.refused and not any(track.sightings for track in journey.tracks):
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
            yield _no_listener(names, journey, place, proof)
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
                rule_repair(step.place, step.hit),
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
    packet = seen.frame[INNER if seen.outer else ETHERNET :]
    return int.from_bytes(transport(packet)[6:8], "big")


def _no_listener(
    names: Names, journey: Journey, place: Place, proof: tuple[str, ...] = ()
) -> Cause:
    flow = _as_arrived(journey)
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


def _as_arrived(journey: Journey) -> Flow:
    """Return the flow as its first packet was last seen."""
    for track in journey.tracks:
        if track.leg is Leg.REQUEST and track.sightings:
            return track.sightings[-1].flow
    return journey.flow


def _nobody(cluster: Cluster, names: Names, asked: Asking, journey: Journey) -> Iterator[Cause]:
    """Yield that nobody is at the address, or no Service at the port, that was asked."""
    flow, place = journey.flow, names.place(asked.source.netns)
    to, port = flow.destination, f"{flow.destination_port}/{flow.protocol}"
    served = names.served_at(to)
    if served and port not in served:
        service = next(iter(served.values())).partition(":")[0]
        asked_for = "an echo" if flow.protocol is Protocol.ICMP else port
        yield Cause(
            Kind.NO_PORT,
            place,
            f"Service {service} does not serve {asked_for} at {to}: it serves {', '.join(served)}",
            ("no rule of a proxy is for that port",),
            (f"netlab describe service {service}",),
        )
    elif not served and not names.home(to) and drift.inside(cluster, to):
        where = "the pods' network" if places.in_network(cluster, to) else "the Services' range"
        yield Cause(
            Kind.ADDRESS,
            place,
            f"nobody has {to}: it is in {where}, and no pod's, node's nor Service's",
            ("etcd knows no object with it",),
            ("netlab get pods,services -A -o wide",),
        )


def _without_rules(
    cluster: Cluster, names: Names, asked: Asking, journey: Journey
) -> Iterator[Cause]:
    """Yield that a Service's rules are not there, when none sent the flow to an endpoint."""
    service = journey.service.partition(":")[0]
    rewritten = any(
        isinstance(step, Rewrite) and step.kind is RewriteKind.DNAT
        for track in journey.tracks
        for step in track.steps
    )
    if not service or rewritten:
        return
    visited = {step.place.netns for track in journey.tracks for step in track.steps}
    node = asked.source.node or next((n for n in cluster.nodes if n.netns in visited), None)
    if node is None:
        return
    namespace, _, name = service.partition("/")
    only = {Owner(False, namespace, name)}
    wrong = [one for one in programmed(cluster, node.name, only=only) if one.state is not State.OK]
    for one in wrong[:1]:
        missing = [rule.text for rule in one.rules if rule.state is State.MISSING]
        what = f"{one.block.table} {one.block.name}"
        yield Cause(
            Kind.RULE_GONE,
            names.place(node.netns),
            f"no rule sent it to an endpoint of Service {service}: in {what} "
            f"{len(missing) or 'some'} of its rules are not there",
            tuple(f"wanted in {what}: {text}" for text in missing[:2]),
            (f"netlab get rules {node.name} --service {service} -o wide", drift.AGENT),
        )


# -- what is left


def _silence(names: Names, journey: Journey) -> Iterator[Cause]:
    """Every packet arrived, and no answer came."""
    flow = _as_arrived(journey)
    place = names.place(names.home(flow.destination) or "")
    if not any(track.sightings for track in journey.tracks if track.leg is Leg.REPLY):
        yield from _no_way_back(place, flow)
    port = f"{flow.destination_port}/{flow.protocol}"
    if flow.protocol is not Protocol.ICMP and port not in listening(place.netns):
        yield _no_listener(names, journey, place, ("it arrived, and nothing came back",))
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


def _unknown(
    names: Names, asked: Asking, journey: Journey, stop: Stop | None, dropped: Sequence[str]
) -> Cause:
    place = stop.place if stop else names.place(asked.source.netns)
    where = stop.where if stop else "nowhere"
    nothing = "nothing netlab looks at explains why it went no further"
    return Cause(
        Kind.UNKNOWN,
        place,
        f"it was last seen at {where}, and " + (dropped[0] if dropped else nothing),
        tuple(f"the sender was told: {one}" for one in (journey.refused,) if one),
        ("netlab capture there, `netlab trace --all-rules`",),
    )
