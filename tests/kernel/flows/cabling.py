"""The namespaces of a topology, made: cards, addresses, routes, neighbours, settings.

1. No address is resolved: every neighbour is permanent, and gateways are addresses nobody has but
   in their neighbours' entries. So no packet waits, and what is not seen was dropped.
2. A node routes what it does not own to `outside`, and `outside` to the node under test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flow_cases import steps

from netlab.kernel import netns
from netlab.kernel.real import RealKernel
from netlab.objects import Address, Bridge, Neighbor, Netns, Object, Route, Sysctl, Veth
from netlab.plan import Op, Verb, difference

from .topology import (
    BRIDGE,
    ON_LINK,
    OVERLAY,
    UPLINK,
    Place,
    Topology,
    Words,
    host,
    on_one_link,
    version,
)

# Errors are not rationed: a reject that was not sent would look like a drop. IPv6 addresses are
# used at once.
SETTINGS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.icmp_ratemask": "0",
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv6.icmp.ratemask": "255",  # the types that are rationed: one that nobody has
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.router_solicitations": "0",
}
NODE_SETTINGS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}
EVERYWHERE = {4: "default", 6: "::/0"}
BITS = {4: 32, 6: 128}
TENTATIVE = 0x40  # linux/if_addr.h, IFA_F_TENTATIVE
_KERNEL = RealKernel()


@contextmanager
def built(world: Topology, case: Words, prefix: str) -> Iterator[None]:
    """Have the namespaces of *world* for the duration."""
    objects = list(_objects(world, case, f"{prefix}.fabric"))
    names = sorted({one.netns for one in objects})
    try:
        _KERNEL.apply(difference(objects, ()))
        yield
    finally:
        _KERNEL.apply([Op(Verb.DELETE, Netns(name)) for name in names if netns.exists(name)])


def usable(world: Topology) -> bool:
    """Return whether the kernel is done with making the IPv6 addresses, as it is a while later."""
    for place in world.places.values():
        with netns.entered(place.netns), open("/proc/thread-self/net/if_inet6") as lines:
            if any(int(line.split()[4], 16) & TENTATIVE for line in lines):
                return False
    return True


def _objects(world: Topology, case: Words, fabric: str) -> Iterator[Object]:
    yield Netns(fabric)
    for number, link in enumerate((UPLINK, OVERLAY)):
        yield Bridge(fabric, link, f"02:6e:74:ff:00:{number:02x}")
    for place in world.places.values():
        yield Netns(place.netns)
        for name, value in (SETTINGS | (NODE_SETTINGS if place.is_node else {})).items():
            yield Sysctl(place.netns, name, value)
    for node in world.nodes:
        yield _cable(fabric, UPLINK, node)
        yield _cable(fabric, OVERLAY, node)
        yield from _node(world, node)
        yield from _detours(world, case, node)
    for pod in world.pods:
        yield from _pod(world.places[pod.node], pod)
    yield _cable(fabric, UPLINK, world.outside)
    yield from _outside(world)


def _node(world: Topology, node: Place) -> Iterator[Object]:
    """Yield a node's bridge and addresses, and its ways to the world, to nodes and to pods."""
    yield Bridge(node.netns, BRIDGE, node.mac(BRIDGE))
    seen: set[int] = set()
    for ip in node.addresses:
        number = version(ip)
        yield Address(node.netns, UPLINK, f"{ip}/{(BITS if number in seen else ON_LINK)[number]}")
        seen.add(number)
    for number in (4, 6):
        for link in (BRIDGE, OVERLAY):
            yield Address(node.netns, link, f"{node.own(link, number)}/{BITS[number]}")
        yield from _gateway(node, UPLINK, world.outside, EVERYWHERE[number])
    for other in world.places.values():
        if other.is_node and other is not node:
            for number in (4, 6):
                for link in (BRIDGE, OVERLAY):
                    yield from _gateway(node, OVERLAY, other, other.own(link, number))
        if not other.is_pod and other is not node:
            yield from _neighbors(node, other)
    for pod in world.pods:
        (ip,) = pod.addresses
        if pod.node == node.name:
            yield Route(node.netns, _alone(ip), BRIDGE)
            yield Neighbor(node.netns, BRIDGE, ip, pod.mac(UPLINK))
        else:
            yield from _gateway(node, OVERLAY, world.places[pod.node], ip)


def _pod(node: Place, pod: Place) -> Iterator[Object]:
    (ip,) = pod.addresses
    yield _cable(node.netns, BRIDGE, pod)
    yield Address(pod.netns, UPLINK, _alone(ip))
    for number in (4, 6):
        yield from _gateway(pod, UPLINK, node, EVERYWHERE[number], by=BRIDGE)


def _outside(world: Topology) -> Iterator[Object]:
    """Yield what is anybody's host: it has the clients' addresses, and forwards nothing."""
    outside = world.outside
    for ip in outside.addresses:
        yield Address(outside.netns, UPLINK, _alone(ip))
    for number in (4, 6):
        yield from _gateway(outside, UPLINK, world.places[world.tested], EVERYWHERE[number])
    for node in world.nodes:
        if node.name != world.tested:
            for ip in node.addresses:
                yield from _gateway(outside, UPLINK, node, ip)


def _detours(world: Topology, case: Words, node: Place) -> Iterator[Object]:
    """Yield the routes of *node* to what goes by another node first (`via`)."""
    for ip, first in {
        (host(flow["to"]), flow["via"])
        for _, flows in steps(case)
        for flow in flows
        if "via" in flow and flow["from"].get("node") == node.name != flow["via"]
    }:
        yield from _gateway(node, OVERLAY, world.places[first], ip)


def _cable(netns: str, bridge: str, place: Place) -> Veth:
    """Return the cable from a bridge to the link of *place* that is named after it; a pod's eth0.

    Ports of pods have hairpin mode, as a CNI plugin makes them.
    """
    link = UPLINK if place.is_pod else bridge
    mac = place.mac(link)
    ends = (netns, f"{bridge}-{place.number}", f"06{mac[2:]}", place.netns, link, mac)
    return Veth(*ends, bridge=bridge, hairpin=place.is_pod)


def _gateway(place: Place, link: str, via: Place, to: str, *, by: str = "") -> Iterator[Object]:
    """Yield the route of *place* by another's card: that of *link*'s name, or *by*."""
    if "/" not in to and to != EVERYWHERE[4]:
        to = _alone(to)
    card = by or link
    segment = (UPLINK, OVERLAY, BRIDGE).index(card)
    if version(to) == 4:
        address = f"169.254.{segment}.{via.number}"
    else:
        address = f"fe80::{segment:x}:{via.number:x}"
    yield Route(place.netns, to, link, address, onlink=True)
    yield Neighbor(place.netns, link, address, via.mac(card))


def _neighbors(one: Place, other: Place) -> Iterator[Object]:
    """Yield how *one* reaches the addresses of *other*: on its own network, or by its card."""
    for ip in other.addresses:
        if any(on_one_link(ours, ip) for ours in one.addresses):
            yield Neighbor(one.netns, UPLINK, ip, other.mac(UPLINK))
        elif other.is_node:
            yield from _gateway(one, UPLINK, other, ip)


def _alone(ip: str) -> str:
    return f"{ip}/{BITS[version(ip)]}"
