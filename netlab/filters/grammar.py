"""The words of a filter, to a tree of conditions.

    expression  = all { ( "or" | "||" ) all }
    all         = one { ( "and" | "&&" ) one }
    one         = ( "not" | "!" ) one | "(" expression ")" | condition
    condition   = [ protocol ] [ "src" | "dst" ] subject | protocol | "vxlan" [ VNI ]
    subject     = [ "host" ] ADDRESS-OR-NAME | "net" CIDR | "port" N | "portrange" N-M
                | "pod" [NS/]NAME | "node" NAME | ( "svc" | "service" ) [NS/]NAME
    protocol    = "tcp" | "udp" | "icmp" | "sctp" | "arp" | "ip" | "ip6"

A condition is true of a frame when it is true of its packet, or of the one inside VXLAN.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

import msgspec

from netlab.annotation.headers import SCTP, TCP, UDP
from netlab.errors import NetlabError, UsageError

Network = IPv4Network | IPv6Network

PORTED = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
PROTOCOLS = ("tcp", "udp", "icmp", "sctp", "arp", "ip", "ip6")
SIDES = ("src", "dst")
NAMED = {"pod": "pod", "node": "node", "svc": "svc", "service": "svc"}
SUBJECTS = ("host", "net", "port", "portrange", *NAMED)
HIGHEST = 65535

_WORD = re.compile(r"\s*(\(|\)|&&|\|\||!|[^\s()!&|]+|[&|])")


class Kind(msgspec.Struct, frozen=True):
    """A frame of a protocol: `arp`, `ip`, `ip6`, or one of IP's by name."""

    name: str


class Wrapped(msgspec.Struct, frozen=True):
    """A VXLAN envelope, of a VNI or of any (-1)."""

    vni: int = -1


class End(msgspec.Struct, frozen=True):
    """One end of a packet. `side`: `src`, `dst`, "" for either.

    `network` None: any address. `low`, `high`: its port, 0 to -1 for any. `protocol`: "" for any.
    """

    side: str = ""
    network: Network | None = None
    protocol: str = ""
    low: int = 0
    high: int = -1

    @property
    def ported(self) -> bool:
        return self.high >= 0


class Not(msgspec.Struct, frozen=True):
    one: Condition


class All(msgspec.Struct, frozen=True):
    parts: tuple[Condition, ...]


class OneOf(msgspec.Struct, frozen=True):
    parts: tuple[Condition, ...]


Condition = Kind | Wrapped | End | Not | All | OneOf
# The ends that a name stands for; raises NetlabError when it stands for nobody. Kinds: those of
# NAMED, and `host`.
Names = Callable[[str, str], list[End]]


class _Word(NamedTuple):
    text: str
    column: int


def parsed(text: str, names: Names) -> Condition:
    """Return the tree of a filter. Raises UsageError that says where it is wrong, and how."""
    words, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = _WORD.match(text, at)
        assert found
        words.append(_Word(found[1], found.start(1) + 1))
        at = found.end()
    reader = _Reader(words, names, len(text) + 1)
    tree = reader.expression()
    if reader.word.text:
        raise reader.wrong("`and` or `or` is missing before it")
    return tree


class _Reader:
    def __init__(self, words: list[_Word], names: Names, end: int) -> None:
        self._words = [*words, _Word("", end)]
        self._names = names
        self._at = 0

    @property
    def word(self) -> _Word:
        return self._words[self._at]

    def wrong(self, what: str, word: _Word | None = None, *, hint: str = "") -> UsageError:
        text, column = word or self.word
        where = f"at {text!r}, column {column}" if text else "at its end"
        return UsageError(f"filter: {where}: {what}", hint=hint or None)

    def take(self, *texts: str) -> str:
        """Return the next word if it is one of *texts*, and pass over it; otherwise ""."""
        text = self.word.text
        if text and text in texts:
            self._at += 1
            return text
        return ""

    def expression(self) -> Condition:
        parts = [self.all_of()]
        while self.take("or", "||"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else OneOf(tuple(parts))

    def all_of(self) -> Condition:
        parts = [self.one()]
        while self.take("and", "&&"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def one(self) -> Condition:
        if self.take("not", "!"):
            return Not(self.one())
        opened = self.word
        if self.take("("):
            inside = self.expression()
            if not self.take(")"):
                raise self.wrong("it is never closed", opened)
            return inside
        return self.condition()

    def condition(self) -> Condition:
        if self.take("vxlan"):
            return Wrapped(self.number(1 << 24, "a VNI") if self.word.text.isdigit() else -1)
        protocol = self.take(*PROTOCOLS)
        side = self.take(*SIDES)
        if self.word.text not in SUBJECTS and protocol and not side:
            return Kind(protocol)
        ends = self.subject(protocol, side)
        limited = tuple(self.limited(end, protocol, side) for end in ends)
        whole = limited[0] if len(limited) == 1 else OneOf(limited)
        if protocol and protocol not in PORTED:
            return All((Kind(protocol), whole))
        return whole

    def limited(self, end: End, protocol: str, side: str) -> End:
        spoken = protocol if protocol in PORTED else end.protocol
        return msgspec.structs.replace(end, side=side, protocol=spoken)

    def subject(self, protocol: str, side: str) -> list[End]:
        kind = self.take(*SUBJECTS)
        word = self.word
        if not word.text or word.text in ("and", "or", "not", "&&", "||", "!", "(", ")"):
            hint = "" if kind or side or protocol else "such as: port 80, host web-1, tcp"
            raise self.wrong(f"what {kind or side or 'to look for'} is missing", hint=hint)
        if kind in ("port", "portrange"):
            if protocol and protocol not in PORTED:
                raise self.wrong(f"{protocol} has no ports")
            low, high = self.ports(ranged=kind == "portrange")
            return [End(low=low, high=high)]
        if not kind and not side and word.text.isdigit():
            raise self.wrong("a number alone says nothing", hint=f"port {word.text}?")
        if not kind and not side:
            raise self.unknown(word)
        if kind == "net":
            return [End(network=self.network())]
        self._at += 1
        return self.named(kind, word, protocol)

    def unknown(self, word: _Word) -> UsageError:
        from difflib import get_close_matches

        near = get_close_matches(word.text, [*SUBJECTS, *PROTOCOLS, *SIDES, "vxlan", "not"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"host {word.text}?"
        return self.wrong("nothing a filter knows", word, hint=hint)

    def named(self, kind: str, word: _Word, protocol: str) -> list[End]:
        if kind in ("", "host"):
            try:
                return [End(network=ip_network(word.text))]
            except ValueError:
                pass
        try:
            ends = self._names(NAMED.get(kind, "host"), word.text)
        except NetlabError as error:
            raise self.wrong(error.message, word, hint=error.hint or "") from error
        # `udp svc web`: its UDP ports only.
        fitting = [one for one in ends if one.protocol in ("", protocol) or not protocol]
        if not fitting:
            raise self.wrong(f"it has no {protocol} port", word)
        return fitting

    def network(self) -> Network:
        word = self.word
        try:
            found = ip_network(word.text)
        except ValueError:
            raise self.wrong("no network", hint="such as 10.244.1.0/24") from None
        self._at += 1
        return found

    def ports(self, *, ranged: bool) -> tuple[int, int]:
        if not ranged:
            number = self.number(HIGHEST + 1, "a port")
            return number, number
        low, dash, high = self.word.text.partition("-")
        numbers = [int(one) for one in (low, high) if one.isascii() and one.isdigit()]
        if not dash or len(numbers) < 2 or not numbers[0] <= numbers[1] <= HIGHEST:
            raise self.wrong("no range of ports", hint="such as 30000-32767")
        self._at += 1
        return numbers[0], numbers[1]

    def number(self, end: int, what: str) -> int:
        text = self.word.text
        if not (text.isascii() and text.isdigit() and int(text) < end):
            raise self.wrong(f"{what} is a number from 0 to {end - 1}")
        self._at += 1
        return int(text)
