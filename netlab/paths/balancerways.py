"""The way of a flow from outside to a load balancer's address: balancer, node, and back.

In userspace mode the node's part is a process: the flow ends there, and another begins.

VIP: the packet keeps its addresses as far as the node, whose own rules for the address rewrite it;
the node answers the client, and the balancer never sees the answer. Proxy: the balancer rewrites
both ends, to a NodePort of the node, and undoes that for the answer.
"""

from __future__ import annotations

import msgspec

from netlab import world
from netlab.cluster import Cluster
from netlab.packets import Direction, Expectation, Flow, Hop
from netlab.paths import portalways, rules
from netlab.paths.places import Place
from netlab.paths.serviceways import Rewrite, hiding_address, outwards
from netlab.paths.ways import Way, across_underlay, between, into_pod, out_of_pod

IN, OUT = Direction.IN, Direction.OUT
Machine = tuple[str, str]  # member and address


class Crossing(msgspec.Struct, frozen=True):
    """How the balancer sends a flow on. *node_port*: where to, 0: unchanged (VIP).

    *portal*: the port of the node's that it is led into there, 0: none (userspace mode).
    """

    service: str
    node_port: int = 0
    portal: int = 0


def expected(
    cluster: Cluster, source: Place, flow: Flow, rewrite: Rewrite, crossing: Crossing
) -> Expectation:
    """Return the way *flow* takes from *source*, outside, by the node of *rewrite*, and back.

    *rewrite* is what the node makes of the flow as the balancer sends it on.
    """
    lab = cluster.lab
    assert lab.balancer is not None
    balancer = (world.BALANCER, lab.balancer.address)
    asker = lab.balancer.address if crossing.node_port else flow.source
    hidden = rewrite.masquerade
    seen = hiding_address(cluster, rewrite) if hidden else asker
    kept = not (hidden or crossing.node_port)
    return Expectation(
        flow,
        tuple(_request(cluster, source, flow, rewrite, crossing, balancer, seen)),
        tuple(_reply(cluster, source, flow, rewrite, crossing, balancer, seen)),
        ports=rules.bridge_ports(cluster),
        translated=Flow(
            seen,
            rewrite.endpoint.address,
            flow.protocol,
            flow.source_port if kept else 0,
            rewrite.port,
        ),
        between=tuple(port for port in (crossing.node_port, crossing.portal) if port),
    )


def _request(
    cluster: Cluster,
    source: Place,
    flow: Flow,
    rewrite: Rewrite,
    crossing: Crossing,
    balancer: Machine,
    seen: str,
) -> list[Hop]:
    lab, node, endpoint = cluster.lab, rewrite.node, rewrite.endpoint
    way = Way(lab, flow.source, flow.destination)
    way.source_port, way.destination_port = flow.source_port or None, flow.destination_port
    gateway = (world.GATEWAY, lab.gateway.address)
    way.at(source.netns, world.UPLINK, OUT, f"the cable to {lab.netns(world.GATEWAY)} carries it")
    card = world.BALANCER if lab.spread else world.UPLINK
    way.at(lab.netns(world.GATEWAY), source.member, IN, f"route to {balancer[1]} dev {card}")
    way.forwarded()
    across_underlay(way, gateway, balancer)
    way.forwarded()
    if crossing.node_port:
        way.carried_on(f"the balancer's rules send it to {node.address}:{crossing.node_port}")
        way.source, way.source_port = balancer[1], None
        way.destination, way.destination_port = node.address, crossing.node_port
    else:
        way.carried_on(f"the balancer's rules mark it for {node.name}, unchanged")
    across_underlay(way, balancer, (node.name, node.address))
    if crossing.portal:
        way.carried_on(
            f"the rules of {crossing.service} on {node.name} redirect it to port "
            f"{crossing.portal}; {portalways.words(rewrite)}"
        )
        return [*way.hops, *portalways.onward(cluster, flow, rewrite).request]
    way.carried_on(
        f"the rules of {crossing.service} on {node.name} send it to "
        f"{endpoint.address}:{rewrite.port}"
    )
    way.forwarded()
    way.destination, way.destination_port = endpoint.address, rewrite.port
    way.source = seen
    if rewrite.masquerade:
        way.source_port = None
    if endpoint.node != node:
        between(cluster, way, Place(node.address, node.netns, node=node), endpoint)
        way.forwarded()
    into_pod(way, endpoint, from_bridge=True)
    return way.hops


def _reply(
    cluster: Cluster,
    source: Place,
    flow: Flow,
    rewrite: Rewrite,
    crossing: Crossing,
    balancer: Machine,
    seen: str,
) -> list[Hop]:
    lab, node, endpoint = cluster.lab, rewrite.node, rewrite.endpoint
    assert endpoint.node is not None
    proxied = bool(crossing.node_port)
    asker = (balancer[1], None) if proxied else (flow.source, flow.source_port or None)
    way = Way(lab, endpoint.address, seen)
    if crossing.portal:
        way.hops += portalways.onward(cluster, flow, rewrite).reply
        way.carried_on(f"the userspace proxy of {node.name} sends it back")
    else:
        way.source_port = rewrite.port
        way.destination_port = None if rewrite.masquerade else asker[1]
        out_of_pod(way, endpoint, onto_bridge=False)
        if endpoint.node == node:
            way.destination, way.destination_port = asker
        way.at(endpoint.node.netns, endpoint.node.declared.bridge, IN)
        if endpoint.node != node:
            way.forwarded()
            between(cluster, way, endpoint, Place(seen, node.netns, node=node))
        way.carried_on(f"conntrack of {node.name} undoes the rewriting")
        way.forwarded()
    way.destination, way.destination_port = asker
    here = (node.name, node.address)
    if proxied:
        way.source, way.source_port = node.address, crossing.node_port
        across_underlay(way, here, balancer)
        way.carried_on("conntrack of the balancer undoes the rewriting")
        way.forwarded()
        here = balancer
    way.source, way.source_port = flow.destination, flow.destination_port
    way.destination, way.destination_port = flow.source, flow.source_port or None
    outwards(way, source, here)
    return way.hops
