"""The links of the namespace the calling thread is in that have addresses, netlab's left out."""

from __future__ import annotations

import socket
from typing import NamedTuple

from netlab.kernel import links, netlink, routes


class Card(NamedTuple):
    """A link with IPv4 addresses, `192.168.56.11/24`."""

    name: str
    mtu: int
    addresses: tuple[str, ...]


def cards() -> list[Card]:
    """Return the links, in the order of their indices, that packets may come in by."""
    connection = netlink.Socket()
    try:
        every = [links.link(body) for body in connection.dump(links.GET, links.DUMP_BODY)]
        bodies = connection.dump(routes.GET_ADDRESS, routes.addresses_body(socket.AF_INET))
    finally:
        connection.close()
    held: dict[int, list[str]] = {}
    for body in bodies:
        index, words, _ours = routes.address(body)
        held.setdefault(index, []).append(words)
    return [
        Card(one.name, one.mtu, tuple(held.get(one.ifindex, ())))
        for one in every
        if one.ifindex != links.LOOPBACK and not one.ours
    ]
