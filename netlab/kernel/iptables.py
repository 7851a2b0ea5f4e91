"""Blocks of iptables rules in the namespace the calling thread is in, through the nft variant.

What is written is counted as netlab's own (see generation.py), so that nobody lists a big rule set
because of it.
"""

from __future__ import annotations

import logging
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

_ABSENT = ("Protocol not supported", "Operation not supported")  # no nftables in this kernel
_TIMEOUT = 120.0  # seconds for one run of a tool; 30,000 chains are listed in one

_log = logging.getLogger("netlab.kernel")


def read(families: Iterable[Family]) -> dict[Key, Block]:
    """Return all blocks that a proxy made here; none where the tool or nftables is missing.

    Warns of legacy tables: their rules apply beside ours, and no nft tool shows them.
    Raises KernelError.
    """
    found: dict[Key, Block] = {}
    for family in families:
        found.update(iptables_text.blocks(_saved(family), family))
        if tables := legacy_tables(family):
            _log.warning("iptables-legacy has tables here besides: %s", ", ".join(tables))
    return found


def counters(
    families: Iterable[Family],
) -> dict[tuple[Key, int], tuple[int, int]]:
    """Return packets and bytes of each rule, by its block and its place among the block's lines.

    Raises KernelError.
    """
    found: dict[tuple[Key, int], tuple[int, int]] = {}
    for family in families:
        found.update(iptables_text.counters(_saved(family, "-c"), family))
    return found


def write(steps: Sequence[Step]) -> None:
    """Make *steps* true: nothing of what packets can reach, or all of it; see `transactions`.

    When the tool refuses because a chain is not as its step says, or because somebody else's rule
    jumps to a chain that has to go, all the rest is still written. Raises KernelError, which names
    the block and the line, and CapabilityError; then chains that nothing reaches may have been
    made: read again.
    """
    texts = iptables_text.transactions(steps)
    try:
        _restore(texts)
    except KernelError:
        careful = iptables_text.transactions(steps, trusting=False)
        if careful == texts:
            raise
        _restore(careful)


def legacy_tables(family: Family) -> list[str]:
    """Return the names of the tables that iptables-legacy, or its first listing, has made here."""
    try:
        with open(f"/proc/thread-self/net/{LEGACY[family]}") as names:
            return names.read().split()
    except FileNotFoundError:
        return []


def _saved(family: Family, *options: str) -> str:
    argv = (f"{TOOLS[family]}-save", *options)
    try:
        done = run(argv, check=False, timeout=_TIMEOUT)
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
            done = run(each.argv, input=each.text, check=False, timeout=_TIMEOUT)
            if done.returncode:
                raise _refused(each, done.stderr)


def _refused(refused: Transaction, words: str) -> KernelError:
    said = " ".join(words.split())
    number = re.search(r"\bline:? (\d+)", said)
    table, chain, line = iptables_text.place(refused.text, int(number[1]) if number else 0)
    if not chain:
        return KernelError(f"{refused.argv[0]}: {said}")
    return KernelError(f"cannot write chain {chain} of table {table}: {line!r}: {said}")
