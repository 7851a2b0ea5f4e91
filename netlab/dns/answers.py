"""From the bytes of a query to the bytes of its answer.

1. A query that came before is answered by a look-up: the key is all of it but its number, the name
   in lower case; the number and the name, in the letters it was asked in, are put into what was
   written then. A change of the zone begins anew.
2. Addresses take turns: each answer begins with the next one (CoreDNS's loadbalance shuffles).
3. What is asked wrongly is answered as CoreDNS does. Source: miekg/dns acceptfunc.go, server.go;
   coredns core/dnsserver/server.go, request/request.go.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple, Protocol

from netlab.dns import wire
from netlab.dns.wire import Malformed, Name, Query, Record

REMEMBERED = 20_000  # answers


class Forward(NamedTuple):
    """A question for somebody else. *chased*: what is put before the answer, of which the rest is
    asked for: the aliases that lead to *name*; empty: the question goes on as it came."""

    query: Query
    name: Name
    chased: tuple[Record, ...] = ()


class Outcome(NamedTuple):
    """What is said to a question. *denial*: the SOA record that goes with nothing; *flags*: of the
    header, beside the usual."""

    rcode: int = wire.NOERROR
    answers: Sequence[Record] = ()
    additional: Sequence[Record] = ()
    denial: Record | None = None
    flags: int = wire.AA


class Packed(NamedTuple):
    """An answer without its number and question. Of *turning*, pieces of *width* bytes each, the
    first *kept* are sent, beginning with another one each time."""

    flags: bytes
    counts: bytes
    before: bytes
    turning: bytes
    width: int
    kept: int
    after: bytes

    def message(self, asked: bytes, end: int, turn: int) -> bytes:
        """Return the answer to *asked*, whose question ends at *end*."""
        turning = self.turning
        if self.width:
            at = turn * self.width % len(turning)
            turning = (turning[at:] + turning[:at])[: self.kept * self.width]
        head = asked[:2] + self.flags + self.counts + asked[wire.HEADER : end]
        return head + self.before + turning + self.after


class Source(Protocol):
    """Who knows names."""

    def outcome(self, query: Query) -> Outcome | Forward:
        """Return what is said to *query*, a question of class IN."""


class Answers:
    """Answers queries from one state of a source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._known: dict[bytes, tuple[Packed, int]] = {}
        self._turns = count()

    def answer(self, asked: bytes, *, datagram: bool = True) -> bytes | Forward | None:
        """Return the answer to the query *asked*, or to whom else it is a question; None: nothing
        is said to that."""
        end = asked.find(b"\0", wire.HEADER)
        key = asked[2 : wire.HEADER] + asked[wire.HEADER : end].lower() + asked[end:]
        known = self._known.get(key) if datagram else None
        if known is not None:
            return known[0].message(asked, known[1], next(self._turns))
        refused = refusal(asked)
        if refused is not None:
            return refused or None
        try:
            query = wire.read_query(asked)
        except (Malformed, struct.error):
            return bare(asked, wire.FORMERR)
        outcome = self._outcome(query)
        if isinstance(outcome, Forward):
            return outcome
        packed = pack(query, outcome, limit=query.size if datagram else wire.MOST)
        if datagram and not query.options:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = (packed, query.end)
        return packed.message(asked, query.end, next(self._turns))

    def _outcome(self, query: Query) -> Outcome | Forward:
        if query.klass != wire.IN:
            return Outcome(wire.REFUSED, flags=0)
        if query.version:
            return Outcome(wire.BADVERS, flags=0)
        return self.source.outcome(query)


def refusal(asked: bytes) -> bytes | None:
    """Return the answer to what is no question that can be read; b"" for none at all, None for a
    question."""
    if len(asked) < wire.HEADER:
        return b""
    flags, questions, answers, authorities, additional = struct.unpack_from("!5H", asked, 2)
    if flags & wire.QR:
        return b""  # to answer an answer would have no end
    if flags & wire.OPCODE:
        return bare(asked, wire.NOTIMP)
    if questions != 1 or answers > 1 or authorities > 1 or additional > 2:
        return bare(asked, wire.FORMERR)
    return None


def bare(asked: bytes, rcode: int) -> bytes:
    """Return an answer that is nothing but a header."""
    flags = int.from_bytes(asked[2:4], "big")
    kept = flags & (wire.RD | (wire.OPCODE if rcode == wire.NOTIMP else 0))
    return asked[:2] + struct.pack("!5H", wire.QR | kept | rcode, 0, 0, 0, 0)


def failure(asked: bytes, query: Query, rcode: int = wire.SERVFAIL) -> bytes:
    """Return the answer that says *rcode* and nothing else."""
    packed = pack(query, Outcome(rcode, flags=0), limit=wire.LEAST)
    return packed.message(asked, query.end, 0)


def pack(query: Query, outcome: Outcome, *, limit: int, cut: bool = False) -> Packed:
    """Return *outcome* as it is sent, in at most *limit* bytes; *cut*: it was cut before."""
    writer = wire.Writer(query.name)
    extra = wire.opt(query.size, do=query.do, extended=outcome.rcode >> 4) if query.edns else b""
    room = limit - writer.at - len(extra)
    answers = [writer.record(one) for one in outcome.answers]
    denial = [writer.record(outcome.denial)] if outcome.denial else []
    additional = [writer.record(one) for one in outcome.additional]
    whole = sum(map(len, (*answers, *denial, *additional))) <= room
    first = next((i for i, one in enumerate(outcome.answers) if one.type in (wire.A, wire.AAAA)), 0)
    turning = answers[first:] if _alike(answers[first:]) else []
    fixed = answers[:first] if turning else answers
    width = len(turning[0]) if turning else 0
    sections = [_fitting(fixed, room)]
    room -= sum(map(len, sections[0]))
    kept = min(len(turning), max(0, room // width)) if turning else 0
    room -= kept * width
    for section in (denial, additional):
        sections.append(_fitting(section, room if whole else 0))
        room -= sum(map(len, sections[-1]))
    flags = wire.QR | query.flags & wire.RD | outcome.flags | outcome.rcode & 0xF
    flags |= wire.TC if cut or not whole else 0
    counts = (1, len(sections[0]) + kept, len(sections[1]), len(sections[2]) + query.edns)
    return Packed(
        flags=flags.to_bytes(2, "big"),
        counts=struct.pack("!4H", *counts),
        before=b"".join(sections[0]),
        turning=b"".join(turning),
        width=width,
        kept=kept,
        after=b"".join(sections[1]) + b"".join(sections[2]) + extra,
    )


def _alike(pieces: Sequence[bytes]) -> bool:
    """Return whether *pieces* may change places: each has the same length and owner."""
    return bool(pieces) and all(
        len(one) == len(pieces[0]) and one[:2] == pieces[0][:2] for one in pieces
    )


def _fitting(pieces: Sequence[bytes], room: int) -> list[bytes]:
    """Return as many of *pieces* as fit, in their order."""
    fitting = []
    for one in pieces:
        room -= len(one)
        if room < 0:
            break
        fitting.append(one)
    return fitting


def completed(forward: Forward, heard: wire.Answer) -> Outcome:
    """Return the aliases of *forward* with what was *heard* of the name they lead to."""
    kinds = (wire.CNAME, forward.query.type)
    return Outcome(
        answers=[*forward.chased, *(one for one in heard.answers if one.type in kinds)],
    )
