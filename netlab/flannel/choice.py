"""Which subnet a node takes: flannel's order, so that a node finds its old one again.

1. The one it already has, recognised by its PublicIP.
2. The one it had before, if nobody has it now.
3. Any of the first hundred free ones, so that nodes that start together seldom meet.

With two stacks it takes a subnet of each, chosen apart. Where flannel forgets both of the ones it
had as soon as one of them does not fit, a node here keeps the other: its pods keep their addresses.

Source: flannel v0.28 pkg/subnet/etcd/local_manager.go, tryAcquireLease.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from random import Random

import msgspec

from netlab.flannel.config import Config, Range
from netlab.flannel.lease import KeyValue, key_of, parse, subnets_of

CANDIDATES = 100


class Choice(msgspec.Struct, frozen=True):
    """A subnet to take. `mod_revision` and `create_revision` are those of the key when the node
    has it already, 0 for a new one; `stale` are keys of the node that no longer fit."""

    subnet: str
    mod_revision: int = 0
    create_revision: int = 0
    stale: tuple[str, ...] = ()
    subnet_v6: str = ""  # with two stacks


def choose(
    config: Config,
    items: Sequence[KeyValue],
    *,
    public_ip: str,
    previous: str | None = None,
    previous_v6: str = "",
    rng: Random,
) -> Choice | None:
    """Return what the node at *public_ip* should take; None when every subnet is taken.

    *items* are the keys under SUBNETS; *previous* is the subnet the node had before, *previous_v6*
    that of IPv6.
    """
    held = _held(items)
    mine = [(subnets, item) for subnets, item in held if owner(item) == public_ip]
    # A key of another form than a node here writes, of one stack instead of two for one, does not
    # fit either.
    fitting = [
        (subnets, item)
        for subnets, item in mine
        if config.fits(*subnets) and item.key == key_of(*subnets)
    ]
    stale = tuple(item.key for subnets, item in mine if (subnets, item) not in fitting)
    if fitting:
        (subnet, subnet_v6), item = fitting[0]
        return Choice(subnet, item.mod_revision, item.create_revision, stale, subnet_v6)
    # What cannot be read is taken too: its key is there, so it cannot be created.
    taken = [subnets for subnets, item in held if item.key not in stale]
    subnet = _one(config.ipv4, [one for one, _ in taken], previous or "", rng)
    subnet_v6 = ""
    if config.ipv6 is not None:
        subnet_v6 = _one(config.ipv6, [one for _, one in taken if one], previous_v6, rng)
    if not subnet or (config.ipv6 is not None and not subnet_v6):
        return None
    return Choice(subnet, stale=stale, subnet_v6=subnet_v6)


def _one(range_: Range, taken: list[str], previous: str, rng: Random) -> str:
    """Return a subnet of one family, *previous* if that may be; "" when every one is taken."""
    if range_.fits(previous) and not _overlaps(previous, taken):
        return previous
    candidates = free(range_, taken)
    return rng.choice(candidates) if candidates else ""


def _held(items: Iterable[KeyValue]) -> list[tuple[tuple[str, str], KeyValue]]:
    held = []
    for item in items:
        try:
            held.append((subnets_of(item.key), item))
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
    network = ip_network(subnet)
    return any(network.overlaps(ip_network(other)) for other in others)


def free(range_: Range, taken: Iterable[str], *, limit: int = CANDIDATES) -> list[str]:
    """Return the first *limit* subnets, from SubnetMin upward, that overlap none of *taken*."""
    spans = sorted(
        (int(network[0]), int(network[-1])) for network in (ip_network(one) for one in taken)
    )
    start = ip_address(range_.subnet_min)
    size, end = range_.size, int(ip_address(range_.subnet_max)) + range_.size
    subnets: list[str] = []
    first = int(start)
    for low, high in [*spans, (end, end)]:
        while first + size <= min(low, end) and len(subnets) < limit:
            subnets.append(f"{type(start)(first)}/{range_.subnet_len}")
            first += size
        if high >= first:
            first = (high // size + 1) * size
    return subnets
