"""Sets, maps and their elements as attributes of netlink messages.

A set's head says what it holds, in nft's words: `type ipv4_addr . inet_proto . inet_service :
verdict`. The kernel only knows sizes; what else nft wants to know again when it lists, it has the
kernel keep as userdata (libnftnl/udata.h).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from netlab.kernel.netlink import attribute, nest, text
from netlab.kernel.nft_expressions import Unencodable, host, padded, u32be, userdata, value, verdict
from netlab.kernel.nft_rules import address, port, protocol
from netlab.proxy.nft_text import key

OWN_MAP = "__map%d"  # the kernel puts a number in it


class _Type(NamedTuple):
    """A type of keys."""

    number: int  # nft's TYPE_*
    size: int  # bytes
    value: Callable[[str], bytes]


_TYPES = {
    "ipv4_addr": _Type(7, 4, address),
    "ipv6_addr": _Type(8, 16, address),
    "inet_proto": _Type(12, 1, protocol),
    "inet_service": _Type(13, 2, port),
}
_TYPE_BITS = 6  # of each type in the number of a concatenation
_INTEGER, _VERDICT = 4, 0xFFFFFF00  # nft's TYPE_INTEGER; NFT_DATA_VERDICT
_ANONYMOUS, _CONSTANT, _MAP = 0x1, 0x2, 0x8  # NFT_SET_*
_FLAGS = {"constant": _CONSTANT, "timeout": 0x10, "dynamic": 0x20}
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

_BYTE_ORDER, _DATA_BYTE_ORDER = 0, 1  # NFTNL_UDATA_SET_*
_KEY_TYPEOF, _DATA_TYPEOF, _DATA_INTERVAL, _COMMENT = 3, 4, 6, 7
_ANY_ORDER, _HOST_ORDER, _BIG_ENDIAN = 0, 1, 2  # nft's enum byteorder
_CONCATENATION, _A_VERDICT = 13, 1  # nft's EXPR_CONCAT, EXPR_VERDICT


class Head(NamedTuple):
    """What a set or map holds."""

    types: tuple[_Type, ...] = ()
    is_map: bool = False
    flags: int = 0
    size: int = 0  # elements; 0: no limit
    timeout: int = 0  # milliseconds; 0: none
    comment: str = ""

    @property
    def concatenated(self) -> bool:
        return len(self.types) > 1


@lru_cache(maxsize=1 << 8)
def head(lines: tuple[str, ...]) -> Head:
    """Return what the *lines* of a head say. Raises Unencodable, KeyError, ValueError."""
    found = Head()
    for line in lines:
        word, _, rest = line.rstrip(";").partition(" ")
        if word == "type":
            fields, _, data = rest.partition(" : ")
            if data not in ("", "verdict"):
                raise Unencodable(line)
            types = tuple(_TYPES[one] for one in fields.split(" . "))
            found = found._replace(types=types, is_map=bool(data))
        elif word == "flags":
            found = found._replace(flags=sum(_FLAGS[one] for one in rest.split(",")))
        elif word == "size":
            found = found._replace(size=int(rest))
        elif word == "timeout":
            found = found._replace(timeout=_milliseconds(rest))
        else:
            found = found._replace(comment=comment(line))
    return found


def comment(line: str) -> str:
    """Return what `comment "..."` says. Raises Unencodable: the line is no comment."""
    if not line.startswith('comment "'):
        raise Unencodable(line)
    return line[9:].rstrip(";").removesuffix('"')


def _milliseconds(words: str) -> int:
    found = re.findall(r"(\d+)(d|h|ms|m|s)", words)
    if "".join(number + unit for number, unit in found) != words:
        raise Unencodable(words)
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in found)


def declared(name: str, given: Head, number: int) -> bytes:
    """Return the attributes of a set or map; *number* is its own in the batch."""
    kind, size = 0, 0
    for one in given.types:
        kind = kind << _TYPE_BITS | one.number
        size += padded(one.size) if given.concatenated else one.size
    found = text(2, name) + u32be(3, given.flags | (_MAP if given.is_map else 0))
    found += u32be(4, kind) + u32be(5, size) + u32be(10, number)
    noted = _noted(_BYTE_ORDER, host(_ANY_ORDER if given.concatenated else _BIG_ENDIAN))
    if given.is_map:
        found += u32be(6, _VERDICT) + u32be(7, 0)
        noted += _noted(_DATA_BYTE_ORDER, host(_ANY_ORDER))
        noted += _noted(_KEY_TYPEOF, _typeof(_CONCATENATION)) if given.concatenated else b""
        noted += _noted(_DATA_INTERVAL, host(0))
    if given.size:
        found += nest(9, u32be(1, given.size))  # NFTA_SET_DESC
    if given.timeout:
        found += attribute(11, given.timeout.to_bytes(8, "big"))
    if given.comment:
        noted += _noted(_COMMENT, given.comment.encode() + b"\0")
    return found + attribute(13, noted)


def element(given: Head, line: str) -> bytes:
    """Return `10.96.0.40 . tcp . 80 comment "x" : goto reject-chain`, or only its key.

    Raises Unencodable, ValueError, KeyError.
    """
    start = key(line)
    rest = _REST.fullmatch(line, len(start))
    words = start.split(" . ")
    if rest is None or len(words) != len(given.types):
        raise Unencodable(line)
    parts = [kind.value(word) for kind, word in zip(given.types, words, strict=True)]
    if any(len(part) != kind.size for kind, part in zip(given.types, parts, strict=True)):
        raise Unencodable(line)
    if given.concatenated:
        parts = [part.ljust(padded(len(part)), b"\0") for part in parts]
    said, to_do = rest.groups()
    data = verdict(2, to_do) if to_do else b""
    return nest(1, value(1, b"".join(parts)), data, attribute(6, userdata(said)) if said else b"")


_REST = re.compile(r'(?: comment "([^"]*)")?(?: : (.+))?')


def own_map(choices: Sequence[tuple[int, str]], number: int) -> tuple[bytes, bytes]:
    """Return a map of one rule alone, from numbers to verdicts: its declaration, its elements.

    *number* is its own in the batch. Raises Unencodable.
    """
    name = text(2, OWN_MAP)
    kind = u32be(3, _ANONYMOUS | _CONSTANT | _MAP) + u32be(4, _INTEGER) + u32be(5, 4)
    data = u32be(6, _VERDICT) + u32be(7, 0) + nest(9, u32be(1, len(choices)))
    noted = _noted(_BYTE_ORDER, host(_HOST_ORDER)) + _noted(_DATA_BYTE_ORDER, host(_ANY_ORDER))
    noted += _noted(_DATA_TYPEOF, _typeof(_A_VERDICT)) + _noted(_DATA_INTERVAL, host(0))
    elements = (nest(1, value(1, host(one)), verdict(2, to_do)) for one, to_do in choices)
    return (
        name + kind + data + u32be(10, number) + attribute(13, noted),
        name + u32be(4, number) + nest(3, *elements),
    )


def _noted(kind: int, data: bytes) -> bytes:
    return bytes((kind, len(data))) + data


def _typeof(expression: int) -> bytes:
    return _noted(0, host(expression)) + _noted(1, b"")  # nft's NFTNL_UDATA_SET_TYPEOF_EXPR, _DATA
