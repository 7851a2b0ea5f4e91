"""What a proxy mode left behind in the namespace the calling thread is in: found, and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from netlab.kernel import iptables, ipvs, nftables, settings
from netlab.model.modes import Mode
from netlab.portals import control as portals
from netlab.proxy.addresses import Family
from netlab.proxy.ipvs import not_spared
from netlab.proxy.ruleset import Block, Key, Step
from netlab.proxy.settings import after_cleanup


class Left(NamedTuple):
    """How to find what a mode that is no more left behind, and to remove it."""

    mode: Mode  # whose tools can say it
    read: Callable[[Iterable[Family]], dict[Key, Block]]
    write: Callable[[Sequence[Step]], None]


# What there is when a mode is not any more, in the order in which it goes: rules refer to sets.
_CHAINS = Left(Mode.IPTABLES, iptables.read, iptables.write)
_TABLES = Left(Mode.NFTABLES, nftables.read, nftables.write)
_SERVERS = Left(Mode.IPVS, ipvs.left, ipvs.write)
PARTS: Mapping[Mode, tuple[Left, ...]] = {
    Mode.IPTABLES: (_CHAINS,),
    Mode.NFTABLES: (_TABLES,),
    Mode.IPVS: (_CHAINS, _SERVERS),
    Mode.USERSPACE: (_CHAINS,),
}
Found = list[tuple[Left, list[Block]]]


def left_over(mode: Mode | None, spared: Sequence[str] = ()) -> Found:
    """Return what is there that no proxy of *mode* would have; None: of any.

    *spared*: prefixes in which virtual servers are nobody's but others'. Raises KernelError.
    """
    own = PARTS[mode] if mode else ()
    parts = dict.fromkeys(part for of in PARTS.values() for part in of if part not in own)
    return [(part, list(not_spared(part.read(Family), {}, spared).values())) for part in parts]


def remove(found: Found) -> list[Block]:
    """Remove the blocks *found*; return them all. Raises KernelError, CapabilityError."""
    for part, mine in found:
        if mine:
            part.write([Step(None, block) for block in mine])
    return [block for _, mine in found for block in mine]


def cleanup(spared: Sequence[str] = ()) -> list[Block]:
    """Remove every rule of a kube-proxy from the namespace, of whichever mode; return which.

    *spared*: as of `left_over`. The process of userspace mode ends. Raises KernelError,
    CapabilityError.
    """
    found = left_over(None, spared)
    settings.make(after_cleanup(block for _, mine in found for block in mine))
    removed = remove(found)
    portals.end()
    return removed
