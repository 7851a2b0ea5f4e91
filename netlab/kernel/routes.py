"""Messages for addresses, routes, neighbours and forwarding entries, packed and read back.

Numbers: linux/if_addr.h, linux/rtnetlink.h, linux/neighbour.h.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import lru_cache
from struct import Struct

from netlab.kernel import netlink
from netlab.kernel.links import mac
from netlab.kernel.netlink import attribute, message, number, u8, u32
from netlab.objects import (
    MAIN_TABLE,
    PROTOCOL,
    RULE_PRIORITY,
    Address,
    FdbEntry,
    Neighbor,
    Route,
    RoutingRule,
)

NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22  # RTM_*
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOR, DELETE_NEIGHBOR, GET_NEIGHBOR = 28, 29, 30
NEW_RULE, DELETE_RULE, GET_RULE = 32, 33, 34

_ADDRESS, _LOCAL, _PROTO = 1, 2, 11  # IFA_*
_DST, _OIF, _GATEWAY, _TABLE = 1, 4, 5, 15  # RTA_*
_UNSPEC, _UNICAST, _KERNEL = 0, 1, 2  # RT_TABLE_UNSPEC, RTN_UNICAST, RTPROT_KERNEL
_PRIORITY, _MARK, _RULE_TABLE, _RULE_PROTO = 6, 10, 15, 21  # FRA_*, linux/fib_rules.h
_TO_TABLE = 1  # FR_ACT_TO_TBL
_UNIVERSE, _LINK = 0, 253  # RT_SCOPE_*
_ONLINK = 4  # RTNH_F_ONLINK
_NODAD = 2  # IFA_F_NODAD, linux/if_addr.h
_NEIGHBOR_DST, _LLADDR, _NEIGHBOR_IFINDEX, _NEIGHBOR_PROTO = 1, 2, 8, 12  # NDA_*
_PERMANENT, _SELF = 0x80, 0x02  # NUD_PERMANENT, NTF_SELF
_UNASKED, _EXT_LEARNED = 0, 0x10  # NUD_NONE, NTF_EXT_LEARNED

_address_header = Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_route_header = Struct("=BBBBBBBBI")  # rtmsg: family, dst length, src, tos, table, protocol, …
_neighbor_header = Struct("=BxHiHBB")  # ndmsg: family, index, state, flags, type

_OURS = u8(_PROTO, PROTOCOL)
_ADD = netlink.CREATE | netlink.EXCL
_PUT = netlink.CREATE | netlink.REPLACE


@lru_cache(maxsize=4096)
def packed(address: str) -> tuple[int, bytes]:
    """Return the family of an address and its bytes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


def prefix(words: str) -> tuple[int, bytes, int]:
    """Return family, bytes and length of `10.244.1.1/24`; `default` is 0.0.0.0/0."""
    if words == "default":
        return socket.AF_INET, b"\0\0\0\0", 0
    address, _, length = words.partition("/")
    family, raw = packed(address)
    return family, raw, int(length) if length else len(raw) * 8


def words(family: int, raw: bytes) -> str:
    return socket.inet_ntop(family, raw)


def _address(thing: Address, index: int) -> bytes:
    family, raw, length = prefix(thing.address)
    same = attribute(_LOCAL, raw) + attribute(_ADDRESS, raw)
    # Who has it is decided here: nobody need ask for a second whether another has it, too.
    flags = _NODAD if family == socket.AF_INET6 else 0
    return _address_header.pack(family, length, flags, 0, index) + same


def new_address(thing: Address, index: int) -> bytes:
    return message(NEW_ADDRESS, _ADD, _address(thing, index) + _OURS)


def others_address(thing: Address, index: int) -> bytes:
    """Return the message that adds an address without netlab's mark: a program's of the node."""
    return message(NEW_ADDRESS, _ADD, _address(thing, index))


def delete_address(thing: Address, index: int) -> bytes:
    return message(DELETE_ADDRESS, 0, _address(thing, index))


def addresses_body(family: int) -> bytes:
    return _address_header.pack(family, 0, 0, 0, 0)


def link_of(body: bytes) -> int:
    """Return the index of the link that an address in a message is of."""
    return int(_address_header.unpack_from(body)[4])


def address(body: bytes) -> tuple[int, str, bool]:
    """Return (link index, `10.244.1.1/24`, whether it is netlab's) of a message."""
    family, length, _flags, _scope, index = _address_header.unpack_from(body)
    found = netlink.attributes(body, _address_header.size)
    raw = found.get(_LOCAL) or found[_ADDRESS]
    return index, f"{words(family, raw)}/{length}", number(found.get(_PROTO, b"")) == PROTOCOL


# A table's number where there are 8 bits for it; a larger one is in an attribute.
def _small(table: int) -> int:
    return table if table < 256 else _UNSPEC


def _route(thing: Route, index: int) -> bytes:
    family, raw, length = prefix(thing.destination)
    scope = _LINK if thing.via is None and family == socket.AF_INET else _UNIVERSE
    flags = _ONLINK if thing.onlink else 0
    body = _route_header.pack(
        family, length, 0, 0, _small(thing.table), thing.protocol, scope, _UNICAST, flags
    ) + u32(_OIF, index)
    if thing.table != MAIN_TABLE:
        body += u32(_TABLE, thing.table)
    if length:
        body += attribute(_DST, raw)
    return body if thing.via is None else body + attribute(_GATEWAY, packed(thing.via)[1])


def new_route(thing: Route, index: int) -> bytes:
    return message(NEW_ROUTE, _ADD, _route(thing, index))


def replace_route(thing: Route, index: int) -> bytes:
    return message(NEW_ROUTE, _PUT, _route(thing, index))


def delete_route(thing: Route, index: int) -> bytes:
    return message(DELETE_ROUTE, 0, _route(thing, index))


def routes_body(family: int, *, table: int = MAIN_TABLE) -> bytes:
    """Return what asks for one *table* only; 0: for all."""
    return _route_header.pack(family, 0, 0, 0, table, 0, 0, 0, 0)


def route(body: bytes, netns: str, name_of: Callable[[int], str]) -> Route | None:
    """Return the route of a message; None for those the kernel makes itself or of other types."""
    family, length, _src, tos, table, protocol, _scope, kind, flags = _route_header.unpack_from(
        body
    )
    if protocol == _KERNEL or kind != _UNICAST or tos:
        return None
    found = netlink.attributes(body, _route_header.size)
    table = number(found[_TABLE]) if _TABLE in found else table
    if _OIF not in found:
        return None  # several next hops: not ours
    nothing = "default" if family == socket.AF_INET else "::/0"
    destination = f"{words(family, found[_DST])}/{length}" if _DST in found else nothing
    via = words(family, found[_GATEWAY]) if _GATEWAY in found else None
    link = name_of(number(found[_OIF]))
    return Route(netns, destination, link, via, bool(flags & _ONLINK), protocol, table)


def _rule(thing: RoutingRule) -> bytes:
    header = _route_header.pack(socket.AF_INET, 0, 0, 0, _small(thing.table), 0, 0, _TO_TABLE, 0)
    return (
        header
        + u32(_PRIORITY, RULE_PRIORITY)
        + u32(_MARK, thing.mark)
        + u32(_RULE_TABLE, thing.table)
        + u8(_RULE_PROTO, PROTOCOL)
    )


def new_rule(thing: RoutingRule) -> bytes:
    return message(NEW_RULE, _ADD, _rule(thing))


def delete_rule(thing: RoutingRule) -> bytes:
    return message(DELETE_RULE, 0, _rule(thing))


def rules_body() -> bytes:
    """Return what asks for the rules of policy routing of IPv4."""
    return _route_header.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)


def rule(body: bytes, netns: str) -> RoutingRule | None:
    """Return the rule of a message; None for one that is not netlab's."""
    found = netlink.attributes(body, _route_header.size)
    ours = number(found.get(_RULE_PROTO, b"")) == PROTOCOL
    if not ours or _MARK not in found or _RULE_TABLE not in found:
        return None
    return RoutingRule(netns, number(found[_MARK]), number(found[_RULE_TABLE]))


def put_neighbor(thing: Neighbor, index: int) -> bytes:
    """Return what makes a neighbour permanent, or gives one that ARP is to find a place of its own.

    Since Linux 5.0 the kernel neither counts nor discards what is marked as learned elsewhere.
    Source: net/core/neighbour.c, neigh_update_gc_list and neigh_add.
    """
    family, raw = packed(thing.address)
    if not thing.mac:
        body = _neighbor_header.pack(family, 0, index, _UNASKED, _EXT_LEARNED, _UNICAST)
        body += attribute(_NEIGHBOR_DST, raw) + u8(_NEIGHBOR_PROTO, PROTOCOL)
        return message(NEW_NEIGHBOR, _PUT, body)
    body = _neighbor_header.pack(family, 0, index, _PERMANENT, 0, _UNICAST)
    body += attribute(_NEIGHBOR_DST, raw) + attribute(_LLADDR, mac(thing.mac))
    return message(NEW_NEIGHBOR, _PUT, body)


def delete_neighbor(thing: Neighbor, index: int) -> bytes:
    family, raw = packed(thing.address)
    body = _neighbor_header.pack(family, 0, index, 0, 0, 0) + attribute(_NEIGHBOR_DST, raw)
    return message(DELETE_NEIGHBOR, 0, body)


def neighbors_body(family: int, index: int) -> bytes:
    """Return what asks for the neighbours of one link."""
    return _neighbor_header.pack(family, 0, 0, 0, 0, 0) + u32(_NEIGHBOR_IFINDEX, index)


def neighbor(body: bytes, netns: str, link: str) -> Neighbor | None:
    """Return the neighbour of a message, if it is permanent or has a place by netlab's doing."""
    family, _pad, _index, state, flags, _type = _neighbor_header.unpack_from(body)
    found = netlink.attributes(body, _neighbor_header.size)
    if flags & _EXT_LEARNED and number(found.get(_NEIGHBOR_PROTO, b"")) == PROTOCOL:
        return Neighbor(netns, link, words(family, found[_NEIGHBOR_DST]))
    if not state & _PERMANENT or _LLADDR not in found:
        return None
    return Neighbor(netns, link, words(family, found[_NEIGHBOR_DST]), found[_LLADDR].hex(":"))


def _fdb(thing: FdbEntry, index: int, state: int) -> bytes:
    body = _neighbor_header.pack(socket.AF_BRIDGE, 0, index, state, _SELF, 0)
    return (
        body
        + attribute(_LLADDR, mac(thing.mac))
        + attribute(_NEIGHBOR_DST, packed(thing.destination)[1])
    )


def put_fdb(thing: FdbEntry, index: int) -> bytes:
    return message(NEW_NEIGHBOR, _PUT, _fdb(thing, index, _PERMANENT))


def delete_fdb(thing: FdbEntry, index: int) -> bytes:
    return message(DELETE_NEIGHBOR, 0, _fdb(thing, index, 0))


def fdb_body(index: int) -> bytes:
    """Return what asks for the forwarding entries of one link."""
    return _neighbor_header.pack(socket.AF_BRIDGE, 0, index, 0, 0, 0)


def fdb_entry(body: bytes, netns: str, link: str) -> FdbEntry | None:
    """Return the permanent forwarding entry of a message that has a destination."""
    _family, _pad, _index, state, _flags, _type = _neighbor_header.unpack_from(body)
    found = netlink.attributes(body, _neighbor_header.size)
    raw = found.get(_NEIGHBOR_DST)
    if not state & _PERMANENT or raw is None:
        return None
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return FdbEntry(netns, link, found[_LLADDR].hex(":"), words(family, raw))
