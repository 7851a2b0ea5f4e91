"""What may have stopped a flow, as the machine says that it is asked on: in stages.

A stage is a list of causes of one kind; what an earlier stage says is likelier. In a lab of several
machines each looks at what is on it and at nothing else, and their stages are joined: see `part`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol as Interface

from netlab import world
from netlab.cluster import Cluster, NodeState
from netlab.faults import TABLE
from netlab.flannel import members
from netlab.flannel.lease import Lease
from netlab.flannel.lease import peers as leases_of
from netlab.journeys import Cause, End, Fate, Journey, Kind, Rewrite, Track
from netlab.model.modes import Mode
from netlab.packets import Leg, Protocol
from netlab.paths import places
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
    state,
    told,
)
from netlab.tracing.asking import Asking
from netlab.tracing.stops import Stop, dropped_by, stop, stop_of

_EXACT = (Kind.TUNNEL, Kind.RP_FILTER, Kind.CONNTRACK_FULL)  # nothing explains these better

Here = Callable[[str], bool]  # whether a namespace is on this machine


class Live(Interface):
    """What is needed of a running lab."""

    def leases(self) -> Listing: ...


def everywhere(netns: str) -> bool:
    """Return that *netns* is on this machine, as all of a lab on one is."""
    return True


def stages(
    live: Live,
    cluster: Cluster,
    asked: Asking,
    journey: Journey,
    dropped: Sequence[str],
    *,
    here: Here = everywhere,
) -> list[list[Cause]]:
    """Return what may have stopped a journey that was not answered, the likeliest first.

    *dropped*: what the kernel of the sender's machine gave as its reason.
    """
    names = Names(cluster)
    found = _stages(live, cluster, names, asked, journey, tuple(dropped), here)
    return [[one for one in stage if here(one.place.netns)] for stage in found]


def _stages(
    live: Live,
    cluster: Cluster,
    names: Names,
    asked: Asking,
    journey: Journey,
    dropped: tuple[str, ...],
    here: Here,
) -> Iterator[Iterable[Cause]]:
    stop = stop_of(journey)
    untraced = stop is None or dropped_by(stop) is None
    yield astray.untraced(stop, dropped) if untraced else ()
    stop = stop or _at_sender(names, asked, journey)
    way = way_of(cluster, asked, journey)
    mine = way._replace(netns=tuple(filter(here, way.netns)))
    items = live.leases().items
    leases = leases_of(items)[0]
    nodes = {node.address for node in cluster.nodes}
    member = members.holder(items, nodes, journey.flow.destination)
    drifted = list(drift.causes(drift.differences(cluster, leases, mine), names))
    looked = list(state.causes(cluster, names, journey, stop)) if stop else []
    yield foreign.causes(cluster, names, asked, journey, way, leases)
    yield _without_lease(cluster, names, way, leases)
    hit = dropped_by(stop) if stop else None
    made = list(faulted.causes(cluster, names, way))
    yield made if hit is None or hit.table == TABLE else ()
    yield balanced.causes(cluster, names, asked, journey)
    if hit is not None and stop is not None:
        before = {place.netns for place in stop.visited} - {stop.place.netns}
        yield (one for one in drifted if one.place.netns in before)
        yield _nobody(cluster, names, asked, journey) if hit.chain == "cluster-ips-check" else ()
        if is_of_policies(hit):
            yield [denied.cause_of(cluster, names, stop, hit)]
        else:
            yield [ruled.cause_of(stop, hit, journey)]
    else:
        yield _nobody(cluster, names, asked, journey) if member is None else ()
        yield relayed.causes(cluster, names, journey)
        if cluster.lab.proxyMode == Mode.IPVS:
            yield ruled.unserved(names, journey, [n.netns for n in way.nodes if here(n.netns)])
        yield (one for one in looked if one.kind in _EXACT)
        yield ruled.missing(cluster, names, asked, journey) if here(asked.source.netns) else ()
    yield drifted
    if member is not None and hit is None:  # which may send it back to where nobody has it
        yield foreign.beyond(names, asked, member)
    yield astray.wrong_mac(names, stop) if stop is not None and hit is None else ()
    yield looked
    yield made
    yield told.causes(names, asked, journey, stop)
    if stop is None and any(track.sightings for track in journey.tracks):
        yield told.silence(names, journey)


def _at_sender(names: Names, asked: Asking, journey: Journey) -> Stop | None:
    """Return the stop of a packet that no device showed, and whose sender was told nothing."""
    if journey.refused or any(track.steps for track in journey.tracks):
        return None
    end = End(names.place(asked.source.netns), Fate.LOST)
    track = Track("request", Leg.REQUEST, journey.flow, (end,))
    return stop(track, end)


def way_of(cluster: Cluster, asked: Asking, journey: Journey) -> drift.Way:
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
        netns += world.between(cluster.lab)
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
