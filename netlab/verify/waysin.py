"""The ways in to the Services of a node, who may come by them, and what a caller can notice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from netlab.proxy import Decision, Frontend, Kind
from netlab.proxy.addresses import Family, family, is_loopback
from netlab.sensors.calls import ICMP, Came
from netlab.verify.stage import Stage, version

LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
UNUSED = 9  # the port; discard
WORLD = "world"


class Caller(StrEnum):
    """The kinds of clients, as seen from the node whose rules are tried."""

    POD = "pod"
    OTHER_POD = "pod of another node"
    NODE = "node"
    LOOPBACK = "node's loopback"
    OUTSIDE = "outside"


PLACE = {
    Caller.POD: "here-pod",
    Caller.OTHER_POD: "there-pod",
    Caller.NODE: "here",
    Caller.LOOPBACK: "here",
    Caller.OUTSIDE: "client",
}
NODE_OF = {caller: "there" if caller is Caller.OTHER_POD else "here" for caller in Caller}


class Way(NamedTuple):
    """A way in to a Service: an address and port, and what it is called."""

    service: str  # default/web, default/web:http
    sort: str  # NodePort on 127.0.0.1
    title: str  # NodePort 30080/TCP on 127.0.0.1
    address: str
    port: int
    protocol: str


class Sight(NamedTuple):
    """What came of one call; `by` and `seen_as` only of an answer."""

    came: Came
    by: str = ""  # an endpoint, the node itself, or WORLD
    seen_as: str = ""  # client, node


Sights = frozenset[Sight]


def ways_in(made: Decision, stage: Stage) -> Iterator[Way]:
    """Yield the ways in that frontends are, then those beside the cluster IPs' ports."""
    cluster_ips: dict[str, str] = {}
    ports: dict[str, set[int]] = {}
    for one in made.frontends:
        service = one.service
        for address, where in _addresses(one, stage):
            sort, title = str(one.kind), f"{one.kind} {_at(address, one.port)}/{service.protocol}"
            if where:
                sort = f"{one.kind} on {where}"
                title = f"{one.kind} {one.port}/{service.protocol} on {where}"
            yield Way(service.text, sort, title, address, one.port, service.protocol)
        if one.kind is Kind.CLUSTER_IP:
            cluster_ips[one.address] = f"{service.namespace}/{service.name}"
            ports.setdefault(one.address, set()).add(one.port)
    for address, name in cluster_ips.items():
        port = next(it for it in range(UNUSED, 65536) if it not in ports[address])
        title = f"unused port {_at(address, port)}/TCP"
        yield Way(name, "unused port of a ClusterIP", title, address, port, "TCP")
        yield Way(name, "ping of a ClusterIP", f"ping of ClusterIP {address}", address, 0, ICMP)


def _addresses(one: Frontend, stage: Stage) -> Iterator[tuple[str, str]]:
    """Yield the addresses a frontend has, each with what it is called if it is the node's."""
    if one.kind is not Kind.NODE_PORT:
        yield one.address, ""
        return
    which = one.service.family
    for address in stage.here.addresses:
        if family(address) is which:
            yield address, f"the node's {address}"
    number = 4 if which is Family.IPV4 else 6
    own = stage.bridge_address("here", number)
    yield own, f"{stage.bridge}'s {own}"
    yield LOOPBACK[which], LOOPBACK[which]


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_possible(way: Way, caller: Caller) -> bool:
    """Return whether such a packet can be: loopbacks are everybody's own."""
    if is_loopback(way.address):
        return caller in (Caller.NODE, Caller.LOOPBACK)
    # Of IPv6, no rule makes a loopback routable, and nobody expects it.
    return caller is not Caller.LOOPBACK or version(way.address) == 4


def source_of(stage: Stage, way: Way, caller: Caller) -> str:
    """Return the address a call comes from."""
    number = version(way.address)
    which = family(way.address)

    def of(addresses: Iterable[str]) -> str:
        return next((one for one in addresses if version(one) == number), LOOPBACK[which])

    match caller:
        case Caller.POD:
            return of(stage.here.pod)
        case Caller.OTHER_POD:
            return of(stage.there.pod)
        case Caller.OUTSIDE:
            return of(stage.client)
        case Caller.LOOPBACK:
            return LOOPBACK[which]
    own = {*stage.own("here"), *LOOPBACK.values()}
    return way.address if way.address in own else of(stage.here.addresses)
