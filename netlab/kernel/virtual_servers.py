"""Ipvs mode's blocks in the namespace the calling thread is in: iptables' rules, and the rest.

What rules refer to is there before them, and goes after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netlab.kernel import iptables, ipvs
from netlab.proxy import ipvs_text
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Key, Step

counters = iptables.counters


def read(families: Iterable[Family]) -> dict[Key, Block]:
    """Return the blocks that are ours by name, and all virtual servers. Raises KernelError."""
    wanted = frozenset(families)
    return iptables.read(wanted) | ipvs.read(wanted)


def write(steps: Sequence[Step]) -> None:
    """Make the *steps* true. Raises KernelError, CapabilityError."""
    own, others = ipvs_text.own(steps), ipvs_text.others(steps)
    ipvs.make(own)
    if others:
        iptables.write(others)
    ipvs.unmake(own)
