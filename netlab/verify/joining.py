"""A stranger joins the overlay of a live lab, is reached, and leaves without a trace.

It is a member written by hand, as a flanneld on another machine would be: a namespace plugged into
the underlay, a tunnel device, and a lease in etcd. The lab's nodes are not told anything else. Its
key ends by itself after `TTL` seconds, and its namespace has a guest's name, which the agent leaves
alone and `netlab down` removes: a kill -9 in between leaves nothing for long.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec

from netlab import patience, stacks, world
from netlab.cluster import Cluster, NodeState, PodState
from netlab.encapsulation import control
from netlab.flannel import backends, choice, lease, udp
from netlab.flannel.config import SUBNETS, UDP, resolve
from netlab.flannel.lease import Lease
from netlab.flannel.subnets import Me, own_lease
from netlab.kernel import netns as namespaces
from netlab.kernel import owned
from netlab.kernel.real import RealKernel
from netlab.model.backends import HOST_GW
from netlab.model.lab import Lab, LabNode, Segment
from netlab.objects import Address, Bridge, FdbEntry, Netns, Object, Route, Sysctl
from netlab.packets import Protocol
from netlab.paths.places import of_node
from netlab.plan import Op, Verb
from netlab.processes import run
from netlab.verify.context import Checked, Context, Failure, Skip, required
from netlab.verify.leases import entry_words, held_by, in_words, way_to

WITHIN = patience.seconds(2.0)  # seconds, for all nodes to follow
SENDERS = 8  # nodes at most of which a pod speaks with the stranger
TTL = 30  # seconds the stranger's lease lives at most
LOOK = 0.005  # seconds between two looks into the kernels
NAME = f"{world.GUEST}join"
TRANSIT = "netlab-transit"  # the table, on the machine that the stranger is behind
# A namespace of its own each time: who watched the one before would not notice another of its name.
_numbers = itertools.count(1)


def free_address(context: Context, listing_ips: set[str], nth: int = 0) -> tuple[Segment, str]:
    """Return the first node's segment and its highest address that nobody has, or the *nth* of
    those."""
    lab = context.lab
    segment = lab.segment_of(context.cluster.nodes[0].address)
    taken = {node.address for node in lab.nodes} | listing_ips
    for its in world.member_addresses(lab).values():
        taken |= set(its)
    for value in range(int(IPv4Network(segment.cidr)[-2]), int(IPv4Network(segment.cidr)[0]), -1):
        given = lab.balancer is not None and lab.balancer.holds(str(IPv4Address(value)))
        if str(IPv4Address(value)) not in taken and not given:
            if nth == 0:
                return segment, str(IPv4Address(value))
            nth -= 1
    raise Skip(f"needs a free address in segment {segment.name}")


def stranger(context: Context) -> tuple[NodeState, Lease]:
    """Return the node that will join, and its lease: a free subnet, a free address."""
    config = resolve(context.lab.network)
    with context.etcd() as etcd:
        leases, _ = lease.peers(etcd.range(SUBNETS).items)
    subnets = choice.free(config.ipv4, [held.subnet for held in leases])
    if not subnets:
        raise Skip("needs a free subnet in flannel's network")
    host, address = place_behind(context, {held.public_ip for held in leases})
    name = f"{NAME}{next(_numbers)}-{os.getpid()}"
    bridge = context.cluster.nodes[0].declared.bridge
    node = LabNode(name, address, bridge=bridge, host=host)
    me = Me.of(context.lab.name, node, config)
    held = own_lease(config, subnets[-1], me)
    return state_of(context.lab, node, held), held


def state_of(lab: Lab, node: LabNode, own: Lease) -> NodeState:
    """Return the stranger as the nodes see it by its lease."""
    overlay = bool(lab.network.tunnel)
    return NodeState(node, lab.netns(node.name), own.subnet, own.vtep_mac, overlay=overlay)


def place_behind(context: Context, listing_ips: set[str]) -> tuple[str, str]:
    """Return the node on whose machine a guest is to be, "" in a lab on one; and its address.

    Each machine has one of its own for guests, so that nobody looks for it at another.
    """
    host = _host(context)
    nth = [one.name for one in context.lab.nodes].index(host) if host else 0
    return host, free_address(context, listing_ips, nth)[1]


def is_direct(lab: Lab) -> bool:
    """Return whether nodes of one segment send each other pods' packets without a tunnel."""
    backend = lab.network.Backend
    return backend.Type == HOST_GW or bool(backend.DirectRouting)


def _host(context: Context) -> str:
    """Return the node on whose machine the stranger is to be, in a lab of several: the next one, so
    that what we send it crosses the wire; "" in a lab on one."""
    if not context.here:
        return ""
    names = [node.name for node in context.lab.running]
    return names[(names.index(context.here) + 1) % len(names)]


def its_objects(context: Context, node: NodeState, own: Lease) -> list[Object]:
    """Return what is inside the stranger's namespace: a bridge for its subnet, the ways."""
    lab = context.lab
    config = resolve(lab.network)
    length = IPv4Network(node.subnet).prefixlen
    peers = [
        own_lease(config, other.subnet, Me(other.address, other.vtep_mac))
        for other in context.cluster.nodes
        if other.subnet
    ]
    bridge = node.declared.bridge
    return [
        stacks.no_ipv6(node.netns),
        *stacks.no_reverse_path_filter(node.netns),
        Sysctl(node.netns, "net.ipv4.ip_forward", "1"),
        Bridge(node.netns, bridge, world.mac(node.netns, bridge)),
        Address(node.netns, bridge, f"{node.bridge_address}/{length}"),
        *_addressing(lab, node),
        *backends.objects(
            node.netns,
            config=config,
            own=own,
            peers=peers,
            device=world.UPLINK,
            local=node.address,
            home=lab.segment_of(node.address).prefixes,
            underlay_mtu=lab.underlay.mtu,
        ),
    ]


def _addressing(lab: Lab, node: NodeState) -> list[Object]:
    """Return the stranger's address and its ways to the nodes; behind a machine, by that one."""
    if not node.declared.host:
        return world.machine_addressing(lab, node.netns, node.address)
    via, home = lab.node(node.declared.host).address, lab.segment_of(node.address)
    far = [segment.cidr for segment in lab.underlay.segments if segment != home]
    return [
        Address(node.netns, world.UPLINK, f"{node.address}/{home.cidr.partition('/')[2]}"),
        *(Route(node.netns, one, world.UPLINK, via) for one in far),
    ]


@contextmanager
def there(context: Context, node: NodeState, own: Lease) -> Iterator[None]:
    """Have the stranger's machine for the duration, on whichever machine it is to be."""
    if node.declared.host in ("", context.here):
        with plugged_in(context, node, own):
            yield
        return
    words = {"node": node.declared, "lease": own, "seconds": TTL}
    context.hosted(node.name, node.declared.host)
    with context.away(node.declared.host, "guest", msgspec.to_builtins(words)):
        yield


@contextmanager
def plugged_in(context: Context, node: NodeState, own: Lease) -> Iterator[None]:
    """Have the stranger's machine on the underlay for the duration; it has no lease yet.

    Its cable is made by ip(8) and carries no mark of the lab's, so the agent does not take it for
    a port that should not be there. It goes with the namespace.
    """
    with cabled(context.lab, node.declared, node.netns):
        RealKernel().apply([Op(Verb.ADD, thing) for thing in its_objects(context, node, own)])
        if context.lab.network.Backend.Type == UDP:
            _process(context, node)
        with led_to(context.cluster, node.declared, own.subnet):
            yield


@contextmanager
def led_to(cluster: Cluster, node: LabNode, subnet: str) -> Iterator[None]:
    """Have the machine that *node* is behind send on what comes there for its pods, and from them,
    meanwhile, where no tunnel does.

    As any node it has a route to *subnet* by the wire, where nobody is: the halves come first. And
    it takes what is neither from its own pods nor to them for what leaves the cluster, whose source
    flannel's rules replace: not of what is not tracked.
    """
    lab = cluster.lab
    if not node.host or not is_direct(lab):
        yield
        return
    host, port = cluster.node(node.host), world.port_name(node.name)
    for half in IPv4Network(subnet).subnets():
        way = f"route replace {half} via {node.address} dev {port}"
        run(["ip", "-n", host.netns, *way.split()])
    own = ", ".join(one for one in (host.subnet, host.address) if one)
    chain = (
        "transit { type filter hook prerouting priority raw; "
        f"iifname {host.uplink} ip daddr {subnet} notrack; "
        f"iifname {port} ip saddr {subnet} ip daddr != {{ {own} }} notrack; }}"
    )
    with owned.table(host.netns, TRANSIT, [chain]):
        yield


@contextmanager
def cabled(lab: Lab, node: LabNode, netns: str) -> Iterator[None]:
    """Have a namespace *netns* for the duration, whose card is plugged in as *node*'s; there is no
    address on it yet. Behind a machine, that routes to it, answers for it on the wire, and for the
    wire to it."""
    host, port = node.host, world.port_name(node.name)
    beside = lab.netns(host or world.UNDERLAY)
    switched = "" if host else f"master {world.bridge_name(lab.segment_of(node.address))} "
    uplink = lab.uplink(host)
    # The same card for the same address each time: the nodes remember who had it last.
    card = world.mac(lab.name, NAME, node.address)
    try:
        RealKernel().apply([Op(Verb.ADD, Netns(netns))])
        run(
            f"ip -n {beside} link add {port} mtu {lab.underlay.mtu} {switched}up "
            f"type veth peer name {world.UPLINK} address {card} netns {netns}".split()
        )
        if host:  # none of it has a mark of the lab's
            settings = (
                Sysctl(beside, f"net.ipv4.neigh.{port}.proxy_delay", "0"),
                Sysctl(beside, f"net.ipv4.conf.{port}.proxy_arp", "1"),
            )
            RealKernel().apply([Op(Verb.ADD, one) for one in settings])
            # A machine with strict ARP answers for what the very device has.
            run(f"ip -n {beside} addr add {lab.node(host).address}/32 dev {port}".split())
            run(f"ip -n {beside} route add {node.address}/32 dev {port}".split())
            run(f"ip -n {beside} neigh add proxy {node.address} dev {uplink}".split())
        run(["ip", "-n", netns, "link", "set", world.UPLINK, "up"])
        yield
    finally:
        # What runs in there, if anything does, ends with the name of its namespace.
        # The kernel ends a namespace a moment after its name: the cable must be gone now.
        run(["ip", "-n", beside, "link", "delete", port], check=False)
        if host:
            run(f"ip -n {beside} neigh del proxy {node.address} dev {uplink}".split(), check=False)
        namespaces.delete(netns)


def _process(context: Context, node: NodeState) -> None:
    """Start the stranger's process of flannel's udp back end, which knows all nodes."""
    path = Path(namespaces.path(node.netns))
    process = control.Process(context.live.run, node.name, netns=path, device=udp.DEVICE)
    leases = [(other.subnet, other.address) for other in context.cluster.nodes if other.subnet]
    port = context.lab.network.tunnel_port
    with namespaces.entered(node.netns):
        process.keep(
            control.Told(node.address, port, node.bridge_address, control.peers_of(leases))
        )
        process.forget()


def until_all(context: Context, peer: Lease, *, held: bool) -> float:
    """Return the seconds until every node holds the way to *peer*, or none has any of it."""
    began = time.monotonic()
    waiting = list(context.cluster.nodes)
    while waiting:
        left = {node.name: _differing(context, node, peer, held=held) for node in waiting}
        waiting = [node for node in waiting if left[node.name]]
        took = time.monotonic() - began
        if waiting and took > WITHIN:
            verb = "lacks" if held else "still holds"
            raise Failure(
                *(
                    f"{node.name} {verb} {what} after {WITHIN} s"
                    for node in waiting
                    for what in left[node.name]
                ),
                last_seen=f"etcd {peer.key}" + ("" if held else " revoked"),
                expected_next=f"{waiting[0].name} {'holds' if held else 'forgets'} "
                f"{left[waiting[0].name][0]}",
            )
        if waiting:
            time.sleep(LOOK)
    return took


def _differing(context: Context, node: NodeState, peer: Lease, *, held: bool) -> list[str]:
    """Return, in words, what *node* lacks of the way to *peer*, or what of it it still has."""
    if context.lab.network.Backend.Type == UDP:
        known = context.read(node, "reached").get(peer.subnet) == peer.public_ip
        return [] if known is held else [entry_words(peer)]
    wanted = way_to(context, node, peer)
    here = held_by(context, node, wanted)
    return [in_words(thing) for thing in wanted if (thing in here) is not held]


def extended(cluster: Cluster, node: NodeState) -> Cluster:
    """Return the cluster with the stranger in it, for what is expected of packets to it."""
    lab = msgspec.structs.replace(cluster.lab, nodes=[*cluster.lab.nodes, node.declared])
    return msgspec.structs.replace(cluster, lab=lab, nodes=(*cluster.nodes, node))


def node_join(context: Context) -> Checked:
    if not context.cluster.nodes or not context.senders:
        raise Skip("needs a node and a running pod")
    node, own = stranger(context)
    with there(context, node, own):
        joined, left, checked = _joined_and_left(context, node, own)
    nodes = len(context.cluster.nodes)
    what = what_leads_there(context, own)
    checked.evidence = [
        f"lease {own.subnet} of {own.public_ip} put in etcd: {nodes} nodes hold {what} "
        f"after {joined * 1000:.0f} ms",
        *checked.evidence,
        f"lease deleted: all of it gone from {nodes} nodes after {left * 1000:.0f} ms",
    ]
    return checked


def what_leads_there(context: Context, own: Lease) -> str:
    """Return what the first node holds for a lease: `its route, neighbor and FDB entry`."""
    if context.lab.network.Backend.Type == UDP:
        return "it in their processes"
    kinds = {type(thing) for thing in way_to(context, context.cluster.nodes[0], own)}
    return "its route, neighbour and FDB entry" if FdbEntry in kinds else "its route"


def _joined_and_left(context: Context, node: NodeState, own: Lease) -> tuple[float, float, Checked]:
    grant = 0
    try:
        with context.etcd() as etcd:
            grant = etcd.grant(TTL)
            etcd.put(own.key, own.value(), lease=grant)
        joined = until_all(context, own, held=True)
        checked = _reached(context, node)
    finally:
        if grant:
            with context.etcd() as etcd:
                etcd.revoke(grant)  # and with it the key
    return joined, until_all(context, own, held=False), checked


def _reached(context: Context, node: NodeState) -> Checked:
    """A packet from a pod of each node to the stranger's end of its subnet and back."""
    firsts: dict[str, PodState] = {}
    for pod in context.senders:
        firsts.setdefault(pod.node, pod)
    checked = Checked()
    for pod in list(firsts.values())[:SENDERS]:
        shot = required(
            context.shoot(
                context.pod_place(pod),
                of_node(node, node.bridge_address),
                protocol=Protocol.ICMP,
                cluster=extended(context.cluster, node),
            )
        )
        checked.evidence.append(
            f"{pod.title} of {pod.node} -> {node.bridge_address} there: echo answered, "
            "every hop seen"
        )
        checked.passages += shot.verdict.passages
    return checked
