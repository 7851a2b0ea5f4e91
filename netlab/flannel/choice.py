"""Which subnet a node takes: flannel's order, so that a node finds its old one again.

1. The one it already has, recognised by its PublicIP.
2. The one it had before, if nobody has it now.
3. Any of the first hundred free ones, so that nodes that start together seldom meet.

Source: flannel v0.28 pkg/subnet/etcd/local_manager.go, tryAcquireLease.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network
from random import Random

import msgspec

from netlab.flannel.config import Config
from netlab.flannel.lease import KeyValue, key_of, parse, subnets_of

CANDIDATES = 100


class Choice(msgspec.Struct, frozen=True):
    """A subnet to take. `mod_revision` and `create_revision` are those of the key when the node
    has it already, 0 for a new one; `stale` are keys of the node that no longer fit."""

    subnet: str
    mod_revision: int = 0
    create_revision: int = 0
    stale: tuple[str, ...] = ()


def choose(
    config: Config,
    items: Sequence[KeyValue],
    *,
    public_ip: str,
    previous: str | None = None,
    rng: Random,
) -> Choice | None:
    """Return what the node at *public_ip* should take; None when every subnet is taken.

    *items* are the keys under SUBNETS; *previous* is the subnet the node had before.
    """
    held = _held(items)
    mine = [(subnet, item) for subnet, item in held if owner(item) == public_ip]
    # A key of another form than a node here writes, dual-stack for one, does not fit either.
    fitting = [
        (subnet, item)
        for subnet, item in mine
        if config.fits(subnet) and item.key == key_of(subnet)
    ]
    stale = tuple(item.key for subnet, item in mine if (subnet, item) not in fitting)
    if fitting:
        subnet, item = fitting[0]
        return Choice(subnet, item.mod_revision, item.create_revision, stale)
    # What cannot be read is taken too: its key is there, so it cannot be created.
    taken = [subnet for subnet, item in held if item.key not in stale]
    if previous and config.fits(previous) and not _overlaps(previous, taken):
        return Choice(previous, stale=stale)
    candidates = free(config, taken)
    return Choice(rng.choice(candidates), stale=stale) if candidates else None


def _held(items: Iterable[KeyValue]) -> list[tuple[str, KeyValue]]:
    held = []
    for item in items:
        try:
            held.append((subnets_of(item.key)[0], item))
        except ValueError:
            continue
    return held


def owner(item: KeyValue) -> str | None:
    """Return the PublicIP in a key's value, None when it is not that of a lease."""
    try:
        return parse(item.key, item.value)[0].public_ip
    except ValueError:
        return None


def _overlaps(subnet: str, others: Iterable[str]) -> bool:
    network = IPv4Network(subnet)
    return any(network.overlaps(IPv4Network(other)) for other in others)


def free(config: Config, taken: Iterable[str], *, limit: int = CANDIDATES) -> list[str]:
    """Return the first *limit* subnets, from SubnetMin upward, that overlap none of *taken*."""
    spans = sorted(
        (int(network[0]), int(network[-1])) for network in (IPv4Network(one) for one in taken)
    )
    size, end = config.size, int(IPv4Address(config.subnet_max)) + config.size
    subnets: list[str] = []
    first = int(IPv4Address(config.subnet_min))
    for low, high in [*spans, (end, end)]:
        while first + size <= min(low, end) and len(subnets) < limit:
            subnets.append(f"{IPv4Address(first)}/{config.subnet_len}")
            first += size
        if high >= first:
            first = (high // size + 1) * size
    return subnets
