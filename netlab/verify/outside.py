"""Paths that leave the cluster, or try to come in."""

from __future__ import annotations

from itertools import product

from netlab import beyond, world
from netlab.cluster import NodeState, PodState
from netlab.model.lab import like
from netlab.packets import Direction, Outcome, Protocol
from netlab.paths import Place
from netlab.paths.places import facing, of_member, of_node
from netlab.paths.rules import published
from netlab.probe import Shot
from netlab.sensors import counters, insides
from netlab.verify.context import Checked, Context, Failure, Skip, listeners, required

INTERNET_PORT = 80
UNPUBLISHED = 22  # tried first, then the next that is not published
NODES = 3  # at most so many are tried


def clusterip_outside(context: Context) -> Checked:
    pods = [pod for pod in context.pods if listeners(pod)] or context.pods
    if not pods:
        raise Skip("needs a running pod")
    client = of_member(context.cluster, world.CLIENT)
    checked = Checked()
    pod = pods[0]
    found = listeners(pod)
    tries = [(found[0].protocol, found[0].port)] if found else []
    for protocol, port in (*tries, (Protocol.ICMP, 0)):
        before = counters.dropped(context.lab.netns(world.GATEWAY))
        shot = required(context.shoot(client, context.pod_place(pod), protocol=protocol, port=port))
        words = f"{port}/{protocol}" if port else str(protocol)
        checked.evidence.append(f"client -> {pod.title} {words}: {_stopped(context, shot, before)}")
        checked.evidence += shot.verdict.evidence[1:]
        checked.took(shot)
    for title, address, port in _cluster_ips(context)[:1]:
        before = counters.dropped(context.lab.netns(world.GATEWAY))
        shot = required(context.shoot(client, Place(address), protocol=Protocol.TCP, port=port))
        checked.evidence.append(
            f"client -> Service {title} {address}:{port}/tcp: {_stopped(context, shot, before)}"
        )
        checked.evidence += shot.verdict.evidence[1:]
        checked.took(shot)
    return checked


def _cluster_ips(context: Context) -> list[tuple[str, str, int]]:
    """Return title, address and port of the Services with a TCP port and an IPv4 cluster IP."""
    found = []
    for document in context.cluster.documents:
        if document["kind"] != "Service":
            continue
        spec, meta = document["spec"], document["metadata"]
        address = spec.get("clusterIP") or ""
        ports = [p["port"] for p in spec.get("ports") or () if p.get("protocol", "TCP") == "TCP"]
        if ports and "." in address:
            found.append((f"{meta['namespace']}/{meta['name']}", address, ports[0]))
    return found


def _stopped(context: Context, shot: Shot, before: int | None) -> str:
    """What stopped *shot* at the gateway, read back there: no route, or else its last rule.

    Raises Failure when the gateway has a route and no rule of it counted the packet.
    """
    gateway = context.lab.netns(world.GATEWAY)
    route = insides.route_of(
        gateway, shot.flow.destination, source=shot.flow.source, arriving=world.CLIENT
    )
    if not route:
        return shot.verdict.evidence[0]
    after = counters.dropped(gateway)
    where = shot.expectation.request[-1].where
    if before is None or after is None or after <= before:
        raise Failure(
            f"not delivered, but {gateway} has a route ({route}), and no rule of its firewall "
            "counted the packet: what stopped it is not known",
            last_seen=where,
            expected_next=f"nothing: {shot.expectation.ends}",
        )
    return (
        f'last seen at {where}: rule "{counters.NOT_PUBLISHED}" of {gateway} drops it '
        f"(packets {before} -> {after}), though there is a route ({route})"
    )


def egress_masquerade(context: Context) -> Checked:
    firsts: dict[str, PodState] = {}
    for pod in context.senders:
        firsts.setdefault(pod.node, pod)
    if not firsts:
        raise Skip("needs a running pod")
    checked = Checked()
    for family, (index, pod) in product(context.families, enumerate([*firsts.values()][:NODES])):
        node, here = context.cluster.node(pod.node), context.pod_place(pod, family)
        own = like(here.address, node.declared.addresses)
        internet = facing(context.cluster, of_member(context.cluster, world.INTERNET), here.address)
        protocol = (Protocol.TCP, Protocol.UDP)[index % 2]
        with context.counting:
            before = counters.masqueraded(node.netns, of=own)
            shot = required(context.shoot(here, internet, protocol=protocol, port=INTERNET_PORT))
            fired = _fired(before, counters.masqueraded(node.netns, of=own))
        if shot.answer is None or shot.answer.client != own:
            seen = shot.answer.client if shot.answer else "nobody"
            raise Failure(f"the server saw {seen}, not {node.name}'s {own}")
        if not fired:
            raise Failure(
                f"no masquerading rule of FLANNEL-POSTRTG in {node.netns} counted the flow "
                f"{shot.flow}: it was rewritten by another",
                last_seen=f"{node.netns} {node.declared.bridge} in",
                expected_next="a rule of FLANNEL-POSTRTG that masquerades and counts it",
            )
        checked.evidence.append(
            f"{pod.title} -> internet:{INTERNET_PORT}/{protocol}: {_rewrite(context, shot, node)}; "
            f"the server saw {own}; by {fired}"
        )
        checked.took(shot)
    return checked


def _fired(before: dict[str, int], after: dict[str, int]) -> str:
    """The rule whose counter moved, with its counter."""
    for rule, packets in after.items():
        if packets > before.get(rule, 0):
            others = ", other flows among them" if packets > before.get(rule, 0) + 1 else ""
            return f"`{rule}` (packets {before.get(rule, 0)} -> {packets}{others})"
    return ""


def _rewrite(context: Context, shot: Shot, node: NodeState) -> str:
    """The source before and after, and the reply's destination before and after."""

    def at(device: str, direction: Direction) -> tuple[str, str]:
        for s in shot.sightings:
            if (s.netns, s.device, s.direction) == (node.netns, device, direction):
                return s.flow.source, s.flow.destination
        raise Failure(f"not seen on {node.netns} {device} {direction}")

    bridge, card = node.declared.bridge, beyond.way_out(context.lab, node.declared)
    before, after = at(bridge, Direction.IN)[0], at(card, Direction.OUT)[0]
    back, undone = at(card, Direction.IN)[1], at(bridge, Direction.OUT)[1]
    return (
        f"source {before} on {bridge}, {after} on {card}; reply to {back} on {card}, "
        f"to {undone} on {bridge}"
    )


def unpublished_port(context: Context) -> int:
    """Return a TCP port the gateway does not let through."""
    for port in range(UNPUBLISHED, 65536):
        if not published(context.lab, port, Protocol.TCP):
            return port
    raise Skip("needs a TCP port that the gateway does not publish")


def firewall(context: Context) -> Checked:
    port = unpublished_port(context)
    client = of_member(context.cluster, world.CLIENT)
    gateway = context.lab.netns(world.GATEWAY)
    checked = Checked()
    for node in context.cluster.nodes[:NODES]:
        before = counters.dropped(gateway)
        if before is None:
            raise Failure(
                f'{gateway} has no rule "{counters.NOT_PUBLISHED}" with a counter',
                last_seen=f"{gateway} {world.CLIENT} in",
                expected_next=f'rule "{counters.NOT_PUBLISHED}" of {gateway} drops it',
            )
        shot = required(context.shoot(client, of_node(node), protocol=Protocol.TCP, port=port))
        after = counters.dropped(gateway) or 0
        if after <= before:
            raise Failure(
                f'rule "{counters.NOT_PUBLISHED}" of {gateway} did not count client -> '
                f"{node.name}:{port}",
                last_seen=shot.expectation.request[-1].where,
                expected_next=f'rule "{counters.NOT_PUBLISHED}" drops and counts it',
            )
        checked.evidence.append(
            f"client -> {node.name}:{port}/tcp: {shot.verdict.evidence[0]} "
            f"(packets {before} -> {after})"
        )
        checked.took(shot)
    checked.evidence.append(_control(context))
    return checked


def _control(context: Context) -> str:
    """A published port gets through the gateway: the firewall does not just drop everything."""
    first = next(
        (
            int(entry.partition("/")[0].partition("-")[0])
            for entry in context.lab.gateway.publish
            if entry.endswith("/tcp")
        ),
        None,
    )
    if first is None or not context.cluster.nodes:
        return "control: no TCP port is published, so none was tried"
    node = context.cluster.nodes[0]
    client = of_member(context.cluster, world.CLIENT)
    shot = context.shoot(client, of_node(node), protocol=Protocol.TCP, port=first)
    card = beyond.way_out(context.lab, node.declared)
    arrived = any(s.netns == node.netns and s.device == card for s in shot.sightings)
    if shot.verdict.outcome is not Outcome.PASS and not arrived:
        raise Failure(
            f"control: published port {first} did not get through either",
            *shot.verdict.evidence,
            last_seen=shot.verdict.last_seen,
            expected_next=shot.verdict.expected_next,
        )
    return f"control: client -> {node.name}:{first}/tcp, published, arrived at {node.name}'s {card}"
