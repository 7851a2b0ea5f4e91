"""Members of the overlay beside the lab's nodes, and a node's lease that a foreign flanneld keeps.

A lease with the PublicIP of a node is that node's, whoever wrote it; any other is a foreign
member's, which the nodes reach as they reach each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Network, ip_address, ip_network

import msgspec

from netlab.flannel import hostgw, udp, vxlan
from netlab.flannel.config import HOST_GW, UDP, VXLAN, Config
from netlab.flannel.lease import KeyValue, Lease, peers
from netlab.flannel.peers import swallows


class Member(msgspec.Struct, frozen=True):
    """A lease that is no node's, and the etcd lease its key is attached to (0: none)."""

    lease: Lease
    etcd_lease: int = 0


def foreign(items: Sequence[KeyValue], nodes: Collection[str]) -> list[Member]:
    """Return the members that have none of the addresses *nodes*, in the order of their keys."""
    attached = {item.key: item.lease for item in items}
    return [
        Member(lease, attached.get(lease.key, 0))
        for lease in peers(items)[0]
        if lease.public_ip not in nodes
    ]


def holder(items: Sequence[KeyValue], nodes: Collection[str], address: str) -> Lease | None:
    """Return the lease of the foreign member whose subnet or own address is *address*, if any.

    *nodes*: the addresses of the lab's nodes.
    """
    found = (one.lease for one in foreign(items, nodes))
    return next((one for one in found if any(_has(half, address) for half in one.halves)), None)


def _has(half: Lease, address: str) -> bool:
    """Return whether *address* is of the node, or the subnet, of one family's *half* of a lease."""
    if half.ipv6 != (":" in address):
        return False
    return address == half.public_ip or ip_address(address) in ip_network(half.subnet)


def lease_of(items: Iterable[KeyValue], address: str) -> Lease | None:
    """Return the lease of the node at *address*: as for flannel, that of the first key."""
    return next((one for one in peers(items)[0] if one.public_ip == address), None)


def unlike(lease: Lease, config: Config) -> str:
    """Return in what the back end of *lease* differs from the net-conf's, "" for nothing.

    A flanneld reads the net-conf but once, and none looks at the VNI of a lease: with another one
    it is followed, and drops what comes. flannel before v0.28 says the VNI's lower 16 bits.
    """
    if lease.backend_type != config.lease_type:
        kind = lease.backend_type or UDP
        return f"its back end is {kind}, the lab's is {config.backend}"
    if config.backend == VXLAN and lease.vni and (lease.vni ^ config.vni) & 0xFFFF:
        return f"its VNI is {lease.vni}, the lab's is {config.vni}"
    return ""


def of_other_stacks(lease: Lease, config: Config) -> str:
    """Return how the families of *lease* differ from the net-conf's, "" where they do not."""
    if bool(lease.subnet_v6) == (config.ipv6 is not None):
        return ""
    if config.ipv6 is None:
        return "its lease has an IPv6 subnet, the lab is of IPv4 alone"
    return "its lease is of IPv4 alone, the lab has two stacks"


def why_not(
    lease: Lease, config: Config, *, homes: Sequence[str], outside: Sequence[IPv4Network]
) -> str:
    """Return why no node reaches *lease*, "" when those on the segments *homes* do.

    *outside*: what no way may cover.
    """
    if wrong := unlike(lease, config):
        return wrong
    if config.backend == VXLAN and not lease.vtep_mac:
        return "it says no VTEP MAC"
    if swallows(lease, config, outside):
        return "the way to it would lead into itself, or over the underlay"
    if config.backend == HOST_GW and not any(hostgw.near(lease, home) for home in homes):
        return "no node is on its segment, as host-gw needs it"
    return ""


def device(config: Config) -> str:
    """Return the device that any flanneld of IPv4 makes, "" where it needs none."""
    if config.backend == VXLAN:
        return vxlan.device_name(config.vni)
    return udp.DEVICE if config.backend == UDP else ""


def written_by(lease: Lease, config: Config) -> Config:
    """Return *config* as whoever wrote *lease* has it: a flanneld reads the net-conf but once."""
    return msgspec.structs.replace(config, backend=lease.backend_type or UDP)
