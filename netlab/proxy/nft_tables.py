"""Nft tables as wholes: which of them steps leave empty, and which must be made anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from netlab.proxy.nft_text import DYNAMIC_SIZE, Table, is_base, is_dynamic
from netlab.proxy.ruleset import Block, Key, Step


def table(step: Step) -> Table:
    """Return the table that *step* changes."""
    return step.block.family, step.block.table


def rebuilt(steps: Iterable[Step]) -> set[Table]:
    """Return the tables that must be made anew, as the kernel cannot change a head in place.

    A base chain is nobody's target and can be deleted and added in one transaction; a regular
    chain, a set or a map cannot while rules refer to it. A set's timeout can be changed.
    """
    return {
        (new.family, new.table)
        for new, old in steps
        if new is not None
        and old is not None
        and new.head != old.head
        and not (is_base(new) and is_base(old))
        and _fixed(new) != _fixed(old)
    }


def _fixed(block: Block) -> list[str]:
    dynamic = is_dynamic(block.head)
    return [
        line
        for line in block.head
        if not line.startswith("timeout ") and not (dynamic and line == DYNAMIC_SIZE)
    ]


def anew(
    steps: Iterable[Step], tables: Collection[Table], there: Mapping[Key, Block]
) -> list[Step]:
    """Return *steps* that make all of the *tables* anew: what is *there* and what changes."""
    found: list[Step] = []
    wanted = {key: block for key, block in there.items() if (key[0], key[2]) in tables}
    for step in steps:
        if table(step) not in tables:
            found.append(step)
        elif step.new is not None:
            wanted[step.new.key] = step.new
        elif step.old is not None:
            wanted.pop(step.old.key, None)
    return [*found, *(Step(block, None) for block in wanted.values())]


def maybe_emptied(steps: Sequence[Step]) -> dict[Table, set[Key]]:
    """Return the tables that may be empty after *steps*, with the keys of what goes.

    No table is without base chains: unless one goes, and nothing comes, it is not.
    """
    kept = {table(step) for step in steps if step.new is not None}
    found: dict[Table, set[Key]] = {}
    for step in steps:
        if step.old is not None and is_base(step.old) and table(step) not in kept:
            found.setdefault(table(step), set())
    for step in steps:
        if step.old is not None and table(step) in found:
            found[table(step)].add(step.old.key)
    return found
