"""The kernel edge: what a namespace holds, and making it hold something else.

netlink     the codec: messages packed and unpacked by hand, sent many at a time
netns       namespaces with names: create, delete, enter
links       messages of links; routes: of addresses, routes, neighbours, forwarding entries
settings    sysctls; rules, listing: flannel's iptables and nftables, through the tools
iptables, nftables   a proxy's rules, through the same tools; chains: the names there are
nft_messages   small changes of nftables, without nft; nft_names: which chains there are
netem       delays of ports; faultcounts: how much cables with a fault have lost
conntrack   the flows the kernel remembers
generation  whose commits changed the rules: netlab's own, or others'
arp         telling a wire whose an address is now
owned       rules that go with this process
turns       one proxy at a time per namespace
observed    what is netlab's in a namespace
batch       the operations of a plan as messages, sent together; place: one namespace meanwhile
refusals    what the kernel refused, in words
watch       tells that something changed
real, fake  the protocol below, over the kernel and over dictionaries
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from netlab.objects import Address, Object
from netlab.plan import Op


class Watch(Protocol):
    """Tells that something changed. What changed is for an observation to say."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when something changed."""
        ...

    def drain(self) -> set[str]:
        """Return where something changed since the last time: `self`, `pods`, `rules`.

        `self` is the namespace, `pods` those its cables lead to, `rules` its nftables. When
        events were lost, all three.
        """
        ...

    def close(self) -> None: ...


class Kernel(Protocol):
    """What the loops see of the kernel. Threads may use one at once, on different namespaces."""

    def observe(self, netns: str, desired: Collection[Object]) -> list[Object]:
        """Return what is netlab's in a namespace, [] when there is none of that name.

        *desired* is everything wanted there: it says which settings, chains and tables to read,
        and an object found just so is returned in the words it is wanted in. The namespace itself
        is among what is returned when it is wanted, or when nothing at all is.
        """
        ...

    def apply(self, ops: Sequence[Op]) -> None:
        """Do the operations of a plan, in their order. Raises KernelError, CapabilityError.

        Operations that do not depend on a failed one may have been done all the same.
        """
        ...

    def announce(self, address: Address) -> None:
        """Tell who is on the wire that *address* is this link's now, if there is a wire."""
        ...

    def namespaces(self, lab: str) -> list[str]:
        """Return the names below /run/netns that belong to *lab*, left-over files included."""
        ...

    def watch(self, netns: str) -> Watch:
        """Return a watch on a namespace and those its cables lead to. Raises KernelError."""
        ...
