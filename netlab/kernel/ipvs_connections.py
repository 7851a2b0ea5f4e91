"""The connections that ip_vs remembers, in the namespace the calling thread is in.

Source: Linux net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_seq_show, v6.12.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from netlab.kernel import ipvs
from netlab.packets import Flow, Protocol, VirtualConnection

LISTING = Path("/proc/thread-self/net/ip_vs_conn")


def connections(flows: Collection[Flow]) -> list[VirtualConnection]:
    """Return what ip_vs remembers of *flows*, as they were asked; nothing without ip_vs."""
    try:
        lines = LISTING.read_text().splitlines()[1:]
    except FileNotFoundError:
        return []
    found = [one for line in lines if (one := _connection(line.split()))]
    found = [one for one in found if one.flow in flows]
    schedulers = {one.name: one.scheduler for one in ipvs.servers()} if found else {}
    return [one.with_scheduler(schedulers.get(one.server, "")) for one in dict.fromkeys(found)]


def _connection(words: list[str]) -> VirtualConnection | None:
    """Return the connection of a line; None: of no protocol that netlab sends."""
    protocol = words[0].lower()
    if protocol not in set(Protocol):
        return None
    asked = Flow(
        _address(words[1]),
        _address(words[3]),
        Protocol(protocol),
        int(words[2], 16),
        int(words[4], 16),
    )
    return VirtualConnection(asked, _address(words[5]), int(words[6], 16), words[7], int(words[8]))


def _address(words: str) -> str:
    if ":" in words:
        return str(IPv6Address(words))
    return str(IPv4Address(int(words, 16)))
