"""A rule's text as the expressions the kernel keeps of it: the part of nft's language in use here.

The words are those `nft -s list` prints; what is encoded lists as those words again. A rule is
matches and statements in a row. A match compares a field of the packet, or looks it, or several in
a row, up in a set or map.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from netlab.kernel import nft_expressions as nft
from netlab.kernel.nft_expressions import Payload, Unencodable, host, padded
from netlab.proxy.addresses import Family

NUMBER = {Family.IPV4: 2, Family.IPV6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6
PROTOCOL = {"tcp": 6, "udp": 17, "sctp": 132}

_ADDRESS = {  # where they are
    "ip saddr": Payload(nft.NETWORK, 12, 4),
    "ip daddr": Payload(nft.NETWORK, 16, 4),
    "ip6 saddr": Payload(nft.NETWORK, 8, 16),
    "ip6 daddr": Payload(nft.NETWORK, 24, 16),
}
_DESTINATION_PORT = Payload(nft.TRANSPORT, 2, 2)
_INTERFACE = {"iifname": nft.IIFNAME, "oifname": nft.OIFNAME}
_INTERFACE_NAME = 16  # bytes; IFNAMSIZ
_CT_STATE = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_PORT_UNREACHABLE = {Family.IPV4: 3, Family.IPV6: 4}  # ICMP and ICMPv6 codes


class Rule(NamedTuple):
    """A rule in the kernel's form."""

    expressions: bytes
    userdata: bytes  # its comment
    choices: tuple[tuple[int, str], ...]  # its own map: numbers and verdicts


class _Words:
    """The words of a rule, read from the left."""

    def __init__(self, rule: str, family: Family, map_id: int) -> None:
        self.rule, self.family, self.map_id = rule, family, map_id
        self.choices: tuple[tuple[int, str], ...] = ()
        body, _, comment = rule.partition(' comment "')
        self.comment = comment.removesuffix('"')
        self._rest = body.split()[::-1]

    def __bool__(self) -> bool:
        return bool(self._rest)

    def next(self) -> str:
        return self._rest.pop() if self._rest else ""

    def skip(self, *words: str) -> bool:
        """Read *words* if they come next."""
        if tuple(self._rest[: -len(words) - 1 : -1]) != words:
            return False
        del self._rest[-len(words) :]
        return True

    def expect(self, *words: str) -> None:
        if not self.skip(*words):
            raise Unencodable(self.rule)


class _Field(NamedTuple):
    """What a match looks at."""

    load: Callable[[int], bytes]  # the expression that puts it into a register
    size: int  # bytes
    value: Callable[[str], bytes]
    before: bytes = b""  # what must hold first


def rule(line: str, family: Family, *, map_id: int) -> Rule:
    """Return the rule of these words. Raises Unencodable.

    *map_id* is the number of its own map in the batch, if it turns out to have one.
    """
    words = _Words(line, family, map_id)
    found = b""
    try:
        while words:
            word = words.next()
            found += _STATEMENTS[word](words) if word in _STATEMENTS else _match(word, words)
    except (ValueError, KeyError, OverflowError) as error:  # no address, number or known word
        raise Unencodable(line) from error
    return Rule(found, nft.userdata(words.comment), words.choices)


def _match(word: str, words: _Words) -> bytes:
    if word == "fib":
        side = {"saddr": nft.SADDR, "daddr": nft.DADDR}[words.next()]
        words.expect("type", "local")
        return nft.is_local(side)
    if word == "meta" and words.skip("mark", "set", "meta", "mark"):
        return _marked(words)
    field = _field(word, words)
    loads, size = field.before + field.load(1), padded(field.size)
    several = False
    while words.skip("."):
        several = True
        other = _field(words.next(), words)
        loads += other.load(nft.register(size))
        size += padded(other.size)
    if words.skip("vmap"):
        return loads + _verdict_map(words)
    unequal = words.skip("!=")
    operand = words.next()
    if operand.startswith("@"):
        return loads + nft.lookup(operand[1:], inverted=unequal)
    if several:
        raise Unencodable(words.rule)
    if operand == "&":
        return loads + _masked(field, words)
    if field.value is _states and not unequal:
        return (
            loads
            + nft.bitwise(field.value(operand), bytes(4))
            + nft.compare(bytes(4), unequal=True)
        )
    if field.value is address and "/" in operand:
        return _prefix(field, operand, unequal=unequal)
    data = field.value(operand)
    if len(data) > field.size:  # an address of the other family
        raise Unencodable(words.rule)
    return loads + nft.compare(data, unequal=unequal)


def _field(word: str, words: _Words) -> _Field:
    """Return the field whose first word is *word*."""
    if word in ("ip", "ip6"):
        if (word == "ip6") != (words.family is Family.IPV6):
            raise Unencodable(words.rule)
        where = _ADDRESS[f"{word} {words.next()}"]
        return _Field(lambda to: nft.load(where, to), where.size, address)
    if word in (*PROTOCOL, "th"):
        words.expect("dport")
        before = b"" if word == "th" else nft.load_meta(nft.L4PROTO) + nft.compare(protocol(word))
        return _Field(lambda to: nft.load(_DESTINATION_PORT, to), 2, port, before)
    if word == "meta" and words.skip("l4proto"):
        return _Field(lambda to: nft.load_meta(nft.L4PROTO, to), 1, protocol)
    if word == "meta" and words.skip("mark"):
        return _Field(lambda to: nft.load_meta(nft.MARK, to), 4, _number)
    if word in _INTERFACE:
        key = _INTERFACE[word]
        return _Field(lambda to: nft.load_meta(key, to), _INTERFACE_NAME, _interface)
    if word == "ct" and words.skip("state"):
        return _Field(lambda _: nft.load_ct_state(), 4, _states)
    if word == "numgen" and words.skip("random", "mod"):
        modulus = int(words.next())
        return _Field(lambda _: nft.random(modulus), 4, _number)
    raise Unencodable(words.rule)


def address(word: str) -> bytes:
    """Return an address as packets hold it. Raises ValueError."""
    return ip_address(word).packed


def port(word: str) -> bytes:
    """Return a port as packets hold it. Raises ValueError, OverflowError."""
    return int(word).to_bytes(2, "big")


def protocol(word: str) -> bytes:
    """Return a protocol as packets hold it. Raises KeyError: none of those Services have."""
    return bytes((PROTOCOL[word],))


def _number(word: str) -> bytes:
    return host(int(word, 0))


def _states(word: str) -> bytes:
    return host(sum(_CT_STATE[one] for one in word.split(",")))


def _interface(word: str) -> bytes:
    name = word.strip('"').encode()
    if b"\\" in name:
        raise Unencodable(word)
    return name[:-1] if name.endswith(b"*") else name.ljust(_INTERFACE_NAME, b"\0")


def _prefix(field: _Field, operand: str, *, unequal: bool) -> bytes:
    """Return the match of a prefix: of whole bytes only those are loaded, as nft does it."""
    base, _, length = operand.partition("/")
    bits, data = int(length), address(base)
    size = len(data)
    if not 0 <= bits < 8 * size or size != field.size:
        raise ValueError(operand)
    if bits % 8 == 0 and bits:
        # The length of what is loaded is the last number of the expression.
        short = field.load(1)[:-4] + (bits // 8).to_bytes(4, "big")
        return short + nft.compare(data[: bits // 8], unequal=unequal)
    mask = ((1 << bits) - 1 << 8 * size - bits).to_bytes(size, "big")
    return field.load(1) + nft.bitwise(mask, bytes(size)) + nft.compare(data, unequal=unequal)


def _masked(field: _Field, words: _Words) -> bytes:
    mask = field.value(words.next())
    unequal = words.skip("!=")
    if not unequal:
        words.expect("==")
    compared = nft.compare(field.value(words.next()), unequal=unequal)
    return nft.bitwise(mask, bytes(len(mask))) + compared


def _marked(words: _Words) -> bytes:
    operator, bits = words.next(), int(words.next(), 0)
    all_bits = 0xFFFFFFFF
    mask, xor = {"&": (bits, 0), "|": (all_bits & ~bits, bits), "^": (all_bits, bits)}[operator]
    changed = nft.bitwise(host(mask), host(xor))
    return nft.load_meta(nft.MARK) + changed + nft.set_meta(nft.MARK)


def _verdict_map(words: _Words) -> bytes:
    """Return the lookup of a verdict: in a map with a name, or in one of the rule's own."""
    name = words.next()
    if name.startswith("@"):
        return nft.look_up_verdict(name[1:])
    if name != "{" or words.choices:
        raise Unencodable(words.rule)
    inner = []
    while (word := words.next()) != "}":
        if not word:
            raise Unencodable(words.rule)
        inner.append(word)
    pairs = [one.split(" : ") for one in " ".join(inner).split(", ")]
    words.choices = tuple((int(number), to_do) for number, to_do in pairs)
    return nft.look_up_verdict("__map%d", map_id=words.map_id)


def _update(words: _Words) -> bytes:
    name = words.next()
    words.expect("{")
    field = _field(words.next(), words)
    words.expect("}")
    return field.load(1) + nft.update(name[1:])


def _dnat(words: _Words) -> bytes:
    words.expect("to")
    to, _, number = words.next().rpartition(":")
    return nft.dnat(NUMBER[words.family], address(to.strip("[]")), port(number))


def _jump(word: str) -> Callable[[_Words], bytes]:
    return lambda words: nft.do(f"{word} {words.next()}")


def _end(word: str) -> Callable[[_Words], bytes]:
    return lambda _: nft.do(word)


_STATEMENTS: dict[str, Callable[[_Words], bytes]] = {
    **{word: _jump(word) for word in ("jump", "goto")},
    **{word: _end(word) for word in ("accept", "drop", "return")},
    "counter": lambda _: nft.counter(),
    "update": _update,
    "dnat": _dnat,
    "masquerade": lambda words: nft.masquerade(fully_random=words.skip("fully-random")),
    "reject": lambda words: nft.reject(_PORT_UNREACHABLE[words.family]),
}
