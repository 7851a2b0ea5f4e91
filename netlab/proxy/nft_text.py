"""What `nft -f` is given to make steps true, and what its listings say, as blocks.

1. One transaction: the kernel takes all of it or nothing, and no packet sees the half of it.
2. The order is the kernel's: what a rule or element refers to is there before it, gone after it.
3. Of a map only the elements that differ are written; a set that the kernel fills by itself (flags
   dynamic) keeps its elements as long as the set stays.
4. Rules are not understood here: a rule is the text that `nft -s list table` prints.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Key, Sort, Step

FAMILY_WORD = {Family.IPV4: "ip", Family.IPV6: "ip6"}
FAMILIES = {word: family for family, word in FAMILY_WORD.items()}

# The tables that are ours by name, with the comments upstream gives them.
# Source: kubernetes pkg/proxy/nftables/proxier.go, setupNFTables (v1.34); containernetworking
# plugins/meta/portmap/portmap_nftables.go, forwardPorts (v1.6).
TABLES = {"kube-proxy": "rules for kube-proxy", "cni_hostport": "CNI portmap plugin"}

ELEMENTS_PER_LINE = 500

Table = tuple[Family, str]


class Statement(NamedTuple):
    """One line for `nft -f`, and the block it is for; None: a whole table."""

    text: str
    block: Block | None


def transaction(steps: Sequence[Step], *, dropped: Collection[Table] = ()) -> str:
    """Return the text for `nft -f -` that makes *steps* true at once, "" when there are none.

    Tables in *dropped* are deleted first, with all that is in them; steps for such a table say
    what is to be in it afterwards. Any other table stays, were it empty.
    """
    return "".join(f"{one.text}\n" for one in statements(steps, dropped=dropped))


def statements(steps: Sequence[Step], *, dropped: Collection[Table] = ()) -> list[Statement]:
    """Return the lines of `transaction`."""
    steps = [step if _table(step) not in dropped else Step(step.new, None) for step in steps]
    steps = [step for step in steps if step.new or step.old]
    return [
        *_tables(steps, dropped),
        *_taken_apart(steps),
        *_declared(steps),
        *_filled(steps),
        *_deleted(steps),
    ]


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
        and not (_is_base(new) and _is_base(old))
        and _without_timeout(new) != _without_timeout(old)
    }


def _table(step: Step) -> Table:
    block = step.new or step.old
    assert block is not None
    return block.family, block.table


def _is_base(block: Block) -> bool:
    return block.sort is Sort.CHAIN and any(line.startswith("type ") for line in block.head)


def _is_dynamic(head: Iterable[str]) -> bool:
    return any(line.startswith("flags ") and "dynamic" in line for line in head)


def _without_timeout(block: Block) -> list[str]:
    return [line for line in block.head if not line.startswith("timeout ")]


def _named(block: Block) -> str:
    return f"{FAMILY_WORD[block.family]} {block.table} {block.name}"


def _tables(steps: Sequence[Step], dropped: Collection[Table]) -> Iterator[Statement]:
    needed = {_table(step) for step in steps if step.old is None}
    for family, name in dropped:
        # Adding first makes deleting right whether it was there or not.
        yield Statement(f"add table {FAMILY_WORD[family]} {name}", None)
        yield Statement(f"delete table {FAMILY_WORD[family]} {name}", None)
    for family, name in sorted(needed):
        comment = f' {{ comment "{TABLES[name]}"; }}' if name in TABLES else ""
        yield Statement(f"add table {FAMILY_WORD[family]} {name}{comment}", None)


def _taken_apart(steps: Sequence[Step]) -> Iterator[Statement]:
    """Yield what makes room: rules and elements that go, so that nothing refers to what goes."""
    for new, old in steps:
        if old is None:
            continue
        if old.sort is Sort.CHAIN:
            if new is None or new.lines != old.lines or new.head != old.head:
                yield Statement(f"flush chain {_named(old)}", old)
        elif new is None:
            yield Statement(f"flush {old.sort} {_named(old)}", old)
        elif not _is_dynamic(old.head):
            kept = set(new.lines)
            yield from _elements("delete", old, (key(it) for it in old.lines if it not in kept))
    for new, old in steps:
        if new is not None and old is not None and new.head != old.head and _is_base(old):
            yield Statement(f"delete chain {_named(old)}", old)


def _declared(steps: Sequence[Step]) -> Iterator[Statement]:
    for new, old in steps:
        if new is not None and (old is None or new.head != old.head):
            yield Statement(f"add {new.sort} {_named(new)}{_braced(new.head)}", new)


def _braced(head: Sequence[str]) -> str:
    words = " ".join(line if line.endswith(";") else f"{line};" for line in head)
    return f" {{ {words} }}" if words else ""


def _filled(steps: Sequence[Step]) -> Iterator[Statement]:
    for new, old in steps:
        if new is None:
            continue
        if new.sort is Sort.CHAIN:
            if old is None or new.lines != old.lines or new.head != old.head:
                named = _named(new)
                for rule in new.lines:
                    yield Statement(f"add rule {named} {rule}", new)
        else:
            there = set(old.lines) if old is not None else set()
            yield from _elements("add", new, (it for it in new.lines if it not in there))


def _elements(verb: str, block: Block, elements: Iterable[str]) -> Iterator[Statement]:
    rest = iter(elements)
    while some := list(islice(rest, ELEMENTS_PER_LINE)):
        yield Statement(f"{verb} element {_named(block)} {{ {', '.join(some)} }}", block)


def _deleted(steps: Sequence[Step]) -> Iterator[Statement]:
    gone = [old for new, old in steps if new is None and old is not None]
    for old in gone:
        if old.sort is not Sort.CHAIN:
            yield Statement(f"delete {old.sort} {_named(old)}", old)
    for old in gone:
        if old.sort is Sort.CHAIN:
            yield Statement(f"delete chain {_named(old)}", old)


_KEY_END = re.compile(r" : | comment | timeout | expires | counter")


def key(element: str) -> str:
    """Return what finds an *element* of a set or map: `10.96.0.10 . tcp . 80`."""
    end = _KEY_END.search(element)
    return element[: end.start()] if end else element


def blocks(listed: str) -> dict[Key, Block]:
    """Return every chain, set and map of an `nft -s list table` or `nft -s list ruleset`.

    Tables of families other than ip and ip6 are left out, and so are other kinds of objects, and
    the elements of dynamic sets.
    """
    found: dict[Key, Block] = {}
    family: Family | None = None
    table = ""
    lines = iter(listed.splitlines())
    for line in lines:
        if line.startswith("table "):
            _, word, table = line.split(" ")[:3]
            family = FAMILIES.get(word)
        elif line.startswith("\t") and line.endswith(" {") and line[1] != "\t":
            content = _content(lines)
            sort, _, name = line[1:-2].partition(" ")
            if family is not None and sort in _READ:
                block = _READ[sort](family, table, name, content)
                found[block.key] = block
    return found


def _content(lines: Iterator[str]) -> list[str]:
    """Return the lines up to the brace that ends a chain, set or map."""
    content: list[str] = []
    for line in lines:
        if line == "\t}":
            break
        content.append(line.strip())
    return content


def _chain(family: Family, table: str, name: str, content: list[str]) -> Block:
    heads = 0
    while heads < len(content) and content[heads].startswith(("type ", "comment ", "flags ")):
        heads += 1
    head, rules = content[:heads], content[heads:]
    return Block(family, Sort.CHAIN, table, name, tuple(head), tuple(rules))


def _set(family: Family, table: str, name: str, content: list[str]) -> Block:
    return _with_elements(Sort.SET, family, table, name, content)


def _map(family: Family, table: str, name: str, content: list[str]) -> Block:
    return _with_elements(Sort.MAP, family, table, name, content)


def _with_elements(sort: Sort, family: Family, table: str, name: str, content: list[str]) -> Block:
    head: list[str] = []
    elements: tuple[str, ...] = ()
    for number, line in enumerate(content):
        if line.startswith("elements = {"):
            if not _is_dynamic(head):
                elements = _split(" ".join(content[number:]))
            break
        head.append(line)
    return Block(family, sort, table, name, tuple(head), elements)


_READ = {"chain": _chain, "set": _set, "map": _map}
_ELEMENT = re.compile(r'(?:[^",]|"[^"]*")+')


def _split(text: str) -> tuple[str, ...]:
    """Return the elements of `elements = { a, b }`."""
    inner = text[text.index("{") + 1 : text.rindex("}")]
    if '"' in inner:
        return tuple(one.strip() for one in _ELEMENT.findall(inner))
    return tuple(one.strip() for one in inner.split(","))


_COUNTER = re.compile(r"\bcounter packets (\d+) bytes (\d+)")


def counters(listed: str) -> Mapping[tuple[Key, int], tuple[int, int]]:
    """Return packets and bytes of each rule with a counter, by block and position (from 0).

    *listed* is an `nft list table`, without -s.
    """
    return {
        (block.key, position): (int(count[1]), int(count[2]))
        for block in blocks(listed).values()
        if block.sort is Sort.CHAIN
        for position, rule in enumerate(block.lines)
        if (count := _COUNTER.search(rule))
    }
