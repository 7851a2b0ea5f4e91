"""What the kernel of a node holds for flannel's vxlan backend.

One device, and for each peer the three entries that carry a packet there: the route says "via the
peer's .0 address on flannel.1", the neighbour entry gives that address the MAC of the peer's
device, the FDB entry sends frames for that MAC to the peer's node.

Differences from flannel, wanted: the device's MAC follows from names and never changes, and what
no lease calls for any more is removed, because the plan compares with what is there.

With DirectRouting a peer on the node's own segment needs no tunnel: it is the next hop itself, as
in `hostgw`, and the tunnel leads to those behind a router.

With two stacks there are two devices: what is of IPv6 goes over IPv6. Its device is made with the
MTU that the kernel leaves it, where flannel asks for IPv4's.
Source: flannel v0.28 pkg/backend/vxlan/device.go, vxlan_network.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from netlab import world
from netlab.flannel import golang, hostgw
from netlab.flannel.config import VXLAN, Config
from netlab.flannel.lease import Lease
from netlab.flannel.peers import Net, elsewhere, swallows
from netlab.objects import Address, FdbEntry, Neighbor, Object, Route, Sysctl, Vxlan

VXLAN_OVERHEAD = 50  # bytes over IPv4: IP 20 + UDP 8 + VXLAN 8 + inner Ethernet 14 (RFC 7348)
VXLAN_OVERHEAD_V6 = 70  # bytes over IPv6, whose header has 40
IPV6_MTU = 1280  # bytes, the least IPv6 lives with (RFC 8200)
BOOT = 3  # RTPROT_BOOT, rtnetlink(7): what a route gets from flannel, which names no protocol


def device_name(vni: int, *, ipv6: bool = False) -> str:
    """Return the name of the tunnel's device, `flannel.1`; of that for IPv6 `flannel-v6.1`."""
    return f"flannel-v6.{vni}" if ipv6 else f"flannel.{vni}"


def vtep_mac(lab: str, node: str, vni: int, *, ipv6: bool = False) -> str:
    """Return the MAC of a node's tunnel device: always the same, so no peer has an old one."""
    return world.mac(lab, node, device_name(vni, ipv6=ipv6))


def inner_mtu(underlay: int) -> int:
    """Return the largest IP packet, in bytes, that fits a VXLAN tunnel over *underlay*.

    Raises ValueError below 1330: IPv6 in the pods needs 1280.
    Source: RFC 7348; flannel backend/vxlan/vxlan_network.go, encapOverhead.
    """
    if underlay < IPV6_MTU + VXLAN_OVERHEAD:
        raise ValueError(f"an underlay MTU of {underlay} leaves pods less than {IPV6_MTU} bytes")
    return underlay - VXLAN_OVERHEAD


def objects(
    netns: str,
    *,
    config: Config,
    own: Lease,
    peers: Sequence[Lease],
    device: str,
    local: str,
    mtu: int,
    home: str = "",
    outside: Sequence[Net] = (),
) -> list[Object]:
    """Return the tunnel device of *netns* and the way to every peer that can be reached.

    All of one family. *device* is the uplink, *local* its address, *home* the prefix of its
    segment, *mtu* the tunnel's in bytes, *outside* what no way may cover. The own lease may be
    among *peers*.
    """
    link = device_name(config.vni, ipv6=own.ipv6)
    subnet = ip_network(own.subnet)
    tunnel: list[Object] = [
        Vxlan(
            netns,
            link,
            own.vtep_mac,
            config.vni,
            local,
            device,
            mtu,
            config.port,
        ),
        Address(netns, link, f"{subnet[0]}/{subnet.max_prefixlen}"),
        Sysctl(netns, f"net.ipv6.conf.{link.replace('.', '/')}.accept_ra", "0"),
    ]
    # By key, the first wins: two subnets of one peer share its FDB entry.
    ways: dict[tuple[object, ...], Object] = {}
    for peer in peers:
        if reachable(peer, own) and not swallows(peer, config, outside):
            direct = config.direct_routing and hostgw.near(peer, home)
            for thing in [hostgw.way(netns, device, peer)] if direct else way(netns, link, peer):
                ways.setdefault(thing.key, thing)
    return tunnel + list(ways.values())


def reachable(peer: Lease, own: Lease) -> bool:
    """Return whether *peer* is another node of this tunnel, and no part of the own subnet."""
    try:
        golang.mac(peer.vtep_mac)
    except ValueError:
        return False
    return peer.backend_type == VXLAN and elsewhere(peer, own)


def way(netns: str, link: str, peer: Lease) -> list[Object]:
    """Return the three entries that carry packets to *peer*'s subnet."""
    gateway = str(ip_network(peer.subnet)[0])
    return [
        Neighbor(netns, link, gateway, peer.vtep_mac),
        FdbEntry(netns, link, peer.vtep_mac, peer.public_ip),
        Route(netns, peer.subnet, link, gateway, onlink=True, protocol=BOOT),
    ]
