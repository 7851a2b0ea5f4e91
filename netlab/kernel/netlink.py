"""Netlink by hand: messages packed and unpacked with struct, sent many at a time.

1. A message is header, fixed part, attributes (netlink(7)); `message()` makes one, `Socket` sends
   any number of them in one system call, and only the last asks for an acknowledgement: the kernel
   works them off in order and reports each error in any case.
2. The kernel does all work inside send(2) and queues the replies; nothing here ever waits.
3. An error carries the kernel's own explanation (extended acknowledgement) when there is one.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct, pack, unpack_from

ROUTE, NETFILTER, GENERIC = 0, 12, 16  # linux/netlink.h, NETLINK_*
SOL_NETLINK = 270
ADD_MEMBERSHIP, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, STRICT_CHECK = 1, 8, 10, 11, 12
SO_NETNS_COOKIE = 71  # asm-generic/socket.h; since Linux 5.14

REQUEST, MULTI, ACK, DUMP_INTERRUPTED = 0x1, 0x2, 0x4, 0x10  # NLM_F_*
ACK_TLVS = 0x200
REPLACE, EXCL, CREATE, DUMP = 0x100, 0x200, 0x400, 0x300
ERROR, DONE = 2, 3  # NLMSG_*
ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG
BATCH_BEGIN, BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
NESTED = 0x8000  # NLA_F_NESTED

SEND_CHUNK = 32 * 1024  # bytes; well below the default send buffer of 208 KiB
RECEIVE = 64 * 1024  # bytes; the kernel fills at most 32 KiB per datagram of a dump
REPLIES_PER_SEND = 25  # so that replies of up to 4 KiB fit the default receive buffer
DUMP_TRIES = 20

_HEADER = Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = Struct("=HH")  # length, type
_HEADER_SIZE = _HEADER.size
_pack_header, _pack_attribute = _HEADER.pack, _ATTRIBUTE.pack
_put_flags, _put_sequence = Struct("=H").pack_into, Struct("=I").pack_into  # at offsets 6, 8
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4

Attributes = dict[int, bytes]


class NetlinkError(OSError):
    """The kernel refused a message: errno, its explanation, the message's place in the batch."""

    def __init__(self, number: int, text: str = "", index: int = 0) -> None:
        super().__init__(number, os.strerror(number))
        self.text = text
        self.index = index

    def __str__(self) -> str:
        words = os.strerror(self.errno or 0)
        words = words[:1].lower() + words[1:]
        return f"{words}: {self.text}" if self.text else words


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to four bytes."""
    size = len(value)
    return _pack_attribute(size + 4, kind) + value + _PADDING[size & 3]


def u32(kind: int, value: int) -> bytes:
    return pack("=HHI", 8, kind, value)


def u8(kind: int, value: int) -> bytes:
    return pack("=HHBxxx", 5, kind, value)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nest(kind: int, *attributes: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | NESTED, b"".join(attributes))


def message(kind: int, flags: int, body: bytes) -> bytes:
    """Return a whole request; its sequence number is filled in by the socket that sends it."""
    return _pack_header(_HEADER_SIZE + len(body), kind, flags | REQUEST, 0, 0) + body


def attributes(data: bytes, start: int = 0) -> Attributes:
    """Return the attributes of *data* from offset *start*, by type without its flag bits."""
    found: Attributes = {}
    end = len(data)
    while start + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, start)
        if size < 4:
            break
        found[kind & 0x3FFF] = data[start + 4 : start + size]
        start += (size + 3) & ~3
    return found


def each(data: bytes) -> Iterator[bytes]:
    """Yield the values of the attributes of *data*, of whatever type."""
    start = 0
    while start + 4 <= len(data):
        size, _ = _ATTRIBUTE.unpack_from(data, start)
        if size < 4:
            break
        yield data[start + 4 : start + size]
        start += (size + 3) & ~3


def number(value: bytes | bytearray) -> int:
    """Return an unsigned integer of any size in the machine's byte order."""
    return int.from_bytes(value, sys.byteorder)


def string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, sequence, body) of each message in a datagram."""
    start, end = 0, len(data)
    while start + _HEADER_SIZE <= end:
        size, kind, flags, sequence, _port = _HEADER.unpack_from(data, start)
        if size < _HEADER_SIZE:
            break
        yield kind, flags, sequence, data[start + _HEADER_SIZE : start + size]
        start += (size + 3) & ~3


class Socket:
    """A netlink socket of the network namespace the calling thread was in when it was made.

    It stays there: whoever holds it works on that namespace from anywhere.
    """

    def __init__(self, protocol: int = ROUTE) -> None:
        self.socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._sequence = 0
        for option in (CAP_ACK, EXT_ACK, STRICT_CHECK):
            self.socket.setsockopt(SOL_NETLINK, option, 1)

    def close(self) -> None:
        self.socket.close()

    def cookie(self) -> int:
        """Return the number of this network namespace, never used again since boot; 0: unknown."""
        try:
            return number(self.socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
        except OSError:
            return 0

    def room(self, size: int) -> None:
        """Let one send have up to *size* bytes, or as many as the machine allows (socket(7))."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def send(self, requests: Sequence[bytes]) -> list[NetlinkError]:
        """Do all *requests* in order and return the errors, each with the index of its request."""
        errors: list[NetlinkError] = []
        first, size = 0, 0
        for index, request in enumerate(requests):
            if size + len(request) > SEND_CHUNK and size:
                errors += self._send(requests, first, index)
                first, size = index, 0
            size += len(request)
        return errors + self._send(requests, first, len(requests)) if size else errors

    def _send(self, requests: Sequence[bytes], first: int, end: int) -> list[NetlinkError]:
        base = self._sequence + 1
        buffer = bytearray()
        for index in range(first, end):
            start = len(buffer)
            buffer += requests[index]
            _put_sequence(buffer, start + 8, base + index - first)
            if index == end - 1:
                _put_flags(buffer, start + 6, number(buffer[start + 6 : start + 8]) | ACK)
        self._sequence = last = base + end - first - 1
        self.socket.send(buffer)
        errors: list[NetlinkError] = []
        while True:
            for kind, flags, sequence, body in messages(self.socket.recv(RECEIVE)):
                if kind == ERROR and base <= sequence <= last:
                    refused = _error(flags, body, first + sequence - base)
                    if refused is not None:
                        errors.append(refused)
                    if sequence == last:
                        return errors

    def commit(self, subsystem: int, requests: Sequence[bytes]) -> list[NetlinkError]:
        """Do all *requests* to a netfilter *subsystem* as one transaction, or none of them.

        Returns why it was refused, [] when it is done; index -1: the transaction as a whole. They
        must fit the send buffer together (OSError: EMSGSIZE).
        Source: linux/netfilter/nfnetlink.h; net/netfilter/nfnetlink.c, nfnetlink_rcv_batch.
        """
        body = pack(">BBH", 0, 0, subsystem)
        *but_last, last = requests
        buffer = bytearray()
        for request in (message(BATCH_BEGIN, 0, body), *but_last):
            self._append(buffer, request)
        base = self._sequence - len(but_last)
        self._append(buffer, last, ACK)
        end = self._sequence
        self._append(buffer, message(BATCH_END, 0, body))
        self.socket.send(buffer)
        answered = False
        errors: list[NetlinkError] = []
        while True:
            try:
                replies = self.socket.recv(RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:  # the kernel has answered all before send(2) came back
                return errors if errors or answered else [NetlinkError(errno.EIO, index=-1)]
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # of too many errors the first are there
                    raise
                continue
            for kind, flags, sequence, answer in messages(replies):
                if kind == ERROR and base <= sequence <= end:
                    refused = _error(flags, answer, sequence - base - 1)
                    answered = answered or refused is None
                    errors += [refused] if refused is not None else []

    def _append(self, buffer: bytearray, request: bytes, flag: int = 0) -> None:
        start = len(buffer)
        buffer += request
        self._sequence += 1
        _put_sequence(buffer, start + 8, self._sequence)
        if flag:
            _put_flags(buffer, start + 6, number(buffer[start + 6 : start + 8]) | flag)

    def ask(self, requests: Sequence[bytes]) -> list[bytes | NetlinkError]:
        """Return for each of *requests* the body of its one reply, or the error."""
        replies: list[bytes | NetlinkError] = []
        for first in range(0, len(requests), REPLIES_PER_SEND):
            replies += self._ask(requests[first : first + REPLIES_PER_SEND], first)
        return replies

    def _ask(self, requests: Sequence[bytes], first: int) -> list[bytes | NetlinkError]:
        base = self._sequence + 1
        buffer = bytearray()
        for index, request in enumerate(requests):
            start = len(buffer)
            buffer += request
            _put_sequence(buffer, start + 8, base + index)
        self._sequence = base + len(requests) - 1
        self.socket.send(buffer)
        replies: dict[int, bytes | NetlinkError] = {}
        while len(replies) < len(requests):
            for kind, flags, sequence, body in messages(self.socket.recv(RECEIVE)):
                if base <= sequence <= self._sequence:
                    refused = (
                        _error(flags, body, first + sequence - base) if kind == ERROR else None
                    )
                    replies[sequence - base] = refused if refused is not None else body
        return [replies[index] for index in range(len(requests))]

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return the bodies of all messages of a dump, as one consistent picture.

        Raises NetlinkError.
        """
        for _ in range(DUMP_TRIES):
            bodies = self._dump(message(kind, DUMP, body))
            if bodies is not None:
                return bodies
        return bodies or []

    # None when the table changed meanwhile (NLM_F_DUMP_INTR).
    def _dump(self, request: bytes) -> list[bytes] | None:
        self._sequence += 1
        buffer = bytearray(request)
        _put_sequence(buffer, 8, self._sequence)
        self.socket.send(buffer)
        bodies: list[bytes] = []
        torn = False
        while True:
            for kind, flags, sequence, body in messages(self.socket.recv(RECEIVE)):
                if sequence != self._sequence:
                    continue
                torn = torn or bool(flags & DUMP_INTERRUPTED)
                if kind not in (DONE, ERROR):
                    bodies.append(body)
                    continue
                refused = _error(flags, body, 0) if len(body) >= 4 else None
                if refused is not None:
                    raise refused
                return None if torn else bodies


def _error(flags: int, body: bytes, index: int) -> NetlinkError | None:
    code = int(unpack_from("=i", body)[0])
    if code == 0:
        return None
    explained: Mapping[int, bytes] = attributes(body, 20) if flags & ACK_TLVS else {}
    return NetlinkError(-code, string(explained.get(ERROR_TEXT, b"")), index)
