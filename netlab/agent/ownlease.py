"""A node's lease, kept as flannel keeps it or found where a foreign flanneld does, and the others'.

Where the node is declared `flannel: none`, nothing is ever written: the lease in etcd that has the
node's address as its PublicIP is the node's. It gives the pods their addresses. When it goes, the
pods keep what they have, as those of a machine whose flanneld has ended do.
"""

from __future__ import annotations

from logging import Logger

from netlab.flannel import lease, members, subnets
from netlab.flannel.config import SUBNETS, Config
from netlab.flannel.lease import Lease
from netlab.model.lab import Lab, LabNode
from netlab.store.etcd import Etcd, Listing

AWAITED = "waits for the lease of a foreign flanneld (flannel: none)"
GONE = "the lease of its foreign flanneld is gone: the others no longer reach its pods"
ANEW = "start its foreign flanneld anew, which read the net-conf before it was changed"


class OwnLease:
    """The lease of the node called *node*, and those of others, as far as they are known."""

    def __init__(self, node: str, log: Logger) -> None:
        self.node = node
        self.log = log
        self.lease: Lease | None = None
        self.peers: list[Lease] = []  # the others'
        self.awaits = ""  # what a foreign flanneld has yet to do, in words
        self._warned: set[str] = set()
        self._held: subnets.Held | None = None

    @property
    def subnet(self) -> str:
        """The subnet, "" without a lease."""
        return self.lease.subnet if self.lease is not None else ""

    @property
    def subnets(self) -> list[str]:
        """One subnet of each family, none without a lease."""
        return [half.subnet for half in self.lease.halves] if self.lease is not None else []

    @property
    def renews(self) -> float:
        """When it will be renewed, in seconds since the epoch; 0.0: that is not netlab's to do."""
        return self._held.renews if self._held is not None else 0.0

    def keep(self, etcd: Etcd, lab: Lab, config: Config) -> None:
        """Take, renew or restore the lease, or find it; then read the others'.

        Raises StoreError; what was known is then still the best knowledge.
        """
        node = lab.node(self.node)
        leases, warnings = lease.peers(self._kept(etcd, lab, node, config).items)
        for warning in warnings:
            if warning not in self._warned:
                self.log.warning("%s", warning)
        self._warned = set(warnings)
        self.peers = [item for item in leases if item.public_ip != node.address]

    def _kept(self, etcd: Etcd, lab: Lab, node: LabNode, config: Config) -> Listing:
        """Return what is under SUBNETS once the own lease is as it should be."""
        listing = etcd.range(SUBNETS)
        if node.foreign_flannel:
            self._held = None
            self._found(members.lease_of(listing.items, node.address), config)
            return listing
        me = subnets.Me.of(lab.name, node, config)
        self._held, lines = subnets.maintain(etcd, config, listing, self._held, me)
        self.lease, self.awaits = self._held.lease, ""
        for line in lines:
            self.log.info("%s", line)
        return etcd.range(SUBNETS) if lines else listing

    def _found(self, held: Lease | None, config: Config) -> None:
        if held is None:
            self.awaits = GONE if self.lease else AWAITED
            return
        if held != self.lease:
            self.log.info("lease %s, by a foreign flanneld", held.subnet)
        wrong = members.unlike(held, config) or members.of_other_stacks(held, config)
        self.lease, self.awaits = held, f"{wrong}: {ANEW}" if wrong else ""
