"""The life of a node's lease: taken, renewed, and put right when somebody has meddled with it.

1. Every write is conditional on what the decision was made from, so no race overwrites a lease:
   who was too late looks again and chooses again. (flanneld exits there.)
2. A pass costs nothing while all is well: the listing the node has made anyway is looked at.
3. Renewal is a new etcd lease and a Put of the same value, as flannel does it; the old etcd lease
   runs out by itself.
4. A lease the node had under another address or in another network is deleted when it takes a new
   one: it bears the same VTEP MAC, and others would send this node's packets to where it was.

Source: flannel v0.28 pkg/subnet/etcd/local_manager.go.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from random import Random
from typing import NamedTuple, Protocol

import msgspec

from netlab.errors import StoreError
from netlab.flannel import vxlan
from netlab.flannel.choice import choose, owner
from netlab.flannel.config import SUBNETS, VXLAN, Config
from netlab.flannel.lease import KeyValue, Lease, peers
from netlab.model.lab import LabNode

TTL = 86400  # s; flannel's subnetTTL
MARGIN = 3600.0  # s before the end; flanneld's default --subnet-lease-renew-margin, 60 min
ATTEMPTS = 100  # lost races; each means that another node has found its subnet


class Listing(Protocol):
    """What was listed under SUBNETS."""

    @property
    def items(self) -> Sequence[KeyValue]: ...


class Store(Protocol):
    """What a lease needs of etcd; `netlab.store.etcd.Etcd` has it. All raise StoreError."""

    def range(self, prefix: str) -> Listing: ...
    def grant(self, ttl: int) -> int: ...
    def revoke(self, lease: int) -> None: ...
    def time_to_live(self, lease: int) -> int: ...
    def delete(self, key: str) -> object: ...
    def put_if_unchanged(self, key: str, value: bytes, *, mod_revision: int, lease: int) -> int: ...


class Held(msgspec.Struct, frozen=True):
    """A lease the node has, and the etcd lease its key is attached to."""

    lease: Lease
    etcd_lease_id: int
    expires: float  # time.monotonic() seconds
    renews: float  # when it will be renewed: seconds since the epoch, for people
    create_revision: int  # of the key: when it differs, the key was deleted in between


class Action(StrEnum):
    KEEP = "keep"
    ADOPT = "adopt"  # the key is attached to an etcd lease somebody else granted
    WRITE = "write"  # put the value again, with a new etcd lease
    ACQUIRE = "acquire"  # the subnet is lost


class Finding(msgspec.Struct, frozen=True):
    """What to do about the own lease, and why, for the log."""

    action: Action
    why: str = ""
    item: KeyValue | None = None


class Me(NamedTuple):
    """A node as its leases name it; of IPv6 only where the overlay has that."""

    public_ip: str
    vtep_mac: str
    public_ipv6: str = ""
    vtep_mac_v6: str = ""

    @classmethod
    def of(cls, lab: str, node: LabNode, config: Config) -> Me:
        """Return *node* of the lab called *lab*."""
        mac = vxlan.vtep_mac(lab, node.name, config.vni)
        if config.ipv6 is None:
            return cls(node.address, mac)
        mac_v6 = vxlan.vtep_mac(lab, node.name, config.vni, ipv6=True)
        return cls(node.address, mac, node.address6, mac_v6)


def own_lease(config: Config, subnet: str, me: Me, subnet_v6: str = "") -> Lease:
    """Return the lease of *subnet* as a node writes it: a VTEP is vxlan's alone."""
    public_ipv6 = me.public_ipv6 if subnet_v6 else ""
    if config.backend != VXLAN:
        lease = Lease(subnet, me.public_ip, config.lease_type)
        return msgspec.structs.replace(lease, subnet_v6=subnet_v6, public_ipv6=public_ipv6)
    mac_v6 = me.vtep_mac_v6 if subnet_v6 else ""
    own = (subnet, me.public_ip, VXLAN, config.vni, me.vtep_mac)
    return Lease(*own, subnet_v6, public_ipv6, mac_v6)


def acquire(
    etcd: Store,
    config: Config,
    me: Me,
    *,
    previous: str | None = None,
    previous_v6: str = "",
    rng: Random | None = None,
    ttl: int = TTL,  # s
    margin: float = MARGIN,  # s
    listing: Listing | None = None,
) -> Held:
    """Return a lease taken in etcd, in flannel's order of preference.

    *listing* is what is under SUBNETS, if it was just read. Raises StoreError: out of subnets,
    or etcd refused or did not answer.
    """
    rng = rng or Random()
    etcd_lease = 0
    for _ in range(ATTEMPTS):
        items = (listing or etcd.range(SUBNETS)).items
        listing = None
        choice = choose(
            config,
            items,
            public_ip=me.public_ip,
            previous=previous,
            previous_v6=previous_v6,
            rng=rng,
        )
        if choice is None:
            if etcd_lease:
                etcd.revoke(etcd_lease)
            raise StoreError(
                f"out of subnets: every /{config.subnet_len} from {config.subnet_min} to "
                f"{config.subnet_max} of {' or '.join(config.networks)} is leased",
                hint="a larger Network or a larger SubnetLen has more",
            )
        for key in choice.stale:
            etcd.delete(key)
        began = time.monotonic()
        etcd_lease = etcd_lease or etcd.grant(ttl)
        lease = own_lease(config, choice.subnet, me, choice.subnet_v6)
        revision = etcd.put_if_unchanged(
            lease.key, lease.value(), mod_revision=choice.mod_revision, lease=etcd_lease
        )
        if revision:
            created = choice.create_revision or revision
            return _held(lease, etcd_lease, began + ttl, margin, created)
    etcd.revoke(etcd_lease)
    raise StoreError(f"lost the race for a subnet of {config.network} {ATTEMPTS} times")


def _held(lease: Lease, etcd_lease: int, expires: float, margin: float, created: int) -> Held:
    renews = time.time() + expires - margin - time.monotonic()
    return Held(lease, etcd_lease, expires, renews, created)


def check(
    held: Held, wanted: Lease, config: Config, listing: Listing, *, margin: float, now: float
) -> Finding:
    """Return what to do about the own lease, given what is under SUBNETS *now* (monotonic, s).

    *wanted* is the lease as it should read.
    """
    item = next((item for item in listing.items if item.key == held.lease.key), None)
    if not config.fits(held.lease.subnet, held.lease.subnet_v6):
        return Finding(Action.ACQUIRE, "no longer fits the net-conf", item)
    if item is None:
        return Finding(Action.ACQUIRE, "was deleted or has run out")
    if item.value != wanted.value():
        other = owner(item)
        # Created anew by a readable other: it is theirs by right, the own one had run out.
        if other not in (None, wanted.public_ip) and item.create_revision != held.create_revision:
            return Finding(Action.ACQUIRE, f"was taken by {other}", item)
        why = "was overwritten, restored" if wanted == held.lease else "was brought up to date"
        return Finding(Action.WRITE, why, item)
    if not item.lease:
        return Finding(Action.WRITE, "had no time to live, restored", item)
    if item.lease != held.etcd_lease_id:
        return Finding(Action.ADOPT, "was attached to another etcd lease", item)
    if now >= held.expires - margin:
        return Finding(Action.WRITE, "was renewed", item)
    return Finding(Action.KEEP, item=item)


def _forsaken(etcd: Store, listing: Listing, taken: Lease) -> list[str]:
    """Delete the other leases of *listing* that bear the VTEP MAC of *taken*; return the news."""
    if not taken.vtep_mac:
        return []
    lines = []
    for lease in peers(listing.items)[0]:
        if lease.vtep_mac == taken.vtep_mac and lease.key != taken.key:
            etcd.delete(lease.key)
            lines.append(f"lease {lease.subnet}, had as {lease.public_ip}, deleted")
    return lines


def maintain(
    etcd: Store,
    config: Config,
    listing: Listing,
    held: Held | None,
    me: Me,
    *,
    rng: Random | None = None,
    ttl: int = TTL,  # s
    margin: float = MARGIN,  # s
) -> tuple[Held, list[str]]:
    """Return the lease the node holds now, and what was done about it, for the log.

    *listing* is what is under SUBNETS, *held* what the pass before returned. Without cause it
    asks nothing of etcd. Raises StoreError; *held* is then still the best knowledge.
    """

    def acquired(previous: Lease | None) -> Held:
        return acquire(
            etcd,
            config,
            me,
            previous=previous.subnet if previous else None,
            previous_v6=previous.subnet_v6 if previous else "",
            rng=rng,
            ttl=ttl,
            margin=margin,
            listing=listing,
        )

    if held is None:
        taken = acquired(None)
        return taken, [f"lease {taken.lease.subnet} taken", *_forsaken(etcd, listing, taken.lease)]
    wanted = own_lease(config, held.lease.subnet, me, held.lease.subnet_v6)
    now = time.monotonic()
    finding = check(held, wanted, config, listing, margin=margin, now=now)
    item, name = finding.item, f"lease {held.lease.subnet}"
    if finding.action is Action.ACQUIRE or item is None:
        taken = acquired(held.lease)
        told = f"{name} {finding.why}; {taken.lease.subnet} taken"
        return taken, [told, *_forsaken(etcd, listing, taken.lease)]
    if finding.action is Action.ADOPT:
        left = etcd.time_to_live(item.lease)
        if left > margin:
            expires = now + left
            kept = _held(wanted, item.lease, expires, margin, item.create_revision)
            return kept, [f"{name} {finding.why}, with {left} s left"]
    if finding.action is Action.KEEP:
        return msgspec.structs.replace(held, create_revision=item.create_revision), []
    etcd_lease = etcd.grant(ttl)
    if etcd.put_if_unchanged(
        wanted.key, wanted.value(), mod_revision=item.mod_revision, lease=etcd_lease
    ):
        done = _held(wanted, etcd_lease, now + ttl, margin, item.create_revision)
        return done, [f"{name} {finding.why}"]
    # Changed again since it was listed: the watch tells, and the next pass decides anew.
    etcd.revoke(etcd_lease)
    return held, [f"{name} {finding.why}: not yet, it has changed meanwhile"]
