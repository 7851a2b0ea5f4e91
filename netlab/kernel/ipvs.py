"""What ipvs mode has beside iptables' rules: virtual servers, sets, and a device for addresses.

In the namespace the calling thread is in; ip_vs keeps all of it per namespace.

1. Read is what the kernel lists, each time: nobody counts these changes as nftables counts its own.
   Netlink is asked once for each virtual server's real ones. One file lists them all, but where
   several namespaces have any, it leaves some out behind its first page: ip_vs_info_seq_next()
   counts others', too. So the file is read, and only those that it lacks are asked for.
2. A real server that is taken away while it has connections gets no new ones (weight 0) and goes
   when they have ended: that it is ending is written on itself and remembered nowhere. Those of UDP
   go at once, as upstream: what still comes is sent to another. So do those that `dh` chooses: it
   chooses them also when they are ending, and then refuses.
3. The device is made first and goes last, so it tells whether anything may be there.

Source: kubernetes pkg/proxy/ipvs/proxier.go and graceful_termination.go, v1.33.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from netlab.errors import CapabilityError, KernelError, NetlabError
from netlab.kernel import ipset, ipvs_messages, links, netlink, routes
from netlab.kernel.ipvs_messages import (
    DELETE_DEST,
    DELETE_SERVICE,
    NEW_DEST,
    NEW_SERVICE,
    SET_DEST,
    SET_SERVICE,
)
from netlab.objects import Address
from netlab.proxy import ipvs_text
from netlab.proxy.addresses import Family
from netlab.proxy.ipvs_frame import DEVICE, LINK
from netlab.proxy.ipvs_text import Real, Server
from netlab.proxy.ruleset import Block, Key, Sort, Step

LISTING = Path("/proc/thread-self/net/ip_vs")
SETS_LOADED = "/sys/module/ip_set"
_NUMBER = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


def require() -> None:
    """Raise CapabilityError unless this kernel can all that ipvs mode needs."""
    opened = netlink.Socket(netlink.GENERIC)
    try:
        ipvs_messages.family_id(opened)
    finally:
        opened.close()
    if why := ipset.lacking():
        raise CapabilityError(f"this kernel has no ipsets: {why}", hint=ipset.HINT)


def servers() -> list[Server]:
    """Return the virtual servers that are here, whoever made them; none without ip_vs."""
    if not LISTING.exists():
        return []
    opened = netlink.Socket(netlink.GENERIC)
    try:
        kind = ipvs_messages.family_id(opened)
        bodies = opened.dump(kind, ipvs_messages.every_service())
        heads = [server for one in bodies if (server := ipvs_messages.server(one))]
        listed = ipvs_text.reals(LISTING.read_text())
        for head in heads:
            if head.name not in listed:
                listed[head.name] = _reals(opened, kind, head.name)
        return [head._replace(reals=listed[head.name]) for head in heads]
    finally:
        opened.close()


def _reals(opened: netlink.Socket, kind: int, name: str) -> tuple[Real, ...]:
    """Return the real servers of the virtual server *name*; none if it is gone."""
    try:
        bodies = opened.dump(kind, ipvs_messages.reals_of(name))
    except netlink.NetlinkError:
        return ()
    return tuple(ipvs_messages.real(one) for one in bodies)


def device() -> int | None:
    """Return the index of the device for addresses, None if it is not there."""
    try:
        return socket.if_nametoindex(DEVICE)
    except OSError:
        return None


def local_addresses() -> frozenset[str]:
    """Return the addresses of all links but that device."""
    index = device()
    opened = netlink.Socket()
    try:
        bodies = opened.dump(routes.GET_ADDRESS, routes.addresses_body(socket.AF_UNSPEC))
    finally:
        opened.close()
    theirs = (body for body in bodies if routes.link_of(body) != index)
    return frozenset(routes.address(body)[1].partition("/")[0] for body in theirs)


def read(families: Iterable[Family]) -> dict[Key, Block]:
    """Return what a kube-proxy in ipvs mode made here, and all virtual servers there are.

    Raises KernelError.
    """
    wanted = frozenset(families)
    found = ipset.read()
    index = device()
    if index is not None:
        for family in wanted:
            if lines := tuple(_bound(index, family)):
                block = Block(family, Sort.ADDRESSES, LINK, DEVICE, (), lines)
                found[block.key] = block
    for server in servers():
        block = server.block
        found[block.key] = block
    return {key: block for key, block in found.items() if key[0] in wanted}


def left(families: Iterable[Family]) -> dict[Key, Block]:
    """Return the same where a kube-proxy in ipvs mode was; nothing where only others use ip_vs."""
    index = device()
    if index is None and not os.path.isdir(SETS_LOADED):
        return {}
    found = read(families)
    if index is not None:
        device_alone = Block(Family.IPV4, Sort.ADDRESSES, LINK, DEVICE)
        found.setdefault(device_alone.key, device_alone)
    if not any(one.sort is not Sort.SERVER for one in found.values()):
        return {}
    return found


def _bound(index: int, family: Family) -> Iterator[str]:
    opened = netlink.Socket()
    try:
        body = routes.addresses_body(_NUMBER[family])
        bodies = opened.dump(routes.GET_ADDRESS, body)
    finally:
        opened.close()
    for one in bodies:
        link, words, _ = routes.address(one)
        if link == index and not words.startswith("fe80:"):
            yield words


def write(steps: Sequence[Step]) -> None:
    """Make the *steps* true. Raises KernelError, CapabilityError."""
    make(steps)
    unmake(steps)


def make(steps: Sequence[Step]) -> None:
    """Make what *steps* add or change. Raises KernelError, CapabilityError."""
    sorted_ = _by_sort(steps)
    if not sorted_:
        return
    if any(step.new and not step.old for step in steps):
        require()
    _bind(sorted_.get(Sort.ADDRESSES, []), device_only=True)
    ipset.make(sorted_.get(Sort.IPSET, []))
    _serve(sorted_.get(Sort.SERVER, []))
    _bind(sorted_.get(Sort.ADDRESSES, []))


def unmake(steps: Sequence[Step]) -> None:
    """Remove what *steps* take away; a real server with connections is but to end.

    Raises KernelError.
    """
    sorted_ = _by_sort(steps)
    _unbind(sorted_.get(Sort.ADDRESSES, []))
    _unserve(sorted_.get(Sort.SERVER, []))
    ipset.unmake(sorted_.get(Sort.IPSET, []))
    if any(step.new is None for step in sorted_.get(Sort.ADDRESSES, [])):
        _delete_device()


def _by_sort(steps: Sequence[Step]) -> dict[Sort, list[Step]]:
    found: dict[Sort, list[Step]] = {}
    for step in steps:
        found.setdefault(step.block.sort, []).append(step)
    return found


# ------------------------------------------------------------------------------------ servers


def _serve(steps: Sequence[Step]) -> None:
    todo: list[tuple[int, str, str]] = []  # command, server, line
    blocks: dict[str, Block] = {}
    for new, old in steps:
        if new is None:
            continue
        blocks[new.name] = new
        if old is None or old.head != new.head:
            todo.append((NEW_SERVICE if old is None else SET_SERVICE, new.name, ""))
        had = frozenset(old.lines) if old else frozenset()
        changed = {line.split(" ")[1] for line in had}
        for line in new.lines:
            if line not in had:
                known = line.split(" ")[1] in changed
                todo.append((SET_DEST if known else NEW_DEST, new.name, line))
    again = [
        (SET_DEST if command == NEW_DEST else SET_SERVICE, name, line)
        for command, name, line in _sent(todo, blocks, beside=errno.EEXIST)
    ]
    if again:  # real servers that were ending, mostly
        _sent(again, blocks)


def _unserve(steps: Sequence[Step]) -> None:
    todo: list[tuple[int, str, str]] = []
    blocks: dict[str, Block] = {}
    taken = [(new, old) for new, old in steps if old is not None]
    busy = _busy(new for new, _ in taken if new is not None)
    for new, old in taken:
        blocks[old.name] = old
        if new is None:
            todo.append((DELETE_SERVICE, old.name, ""))
            continue
        kept = {line.split(" ")[1] for line in new.lines}
        for line in old.lines:
            text = line.split(" ")[1]
            if text not in kept:
                graceful = (old.name, text) in busy
                todo.append((SET_DEST if graceful else DELETE_DEST, old.name, line))
    _sent(todo, blocks, weight=0, beside=errno.ENOENT)


def _busy(blocks: Iterable[Block]) -> frozenset[tuple[str, str]]:
    """Return the real servers of *blocks* with connections that are to end by themselves."""
    names = [
        block.name
        for block in blocks
        if not (block.name.startswith("UDP ") or block.head[0].split(" ")[1] == "dh")
    ]
    if not names:
        return frozenset()
    opened = netlink.Socket(netlink.GENERIC)
    try:
        kind = ipvs_messages.family_id(opened)
        return frozenset(
            (name, real.text)
            for name in names
            for real in _reals(opened, kind, name)
            if real.connections
        )
    finally:
        opened.close()


def _sent(
    todo: Sequence[tuple[int, str, str]],
    blocks: dict[str, Block],
    *,
    weight: int | None = None,
    beside: int = 0,
) -> list[tuple[int, str, str]]:
    """Do *todo*; return what was refused with the error *beside*. Raises KernelError."""
    if not todo:
        return []
    opened = netlink.Socket(netlink.GENERIC)
    try:
        kind = ipvs_messages.family_id(opened)
        requests = [
            ipvs_messages.dest(kind, command, name, line, weight=weight)
            if line
            else ipvs_messages.service(kind, command, blocks[name])
            for command, name, line in todo
        ]
        errors = opened.send(requests)
    finally:
        opened.close()
    refused = []
    for error in errors:
        _, name, line = todo[error.index]
        if error.errno == beside:
            refused.append(todo[error.index])
        elif error.errno == errno.ENOENT and not line:
            scheduler = blocks[name].head[0].split(" ")[1]
            raise CapabilityError(
                f"this kernel has no ip_vs scheduler {scheduler}",
                hint=f"modprobe ip_vs_{scheduler}",
            ) from error
        elif error.errno == errno.EPERM:
            raise CapabilityError("not allowed to write virtual servers", hint="run it as root")
        else:
            what = f"real server {line.split(' ')[1]} of {name}" if line else f"server {name}"
            raise KernelError(f"cannot write {what}: {error}") from error
    return refused


# ---------------------------------------------------------------------------------- addresses


def _bind(steps: Sequence[Step], *, device_only: bool = False) -> None:
    """Have the device, and the addresses that *steps* add on it."""
    made = [step for step in steps if step.new is not None]
    if not made:
        return
    opened = netlink.Socket()
    try:
        if device() is None:
            for error in opened.send([links.new_dummy(DEVICE)]):
                raise _refused("make", error)
        index = device()
        if device_only or index is None:
            return
        requests = [
            routes.others_address(Address("", DEVICE, line), index)
            for new, old in made
            if new is not None
            for line in new.lines
            if old is None or line not in frozenset(old.lines)
        ]
        for error in opened.send(requests):
            if error.errno != errno.EEXIST:
                raise _refused("give an address to", error)
    finally:
        opened.close()


def _refused(verb: str, error: netlink.NetlinkError) -> NetlabError:
    if error.errno == errno.EOPNOTSUPP:
        hint = "modprobe dummy; `scripts/vm` runs a kernel that has it"
        return CapabilityError("this kernel has no dummy links", hint=hint)
    if error.errno == errno.EPERM:
        return CapabilityError(f"not allowed to {verb} {DEVICE}", hint="run it as root")
    return KernelError(f"cannot {verb} {DEVICE}: {error}")


def _unbind(steps: Sequence[Step]) -> None:
    index = device()
    if index is None:
        return
    requests = []
    for new, old in steps:
        if old is None:
            continue
        kept = frozenset(new.lines) if new else frozenset()
        gone = (line for line in old.lines if line not in kept)
        requests += [routes.delete_address(Address("", DEVICE, line), index) for line in gone]
    opened = netlink.Socket()
    try:
        for error in opened.send(requests):
            if error.errno != errno.EADDRNOTAVAIL:
                raise _refused("take an address from", error)
    finally:
        opened.close()


def _delete_device() -> None:
    """Delete the device unless there are addresses on it."""
    index = device()
    if index is None or any(next(_bound(index, family), None) for family in Family):
        return
    opened = netlink.Socket()
    try:
        for error in opened.send(links.delete([index])):
            raise _refused("delete", error)
    finally:
        opened.close()
