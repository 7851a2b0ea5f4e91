"""Rule sets as text: what the tools are given, and what their listings say.

Rules are not understood here: a rule is the text that iptables-save prints, a table the text that
`nft list table` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from netlab.objects import IptablesChain, IptablesJump, NftTable
from netlab.plan import Op, Verb

PREFIXES = ("FLANNEL-",)  # chains called so are netlab's, wanted or not

Chains = Mapping[tuple[str, str], tuple[str, ...]]  # (table, chain) to rules without -A CHAIN


class Script(NamedTuple):
    """Input of a tool, with the operation each line comes from."""

    lines: list[str]
    ops: list[Op | None]

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def commits(self) -> int:
        """How many commits the tool makes of it: one per table of iptables, or one in all."""
        return self.lines.count("COMMIT") or 1

    def op_at(self, line: int) -> Op:
        """Return the operation of a line (1 is the first), or else the first of all."""
        there = self.ops[line - 1] if 0 < line <= len(self.ops) else None
        return there or next(op for op in self.ops if op is not None)


def chains(saved: str) -> Chains:
    """Return the rules that iptables-save printed, by table and chain."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    rules: dict[tuple[str, str], list[str]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            rules[table, line[1:].split(" ", 1)[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2)
            rules.setdefault((table, chain), []).append(rule.strip())
    found.update((key, tuple(each)) for key, each in rules.items())
    return found


def rules(printed: str) -> tuple[str, ...]:
    """Return the rules that `iptables -S CHAIN` printed."""
    lines = printed.splitlines()
    return tuple(line.split(" ", 2)[2].strip() for line in lines if line.startswith("-A "))


def is_ours(chain: str) -> bool:
    return chain.startswith(PREFIXES)


def target(rule: str) -> str:
    """Return what a rule jumps or goes to, "" for none."""
    parts = rule.split(" ")
    for flag in ("-j", "-g"):
        if flag in parts[:-1]:
            return parts[parts.index(flag) + 1]
    return ""


def restore_script(ops: Iterable[Op], family: str = "ip") -> Script:
    """Return what iptables-restore --noflush, or ip6tables-restore, reads to do *ops*.

    Empty when there are none of *family*.

    In each table: jumps go, chains are declared (which empties them), rules and jumps are
    appended, unwanted chains go.
    """
    by_table: dict[str, list[Op]] = {}
    for op in ops:
        if isinstance(op.object, IptablesChain | IptablesJump) and op.object.family == family:
            by_table.setdefault(op.object.table, []).append(op)
    script = Script([], [])
    for table, members in by_table.items():
        _add(script, f"*{table}", None)
        for op in members:
            if isinstance(op.object, IptablesJump) and op.verb is Verb.DELETE:
                _add(script, f"-D {op.object.chain} {op.object.rule}", op)
        for op in members:
            if isinstance(op.object, IptablesChain):
                _add(script, f":{op.object.name} - [0:0]", op)
        for op in members:
            if isinstance(op.object, IptablesChain) and op.verb is not Verb.DELETE:
                for rule in op.object.rules:
                    _add(script, f"-A {op.object.name} {rule}", op)
        for op in members:
            if isinstance(op.object, IptablesJump) and op.verb is not Verb.DELETE:
                _add(script, f"-A {op.object.chain} {op.object.rule}", op)
        for op in members:
            if isinstance(op.object, IptablesChain) and op.verb is Verb.DELETE:
                _add(script, f"-X {op.object.name}", op)
        _add(script, "COMMIT", None)
    return script


def nft_script(ops: Sequence[Op]) -> Script:
    """Return what `nft -f` reads to put whole tables in place of old ones, in one transaction."""
    script = Script([], [])
    for op in ops:
        thing = op.object
        if not isinstance(thing, NftTable):
            continue
        named = f"table {thing.family} {thing.name}"
        # Adding first makes deleting right whether it was there or not.
        _add(script, f"add {named}", op)
        _add(script, f"delete {named}", op)
        if op.verb is not Verb.DELETE:
            for line in (f"{named} {{", *thing.body.splitlines(), "}"):
                _add(script, line, op)
    return script


def _add(script: Script, line: str, op: Op | None) -> None:
    script.lines.append(line)
    script.ops.append(op)


def table_body(listed: str) -> str:
    """Return what `nft list table` prints between the outer braces."""
    return listed[listed.index("{") + 1 : listed.rindex("}")].strip("\n") + "\n"


def same_text(one: str, other: str) -> bool:
    """Return whether two texts differ in nothing but white space."""
    return one.split() == other.split()
