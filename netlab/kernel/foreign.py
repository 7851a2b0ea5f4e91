"""A network namespace that netlab did not make: whether it still is the one, what is in it."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from pathlib import Path
from typing import NamedTuple

from netlab.errors import KernelError
from netlab.kernel import lookup, netns
from netlab.processes.own import start_time

FAR = "203.0.113.1"  # what only a default route leads to: TEST-NET-3, RFC 5737
_NOBODY = "0" * 32  # ::
_PROCESS = re.compile(r"/proc/(\d+)/")


class Inside(NamedTuple):
    """What is in a namespace that a cable to it might meet."""

    links: frozenset[str]
    default: str  # `via 172.17.0.1 dev eth0`, "" without a default route
    default6: str  # that of IPv6


def process(name: str) -> int | None:
    """Return the process that a path in /proc is of, None for a name or another path."""
    found = _PROCESS.match(name)
    return int(found[1]) if found else None


def born(name: str) -> int:
    """Return when the process that *name* is a path of had started, in clock ticks since boot;
    0: it is of no process. Raises KernelError when that process is gone."""
    pid = process(name)
    if pid is None:
        return 0
    if (found := start_time(pid)) is None:
        raise KernelError(f"{name}: there is no process {pid}")
    return found


def require(name: str, *, since: int) -> None:
    """Raise KernelError unless *name* is a namespace, and of the process that started at *since*
    if it is of one, and another than the one this process began in."""
    if since and born(name) != since:
        raise KernelError(f"{name}: process {process(name)} is another one by now")
    if not netns.exists(name):
        raise KernelError(f"{name}: no such network namespace")
    if netns.identity(name) == netns.identity("/proc/self/ns/net"):
        raise KernelError(f"{name}: it is the network namespace that netlab itself runs in")


def inside(name: str) -> Inside:
    """Return what is in the namespace *name*. Raises KernelError, CapabilityError."""
    with netns.entered(name):
        every = lookup.interfaces()
        found = lookup.route(FAR)
        default6 = _default6(Path("/proc/thread-self/net/ipv6_route"))
    if found.refused or found.prefix != "default":
        return Inside(frozenset(every), "", default6)
    device = next((link.name for link in every.values() if link.ifindex == found.device), "")
    via = f"via {found.gateway} " if found.gateway else ""
    return Inside(frozenset(every), f"{via}dev {device}", default6)


def _default6(table: Path) -> str:
    """Return the default route that *table*, the kernel's list of IPv6 routes, has, in words.

    Each line: destination, its length, source, its length, gateway, metric, two counters, flags,
    device; numbers are hexadecimal. The kernel's own, which refuses, has the last of metrics.
    """
    for line in table.read_text().splitlines() if table.exists() else ():
        to, length, _, _, gateway, metric, *_, device = line.split()
        if to == _NOBODY and length == "00" and metric != "ffffffff":
            via = "" if gateway == _NOBODY else f"via {IPv6Address(bytes.fromhex(gateway))} "
            return f"{via}dev {device}"
    return ""
