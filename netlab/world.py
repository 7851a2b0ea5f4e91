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
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from netlab import faults
from netlab.model.faults import Fault, Sort
from netlab.model.lab import FIRST_CARD, Lab, Segment
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

IFNAME_MAX = 15  # bytes; linux/if.h, IFNAMSIZ less the closing zero
UNDERLAY, GATEWAY, INTERNET, CLIENT, MASTER = "underlay", "gateway", "internet", "client", "master"
BALANCER = "balancer"
MEMBERS = (UNDERLAY, GATEWAY, INTERNET, CLIENT, MASTER, BALANCER)  # the last one if declared
UPLINK = FIRST_CARD
FIREWALL = "firewall"
GUEST = "guest-"  # names of namespaces a command adds for a moment; the agent leaves them alone


class Published(NamedTuple):
    """A port of a load balancer's address, for which the gateway is open to the outside."""

    address: str
    protocol: str  # tcp, udp, sctp
    port: int


def members(lab: Lab) -> tuple[str, ...]:
    """Return the parts of *lab* that are no nodes."""
    return MEMBERS if lab.balancer is not None else MEMBERS[:-1]


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


def no_ipv6(netns: str) -> Sysctl:
    """Return the setting that keeps a single-stack namespace silent: no neighbour discovery."""
    return Sysctl(netns, "net.ipv6.conf.all.disable_ipv6", "1")


def gateway_side(interface: str) -> IPv4Interface:
    """Return the gateway's address on the link of an outside machine: the first free one."""
    machine = IPv4Interface(interface)
    first = machine.network[1] if machine.network[1] != machine.ip else machine.network[2]
    return IPv4Interface(f"{first}/{machine.network.prefixlen}")


def member_addresses(lab: Lab) -> dict[str, list[str]]:
    """Return the addresses of the members that are no nodes, without prefix lengths."""
    balancer = {BALANCER: [lab.balancer.address]} if lab.balancer is not None else {}
    return {
        GATEWAY: [
            lab.gateway.address,
            str(gateway_side(lab.outside.internet).ip),
            str(gateway_side(lab.outside.client).ip),
        ],
        INTERNET: list(dict.fromkeys((str(IPv4Interface(lab.outside.internet).ip), lab.resolver))),
        CLIENT: [str(IPv4Interface(lab.outside.client).ip)],
        MASTER: [lab.master.address],
        UNDERLAY: [segment.router for segment in lab.underlay.segments if segment.router],
        **balancer,
    }


def is_uplink(address: Address) -> bool:
    """Return whether it is on a machine's own card on the underlay; a pod's name has more parts."""
    return address.link == UPLINK and address.netns.count(".") == 1


def machine_addressing(lab: Lab, netns: str, address: str) -> list[Object]:
    """Return the address, routes and neighbours of a machine on the underlay.

    Routes to the other segments, to the addresses that the balancer gives, and the default route.
    """
    home = lab.segment_of(address)
    objects: list[Object] = [
        Address(netns, UPLINK, f"{address}/{IPv4Network(home.cidr).prefixlen}")
    ]
    gateway_here = lab.segment_of(lab.gateway.address) == home
    for segment in lab.underlay.segments:
        if segment != home:
            objects.append(Route(netns, segment.cidr, UPLINK, home.router))
    if address != lab.gateway.address:
        via = lab.gateway.address if gateway_here else home.router
        objects.append(Route(netns, "default", UPLINK, via))
    if lab.balancer is not None and address != lab.balancer.address:
        balancer_here = lab.segment_of(lab.balancer.address) == home
        via = lab.balancer.address if balancer_here else home.router
        objects += [Route(netns, prefix, UPLINK, via) for prefix in lab.balancer.prefixes]
    near = [home.router, *_within(lab, home)] if home.router else _within(lab, home)
    return objects + [Neighbor(netns, UPLINK, one) for one in near if one != address]


def _within(lab: Lab, segment: Segment) -> list[str]:
    """Return the addresses of the machines on a segment, of those too that are switched off.

    Each machine keeps a place for each other as its neighbour: in a lab of 30 nodes all of them
    would need more than the 1024 that the kernel has for all network namespaces together.
    """
    network = IPv4Network(segment.cidr)
    first, last = int(network.network_address), int(network.broadcast_address)
    balancer = [lab.balancer.address] if lab.balancer is not None else []
    every = [lab.gateway.address, lab.master.address, *balancer, *(n.address for n in lab.nodes)]
    every += [one.address for one in lab.attached]
    return [one for one in every if first < int(IPv4Address(one)) < last]


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
        no_ipv6(netns),
        Sysctl(netns, "net.ipv4.ip_forward", "1" if several else "0"),
        # Frames only pass through: they must not meet this namespace's IP hooks.
        Sysctl(netns, "net.bridge.bridge-nf-call-iptables", "0"),
    ]
    for segment in lab.underlay.segments:
        name = bridge_name(segment)
        objects.append(Bridge(netns, name, mac(lab.name, UNDERLAY, name), lab.underlay.mtu))
        if several:
            length = IPv4Network(segment.cidr).prefixlen
            objects.append(Address(netns, name, f"{segment.router}/{length}"))
            objects += [Neighbor(netns, name, one) for one in _within(lab, segment)]
    if several:
        home = bridge_name(lab.segment_of(lab.gateway.address))
        objects.append(Route(netns, "default", home, lab.gateway.address))
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
        (GATEWAY, lab.gateway.address),
        (MASTER, lab.master.address),
        *([(BALANCER, lab.balancer.address)] if lab.balancer is not None else []),
        *((node.name, node.address) for node in lab.running),
    ]


def firewall(lab: Lab, published: Iterable[Published] = ()) -> NftTable:
    """Return the gateway's rules: inside may go out, outside reaches what is published only.

    That is ports of the nodes, and *published*, ports of addresses of the balancer.
    """
    nodes = ", ".join(sorted((node.address for node in lab.nodes), key=_numeric))
    opened = [
        f"\t\tip daddr {{ {nodes} }} {proto} dport {ports} accept"
        for ports, proto in (entry.split("/") for entry in lab.gateway.publish)
    ]
    opened += [
        f'\t\tip daddr {one.address} {one.protocol} dport {one.port} accept comment "load balancer"'
        for one in sorted(published)
    ]
    lines = [
        "\tchain forward {",
        "\t\ttype filter hook forward priority filter; policy drop;",
        "\t\tct state established,related accept",
        f'\t\tiifname "{UPLINK}" accept comment "from the inside"',
        f'\t\toifname != "{UPLINK}" accept comment "between outside machines"',
        *opened,
        '\t\tcounter drop comment "not published"',
        "\t}",
    ]
    return NftTable(lab.netns(GATEWAY), "ip", FIREWALL, "\n".join(lines) + "\n")


def _numeric(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split("."))


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
    netns = lab.netns(GATEWAY)
    return [
        Netns(netns),
        no_ipv6(netns),
        *no_reverse_path_filter(netns),
        Sysctl(netns, "net.ipv4.ip_forward", "1"),
        outside_cable(lab, INTERNET),
        outside_cable(lab, CLIENT),
        Address(netns, INTERNET, str(gateway_side(lab.outside.internet))),
        Address(netns, CLIENT, str(gateway_side(lab.outside.client))),
        *machine_addressing(lab, netns, lab.gateway.address),
        firewall(lab, published),
    ]


def no_reverse_path_filter(netns: str) -> list[Object]:
    """Return strict reverse-path filtering off; a new namespace inherits the host's setting."""
    return [
        Sysctl(netns, "net.ipv4.conf.all.rp_filter", "0"),
        Sysctl(netns, "net.ipv4.conf.default.rp_filter", "0"),
    ]


def outside_objects(lab: Lab, member: str, interface: str) -> list[Object]:
    """Return an outside machine: its address, and a default route through the gateway."""
    netns = lab.netns(member)
    return [
        Netns(netns),
        no_ipv6(netns),
        Address(netns, UPLINK, interface),
        Route(netns, "default", UPLINK, str(gateway_side(interface).ip)),
    ]


def resolver_objects(lab: Lab) -> list[Object]:
    """Return the address of the resolver on the internet, where it is not the server's own."""
    if lab.resolver == str(IPv4Interface(lab.outside.internet).ip):
        return []
    return [Address(lab.netns(INTERNET), UPLINK, f"{lab.resolver}/32")]


def master_objects(lab: Lab) -> list[Object]:
    """Return the control plane's machine: a plain host of the underlay."""
    netns = lab.netns(MASTER)
    return [Netns(netns), no_ipv6(netns), *machine_addressing(lab, netns, lab.master.address)]


def balancer_objects(lab: Lab) -> list[Object]:
    """Return the balancer's machine: it forwards, and has a way to each node of its segment.

    Packets go out by the card they came in by, of which it does not tell the senders.
    """
    if lab.balancer is None:
        return []
    netns, home = lab.netns(BALANCER), lab.segment_of(lab.balancer.address)
    objects: list[Object] = [
        Netns(netns),
        no_ipv6(netns),
        *no_reverse_path_filter(netns),
        Sysctl(netns, "net.ipv4.ip_forward", "1"),
        Sysctl(netns, "net.ipv4.conf.all.send_redirects", "0"),
        Sysctl(netns, "net.ipv4.conf.default.send_redirects", "0"),
        *machine_addressing(lab, netns, lab.balancer.address),
    ]
    for node in lab.nodes:
        if lab.segment_of(node.address) == home:
            mark = mark_of(node.address)
            objects.append(Route(netns, "default", UPLINK, node.address, table=mark))
            objects.append(RoutingRule(netns, mark, mark))
    return objects


def node_shells(lab: Lab) -> list[Object]:
    """Return the empty namespaces of the nodes that are on, which the cables end in."""
    return [Netns(lab.netns(node.name)) for node in lab.running]


def objects(lab: Lab, published: Iterable[Published] = ()) -> dict[str, list[Object]]:
    """Return every object of the world around the nodes, by namespace, in order of creation.

    *published*: the ports of load balancers' addresses.
    """
    members = (GATEWAY, MASTER, *([BALANCER] if lab.balancer is not None else []))
    groups: list[Iterable[Object]] = [
        node_shells(lab),
        [*outside_objects(lab, INTERNET, lab.outside.internet), *resolver_objects(lab)],
        outside_objects(lab, CLIENT, lab.outside.client),
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
