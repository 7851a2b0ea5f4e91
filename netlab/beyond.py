"""What hangs on the machine of the first node, in a lab of several machines: pure.

1. The gateway, with what is outside behind it, and the balancer, if one is declared, are
   namespaces there. A cable leads from each to the machine, and one from the gateway to the
   balancer: all three are as if on one segment.
2. On the wire between the machines is no card of theirs, and no MAC but the machines' own: a
   virtual network lets no other through unless it is told to. The others route to their addresses
   by the machine of the first node.
3. A packet that the balancer sends on unchanged (VIP) must come to its node as if the wire had
   brought it. IP on the first machine would serve it there and then, as the kube-proxy of that
   node knows the address, too. So a table takes it at the cable's end, before IP does, by the MAC
   that it was sent to (each node has one there), and sends it to that node's own. The answer, which
   a node sends straight to the client, is handed to the gateway likewise: it would be invalid to
   the first machine's connection tracking, which has not seen the question, and a martian where
   ip_vs has the address.

Source: Linux net/netfilter/nft_fwd_netdev.c (nft_fwd_neigh_eval): the TTL goes down by one, and the
neighbour is asked for as ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address

from netlab.firewall import Published
from netlab.model.lab import Lab, LabNode, like
from netlab.objects import Address, Neighbor, NftTable, Object, Route, Sysctl, Veth
from netlab.world import (
    BALANCER,
    CLIENT,
    GATEWAY,
    INTERNET,
    UPLINK,
    forwarding,
    gateway_side,
    gateway_with,
    mac,
    member_addresses,
    outside_objects,
    port_name,
    resolver_objects,
    ways_by_mark,
)

# The ends of the cables on the machine: the gateway's, the balancer's.
OUTWARDS, BALANCED = "outside0", "balancer0"
FAMILY, TABLE = "netdev", "netlab-balancer"


def outside_home(lab: Lab) -> LabNode | None:
    """Return the node whose machine has the gateway, what is outside and the balancer, in a lab of
    several machines: the first; None in a lab on one machine."""
    return lab.nodes[0] if lab.spread and lab.nodes else None


def outside(lab: Lab, published: Iterable[Published] = ()) -> dict[str, list[Object]]:
    """Return the gateway, what is outside and the balancer, for the machine that has them, by
    namespace. *published*: the ports of load balancers' addresses."""
    found: dict[str, list[Object]] = {
        lab.netns(INTERNET): [*outside_objects(lab, INTERNET), *resolver_objects(lab)],
        lab.netns(CLIENT): outside_objects(lab, CLIENT),
        lab.netns(GATEWAY): gateway_with(lab, _gateway_ways(lab), published),
    }
    if lab.balancer is not None:
        found[lab.netns(BALANCER)] = balancer(lab)
    return found


def _gateway_ways(lab: Lab) -> list[Object]:
    """Return the gateway's cable to the machine, and its ways to all nodes and the balancer."""
    home, netns = outside_home(lab), lab.netns(GATEWAY)
    if home is None:
        return []
    near, far = mac(lab.name, GATEWAY, UPLINK), mac(lab.name, home.name, OUTWARDS)
    inwards = [prefix for segment in lab.underlay.segments for prefix in segment.prefixes]
    return [
        Veth(netns, UPLINK, near, lab.netns(home.name), OUTWARDS, far, mtu=lab.underlay.mtu),
        # Unlike ARP, neighbour discovery answers for what the very device has.
        *(Address(netns, UPLINK, _alone(one)) for one in _sides(lab) if ":" in one),
        *(Route(netns, one, UPLINK, like(one, home.addresses), onlink=True) for one in inwards),
        *_by_balancer(lab, netns, BALANCER),
    ]


def _by_balancer(lab: Lab, netns: str, device: str) -> list[Object]:
    """Return the ways of *netns* to the addresses that the balancer gives, by a cable to it."""
    given = lab.balancer
    if given is None:
        return []
    return [Route(netns, one, device, given.address, onlink=True) for one in given.prefixes]


def _sides(lab: Lab) -> list[str]:
    """Return the addresses of the gateway on one of its links, one of each family."""
    return [str(gateway_side(one).ip) for one in lab.outside.machine(CLIENT)]


def _beyond(lab: Lab) -> list[str]:
    """Return the addresses that are outside."""
    addresses = member_addresses(lab)
    return [one for member in (INTERNET, CLIENT) for one in addresses[member]]


def _alone(address: str) -> str:
    """Return *address* with the length of a prefix that has no other."""
    return f"{address}/{128 if ':' in address else 32}"


def balancer(lab: Lab) -> list[Object]:
    """Return the balancer's namespace, its cables, and its ways to the nodes and outwards.

    All that it sends to a node goes to the machine that it hangs on. For a node that is to get a
    packet unchanged it has a neighbour whose MAC says which node.
    """
    home, given, netns = outside_home(lab), lab.balancer, lab.netns(BALANCER)
    if home is None or given is None:
        return []
    beside, gateway = lab.netns(home.name), lab.netns(GATEWAY)
    inwards = mac(lab.name, BALANCER, UPLINK), mac(lab.name, home.name, BALANCED)
    outwards = mac(lab.name, BALANCER, GATEWAY), mac(lab.name, GATEWAY, BALANCER)
    mtu = lab.underlay.mtu
    (side,) = (one for one in _sides(lab) if ":" not in one)
    near = _served(lab)
    return [
        *forwarding(netns),
        Veth(netns, UPLINK, inwards[0], beside, BALANCED, inwards[1], mtu),
        Veth(netns, GATEWAY, outwards[0], gateway, BALANCER, outwards[1], mtu),
        Address(netns, UPLINK, _alone(given.address)),
        *(
            Route(netns, segment.cidr, UPLINK, home.address, onlink=True)
            for segment in lab.underlay.segments
        ),
        *(
            Route(netns, _alone(one), GATEWAY, side, onlink=True)
            for one in _beyond(lab)
            if ":" not in one
        ),
        *ways_by_mark(netns, [node.address for node in near], onlink=True),
        *(Neighbor(netns, UPLINK, node.address, _sent_to(lab, home, node)) for node in near),
    ]


def _served(lab: Lab) -> list[LabNode]:
    """Return the nodes that may get packets unchanged: those on the balancer's own segment."""
    assert lab.balancer is not None
    segment = lab.segment_of(lab.balancer.address)
    return [one for one in lab.nodes if lab.segment_of(one.address) == segment and not one.host]


def _sent_to(lab: Lab, home: LabNode, node: LabNode) -> str:
    """Return the MAC to which the balancer sends what is for *node*, on its cable to *home*."""
    return mac(lab.name, home.name, BALANCED, *([node.name] if node.name != home.name else []))


def handed_on(lab: Lab, home: LabNode) -> NftTable:
    """Return the table that hands packets past IP of the machine of *home*: the balancer's to the
    nodes' cards, and their answers to the gateway."""
    assert lab.balancer is not None
    (side,) = (one for one in _sides(lab) if ":" not in one)
    lines = ["\tchain balanced {", _ingress(BALANCED)]
    for node in _served(lab):
        if node.name != home.name:
            match = f"ether daddr {_sent_to(lab, home, node)} meta protocol ip"
            lines.append(f"\t\t{match} {_on(node.address, home.uplink, node.name)}")
    lines += ["\t}", "", "\tchain answers {", _ingress(home.uplink)]
    beyond = sorted((one for one in _beyond(lab) if ":" not in one), key=IPv4Address)
    for prefix in lab.balancer.prefixes:
        match = f"ip saddr {prefix.removesuffix('/32')} ip daddr {{ {', '.join(beyond)} }}"
        lines.append(f"\t\t{match} {_on(side, OUTWARDS, GATEWAY)}")
    return NftTable(lab.netns(home.name), FAMILY, TABLE, "\n".join([*lines, "\t}"]) + "\n")


def _ingress(device: str) -> str:
    return f'\t\ttype filter hook ingress device "{device}" priority filter; policy accept;'


def _on(address: str, device: str, name: str) -> str:
    return f'fwd ip to {address} device "{device}" comment "to {name}"'


def behind(lab: Lab, member: str) -> tuple[LabNode, str] | None:
    """Return the node on whose machine *member* is, by a cable, and that machine's end of it; None
    when it is on the wire itself. In a lab of several machines."""
    home = outside_home(lab)
    if member in (GATEWAY, BALANCER) and home is not None:
        return home, OUTWARDS if member == GATEWAY else BALANCED
    guest = next((one for one in lab.nodes if one.name == member and one.host), None)
    return (lab.node(guest.host), port_name(member)) if guest else None


def ways_outwards(lab: Lab, node: LabNode) -> list[Object]:
    """Return the ways of *node*, a machine of its own, to the addresses outside and the balancer's.

    To these alone: all else outside the machine reaches as before. On the machine that has them the
    cables are without an address but the node's own, for what it sends and masquerades.
    """
    home, given, netns = outside_home(lab), lab.balancer, lab.netns(node.name)
    if home is None:
        return []
    beyond = [_alone(one) for one in _beyond(lab)]
    own = [_alone(given.address), *given.prefixes] if given is not None else []
    if node.name != home.name:
        every = [*beyond, *own]
        return [Route(netns, it, node.uplink, like(it, home.addresses)) for it in every]
    found: list[Object] = [
        *(Address(netns, OUTWARDS, _alone(one)) for one in home.addresses),
        *(Route(netns, it, OUTWARDS, like(it, _sides(lab)), onlink=True) for it in beyond),
    ]
    if given is not None:
        found += [
            Address(netns, BALANCED, _alone(home.address)),
            Route(netns, own[0], BALANCED),
            *_by_balancer(lab, netns, BALANCED),
            # Clients' addresses are behind the other cable: loosely, whatever holds for all others.
            Sysctl(netns, f"net.ipv4.conf.{BALANCED}.rp_filter", "2"),
            handed_on(lab, home),
        ]
    return found


def way_out(lab: Lab, node: LabNode) -> str:
    """Return the device by which *node* sends to what is outside."""
    home = outside_home(lab)
    return OUTWARDS if home is not None and home.name == node.name else node.uplink


def card_towards_balancer(lab: Lab, node: LabNode) -> str:
    """Return the device by which *node* gets what the balancer sends it."""
    home = outside_home(lab)
    return BALANCED if home is not None and home.name == node.name else node.uplink
