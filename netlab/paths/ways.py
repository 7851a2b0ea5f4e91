"""The way a flow should take, hop by hop, from what is declared and leased.

A hop is a device as AF_PACKET shows it, in and out. What the kernel shows, found by watching:
a frame that a bridge only switches is seen on the two ports and not on the bridge device; one
that the bridge hands up to IP, or gets from it, is seen on the bridge device too. A tunnel
device shows the inner packet, the card below it the VXLAN envelope. NAT happens between two
devices, so the rewrite is seen as a difference between two hops.

TTL starts at 64 (Linux, net.ipv4.ip_default_ttl) and falls by one on each machine that forwards.
"""

from __future__ import annotations

from msgspec.structs import replace

from netlab import beyond, world
from netlab.cluster import Cluster, NodeState
from netlab.model.lab import Lab, like
from netlab.packets import BARE, Direction, Expectation, Flow, Hop, Outer
from netlab.paths import places, rules
from netlab.paths.places import Place

TTL = 64
IN, OUT = Direction.IN, Direction.OUT


class Way:
    """Hops collected while one packet is followed from machine to machine."""

    def __init__(self, lab: Lab, source: str, destination: str) -> None:
        self.lab = lab
        self.source = source
        self.destination = destination
        self.source_port: int | None = None  # checked where a Service is on the way
        self.destination_port: int | None = None
        self.ttl = TTL
        self.outer: Outer | None = None
        self.hops: list[Hop] = []

    def at(
        self,
        netns: str,
        device: str,
        direction: Direction,
        why: str = "",
        *,
        macs: tuple[str, str] | None = None,
        own: bool = False,
    ) -> None:
        """Add the hop *device*; the packet looks there as it looks now."""
        source_mac, destination_mac = macs or (None, None)
        self.hops.append(
            Hop(
                netns=netns,
                device=device,
                direction=direction,
                source=self.source,
                destination=self.destination,
                ttl=self.ttl,
                outer=self.outer,
                source_mac=source_mac,
                destination_mac=destination_mac,
                own=own,
                why=why,
                source_port=self.source_port,
                destination_port=self.destination_port,
            )
        )

    def carried_on(self, why: str) -> None:
        """Say what carries the packet on from the hop added last."""
        if self.hops:
            self.hops[-1] = replace(self.hops[-1], why=why)

    def forwarded(self) -> None:
        """One machine routes the packet; in a tunnel only the envelope notices."""
        if self.outer is None:
            self.ttl -= 1


def segment_bridge(lab: Lab, address: str) -> str:
    """Return the underlay bridge that the machine with *address* is plugged into."""
    return world.bridge_name(lab.segment_of(address))


def across_underlay(way: Way, sender: tuple[str, str], receiver: tuple[str, str]) -> None:
    """Follow a packet from one machine's card to another's; each is (member name, address)."""
    lab = way.lab
    underlay = lab.netns(world.UNDERLAY)
    (name, address), (peer, peer_address) = sender, receiver
    if lab.spread:
        _across_machines(way, name, peer)
        return
    here, there = segment_bridge(lab, address), segment_bridge(lab, peer_address)
    out_port, in_port = world.port_name(name), world.port_name(peer)
    way.at(
        lab.netns(name), world.UPLINK, OUT, f"the cable to port {out_port} of {underlay} carries it"
    )
    if here == there:
        way.at(underlay, out_port, IN, f"bridge {here} switches it to port {in_port}")
    else:
        way.at(underlay, out_port, IN, f"bridge {here} hands it to the underlay's router")
        way.at(underlay, here, IN, f"the underlay routes it to {there}")
        way.forwarded()
        way.at(underlay, there, OUT, f"bridge {there} switches it to port {in_port}")
    way.at(underlay, in_port, OUT, f"the cable to eth0 of {peer} carries it")
    way.at(lab.netns(peer), world.UPLINK, IN, f"{lab.netns(peer)} takes it", own=True)


def _across_machines(way: Way, name: str, peer: str) -> None:
    """Follow a packet from one machine to another: nobody sees what is between them.

    The gateway, the balancer, and a stranger hang on one of them by a cable, which so is on the way
    of all the others.
    """
    lab = way.lab
    if {name, peer} == {world.GATEWAY, world.BALANCER}:
        far = lab.netns(peer)
        way.at(lab.netns(name), peer, OUT, f"the cable to {far} carries it")
        way.at(far, name, IN, f"{far} takes it", own=True)
        return
    here, there = beyond.behind(lab, name), beyond.behind(lab, peer)
    if here is not None:
        home, port = here
        own = lab.netns(home.name)
        way.at(lab.netns(name), world.UPLINK, OUT, f"the cable to {port} of {own} carries it")
        handed = lab.balancer is not None and lab.balancer.holds(way.destination)
        if handed and peer != home.name:
            words = f"table {beyond.FAMILY} {beyond.TABLE} of {own} hands it to {peer}"
            way.at(own, port, IN, words)
        else:
            way.at(own, port, IN, f"{own} takes it", own=True)
        name = home.name
        if peer == name:
            return
        way.forwarded()
    last = there[0].name if there is not None else peer
    if name != last:
        card = lab.uplink(name)
        way.at(lab.netns(name), card, OUT, f"the wire between the machines to {last}")
        way.at(lab.netns(last), lab.uplink(last), IN, f"{lab.netns(last)} takes it", own=True)
        if there is not None:
            way.forwarded()
    if there is not None:
        port, far = there[1], lab.netns(peer)
        way.at(lab.netns(last), port, OUT, f"the cable to eth0 of {far} carries it")
        way.at(far, world.UPLINK, IN, f"{far} takes it", own=True)


def out_of_pod(way: Way, pod: Place, *, onto_bridge: bool) -> None:
    """Follow a packet from a pod's eth0 into its node; *onto_bridge* when IP gets it there."""
    assert pod.pod and pod.node
    bridge = pod.node.declared.bridge
    way.at(
        pod.netns,
        world.UPLINK,
        OUT,
        f"the veth pair carries it to {pod.pod.veth} of {pod.pod.node}",
    )
    way.at(pod.node.netns, pod.pod.veth, IN, f"{pod.pod.veth} is a port of {bridge}, which is up")
    if onto_bridge:
        way.at(pod.node.netns, bridge, IN)


def into_pod(way: Way, pod: Place, *, from_bridge: bool) -> None:
    """Follow a packet from a node into a pod's eth0; *from_bridge* when IP sends it there."""
    assert pod.pod and pod.node
    bridge, veth = pod.node.declared.bridge, pod.pod.veth
    if from_bridge:
        asked = "neighbour solicitation" if ":" in pod.address else "ARP"
        way.carried_on(
            f"route {like(pod.address, pod.node.subnets)} dev {bridge}, FLANNEL-FWD accepts, "
            f"{asked} for {pod.address} answered through port {veth}"
        )
        way.at(pod.node.netns, bridge, OUT, f"{bridge} switches it to its port {veth}")
    else:
        way.carried_on(f"{bridge} switches it to its port {veth}")
    way.at(pod.node.netns, veth, OUT, "the veth pair carries it to eth0 of the pod")
    way.at(pod.netns, world.UPLINK, IN, f"{pod.address} is the pod's own address", own=True)


def through_tunnel(way: Way, node: NodeState, peer: NodeState) -> None:
    """Follow a packet from one node's flannel.N to another's (RFC 7348)."""
    if way.lab.network.Backend.Type == "udp":
        through_process(way, node, peer)
        return
    ipv6 = ":" in way.destination
    vni, device = way.lab.network.Backend.VNI, way.lab.network.tunnels[ipv6]
    macs = (node.vtep_macs[ipv6], peer.vtep_macs[ipv6])
    here, there = node.declared.addresses[ipv6], peer.declared.addresses[ipv6]
    hop = peer.tunnel_addresses[ipv6]
    way.carried_on(
        f"route {peer.subnets[ipv6]} via {hop} dev {device} onlink, "
        f"neighbour {hop} lladdr {macs[1]}"
    )
    why = f"FDB entry of {device} for {macs[1]} dst {there}"
    way.at(node.netns, device, OUT, why, macs=macs)
    port = way.lab.network.tunnel_port
    way.outer = Outer(here, there, vni, destination_port=port)
    first = len(way.hops)
    across_underlay(way, (node.name, node.address), (peer.name, peer.address))
    way.carried_on(f"{device} of {peer.name} takes VNI {vni} off its UDP port")
    way.outer = None
    way.hops[first:] = [
        replace(hop, source_mac=macs[0], destination_mac=macs[1]) for hop in way.hops[first:]
    ]
    way.at(peer.netns, device, IN, f"{peer.netns} forwards it", macs=macs, own=True)


def through_process(way: Way, node: NodeState, peer: NodeState) -> None:
    """Follow a packet through flannel's udp back end: two processes, each of which takes one off
    its TTL, and a datagram between them."""
    lab = way.lab
    device, port = lab.network.tunnel, lab.network.tunnel_port
    way.carried_on(f"route {lab.network.Network} dev {device}")
    why = f"the process behind {device} of {node.name} sends what is for {peer.subnet} to "
    way.at(node.netns, device, OUT, f"{why}{peer.address}:{port}")
    way.forwarded()
    way.outer = Outer(node.address, peer.address, BARE, destination_port=port)
    across_underlay(way, (node.name, node.address), (peer.name, peer.address))
    way.carried_on(f"the process behind {device} of {peer.name} takes it off UDP port {port}")
    way.outer = None
    way.forwarded()
    way.at(peer.netns, device, IN, f"{peer.netns} forwards it")


def request_hops(
    cluster: Cluster, source: Place, destination: Place, flow: Flow, *, ends: bool
) -> list[Hop]:
    """Return the hops from *source* to *destination*, or to the gateway when it *ends* there."""
    way = Way(cluster.lab, flow.source, flow.destination)
    hidden = rules.masquerades(cluster, source, destination)
    return _follow(cluster, way, source, destination, hide=hidden, ends=ends)


def reply_hops(cluster: Cluster, source: Place, destination: Place, flow: Flow) -> list[Hop]:
    """Return the hops of the answer, from *destination* back to *source*."""
    hidden = rules.masquerades(cluster, source, destination)
    hides = like(flow.source, source.node.declared.addresses) if source.node else ""
    back_to = hides if hidden and source.node else flow.source
    way = Way(cluster.lab, flow.destination, back_to)
    reveal = flow.source if hidden else ""
    return _follow(cluster, way, destination, source, reveal=reveal)


def _follow(
    cluster: Cluster,
    way: Way,
    start: Place,
    goal: Place,
    *,
    hide: bool = False,
    reveal: str = "",
    ends: bool = False,
) -> list[Hop]:
    """Follow a packet. *hide*: the first node masquerades; *reveal*: the last one undoes it."""
    lab = cluster.lab
    if start.netns == goal.netns:
        way.at(start.netns, "lo", OUT, "lo hands it back")
        way.at(start.netns, "lo", IN, f"{goal.address} is local")
        return way.hops
    if start.pod and goal.pod and start.node == goal.node:
        out_of_pod(way, start, onto_bridge=False)
        into_pod(way, goal, from_bridge=False)
        return way.hops
    if start.pod:
        out_of_pod(way, start, onto_bridge=True)
    elif start.member in places.OUTSIDE:
        way.at(
            start.netns, world.UPLINK, OUT, f"the cable to {lab.netns(world.GATEWAY)} carries it"
        )
        way.at(lab.netns(world.GATEWAY), start.member, IN)
    sender = rules.machine(cluster, start)
    receiver = (
        rules.machine(cluster, goal) if not ends else (world.GATEWAY, cluster.lab.gateway.address)
    )
    if sender != receiver:
        if _is_routing(start):
            way.forwarded()
        between(cluster, way, start, goal, hide=hide, ends=ends)
    elif start.pod and not goal.pod:
        way.carried_on(f"{goal.address} is an address of {goal.title}")
    if ends:
        return way.hops
    if goal.pod:
        if sender != receiver or _is_routing(start):
            way.forwarded()
        if reveal:
            way.carried_on("conntrack undoes the masquerade")
            way.destination = reveal
        into_pod(way, goal, from_bridge=True)
    elif goal.member in places.OUTSIDE:
        if sender != receiver or _is_routing(start):
            way.forwarded()
        way.carried_on(f"{lab.netns(world.GATEWAY)} forwards it to its cable {goal.member}")
        way.at(lab.netns(world.GATEWAY), goal.member, OUT, f"the cable to {goal.netns} carries it")
        way.at(goal.netns, world.UPLINK, IN, f"{goal.address} is its own address")
    return way.hops


def _is_routing(start: Place) -> bool:
    """Whether the first machine forwards: the packet came to it from a pod or from outside."""
    return start.pod is not None or start.member in places.OUTSIDE


def between(
    cluster: Cluster,
    way: Way,
    start: Place,
    goal: Place,
    *,
    hide: bool = False,
    ends: bool = False,
) -> None:
    """Follow a packet from the first machine of the underlay to the last."""
    sender = rules.machine(cluster, start)
    gateway = (world.GATEWAY, cluster.lab.gateway.address)
    receiver = gateway if ends else rules.machine(cluster, goal)
    overlay = not ends and places.in_network(cluster, way.destination)
    if overlay and start.node and goal.node and not places.direct(cluster, start.node, goal.node):
        through_tunnel(way, start.node, goal.node)
        return
    if hide and start.node:
        way.source = like(goal.address, start.node.declared.addresses)
        way.carried_on(
            f"route to {goal.address} dev {start.node.uplink}, "
            f"FLANNEL-POSTRTG masquerades as {way.source}"
        )
    elif overlay and start.node and goal.node:
        peer = goal.node
        subnet, hop = (like(goal.address, of) for of in (peer.subnets, peer.declared.addresses))
        way.carried_on(f"route {subnet} via {hop} dev {start.node.uplink}, no tunnel")
    else:
        card = cluster.lab.uplink(sender[0])
        way.carried_on(f"{sender[0]} has a route to {goal.address} dev {card}")
    across_underlay(way, sender, receiver)


def expected(cluster: Cluster, source: Place, destination: Place, flow: Flow) -> Expectation:
    """Return the way *flow* should take from *source* to *destination* and back.

    `flow.source` is the address the packet is sent from (`places.source_address`).
    """
    ends = rules.stopped(cluster, source, destination, flow)
    request = request_hops(cluster, source, destination, flow, ends=bool(ends))
    if ends:
        beyond = (cluster.lab.netns(world.GATEWAY), world.UPLINK)
        outside = source.member in places.OUTSIDE
        return Expectation(flow, tuple(request), (), (beyond,) if outside else (), ends)
    return Expectation(
        flow,
        tuple(request),
        tuple(reply_hops(cluster, source, destination, flow)),
        tuple(rules.forbidden(cluster, source, destination)),
        ports=rules.bridge_ports(cluster),
    )
