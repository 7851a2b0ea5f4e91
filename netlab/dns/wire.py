"""DNS messages: a query taken apart, records put together, an answer read.

A name is a tuple of labels, as bytes; () is the root. Names of queries are lower case here, since
names compare so (RFC 4343), and the question goes back in the letters it came in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

Name = tuple[bytes, ...]

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT, IXFR, AXFR = (
    *(1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 251, 252),
)
TYPES = {"A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "PTR": PTR, "MX": MX, "TXT": TXT}
TYPES |= {"AAAA": AAAA, "SRV": SRV}
ADDRESSES = {4: A, 16: AAAA}  # by the length of an address
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
OPCODE = 0x7800
DO = 0x8000
HEADER = 12  # bytes
LEAST = 512  # bytes of a UDP answer that every client takes
MOST = 65535  # of a message over TCP
NAME_MAX = 255  # bytes of a name on the wire
_POINTER = 0xC000


class Malformed(ValueError):
    """Bytes that are no DNS message."""


class Query(NamedTuple):
    """A question as it came. *end*: where it ends in the message; *size*: of the largest answer
    over UDP; *edns*: whether there was an OPT record, *version* its version, *do* its DNSSEC bit,
    *options* whether it had options."""

    id: int
    flags: int
    name: Name
    type: int
    klass: int
    end: int
    size: int = LEAST
    edns: bool = False
    version: int = 0
    do: bool = False
    options: bool = False


class Record(NamedTuple):
    """A resource record. *data*: bytes as they are, or the parts of data that has names in it."""

    owner: Name
    type: int
    ttl: int
    data: bytes | tuple[bytes | Name, ...]


def name_of(text: str) -> Name:
    """Return the name that *text* writes, in lower case; "" and "." are the root.

    Raises Malformed for what no name can be: a label of more than 63 bytes or none, more than 255
    in all.
    """
    bare = text.removesuffix(".").lower()
    labels = tuple(label.encode() for label in bare.split(".")) if bare else ()
    if any(not 0 < len(label) < 64 for label in labels) or _length(labels) > NAME_MAX:
        raise Malformed(f"{text!r} is no name")
    return labels


def text_of(name: Name) -> str:
    """Return *name* as people write it, with the dot at its end."""
    return ".".join(label.decode("latin-1") for label in name) + "."


def reverse_name(address: str) -> Name:
    """Return the name that PTR records of *address* have: RFC 1035 3.5, RFC 3596 2.5."""
    from ipaddress import ip_address  # not needed, and not loaded, to answer

    return name_of(ip_address(address).reverse_pointer)


def _length(name: Name) -> int:
    return sum(len(label) + 1 for label in name) + 1


def read_name(data: bytes, at: int) -> tuple[Name, int]:
    """Return the name at *at*, as it is written, and where it ends. Raises Malformed."""
    labels: list[bytes] = []
    end, least, left = 0, at, NAME_MAX
    while True:
        if at >= len(data):
            raise Malformed("a name goes on beyond the message")
        length = data[at]
        if length >= 0xC0:
            if at + 1 >= len(data):
                raise Malformed("half a pointer")
            end = end or at + 2
            at = (length & 0x3F) << 8 | data[at + 1]
            if at >= least:  # only backwards, so it comes to an end
                raise Malformed("a pointer that does not point back")
            least = at
            continue
        if length >= 0x40:
            raise Malformed("a label of unknown kind")
        left -= length + 1
        if left < 0:
            raise Malformed("a name of more than 255 bytes")
        if not length:
            return tuple(labels), end or at + 1
        labels.append(data[at + 1 : at + 1 + length])
        at += length + 1


def read_query(data: bytes) -> Query:
    """Return the question of *data*, whose header has been looked at. Raises Malformed."""
    number, flags, _, answers, authorities, additional = struct.unpack_from("!6H", data)
    name, at = read_name(data, HEADER)
    if at + 4 > len(data):
        raise Malformed("half a question")
    kind, klass = struct.unpack_from("!2H", data, at)
    query = Query(number, flags, tuple(map(bytes.lower, name)), kind, klass, at + 4)
    at += 4
    for _ in range(answers + authorities + additional):
        owner, at = read_name(data, at)
        if at + 10 > len(data):
            raise Malformed("half a record")
        kind, size, ttl, length = struct.unpack_from("!2HIH", data, at)
        at += 10 + length
        if at > len(data):
            raise Malformed("a record goes on beyond the message")
        if kind == OPT:
            if query.edns or owner:
                raise Malformed("an OPT record too many, or with a name")
            query = query._replace(
                size=max(LEAST, size),
                edns=True,
                version=ttl >> 16 & 0xFF,
                do=bool(ttl & DO),
                options=bool(length),
            )
    return query


class Writer:
    """Writes records one after another, names shortened by pointers to where they stood before."""

    def __init__(self, question: Name) -> None:
        self._known: dict[Name, int] = {}
        self.at = HEADER
        self._learn(question, self.at)
        self.at += _length(question) + 4

    def record(self, record: Record) -> bytes:
        """Return *record* as it stands at the present place, which then is behind it."""
        start = self.at
        owner = self._name(record.owner)
        self.at = start + len(owner) + 10
        if isinstance(record.data, bytes):
            data = record.data
        else:
            parts = []
            for part in record.data:
                # RFC 2782: a SRV's target is not shortened; others may point to it.
                short = record.type != SRV
                text = part if isinstance(part, bytes) else self._name(part, shorten=short)
                parts.append(text)
                self.at += len(text)
            data = b"".join(parts)
        self.at = start + len(owner) + 10 + len(data)
        return owner + struct.pack("!2HIH", record.type, IN, record.ttl, len(data)) + data

    def _name(self, name: Name, *, shorten: bool = True) -> bytes:
        at = self.at
        for index in range(len(name) if shorten else 0):
            where = self._known.get(name[index:])
            if where is not None:
                self._learn(name[:index], at, rest=name[index:])
                return plain(name[:index])[:-1] + (_POINTER | where).to_bytes(2, "big")
        self._learn(name, at)
        return plain(name)

    def _learn(self, name: Name, at: int, rest: Name = ()) -> None:
        for index, label in enumerate(name):
            if at < 0x4000:  # 14 bits
                self._known.setdefault(name[index:] + rest, at)
            at += len(label) + 1


def plain(name: Name) -> bytes:
    """Return *name* on the wire, not shortened."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def opt(size: int, *, do: bool = False, extended: int = 0) -> bytes:
    """Return an OPT record; *extended*: the upper eight bits of the result code. RFC 6891 6.1.2."""
    return b"\0" + struct.pack("!2HIH", OPT, size, extended << 24 | (DO if do else 0), 0)


def query(
    name: Name, kind: int, *, number: int, size: int = 0, recurse: bool = True, klass: int = IN
) -> bytes:
    """Return a query; *size*: with an OPT record that says how large an answer may be."""
    head = struct.pack("!6H", number, RD if recurse else 0, 1, 0, 0, 1 if size else 0)
    return head + plain(name) + struct.pack("!2H", kind, klass) + (opt(size) if size else b"")


# -- answers that are read


class Answer(NamedTuple):
    """A response: its result code, whether it was cut, its records with names in full."""

    id: int
    flags: int
    question: tuple[Name, int]
    answers: tuple[Record, ...]
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()

    @property
    def rcode(self) -> int:
        return self.flags & 0xF

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TC)


def read_answer(data: bytes) -> Answer:
    """Return what the response *data* says. Raises Malformed."""
    if len(data) < HEADER:
        raise Malformed("half a header")
    number, flags, questions, *counts = struct.unpack_from("!6H", data)
    if not flags & QR:
        raise Malformed("no response")
    at = HEADER
    question: tuple[Name, int] = ((), 0)
    for _ in range(questions):
        name, at = read_name(data, at)
        if at + 4 > len(data):
            raise Malformed("half a question")
        question = (tuple(map(bytes.lower, name)), int.from_bytes(data[at : at + 2], "big"))
        at += 4
    sections = []
    for count in counts:
        records = []
        for _ in range(count):
            record, at = _read_record(data, at)
            if record.type != OPT:
                records.append(record)
        sections.append(tuple(records))
    return Answer(number, flags, question, *sections)


def _read_record(data: bytes, at: int) -> tuple[Record, int]:
    owner, at = read_name(data, at)
    if at + 10 > len(data):
        raise Malformed("half a record")
    kind, _, ttl, length = struct.unpack_from("!2HIH", data, at)
    at += 10
    end = at + length
    if end > len(data):
        raise Malformed("a record goes on beyond the message")
    content: bytes | tuple[bytes | Name, ...] = data[at:end]
    if kind in (CNAME, PTR, NS):
        content = (read_name(data, at)[0],)
    elif kind == SRV and length > 6:
        content = (data[at : at + 6], read_name(data, at + 6)[0])
    elif kind == SOA:
        mname, after = read_name(data, at)
        rname, after = read_name(data, after)
        content = (mname, rname, data[after:end])
    return Record(owner, kind, ttl, content), end


def texts(records: Iterable[Record]) -> list[str]:
    """Return what *records* say, each as `dig +short` has it."""
    return [_text(record) for record in records]


def _text(record: Record) -> str:
    data = record.data
    if isinstance(data, bytes):
        if record.type in (A, AAAA) and len(data) in ADDRESSES:
            from ipaddress import ip_address

            return str(ip_address(data))
        if record.type == TXT:
            return f'"{data[1:].decode("latin-1")}"'
        return data.hex()
    words = []
    for part in data:
        if isinstance(part, tuple):
            words.append(text_of(part))
        else:
            width = "H" if record.type == SRV else "I"
            words += map(str, struct.unpack(f"!{len(part) // struct.calcsize(width)}{width}", part))
    return " ".join(words)
