"""What on a packet's way is not as it should be: desired against observed, as the agent does it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from netlab import attachments, beyond, desired, plan, world
from netlab.balancing import listeners
from netlab.cluster import Cluster, NodeState
from netlab.flannel.config import resolve
from netlab.flannel.lease import Lease
from netlab.journeys import Cause, Kind
from netlab.kernel import lookup
from netlab.kernel.netns import entered, exists
from netlab.kernel.real import RealKernel
from netlab.objects import (
    MAIN_TABLE,
    Address,
    Bridge,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netem,
    Netns,
    NftTable,
    Object,
    Route,
    RoutingRule,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)
from netlab.plan import Op, Verb
from netlab.telling.naming import Names

AGENT = "the lab's agent repairs that by itself: is it running? `netlab status`"
_INTERFACES = (Kind.INTERFACE_GONE, Kind.INTERFACE_DOWN, Kind.BRIDGE_PORT, Kind.TUNNEL)
FAR = "203.0.113.1"  # what only a default route leads to: TEST-NET-3, RFC 5737
_SETTINGS = ("ip_forward", "rp_filter", "bridge-nf-call-iptables", "forwarding")


class Way(NamedTuple):
    """What a flow may depend on: namespaces in the order of its way, its ends' addresses."""

    netns: tuple[str, ...]
    addresses: frozenset[str]
    nodes: tuple[NodeState, ...]


_ALONE = Bridge | Vxlan | Tun  # links with one end


def differences(cluster: Cluster, leases: Sequence[Lease], way: Way) -> list[Op]:
    """Return what the agent would do to the namespaces of *way*, as far as the flow needs it."""
    wanted = _wanted(cluster, leases, way)
    kernel = RealKernel()
    found: list[Op] = []
    for netns in way.netns:
        objects = wanted.get(netns)
        if objects is not None:
            there = attachments.others(cluster.lab, kernel.observe(netns, objects))
            ops = plan.difference(objects, there)
            found += [
                op
                for op in ops
                if _matters(cluster, op, way, objects) and not _goes_there_anyway(op)
            ]
    return found


def _goes_there_anyway(op: Op) -> bool:
    """Return whether a route that is missing has a twin that somebody else made."""
    wanted = op.object
    if op.verb is not Verb.ADD or not isinstance(wanted, Route) or not exists(wanted.netns):
        return False
    if wanted.table != MAIN_TABLE:
        return False
    address = _network(wanted.destination).partition("/")[0]
    with entered(wanted.netns):
        found = lookup.route(FAR if wanted.destination == "default" else address)
        link = lookup.interfaces().get(wanted.link)
    same_way = link is not None and found.device == link.ifindex
    return found.prefix == wanted.destination and same_way and found.gateway == (wanted.via or "")


def _wanted(cluster: Cluster, leases: Sequence[Lease], way: Way) -> dict[str, list[Object]]:
    config = resolve(cluster.lab.network)
    by_address = {one.public_ip: one for one in leases}
    found: dict[str, list[Object]] = {}
    for node in way.nodes:
        own = by_address.get(node.address)
        peers = [one for one in leases if one is not own]
        found[node.netns] = desired.node(cluster, node, config=config, own=own, peers=peers)
        found.update(desired.pods(cluster, node) if own else {})
    published = listeners.published(cluster.lab, cluster.documents.of("Service"))
    lab = cluster.lab
    around = beyond.outside(lab, published) if lab.spread else world.objects(lab, published)
    for netns, objects in around.items():
        found[netns] = [*dict.fromkeys([*objects, *found.get(netns, [])])]
    return found


def _matters(cluster: Cluster, op: Op, way: Way, wanted: Collection[Object]) -> bool:
    """Return whether the flow needs what *op* is about."""
    match op.object:
        case Netns() | Address() | Bridge() | Vxlan() | Tun() | NftTable():
            return True
        case Veth(peer_netns=peer):
            return peer in way.netns or op.object.netns not in {n.netns for n in way.nodes}
        case RoutingRule(table=table) | Route(table=table) if table != MAIN_TABLE:
            return op.verb is not Verb.DELETE  # the balancer's way to a node: any may be chosen
        case Route(destination=prefix):
            return op.verb is not Verb.DELETE and prefix in _needed(wanted, way.addresses)
        case Neighbor(address=address):
            return address in {node.tunnel_address for node in way.nodes}
        case FdbEntry(mac=mac):
            return mac in {node.vtep_mac for node in way.nodes}
        case Sysctl(name=name):
            return any(word in name for word in _SETTINGS)
        case IptablesChain(table=table) | IptablesJump(table=table):
            outside = any(not inside(cluster, one) for one in way.addresses)
            return table == "nat" and outside
    return False


def inside(cluster: Cluster, address: str) -> bool:
    """Return whether an address is of the cluster's own: a pod's or a Service's."""
    own = IPv4Address(address) in IPv4Network(cluster.lab.network.Network)
    return own or IPv4Address(address) in IPv4Network(cluster.lab.serviceCIDR)


def _needed(wanted: Iterable[Object], addresses: Iterable[str]) -> set[str]:
    """Return the destinations of the routes that packets to *addresses* should take."""
    main = [one for one in wanted if isinstance(one, Route) and one.table == MAIN_TABLE]
    routes = [IPv4Network(_network(one.destination)) for one in main]
    best = (
        max((net for net in routes if IPv4Address(one) in net), key=lambda net: net.prefixlen)
        for one in addresses
        if any(IPv4Address(one) in net for net in routes)
    )
    return {"default" if not net.prefixlen else str(net) for net in best}


def _network(destination: str) -> str:
    return "0.0.0.0/0" if destination == "default" else destination


def causes(ops: Iterable[Op], names: Names) -> Iterator[Cause]:
    """Yield what each difference means to a packet; namespaces first, then interfaces, as what
    depends on one goes with it."""

    def order(op: Op) -> tuple[bool, bool]:
        return not isinstance(op.object, Netns), kind_of(op) not in _INTERFACES

    for op in sorted(ops, key=order):
        netns, words = _words(op)
        place = names.place(netns)
        yield Cause(
            kind_of(op),
            place,
            f"{place}: {words}",
            (f"desired and observed differ: {words}",),
            (*plan.words(op), AGENT),
        )


def kind_of(op: Op) -> Kind:
    """Return what kind of cause a difference is."""
    thing, old = op.object, op.old
    if isinstance(thing, Bridge | Veth | Vxlan | Tun):
        return _kind_of_link(op)
    if isinstance(thing, Sysctl):
        return Kind.RP_FILTER if "rp_filter" in thing.name else Kind.FORWARDING
    for sort, kind in (
        (Route, Kind.ROUTE),
        (Neighbor, Kind.NEIGHBOUR),
        (FdbEntry, Kind.FDB),
        (Address, Kind.ADDRESS),
    ):
        if isinstance(thing, sort):
            return kind
    assert old is None or old.key == thing.key
    return Kind.RULE_GONE if not isinstance(thing, Netns) else Kind.INTERFACE_GONE


def _kind_of_link(op: Op) -> Kind:
    new, old = op.object, op.old
    if op.verb is not Verb.CHANGE or type(new) is not type(old):
        return Kind.TUNNEL if op.verb is Verb.DELETE else Kind.INTERFACE_GONE
    if isinstance(new, Veth) and isinstance(old, Veth):
        if not (old.up and old.peer_up):
            return Kind.INTERFACE_DOWN
        return Kind.BRIDGE_PORT if old.bridge != new.bridge else Kind.MTU
    if (
        isinstance(new, Bridge | Vxlan | Tun)
        and isinstance(old, Bridge | Vxlan | Tun)
        and not old.up
    ):
        return Kind.INTERFACE_DOWN
    if getattr(new, "mtu", 0) != getattr(old, "mtu", 0):
        return Kind.MTU
    other_mac = getattr(new, "mac", "") != getattr(old, "mac", "")
    return Kind.NEIGHBOUR if other_mac else Kind.TUNNEL


def _words(op: Op) -> tuple[str, str]:
    """Return the namespace and the words of a difference: at the end of a cable that it is at."""
    thing, old = op.object, op.old
    what = thing_words(thing)
    if op.verb is Verb.ADD:
        return thing.netns, f"{what} is missing"
    if op.verb is Verb.DELETE:
        return thing.netns, f"{what} should not be there"
    if isinstance(thing, Veth) and isinstance(old, Veth):
        if not old.peer_up and thing.peer_up:
            return thing.peer_netns, f"interface {thing.peer_name} is down"
        if not old.up and thing.up:
            return thing.netns, f"interface {thing.name} is down"
        if old.bridge != thing.bridge:
            return thing.netns, f"{thing.name} is a port of {old.bridge or 'no bridge'}"
    if (
        isinstance(thing, Bridge | Vxlan | Tun)
        and isinstance(old, Bridge | Vxlan | Tun)
        and not old.up
    ):
        return thing.netns, f"interface {thing.name} is down"
    return thing.netns, f"{what} is otherwise: {_changed(old, thing)}"


def _changed(old: Object | None, new: Object) -> str:
    fields = [
        f"{name} {getattr(old, name)}, should be {getattr(new, name)}"
        for name in new.__struct_fields__
        if old is not None and getattr(old, name, None) != getattr(new, name)
    ]
    return "; ".join(fields).replace("True", "yes").replace("False", "no")


def thing_words(thing: Object) -> str:
    """Return what an object is called: `route 10.244.1.0/24 dev flannel.1`."""
    match thing:
        case Route():
            via = f" via {thing.via}" if thing.via else ""
            return f"route {thing.destination}{via} dev {thing.link}"
        case RoutingRule():
            return f"rule for mark {thing.mark:#x}, lookup {thing.table},"
        case Neighbor():
            mac = f" lladdr {thing.mac}" if thing.mac else ""
            return f"neighbour {thing.address}{mac} of {thing.link}"
        case FdbEntry():
            return f"FDB entry of {thing.link} for {thing.mac} dst {thing.destination}"
        case Address():
            return f"address {thing.address} of {thing.link}"
        case Veth(peer_netns=""):
            return f"cable {thing.name}, whose other end is not where it should be,"
        case Veth():
            return f"cable {thing.name} to {thing.peer_name} of {thing.peer_netns}"
        case Bridge() | Vxlan() | Tun():
            return f"interface {thing.name}"
        case Sysctl():
            return f"setting {thing.name}"
        case IptablesChain():
            return f"chain {thing.table} {thing.name}"
        case IptablesJump():
            return f"rule {thing.table} {thing.chain}: {thing.rule}"
        case Netem():
            return f"delay or loss of {thing.link}"
        case NftTable():
            return f"table {thing.family} {thing.name}"
    return f"namespace {thing.netns}"
