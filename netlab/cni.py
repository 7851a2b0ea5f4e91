"""The desired kernel objects of a node's bridge and of its pods, as a CNI bridge plugin makes them.

A pod is plugged into docker0 by a veth pair whose far end is the pod's eth0; docker0 has the first
address of the node's lease and is the pods' default gateway. Hairpin is on, so that a pod reaches
itself through a Service.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network

from netlab import faults, world
from netlab.cluster import NodeState, PodState
from netlab.model.lab import Lab
from netlab.objects import Address, Bridge, Neighbor, Netns, Object, Route, Sysctl, Veth


def in_subnet(address: str, subnet: str) -> bool:
    """Return whether *address* lies in *subnet*."""
    return IPv4Address(address) in IPv4Network(subnet)


def free_addresses(subnet: str, used: Collection[str]) -> Iterator[str]:
    """Yield the free addresses of the lease *subnet* for pods, in the order they are to be taken.

    First those after the highest in use, so that an address just given back rests as long as it
    can; then the others, lowest first.
    """
    network = IPv4Network(subnet)
    first, last = int(network[2]), int(network[-2])
    taken = {int(IPv4Address(address)) for address in used}
    highest = max((value for value in taken if first <= value <= last), default=first - 1)
    for value in (*range(highest + 1, last + 1), *range(first, highest)):
        if value not in taken:
            yield str(IPv4Address(value))


def bridge_objects(node: NodeState, *, mtu: int) -> list[Object]:
    """Return docker0 with the lease's first address. Needs a lease.

    Its MAC does not follow its name: the pods, whose gateway it is, would go on with the old one.
    """
    network = IPv4Network(node.subnet)
    name = node.declared.bridge
    return [
        Bridge(node.netns, name, world.mac(node.netns, "bridge"), mtu),
        Address(node.netns, name, f"{network[1]}/{network.prefixlen}"),
    ]


def pod_mac(address: str) -> str:
    """Return the MAC of the pod that has *address*: `0a:58` and the address in hexadecimal.

    A pod that gets a dead pod's address so gets its MAC too, and no neighbour entry for the old
    one can swallow its packets. Source: hwaddr.GenerateHardwareAddr4 of CNI's bridge plugin, v0.6.
    """
    return f"0a:58:{IPv4Address(address).packed.hex(':')}"


def cable(node: NodeState, pod: PodState, *, mtu: int, up: bool = True) -> Veth:
    """Return the veth pair between docker0 and the pod's eth0; *up*: plugged in at docker0."""
    return Veth(
        node.netns,
        pod.veth,
        world.mac(pod.netns, "host"),
        pod.netns,
        world.UPLINK,
        pod_mac(pod.ip),
        mtu=mtu,
        bridge=node.declared.bridge,
        hairpin=True,
        up=up,
    )


def pod_objects(node: NodeState, pod: PodState) -> list[Object]:
    """Return what is inside the pod's namespace: eth0's address and the way out."""
    length = IPv4Network(node.subnet).prefixlen
    return [
        Netns(pod.netns),
        world.no_ipv6(pod.netns),
        Address(pod.netns, world.UPLINK, f"{pod.ip}/{length}"),
        Route(pod.netns, "default", world.UPLINK, node.bridge_address),
    ]


def near(node: NodeState, pod: PodState) -> Neighbor:
    """Return the place of *pod* among the neighbours of its bridge, which is its own.

    The kernel has 1024 that count for all network namespaces together, and a pod with a probe uses
    one for its bridge already.
    """
    return Neighbor(node.netns, node.declared.bridge, pod.ip)


def node_objects(lab: Lab, node: NodeState) -> list[Object]:
    """Return what a node has before it has a lease: forwarding, its address on the underlay.

    Of a node that is the machine itself that is nearly nothing: its card, the addresses and routes
    there and how it sees IPv6 are the machine's own.
    """
    forwarding: list[Object] = [
        Sysctl(node.netns, "net.ipv4.ip_forward", "1"),
        # Without it, packets between two pods on one bridge bypass conntrack and NAT.
        Sysctl(node.netns, "net.bridge.bridge-nf-call-iptables", "1"),
    ]
    if lab.spread:
        return forwarding
    return [
        Netns(node.netns),
        world.no_ipv6(node.netns),
        *world.no_reverse_path_filter(node.netns),
        *forwarding,
        *world.machine_addressing(lab, node.netns, node.address),
        *faults.far_queues(lab, node.name, node.netns, node.uplink),
    ]
