"""What was done to a running lab on purpose, to be undone by one command: part of the run-time Lab.

A fault is a wish like any other: it is kept with the Lab document of the running lab, so that the
usual comparison makes it, repairs it, and undoes it, and a killed agent goes on with it. The files
know nothing of it: `up` keeps it and says so, `down` forgets it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec


class Sort(StrEnum):
    """What kind of fault; the words are the command's, `netlab link down`."""

    LINK_DOWN = "link down"
    LINK_LOSS = "link loss"
    LINK_DELAY = "link delay"
    NODE_ADD = "node add"
    NODE_REMOVE = "node remove"
    NODE_STOP = "node stop"
    ETCD_STOP = "fault etcd-stop"
    ETCD_PARTITION = "fault etcd-partition"


LINKS = (Sort.LINK_DOWN, Sort.LINK_LOSS, Sort.LINK_DELAY)


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault. `target`: a node or machine, or a pod as NAMESPACE/NAME; "" for the whole lab.

    `loss` is in percent, `delay` and `jitter` in milliseconds, `since` in RFC 3339. `netem`: the
    kernel's queue loses what it sends, else a rule that drops by chance.
    """

    sort: Sort
    target: str = ""
    loss: float = 0.0
    netem: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    since: str = ""
    options: str = ""  # of a removed node, with which it comes back

    @property
    def key(self) -> tuple[Sort, str]:
        """What there is one fault of at a time."""
        return (self.sort, self.target)

    @property
    def breaks(self) -> bool:
        """Whether it breaks something: a node more or less does not."""
        return self.sort not in (Sort.NODE_ADD, Sort.NODE_REMOVE)

    @property
    def command(self) -> str:
        """The command that made it."""
        return " ".join(("netlab", self.sort.value, *filter(None, (self.target, self._amount))))

    @property
    def undo(self) -> str:
        """The command that undoes it."""
        match self.sort:
            case Sort.LINK_DOWN:
                return f"netlab link up {self.target}"
            case Sort.LINK_LOSS | Sort.LINK_DELAY:
                return f"netlab {self.sort} {self.target} 0"
            case Sort.NODE_ADD:
                return f"netlab node remove {self.target}"
            case Sort.NODE_REMOVE:
                return f"netlab node add {self.target} {self.options}".rstrip()
            case Sort.NODE_STOP:
                return f"netlab node start {self.target}"
            case Sort.ETCD_STOP:
                return "netlab fault clear etcd-stop"
            case Sort.ETCD_PARTITION:
                return f"netlab fault clear etcd-partition {self.target}"

    @property
    def words(self) -> str:
        """What is the matter, as a sentence: `the link of node1 is down`."""
        match self.sort:
            case Sort.LINK_DOWN:
                return f"the link of {self.target} is down"
            case Sort.LINK_LOSS:
                return f"the link of {self.target} loses {self._amount} of all frames, each way"
            case Sort.LINK_DELAY:
                return f"the link of {self.target} delays what goes there by {self._amount}"
            case Sort.NODE_ADD:
                return f"node {self.target} was added beside the files"
            case Sort.NODE_REMOVE:
                return f"node {self.target} of the files was removed"
            case Sort.NODE_STOP:
                return f"node {self.target} is switched off"
            case Sort.ETCD_STOP:
                return "etcd is stopped"
            case Sort.ETCD_PARTITION:
                return f"node {self.target} cannot reach etcd"

    @property
    def _amount(self) -> str:
        if self.sort is Sort.LINK_LOSS:
            return f"{self.loss:g}%"
        if self.sort is Sort.LINK_DELAY:
            return f"{self.delay:g}ms" + (f" {self.jitter:g}ms" if self.jitter else "")
        return ""


def told(fault: Fault) -> str:
    """Return all about a fault in one line, with who made it and how to undo it."""
    since = f", since {fault.since}" if fault.since else ""
    return f"{fault.words}{since}, by `{fault.command}`; undo: `{fault.undo}`"


def with_faults(held: Iterable[Fault], new: Iterable[Fault]) -> tuple[Fault, ...]:
    """Return *held* with *new* in place of those of the same key, in order of their making."""
    new = tuple(new)
    keys = {fault.key for fault in new}
    return (*(fault for fault in held if fault.key not in keys), *new)


def targets(faults: Iterable[Fault], sort: Sort) -> list[str]:
    """Return what the faults of *sort* are at."""
    return [fault.target for fault in faults if fault.sort is sort]
