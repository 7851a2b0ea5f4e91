"""Pieces of nftables rules, in the words in which `nft -s list table` prints them.

Source: nft 1.0.6; its src/datatype.c (time_print), src/intervals.c (set_overlap, automerge) and
include/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
    summarize_address_range,
)
from itertools import islice

from netlab.proxy.addresses import Family
from netlab.proxy.options import LONGEST_INTERFACE, PodTraffic
from netlab.proxy.ruleset import Block, Key, Sort

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ADDRESS = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}  # the type
LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1"}

LONGEST_COMMENT = 128  # bytes; NFTNL_UDATA_COMMENT_MAXLEN (libnftnl/udata.h)

UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def chain(
    family: Family, table: str, name: str, lines: tuple[str, ...] = (), head: tuple[str, ...] = ()
) -> Block:
    """Return a chain; one with a comment has it in its *head*."""
    return Block(family, Sort.CHAIN, table, name, head, lines)


def base_chain(family: Family, table: str, name: str, hook: str, lines: tuple[str, ...]) -> Block:
    """Return a chain that packets enter at *hook*: `nat hook output priority -100`."""
    return chain(family, table, name, lines, (f"type {hook}; policy accept;",))


def chain_key(family: Family, table: str, name: str) -> Key:
    """Return the key of the `chain`."""
    return family, Sort.CHAIN, table, name


def comment(text: str) -> str:
    """Return `comment "default/web:http"`.

    A longer one than nft takes would make it refuse all rules. A name of the longest allowed, of
    the longest namespace and with the longest port name, is longer.
    """
    return f'comment "{text[:LONGEST_COMMENT]}"'


def duration(seconds: int) -> str:
    """Return `3h`, or `1d1m5s`."""
    text, left = "", seconds
    for unit, size in UNITS:
        count, left = divmod(left, size)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def from_pods(pods: PodTraffic, family: Family) -> str:
    """Return the match of packets of the node's own *pods*, which are `known`."""
    if pods.cidr:
        return f"{IP[family]} saddr {plain(pods.cidr)} "
    return f'iifname "{_interface(pods)}" '


def from_others(pods: PodTraffic, family: Family) -> str:
    """Return the match of all other packets."""
    if pods.cidr:
        return f"{IP[family]} saddr != {plain(pods.cidr)} "
    return f'iifname != "{_interface(pods)}" '


def _interface(pods: PodTraffic) -> str:
    """Return what nft matches names with; a prefix as long as a name can be is the name."""
    long = len(pods.prefix) == LONGEST_INTERFACE
    return pods.interface or (pods.prefix if long else f"{pods.prefix}*")


def plain(prefix: str) -> str:
    """Return *prefix*, without its length if that is one address."""
    base, _, length = prefix.partition("/")
    return base if length == ("128" if ":" in prefix else "32") else prefix


def any_of(prefixes: Iterable[str]) -> str:
    """Return what matches any of *prefixes* (or addresses): `{ 10.0.0.1, 192.168.0.0/16 }`.

    nft joins those that touch, sorts them, and takes the braces off a single one. That form is
    written here, so that it is what is listed.
    """
    found = [_range(first, last) for first, last in _joined(map(ip_network, prefixes))]
    return found[0] if len(found) == 1 else f"{{ {', '.join(found)} }}"


def _joined(networks: Iterable[Network]) -> Iterator[tuple[Address, Address]]:
    """Yield the first and last addresses of what *networks* cover, in their order."""
    begun: tuple[Address, Address] | None = None
    for first, last in sorted((one[0], one[-1]) for one in networks):
        if begun and int(first) <= int(begun[1]) + 1:
            begun = begun[0], max(begun[1], last)
            continue
        if begun:
            yield begun
        begun = first, last
    if begun:
        yield begun


def _range(first: Address, last: Address) -> str:
    """Return `10.0.0.1`, `10.0.0.0/24` or `10.0.0.0-10.0.1.127`."""
    found = list(islice(summarize_address_range(first, last), 2))
    return f"{first}-{last}" if len(found) > 1 else plain(str(found[0]))
