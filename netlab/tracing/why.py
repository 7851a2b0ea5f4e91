"""Why a flow does not arrive: the exact place, the cause, what shows it, and what would repair it.

1. A conversation is sent and followed as for a trace; nobody waits for a timeout.
2. A rule's verdict, an ICMP answer, a reset are proof by themselves.
3. Otherwise what should be on the packet's way is compared with what is, as the agent does it; and
   the kernel is asked, where the packet stopped, what it would do with it.
4. The first cause in this order counts; the others are told behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol as Interface

import msgspec

from netlab.cluster import Cluster, NodeState
from netlab.errors import CapabilityError
from netlab.faults import TABLE
from netlab.flannel import members
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
    Track,
)
from netlab.model.modes import Mode
from netlab.packets import Leg, Protocol
from netlab.paths import places
from netlab.sensors.drops import Drops
from netlab.store.etcd import Listing
from netlab.telling.naming import Names
from netlab.telling.policies import is_of_policies
from netlab.tracing import (
    astray,
    balanced,
    denied,
    drift,
    faulted,
    foreign,
    relayed,
    ruled,
    shot,
    state,
    told,
)
from netlab.tracing.asking import Asking, asking
from netlab.tracing.named import looked_up
from netlab.tracing.stops import Stop, dropped_by, stop, stop_of

_EXACT = (Kind.TUNNEL, Kind.RP_FILTER, Kind.CONNTRACK_FULL)  # nothing explains these better


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
        *(cluster, source, destination),
        protocol=protocol,
        port=port,
        http=http,
        dns=dns,
        size=size,
        look_up=looked_up,
    )
    names = Names(cluster)
    with shot.opened(cluster, asked, names) as watch, _drops() as drops:
        fired = shot.fired(cluster, asked, watch, names, thinking=told.THINKING, remembering=False)
        journey = shot.journey(fired, names)
        dropped = _dropped(journey, drops)
    found: list[Cause] = []
    if not journey.answered:
        found = list(_once(_causes(live, cluster, names, asked, journey)))
        stop = stop_of(journey)
        if stop is None or dropped_by(stop) is None:
            found = [*astray.untraced(stop, dropped), *found]
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
    items = live.leases().items
    leases = leases_of(items)[0]
    nodes = {node.address for node in cluster.nodes}
    member = members.holder(items, nodes, journey.flow.destination)
    drifted = list(drift.causes(drift.differences(cluster, leases, way), names))
    looked = list(state.causes(cluster, names, journey, stop)) if stop else []
    yield from foreign.causes(cluster, names, asked, journey, way, leases)
    yield from _without_lease(cluster, names, way, leases)
    hit = dropped_by(stop) if stop else None
    made = list(faulted.causes(cluster, names, way))
    if hit is None or hit.table == TABLE:
        yield from made
    yield from balanced.causes(cluster, names, asked, journey)
    if hit is not None and stop is not None:
        before = {place.netns for place in stop.visited} - {stop.place.netns}
        yield from (one for one in drifted if one.place.netns in before)
        if hit.chain == "cluster-ips-check":
            yield from _nobody(cluster, names, asked, journey)
        if is_of_policies(hit):
            yield denied.cause_of(cluster, names, stop, hit)
        else:
            yield ruled.cause_of(stop, hit, journey)
    else:
        if member is None:
            yield from _nobody(cluster, names, asked, journey)
        yield from relayed.causes(cluster, names, journey)
        if cluster.lab.proxyMode == Mode.IPVS:
            yield from ruled.unserved(names, journey, (one.netns for one in way.nodes))
        yield from (one for one in looked if one.kind in _EXACT)
        yield from ruled.missing(cluster, names, asked, journey)
    yield from drifted
    if member is not None and hit is None:  # which may send it back to where nobody has it
        yield from foreign.beyond(names, asked, member)
    if stop is not None and hit is None:
        yield from astray.wrong_mac(names, stop)
    yield from looked
    yield from made
    yield from told.causes(names, asked, journey, stop)
    if stop is None and any(track.sightings for track in journey.tracks):
        yield from told.silence(names, journey)


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
    if len(nodes) > 1 or not (asked.source.node and goal.node):
        netns += [cluster.lab.netns("underlay"), cluster.lab.netns("gateway")]
    balancer = cluster.lab.balancer
    if balancer is not None and balancer.holds(journey.flow.destination):
        netns += [cluster.lab.netns("balancer")]
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
        if node.address not in held and not node.declared.foreign_flannel:
            yield _no_lease(names, node)


def _no_lease(names: Names, node: NodeState) -> Cause:
    return Cause(
        Kind.LEASE,
        names.place(node.netns),
        f"{node.name} ({node.address}) has no lease in etcd: nobody knows a way to its pods",
        ("no key below /coreos.com/network/subnets has its address",),
        ("its node takes one again: is the lab's agent running? `netlab status`",),
    )


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
