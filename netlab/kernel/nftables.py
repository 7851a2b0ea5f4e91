"""The rules of nftables mode in the namespace the calling thread is in: read, written, counted."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from netlab.errors import KernelError
from netlab.kernel import nft_messages, nft_names
from netlab.kernel.generation import here
from netlab.kernel.nft_expressions import Unencodable
from netlab.processes.commands import Completed, run
from netlab.proxy import nft_tables, nft_text
from netlab.proxy.addresses import Family
from netlab.proxy.nft_portions import portions
from netlab.proxy.nft_text import FAMILY_WORD, TABLES, Statement, Table
from netlab.proxy.ruleset import Block, Key, Step

FEW = 2000  # statements; encoding more takes longer than nft does
PATIENCE = 120.0  # seconds; 10,000 Services take two on an idle machine

_log = logging.getLogger("netlab.nftables")


def read(families: Iterable[Family], *, names: Iterable[str] = TABLES) -> dict[Key, Block]:
    """Return the blocks of the tables called *names*: a proxy's own. Raises KernelError."""
    return {
        key: block
        for table in _tables(families, names)
        for key, block in nft_text.blocks(_listing(table, "-s")).items()
    }


def counters(
    families: Iterable[Family], *, names: Iterable[str] = TABLES
) -> Mapping[tuple[Key, int], tuple[int, int]]:
    """Return packets and bytes of every rule with a counter, by block and position (from 0)."""
    return {
        where: count
        for table in _tables(families, names)
        for where, count in nft_text.counters(_listing(table)).items()
    }


def write(steps: Sequence[Step]) -> None:
    """Make the *steps* true, all at once or, when the kernel refuses one, none.

    A table none of whose blocks is left goes too. Without root a big write is done in portions:
    refused, it leaves blocks that nothing leads to. Raises KernelError, which names the block and
    the line that was refused.
    """
    remade = nft_tables.rebuilt(steps)
    if remade:
        names = {name for _, name in remade}
        steps = nft_tables.anew(steps, remade, read({one for one, _ in remade}, names=names))
    todo = nft_text.work(steps, dropped=remade | _emptied(steps))
    if not todo.statements:
        return
    try:
        _commit([todo.statements])
    except _TooLongError:
        try:
            _commit(portions(todo))
        except _TooLongError as error:
            hint = "as root: sysctl -w net.core.wmem_max=212992"
            raise KernelError("the rules do not fit a message", hint=hint) from error


class _TooLongError(Exception):
    """The kernel takes no transaction of this size from us."""


def _commit(transactions: Sequence[Sequence[Statement]]) -> None:
    """Do all *transactions*, one after the other. Raises _TooLongError, KernelError."""
    with here().ours(expected=len(transactions)):
        for statements in transactions:
            refused = _send(statements)
            if refused is None:
                _run(statements)
            elif refused:
                # nft says better what is wrong. Should it find nothing wrong, the fault is ours.
                _run(statements)
                _log.warning("nft alone could do: %s", refused)


def _send(statements: Sequence[Statement]) -> str | None:
    """Return why our own messages were refused, "" when all is done, None if there are none."""
    if len(statements) > FEW:
        return None
    try:
        return nft_messages.refusal(nft_messages.batch(statements))
    except Unencodable as what:
        _log.debug("for nft: %s", what)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise KernelError(f"cannot write the rules: {error.strerror}") from error
    return None


def _run(statements: Sequence[Statement]) -> None:
    text = nft_text.text(statements)
    done = run(("nft", "-f", "-"), input=text, check=False, timeout=PATIENCE)
    if done.returncode and os.strerror(errno.EMSGSIZE) in done.stderr:
        raise _TooLongError
    if done.returncode:
        raise _refused(statements, done)


def _tables(families: Iterable[Family], names: Iterable[str]) -> list[Table]:
    called = tuple(names)
    return nft_names.those_there((family, name) for family in families for name in called)


def _listing(table: Table, *options: str) -> str:
    argv = ("nft", *options, "list", "table", FAMILY_WORD[table[0]], table[1])
    done = run(argv, check=False, timeout=PATIENCE)
    if done.returncode:
        raise KernelError(f"cannot list table {argv[-2]} {argv[-1]}: {_words(done)}")
    return done.stdout


def _emptied(steps: Sequence[Step]) -> set[Table]:
    """Return the tables that hold nothing any more once the *steps* are done."""
    maybe = nft_tables.maybe_emptied(steps)
    return {table for table, gone in maybe.items() if nft_names.holds_only(table, gone)}


def _refused(lines: Sequence[Statement], done: Completed) -> KernelError:
    place = re.search(r"^/dev/stdin:(\d+):", done.stderr, re.MULTILINE)
    line = lines[int(place[1]) - 1] if place and int(place[1]) <= len(lines) else None
    what = "the rules"
    if line is not None and line.block is not None:
        block = line.block
        what = f"{block.sort} {block.name} of table {FAMILY_WORD[block.family]} {block.table}"
    elif line is not None:
        what = f"`{line.text}`"
    hint = f"the line was: {line.text}" if line is not None and line.block is not None else None
    return KernelError(f"cannot write {what}: {_words(done)}", hint=hint)


def _words(done: Completed) -> str:
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
    return re.sub(r"^\S+?:\d+:[\d-]+: ", "", said)
