"""The way of a flow to a Service's address in userspace mode: to a process of the node, and on.

They are two flows. The first ends at the node, in the process's port; the second begins there, with
a TTL and a source of its own, so the endpoint never sees the client. What is found by watching:

* A packet of a pod is redirected before IP gets it from the bridge, so docker0 already shows the
  address that REDIRECT gives it: docker0's own. One that comes in by a card shows there as sent.
* What a process on the node sends goes by lo, with the node's address and the process's port.
* Answers show the Service's address again on whatever device the node sends them out by.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from netlab.cluster import Cluster, NodeState
from netlab.model.lab import like
from netlab.packets import Direction, Expectation, Flow, Hop
from netlab.paths import places, rules
from netlab.paths.places import Place
from netlab.paths.serviceways import Rewrite, begun, hiding_address, outwards, to_node, tunnel
from netlab.paths.ways import Way, across_underlay, into_pod
from netlab.paths.ways import expected as directly

IN, OUT = Direction.IN, Direction.OUT


def expected(
    cluster: Cluster, source: Place, flow: Flow, rewrite: Rewrite, portal: int
) -> Expectation:
    """Return the way *flow* takes from *source* through port *portal* of the node, and back.

    *flow* is as sent; *source* a pod, a node, or a machine outside. *rewrite*: which endpoint the
    process chose.
    """
    first = inward(cluster, source, flow, rewrite.node, portal)
    second = onward(cluster, flow, rewrite)
    *before, last = first.request
    last = replace(last, why=f"{last.why}; {words(rewrite)}")
    return replace(
        first,
        request=(*before, last, *second.request),
        reply=(*second.reply, *first.reply),
        translated=second.flow,
    )


def inward(
    cluster: Cluster, source: Place, flow: Flow, node: NodeState, portal: int
) -> Expectation:
    """Return the way of the first flow: from *source* to the process of *node*, and back."""
    way = begun(cluster, flow)
    _into_process(cluster, way, source, node, portal)
    return Expectation(
        flow,
        tuple(way.hops),
        tuple(_back(cluster, source, flow, node)),
        ports=rules.bridge_ports(cluster),
        between=(portal,),
    )


def closed(
    cluster: Cluster, source: Place, flow: Flow, node: NodeState, portal: int, *, why: str
) -> Expectation:
    """Return the way of a flow that a process on *node* takes, and lets go again: *why*."""
    return replace(
        inward(cluster, source, flow, node, portal),
        reply=(),
        ends=why,
        forbidden=((node.netns, tunnel(cluster, flow)),),
    )


def onward(cluster: Cluster, flow: Flow, rewrite: Rewrite) -> Expectation:
    """Return the way of the second flow: from the process to the endpoint, and back."""
    node, endpoint = rewrite.node, rewrite.endpoint
    here = Place(node.address, node.netns, node=node)
    inner = Flow(hiding_address(cluster, rewrite), endpoint.address, flow.protocol, 0, rewrite.port)
    way = directly(cluster, here, endpoint, inner)
    return replace(
        way,
        request=tuple(replace(hop, destination_port=rewrite.port) for hop in way.request),
        reply=tuple(replace(hop, source_port=rewrite.port) for hop in way.reply),
    )


def words(rewrite: Rewrite) -> str:
    """Return what the process does, in words."""
    to = f"{rewrite.endpoint.address}:{rewrite.port}"
    return f"the userspace proxy of {rewrite.node.name} takes it and makes a flow to {to}"


def _into_process(cluster: Cluster, way: Way, source: Place, node: NodeState, portal: int) -> None:
    """Follow the request to where the process gets it."""
    to_node(cluster, way, source, node)
    done = f"the rules of {node.name} redirect it to port {portal}"
    if source.pod:
        way.carried_on(done)
        own = like(way.destination, node.bridge_addresses)
        way.destination, way.destination_port = own, portal
        way.at(node.netns, node.declared.bridge, IN, f"{own} is the node's own")
    elif source.member in places.OUTSIDE or source.node != node:
        way.carried_on(done)
    else:
        own = like(way.destination, node.declared.addresses)
        way.destination, way.destination_port = own, portal
        way.at(node.netns, "lo", OUT, "lo hands it back")
        way.at(node.netns, "lo", IN, f"{own} is the node's own")


def _back(cluster: Cluster, source: Place, flow: Flow, node: NodeState) -> Sequence[Hop]:
    """Return the hops of the answer, from the process to *source*."""
    way = Way(cluster.lab, flow.destination, flow.source)
    way.source_port, way.destination_port = flow.destination_port, flow.source_port or None
    if source.pod:
        into_pod(way, source, from_bridge=True)
    elif source.member in places.OUTSIDE:
        outwards(way, source, (node.name, node.address))
    elif source.node is not None and source.node != node:
        peer = source.node
        across_underlay(way, (node.name, node.address), (peer.name, peer.address))
    else:
        way.at(node.netns, "lo", OUT, "lo hands it back")
        way.at(node.netns, "lo", IN, f"{flow.source} is the node's own")
    return way.hops
