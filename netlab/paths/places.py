"""Who is meant by a word or an address: a pod, a node, a member of the world around them."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

import msgspec

from netlab import world
from netlab.cluster import Cluster, NodeState, PodState
from netlab.errors import NotFoundError, UsageError
from netlab.model.kubernetes import ContainerPort
from netlab.model.lab import both, like

INNER_MEMBERS = (world.GATEWAY, world.MASTER, world.BALANCER)
OUTSIDE = (world.INTERNET, world.CLIENT)


class Place(msgspec.Struct, frozen=True):
    """An end of a flow. `netns` is empty for an address nobody in the lab has."""

    address: str
    netns: str = ""
    pod: PodState | None = None
    node: NodeState | None = None  # the machine itself, or the one the pod is on
    member: str = ""  # world.GATEWAY, …

    @property
    def title(self) -> str:
        if self.pod:
            return self.pod.title
        return self.node.name if self.node else self.member or self.address


def of_pod(cluster: Cluster, pod: PodState, address: str = "") -> Place:
    """Return the place of *pod*, known by *address* or by its first one.

    Raises NotFoundError while it has no address.
    """
    if not pod.ip:
        raise NotFoundError(f"pod {pod.title} has no address yet")
    return Place(address or pod.ip, pod.netns, pod=pod, node=cluster.node(pod.node))


def of_node(node: NodeState, address: str = "") -> Place:
    """Return the place of *node*, known by *address* or by its own on the underlay."""
    return Place(address or node.address, node.netns, node=node)


def of_member(cluster: Cluster, member: str, address: str = "") -> Place:
    """Return the place of a machine that is no node."""
    first = world.member_addresses(cluster.lab)[member][0]
    return Place(address or first, cluster.lab.netns(member), member=member)


def of_address(cluster: Cluster, address: str) -> Place:
    """Return who has *address*; a place without a namespace when nobody has."""
    for pod in cluster.pods:
        if address in pod.ips:
            return of_pod(cluster, pod, address)
    for node in cluster.nodes:
        own = (*node.declared.addresses, *node.bridge_addresses, *node.tunnel_addresses)
        if address in own:
            return of_node(node, address)
    for member, its in world.member_addresses(cluster.lab).items():
        if address in its:
            return of_member(cluster, member, address)
    return Place(address)


def place(cluster: Cluster, word: str) -> Place:
    """Return what *word* means: `[NS/]POD`, `node/NAME`, `gateway`, an address.

    Raises NotFoundError, naming the nearest thing there is; UsageError for an IPv6 address in a
    lab of IPv4.
    """
    if _is_ipv6(word):
        if not cluster.lab.dual:
            raise UsageError(f"{word}: only IPv4 addresses can be asked")
        return of_address(cluster, str(IPv6Address(word.strip("[]"))))
    try:
        return of_address(cluster, str(ip_address(word)))
    except ValueError:
        pass
    if word in (*INNER_MEMBERS, *OUTSIDE) and word in world.members(cluster.lab):
        return of_member(cluster, word)
    kind, _, name = word.rpartition("/")
    try:
        if kind == "node":
            return of_node(cluster.node(name))
        pod = cluster.pod(word)
    except LookupError as missing:
        raise NotFoundError(str(missing), hint=_nearest(cluster, word)) from missing
    return of_pod(cluster, pod)


def named_port(there: Place, name: str, *, protocol: str = "") -> ContainerPort:
    """Return the port of a pod that its containers call *name*; *protocol*: which it must have.

    Raises UsageError, naming those there are.
    """
    if there.pod is None:
        raise UsageError(f"no port {name!r}", hint="only ports of pods and Services have names")
    named = [port for one in there.pod.containers for port in one.ports if port.name]
    for port in named:
        if port.name == name and protocol.lower() in ("", port.protocol.lower()):
            return port
    known = ", ".join(f"{one.name} {one.containerPort}/{one.protocol}" for one in named)
    words = f"pod {there.pod.title} has no port {name}{f'/{protocol}' if protocol else ''}"
    raise UsageError(words, hint=f"it has {known}" if known else "none of its ports has a name")


def _is_ipv6(word: str) -> bool:
    try:
        return bool(IPv6Address(word.strip("[]")))
    except ValueError:
        return False


def _nearest(cluster: Cluster, word: str) -> str:
    from difflib import get_close_matches

    known = [pod.title for pod in cluster.pods] + [f"node/{node.name}" for node in cluster.nodes]
    known += [pod.name for pod in cluster.pods if pod.namespace == "default"]
    close = get_close_matches(word, [*known, *INNER_MEMBERS, *OUTSIDE], n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else "see `netlab get pods -A`"


def in_network(cluster: Cluster, address: str) -> bool:
    """Return whether *address* lies in flannel's network."""
    network = cluster.lab.network
    of_family = like(address, both(network.Network, network.IPv6Network))
    return bool(of_family) and ip_address(address) in ip_network(of_family)


def addresses(cluster: Cluster, there: Place) -> tuple[str, ...]:
    """Return the addresses that *there* is known by, the first of each family its usual one."""
    if there.pod:
        return there.pod.ips
    if there.node:
        return there.node.declared.addresses
    if there.member:
        return tuple(world.member_addresses(cluster.lab)[there.member])
    return (there.address,)


def facing(cluster: Cluster, there: Place, address: str) -> Place:
    """Return *there*, known by an address of the family of *address*.

    Raises UsageError where it has none.
    """
    if like(address, [there.address]):
        return there
    own = like(address, addresses(cluster, there))
    if not own:
        family = "IPv6" if ":" in address else "IPv4"
        raise UsageError(f"{there.title} has no {family} address")
    return msgspec.structs.replace(there, address=own)


def direct(cluster: Cluster, node: NodeState, peer: NodeState) -> bool:
    """Return whether pods of the two nodes meet by plain routes, without a tunnel."""
    lab = cluster.lab
    backend = lab.network.Backend
    if backend.Type == "host-gw":
        return True
    if backend.Type != "vxlan" or not backend.DirectRouting:
        return False
    return lab.segment_of(node.address) == lab.segment_of(peer.address)


def source_address(cluster: Cluster, source: Place, destination: Place) -> str:
    """Return the address *source* sends from when it chooses by its routes."""
    if ip_address(destination.address).is_loopback:
        return destination.address
    source = facing(cluster, source, destination.address)
    if source.pod or source.netns == destination.netns:
        return source.address if source.pod else destination.address
    if source.node:
        return _node_source(cluster, source.node, destination)
    if source.member == world.GATEWAY and destination.member in OUTSIDE:
        interface = like(destination.address, cluster.lab.outside.machine(destination.member))
        return str(world.gateway_side(interface).ip)
    return like(destination.address, addresses(cluster, source))


def _node_source(cluster: Cluster, node: NodeState, destination: Place) -> str:
    """A node's: docker0's towards its own pods, flannel.1's over the overlay, else eth0's."""
    peer, to = destination.node, destination.address
    own = like(to, node.declared.addresses)
    if peer is None or to in peer.declared.addresses:
        return own
    if peer == node:
        return like(to, node.bridge_addresses)
    return own if direct(cluster, node, peer) else like(to, node.tunnel_addresses)
