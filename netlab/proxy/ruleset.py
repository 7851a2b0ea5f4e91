"""What renderers give: blocks of rules by name, and the steps from one state to another.

A block is the unit that is compared and written: the kernel gets whole blocks, nobody edits one.
Blocks of one node and mode have distinct keys; those of one Service are its own but for the lines
it adds to blocks that all Services share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec

from netlab.proxy.addresses import Family
from netlab.proxy.frontend import Frontend, HealthCheck
from netlab.proxy.options import Situation


class Sort(StrEnum):
    """The kinds of blocks."""

    CHAIN = "chain"
    SET = "set"
    MAP = "map"
    JUMPS = "jumps"  # rules at the head of an iptables built-in chain, before others' rules
    IPSET = "ipset"
    SERVER = "virtual server"
    ADDRESSES = "addresses"  # of a link


Key = tuple[Family, Sort, str, str]


class Block(msgspec.Struct, frozen=True):
    """One named part of a rule set, in the words of the tool that lists it.

    iptables: `table` is nat, filter or mangle; `lines` are rules as iptables-save prints them,
    without `-A NAME `. nftables: `table` is the table's name; `head` are the statements before
    rules or elements (`type ...`, `flags ...`, `comment ...`), `lines` rules in their order, or
    elements (in any order). What ipvs mode has beside: see `proxy/ipvs`.
    """

    family: Family
    sort: Sort
    table: str
    name: str
    head: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What only one block can have."""
        return self.family, self.sort, self.table, self.name

    @property
    def ordered(self) -> bool:
        """Whether the order of the lines means something."""
        return self.sort in (Sort.CHAIN, Sort.JUMPS)


class Shared(NamedTuple):
    """A block all Services may add lines to: after its own, and before `tail`."""

    block: Block
    tail: tuple[str, ...] = ()


class Part(NamedTuple):
    """What one Service, in one family, has in the rule set."""

    blocks: tuple[Block, ...] = ()
    entries: tuple[tuple[Key, tuple[str, ...]], ...] = ()  # its lines in shared blocks


class Step(NamedTuple):
    """A block to be made as `new`, from what it was; None: there is, or was, none."""

    new: Block | None
    old: Block | None

    @property
    def block(self) -> Block:
        """The block it is about, as it is to be or, if it goes, as it was."""
        block = self.new or self.old
        assert block is not None, "a step from nothing to nothing"
        return block


class Renderer(Protocol):
    """A proxy mode's way to write rules: a module of functions."""

    def frame(self, situation: Situation, used: Collection[Key] = ()) -> list[Shared]:
        """Return the blocks that are there without any Service, in the node's *situation*.

        *used*: the keys of those that some Service has lines in, where that makes a difference.
        """

    def hostport_frame(self, situation: Situation) -> list[Shared]:
        """Return the blocks that are there beside when a pod has a hostPort."""

    def part(
        self,
        frontends: list[Frontend],
        health_checks: list[HealthCheck],
        situation: Situation,
        *,
        large: bool,
    ) -> Part:
        """Return the rules of one Service (or of the hostPorts of one pod) in one family.

        *large*: the node has more than a thousand endpoints, and comments are left out.
        """


Blocks = Mapping[Key, Block]


def difference(wanted: Blocks, there: Blocks) -> Iterator[Step]:
    """Yield the steps that make what is *there* what is *wanted*."""
    for key, block in wanted.items():
        old = there.get(key)
        if old is None and block.sort is Sort.ADDRESSES and not block.lines:
            continue  # no link is needed for none
        if old is None or not same(block, old):
            yield Step(block, old)
    for key, block in there.items():
        if key not in wanted:
            yield Step(None, block)


def same(one: Block, other: Block) -> bool:
    """Return whether two blocks of one key say the same."""
    if one.head != other.head:
        return False
    if one.ordered or one.lines == other.lines:
        return one.lines == other.lines
    return sorted(one.lines) == sorted(other.lines)


_UNIT = {
    Sort.CHAIN: "rule",
    Sort.JUMPS: "jump",
    Sort.SERVER: "real server",
}


def words(step: Step) -> str:
    """Return a step in words: `nat KUBE-SVC-OPUYG6UFM4MDMSCF: 4 rules`."""
    block = step.block
    what = _UNIT.get(block.sort, "element")
    title = f"{block.table} {block.name}"
    if block.family is Family.IPV6:
        title = f"{block.family} {title}"
    if step.new is None:
        return f"{title}: gone"
    number = len(step.new.lines)
    return f"{title}: {number} {what}{'' if number == 1 else 's'}"
