"""Small nftables transactions as netlink messages of our own.

nft asks the kernel for all chains and sets before it does anything: with 10,000 Services 70 ms for
the change of one endpoint. So statements whose words are
known here are sent as they are, in one batch, which the kernel takes whole or refuses.

    nft_messages     statements as messages
    nft_sets         sets, maps and their elements
    nft_rules        a rule's words
    nft_expressions  what the kernel keeps of them

Source: linux/netfilter/nf_tables.h (Linux 6.1); what nft 1.0.6 sends (`nft --debug=mnl`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from netlab.kernel import nft_sets
from netlab.kernel.netlink import CREATE, NETFILTER, Socket, attribute, message, nest, text
from netlab.kernel.nft_expressions import Unencodable, u32be, userdata
from netlab.kernel.nft_rules import NUMBER, rule
from netlab.proxy.nft_text import Statement

SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
APPEND = 0x800  # NLM_F_APPEND
LARGEST = 1 << 20  # bytes of a batch; less where net.core.wmem_max says so
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE = 0, 2, 3, 5, 6, 8  # NFT_MSG_*
_NEWSET, _DELSET, _NEWSETELEM, _DELSETELEM = 9, 11, 12, 14

_HOOK = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}  # NF_INET_*
_PRIORITY = {
    "raw": -300,
    "mangle": -150,
    "dstnat": -100,
    "filter": 0,
    "security": 50,
    "srcnat": 100,
}
_POLICY = {"drop": 0, "accept": 1}
_BASE = re.compile(
    r"type (filter|nat|route) hook (\w+) priority (?:([a-z]+)(?: ([+-]) (\d+))?|(-?\d+)); "
    r"policy (accept|drop);"
)


class Message(NamedTuple):
    """A request of a batch, and the statement it is part of."""

    data: bytes
    statement: Statement


def batch(statements: Iterable[Statement]) -> list[Message]:
    """Return the messages that do *statements*. Raises Unencodable."""
    found: list[Message] = []
    for number, statement in enumerate(statements, 1):
        encode = _ENCODE.get((statement.verb, statement.kind))
        if encode is None:
            raise Unencodable(statement.text)
        try:
            found += [Message(data, statement) for data in encode(statement, number)]
        except (ValueError, KeyError, OverflowError, struct.error) as error:
            raise Unencodable(statement.text) from error
    return found


def refusal(messages: Sequence[Message]) -> str:
    """Commit *messages* where the calling thread is; return why that was refused, "" if it is done.

    Raises OSError (EMSGSIZE) when they are too many.
    """
    connection = Socket(NETFILTER)
    try:
        connection.room(LARGEST)
        errors = connection.commit(SUBSYSTEM, [one.data for one in messages])
    finally:
        connection.close()
    if not errors:
        return ""
    what = messages[errors[0].index].statement.text if errors[0].index >= 0 else "all of it"
    return f"{what}: {errors[0]}"


def _request(kind: int, flags: int, statement: Statement, *attributes: bytes) -> bytes:
    family, table = statement.table
    header = bytes((NUMBER[family], 0, 0, 0))  # nfgenmsg: family, version, resource
    body = header + text(1, table) + b"".join(attributes)  # NFTA_*_TABLE
    return message(SUBSYSTEM << 8 | kind, flags, body)


def _name(statement: Statement) -> str:
    assert statement.block is not None
    return statement.block.name


def _add_table(statement: Statement, _: int) -> Iterator[bytes]:
    comment = "".join(nft_sets.comment(line) for line in statement.what)
    noted = attribute(6, userdata(comment)) if comment else b""
    yield _request(_NEWTABLE, CREATE, statement, u32be(2, 0), noted)  # NFTA_TABLE_FLAGS


def _delete_table(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELTABLE, 0, statement)


def _add_chain(statement: Statement, _: int) -> Iterator[bytes]:
    hook = noted = b""
    for line in statement.what:
        if base := _BASE.fullmatch(line):
            kind, hooked, word, sign, offset, plain, policy = base.groups()
            priority = int(plain) if plain else _PRIORITY[word] + int(f"{sign or ''}{offset or 0}")
            hook = text(7, kind) + u32be(5, _POLICY[policy])  # NFTA_CHAIN_TYPE, POLICY
            hook += nest(4, u32be(1, _HOOK[hooked]), u32be(2, priority))
        else:
            noted = attribute(12, userdata(nft_sets.comment(line)))  # NFTA_CHAIN_USERDATA
    yield _request(_NEWCHAIN, CREATE, statement, text(3, _name(statement)), hook, noted)


def _flush_chain(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELRULE, 0, statement, text(2, _name(statement)))


def _delete_chain(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELCHAIN, 0, statement, text(3, _name(statement)))


def _add_rule(statement: Statement, number: int) -> Iterator[bytes]:
    found = rule(statement.what[0], statement.table[0], map_id=number)
    if found.choices:
        declared, elements = nft_sets.own_map(found.choices, number)
        yield _request(_NEWSET, CREATE, statement, declared)
        yield _request(_NEWSETELEM, CREATE, statement, elements)
    noted = attribute(7, found.userdata) if found.userdata else b""
    expressions = nest(4, found.expressions)
    where = text(2, _name(statement))
    yield _request(_NEWRULE, CREATE | APPEND, statement, where, expressions, noted)


def _add_set(statement: Statement, number: int) -> Iterator[bytes]:
    declared = nft_sets.declared(_name(statement), nft_sets.head(statement.what), number)
    yield _request(_NEWSET, CREATE, statement, declared)


def _flush_set(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELSETELEM, 0, statement, text(2, _name(statement)))


def _delete_set(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELSET, 0, statement, text(2, _name(statement)))


def _add_elements(statement: Statement, _: int) -> Iterator[bytes]:
    yield _elements(_NEWSETELEM, CREATE, statement)


def _delete_elements(statement: Statement, _: int) -> Iterator[bytes]:
    yield _elements(_DELSETELEM, 0, statement)


def _elements(kind: int, flags: int, statement: Statement) -> bytes:
    assert statement.block is not None
    head = nft_sets.head(statement.block.head)
    found = (nft_sets.element(head, line) for line in statement.what)
    return _request(kind, flags, statement, text(2, statement.block.name), nest(3, *found))


_ENCODE: dict[tuple[str, str], Callable[[Statement, int], Iterator[bytes]]] = {
    ("add", "table"): _add_table,
    ("delete", "table"): _delete_table,
    ("add", "chain"): _add_chain,
    ("flush", "chain"): _flush_chain,
    ("delete", "chain"): _delete_chain,
    ("add", "rule"): _add_rule,
    ("add", "set"): _add_set,
    ("flush", "set"): _flush_set,
    ("delete", "set"): _delete_set,
    ("add", "map"): _add_set,
    ("flush", "map"): _flush_set,
    ("delete", "map"): _delete_set,
    ("add", "element"): _add_elements,
    ("delete", "element"): _delete_elements,
}
