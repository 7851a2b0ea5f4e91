"""The links of the namespace the calling thread is in that have addresses, netlab's left out."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from netlab.kernel import links, netlink, routes


class Card(NamedTuple):
    """A link; its addresses with prefix lengths, `192.168.56.11/24`, those of IPv6 apart."""

    name: str
    mtu: int
    addresses: tuple[str, ...]
    addresses6: tuple[str, ...] = ()


def cards() -> list[Card]:
    """Return the links, in the order of their indices, that packets may come in by."""
    connection = netlink.Socket()
    try:
        every = [links.link(body) for body in connection.dump(links.GET, links.DUMP_BODY)]
        bodies, bodies6 = (
            connection.dump(routes.GET_ADDRESS, routes.addresses_body(family))
            for family in (socket.AF_INET, socket.AF_INET6)
        )
    finally:
        connection.close()
    held, held6 = _by_link(bodies), _by_link(bodies6)
    return [
        Card(one.name, one.mtu, tuple(held[one.ifindex]), tuple(held6[one.ifindex]))
        for one in every
        if one.ifindex != links.LOOPBACK and not one.ours
    ]


def _by_link(bodies: Iterable[bytes]) -> dict[int, list[str]]:
    """Return the addresses in messages by the index of their link."""
    held: dict[int, list[str]] = defaultdict(list)
    for body in bodies:
        index, words, _ours = routes.address(body)
        held[index].append(words)
    return held
