"""The texts between blocks and the iptables tools: what restores read, and what saves print.

Goals
1. Packets see whole changes. What they can reach is changed by one text per family, the last one
   but for removals; what nothing reaches yet is loaded before it. A text is one kernel commit per
   table, as it is for kube-proxy; filter comes before nat, as there.
2. Quick for 10,000 Services. iptables-nft-restore walks its list of chains for every rule, so its
   time grows with the square of a text's chains, not of the kernel's: 30,000 chains take 8 to 40 s
   in one text and 2.2 s in texts of a few hundred chains (iptables 1.8.9, two cores).
3. Others' rules stay. Only chains with kube-proxy's names are written, and in built-in chains only
   rules that jump to those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain as joined
from typing import NamedTuple

from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Key, Sort, Step

TOOLS = {Family.IPV4: "iptables-nft", Family.IPV6: "ip6tables-nft"}

PORTION = 600  # chains in one text; 300 to 1,500 are equally quick
MANY = 2000  # changed chains (0.6 s in one text) from which not all of them change at once
LONG = 100  # lines from which a chain is edited, not written again (10,000 lines: 0.1 s, not 0.8 s)
EDITS = 16  # lines that may differ then; each costs about 10 ms in so long a chain

# kube-proxy's chains in any of its modes, and netlab's own for hostPorts.
# kubelet's (KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT) and kube-router's (KUBE-ROUTER-...) are not.
# Source: kubernetes pkg/proxy/iptables/proxier.go and pkg/proxy/ipvs/proxier.go, v1.34;
# pkg/proxy/userspace/proxier.go, v1.25.
CHAINS = frozenset(
    f"KUBE-{name}"
    for name in (
        *("SERVICES", "EXTERNAL-SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ", "FORWARD"),
        *("FIREWALL", "PROXY-FIREWALL", "PROXY-CANARY"),
        *("NODE-PORT", "LOAD-BALANCER", "SOURCE-RANGES-FIREWALL"),
        *("IPVS-FILTER", "IPVS-OUT-FILTER"),
        *("PORTALS-CONTAINER", "PORTALS-HOST"),
        *("NODEPORT-CONTAINER", "NODEPORT-HOST", "NODEPORT-NON-LOCAL"),
    )
)
PREFIXES = (
    *("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"),
    *("NETLAB-HOSTPORT-", "NETLAB-DN-"),
)

_QUOTED = re.compile(r'--comment (?:"(?:\\.|[^"\\])*"|\S+)')


class Transaction(NamedTuple):
    """One run of a restore tool: what it reads, and how many commits the kernel counts."""

    argv: tuple[str, ...]
    text: str
    commits: int


class Place(NamedTuple):
    """Where in a transaction's text a line stands."""

    table: str
    chain: str
    line: str


def is_ours(chain: str) -> bool:
    """Return whether a proxy made the chain of that name."""
    return chain in CHAINS or chain.startswith(PREFIXES)


def target(rule: str) -> str:
    """Return what a rule jumps or goes to, "" for nothing. A comment may say what it likes."""
    words = _QUOTED.sub("", rule).split(" ")
    for flag in ("-j", "-g"):
        if flag in words[:-1]:
            return words[words.index(flag) + 1]
    return ""


# ------------------------------------------------------------------------------ to the kernel


def transactions(steps: Sequence[Step], *, trusting: bool = True) -> list[Transaction]:
    """Return what the restore tools have to read, in this order, to make *steps* true.

    A chain that changes is emptied and filled in one text, or, where it is long and little of it
    differs, edited. More than MANY changed chains are written in portions as well: each chain as a
    whole, but not all of them at once. Jumps are put at the head of their built-in chain.
    With *trusting* false no chain is edited, and chains go in texts of their own: should the kernel
    refuse that (somebody else's rule jumps there), all the rest is done.
    """
    found: list[Transaction] = []
    for family, tool in TOOLS.items():
        mine = [step for step in steps if _block(step).family is family]
        argv = (f"{tool}-restore", "--noflush", "--wait")
        for portion in _portions(mine, trusting):
            found.append(_transaction(argv, portion))
    return found


def _block(step: Step) -> Block:
    block = step.block
    if block.sort not in (Sort.CHAIN, Sort.JUMPS):
        raise ValueError(f"no step of iptables: {step}")
    return block


class _Portion(NamedTuple):
    """The content of one text. Chains in `made` are written whole."""

    made: Sequence[Block] = ()
    edited: Sequence[tuple[Block, Sequence[str]]] = ()
    jumps: Sequence[Step] = ()
    gone: Sequence[Block] = ()

    def __bool__(self) -> bool:
        return any(map(len, self))


def _portions(steps: Sequence[Step], trusting: bool) -> Iterator[_Portion]:
    jumps = [step for step in steps if _block(step).sort is Sort.JUMPS]
    chains = [step for step in steps if _block(step).sort is Sort.CHAIN]
    edited: list[tuple[Block, Sequence[str]]] = []
    fresh: list[Block] = []
    changed: list[Block] = []
    gone: list[Block] = []
    for new, old in chains:
        if new is None:
            gone += [old] if old else []
        elif old is None:
            fresh.append(new)
        elif trusting and (lines := _edits(old, new)):
            edited.append((new, lines))
        else:
            changed.append(new)
    ahead: list[Block] = []
    if len(changed) > MANY:
        ahead, changed = _targets_first([*fresh, *changed]), []
    elif len(fresh) + len(changed) > PORTION:
        ahead = _targets_first(fresh)
    else:
        changed = _targets_first([*fresh, *changed])
    for some in _parts(ahead):
        yield _Portion(made=some)
    gone = _targets_first(gone)[::-1]
    together = trusting and len(gone) <= PORTION
    if decisive := _Portion(changed, edited, jumps, gone if together else ()):
        yield decisive
    for some in _parts([] if together else gone):
        yield _Portion(gone=some)


def _parts(blocks: Sequence[Block]) -> Iterator[Sequence[Block]]:
    for first in range(0, len(blocks), PORTION):
        yield blocks[first : first + PORTION]


def _targets_first(blocks: Sequence[Block]) -> list[Block]:
    """Return *blocks*, each after those it jumps to, so that they can be made in any portions."""
    waiting = {(block.table, block.name): block for block in blocks}
    found: list[Block] = []

    def visit(block: Block) -> None:
        for rule in block.lines:
            # The last -j of a rule is the jump: nothing that may hold one follows it.
            name = f" {rule}".rpartition(" -j ")[2].partition(" ")[0]
            if after := waiting.pop((block.table, name), None):
                visit(after)
        found.append(block)

    while waiting:
        visit(waiting.pop(next(iter(waiting))))
    return found


def _edits(old: Block, new: Block) -> list[str]:
    """Return the lines that make a long chain *new* of *old*; [] where it had better be refilled.

    What goes is named by its text and not by its number: should the chain be another than we
    think, the tool refuses.
    """
    if min(len(old.lines), len(new.lines)) < LONG:
        return []
    before, after = set(old.lines), set(new.lines)
    if len(before ^ after) > EDITS:
        return []
    if [line for line in old.lines if line in after] != [it for it in new.lines if it in before]:
        return []
    out = [f"-D {old.name} {line}" for line in old.lines if line not in after]
    for number, line in enumerate(new.lines, start=1):
        if line not in before:
            out.append(f"-I {new.name} {number} {line}")
    return out


def _transaction(argv: tuple[str, ...], portion: _Portion) -> Transaction:
    """Return the text of a portion.

    Within a table: chains are declared, which empties them, lines edited, rules appended, jumps
    taken out and put in, unwanted chains deleted. Declarations are sorted: the tool is a third
    quicker then.
    """
    tables: dict[str, list[list[str]]] = {}

    def at(table: str, stage: int) -> list[str]:
        return tables.setdefault(table, [[] for _ in range(5)])[stage]

    for block in joined(portion.made, portion.gone):
        at(block.table, 0).append(f":{block.name} - [0:0]")
    for block, lines in portion.edited:
        at(block.table, 1).extend(lines)
    for block in portion.made:
        at(block.table, 2).extend(f"-A {block.name} {line}" for line in block.lines)
    for new, old in portion.jumps:
        if old:
            at(old.table, 3).extend(f"-D {old.name} {line}" for line in old.lines)
        if new:
            numbered = enumerate(new.lines, start=1)
            at(new.table, 3).extend(f"-I {new.name} {nr} {line}" for nr, line in numbered)
    for block in portion.gone:
        at(block.table, 4).append(f"-X {block.name}")
    text: list[str] = []
    for table in sorted(tables):
        tables[table][0].sort()
        text += [f"*{table}", *joined.from_iterable(tables[table]), "COMMIT"]
    return Transaction(argv, "\n".join(text) + "\n", len(tables))


def place(text: str, number: int) -> Place:
    """Return where line *number* (1 is the first) of a transaction's text stands."""
    lines = text.splitlines()[:number]
    line = lines[-1] if lines else ""
    table = next((it[1:] for it in reversed(lines) if it.startswith("*")), "")
    words = line.split(" ")
    chain = words[1] if line.startswith("-") and len(words) > 1 else words[0][1:]
    return Place(table, chain if line[:1] in ("-", ":") else "", line)


# ---------------------------------------------------------------------------- from the kernel


def blocks(saved: str, family: Family) -> dict[Key, Block]:
    """Return what iptables-save printed of ours: our chains, and what jumps to them.

    Where in a built-in chain our jumps stand among others' rules is left out of it. Whoever puts
    rules in front of ours (Docker and Calico do, at their own starts) has a reason, and would put
    them there again; kube-proxy too sees to the head of the chain only when it adds a jump.
    """
    found: dict[Key, list[str]] = {}
    for key, rule, _ in _rules(saved, family):
        lines = found.setdefault(key, [])
        if rule is not None:
            lines.append(rule)
    return {key: Block(*key, lines=tuple(lines)) for key, lines in found.items()}


def counters(saved: str, family: Family) -> dict[tuple[Key, int], tuple[int, int]]:
    """Return the packets and bytes that `iptables-save -c` printed, by block and line of it."""
    found: dict[tuple[Key, int], tuple[int, int]] = {}
    lines: dict[Key, int] = {}
    for key, rule, counter in _rules(saved, family):
        if rule is not None:
            packets, _, size = counter.strip("[] ").partition(":")
            number = lines[key] = lines.get(key, -1) + 1
            found[key, number] = int(packets or 0), int(size or 0)
    return found


def _rules(saved: str, family: Family) -> Iterator[tuple[Key, str | None, str]]:
    """Yield block, rule and `[packets:bytes] ` of each rule of ours; without a rule, each chain."""
    table = ""
    keys: dict[str, Key] = {}  # of the table's chains that may have rules of ours
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy = line[1:].split(" ", 2)[:2]
            if policy != "-":
                keys[name] = (family, Sort.JUMPS, table, name)
            elif is_ours(name):
                keys[name] = (family, Sort.CHAIN, table, name)
                yield keys[name], None, ""
        else:
            counter, flag, rest = line.partition("-A ")
            name, _, rule = rest.partition(" ")
            key = keys.get(name) if flag and counter[:1] in ("", "[") else None
            if key and (key[1] is Sort.CHAIN or is_ours(target(rule))):
                yield key, rule, counter
