"""A kernel of dictionaries for tests of the loops: what depends on what is as in the real one.

A link goes with everything on it, a veth with both its ends, a namespace with its cables; a bridge
leaves its ports behind. What cannot be made is refused in the real kernel's words. Beyond the
protocol, `lose()` is somebody meddling, `block()` somebody else's link.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from netlab.errors import KernelError
from netlab.kernel import listing
from netlab.kernel.refusals import refusal
from netlab.kernel.rules import RULES
from netlab.objects import (
    Address,
    Bridge,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netem,
    Netns,
    Object,
    Route,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)
from netlab.plan import Op, Verb
from netlab.plan.order import sysctl_link

Key = tuple[Any, ...]


class FakeKernel:
    """The protocol `Kernel` over one dictionary of objects."""

    def __init__(self) -> None:
        self.announced: list[Address] = []
        self._things: dict[Key, Object] = {}
        self._foreign: set[tuple[str, str]] = set()
        self._watches: list[FakeWatch] = []
        self._lock = threading.RLock()

    def observe(self, netns: str, desired: Collection[Object]) -> list[Object]:
        wanted = {thing.key for thing in desired}
        with self._lock:
            if not self._has_netns(netns):
                return []
            here = [thing for thing in self._things.values() if thing.netns == netns]
        return [thing for thing in here if _is_reported(thing, wanted)]

    def apply(self, ops: Sequence[Op]) -> None:
        failures: list[KernelError] = []
        with self._lock:
            for op in ops:
                try:
                    self._do(op)
                except KernelError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    def announce(self, address: Address) -> None:
        self.announced.append(address)

    def namespaces(self, lab: str) -> list[str]:
        with self._lock:
            names = [thing.netns for thing in self._things.values() if type(thing) is Netns]
        return sorted(name for name in names if name.startswith(f"{lab}."))

    def watch(self, netns: str) -> FakeWatch:
        with self._lock:
            if not self._has_netns(netns):
                raise KernelError(f"{netns}: no such network namespace")
            watch = FakeWatch(netns)
            self._watches = [each for each in self._watches if not each.closed] + [watch]
            return watch

    def lose(self, thing: Object) -> None:
        """Take an object away as somebody else would, with all that goes with it."""
        with self._lock:
            self._remove(self._things[thing.key])

    def block(self, netns: str, link: str) -> None:
        """Put a link there that is not netlab's."""
        with self._lock:
            self._foreign.add((netns, link))

    def _has_netns(self, name: str) -> bool:
        return Netns(name).key in self._things

    def _do(self, op: Op) -> None:
        thing = op.object
        if type(thing) is not Netns and not self._has_netns(thing.netns):
            if op.verb is Verb.DELETE:
                return
            raise refusal(op, f"{thing.netns}: no such network namespace")
        if op.verb is Verb.DELETE:
            present = self._things.get(thing.key)
            if present is not None:
                self._check_unused(op)
                self._remove(present)
            return
        if op.verb is Verb.ADD:
            self._check_free(op)
        self._check_needs(op)
        before = self._things.get(thing.key)
        self._things[thing.key] = thing
        if before is not None and getattr(thing, "mac", "") != getattr(before, "mac", ""):
            self._forget_neighbors(thing.netns, getattr(thing, "name", ""))
        self._tell(thing)

    def _check_free(self, op: Op) -> None:
        thing = op.object
        taken = set(self._links(thing.netns))
        if isinstance(thing, Bridge | Veth | Vxlan | Tun):
            far = isinstance(thing, Veth) and thing.peer_name in self._links(thing.peer_netns)
            if thing.name in taken or far:
                raise refusal(op, "file exists", number=errno.EEXIST)
        elif isinstance(thing, Address | Route) and thing.key in self._things:
            raise refusal(op, "file exists", number=errno.EEXIST)

    def _check_needs(self, op: Op) -> None:
        thing = op.object
        for link in _needed_links(thing):
            if link not in self._links(thing.netns):
                raise refusal(op, f"no link {link}", number=errno.ENODEV)
        if isinstance(thing, Veth) and not self._has_netns(thing.peer_netns):
            raise refusal(op, f"{thing.peer_netns}: no such network namespace")
        if isinstance(thing, IptablesJump):
            name = listing.target(thing.rule)
            chain = IptablesChain(thing.netns, thing.table, name, ())
            if listing.is_ours(name) and chain.key not in self._things:
                raise refusal(op, f"no chain {name}", number=errno.ENOENT)

    def _check_unused(self, op: Op) -> None:
        chain = op.object
        if isinstance(chain, IptablesChain):
            for other in self._things.values():
                same = isinstance(other, IptablesJump) and other.netns == chain.netns
                if same and listing.target(other.rule) == chain.name:  # type: ignore[attr-defined]
                    raise refusal(op, "device or resource busy", number=errno.EBUSY)

    # Names of all links in a namespace, far ends of cables from elsewhere included.
    def _links(self, netns: str) -> Iterator[str]:
        yield "lo"
        for there, name in self._foreign:
            if there == netns:
                yield name
        for thing in self._things.values():
            if isinstance(thing, Bridge | Veth | Vxlan | Tun) and thing.netns == netns:
                yield thing.name
            if isinstance(thing, Veth) and thing.peer_netns == netns:
                yield thing.peer_name

    def _remove(self, thing: Object) -> None:
        self._tell(thing)
        self._things.pop(thing.key, None)
        if isinstance(thing, Netns):
            for other in list(self._things.values()):
                cable = isinstance(other, Veth) and other.peer_netns == thing.netns
                if cable or other.netns == thing.netns:
                    self._remove(other)
            self._foreign = {place for place in self._foreign if place[0] != thing.netns}
        if isinstance(thing, Bridge | Veth | Vxlan | Tun):
            self._clear(thing.netns, thing.name)
        if isinstance(thing, Veth):
            self._clear(thing.peer_netns, thing.peer_name)

    # What hangs on a link that is no more.
    def _clear(self, netns: str, link: str) -> None:
        for other in list(self._things.values()):
            if other.netns != netns:
                continue
            if isinstance(other, Veth) and other.bridge == link:
                self._things[other.key] = replace(other, bridge=None, hairpin=False)
            elif link in _needed_links(other):
                self._remove(other)

    def _forget_neighbors(self, netns: str, link: str) -> None:
        for other in list(self._things.values()):
            if isinstance(other, Neighbor) and (other.netns, other.link) == (netns, link):
                self._remove(other)

    def _tell(self, thing: Object) -> None:
        for watch in self._watches:
            if watch.netns == thing.netns:
                watch.notice("rules" if isinstance(thing, RULES) else "self")
            elif any(
                isinstance(cable, Veth)
                and (cable.netns, cable.peer_netns) == (watch.netns, thing.netns)
                for cable in (*self._things.values(), thing)
            ):
                watch.notice("pods")


def _needed_links(thing: Object) -> list[str]:
    if isinstance(thing, Address | Route | Neighbor | FdbEntry | Netem):
        return [thing.link]
    if isinstance(thing, Vxlan):
        return [thing.device]
    if isinstance(thing, Veth) and thing.bridge:
        return [thing.bridge]
    if isinstance(thing, Sysctl):
        link = sysctl_link(thing.name)
        return [link] if link else []
    return []


def _is_reported(thing: Object, wanted: Collection[Key]) -> bool:
    if isinstance(thing, Netns):
        return not wanted or thing.key in wanted
    return not isinstance(thing, Sysctl) or thing.key in wanted


class FakeWatch:
    """The protocol `Watch` over an eventfd."""

    def __init__(self, netns: str) -> None:
        self.netns = netns
        self.closed = False
        self._found: set[str] = set()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._event

    def notice(self, what: str) -> None:
        if not self.closed:
            self._found.add(what)
            os.eventfd_write(self._event, 1)

    def drain(self) -> set[str]:
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            pass
        found, self._found = self._found, set()
        return found

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self._event)
