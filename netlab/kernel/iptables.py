"""Blocks of iptables rules in the namespace the calling thread is in, through the nft variant.

What is written is counted as netlab's own (see generation.py), so that nobody lists a big rule set
because of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from netlab.errors import CapabilityError, KernelError
from netlab.kernel.generation import here
from netlab.processes.commands import run
from netlab.proxy import iptables_text
from netlab.proxy.addresses import Family
from netlab.proxy.iptables_text import TOOLS, Transaction
from netlab.proxy.ruleset import Block, Key, Step

LEGACY = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}  # below /proc/net

PATIENCE = 120.0  # seconds; 30,000 chains are listed in one on an idle machine

_ABSENT = ("Protocol not supported", "Operation not supported")  # no nftables in this kernel
_POINTER = re.compile(r"Error occurred at line: (\d+)|\bline (\d+)(?: failed)?:")
_NO_TARGET = re.compile(r"Chain '(\S+)' does not exist")  # told only at the end of the table
_ADVICE = re.compile(r"Try `.*' or '.*' for more information\.")
_TITLE = re.compile(r"^\S+-restore(?: v\S+ \(nf_tables\))?: ")


def read(families: Iterable[Family]) -> dict[Key, Block]:
    """Return all blocks that a proxy made here; none where the tool or nftables is missing.

    Raises KernelError.
    """
    found: dict[Key, Block] = {}
    for family in families:
        found.update(iptables_text.blocks(_saved(family), family))
    return found


def counters(families: Iterable[Family]) -> dict[tuple[Key, int], tuple[int, int]]:
    """Return packets and bytes of each rule, by its block and its place in it (from 0).

    Raises KernelError.
    """
    found: dict[tuple[Key, int], tuple[int, int]] = {}
    for family in families:
        found.update(iptables_text.counters(_saved(family, "-c"), family))
    return found


def write(steps: Sequence[Step]) -> None:
    """Make *steps* true: in each table, what packets can reach changes as a whole or not at all.

    When a tool refuses, what is really there is read, and all is tried again from that, removals
    last: so neither a rule that went behind our back nor somebody else's jump to a chain that is
    to go keeps the rest from being written. Raises KernelError, which names the block and the
    line, and CapabilityError. Then earlier tables, and chains that nothing reaches, may have been
    written: read again.
    """
    try:
        _restore(iptables_text.transactions(steps))
    except KernelError:
        there = read({step.block.family for step in steps})
        again = [
            Step(step.new, there.get(step.block.key))
            for step in steps
            if step.new or step.block.key in there
        ]
        _restore(iptables_text.transactions(again, trusting=False))


def legacy_tables(family: Family) -> list[str]:
    """Return the tables that iptables-legacy has here, whose rules apply beside all others.

    No nft tool shows them; the first listing by iptables-legacy makes them, if empty.
    """
    try:
        with open(f"/proc/thread-self/net/{LEGACY[family]}") as names:
            return names.read().split()
    except FileNotFoundError:
        return []


def _saved(family: Family, *options: str) -> str:
    try:
        done = run((f"{TOOLS[family]}-save", *options), check=False, timeout=PATIENCE)
    except CapabilityError:
        return ""
    if done.returncode == 0:
        return done.stdout
    if any(words in done.stderr for words in _ABSENT):
        return ""
    raise KernelError(f"cannot list the {family} rules: {' '.join(done.stderr.split())}")


def _restore(texts: Sequence[Transaction]) -> None:
    for each in texts:
        with here().ours(expected=each.commits):
            done = run(each.argv, input=each.text, check=False, timeout=PATIENCE)
            if done.returncode:
                raise _refused(each, done.stderr)


def _refused(refused: Transaction, said: str) -> KernelError:
    number = next((int(it[1] or it[2]) for it in _POINTER.finditer(said)), 0)
    if missing := _NO_TARGET.search(said):
        jumps = (f"-j {missing[1]}", f"-g {missing[1]}")
        lines = enumerate(refused.text.splitlines(), start=1)
        number = next((nr for nr, line in lines if line.endswith(jumps)), number)
    table, chain, line = iptables_text.place(refused.text, number)
    what = f"chain {chain} of table {table}" if chain else f"table {table}" if table else "rules"
    words = " ".join(_ADVICE.sub("", _POINTER.sub("", _TITLE.sub("", said))).split())
    hint = f"the line was: {line}" if chain else None
    return KernelError(f"{refused.argv[0]}: cannot write {what}: {words}", hint=hint)
