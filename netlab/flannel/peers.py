"""Which leases lead to other nodes: what any back end must know before it makes a way to one."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from netlab.flannel.config import Config
from netlab.flannel.lease import Lease
from netlab.model.lab import like

Net = IPv4Network | IPv6Network


def elsewhere(peer: Lease, own: Lease) -> bool:
    """Return whether *peer* is another node's, and no part of the own subnet."""
    return peer.public_ip != own.public_ip and not within(peer.subnet, own.subnet)


def within(prefix: str, other: str) -> bool:
    """Return whether all of *prefix* lies in *other*, of the same family."""
    net, outer = ip_network(prefix), ip_network(other)
    return outer.supernet_of(net)  # type: ignore[arg-type]


def swallows(peer: Lease, config: Config, outside: Sequence[Net]) -> bool:
    """Return whether the way to *peer* would lead into itself, or cut off the underlay.

    A lease out of the overlay's network is followed, as flannel does, unless it overlaps
    *outside*: the nodes' addresses, the physical network.
    """
    network = like(peer.subnet, config.networks)
    if ip_address(peer.public_ip) in ip_network(network):
        return True
    subnet = ip_network(peer.subnet)
    return not within(peer.subnet, network) and any(subnet.overlaps(one) for one in outside)
