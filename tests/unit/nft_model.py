"""The kernel's rules about references between chains, sets and maps, obeyed statement by statement.

What it refuses, the kernel refuses: a target that is not there, deleting what is referred to,
adding what is there with another content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from netlab.proxy.nft_text import Statement, Table, is_base, key
from netlab.proxy.ruleset import Block, Key, Sort

Name = tuple[Table, str]


class RefusedError(Exception):
    """The kernel would not."""


@dataclass
class Model:
    """What the kernel holds."""

    there: dict[Name, Block] = field(default_factory=dict)  # heads
    lines: dict[Name, list[str]] = field(default_factory=dict)
    tables: set[Table] = field(default_factory=set)

    @property
    def blocks(self) -> dict[Key, Block]:
        found = {}
        for name, block in self.there.items():
            lines = self.lines[name]
            whole = Block(*block.key, block.head, tuple(lines))
            found[whole.key] = whole
        return found

    def run(self, statements: Iterable[Statement]) -> None:
        for one in statements:
            self._do(one)

    def _do(self, one: Statement) -> None:
        if one.block is None:
            self._table(one)
            return
        if one.table not in self.tables:
            raise RefusedError(f"no table: {one.text}")
        name = one.table, one.block.name
        declaring = one.verb == "add" and one.kind in ("chain", "set", "map")
        if not declaring and name not in self.there:
            raise RefusedError(f"no such: {one.text}")
        if declaring:
            self._declare(name, one)
        elif one.verb == "flush":
            self.lines[name] = []
        elif one.verb == "delete" and one.kind != "element":
            if self._users(name):
                raise RefusedError(f"in use by {self._users(name)}: {one.text}")
            del self.there[name], self.lines[name]
        elif one.verb == "delete":
            for it in one.what:
                self.lines[name].remove(next(x for x in self.lines[name] if key(x) == it))
        else:
            self._add(name, one)

    def _table(self, one: Statement) -> None:
        if one.verb == "add":
            self.tables.add(one.table)
            return
        self.tables.remove(one.table)
        for name in [name for name in self.there if name[0] == one.table]:
            del self.there[name], self.lines[name]

    def _declare(self, name: Name, one: Statement) -> None:
        assert one.block is not None
        old = self.there.get(name)
        assert {*one.block.head} - {*one.what} <= {"size 65535"}  # the kernel says that by itself
        if old is not None and _fixed(one.block) != _fixed(old):
            raise RefusedError(f"there, and another: {one.text}")
        self.there[name] = Block(*one.block.key, one.block.head)
        self.lines.setdefault(name, [])

    def _add(self, name: Name, one: Statement) -> None:
        for it in one.what:
            for target in targets(it):
                block = self.there.get((one.table, target))
                if block is None or is_base(block):
                    raise RefusedError(f"no target {target}: {one.text}")
            is_set = self.there[name].sort is not Sort.CHAIN
            if is_set and any(key(it) == key(old) for old in self.lines[name]):
                raise RefusedError(f"that element is there: {one.text}")
            self.lines[name].append(it)

    def _users(self, name: Name) -> list[str]:
        table, wanted = name
        return [
            by
            for (where, by), lines in self.lines.items()
            if where == table and by != wanted and any(wanted in targets(it) for it in lines)
        ]


def _fixed(block: Block) -> list[str]:
    return [line for line in block.head if not line.startswith("timeout ")]


def targets(line: str) -> list[str]:
    """Return the chains, sets and maps that a rule or element refers to."""
    words = re.sub(r' comment "[^"]*"', "", line).replace(",", " ")
    return re.findall(r"(?:goto |jump |@)(\S+)", words)
