"""What the kernel of a node holds for flannel's udp backend: a tun device, and a route for all.

Whatever is for the overlay's network, but for the node's own subnet, goes into the device, and from
there to a process, which sends it to the peer in a UDP datagram: see `netlab.encapsulation`.

Differences from flannel, wanted: the device outlives the process, so that one which was killed
costs no route; and an ICMP error that the process sends from the node's own address is taken
(`accept_local`), where flannel's is dropped, and the sender waits in vain.
Source: flannel v0.28 pkg/backend/udp/udp_network_amd64.go, proxy_amd64.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from netlab.flannel.config import Config
from netlab.flannel.lease import Lease
from netlab.flannel.peers import Net, elsewhere, swallows
from netlab.objects import Address, Object, Route, Sysctl, Tun

DEVICE = "flannel0"
PORT = 8285
OVERHEAD = 28  # bytes: IP 20 + UDP 8


def objects(netns: str, *, config: Config, own: Lease, mtu: int) -> list[Object]:
    """Return the device of *netns*, its address, and the route of the whole network there."""
    return [
        Tun(netns, DEVICE, mtu),
        Address(netns, DEVICE, f"{IPv4Network(own.subnet)[0]}/32"),
        Sysctl(netns, f"net.ipv4.conf.{DEVICE}.accept_local", "1"),
        Route(netns, config.network, DEVICE),
    ]


def reached(
    config: Config, own: Lease, peers: Sequence[Lease], outside: Sequence[Net]
) -> list[tuple[str, str]]:
    """Return the subnet and node of each of *peers* that packets can be sent to in datagrams."""
    return [
        (peer.subnet, peer.public_ip)
        for peer in peers
        if peer.backend_type == config.lease_type
        and elsewhere(peer, own)
        and not swallows(peer, config, outside)
    ]
