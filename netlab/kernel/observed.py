"""What is netlab's in a namespace, in the words of `objects`.

Ours are links of our groups, addresses and routes of our protocol, whatever hangs on a tunnel of
ours, and settings, chains and tables that are wanted. Anything else is not reported, and so is
never touched; where it is in the way, adding fails and says so.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable
from typing import Any

from msgspec.structs import replace

from netlab.errors import KernelError
from netlab.kernel import links, netem, netlink, netns, routes, settings
from netlab.kernel.links import Link
from netlab.kernel.netlink import NetlinkError
from netlab.objects import (
    DOOMED_GROUP,
    GROUP,
    MAIN_TABLE,
    PROTOCOL,
    Address,
    Bridge,
    FdbEntry,
    Neighbor,
    Netns,
    Object,
    Route,
    RoutingRule,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)

Key = tuple[Any, ...]
TUNNELS = ("vxlan", "tun")  # kinds of links of which all that hangs on them is netlab's, too
VXLAN_PORT = 8472  # the kernel's default, drivers/net/vxlan/vxlan_core.c


def observed(name: str, connection: netlink.Socket, desired: Collection[Object]) -> list[Object]:
    """Return netlab's objects in namespace *name*, rules excepted.

    The calling thread is inside it, *connection* too.
    """
    wanted = {thing.key: thing for thing in desired}
    every = [links.link(body) for body in connection.dump(links.GET, links.DUMP_BODY)]
    by_index = {link.ifindex: link for link in every}
    found: list[Object] = []
    if not wanted or ("Netns", name) in wanted:
        found.append(Netns(name, by_index[links.LOOPBACK].up))
    found += _links(name, connection, by_index, wanted)
    found += netem.observed(name, netem.shaped(every))
    families = _families(wanted.values())
    for family in families:
        found += _addresses(name, connection, by_index, wanted, family)
        found += _routes(name, connection, by_index, wanted, family)
    if any(isinstance(thing, RoutingRule) for thing in desired):
        bodies = connection.dump(routes.GET_RULE, routes.rules_body())
        found += [rule for body in bodies if (rule := routes.rule(body, name)) is not None]
    for tunnel in by_index.values():
        if tunnel.kind == "vxlan" and tunnel.group == GROUP:
            found += _overlay(name, connection, tunnel, families)
    for family in families:
        found += _places(name, connection, by_index, wanted, family)
    found += _settings(name, wanted.values())
    return found


def _families(things: Iterable[Object]) -> list[int]:
    for thing in things:
        if (isinstance(thing, Address) and ":" in thing.address) or (
            isinstance(thing, Route) and ":" in thing.destination
        ):
            return [socket.AF_INET, socket.AF_INET6]
    return [socket.AF_INET]


def _links(
    name: str, connection: netlink.Socket, by_index: dict[int, Link], wanted: dict[Key, Object]
) -> list[Object]:
    found: list[Object] = []
    cables: list[tuple[Link, Veth | None]] = []
    for link in by_index.values():
        if link.group not in (GROUP, DOOMED_GROUP):
            continue
        as_wanted = wanted.get(("Link", name, link.name))
        if link.kind == "bridge":
            found.append(Bridge(name, link.name, link.mac, link.mtu, link.up))
        elif link.kind == "vxlan":
            found.append(_vxlan(name, link, by_index, as_wanted))
        elif link.kind == "tun":
            found.append(Tun(name, link.name, link.mtu, link.up))
        elif link.kind == "veth":
            is_veth = isinstance(as_wanted, Veth) and link.group == GROUP
            cables.append((link, as_wanted if is_veth else None))  # type: ignore[arg-type]
    far = _far_ends(connection, cables)
    for link, as_veth in cables:
        master = by_index.get(link.master)
        found.append(_veth(name, link, master.name if master else None, as_veth, far))
    return found


def _vxlan(name: str, link: Link, by_index: dict[int, Link], as_wanted: Object | None) -> Vxlan:
    tunnel = links.tunnel(link.data)
    device = by_index.get(tunnel.device)
    port = tunnel.port
    if port == VXLAN_PORT and isinstance(as_wanted, Vxlan) and as_wanted.port == 0:
        port = 0
    return Vxlan(
        name,
        link.name,
        link.mac,
        tunnel.vni,
        tunnel.local,
        device.name if device else "",
        link.mtu,
        port,
        tunnel.learning,
        link.up,
    )


# The far end of each cable whose far end is in the namespace where it is wanted, by index here.
def _far_ends(
    connection: netlink.Socket, cables: list[tuple[Link, Veth | None]]
) -> dict[int, Link]:
    numbers = _nsids(connection, {veth.peer_netns for _, veth in cables if veth is not None})
    there = [
        link
        for link, veth in cables
        if veth is not None
        and link.nsid is not None
        and numbers.get(veth.peer_netns, -1) == link.nsid
    ]
    replies = connection.ask([links.by_index(link.link, link.nsid) for link in there])
    return {
        near.ifindex: links.link(reply)
        for near, reply in zip(there, replies, strict=True)
        if not isinstance(reply, NetlinkError)
    }


# This namespace's number of each named one, -1 when it has none yet.
def _nsids(connection: netlink.Socket, names: Collection[str]) -> dict[str, int]:
    descriptors: dict[str, int] = {}
    try:
        for each in names:
            try:
                descriptors[each] = netns.fd(each)
            except KernelError:
                continue
        replies = connection.ask([links.nsid_of(value) for value in descriptors.values()])
    finally:
        for value in descriptors.values():
            os.close(value)
    return {
        each: -1 if isinstance(reply, NetlinkError) else links.nsid(reply)
        for each, reply in zip(descriptors, replies, strict=True)
    }


def _veth(
    name: str, link: Link, bridge: str | None, wanted: Veth | None, far: dict[int, Link]
) -> Veth:
    end = far.get(link.ifindex)
    if wanted is None or end is None:
        return Veth(
            *(name, link.name, link.mac, "", "", "", link.mtu, bridge),
            *(link.hairpin, link.up, False),
        )
    # One number stands for both ends: report the one that is wrong.
    mtu = link.mtu if link.mtu != wanted.mtu else end.mtu
    return Veth(
        *(name, link.name, link.mac, wanted.peer_netns, end.name, end.mac, mtu, bridge),
        *(link.hairpin, link.up, end.up),
    )


def _addresses(
    name: str,
    connection: netlink.Socket,
    by_index: dict[int, Link],
    wanted: dict[Key, Object],
    family: int,
) -> list[Object]:
    found: list[Object] = []
    for body in connection.dump(routes.GET_ADDRESS, routes.addresses_body(family)):
        index, words, marked = routes.address(body)
        link = by_index[index]
        thing = Address(name, link.name, words)
        # The kernel gives every device a link-local one of its own.
        hangs_on = link.ours and link.kind in TUNNELS and not words.startswith("fe80:")
        if marked or hangs_on or thing.key in wanted:
            found.append(thing)
    return found


def _routes(
    name: str,
    connection: netlink.Socket,
    by_index: dict[int, Link],
    wanted: dict[Key, Object],
    family: int,
) -> list[Object]:
    def link_name(index: int) -> str:
        link = by_index.get(index)
        return link.name if link else ""

    tunnels = {
        link.name for link in by_index.values() if link.group == GROUP and link.kind in TUNNELS
    }
    found: list[Object] = []
    # Other tables than the main one only where something is wanted in one: the balancer's.
    several = any(isinstance(one, Route) and one.table != MAIN_TABLE for one in wanted.values())
    table = 0 if several else MAIN_TABLE
    try:
        bodies = connection.dump(routes.GET_ROUTE, routes.routes_body(family, table=table))
    except NetlinkError as error:
        if error.errno != errno.ENOENT:  # a new namespace has no main table yet
            raise
        bodies = []
    for body in bodies:
        thing = routes.route(body, name, link_name)
        if thing is None:
            continue
        as_wanted = wanted.get(thing.key)
        same_protocol = isinstance(as_wanted, Route) and as_wanted.protocol == thing.protocol
        if thing.protocol == PROTOCOL or thing.link in tunnels or same_protocol:
            found.append(thing)
    return found


def _overlay(
    name: str, connection: netlink.Socket, tunnel: Link, families: list[int]
) -> list[Object]:
    found: list[Object] = []
    near: list[Neighbor | FdbEntry | None] = []
    for family in families:
        body = routes.neighbors_body(family, tunnel.ifindex)
        near += [
            routes.neighbor(each, name, tunnel.name)
            for each in connection.dump(routes.GET_NEIGHBOR, body)
        ]
    near += [
        routes.fdb_entry(each, name, tunnel.name)
        for each in connection.dump(routes.GET_NEIGHBOR, routes.fdb_body(tunnel.ifindex))
    ]
    found += [thing for thing in near if thing is not None]
    return found


# The neighbours that have a place of their own, on the links where any should; machines of the
# underlay always have some. A permanent one of somebody else's is as good there. On a link of ours
# where any should have a certain MAC, all that have one.
def _places(
    name: str,
    connection: netlink.Socket,
    by_index: dict[int, Link],
    wanted: dict[Key, Object],
    family: int,
) -> list[Object]:
    on = {one.link for one in wanted.values() if isinstance(one, Neighbor) and not one.mac}
    fixed = {one.link for one in wanted.values() if isinstance(one, Neighbor) and one.mac}
    found: list[Object] = []
    for link in by_index.values():
        if link.name in fixed and link.group == GROUP and link.kind not in TUNNELS:
            body = routes.neighbors_body(family, link.ifindex)
            near = connection.dump(routes.GET_NEIGHBOR, body)
            found += [it for each in near if (it := routes.neighbor(each, name, link.name))]
        if link.name not in on:
            continue
        body = routes.neighbors_body(family, link.ifindex)
        for each in connection.dump(routes.GET_NEIGHBOR, body):
            thing = routes.neighbor(each, name, link.name)
            if thing is not None and (not thing.mac or thing.key in wanted):
                found.append(replace(thing, mac=""))
    return found


def _settings(name: str, wanted: Iterable[Object]) -> list[Object]:
    found: list[Object] = []
    for thing in wanted:
        if isinstance(thing, Sysctl):
            value = settings.read(thing.name)
            if value is None and settings.needless(thing.name):
                value = thing.value
            if value is not None:
                same = value.split() == thing.value.split()
                found.append(Sysctl(name, thing.name, thing.value if same else value))
    return found
