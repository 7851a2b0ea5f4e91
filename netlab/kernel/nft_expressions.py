"""The expressions that the kernel keeps of nftables rules, one by one, as netlink attributes.

A rule is a list of them: some load a field of the packet into a register, compare, or look up;
the others do something. Registers: 1 to 4 have 16 bytes each, 8 to 23 are the same in words of 4.
Source: linux/netfilter/nf_tables.h (Linux 6.1); what nft 1.0.6 sends (`nft --debug=mnl`).
"""

from __future__ import annotations

import sys
from struct import pack
from typing import NamedTuple

from netlab.kernel.netlink import attribute, nest, text

NETWORK, TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
L4PROTO, MARK, IIFNAME, OIFNAME = 16, 3, 6, 7  # NFT_META_*
SADDR, DADDR = 1, 2  # NFTA_FIB_F_*

_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_VALUE, _VERDICT = 1, 2  # NFTA_DATA_*
_EQUAL, _UNEQUAL = 0, 1  # NFT_CMP_*
_VERDICTS = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
_REGISTER32 = 8  # NFT_REG32_00
_LOCAL = 2  # RTN_LOCAL
_FULLY_RANDOM = 0x10  # NF_NAT_RANGE_PROTO_RANDOM_FULLY
_PROTO_SPECIFIED = 0x2  # NF_NAT_RANGE_PROTO_SPECIFIED
COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT, NFTNL_UDATA_SET_ELEM_COMMENT


class Unencodable(Exception):
    """Words for which there is no message here: nft knows more."""


class Payload(NamedTuple):
    """Bytes of the packet."""

    header: int
    offset: int
    size: int


def u32be(kind: int, number: int) -> bytes:
    """Return an attribute that holds a number as nftables wants it: big endian."""
    return pack("=HH", 8, kind) + (number & 0xFFFFFFFF).to_bytes(4, "big")


def value(kind: int, data: bytes) -> bytes:
    """Return an attribute that holds a value."""
    return nest(kind, attribute(_VALUE, data))


def verdict(kind: int, words: str) -> bytes:
    """Return an attribute that holds a verdict: `drop`, `goto x`. Raises Unencodable."""
    word, _, chain = words.partition(" ")
    if word not in _VERDICTS or (word in ("jump", "goto")) != bool(chain):
        raise Unencodable(words)
    target = text(2, chain) if chain else b""  # NFTA_VERDICT_CHAIN
    return nest(kind, nest(_VERDICT, u32be(1, _VERDICTS[word]), target))  # NFTA_VERDICT_CODE


def userdata(comment: str) -> bytes:
    """Return the *comment* of a rule or element as nft has the kernel keep it, b"" for none."""
    data = comment.encode() + b"\0"
    return bytes((COMMENT, len(data))) + data if comment else b""


def host(number: int, size: int = 4) -> bytes:
    """Return a number as the machine keeps it."""
    return number.to_bytes(size, sys.byteorder)


def padded(size: int) -> int:
    """Return what a field of *size* bytes takes among registers, or in a concatenation."""
    return (size + 3) & ~3


def register(start: int) -> int:
    """Return the number of the register that begins *start* bytes after the first."""
    return 1 + start // 16 if start % 16 == 0 else _REGISTER32 + start // 4


def _expression(name: str, *attributes: bytes) -> bytes:
    return nest(1, text(_NAME, name), nest(_DATA, *attributes))  # NFTA_LIST_ELEM


def load(field: Payload, to: int = 1) -> bytes:
    where = u32be(2, field.header) + u32be(3, field.offset)  # NFTA_PAYLOAD_BASE, OFFSET
    return _expression("payload", u32be(1, to), where, u32be(4, field.size))


def load_meta(key: int, to: int = 1) -> bytes:
    return _expression("meta", u32be(2, key), u32be(1, to))


def set_meta(key: int) -> bytes:
    return _expression("meta", u32be(2, key), u32be(3, 1))  # NFTA_META_SREG


def load_ct_state() -> bytes:
    return _expression("ct", u32be(2, 0), u32be(1, 1))  # NFT_CT_STATE


def is_local(side: int) -> bytes:
    """Return the match of packets whose source or destination is an address of this host."""
    result = u32be(3, side) + u32be(2, 3)  # NFTA_FIB_FLAGS; NFT_FIB_RESULT_ADDRTYPE
    return _expression("fib", result, u32be(1, 1)) + compare(host(_LOCAL))


def random(modulus: int) -> bytes:
    how = u32be(3, 1) + u32be(4, 0)  # NFTA_NG_TYPE: NFT_NG_RANDOM; NFTA_NG_OFFSET
    return _expression("numgen", u32be(1, 1), u32be(2, modulus), how)


def compare(data: bytes, *, unequal: bool = False) -> bytes:
    operator = u32be(2, _UNEQUAL if unequal else _EQUAL)
    return _expression("cmp", u32be(1, 1), operator, value(3, data))


def bitwise(mask: bytes, xor: bytes) -> bytes:
    """Return register 1 & *mask* ^ *xor*, into register 1."""
    sizes = u32be(1, 1) + u32be(2, 1) + u32be(3, len(mask))  # NFTA_BITWISE_SREG, DREG, LEN
    return _expression("bitwise", sizes, value(4, mask), value(5, xor))


def lookup(name: str, *, inverted: bool = False) -> bytes:
    """Return whether the set *name* has what begins in register 1."""
    flags = u32be(5, 1) if inverted else b""  # NFTA_LOOKUP_FLAGS: NFT_LOOKUP_F_INV
    return _expression("lookup", u32be(2, 1), text(1, name), flags)  # NFTA_LOOKUP_SREG, SET


def look_up_verdict(name: str, *, map_id: int | None = None) -> bytes:
    """Return the lookup of what to do; *map_id*: in the map of that number in the batch."""
    number = b"" if map_id is None else u32be(4, map_id)  # NFTA_LOOKUP_SET_ID
    return _expression("lookup", u32be(2, 1), u32be(3, 0), text(1, name), number)


def do(words: str) -> bytes:
    """Return a verdict. Raises Unencodable."""
    return _expression("immediate", u32be(1, 0), verdict(2, words))  # NFT_REG_VERDICT


def counter() -> bytes:
    return _expression("counter")


def update(name: str) -> bytes:
    """Return what puts register 1 into the set *name*, or begins its time there again."""
    # NFTA_DYNSET_SREG_KEY, NFTA_DYNSET_OP: NFT_DYNSET_OP_UPDATE, NFTA_DYNSET_SET_NAME
    return _expression("dynset", u32be(4, 1), u32be(3, 1), text(1, name))


def dnat(family: int, address: bytes, port: bytes) -> bytes:
    where = _expression("immediate", u32be(1, 1), value(2, address))
    where += _expression("immediate", u32be(1, 2), value(2, port))
    # NFTA_NAT_TYPE: NFT_NAT_DNAT; NFTA_NAT_FAMILY, REG_ADDR_MIN, REG_PROTO_MIN, FLAGS
    what = u32be(1, 1) + u32be(2, family) + u32be(3, 1) + u32be(5, 2)
    return where + _expression("nat", what, u32be(7, _PROTO_SPECIFIED))


def masquerade(*, fully_random: bool) -> bytes:
    return _expression("masq", u32be(1, _FULLY_RANDOM) if fully_random else b"")


def reject(code: int) -> bytes:
    """Return the refusal by an ICMP "unreachable" with *code*."""
    return _expression("reject", u32be(1, 0), attribute(2, bytes((code,))))
