"""Small nftables transactions as netlink messages of our own.

nft asks the kernel for all chains and sets before it does anything: with 10,000 Services 70 ms for
the change of one endpoint, which takes the kernel less than one. So statements whose words are
known here are sent as they are, in one batch, which the kernel takes whole or refuses.
Source: linux/netfilter/nf_tables.h (Linux 6.1); what nft 1.0.6 sends (`nft --debug=mnl`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from netlab.kernel.netlink import (
    CREATE,
    NETFILTER,
    Socket,
    attribute,
    message,
    nest,
    text,
)
from netlab.kernel.nft_expressions import Unencodable, host, padded, u32be, userdata, value, verdict
from netlab.kernel.nft_rules import NUMBER, address, port, protocol, rule
from netlab.proxy.nft_text import Statement, key

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

_TYPES: dict[str, tuple[int, Callable[[str], bytes]]] = {  # nft's TYPE_*
    "ipv4_addr": (7, address),
    "ipv6_addr": (8, address),
    "inet_proto": (12, protocol),
    "inet_service": (13, port),
}
_TYPE_SIZE = {"ipv4_addr": 4, "ipv6_addr": 16, "inet_proto": 1, "inet_service": 2}
_TYPE_BITS = 6  # of each type in the number of a concatenation
_INTEGER, _VERDICT = 4, 0xFFFFFF00  # nft's TYPE_INTEGER; NFT_DATA_VERDICT
_ANONYMOUS, _CONSTANT, _MAP = 0x1, 0x2, 0x8  # NFT_SET_*
_FLAGS = {"timeout": 0x10, "dynamic": 0x20, "constant": _CONSTANT}
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # milliseconds

# What nft notes of a set, for its own listings: kind, length, value (libnftnl/udata.h).
_BYTE_ORDER, _DATA_BYTE_ORDER, _KEY_TYPEOF, _DATA_TYPEOF, _DATA_INTERVAL, _SET_COMMENT = (
    0, 1, 3, 4, 6, 7,
)  # fmt: skip
_ANY_ORDER, _HOST_ORDER, _BIG_ENDIAN = 0, 1, 2  # nft's enum byteorder
_CONCATENATION, _A_VERDICT = 13, 1  # nft's EXPR_CONCAT, EXPR_VERDICT


class Message(NamedTuple):
    """A request of a batch, and the statement it is part of."""

    data: bytes
    statement: Statement


class _Head(NamedTuple):
    """What a set or map holds, as its head says."""

    types: tuple[str, ...] = ()
    is_map: bool = False
    flags: int = 0
    size: int = 0
    timeout: int = 0  # milliseconds
    comment: str = ""


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
    comment = "".join(_comment(line) for line in statement.what)
    noted = attribute(6, userdata(comment)) if comment else b""
    yield _request(_NEWTABLE, CREATE, statement, u32be(2, 0), noted)  # NFTA_TABLE_FLAGS


def _delete_table(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELTABLE, 0, statement)


def _comment(line: str) -> str:
    if not line.startswith('comment "'):
        raise Unencodable(line)
    return line[9:].rstrip(";").removesuffix('"')


def _add_chain(statement: Statement, _: int) -> Iterator[bytes]:
    hook = noted = b""
    for line in statement.what:
        if base := _BASE.fullmatch(line):
            kind, hooked, word, sign, offset, plain, policy = base.groups()
            priority = int(plain) if plain else _PRIORITY[word] + int(f"{sign or ''}{offset or 0}")
            hook = text(7, kind) + u32be(5, _POLICY[policy])  # NFTA_CHAIN_TYPE, POLICY
            hook += nest(4, u32be(1, _HOOK[hooked]), u32be(2, priority))
        else:
            noted = attribute(12, userdata(_comment(line)))  # NFTA_CHAIN_USERDATA
    yield _request(_NEWCHAIN, CREATE, statement, text(3, _name(statement)), hook, noted)


def _flush_chain(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELRULE, 0, statement, text(2, _name(statement)))


def _delete_chain(statement: Statement, _: int) -> Iterator[bytes]:
    yield _request(_DELCHAIN, 0, statement, text(3, _name(statement)))


def _add_rule(statement: Statement, number: int) -> Iterator[bytes]:
    found = rule(statement.what[0], statement.table[0], map_id=number)
    if found.choices:
        yield from _own_map(statement, found.choices, number)
    noted = attribute(7, found.userdata) if found.userdata else b""
    expressions = nest(4, found.expressions)
    where = text(2, _name(statement))
    yield _request(_NEWRULE, CREATE | APPEND, statement, where, expressions, noted)


def _own_map(
    statement: Statement, choices: Sequence[tuple[int, str]], number: int
) -> Iterator[bytes]:
    """Yield the map of a rule alone, from numbers to verdicts."""
    name, which = text(2, "__map%d"), u32be(10, number)
    kind = u32be(3, _ANONYMOUS | _CONSTANT | _MAP) + u32be(4, _INTEGER) + u32be(5, 4)
    data = u32be(6, _VERDICT) + u32be(7, 0) + nest(9, u32be(1, len(choices)))
    noted = _noted(_BYTE_ORDER, host(_HOST_ORDER)) + _noted(_DATA_BYTE_ORDER, host(_ANY_ORDER))
    noted += _noted(_DATA_TYPEOF, _typeof(_A_VERDICT)) + _noted(_DATA_INTERVAL, host(0))
    yield _request(_NEWSET, CREATE, statement, name, kind, data, which, attribute(13, noted))
    elements = (nest(1, value(1, host(one)), verdict(2, to_do)) for one, to_do in choices)
    listed = nest(3, *elements)
    yield _request(_NEWSETELEM, CREATE, statement, name, u32be(4, number), listed)


def _noted(kind: int, data: bytes) -> bytes:
    return bytes((kind, len(data))) + data


def _typeof(expression: int) -> bytes:
    return _noted(0, host(expression)) + _noted(1, b"")  # nft's NFTNL_UDATA_SET_TYPEOF_EXPR, _DATA


@lru_cache(maxsize=1 << 8)
def _head(lines: tuple[str, ...]) -> _Head:
    head = _Head()
    for line in lines:
        word, _, rest = line.rstrip(";").partition(" ")
        if word == "type":
            fields, _, data = rest.partition(" : ")
            if data not in ("", "verdict"):
                raise Unencodable(line)
            head = head._replace(types=tuple(fields.split(" . ")), is_map=bool(data))
        elif word == "flags":
            head = head._replace(flags=sum(_FLAGS[one] for one in rest.split(",")))
        elif word == "size":
            head = head._replace(size=int(rest))
        elif word == "timeout":
            head = head._replace(timeout=_milliseconds(rest))
        else:
            head = head._replace(comment=_comment(line))
    return head


def _milliseconds(words: str) -> int:
    found = re.findall(r"(\d+)(d|h|ms|m|s)", words)
    if "".join(number + unit for number, unit in found) != words:
        raise Unencodable(words)
    return sum(int(number) * _UNITS[unit] for number, unit in found)


def _add_set(statement: Statement, number: int) -> Iterator[bytes]:
    head = _head(statement.what)
    kind = 0
    for one in head.types:
        kind = kind << _TYPE_BITS | _TYPES[one][0]
    several = len(head.types) > 1
    size = sum(padded(_TYPE_SIZE[one]) if several else _TYPE_SIZE[one] for one in head.types)
    found = [text(2, _name(statement)), u32be(3, head.flags | (_MAP if head.is_map else 0))]
    found += [u32be(4, kind), u32be(5, size), u32be(10, number)]
    noted = _noted(_BYTE_ORDER, host(_ANY_ORDER if several else _BIG_ENDIAN))
    if head.is_map:
        found += [u32be(6, _VERDICT), u32be(7, 0)]
        noted += _noted(_DATA_BYTE_ORDER, host(_ANY_ORDER))
        noted += _noted(_KEY_TYPEOF, _typeof(_CONCATENATION)) if several else b""
        noted += _noted(_DATA_INTERVAL, host(0))
    if head.size:
        found.append(nest(9, u32be(1, head.size)))  # NFTA_SET_DESC
    if head.timeout:
        found.append(attribute(11, head.timeout.to_bytes(8, "big")))
    if head.comment:
        noted += _noted(_SET_COMMENT, head.comment.encode() + b"\0")
    yield _request(_NEWSET, CREATE, statement, *found, attribute(13, noted))


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
    head = _head(statement.block.head)
    found = (_element(head, line) for line in statement.what)
    return _request(kind, flags, statement, text(2, statement.block.name), nest(3, *found))


_ELEMENT_REST = re.compile(r'(?: comment "([^"]*)")?(?: : (.+))?')


def _element(head: _Head, line: str) -> bytes:
    start = key(line)
    rest = _ELEMENT_REST.fullmatch(line, len(start))
    words = start.split(" . ")
    if rest is None or len(words) != len(head.types):
        raise Unencodable(line)
    parts = [_TYPES[one][1](word) for one, word in zip(head.types, words, strict=True)]
    if len(parts) > 1:
        parts = [part.ljust(padded(len(part)), b"\0") for part in parts]
    comment, to_do = rest.groups()
    data = verdict(2, to_do) if to_do else b""
    return nest(
        1, value(1, b"".join(parts)), data, attribute(6, userdata(comment)) if comment else b""
    )


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
