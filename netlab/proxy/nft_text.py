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

# The tables that are ours by name, with their comments; the first is upstream's.
# Source: kubernetes pkg/proxy/nftables/proxier.go, setupNFTables (v1.34).
TABLES = {"kube-proxy": "rules for kube-proxy", "netlab-hostport": "hostPorts of netlab's pods"}
POLICY_TABLES = {"netlab-policy": "NetworkPolicies of netlab's pods"}  # kube-proxy's they are not
COMMENTS = {**TABLES, **POLICY_TABLES}

# What the kernel lets rules add to a set if nobody says, once there is such a rule. Told so, it
# makes room for all of them at once: 2 MB and 5 ms per set, 10 s for 1,000 Services with affinity.
# Source: net/netfilter/nft_dynset.c, nft_dynset_init; nft_set_hash.c, nft_rhash_init (Linux 6.18).
DYNAMIC_SIZE = "size 65535"

ELEMENTS_PER_LINE = 150  # so that they fit one netlink message, of at most 64 KiB

Table = tuple[Family, str]


class Statement(NamedTuple):
    """One thing to do: `add rule ip kube-proxy services jump x`."""

    verb: str  # add, delete, flush
    kind: str  # table, chain, set, map, rule, element
    table: Table
    block: Block | None = None  # None: the whole table
    what: tuple[str, ...] = ()  # a head's statements, one rule, elements

    @property
    def text(self) -> str:
        """This as one line for `nft -f`."""
        family, table = self.table
        line = f"{self.verb} {self.kind} {FAMILY_WORD[family]} {table}"
        if self.block is not None:
            line = f"{line} {self.block.name}"
        if not self.what:
            return line
        if self.kind == "rule":
            return f"{line} {self.what[0]}"
        if self.kind == "element":
            return f"{line} {{ {', '.join(self.what)} }}"
        words = " ".join(one if one.endswith(";") else f"{one};" for one in self.what)
        return f"{line} {{ {words} }}"


class Work(NamedTuple):
    """Statements in the order of one transaction, by what packets see of them."""

    ahead: list[Statement]  # new tables, chains, sets, maps: nobody gets there yet
    switch: list[Statement]  # what changes the way of packets
    behind: list[Statement]  # what nobody gets to any more goes

    @property
    def statements(self) -> list[Statement]:
        return [*self.ahead, *self.switch, *self.behind]


def transaction(steps: Sequence[Step], *, dropped: Collection[Table] = ()) -> str:
    """Return the text for `nft -f -` that makes *steps* true at once, "" when there are none.

    Tables in *dropped* are deleted first, with all that is in them; steps for such a table say
    what is to be in it afterwards. Any other table stays, were it empty.
    """
    return text(work(steps, dropped=dropped).statements)


def text(statements: Iterable[Statement]) -> str:
    """Return *statements* one per line."""
    return "".join(f"{one.text}\n" for one in statements)


def work(steps: Sequence[Step], *, dropped: Collection[Table] = ()) -> Work:
    """Return the statements of `transaction`."""
    made = [new for new, old in steps if new and (old is None or _place(new) in dropped)]
    changed = [(new, old) for new, old in steps if new and old and _place(new) not in dropped]
    gone = [old for new, old in steps if old and not new and _place(old) not in dropped]
    return Work(
        [*_tables(made, dropped), *_made(made)],
        [*_undone(changed), *_redone(changed), *_found(made)],
        [*_gone(gone)],
    )


def is_base(block: Block) -> bool:
    """Return whether *block* is a chain that the kernel itself calls, by a hook."""
    return block.sort is Sort.CHAIN and any(line.startswith("type ") for line in block.head)


def is_dynamic(head: Iterable[str]) -> bool:
    """Return whether rules add the elements of the set with this *head*."""
    return any(line.startswith("flags ") and "dynamic" in line for line in head)


def _place(block: Block) -> Table:
    return block.family, block.table


def _tables(made: Iterable[Block], dropped: Collection[Table]) -> Iterator[Statement]:
    for table in dropped:
        # Adding first makes deleting right whether it was there or not.
        yield Statement("add", "table", table)
        yield Statement("delete", "table", table)
    for table in sorted({_place(block) for block in made}):
        comment = (f'comment "{COMMENTS[table[1]]}"',) if table[1] in COMMENTS else ()
        yield Statement("add", "table", table, None, comment)


def _made(made: Sequence[Block]) -> Iterator[Statement]:
    for block in made:
        yield _declaration(block)
    for block in made:
        if block.sort is Sort.CHAIN:
            yield from _rules(block)


def _declaration(block: Block) -> Statement:
    head = block.head
    if is_dynamic(head):
        head = tuple(line for line in head if line != DYNAMIC_SIZE)
    return Statement("add", block.sort, _place(block), block, head)


def _found(made: Iterable[Block]) -> Iterator[Statement]:
    """Yield the elements of new sets and maps: what they lead to is complete."""
    for block in made:
        if block.sort is not Sort.CHAIN:
            yield from _elements("add", block, block.lines)


def _undone(changed: Sequence[tuple[Block, Block]]) -> Iterator[Statement]:
    for new, old in changed:
        if old.sort is Sort.CHAIN:
            yield Statement("flush", "chain", _place(old), old)
        elif not is_dynamic(old.head):
            kept = set(new.lines)
            yield from _elements("delete", old, (key(it) for it in old.lines if it not in kept))
    for new, old in changed:
        if new.head != old.head and is_base(old):
            yield Statement("delete", "chain", _place(old), old)


def _redone(changed: Sequence[tuple[Block, Block]]) -> Iterator[Statement]:
    for new, old in changed:
        if new.head != old.head:
            yield _declaration(new)
    for new, old in changed:
        if new.sort is Sort.CHAIN:
            yield from _rules(new)
        elif not is_dynamic(new.head):
            there = set(old.lines)
            yield from _elements("add", new, (it for it in new.lines if it not in there))


def _gone(gone: Sequence[Block]) -> Iterator[Statement]:
    # All are emptied first: they refer to each other.
    for block in gone:
        yield Statement("flush", block.sort, _place(block), block)
    for block in sorted(gone, key=lambda block: block.sort is Sort.CHAIN):
        yield Statement("delete", block.sort, _place(block), block)


def _rules(chain: Block) -> Iterator[Statement]:
    table = _place(chain)
    for rule in chain.lines:
        yield Statement("add", "rule", table, chain, (rule,))


def _elements(verb: str, block: Block, elements: Iterable[str]) -> Iterator[Statement]:
    rest = iter(elements)
    while some := tuple(islice(rest, ELEMENTS_PER_LINE)):
        yield Statement(verb, "element", _place(block), block, some)


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
    return Block(family, Sort.CHAIN, table, name, tuple(map(_as_old, head)), tuple(rules))


# What nft after 1.0.8 prints otherwise (bugzilla.netfilter.org 1694); it takes the old words too.
_OUTPUT = {
    "hook output priority dstnat;": "hook output priority -100;",
    "hook output priority dstnat - 10;": "hook output priority -110;",
}


def _as_old(line: str) -> str:
    """Return a *line* of a head in the words of nft 1.0.6, which any later one takes."""
    for new, old in _OUTPUT.items():
        line = line.replace(new, old)
    # nft 1.1.2 tells how many elements there are.
    return line.partition("#")[0].rstrip() if line.startswith("size ") else line


def _set(family: Family, table: str, name: str, content: list[str]) -> Block:
    return _with_elements(Sort.SET, family, table, name, content)


def _map(family: Family, table: str, name: str, content: list[str]) -> Block:
    return _with_elements(Sort.MAP, family, table, name, content)


def _with_elements(sort: Sort, family: Family, table: str, name: str, content: list[str]) -> Block:
    head: list[str] = []
    elements: tuple[str, ...] = ()
    for number, line in enumerate(content):
        if line.startswith("elements = {"):
            if not is_dynamic(head):
                elements = _split(" ".join(content[number:]))
            break
        head.append(_as_old(line))
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
