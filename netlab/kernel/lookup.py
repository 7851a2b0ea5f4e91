"""The kernel asked what it would do: routes for one packet, neighbours, forwarding entries, links.

All in the network namespace of the calling thread. Source: rtnetlink(7); net/ipv4/route.c,
inet_rtm_getroute: with an incoming device it does what it does for a packet that came in by it,
reverse-path filter included.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv4Network
from struct import Struct
from typing import NamedTuple

from netlab.kernel import links, netlink
from netlab.kernel.links import Link
from netlab.kernel.netlink import NetlinkError, attribute, message, number, u32
from netlab.kernel.routes import (
    GET_NEIGHBOR,
    GET_ROUTE,
    fdb_body,
    neighbors_body,
    packed,
    routes_body,
    words,
)

_DST, _SRC, _IIF, _OIF, _GATEWAY, _TABLE, _MARK = 1, 2, 3, 4, 5, 15, 16  # RTA_*
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the route as it is in its table, since Linux 4.13
_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_REFUSING = {6: errno.EINVAL, 7: errno.EHOSTUNREACH, 8: errno.EACCES}
_NEIGHBOUR_DST, _LLADDR = 1, 2  # NDA_*
_STATES = {  # linux/neighbour.h, NUD_*
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}
_route_header = Struct("=BBBBBBBBI")
_neighbour_header = Struct("=BxHiHBB")
_GET_RULE = 34  # RTM_GETRULE
_rule_header = Struct("=BBBBBxxBI")  # fib_rule_hdr: family, dst length, src length, tos, table, …
_RULE_DST, _RULE_SRC, _PRIORITY, _RULE_TABLE = 1, 2, 6, 15  # FRA_*
_NARROWER = (3, 10, 17, 22, 23, 24)  # FRA_IIFNAME, _FWMARK, _OIFNAME, _IP_PROTO, _SPORT/DPORT_RANGE
_ACTIONS = {1: "lookup", 6: "blackhole", 7: "unreachable", 8: "prohibit"}  # FR_ACT_*
_USUAL = (255, 254, 253)  # tables local, main and default: each has a rule from the start


class Route(NamedTuple):
    """What the kernel would do with a packet. *kind*: `unicast`, `local`, `blackhole`, …

    `refused`: the error it answers instead (errno), 0 for none. `prefix`: of the route that was
    matched, `default` or `10.244.1.0/24`, "" when it is not told.
    """

    kind: str = ""
    device: int = 0
    gateway: str = ""
    prefix: str = ""
    refused: int = 0


class Neighbour(NamedTuple):
    address: str
    mac: str
    state: str


class Forwarding(NamedTuple):
    """An entry of a bridge's or tunnel's forwarding table."""

    mac: str
    destination: str  # of a tunnel's, "" otherwise


class Policy(NamedTuple):
    """A rule of policy routing, ip-rule(8), beyond those that every namespace begins with."""

    priority: int
    kind: str  # `lookup`, `blackhole`, `unreachable`, `prohibit`
    source: IPv4Network
    destination: IPv4Network
    table: int = 0
    narrower: bool = False  # it asks for a mark, a device, a port, too

    def __str__(self) -> str:
        """`100: from 10.244.1.2 to 10.244.2.0/24 lookup 77`."""
        ends = [f"from {_short(self.source)}"]
        ends += [f"to {_short(self.destination)}"] if self.destination.prefixlen else []
        does = f"lookup {self.table}" if self.kind == "lookup" else self.kind
        return f"{self.priority}: {' '.join(ends)} {does}"

    def fits(self, source: str, destination: str) -> bool:
        """Return whether it is about all packets with these ends."""
        ends = IPv4Address(source) in self.source and IPv4Address(destination) in self.destination
        return ends and not self.narrower


def _short(net: IPv4Network) -> str:
    if not net.prefixlen:
        return "all"
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


def policies() -> list[Policy]:
    """Return the rules of policy routing for IPv4 that somebody added, in their order."""
    connection = netlink.Socket()
    try:
        bodies = connection.dump(_GET_RULE, _rule_header.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0))
    finally:
        connection.close()
    found = []
    for body in bodies:
        _family, to_length, from_length, _tos, table, action, _flags = _rule_header.unpack_from(
            body
        )
        held = netlink.attributes(body, _rule_header.size)
        table = number(held[_RULE_TABLE]) if _RULE_TABLE in held else table
        one = Policy(
            number(held.get(_PRIORITY, b"")),
            _ACTIONS.get(action, str(action)),
            IPv4Network((held.get(_RULE_SRC, bytes(4)), from_length)),
            IPv4Network((held.get(_RULE_DST, bytes(4)), to_length)),
            table,
            any(kind in held for kind in _NARROWER),
        )
        if one.kind != "lookup" or table not in _USUAL:
            found.append(one)
    return sorted(found)


def route(destination: str, *, source: str = "", arriving: int = 0, mark: int = 0) -> Route:
    """Return what the kernel would do with a packet to *destination*.

    *arriving*: the index of the device it came in by, with its *source*; without it, it is sent
    from here. Raises NetlinkError for what is no answer about a route.
    """
    found = _asked(destination, source, arriving, mark, 0)
    if found.refused:
        return _refusing(destination) or found
    matched = _asked(destination, source, arriving, mark, _FIB_MATCH)
    return found._replace(prefix=matched.prefix)


def _refusing(destination: str) -> Route | None:
    """Return the route that refuses packets to *destination*, if that is what the best one does:
    asked for it, the kernel answers with what it does to a packet."""
    connection = netlink.Socket()
    try:
        bodies = connection.dump(GET_ROUTE, routes_body(socket.AF_INET))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:  # a new namespace has no main table yet
            raise
        return None
    finally:
        connection.close()
    best: tuple[int, int, str] = (-1, 0, "")
    for body in bodies:
        _family, length, _src, _tos, _table, _protocol, _scope, kind, _flags = (
            _route_header.unpack_from(body)
        )
        found = netlink.attributes(body, _route_header.size)
        to = words(socket.AF_INET, found[_DST]) if _DST in found else "0.0.0.0"
        if length > best[0] and IPv4Address(destination) in IPv4Network(f"{to}/{length}"):
            best = length, kind, f"{to}/{length}" if length else "default"
    refused = _REFUSING.get(best[1])
    return Route(_TYPES[best[1]], prefix=best[2], refused=refused) if refused else None


_ANSWERS = (
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EXDEV, errno.EINVAL, errno.EACCES),
    errno.ENODEV,
)


def _asked(destination: str, source: str, arriving: int, mark: int, flags: int) -> Route:
    body = attribute(_DST, packed(destination)[1])
    body += attribute(_SRC, packed(source)[1]) if source else b""
    body += u32(_IIF, arriving) if arriving else b""
    body += u32(_MARK, mark) if mark else b""
    length = 32 if source else 0
    header = _route_header.pack(socket.AF_INET, 32, length, 0, 0, 0, 0, 0, flags)
    connection = netlink.Socket()
    try:
        (reply,) = connection.ask([message(GET_ROUTE, 0, header + body)])
    finally:
        connection.close()
    if isinstance(reply, NetlinkError):
        if reply.errno not in _ANSWERS:
            raise reply
        return Route(refused=reply.errno or 0)
    _family, prefix, _src, _tos, _table, _protocol, _scope, kind, _flags = (
        _route_header.unpack_from(reply)
    )
    found = netlink.attributes(reply, _route_header.size)
    to = words(socket.AF_INET, found[_DST]) if _DST in found else ""
    return Route(
        _TYPES.get(kind, str(kind)),
        number(found.get(_OIF, b"")),
        words(socket.AF_INET, found[_GATEWAY]) if _GATEWAY in found else "",
        f"{to}/{prefix}" if to else "default",
    )


def interfaces() -> dict[str, Link]:
    """Return the links by name."""
    connection = netlink.Socket()
    try:
        found = [links.link(body) for body in connection.dump(links.GET, links.DUMP_BODY)]
    finally:
        connection.close()
    return {link.name: link for link in found}


def neighbours(index: int) -> list[Neighbour]:
    """Return the IPv4 neighbours known on the link with that index."""
    return [
        Neighbour(
            words(socket.AF_INET, found[_NEIGHBOUR_DST]), found.get(_LLADDR, b"").hex(":"), state
        )
        for state, found in _entries(neighbors_body(socket.AF_INET, index))
        if len(found.get(_NEIGHBOUR_DST, b"")) == 4
    ]


def forwarding(index: int) -> list[Forwarding]:
    """Return the forwarding entries of a tunnel or bridge port."""
    return [
        Forwarding(
            found[_LLADDR].hex(":"),
            words(socket.AF_INET, found[_NEIGHBOUR_DST])
            if len(found.get(_NEIGHBOUR_DST, b"")) == 4
            else "",
        )
        for _, found in _entries(fdb_body(index))
        if _LLADDR in found
    ]


def _entries(body: bytes) -> list[tuple[str, netlink.Attributes]]:
    connection = netlink.Socket()
    try:
        bodies = connection.dump(GET_NEIGHBOR, body)
    finally:
        connection.close()
    found = []
    for each in bodies:
        state = _neighbour_header.unpack_from(each)[3]
        name = next((word for bit, word in _STATES.items() if state & bit), "none")
        found.append((name, netlink.attributes(each, _neighbour_header.size)))
    return found
