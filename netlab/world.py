"""The desired kernel objects of everything that is not a node's own business.

1. `underlay` carries one bridge per segment; with several segments it also routes between them.
2. `gateway` joins the underlay to the outside and filters; `internet` and `client` are outside.
3. `master` is a machine of the underlay on which only etcd listens.
4. `balancer`, where one is declared, is a machine of the underlay to which all others route the
   addresses of its pool. It forwards: whoever gets `mark_of(node)` goes to that node unchanged,
   whatever address the packet is for. Its rules are `agent.balancer`'s.
5. A node's namespace and its cable to the underlay are made here; what is inside it is the node's.

Device names: in the underlay `br-<segment>` and one port per member; `eth0` is always a machine's
own first card; in the gateway `internet` and `client` are the cables to those two.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)

from netlab import faults
from netlab import firewall as rules
from netlab.firewall import Published
from netlab.model.faults import Fault, Sort
from netlab.model.lab import FIRST_CARD, Lab, Segment, like
from netlab.objects import (
    Address,
    Bridge,
    Neighbor,
    Netns,
    NftTable,
    Object,
    Route,
    RoutingRule,
    Sysctl,
    Veth,
)
from netlab.stacks import default_route, ip_stacks, no_ipv6, no_reverse_path_filter

IFNAME_MAX = 15  # bytes; linux/if.h, IFNAMSIZ less the closing zero
UNDERLAY, GATEWAY, INTERNET, CLIENT, MASTER = "underlay", "gateway", "internet", "client", "master"
BALANCER = "balancer"
# In a lab of several machines all on one of them: see `beyond`. The last one if declared.
OUTSIDE = (CLIENT, INTERNET, GATEWAY, BALANCER)
MEMBERS = (UNDERLAY, GATEWAY, INTERNET, CLIENT, MASTER, BALANCER)  # the last one if declared
UPLINK = FIRST_CARD
GUEST = "guest-"  # names of namespaces a command adds for a moment; the agent leaves them alone


def members(lab: Lab) -> tuple[str, ...]:
    """Return the parts of *lab* that are no nodes. Between several machines nothing is ours."""
    every = (*OUTSIDE[:-1], MASTER, BALANCER) if lab.spread else MEMBERS
    return every if lab.balancer is not None else every[:-1]


def between(lab: Lab) -> list[str]:
    """Return the namespaces that packets between machines cross, as far as netlab makes them."""
    return [] if lab.spread else [lab.netns(UNDERLAY), lab.netns(GATEWAY)]


def mark_of(address: str) -> int:
    """Return the mark by which the balancer sends packets to the node with *address*.

    The address itself as a number: 0xc0a8320b is 192.168.50.11. Its routing table has that number.
    """
    return int(IPv4Address(address))


def address_of(mark: int) -> str:
    """Return the address of the node that the balancer's *mark* means."""
    return str(IPv4Address(mark))


def device_name(wanted: str, *, prefix: str = "p") -> str:
    """Return *wanted* if an interface may be called so, else a short stable stand-in."""
    if len(wanted.encode()) <= IFNAME_MAX:
        return wanted
    return prefix + sha256(wanted.encode()).hexdigest()[:8]


def bridge_name(segment: Segment) -> str:
    """Return the device name of a segment's bridge in the underlay."""
    return device_name(f"br-{segment.name}", prefix="br-")


def port_name(member: str) -> str:
    """Return the device name of a member's port in the underlay, `node1`."""
    return device_name(member)


def veth_name(namespace: str, pod: str) -> str:
    """Return the device name of the node's end of a pod's cable, `veth3f1a90c2`."""
    return "veth" + sha256(f"{namespace}/{pod}".encode()).hexdigest()[:8]


def mac(*parts: str) -> str:
    """Return a stable, locally administered unicast MAC for whatever *parts* name."""
    digest = sha256("/".join(parts).encode()).digest()
    octets = bytes([digest[0] & 0xFE | 0x02]) + digest[1:6]
    return octets.hex(":")


def gateway_side(interface: str) -> IPv4Interface | IPv6Interface:
    """Return the gateway's address on the link of an outside machine: the first free one."""
    machine = ip_interface(interface)
    first = machine.network[1] if machine.network[1] != machine.ip else machine.network[2]
    return ip_interface(f"{first}/{machine.network.prefixlen}")


def member_addresses(lab: Lab) -> dict[str, list[str]]:
    """Return the addresses of the members that are no nodes, without prefix lengths."""
    balancer = {BALANCER: [lab.balancer.address]} if lab.balancer is not None else {}
    routers = [one for segment in lab.underlay.segments for one in segment.routers]
    internet, client = lab.outside.machine(INTERNET), lab.outside.machine(CLIENT)
    sides = [
        str(gateway_side(one).ip) for pair in zip(internet, client, strict=True) for one in pair
    ]
    known = (_ip(internet[0]), lab.resolver, *map(_ip, internet[1:]))
    own = [] if lab.spread else [lab.gateway.address]  # a cable between two needs no address
    return {
        GATEWAY: [*own, *sides[:2], *lab.gateway.addresses[1:], *sides[2:]],
        INTERNET: list(dict.fromkeys(known)),
        CLIENT: [_ip(one) for one in client],
        MASTER: list(lab.master.addresses),
        **({} if lab.spread else {UNDERLAY: routers}),
        **balancer,
    }


def _ip(interface: str) -> str:
    return interface.partition("/")[0]


def is_uplink(address: Address) -> bool:
    """Return whether it is on a machine's own card on the underlay; a pod's name has more parts."""
    return address.link == UPLINK and address.netns.count(".") == 1


def machine_addressing(lab: Lab, netns: str, *addresses: str) -> list[Object]:
    """Return the addresses, routes and neighbours of a machine on the underlay.

    *addresses*: one of each family. Routes to the other segments, to the addresses that the
    balancer gives, and the default route.
    """
    return [thing for one in addresses for thing in _addressing(lab, netns, one)]


def _addressing(lab: Lab, netns: str, address: str) -> list[Object]:
    """Return those of one family."""
    home, gateway = lab.segment_of(address), like(address, lab.gateway.addresses)
    prefix, router = like(address, home.prefixes), like(address, home.routers)
    objects: list[Object] = [Address(netns, UPLINK, f"{address}/{prefix.partition('/')[2]}")]
    gateway_here = lab.segment_of(lab.gateway.address) == home
    for segment in lab.underlay.segments:
        if segment != home:
            objects.append(Route(netns, like(address, segment.prefixes), UPLINK, router))
    if address != gateway:
        via = gateway if gateway_here else router
        objects.append(Route(netns, default_route(address), UPLINK, via))
    if lab.balancer is not None and address != lab.balancer.address and ":" not in address:
        balancer_here = lab.segment_of(lab.balancer.address) == home
        via = lab.balancer.address if balancer_here else router
        objects += [Route(netns, prefix, UPLINK, via) for prefix in lab.balancer.prefixes]
    near = [router, *_within(lab, prefix)] if router else _within(lab, prefix)
    return objects + [Neighbor(netns, UPLINK, one) for one in near if one != address]


def _within(lab: Lab, prefix: str) -> list[str]:
    """Return the addresses of the machines in a segment's *prefix*, also of those switched off.

    Each machine keeps a place for each other as its neighbour: in a lab of 30 nodes all of them
    would need more than the 1024 that the kernel has for all network namespaces together.
    """
    network = ip_network(prefix)
    first, last = int(network.network_address), int(network.broadcast_address)
    balancer = [lab.balancer.address] if lab.balancer is not None else []
    nodes = (one for node in lab.nodes for one in node.addresses)
    every = [*lab.gateway.addresses, *lab.master.addresses, *balancer, *nodes]
    every += [each for one in lab.attached for each in one.addresses]
    return [one for one in every if like(prefix, [one]) and first < int(ip_address(one)) < last]


def cable(lab: Lab, member: str, address: str) -> Veth:
    """Return the cable from a member's eth0 to its port on the segment of *address*."""
    netns = lab.netns(UNDERLAY)
    return Veth(
        netns,
        port_name(member),
        mac(lab.name, UNDERLAY, member),
        lab.netns(member),
        UPLINK,
        mac(lab.name, member, UPLINK),
        mtu=lab.underlay.mtu,
        bridge=bridge_name(lab.segment_of(address)),
        up=plugged_in(lab, member),
    )


def plugged_in(lab: Lab, member: str) -> bool:
    """Return whether no fault has pulled the cable of *member*, a machine or a pod.

    Down at the underlay's end, the machine loses its carrier and keeps its addresses and routes,
    as when a cable is pulled.
    """
    return lab.faulted(Sort.LINK_DOWN, member) is None


def underlay_objects(lab: Lab) -> list[Object]:
    """Return the physical network: bridges, ports, and the router between several segments."""
    netns = lab.netns(UNDERLAY)
    several = len(lab.underlay.segments) > 1
    objects: list[Object] = [
        Netns(netns),
        *(ip_stacks(lab, netns, forwards=True) if several else [no_ipv6(netns)]),
        Sysctl(netns, "net.ipv4.ip_forward", "1" if several else "0"),
        # Frames only pass through: they must not meet this namespace's IP hooks.
        Sysctl(netns, "net.bridge.bridge-nf-call-iptables", "0"),
    ]
    if lab.dual:
        objects.append(Sysctl(netns, "net.bridge.bridge-nf-call-ip6tables", "0"))
    for segment in lab.underlay.segments:
        name = bridge_name(segment)
        objects.append(Bridge(netns, name, mac(lab.name, UNDERLAY, name), lab.underlay.mtu))
        if several:
            for router in segment.routers:
                prefix = like(router, segment.prefixes)
                objects.append(Address(netns, name, f"{router}/{prefix.partition('/')[2]}"))
                objects += [Neighbor(netns, name, one) for one in _within(lab, prefix)]
    if several:
        home = bridge_name(lab.segment_of(lab.gateway.address))
        objects += [Route(netns, default_route(it), home, it) for it in lab.gateway.addresses]
    if several and lab.balancer is not None:
        home, via = bridge_name(lab.segment_of(lab.balancer.address)), lab.balancer.address
        objects += [Route(netns, prefix, home, via) for prefix in lab.balancer.prefixes]
    for member, address in machines(lab):
        objects.append(cable(lab, member, address))
    return [*objects, *fault_rules(lab)]


def fault_rules(lab: Lab) -> list[Object]:
    """Return what the bad cables of machines do to frames in the underlay."""
    netns = lab.netns(UNDERLAY)

    def ports(sort: Sort) -> dict[str, Fault]:
        found = {one.target: one for one in lab.faults if one.sort is sort}
        return {port_name(m): found[m] for m, _ in machines(lab) if m in found}

    lossy, cut = ports(Sort.LINK_LOSS), ports(Sort.ETCD_PARTITION)
    return [
        *faults.rules(netns, lossy, cut, etcd=lab.master.address),
        *faults.queues(netns, ports(Sort.LINK_DELAY), lossy),
    ]


def machines(lab: Lab) -> list[tuple[str, str]]:
    """Return (name, address) of every machine plugged into the underlay."""
    return [
        *([] if lab.spread else [(GATEWAY, lab.gateway.address)]),
        (MASTER, lab.master.address),
        *([(BALANCER, lab.balancer.address)] if lab.balancer is not None else []),
        *((node.name, node.address) for node in lab.running),
    ]


def firewall(lab: Lab, published: Iterable[Published] = (), family: str = "ip") -> NftTable:
    """Return the gateway's table of rules of *family*, `ip` or `ip6`."""
    beside = [BALANCER] if lab.spread and lab.balancer is not None else []
    body = rules.body(lab, published, inside=[UPLINK, *beside], family=family)
    return NftTable(lab.netns(GATEWAY), family, rules.NAME, body)


def outside_cable(lab: Lab, member: str) -> Veth:
    """Return the cable from the gateway to one of the outside machines."""
    netns = lab.netns(GATEWAY)
    return Veth(
        netns,
        member,
        mac(lab.name, GATEWAY, member),
        lab.netns(member),
        UPLINK,
        mac(lab.name, member, UPLINK),
        up=plugged_in(lab, member),
    )


def gateway_objects(lab: Lab, published: Iterable[Published] = ()) -> list[Object]:
    """Return the gateway: three cards, forwarding, routes to the other segments, the firewall."""
    addressing = machine_addressing(lab, lab.netns(GATEWAY), *lab.gateway.addresses)
    return gateway_with(lab, addressing, published)


def gateway_with(
    lab: Lab, addressing: Iterable[Object], published: Iterable[Published]
) -> list[Object]:
    """Return the same with *addressing* for what leads inwards."""
    netns = lab.netns(GATEWAY)
    families = ("ip", "ip6") if lab.dual else ("ip",)
    return [
        Netns(netns),
        *ip_stacks(lab, netns, forwards=True),
        *no_reverse_path_filter(netns),
        Sysctl(netns, "net.ipv4.ip_forward", "1"),
        outside_cable(lab, INTERNET),
        outside_cable(lab, CLIENT),
        *(
            Address(netns, member, str(gateway_side(one)))
            for member in (INTERNET, CLIENT)
            for one in lab.outside.machine(member)
        ),
        *addressing,
        *(firewall(lab, published, family) for family in families),
    ]


def outside_objects(lab: Lab, member: str) -> list[Object]:
    """Return an outside machine: its addresses, and default routes through the gateway."""
    netns = lab.netns(member)
    objects = [Netns(netns), *ip_stacks(lab, netns)]
    for one in lab.outside.machine(member):
        objects.append(Address(netns, UPLINK, one))
        objects.append(Route(netns, default_route(one), UPLINK, str(gateway_side(one).ip)))
    return objects


def resolver_objects(lab: Lab) -> list[Object]:
    """Return the address of the resolver on the internet, where it is not the server's own."""
    if lab.resolver == str(IPv4Interface(lab.outside.internet).ip):
        return []
    return [Address(lab.netns(INTERNET), UPLINK, f"{lab.resolver}/32")]


def master_objects(lab: Lab) -> list[Object]:
    """Return the control plane's machine: a plain host of the underlay."""
    netns = lab.netns(MASTER)
    addressing = machine_addressing(lab, netns, *lab.master.addresses)
    return [Netns(netns), *ip_stacks(lab, netns), *addressing]


def balancer_objects(lab: Lab) -> list[Object]:
    """Return the balancer's machine: it forwards, and has a way to each node of its segment.

    Packets go out by the card they came in by, of which it does not tell the senders.
    """
    if lab.balancer is None:
        return []
    netns, home = lab.netns(BALANCER), lab.segment_of(lab.balancer.address)
    near = [node.address for node in lab.nodes if lab.segment_of(node.address) == home]
    addressing = machine_addressing(lab, netns, lab.balancer.address)
    return [*forwarding(netns), *addressing, *ways_by_mark(netns, near)]


def forwarding(netns: str) -> list[Object]:
    """Return the balancer's namespace, without a card yet."""
    return [
        Netns(netns),
        no_ipv6(netns),
        *no_reverse_path_filter(netns),
        Sysctl(netns, "net.ipv4.ip_forward", "1"),
        Sysctl(netns, "net.ipv4.conf.all.send_redirects", "0"),
        Sysctl(netns, "net.ipv4.conf.default.send_redirects", "0"),
    ]


def ways_by_mark(netns: str, near: Iterable[str], *, onlink: bool = False) -> list[Object]:
    """Return the balancer's ways to the nodes with the addresses *near*, by their marks."""
    return [
        thing
        for one in near
        for mark in [mark_of(one)]
        for thing in (
            Route(netns, "default", UPLINK, one, onlink=onlink, table=mark),
            RoutingRule(netns, mark, mark),
        )
    ]


def node_shells(lab: Lab) -> list[Object]:
    """Return the empty namespaces of the nodes that are on, which the cables end in.

    How IPv6 is there must be set before a cable comes up.
    """
    shells = [lab.netns(node.name) for node in lab.running]
    return [
        thing
        for netns in shells
        for thing in (Netns(netns), *(ip_stacks(lab, netns, forwards=True) if lab.dual else ()))
    ]


def objects(lab: Lab, published: Iterable[Published] = ()) -> dict[str, list[Object]]:
    """Return every object of the world around the nodes, by namespace, in order of creation.

    *published*: the ports of load balancers' addresses.
    """
    members = (GATEWAY, MASTER, *([BALANCER] if lab.balancer is not None else []))
    groups: list[Iterable[Object]] = [
        node_shells(lab),
        [*outside_objects(lab, INTERNET), *resolver_objects(lab)],
        outside_objects(lab, CLIENT),
        master_objects(lab),
        balancer_objects(lab),
        gateway_objects(lab, published),
        underlay_objects(lab),
        *(faults.far_queues(lab, one, lab.netns(one), UPLINK) for one in members),
    ]
    by_netns: dict[str, list[Object]] = {}
    for group in groups:
        for thing in group:
            by_netns.setdefault(thing.netns, []).append(thing)
    return by_netns
