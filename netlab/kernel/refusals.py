"""What the kernel refused, in words: which object, why, and what to try."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from netlab.errors import KernelError
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
from netlab.plan import Op


def _table(it: IptablesChain | IptablesJump) -> str:
    return f"table {it.table}" if it.family == "ip" else f"IPv6 table {it.table}"


_NOUNS: dict[type, Callable[[Any], str]] = {
    Netns: lambda _: "network namespace",
    Bridge: lambda it: f"bridge {it.name}",
    Veth: lambda it: f"veth {it.name}",
    Vxlan: lambda it: f"vxlan {it.name}",
    Tun: lambda it: f"tun {it.name}",
    Address: lambda it: f"address {it.address} of {it.link}",
    Route: lambda it: f"route to {it.destination} by {it.link}",
    RoutingRule: lambda it: f"rule for mark {it.mark:#x}",
    Neighbor: lambda it: f"neighbour {it.address} on {it.link}",
    FdbEntry: lambda it: f"forwarding entry {it.mac} on {it.link}",
    Sysctl: lambda it: f"setting {it.name}",
    IptablesChain: lambda it: f"chain {it.name} of {_table(it)}",
    IptablesJump: lambda it: f"rule '{it.rule}' in {it.chain} of {_table(it)}",
    NftTable: lambda it: f"table {it.family} {it.name}",
    Netem: lambda it: f"delay of {it.link}",
}


def noun(thing: Object) -> str:
    """Return an object in words, without its namespace: `vxlan flannel.1`."""
    return _NOUNS[type(thing)](thing)


def refusal(op: Op, why: str, *, number: int = 0) -> KernelError:
    """Return the error for an operation that failed; *number* is its errno."""
    message = f"{op.object.netns}: cannot {op.verb} {noun(op.object)}: {why}"
    return KernelError(message, hint=_hint(op.object, number))


def _hint(thing: Object, number: int) -> str | None:
    if number == errno.EEXIST:
        if isinstance(thing, Veth):
            return (
                f"a link that is not netlab's is in the way: {thing.name}, or {thing.peer_name} "
                f"in {thing.peer_netns}"
            )
        return f"a {noun(thing).split(' ')[0]} that is not netlab's is in the way"
    if number == errno.EOPNOTSUPP and isinstance(thing, Bridge | Veth | Vxlan | Tun):
        return f"this kernel lacks {type(thing).__name__.lower()}; see `netlab doctor`"
    if isinstance(thing, Netem):
        return "this kernel lacks netem, or tc is not there; see `netlab doctor`"
    if number == errno.EPERM:
        return "run it as root"
    if number == errno.ENOENT and isinstance(thing, Sysctl) and thing.name.startswith("net.bridge"):
        return "modprobe br_netfilter"
    return None
