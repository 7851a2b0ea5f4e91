"""A case's `given` as namespaces: nodes, the pods on them, and one namespace that is the world.

    outside (any other host, and everybody's default route) ── eth0 ┐
    node ── eth0 (the node's addresses) ──────────────────── fabric ┤
    other node ── eth0 ─────────────────────────────────────────────┘
    nodes among each other, for their pods' packets: overlay ── a second bridge in the fabric
    pods of a node ── their eth0 ── ports of its bridge cbr0

Each of a node's links has another address, so that a masquerade shows by which it left, also when
the client was the node itself.
"""

from __future__ import annotations

import ipaddress
import itertools
from typing import Any, NamedTuple

from flow_cases import steps

from netlab.proxy.addresses import address

Words = dict[str, Any]

OUTSIDE = "outside"
BRIDGE, UPLINK, OVERLAY = "cbr0", "eth0", "overlay"
ON_LINK = {4: 24, 6: 64}  # bits of the network that a node's first address of a family is in


class Place(NamedTuple):
    """One namespace: a node, a pod, or the world outside."""

    name: str  # test-node, 10.180.0.1, outside
    netns: str
    number: int  # its own among the places of a topology, from 1
    node: str  # the node itself, or the one a pod is on; "" for the world
    addresses: tuple[str, ...]

    @property
    def is_node(self) -> bool:
        return self.name == self.node

    @property
    def is_pod(self) -> bool:
        return not self.is_node and self.name != OUTSIDE

    def mac(self, link: str) -> str:
        """Return the MAC of one of its links."""
        return f"02:6e:74:00:{self.number:02x}:{(UPLINK, OVERLAY, BRIDGE).index(link):02x}"

    def own(self, link: str, version: int) -> str:
        """Return the address of a node's bridge or overlay, which what leaves by it gets."""
        if link == BRIDGE:
            return f"172.16.{self.number}.1" if version == 4 else f"fd01:{self.number:x}::1"
        return f"172.17.0.{self.number}" if version == 4 else f"fd02::{self.number:x}"


class Topology(NamedTuple):
    """The places of one case, by name."""

    tested: str  # the node under test
    places: dict[str, Place]

    @property
    def nodes(self) -> list[Place]:
        return [place for place in self.places.values() if place.is_node]

    @property
    def pods(self) -> list[Place]:
        return [place for place in self.places.values() if place.is_pod]

    @property
    def outside(self) -> Place:
        return self.places[OUTSIDE]

    def at(self, one: str) -> Place | None:
        """Return the place that has the address *one*."""
        return next((place for place in self.places.values() if one in place.addresses), None)

    def masquerade(self, node: str, endpoint: str) -> str:
        """Return the address that *node* has where its packets to *endpoint* leave it."""
        goal, here = self.at(endpoint), self.places[node]
        assert goal is not None, f"{endpoint} is nowhere"
        if goal.is_pod:
            return here.own(BRIDGE if goal.node == node else OVERLAY, version(endpoint))
        ours = [one for one in here.addresses if version(one) == version(endpoint)]
        return next((one for one in ours if on_one_link(one, endpoint)), ours[0])


def topology(case: Words, prefix: str) -> Topology:
    """Return the namespaces that all steps of *case* need, their names begun with *prefix*."""
    given = case["given"]
    numbers = itertools.count(1)
    nodes = {
        one["name"]: tuple(address(ip) for ip in (*one["ips"], *one.get("also_owns", ())))
        for one in given["nodes"]
    }
    places: dict[str, Place] = {}

    def add(name: str, node: str, addresses: tuple[str, ...]) -> None:
        number = next(numbers)
        places[name] = Place(name, f"{prefix}.{number}", number, node, addresses)

    for name, ips in nodes.items():
        add(name, name, ips)
    for ip, node in sorted(_pods(case, nodes).items()):
        add(ip, node, (ip,))
    add(OUTSIDE, "", tuple(sorted(_clients(case))))
    return Topology(given["proxy"]["node"], places)


def _pods(case: Words, nodes: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the node of each pod's address. Who has no node is on one that is not tested."""
    tested = case["given"]["proxy"]["node"]
    elsewhere = next(name for name in nodes if name != tested)
    taken = {ip for ips in nodes.values() for ip in ips}
    found: dict[str, str] = {}

    def take(ip: str, node: str | None) -> None:
        one, on = address(ip), node or elsewhere
        if one not in taken and found.setdefault(one, on) != on:
            raise ValueError(f"{case['id']}: {one} is on {found[one]} and on {on}")

    for given, flows in steps(case):
        for endpoints in given["endpoints"].values():
            for one in endpoints:
                take(one["ip"], one["node"])
        for pod in given.get("hostports", ()):
            take(pod["pod"], pod["node"])
        for flow in flows:
            if flow["from"]["kind"] == "pod":
                take(flow["from"]["ip"], flow["from"]["node"])
    for _, flows in steps(case):
        for flow in flows:
            if "direct_to" in flow and (goal := host(flow["direct_to"])) not in found:
                take(goal, None)
    return found


def _clients(case: Words) -> set[str]:
    """Return the addresses of hosts that are no nodes."""
    origins = [flow["from"] for _, flows in steps(case) for flow in flows]
    return {address(one["ip"]) for one in origins if one["kind"] == "external"}


def host(words: str) -> str:
    """Return the address in `10.180.0.1:80`, `[fd00::1]:80/tcp`."""
    return address(words.partition("/")[0].rpartition(":")[0].strip("[]"))


def version(ip: str) -> int:
    return 6 if ":" in ip else 4


def on_one_link(one: str, other: str) -> bool:
    """Return whether *other* is in the network that *one*, a node's, is in."""
    if version(one) != version(other):
        return False
    network = ipaddress.ip_interface(f"{one}/{ON_LINK[version(one)]}").network
    return ipaddress.ip_address(other) in network
