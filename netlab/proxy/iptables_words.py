"""Pieces of iptables rules, in the words and order in which iptables-save prints them.

Source: `iptables-nft-save` 1.8.9, nf_tables variant.
"""

from __future__ import annotations

from functools import lru_cache

from netlab.proxy.addresses import Family
from netlab.proxy.options import LONGEST_INTERFACE, PodTraffic
from netlab.proxy.ruleset import Block, Key, Sort

FILTER = "filter"
NAT = "nat"
MANGLE = "mangle"

PROBABILITY_ONE = 1 << 31  # xt_statistic's unit; extensions/libxt_statistic.c
LENGTHS = {Family.IPV4: 32, Family.IPV6: 128}
REJECT = {
    Family.IPV4: "REJECT --reject-with icmp-port-unreachable",
    Family.IPV6: "REJECT --reject-with icmp6-port-unreachable",
}


def chain(family: Family, table: str, name: str, lines: tuple[str, ...] = ()) -> Block:
    """Return a chain of our own."""
    return Block(family, Sort.CHAIN, table, name, (), lines)


def chain_key(family: Family, table: str, name: str) -> Key:
    """Return the key of the `chain`."""
    return family, Sort.CHAIN, table, name


def jumps(family: Family, table: str, name: str, *lines: str) -> Block:
    """Return our *lines* in the built-in chain *name*."""
    return Block(family, Sort.JUMPS, table, name, (), lines)


def comment(text: str) -> str:
    r"""Return the match that carries *text*, which needs quotes (most texts do, for their blanks).

    Quotes in it are escaped: `--comment "dnat name: \"cbr0\""`.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'-m comment --comment "{escaped}"'


def host(canonical: str) -> str:
    """Return `10.0.0.1/32` or `fd00::1/128`."""
    return f"{canonical}/128" if ":" in canonical else f"{canonical}/32"


def source(prefix: str) -> str:
    """Return the match `-s 10.0.0.0/8 ` of an address or *prefix*; "" for one of length 0.

    All addresses are no match: iptables-save prints none.
    """
    if prefix.endswith("/0"):
        return ""
    return f"-s {prefix if '/' in prefix else host(prefix)} "


def from_pods(pods: PodTraffic) -> str:
    """Return the match of packets of the node's own *pods*, which are `known`."""
    return source(pods.cidr) if pods.cidr else f"-i {_interface(pods)} "


def to_from_others(address: str, pods: PodTraffic) -> str | None:
    """Return the match of packets to *address* that are not from the *pods*, which are `known`.

    None: there are no such packets, and iptables-nft refuses a rule for them.
    """
    to = f"-d {host(address)} "
    if not pods.cidr:
        return f"{to}{from_others(pods)}"
    others = from_others(pods)
    return None if others is None else f"{others}{to}"


def from_others(pods: PodTraffic) -> str | None:
    """Return the match of packets that are not from the *pods*, which are `known`; None: none."""
    if not pods.cidr:
        return f"! -i {_interface(pods)} "
    return None if pods.cidr.endswith("/0") else f"! -s {pods.cidr} "


def _interface(pods: PodTraffic) -> str:
    """Return what iptables matches names with; a prefix as long as a name can be is the name."""
    return pods.interface or f"{pods.prefix}+"[:LONGEST_INTERFACE]


@lru_cache(maxsize=1 << 12)
def one_in(number: int) -> str:
    """Return the match of a packet in *number*: `-m statistic … --probability 0.33333333349 `.

    kube-proxy gives ten decimals, the kernel keeps 31 bits, iptables-save prints eleven decimals.
    Source: pkg/proxy/iptables/proxier.go, computeProbability (v1.34).
    """
    kept = int(float(f"{1 / number:.10f}") * PROBABILITY_ONE + 0.5) / PROBABILITY_ONE
    return f"-m statistic --mode random --probability {kept:.11f} "
