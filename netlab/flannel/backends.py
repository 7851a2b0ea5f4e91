"""What the kernel of a node holds for its leases, whichever back end the net-conf names."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network

from netlab.flannel import hostgw, udp, vxlan
from netlab.flannel.config import HOST_GW, UDP, Config
from netlab.flannel.lease import Lease
from netlab.objects import Object


def mtu(config: Config, underlay: int) -> int:
    """Return the MTU of pods, bytes, over an *underlay* of that MTU: what fits the way between
    nodes. Raises ValueError where that is less than IPv6 needs.

    Source: flannel v0.28: Backend.MTU is vxlan's alone.
    """
    if config.backend == HOST_GW:
        return underlay
    if config.backend == UDP:
        return underlay - udp.OVERHEAD
    return vxlan.inner_mtu(config.mtu or underlay)


def objects(
    netns: str,
    *,
    config: Config,
    own: Lease,
    peers: Sequence[Lease],
    device: str,
    local: str,
    home: str,
    underlay_mtu: int,
    underlay: Sequence[str] = (),
) -> list[Object]:
    """Return what *netns* holds for the leases *own* and *peers*, the own one perhaps among them.

    *device* is the uplink, *local* its address, *home* the prefix of its segment, *underlay_mtu*
    its MTU in bytes, *underlay* the prefixes of the physical network.
    """
    outside = uncovered(local, underlay, peers)
    if config.backend == UDP:
        return udp.objects(netns, config=config, own=own, mtu=mtu(config, underlay_mtu))
    if config.backend == HOST_GW:
        return hostgw.objects(
            netns, config=config, own=own, peers=peers, device=device, home=home, outside=outside
        )
    return vxlan.objects(
        netns,
        config=config,
        own=own,
        peers=peers,
        device=device,
        local=local,
        home=home,
        mtu=mtu(config, underlay_mtu),
        outside=outside,
    )


def uncovered(local: str, underlay: Sequence[str], peers: Sequence[Lease]) -> list[IPv4Network]:
    """Return what no way to a peer may cover: the nodes' own addresses, the physical network."""
    return [IPv4Network(one) for one in (local, *underlay, *(peer.public_ip for peer in peers))]


def way(netns: str, config: Config, peer: Lease, *, device: str, home: str) -> list[Object]:
    """Return what carries packets to *peer*'s subnet, by the uplink *device* on segment *home*."""
    if config.backend == UDP:
        return []  # a route for all, and a process that knows
    if config.backend == HOST_GW or (config.direct_routing and hostgw.near(peer, home)):
        return [hostgw.way(netns, device, peer)]
    return vxlan.way(netns, vxlan.device_name(config.vni), peer)


def followed(config: Config, peers: Sequence[Lease]) -> list[Lease]:
    """Return which of *peers* are of this back end: the others' nodes still have another."""
    return [peer for peer in peers if peer.backend_type == config.lease_type]
