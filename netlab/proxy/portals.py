"""What the process of `userspace` mode is to serve: one portal for each port of each Service.

A portal's port is told by its name, so that rules read the same after every start, and a listing in
one namespace can be laid beside another's; kube-proxy takes any that is free. Where two names ask
for one port, or somebody else has it, the next free one is taken, and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from zlib import crc32

import msgspec

from netlab.proxy.addresses import Family
from netlab.proxy.claims import Owner
from netlab.proxy.frontend import Frontend, Kind, ServicePort
from netlab.proxy.service import Served

# Below those that Linux gives to sockets itself (32768 on) and NodePorts (30000 on).
PORTS = range(10000, 30000)
NUMBER = {Family.IPV4: 4, Family.IPV6: 6}


class Portal(msgspec.Struct, frozen=True):
    """One port of a Service, as the process is told of it."""

    key: str
    family: int  # 4, 6
    protocol: str  # tcp, udp
    port: int
    endpoints: tuple[tuple[str, int], ...]
    affinity: int  # seconds


class Change(NamedTuple):
    """What a change of Services means to the process."""

    portals: tuple[Portal, ...] = ()
    gone: tuple[str, ...] = ()  # keys


def key(service: ServicePort) -> str:
    """Return what only one portal can have: `default/web:http/tcp`, `default/web:http/tcp/IPv6`."""
    name = f"{service.text}/{service.protocol.lower()}"
    return name if service.family is Family.IPV4 else f"{name}/{service.family}"


def usual(name: str) -> int:
    """Return the port of the portal with the key *name*, if it is free."""
    return PORTS[crc32(name.encode()) % len(PORTS)]


class Portals:
    """The portals of one node, kept as Services change; none before the first `take`."""

    def __init__(self, ports: Mapping[str, int] | None = None) -> None:
        """*ports*: those that a running process has, by key."""
        self._ports: dict[str, int] = dict(ports or {})
        self._services: dict[str, ServicePort] = {}
        self._keys: dict[Owner, tuple[str, ...]] = {}
        self._owners: dict[str, Owner] = {}
        self._taken: set[tuple[Family, str, int]] = set()

    @property
    def ports(self) -> Mapping[str, int]:
        """All ports, by key."""
        return self._ports

    def port(self, service: ServicePort) -> int:
        """Return the port that leads to *service*."""
        return self._ports[key(service)]

    def all(self) -> list[Portal]:
        """Return all there are, as the process is told of them."""
        return [self._portal(one) for one in self._services]

    def take(self, changed: Mapping[Owner, Served]) -> Change:
        """Take what the *changed* owners have now; return what that changes."""
        gone: list[str] = []
        new: dict[str, ServicePort] = {}
        for owner, served in changed.items():
            mine = _services(served.frontends)
            gone += [one for one in self._keys.pop(owner, ()) if one not in mine]
            if mine:
                self._keys[owner] = tuple(mine)
            for one in mine:
                self._owners[one] = owner
            new |= mine
        gone = [one for one in gone if one not in new]
        for one in gone:
            self._leave(one)
        told = [one for one, service in new.items() if self._services.get(one) != service]
        for one in told:
            self._services[one] = new[one]
            self._settle(one)
        return Change(tuple(map(self._portal, told)), tuple(gone))

    def moved(self, ports: Mapping[str, int]) -> set[Owner]:
        """Take the *ports* that the process has in truth; return whose rules must say so."""
        others = {one: port for one, port in ports.items() if self._ports.get(one) != port}
        for one, port in others.items():
            service = self._services[one]
            self._taken.discard((service.family, service.protocol, self._ports[one]))
            self._taken.add((service.family, service.protocol, port))
            self._ports[one] = port
        return {self._owners[one] for one in others}

    def _leave(self, name: str) -> None:
        service = self._services.pop(name)
        self._owners.pop(name)
        self._taken.discard((service.family, service.protocol, self._ports.pop(name)))

    def _settle(self, name: str) -> None:
        """Give a portal its port, unless it has one."""
        service = self._services[name]
        port = self._ports.get(name)
        if port is None:
            first = PORTS.index(usual(name))
            free = (PORTS[(first + step) % len(PORTS)] for step in range(len(PORTS)))
            port = next(
                (it for it in free if (service.family, service.protocol, it) not in self._taken),
                PORTS[first],  # all are taken: the process finds another
            )
        self._ports[name] = port
        self._taken.add((service.family, service.protocol, port))

    def _portal(self, name: str) -> Portal:
        service = self._services[name]
        ends = tuple((one.address, one.port) for one in service.cluster)
        number, protocol = NUMBER[service.family], service.protocol.lower()
        return Portal(name, number, protocol, self._ports[name], ends, service.affinity)


def _services(frontends: Iterable[Frontend]) -> dict[str, ServicePort]:
    return {key(one.service): one.service for one in frontends if one.kind is not Kind.HOST_PORT}
