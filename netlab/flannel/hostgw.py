"""What the kernel of a node holds for flannel's host-gw backend: a route to each peer's subnet.

The peer itself is the next hop, so it must be on the node's own segment; nothing is wrapped, and
there is no device. The vxlan backend's DirectRouting makes the same route to such a peer.

Differences from flannel, wanted: a route bears netlab's protocol, not `boot`, which tells nobody
whose it is. So one that no lease calls for any more is removed, and one that leads elsewhere is
put right.
Source: flannel v0.28 pkg/backend/hostgw/hostgw.go, pkg/backend/route_network.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from netlab.flannel.config import HOST_GW, Config
from netlab.flannel.lease import Lease
from netlab.flannel.peers import Net, elsewhere, swallows
from netlab.objects import Object, Route


def objects(
    netns: str,
    *,
    config: Config,
    own: Lease,
    peers: Sequence[Lease],
    device: str,
    home: str,
    outside: Sequence[Net] = (),
) -> list[Object]:
    """Return the routes of *netns* to every peer on its own segment, *home*, by *device*.

    All of one family.
    *outside*: what no route may cover. The node's own lease may be among *peers*.
    """
    ways = {
        peer.subnet: way(netns, device, peer)
        for peer in peers
        if peer.backend_type == HOST_GW
        and elsewhere(peer, own)
        and near(peer, home)
        and not swallows(peer, config, outside)
    }
    return list(ways.values())


def near(peer: Lease, home: str) -> bool:
    """Return whether the node of *peer* is on the segment *home* ("": unknown, so it is not)."""
    return bool(home) and ip_address(peer.public_ip) in ip_network(home)


def way(netns: str, device: str, peer: Lease) -> Route:
    """Return the route that carries packets to *peer*'s subnet."""
    return Route(netns, peer.subnet, device, peer.public_ip)
