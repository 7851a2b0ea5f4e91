"""The names of a namespace's chains, straight from the kernel.

Of 30,000 chains the names take 75 ms, where a listing with their rules takes a second.
"""

from __future__ import annotations

from typing import NamedTuple

from netlab.errors import CapabilityError
from netlab.kernel import netlink

# Tables that are netlab's wherever they are.
OWN = (("bridge", "netlab-faults"), ("netdev", "netlab-balancer"))
TABLES = frozenset(("filter", "nat", "mangle", "raw", "security"))  # those of iptables

_GET_CHAIN = 10 << 8 | 4  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
_TABLE, _NAME, _HOOK = 1, 3, 4  # NFTA_CHAIN_*, linux/netfilter/nf_tables.h
_GET_TABLE = 10 << 8 | 1  # NFT_MSG_GETTABLE
_TABLE_NAME = 1  # NFTA_TABLE_NAME
_EVERY = bytes(4)  # nfgenmsg: NFPROTO_UNSPEC
# nfgenmsg: NFPROTO_IPV4 or _IPV6, version, resource
_FAMILY = {"ip": bytes((2, 0, 0, 0)), "ip6": bytes((10, 0, 0, 0))}


class ChainName(NamedTuple):
    """A chain of iptables; a built-in one is called by the kernel, all others by jumps."""

    table: str
    name: str
    built_in: bool


def own_tables() -> list[tuple[str, str]]:
    """Return those of `OWN` that are in the calling thread's namespace, by family and name."""
    try:
        connection = netlink.Socket(netlink.NETFILTER)
        try:
            bodies = connection.dump(_GET_TABLE, _EVERY)
        finally:
            connection.close()
    except OSError:  # a kernel without nftables has none
        return []
    names = {netlink.string(netlink.attributes(body, 4)[_TABLE_NAME]) for body in bodies}
    return [own for own in OWN if own[1] in names]


def iptables_chains(family: str = "ip") -> list[ChainName]:
    """Return the chains of iptables-nft in the calling thread's namespace, or of ip6tables-nft.

    Raises CapabilityError.
    """
    connection = netlink.Socket(netlink.NETFILTER)
    try:
        bodies = connection.dump(_GET_CHAIN, _FAMILY[family])
    except netlink.NetlinkError as error:
        raise CapabilityError(f"this kernel has no nftables: {error}") from error
    finally:
        connection.close()
    found = []
    for body in bodies:
        chain = netlink.attributes(body, len(_FAMILY[family]))
        table = netlink.string(chain[_TABLE])
        if table in TABLES:
            found.append(ChainName(table, netlink.string(chain[_NAME]), _HOOK in chain))
    return found
