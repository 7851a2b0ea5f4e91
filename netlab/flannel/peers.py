"""Which leases lead to other nodes: what any back end must know before it makes a way to one."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from netlab.flannel.config import Config
from netlab.flannel.lease import Lease


def elsewhere(peer: Lease, own: Lease) -> bool:
    """Return whether *peer* is another node's, and no part of the own subnet."""
    return peer.public_ip != own.public_ip and not IPv4Network(peer.subnet).subnet_of(
        IPv4Network(own.subnet)
    )


def swallows(peer: Lease, config: Config, outside: Sequence[IPv4Network]) -> bool:
    """Return whether the way to *peer* would lead into itself, or cut off the underlay.

    A lease out of the overlay's network is followed, as flannel does, unless it overlaps
    *outside*: the nodes' addresses, the physical network.
    """
    subnet, network = IPv4Network(peer.subnet), IPv4Network(config.network)
    if IPv4Address(peer.public_ip) in network:
        return True
    return not subnet.subnet_of(network) and any(subnet.overlaps(one) for one in outside)
