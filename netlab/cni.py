"""The desired kernel objects of a node's bridge and of its pods, as a CNI bridge plugin makes them.

A pod is plugged into docker0 by a veth pair whose far end is the pod's eth0; docker0 has the first
address of the node's lease and is the pods' default gateway. Hairpin is on, so that a pod reaches
itself through a Service.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, ip_address, ip_network
from itertools import chain

from netlab import beyond, faults, stacks, world
from netlab.cluster import NodeState, PodState
from netlab.model.lab import Lab, like
from netlab.objects import Address, Bridge, Neighbor, Netns, Object, Route, Sysctl, Veth


def in_subnet(address: str, subnet: str) -> bool:
    """Return whether *address* lies in *subnet*."""
    return ip_address(address) in ip_network(subnet)


def free_addresses(subnet: str, used: Collection[str]) -> Iterator[str]:
    """Yield the free addresses of the lease *subnet* for pods, in the order they are to be taken.

    First those after the highest in use, so that an address just given back rests as long as it
    can; then the others, lowest first.
    """
    network = ip_network(subnet)
    first, last = int(network[2]), int(network[-2])
    taken = {int(ip_address(address)) for address in used}
    highest = max((value for value in taken if first <= value <= last), default=first - 1)
    for value in chain(range(highest + 1, last + 1), range(first, highest)):
        if value not in taken:
            yield str(network[value - int(network[0])])


def bridge_objects(node: NodeState, *, mtu: int) -> list[Object]:
    """Return docker0 with the lease's first address of each family. Needs a lease.

    Its MAC does not follow its name: the pods, whose gateway it is, would go on with the old one.
    """
    name = node.declared.bridge
    networks = [ip_network(one) for one in node.subnets]
    return [
        Bridge(node.netns, name, world.mac(node.netns, "bridge"), mtu),
        *(Address(node.netns, name, f"{net[1]}/{net.prefixlen}") for net in networks),
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


def pod_objects(lab: Lab, node: NodeState, pod: PodState) -> list[Object]:
    """Return what is inside the pod's namespace: eth0's addresses and the ways out."""
    objects = [Netns(pod.netns), *stacks.ip_stacks(lab, pod.netns)]
    for address in pod.ips:
        network = ip_network(like(address, node.subnets))
        default = stacks.default_route(address)
        objects.append(Address(pod.netns, world.UPLINK, f"{address}/{network.prefixlen}"))
        objects.append(Route(pod.netns, default, world.UPLINK, str(network[1])))
    return objects


def near(node: NodeState, pod: PodState) -> list[Object]:
    """Return the place of *pod* among the neighbours of its bridge, which is its own.

    The kernel has 1024 that count for all network namespaces together, and a pod with a probe uses
    one for its bridge already.
    """
    return [Neighbor(node.netns, node.declared.bridge, address) for address in pod.ips]


def node_objects(lab: Lab, node: NodeState) -> list[Object]:
    """Return what a node has before it has a lease: forwarding, its address on the underlay.

    Of a node that is the machine itself that is little, as its card, the addresses and routes there
    and how it sees IPv6 are the machine's own: the ways to the lab's addresses outside.
    """
    forwarding: list[Object] = [
        Sysctl(node.netns, "net.ipv4.ip_forward", "1"),
        # Without it, packets between two pods on one bridge bypass conntrack and NAT.
        Sysctl(node.netns, "net.bridge.bridge-nf-call-iptables", "1"),
    ]
    if lab.dual:
        forwarding.append(Sysctl(node.netns, "net.bridge.bridge-nf-call-ip6tables", "1"))
    if lab.spread:
        routing = [Sysctl(node.netns, stacks.FORWARDS_IPV6, "1")] if lab.dual else []
        return [*forwarding, *routing, *beyond.ways_outwards(lab, node.declared)]
    return [
        Netns(node.netns),
        *stacks.ip_stacks(lab, node.netns, forwards=True),
        *stacks.no_reverse_path_filter(node.netns),
        *forwarding,
        *world.machine_addressing(lab, node.netns, *node.declared.addresses),
        *faults.far_queues(lab, node.name, node.netns, node.uplink),
    ]
