"""What stops a flow, hides its sender, or keeps it off a device: the decisions along a way."""

from __future__ import annotations

from netlab import world
from netlab.cluster import Cluster
from netlab.model.lab import Lab
from netlab.packets import Flow, Protocol
from netlab.paths import places
from netlab.paths.places import Place


def machine(cluster: Cluster, place: Place) -> tuple[str, str]:
    """Return (member name, address) on the underlay of the machine *place* is or is on."""
    if place.node:
        return place.node.name, place.node.address
    if place.member == world.MASTER:
        return world.MASTER, cluster.lab.master.address
    if place.member == world.BALANCER and cluster.lab.balancer is not None:
        return world.BALANCER, cluster.lab.balancer.address
    return world.GATEWAY, cluster.lab.gateway.address


def published(lab: Lab, port: int, protocol: Protocol) -> bool:
    """Return whether the gateway lets *port* through to the nodes."""
    for entry in lab.gateway.publish:
        ports, _, proto = entry.partition("/")
        first, _, last = ports.partition("-")
        if proto == protocol and int(first) <= port <= int(last or first):
            return True
    return False


def masquerades(cluster: Cluster, source: Place, destination: Place) -> bool:
    """Return whether the pod's node hides *source*: a pod that leaves flannel's network."""
    return bool(
        source.pod
        and not places.in_network(cluster, destination.address)
        and destination.netns not in (source.netns, source.node.netns if source.node else "")
    )


def stopped(cluster: Cluster, source: Place, destination: Place, flow: Flow) -> str:
    """Return what stops the flow at the gateway, "" when nothing should."""
    where = cluster.lab.netns(world.GATEWAY)
    if not destination.netns:
        return f"{where} has no route to {destination.address}"
    overlay = places.in_network(cluster, destination.address)
    if overlay and source.node is None:
        return f"{where} has no route to {destination.address}"
    if source.member in places.OUTSIDE and destination.member not in (
        world.GATEWAY,
        *places.OUTSIDE,
    ):
        to_node = destination.node is not None
        if not (to_node and published(cluster.lab, flow.destination_port, flow.protocol)):
            return f'rule "not published" of {where} drops it'
    return ""


def bridge_ports(cluster: Cluster) -> tuple[tuple[str, str], ...]:
    """Return the ports of bridges, as (netns, beginning of the device's name): a bridge that has
    not learned a MAC floods them all."""
    nodes = tuple((node.netns, "veth") for node in cluster.nodes)
    return ((cluster.lab.netns(world.UNDERLAY), ""), *nodes)


def forbidden(cluster: Cluster, source: Place, destination: Place) -> list[tuple[str, str]]:
    """Return the devices on which the flow must not show, as (netns, device)."""
    lab = cluster.lab
    if source.pod and source.netns == destination.netns:
        node_end = (source.node.netns, source.pod.veth) if source.node else ("", "")
        return [(source.netns, world.UPLINK), node_end]
    if source.pod and destination.pod and source.node and source.node == destination.node:
        return [
            (source.node.netns, device) for device in (*lab.network.tunnels, source.node.uplink)
        ]
    return []
