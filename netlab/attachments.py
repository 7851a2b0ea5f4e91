"""Foreign namespaces in a lab's underlay: where one may be plugged in, and what that makes there.

1. The cable is a port of the bridge of the address' segment, `ext_NAME`; no node can be called so.
   Its far end, the address and the routes are all there is in the foreign namespace: they go with
   the cable, and nothing else of it is changed.
2. It is compared apart from the world around the nodes: a namespace that has gone, or has a card of
   that name by now, is its own trouble and keeps nothing else from being made.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from msgspec.structs import replace

from netlab import world
from netlab.errors import UsageError
from netlab.model.attachments import Attachment
from netlab.model.lab import Lab
from netlab.objects import Neighbor, Object, Route, Veth
from netlab.topology import values

DIRECTORIES = ("/run/netns/", "/var/run/netns/")  # of names; the second leads to the first
PORT = "ext_"  # how the underlay's ports for them begin: no label has such a character


def named(word: str) -> str:
    """Return how the namespace that *word* means is called: by its name, if it has one."""
    if "/" not in word:
        return word
    path = os.path.normpath(word)
    for directory in DIRECTORIES:
        if path.startswith(directory) and "/" not in path.removeprefix(directory):
            return path.removeprefix(directory)
    return path


def port_name(netns: str) -> str:
    """Return the device name of a foreign namespace's port in the underlay, `ext_box`."""
    parts = netns.split("/")
    plain = parts[2] if netns.startswith("/proc/") and len(parts) > 3 else parts[-1]
    return world.device_name(PORT + plain, prefix=PORT)


def objects(lab: Lab, one: Attachment) -> list[Object]:
    """Return the cable of *one*, and in its namespace the address and routes of a machine.

    Its neighbours have no places of their own there: the namespace is not netlab's to fill.
    """
    underlay = lab.netns(world.UNDERLAY)
    cable = Veth(
        underlay,
        port_name(one.netns),
        world.mac(lab.name, world.UNDERLAY, one.netns),
        one.netns,
        one.device,
        world.mac(lab.name, one.netns, one.device),
        mtu=lab.underlay.mtu,
        bridge=world.bridge_name(lab.segment_of(one.address)),
    )
    addressing = [
        replace(thing, link=one.device)
        for thing in world.machine_addressing(lab, one.netns, *one.addresses)
        if not isinstance(thing, Neighbor)
    ]
    return [cable, *(thing for thing in addressing if one.default_route or not _default(thing))]


def _default(thing: Object) -> bool:
    return isinstance(thing, Route) and thing.destination in ("default", "::/0")


def others(lab: Lab, observed: Iterable[Object]) -> list[Object]:
    """Return what of *observed* is no port of an attached namespace: the world's own business."""
    ports = {("Link", lab.netns(world.UNDERLAY), port_name(one.netns)) for one in lab.attached}
    return [thing for thing in observed if thing.key not in ports]


def require_room(lab: Lab, new: Attachment) -> None:
    """Raise UsageError unless *new* can be plugged into *lab*: its address, and that it is new."""
    if wrong := values.address(new.address):
        raise UsageError(f"--address: {wrong}")
    if wrong := values.interface_name(new.device):
        raise UsageError(f"--device: {wrong}")
    for held in lab.attached:
        if held.netns == new.netns:
            raise UsageError(f"{held.words} already", hint=held.undo)
    address = IPv4Address(new.address)
    segments = [IPv4Network(segment.cidr) for segment in lab.underlay.segments]
    home = next((net for net in segments if address in net), None)
    if home is None:
        several = "s" if segments[1:] else ""
        within = ", ".join(map(str, segments))
        raise UsageError(f"{address} is outside the underlay segment{several} {within}")
    if wrong := values.host_in(address, home):
        raise UsageError(f"--address: {wrong}")
    if holder := holders(lab).get(new.address):
        raise UsageError(f"{address} is used: it is {holder}", hint=_free(lab, home))
    if lab.balancer is not None and lab.balancer.holds(new.address):
        raise UsageError(f"{address} is in the balancer's pool", hint=_free(lab, home))
    if new.address6:
        _require_room6(lab, new)


def _require_room6(lab: Lab, new: Attachment) -> None:
    """Raise UsageError unless the IPv6 address of *new* has its place in *lab*."""
    if wrong := values.address6(new.address6):
        raise UsageError(f"--address6: {wrong}")
    if not lab.dual:
        raise UsageError(
            f"--address6: lab {lab.name} has no IPv6 underlay", hint="network: {EnableIPv6: true}"
        )
    segment = lab.segment_of(new.address)
    home = IPv6Network(segment.cidr6)
    if IPv6Address(new.address6) not in home:
        raise UsageError(f"{new.address6} is outside {home}, the segment of {new.address}")
    if wrong := values.host_in(IPv6Address(new.address6), home):
        raise UsageError(f"--address6: {wrong}")
    if holder := holders(lab).get(new.address6):
        raise UsageError(f"{new.address6} is used: it is {holder}")


def holders(lab: Lab) -> dict[str, str]:
    """Return whose each address of the underlay is: `that of node n1`. The pool's are not here."""
    machines = [
        *((one.routers, f"that of the router of {one.name}") for one in lab.underlay.segments),
        (lab.gateway.addresses, "the gateway's"),
        (lab.master.addresses, "the master's"),
        *([((lab.balancer.address,), "the balancer's")] if lab.balancer is not None else []),
        *((node.addresses, f"that of node {node.name}") for node in lab.nodes),
        *((one.addresses, f"that of namespace {one.netns}") for one in lab.attached),
    ]
    return {address: whose for addresses, whose in machines for address in addresses}


def free_address(lab: Lab, home: IPv4Network) -> str:
    """Return the first address of segment *home* that nobody has, "" when all are taken."""
    taken, balancer = holders(lab), lab.balancer
    for host in map(str, home.hosts()):
        if host not in taken and not (balancer is not None and balancer.holds(host)):
            return host
    return ""


def _free(lab: Lab, home: IPv4Network) -> str:
    found = free_address(lab, home)
    return f"{found} is free" if found else f"no address of {home} is free"


def carried(lab: Lab, running: Lab | None) -> Lab:
    """Return *lab*, as files declare it, with what is attached to the *running* lab.

    Raises UsageError where the files leave no room for one of them.
    """
    for one in running.attached if running is not None else ():
        try:
            require_room(lab, one)
        except UsageError as error:
            words = f"{one.words}, which the files leave no room for: {error.message}"
            raise UsageError(words, hint=f"{one.undo}, or another address") from error
        lab = replace(lab, attached=(*lab.attached, one))
    return lab
