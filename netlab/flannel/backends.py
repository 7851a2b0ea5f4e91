"""What the kernel of a node holds for its leases, whichever back end the net-conf names."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from netlab.flannel import hostgw, udp, vxlan
from netlab.flannel.config import HOST_GW, UDP, Config
from netlab.flannel.lease import Lease
from netlab.flannel.peers import Net
from netlab.model.lab import like
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
    home: Sequence[str],
    underlay_mtu: int,
    underlay: Sequence[str] = (),
) -> list[Object]:
    """Return what *netns* holds for the leases *own* and *peers*, the own one perhaps among them.

    *device* is the uplink, *local* its address of IPv4, *home* the prefixes of its segment,
    *underlay_mtu* its MTU in bytes, *underlay* the prefixes of the physical network.
    """
    inner = mtu(config, underlay_mtu)
    if config.backend == UDP:
        return udp.objects(netns, config=config, own=own, mtu=inner)
    found: list[Object] = []
    for mine in own.halves:
        address = mine.public_ip if mine.ipv6 else local
        theirs = [half for peer in peers for half in peer.halves if half.ipv6 == mine.ipv6]
        outside = uncovered(address, underlay, theirs)
        near = like(address, home)
        if config.backend == HOST_GW:
            found += hostgw.objects(
                netns,
                config=config,
                own=mine,
                peers=theirs,
                device=device,
                home=near,
                outside=outside,
            )
            continue
        found += vxlan.objects(
            netns,
            config=config,
            own=mine,
            peers=theirs,
            device=device,
            local=address,
            home=near,
            mtu=inner - (vxlan.VXLAN_OVERHEAD_V6 - vxlan.VXLAN_OVERHEAD if mine.ipv6 else 0),
            outside=outside,
        )
    return found


def uncovered(local: str, underlay: Sequence[str], peers: Sequence[Lease]) -> list[Net]:
    """Return what no way to a peer may cover: the nodes' own addresses, the physical network.

    Only of the family of *local*.
    """
    every = (local, *underlay, *(peer.public_ip for peer in peers))
    return [ip_network(one) for one in every if like(local, [one])]


def way(
    netns: str, config: Config, peer: Lease, *, device: str, home: Sequence[str]
) -> list[Object]:
    """Return what carries packets to *peer*'s subnets, by the uplink *device*.

    *home*: the prefixes of its segment.
    """
    if config.backend == UDP:
        return []  # a route for all, and a process that knows
    found: list[Object] = []
    for half in peer.halves[: len(config.networks)]:
        near = hostgw.near(half, like(half.public_ip, home))
        if config.backend == HOST_GW or (config.direct_routing and near):
            found.append(hostgw.way(netns, device, half))
        else:
            link = vxlan.device_name(config.vni, ipv6=half.ipv6)
            found += vxlan.way(netns, link, half)
    return found


def followed(config: Config, peers: Sequence[Lease]) -> list[Lease]:
    """Return which of *peers* are of this back end: the others' nodes still have another."""
    return [peer for peer in peers if peer.backend_type == config.lease_type]
