"""What checks read of a node's kernel, and of its processes: on whichever machine the node is.

Each reading is called in the node's network namespace, with words that JSON has, and returns such.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from netlab import objects
from netlab.agent.kubeproxy import KERNEL
from netlab.encapsulation import control as encapsulation
from netlab.errors import CapabilityError, NetlabError
from netlab.kernel import conntrack, ipvs, tun
from netlab.kernel.generation import generation
from netlab.kernel.ipvs_connections import connections
from netlab.kernel.netns import entered, exists
from netlab.kernel.real import RealKernel
from netlab.model.backends import UDP
from netlab.packets import Flow, Protocol
from netlab.portals import control
from netlab.proxy import Mode
from netlab.proxy.addresses import Family


def read(netns: str, what: str, **words: Any) -> Any:
    """Return the reading *what* of the namespace *netns*. Raises NetlabError for an unknown one."""
    if what not in READINGS:
        raise NetlabError(f"this version of netlab does not know how to read {what}")
    with entered(netns):
        return READINGS[what](**words)


def named(address: str, mode: str, known: tuple[int, bool] | None = None) -> tuple[int, bool]:
    """Return the number of the rules' last change, and whether one of the proxy names *address*.

    *known*: what was returned before: only rules that have changed since are read again.
    """
    counted = mode not in (Mode.USERSPACE, Mode.IPVS)  # else what changes is no rule, or not alone
    now = generation()
    if counted and known is not None and known[0] == now:
        return now, known[1]
    whole = re.compile(rf"(?<![\d.]){re.escape(address)}(?![\d.])")
    lines = programmed(Mode(mode))
    return now, any(address in line and whole.search(line) is not None for line in lines)


def programmed(mode: Mode) -> Iterator[str]:
    """Yield what a node's proxy has programmed, in the calling thread's namespace: every line.

    In userspace mode, the endpoints that its process knows, which no rule does.
    """
    if mode is Mode.USERSPACE:
        for portal in control.portals():
            yield from (f"{portal.key} {address}:{port}" for address, port in portal.endpoints)
        return
    for one in KERNEL[mode].read([Family.IPV4]).values():
        yield from (one.name, *one.lines)


def remembered(address: str) -> list[tuple[str, int, str]]:
    """Return the UDP flows that conntrack leads to *address*: what the kernel knows each entry by,
    and the flow in words."""
    return [
        (entry.key.hex(), entry.id, f"{entry.original}, forgotten in {entry.timeout} s")
        for entry in conntrack.entries(Family.IPV4, Protocol.UDP, of=address)
        if entry.redirected and entry.reply.source == address
    ]


def portals() -> dict[str, int]:
    """Return the ports of the proxy's process in userspace mode, by Service."""
    return control.ports()


def relayed(source: tuple[str, int], protocol: str) -> list[dict[str, Any]]:
    """Return what that process says it did with the flows from *source*, as `control.Relayed`."""
    return [msgspec.to_builtins(one) for one in control.flows_of((*source,), protocol)]


def virtual(flow: dict[str, Any], bare: str) -> tuple[list[tuple[str, str]], bool]:
    """Return, of what ip_vs remembers of *flow*, each virtual server and the words for what it did;
    and whether the one called *bare* is here and has no real ones."""
    found = [
        (one.server, f"-s {one.scheduler} -r {one.real} -m")
        for one in connections([msgspec.convert(flow, Flow)])
    ]
    return found, any(one.name == bare and not one.reals for one in ipvs.servers())


def reached() -> dict[str, str]:
    """Return what the process of flannel's udp back end knows: the node of each prefix."""
    return encapsulation.reached() or {}


def held(things: list[tuple[str, dict[str, Any]]]) -> list[int]:
    """Return which of *things* the kernel holds, by their place in the list; each is the name of
    its class in `objects` and its fields, all of one namespace."""
    wanted = [msgspec.convert(fields, getattr(objects, name)) for name, fields in things]
    here = set(RealKernel().observe(wanted[0].netns, wanted)) if wanted else set()
    return [index for index, one in enumerate(wanted) if one in here]


def lacking(mode: str, backend: str) -> str:
    """Return why this machine cannot have a proxy *mode* or *backend*, "" when it can."""
    try:
        if mode == Mode.IPVS:
            ipvs.require()
        if backend == UDP:
            tun.require()
    except CapabilityError as error:
        return str(error)
    return ""


READINGS: dict[str, Callable[..., Any]] = {
    "named": named,
    "remembered": remembered,
    "portals": portals,
    "relayed": relayed,
    "virtual": virtual,
    "lacking": lacking,
    "reached": reached,
    "held": held,
    "exists": exists,
}
