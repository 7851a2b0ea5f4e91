"""The way of a flow to a Service's address: to the node that decides, rewritten there, and on.

What the kernel shows of it, found by watching:

* A packet of a pod is rewritten before IP gets it from the bridge (br_netfilter calls the IP hooks
  for it): the veth shows the Service's address, docker0 already the endpoint's.
* When the endpoint is behind the same bridge, it is switched there and then, as if the pod had
  asked it directly: no TTL is lost. While the endpoint's MAC is not known, docker0 shows it going
  out as well.
* A packet of a process on the node is rewritten before any device sees it.
* In ipvs mode what comes in is delivered to the node itself, where ip_vs takes it, rewrites it and
  sends it on: docker0 still shows the Service's address, one TTL is lost even by a process's own
  packet, and an endpoint behind the same bridge gets it from docker0. The replies go as in the
  other modes.
* The reply is rewritten back where it leaves the deciding node: its destination as it comes in,
  its source as it goes out.
"""

from __future__ import annotations

import msgspec

from netlab import world
from netlab.cluster import Cluster, NodeState
from netlab.model.lab import like
from netlab.model.modes import Mode
from netlab.packets import Direction, Expectation, Flow, Hop
from netlab.paths import places, rules
from netlab.paths.places import Place
from netlab.paths.ways import Way, across_underlay, between, into_pod, out_of_pod

IN, OUT = Direction.IN, Direction.OUT


class Rewrite(msgspec.Struct, frozen=True):
    """What *node* makes of a flow to a Service's address."""

    node: NodeState
    endpoint: Place  # a pod
    port: int
    masquerade: bool  # the source becomes the node's
    why: str = ""  # what does it: `rules of default/web:http`


def hiding_address(cluster: Cluster, rewrite: Rewrite) -> str:
    """Return the address a masqueraded flow leaves the node with: that of the device it leaves by.

    Source: net/netfilter/nf_nat_masquerade.c, inet_select_addr.
    """
    node, peer, to = rewrite.node, rewrite.endpoint.node, rewrite.endpoint.address
    if peer is None or peer == node:
        return like(to, node.bridge_addresses)
    direct = places.direct(cluster, node, peer)
    return like(to, node.declared.addresses if direct else node.tunnel_addresses)


def expected(cluster: Cluster, source: Place, flow: Flow, rewrite: Rewrite) -> Expectation:
    """Return the way *flow* takes from *source* when *rewrite* is done to it, and back.

    *flow* is as sent, to the Service's address; *source* a pod, a node, or a machine outside.
    """
    node, endpoint = rewrite.node, rewrite.endpoint
    seen = hiding_address(cluster, rewrite) if rewrite.masquerade else flow.source
    beside = source.pod is not None and source.node == endpoint.node
    switched = beside and not _delivered(cluster)
    stays = source.node == node and endpoint.node == node
    apart = [(node.netns, node.uplink), (node.netns, tunnel(cluster, flow))] if stays else []
    flooded = ((node.netns, node.declared.bridge),) if switched else ()
    return Expectation(
        flow,
        tuple(_request(cluster, source, flow, rewrite, seen, switched=switched)),
        tuple(_reply(cluster, source, flow, rewrite, seen, switched=beside)),
        tuple(apart),
        ports=(*rules.bridge_ports(cluster), *flooded),
        translated=Flow(
            seen,
            endpoint.address,
            flow.protocol,
            0 if rewrite.masquerade else flow.source_port,
            rewrite.port,
        ),
    )


def refused(
    cluster: Cluster, source: Place, flow: Flow, node: NodeState, *, why: str
) -> Expectation:
    """Return the way of a flow to a Service's address that *node* refuses or drops: *why*."""
    way = begun(cluster, flow)
    to_node(cluster, way, source, node)
    if source.pod:
        way.at(node.netns, node.declared.bridge, IN)
    return Expectation(
        flow,
        tuple(way.hops),
        ends=why,
        forbidden=((node.netns, tunnel(cluster, flow)),),
        ports=rules.bridge_ports(cluster),
    )


def _delivered(cluster: Cluster) -> bool:
    """Return whether what comes in for a Service is taken from the node's own input."""
    return cluster.lab.proxyMode == Mode.IPVS


def tunnel(cluster: Cluster, flow: Flow) -> str:
    """Return flannel's device for *flow*, "" where there is none."""
    tunnels = cluster.lab.network.tunnels
    return tunnels[":" in flow.destination] if tunnels else ""


def begun(cluster: Cluster, flow: Flow) -> Way:
    """Return a way without hops yet, of *flow* as sent."""
    way = Way(cluster.lab, flow.source, flow.destination)
    way.source_port = flow.source_port or None
    way.destination_port = flow.destination_port
    return way


def to_node(cluster: Cluster, way: Way, source: Place, node: NodeState) -> None:
    """Follow the request of *source* to where *node*'s rules see it."""
    if source.pod:
        out_of_pod(way, source, onto_bridge=False)
    elif source.member in places.OUTSIDE:
        gateway = way.lab.netns(world.GATEWAY)
        way.at(source.netns, world.UPLINK, OUT, f"the cable to {gateway} carries it")
        way.at(gateway, source.member, IN, f'"published" lets it through {gateway}')
        way.forwarded()
        across_underlay(way, (world.GATEWAY, way.lab.gateway.address), (node.name, node.address))
    elif source.node is not None and source.node != node:
        across_underlay(way, _machine(source.node), _machine(node))


def _request(
    cluster: Cluster, source: Place, flow: Flow, rewrite: Rewrite, seen: str, *, switched: bool
) -> list[Hop]:
    node, endpoint = rewrite.node, rewrite.endpoint
    way = begun(cluster, flow)
    to_node(cluster, way, source, node)
    delivered = _delivered(cluster)
    if delivered and source.pod:
        way.at(node.netns, node.declared.bridge, IN)
    way.destination, way.destination_port = endpoint.address, rewrite.port
    way.source = seen
    if rewrite.masquerade:
        way.source_port = None
    done = _words(rewrite, seen)
    if switched:
        into_pod(way, endpoint, from_bridge=False)
        way.hops[1] = msgspec.structs.replace(way.hops[1], why=f"{done}; {way.hops[1].why}")
        return way.hops
    if source.pod:
        way.carried_on(done)
        if not delivered:
            way.at(node.netns, node.declared.bridge, IN)
        way.forwarded()
    elif source.netns != node.netns or delivered:
        way.forwarded()
    reached = len(way.hops)
    here = Place(node.address, node.netns, node=node)
    if endpoint.node != node:
        between(cluster, way, here, endpoint)
        way.forwarded()
    into_pod(way, endpoint, from_bridge=True)
    if reached and not source.pod:
        last = way.hops[reached - 1]
        way.hops[reached - 1] = msgspec.structs.replace(last, why=f"{done}; {last.why}")
    return way.hops


def _words(rewrite: Rewrite, seen: str) -> str:
    by = rewrite.why or f"the rules of {rewrite.node.name}"
    hidden = f", masquerade it as {seen}" if rewrite.masquerade else ""
    return f"{by} send it to {rewrite.endpoint.address}:{rewrite.port}{hidden}"


def _reply(
    cluster: Cluster, source: Place, flow: Flow, rewrite: Rewrite, seen: str, *, switched: bool
) -> list[Hop]:
    node, endpoint = rewrite.node, rewrite.endpoint
    way = Way(cluster.lab, endpoint.address, seen)
    way.source_port = rewrite.port
    way.destination_port = None if rewrite.masquerade else flow.source_port or None
    out_of_pod(way, endpoint, onto_bridge=False)
    undone = f"conntrack of {node.name} undoes the rewriting"
    if switched:
        way.carried_on(undone)
        _as_asked(way, flow)
        into_pod(way, source, from_bridge=False)
        return way.hops
    assert endpoint.node is not None
    if endpoint.node == node:
        way.carried_on(undone)
        _to_asker(way, flow)
    way.at(endpoint.node.netns, endpoint.node.declared.bridge, IN)
    if endpoint.node != node:
        way.forwarded()
        between(cluster, way, endpoint, Place(seen, node.netns, node=node))
    if source.netns == node.netns:
        return way.hops
    way.carried_on(undone)
    way.forwarded()
    _as_asked(way, flow)
    if source.pod:
        into_pod(way, source, from_bridge=True)
        return way.hops
    if source.node is not None:
        across_underlay(way, _machine(node), _machine(source.node))
        return way.hops
    outwards(way, source, _machine(node))
    return way.hops


def _machine(node: NodeState) -> tuple[str, str]:
    """Return name and address of *node*, as of any machine on the underlay."""
    return node.name, node.address


def outwards(way: Way, source: Place, machine: tuple[str, str]) -> None:
    """Follow an answer from a *machine* on the underlay to *source*, outside."""
    gateway = way.lab.netns(world.GATEWAY)
    across_underlay(way, machine, (world.GATEWAY, way.lab.gateway.address))
    way.forwarded()
    way.carried_on(f"{gateway} forwards it to its cable {source.member}")
    way.at(gateway, source.member, OUT, f"the cable to {source.netns}")
    way.at(source.netns, world.UPLINK, IN, f"{source.address} is its own address")


def _to_asker(way: Way, flow: Flow) -> None:
    way.destination, way.destination_port = flow.source, flow.source_port or None


def _as_asked(way: Way, flow: Flow) -> None:
    """Let the reply look as from the Service's address."""
    _to_asker(way, flow)
    way.source, way.source_port = flow.destination, flow.destination_port
