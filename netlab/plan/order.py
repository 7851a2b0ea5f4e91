"""The plan: what has to be done so that the observed objects become the desired ones.

1. Pure: two collections of objects in, a list of operations out, to be applied front to back.
2. What goes goes first, dependants before what they depend on; then what is made or changed, the
   other way round.
3. What the kernel removes along with another thing (addresses with their link, everything with its
   namespace) is not deleted again, but it is made again when it is still wanted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import replace

from netlab.objects import (
    Address,
    Bridge,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netem,
    Netns,
    NftTable,
    Object,
    Route,
    RoutingRule,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)

Key = tuple[Any, ...]
Place = tuple[str, str]  # a link: namespace and name

# IPv6 must be off before the first link comes up, so a namespace's settings follow its birth; a
# route through a gateway needs the route the gateway is reached by; rules come last, so that a
# chain may name a link.
_RANKS = {
    Netns: 0,
    Sysctl: 1,
    Bridge: 2,
    Veth: 3,
    Vxlan: 4,
    Tun: 4,
    Address: 5,
    Route: 6,
    RoutingRule: 8,
    Neighbor: 9,
    FdbEntry: 10,
    NftTable: 12,
    Netem: 15,
    IptablesChain: 13,
    IptablesJump: 14,
}
_ROUTE_VIA, _SYSCTL_OF_LINK = 7, 11


class Verb(StrEnum):
    ADD = "add"
    CHANGE = "change"
    DELETE = "delete"


class Op(msgspec.Struct, frozen=True):
    """One step of a plan; `old` is what a change starts from."""

    verb: Verb
    object: Object
    old: Object | None = None


def difference(desired: Collection[Object], observed: Collection[Object]) -> list[Op]:
    """Return the operations that turn *observed* into *desired*, in an order that works.

    Both may span several namespaces. A namespace that has to be made is taken to be empty, and
    the veths that should end in it are made again.
    """
    wanted = {thing.key: thing for thing in desired}
    found = {thing.key: thing for thing in observed}
    born = {o.netns for key, o in wanted.items() if type(o) is Netns and key not in found}
    dying = {o.netns for key, o in found.items() if type(o) is Netns and key not in wanted}
    unheld = born | dying
    for key in [key for key, o in found.items() if o.netns in unheld and type(o) is not Netns]:
        del found[key]
    broken = {key: o for key, o in found.items() if _must_go(o, wanted.get(key), born)}
    new_cables = [o for key, o in wanted.items() if key not in found and isinstance(o, Veth)]
    lost = _lost_places([*broken.values(), *new_cables], wanted, found)
    deletes = [Op(Verb.DELETE, thing) for thing in broken.values()]
    makes: list[Op] = []
    for key, new in wanted.items():
        old = found.get(key)
        if old is None or key in broken or _lost(old, lost):
            makes.append(Op(Verb.ADD, new))
        elif isinstance(old, Veth) and (old.netns, old.bridge) in lost:
            makes.append(Op(Verb.CHANGE, new, replace(old, bridge=None, hairpin=False)))
        elif old != new:
            makes.append(Op(Verb.CHANGE, new, old))
        elif isinstance(new, Neighbor) and _loses_neighbors(wanted, found, new):
            makes.append(Op(Verb.ADD, new))
    for key, old in found.items():
        if key not in wanted and key not in broken and not _lost(old, lost):
            deletes.append(Op(Verb.DELETE, old))
    deletes.sort(key=lambda op: -rank(op.object))
    makes.sort(key=lambda op: rank(op.object))
    return deletes + makes


def rank(thing: Object) -> int:
    """Return the place of *thing* in the order of making, 0 first."""
    if type(thing) is Route and thing.via is not None:
        return _ROUTE_VIA
    if type(thing) is Sysctl and sysctl_link(thing.name) is not None:
        return _SYSCTL_OF_LINK
    return _RANKS[type(thing)]


def sysctl_link(name: str) -> str | None:
    """Return the link that a setting belongs to: `flannel.1` of net.ipv6.conf.flannel/1.accept_ra.

    None for a setting of the namespace, those of `all`, `default` and `lo` included.
    """
    parts = name.split(".")
    if len(parts) < 5 or parts[0] != "net" or parts[2] not in ("conf", "neigh"):
        return None
    return None if parts[3] in ("all", "default", "lo") else parts[3].replace("/", ".")


# A link that no change turns into the wanted one, or that no longer ends where it should.
def _must_go(old: Object, new: Object | None, born: Collection[str]) -> bool:
    if not isinstance(old, Bridge | Veth | Vxlan | Tun):
        return False
    if type(new) is not type(old):
        return True
    if isinstance(old, Veth) and isinstance(new, Veth):
        ends = (old.peer_netns, old.peer_name) == (new.peer_netns, new.peer_name)
        return not ends or new.peer_netns in born
    if isinstance(old, Vxlan) and isinstance(new, Vxlan):
        return _tunnel(old) != _tunnel(new)
    return False


def _tunnel(thing: Vxlan) -> tuple[object, ...]:
    return (thing.vni, thing.local, thing.device, thing.port, thing.learning)


# The links that vanish with those deleted: far ends of veths, tunnels over them. Where the far end
# of a new cable is to be, there may still be that of an old one.
def _lost_places(
    broken: Iterable[Object],
    wanted: dict[Key, Object],
    found: dict[Key, Object],
) -> set[Place]:
    lost: set[Place] = set()
    for thing in broken:
        assert isinstance(thing, Bridge | Veth | Vxlan | Tun)
        lost.add((thing.netns, thing.name))
        for end in (thing, wanted.get(thing.key)):
            if isinstance(end, Veth):
                lost.add((end.peer_netns, end.peer_name))
    if lost:
        for thing in found.values():
            if isinstance(thing, Vxlan) and (thing.netns, thing.device) in lost:
                lost.add((thing.netns, thing.name))
    return lost


# A link that gets another MAC forgets its neighbours, permanent ones too (neigh_changeaddr()).
def _loses_neighbors(
    wanted: dict[Key, Object], found: dict[Key, Object], neighbor: Neighbor
) -> bool:
    key = ("Link", neighbor.netns, neighbor.link)
    new, old = wanted.get(key), found.get(key)
    if isinstance(new, Bridge | Veth | Vxlan) and isinstance(old, Bridge | Veth | Vxlan):
        return new.mac != old.mac
    return False


def _lost(thing: Object, lost: Collection[Place]) -> bool:
    if not lost:
        return False
    if isinstance(thing, Address | Route | Neighbor | FdbEntry | Netem):
        return (thing.netns, thing.link) in lost
    if isinstance(thing, Sysctl):
        return (thing.netns, sysctl_link(thing.name)) in lost
    return isinstance(thing, Vxlan) and (thing.netns, thing.name) in lost
