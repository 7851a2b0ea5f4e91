"""Foreign members of the overlay, looked up in etcd when somebody asks for the lab's status."""

from __future__ import annotations

import time
from ipaddress import IPv4Network
from typing import Any

from netlab.flannel import members
from netlab.flannel.config import SUBNETS, UDP, resolve
from netlab.flannel.lease import Lease
from netlab.flannel.members import Member
from netlab.model.lab import Lab
from netlab.store.etcd import Etcd

REMEMBERED = (
    5.0  # seconds for which it is known when an etcd lease ends: who keeps it may prolong it
)


class Members:
    """The members last seen, and when their leases end; an etcd that is away changes neither."""

    def __init__(self) -> None:
        self._seen: list[Member] = []
        self._ends: dict[int, tuple[float, float]] = {}  # by etcd lease: when asked, when it ends

    def look(self, etcd: Etcd, lab: Lab) -> None:
        """Ask *etcd* who there is, and for how long. Raises StoreError."""
        listing = etcd.range(SUBNETS)
        self._seen = members.foreign(listing.items, {node.address for node in lab.nodes})
        wanted = {one.etcd_lease for one in self._seen if one.etcd_lease}
        ends = {lease: known for lease, known in self._ends.items() if lease in wanted}
        for lease in wanted:
            if lease not in ends or time.monotonic() - ends[lease][0] > REMEMBERED:
                left, now = etcd.time_to_live(lease), time.monotonic()
                ends[lease] = now, now + left
        self._ends = ends

    def told(self, lab: Lab) -> list[dict[str, Any]]:
        """Return the members, as `netlab status -o json` has them."""
        config = resolve(lab.network)
        homes = [lab.segment_of(node.address).cidr for node in lab.nodes]
        segments = [segment.cidr for segment in lab.underlay.segments]
        nodes = [one.lease.public_ip for one in self._seen]
        outside = [IPv4Network(one) for one in (*segments, *nodes)]
        attached = {one.address: one.netns for one in lab.attached}
        return [
            {
                "publicIP": one.lease.public_ip,
                "subnet": one.lease.subnet,
                "backend": one.lease.backend_type or UDP,
                "vtepMAC": one.lease.vtep_mac,
                **_of_ipv6(one.lease),
                "ttl": self._left(one),
                "attached": attached.get(one.lease.public_ip, ""),
                "lastError": members.why_not(one.lease, config, homes=homes, outside=outside),
            }
            for one in self._seen
        ]

    def _left(self, member: Member) -> int | None:
        """Return the seconds *member*'s lease has left, None for one that does not end."""
        if member.etcd_lease not in self._ends:
            return None
        return max(0, round(self._ends[member.etcd_lease][1] - time.monotonic()))


def _of_ipv6(lease: Lease) -> dict[str, str]:
    if not lease.subnet_v6:
        return {}
    return {
        "subnetV6": lease.subnet_v6,
        "publicIPv6": lease.public_ipv6,
        "vtepMACV6": lease.vtep_mac_v6,
    }
