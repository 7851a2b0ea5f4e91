"""Paths between pods, and between pods and nodes."""

from __future__ import annotations

from itertools import product

from netlab.cluster import NodeState, PodState
from netlab.packets import BARE, Leg, Protocol, Sighting
from netlab.paths.places import of_node
from netlab.probe import Shot
from netlab.proxy.addresses import Family
from netlab.verify.context import (
    Checked,
    Context,
    Failure,
    Listener,
    Skip,
    all_listeners,
    listeners,
    required,
)

RING = 8  # at most so many pairs of nodes are tried, each node once as sender and as receiver


def by(family: Family) -> str:
    """Return what evidence says of a flow by *family*; of IPv4 nothing."""
    return f" by {family}" if family is Family.IPV6 else ""


def one_of_each_protocol(found: list[Listener]) -> list[Listener]:
    return list({each.protocol: each for each in reversed(found)}.values())


def same_node(context: Context) -> Checked:
    pairs = [
        (source, target)
        for target in all_listeners(context)
        for source in context.senders
        if source.node == target.pod.node and source.netns != target.pod.netns
    ]
    if not pairs:
        raise Skip("needs two pods on one node, one with a port")
    chosen = {target.protocol: (source, target) for source, target in reversed(pairs)}
    checked = Checked()
    for family, (source, target) in product(context.families, chosen.values()):
        here = context.pod_place(source, family)
        shot = required(
            context.shoot(
                here,
                context.pod_place(target.pod, family),
                protocol=target.protocol,
                port=target.port,
            )
        )
        _same_client(shot, here.address, target.pod)
        same_packet(shot, ttl_lost=0)
        hops = len(shot.expectation.request)
        checked.evidence.append(
            f"{source.title} -> {target.pod.title} {target.port}/{target.protocol} on "
            f"{source.node}{by(family)}: {hops} hops each way, all on the bridge's ports, "
            "TTL 64 kept, never on flannel.1 nor on the node's eth0"
        )
        checked.took(shot)
    return checked


def _same_client(shot: Shot, address: str, target: PodState) -> None:
    """Check who answered, and whom it saw. Raises Failure."""
    says = shot.answer.says if shot.answer else {}
    who = f"{says.get('namespace', '')}/{says.get('pod', '')}"
    if who != target.title:
        raise Failure(
            f"{shot.flow}: answered by {who.strip('/') or 'nobody'}, not by {target.title}",
            last_seen=shot.expectation.request[-1].where,
            expected_next=f"an answer of {target.title}",
        )
    seen = shot.answer.client if shot.answer else ""
    if seen != address:
        raise Failure(
            f"{shot.flow}: the server saw {seen or 'nobody'}, not {address}",
            last_seen=shot.expectation.request[-1].where,
            expected_next=f"{target.title} sees {address}",
        )


def ends_seen(shot: Shot) -> tuple[Sighting, Sighting]:
    """Return the request at its sender and at its receiver."""
    mine = [p.sighting for p in shot.verdict.passages if p.leg is Leg.REQUEST and p.sighting]
    return mine[0], mine[-1]


def foreseen_loss(shot: Shot) -> int:
    """Return by how much the request's TTL should be less at its end: the nodes route it, and by
    flannel's udp back end two processes take part in that."""
    first, last = shot.expectation.request[0].ttl, shot.expectation.request[-1].ttl
    return (first or 0) - (last or 0)


def same_packet(shot: Shot, *, ttl_lost: int) -> None:
    """Check that one and the same packet arrived. Raises Failure naming what changed."""
    first, last = ends_seen(shot)
    for name in ("flow", "length", "ip_id"):
        before, after = getattr(first, name), getattr(last, name)
        if before != after:
            raise Failure(f"{shot.flow}: {name} changed on the way, {before} -> {after}")
    if first.content != last.content:
        raise Failure(
            f"{shot.flow}: changed on the way, {_changed_bytes(first.content, last.content)}",
            last_seen=last.where,
            expected_next="the packet as it was sent, but for TTL, checksums and MACs",
        )
    if first.ttl - last.ttl != ttl_lost:
        raise Failure(f"{shot.flow}: TTL {first.ttl} -> {last.ttl}, not -{ttl_lost}")


def _changed_bytes(sent: bytes, arrived: bytes) -> str:
    """The first byte that differs, `byte 1 of the IP packet 0x00 -> 0x10`."""
    for at, (before, after) in enumerate(zip(sent, arrived, strict=False)):
        if before != after:
            return f"byte {at} of the IP packet {before:#04x} -> {after:#04x}"
    return f"{len(sent)} bytes -> {len(arrived)} bytes"


def node_ring(context: Context) -> list[tuple[PodState, Listener]]:
    """Return (sender, listener) on different nodes, each node once as sender, at most RING."""
    by_node: dict[str, list[PodState]] = {}
    for pod in context.pods:
        by_node.setdefault(pod.node, []).append(pod)
    listening = {
        node: found
        for node, pods in by_node.items()
        if (found := [each for pod in pods for each in listeners(pod)])
    }
    names = list(by_node)
    ring = []
    for index, node in enumerate(names):
        if not context.is_here(node):
            continue
        following = names[index + 1 :] + names[:index]
        target = next((other for other in following if other in listening), None)
        if target is not None:
            for each in one_of_each_protocol(listening[target]):
                ring.append((by_node[node][0], each))
    return ring[:RING]


def cross_node(context: Context) -> Checked:
    ring = node_ring(context)
    if not ring:
        raise Skip("needs pods on two nodes, one with a port")
    checked = Checked()
    for family, (source, target) in product(context.families, ring):
        here = context.pod_place(source, family)
        shot = required(
            context.shoot(
                here,
                context.pod_place(target.pod, family),
                protocol=target.protocol,
                port=target.port,
            )
        )
        _same_client(shot, here.address, target.pod)
        same_packet(shot, ttl_lost=foreseen_loss(shot))
        checked.evidence.append(f"{source.title} -> {target.pod.title}: {_tunnel_words(shot)}")
        checked.took(shot)
    return checked


def _tunnel_words(shot: Shot) -> str:
    """What the underlay saw of a request."""
    first, last = ends_seen(shot)
    sighting = next((s for s in shot.sightings if s.outer), None)
    if sighting is None or sighting.outer is None:
        return f"{shot.flow}, TTL {first.ttl} -> {last.ttl}, routed without a tunnel"
    outer = sighting.outer
    inside = "bare" if outer.vni == BARE else f"VNI {outer.vni}"
    macs = f"{sighting.source_mac} -> {sighting.destination_mac}"
    return (
        f"{shot.flow}, TTL {first.ttl} -> {last.ttl}, on the underlay as UDP "
        f"{outer.destination_port} {outer.source} -> {outer.destination}, {inside}"
        + (f", MACs {macs}" if outer.vni != BARE else "")
    )


def pod_node(context: Context) -> Checked:
    nodes, found = context.cluster.nodes, all_listeners(context)
    target = next((one for one in found if context.is_here(one.pod.node)), None)
    if target is None:
        raise Skip("needs a pod with a port")
    own = context.cluster.node(target.pod.node)
    other = next((node for node in nodes if node != own and node.subnet), None)
    place = context.pod_place(target.pod)
    checked = Checked()

    def towards(node: NodeState, words: str) -> None:
        with context.counting:
            shot = required(context.shoot(place, of_node(node), protocol=Protocol.ICMP))
        checked.evidence.append(f"{target.pod.title} -> {node.name} ({words}): echo answered")
        checked.took(shot)

    def back(node: NodeState, to: Listener, words: str) -> None:
        goal = context.pod_place(to.pod)
        shot = required(context.shoot(of_node(node), goal, protocol=to.protocol, port=to.port))
        _same_client(shot, shot.flow.source, to.pod)
        checked.evidence.append(
            f"{node.name} ({words}) -> {to.pod.title}: the pod saw {shot.flow.source}, "
            "not masqueraded"
        )
        checked.took(shot)

    towards(own, "its node")
    back(own, target, "its node")
    if other is None:
        checked.evidence.append("there is no other node")
        return checked
    towards(other, "another node")
    if context.is_here(other.name):
        back(other, target, "another node")
    elif elsewhere := [one for one in found if one.pod.node == other.name]:
        back(own, elsewhere[0], "another node")
    return checked
