"""Throw-away namespaces in which a proxy can be tried with the addresses of a real cluster.

    world (who has every address that no node serves; everybody's default route) ── eth0 ┐
    client outside ─────────────────────────────────────────────────────────────── eth0 ┤ fabric
    node `here` ── eth0 ── its bridge ── a pod that calls, the endpoints here           ┤
    node `there` ─ eth0 ── its bridge ── a pod that calls, the endpoints elsewhere ─────┘

1. No address is resolved: every neighbour is permanent, and gateways are addresses nobody has but
   in their neighbours' entries. So no first packet waits or is lost.
2. The endpoints of a node share one namespace, which has all their addresses: a cluster of a
   hundred pods costs as much as one of two.
3. Answers go back the way the calls came, by way of `here` for the client outside.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netlab import patience
from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.addresses import has_tentative
from netlab.kernel.real import RealKernel
from netlab.objects import Address, Bridge, Neighbor, Netns, Object, Route, Sysctl, Veth
from netlab.plan import Op, Verb, difference

UPLINK = "eth0"
PATIENCE = patience.seconds(10.0)  # seconds for what takes milliseconds
PAUSE = 0.002  # seconds
EVERYWHERE = {4: "default", 6: "::/0"}
BITS = {4: 32, 6: 128}
VERSIONS = (4, 6)

# Errors are not rationed: a refusal that was not sent would look like silence. IPv6 addresses are
# used without asking whether anybody has them. Root may send echo requests by sockets that hear
# what comes of them.
_SETTINGS = {
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.icmp_ratemask": "0",
    "net.ipv4.icmp_ratelimit": "0",
    "net.ipv4.ping_group_range": "0 0",
    "net.ipv6.icmp.ratelimit": "0",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.router_solicitations": "0",
}
_NODE_SETTINGS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}
_KERNEL = RealKernel()


class Host(NamedTuple):
    """One of the two nodes: its own addresses, those of its pods."""

    name: str
    addresses: tuple[str, ...]
    pod: tuple[str, ...]  # of the pod that calls
    endpoints: tuple[str, ...]  # of pods on it


class Stage(NamedTuple):
    """Names and addresses of all there is."""

    prefix: str
    here: Host
    there: Host
    served: tuple[str, ...]  # addresses of Services: the world's, if no node takes them
    client: tuple[str, ...]  # the addresses of the client outside
    bridge: str

    def netns(self, place: str) -> str:
        """Return the namespace of a place: here, here-pod, here-endpoints, there…, world, …"""
        return f"{self.prefix}.{place}"

    def bridge_address(self, place: str, number: int) -> str:
        """Return the address of a node's bridge, of IP version *number*."""
        own = _NUMBER[place]
        return f"172.31.{own}.1" if number == 4 else f"fd00:6e74:{own}::1"

    def own(self, place: str) -> set[str]:
        """Return all addresses of a node's."""
        host = self.here if place == "here" else self.there
        return {*host.addresses, *(self.bridge_address(place, one) for one in VERSIONS)}

    @property
    def outer(self) -> set[str]:
        """The Services' addresses that no node has."""
        return set(self.served) - self.own("here") - self.own("there")


_PLACES = ("here", "there", "world", "client")
_PODS = ("here-pod", "here-endpoints", "there-pod", "there-endpoints")
_NUMBER = {place: number for number, place in enumerate((*_PLACES, *_PODS), start=1)}
_NODES = ("here", "there")


@contextmanager
def built(stage: Stage) -> Iterator[None]:
    """Have the namespaces of *stage* for the duration. Raises KernelError."""
    objects = list(dict.fromkeys(_objects(stage)))
    names = sorted({one.netns for one in objects})
    try:
        _KERNEL.apply(difference(objects, ()))
        for place in _NUMBER:
            with netns.entered(stage.netns(place)):
                _wait_for_addresses()
        yield
    finally:
        _KERNEL.apply([Op(Verb.DELETE, Netns(name)) for name in names if netns.exists(name)])


def _wait_for_addresses() -> None:
    """Wait until the kernel has taken up every IPv6 address: a moment later, by a work queue.

    Until then nothing can be bound to it, and another one is the source of what is sent.
    Raises KernelError. Source: linux net/ipv6/addrconf.c, addrconf_dad_kick.
    """
    end = time.monotonic() + PATIENCE
    while has_tentative():
        if time.monotonic() > end:
            raise KernelError("an IPv6 address is still tentative")
        time.sleep(PAUSE)


def version(address: str) -> int:
    return 6 if ":" in address else 4


def _objects(stage: Stage) -> Iterator[Object]:
    fabric = stage.netns("fabric")
    yield Netns(fabric)
    yield Bridge(fabric, "fabric", "02:6e:6d:ff:00:00")
    for place in _NUMBER:
        name = stage.netns(place)
        yield Netns(name)
        for key, value in (_SETTINGS | (_NODE_SETTINGS if place in _NODES else {})).items():
            yield Sysctl(name, key, value)
    for place in _PLACES:
        yield _cable(stage, fabric, "fabric", place)
    for place, host in ((("here", stage.here)), ("there", stage.there)):
        yield from _node(stage, place, host)
        for kind, addresses in (("pod", host.pod), ("endpoints", host.endpoints)):
            pod = f"{place}-{kind}"
            yield _cable(stage, stage.netns(place), stage.bridge, pod)
            yield from _addresses(stage, pod, UPLINK, addresses)
            yield from _toward(stage, pod, place, EVERYWHERE.values(), mac=_mac(place, True))
    yield from _outer(stage)


def _node(stage: Stage, place: str, host: Host) -> Iterator[Object]:
    """Yield a node's bridge and addresses, and its ways to pods, the other node, the world."""
    name = stage.netns(place)
    yield Bridge(name, stage.bridge, _mac(place, True))
    yield from _addresses(stage, place, UPLINK, host.addresses)
    own = (stage.bridge_address(place, number) for number in VERSIONS)
    yield from _addresses(stage, place, stage.bridge, own)
    for kind, addresses in (("pod", host.pod), ("endpoints", host.endpoints)):
        for one in addresses:
            yield Route(name, _alone(one), stage.bridge)
            yield Neighbor(name, stage.bridge, one, _mac(f"{place}-{kind}"))
    other = "there" if place == "here" else "here"
    yield from _toward(stage, place, other, _behind(stage, other))
    yield from _toward(stage, place, "client" if place == "here" else "here", stage.client)
    yield from _toward(stage, place, "world", EVERYWHERE.values())


def _outer(stage: Stage) -> Iterator[Object]:
    yield from _addresses(stage, "client", UPLINK, stage.client)
    yield from _toward(stage, "client", "here", EVERYWHERE.values())
    yield from _addresses(stage, "world", UPLINK, sorted(stage.outer))
    for place in _NODES:
        yield from _toward(stage, "world", place, _behind(stage, place))
    yield from _toward(stage, "world", "here", stage.client)


def _behind(stage: Stage, place: str) -> list[str]:
    """Return all addresses of a node and of its pods."""
    host = stage.here if place == "here" else stage.there
    return [*sorted(stage.own(place)), *host.pod, *host.endpoints]


def _addresses(stage: Stage, place: str, link: str, addresses: Iterable[str]) -> Iterator[Address]:
    for one in addresses:
        yield Address(stage.netns(place), link, _alone(one))


def _toward(
    stage: Stage, place: str, via: str, to: Collection[str], *, mac: str = ""
) -> Iterator[Object]:
    """Yield routes of *place* by the card of *via* on the same segment: its *mac*, or its eth0."""
    name, number = stage.netns(place), _NUMBER[via]
    gateways = {4: f"169.254.77.{number}", 6: f"fe80::6e6d:{number}"}
    for version_, gateway in gateways.items():
        yield Neighbor(name, UPLINK, gateway, mac or _mac(via))
        for one in to:
            if one in EVERYWHERE.values():
                if one == EVERYWHERE[version_]:
                    yield Route(name, one, UPLINK, gateway, onlink=True)
            elif version(one) == version_:
                yield Route(name, _alone(one), UPLINK, gateway, onlink=True)


def _cable(stage: Stage, netns_: str, bridge: str, place: str) -> Veth:
    """Return the cable from a port of *bridge* to eth0 of *place*."""
    number = _NUMBER[place]
    port = (f"port{number}", f"06:6e:6d:00:00:{number:02x}")
    return Veth(netns_, *port, stage.netns(place), UPLINK, _mac(place), bridge=bridge, hairpin=True)


def _mac(place: str, bridge: bool = False) -> str:
    return f"02:6e:6d:00:0{int(bridge)}:{_NUMBER[place]:02x}"


def _alone(address: str) -> str:
    return f"{address}/{BITS[version(address)]}"
