"""pcapng: the file format of captures that Wireshark, tshark and tcpdump read, as bytes.

    file.write(pcapng.section(application="netlab"))
    file.write(pcapng.interface("node1:docker0"))
    file.write(pcapng.packet(0, time, frame, comments=["hop 2"], flags=pcapng.flags(outgoing=True)))

A file is a section header and then blocks in any order, except that an interface comes before its
packets; interfaces are counted from 0 in the order of their blocks. Each function here returns one
whole block. Times are ns since the epoch. Numbers are little endian, which the header says.

Source: draft-ietf-opsawg-pcapng, "PCAP Next Generation (pcapng) Capture File Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6  # block types
ETHERNET, RAW_IP = 1, 101  # LINKTYPE_*: what frames begin with
NANOSECONDS = b"\x09"  # if_tsresol: 10 ** -9 s
LONGEST = 262144  # bytes of a frame: more than any device hands over (MAXIMUM_SNAPLEN of libpcap)

# Options, by the block they are in
COMMENT = 1
_HARDWARE, _SYSTEM, _APPLICATION = 2, 3, 4
_NAME, _DESCRIPTION, _MAC, _RESOLUTION, _FILTER = 2, 3, 6, 9, 11
FLAGS, DROPPED, PACKET_ID = 2, 4, 5
_START, _END, _RECEIVED, _OS_DROPPED, _DELIVERED = 2, 3, 4, 7, 8

IN, OUT = 1, 2  # epb_flags, bits 0 and 1
UNICAST, MULTICAST, BROADCAST, PROMISCUOUS = (kind << 2 for kind in (1, 2, 3, 4))  # bits 2 to 4

_MAGIC = 0x1A2B3C4D
_LONGEST_TEXT = 65532  # bytes
_head = struct.Struct("<II")
_tail = struct.Struct("<I")
_option = struct.Struct("<HH")
_packet = struct.Struct("<IIIIIII")  # block type and length, interface, time (2), bytes kept, whole
PACKET_HEAD = _packet.size
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4
_NO_OPTIONS_LENGTH = PACKET_HEAD + 4


class Readable(Protocol):
    """A file of bytes."""

    def read(self, size: int, /) -> bytes: ...


class Packet(NamedTuple):
    """A packet block, read back. `time` in ns; `length` of the frame before it was cut."""

    interface: int
    time: int
    data: bytes
    length: int
    options: bytes


class Device(NamedTuple):
    """What an interface block says."""

    name: str
    description: str
    link: int
    mac: bytes


class Block(NamedTuple):
    """Any block: its type and all its bytes."""

    kind: int
    data: bytes


def section(*, hardware: str = "", system: str = "", application: str = "") -> bytes:
    """Return the block that every file begins with; how long the section is is left open."""
    options = _text(_HARDWARE, hardware) + _text(_SYSTEM, system) + _text(_APPLICATION, application)
    return _block(SECTION, struct.pack("<IHHq", _MAGIC, 1, 0, -1) + _ended(options))


def interface(
    name: str,
    *,
    description: str = "",
    link: int = ETHERNET,
    snaplen: int = 0,
    mac: bytes = b"",
    filter: str = "",
) -> bytes:
    """Return the block of one device, with time stamps in ns. *snaplen*: bytes, 0: not cut.

    *filter* is what was taken of its packets, in words.
    """
    options = _text(_NAME, name) + _text(_DESCRIPTION, description)
    options += option(_MAC, mac) if mac else b""
    options += option(_RESOLUTION, NANOSECONDS)
    options += option(_FILTER, b"\0" + filter.encode()) if filter else b""
    return _block(INTERFACE, struct.pack("<HHI", link, 0, snaplen) + _ended(options))


def packet(
    interface: int,
    time: int,
    data: bytes,
    *,
    length: int = 0,
    comments: Iterable[str] = (),
    flags: int = 0,
    dropped: int = 0,
    packet_id: int = 0,
) -> bytes:
    """Return the block of a frame. *length*: that of the frame, if *data* is only its beginning.

    *dropped*: how many were lost between the one before and this. *packet_id*: the same for all
    sightings of one packet.
    """
    options = packet_options(comments, flags=flags, dropped=dropped, packet_id=packet_id)
    return packet_with(interface, time, data, options=options, length=length)


def packet_with(
    interface: int, time: int, data: bytes, *, options: bytes, length: int = 0
) -> bytes:
    """Return the block of a frame with ready-made *options* (of `packet_options`)."""
    kept = len(data)
    padding = _PADDING[kept & 3]
    whole = _NO_OPTIONS_LENGTH + kept + len(padding) + len(options)
    head = _packet.pack(
        PACKET, whole, interface, time >> 32, time & 0xFFFFFFFF, kept, length or kept
    )
    return b"".join((head, data, padding, options, _tail.pack(whole)))


def packet_options(
    comments: Iterable[str] = (), *, flags: int = 0, dropped: int = 0, packet_id: int = 0
) -> bytes:
    """Return the options of a packet block; empty when there is nothing to say."""
    options = b""
    if flags:
        options += option(FLAGS, _tail.pack(flags))
    if dropped:
        options += option(DROPPED, struct.pack("<Q", dropped))
    if packet_id:
        options += option(PACKET_ID, struct.pack("<Q", packet_id))
    for one in comments:
        options += _text(COMMENT, one)
    return _ended(options) if options else b""


def flags(*, outgoing: bool, kind: int = 0) -> int:
    """Return the flags of a packet: its direction, and how it was addressed (`UNICAST`, …)."""
    return (OUT if outgoing else IN) | kind


def statistics(
    interface: int,
    time: int,
    *,
    start: int,
    end: int,
    received: int,
    dropped: int | None = None,
    comment: str = "",
) -> bytes:
    """Return the block that says how many packets of a device are in the file.

    *dropped*: how many the system had no room for; None when that is not known of this device.
    """
    options = _text(COMMENT, comment)
    options += option(_START, _time(start)) + option(_END, _time(end))
    options += option(_RECEIVED, struct.pack("<Q", received + (dropped or 0)))
    if dropped is not None:
        options += option(_OS_DROPPED, struct.pack("<Q", dropped))
    options += option(_DELIVERED, struct.pack("<Q", received))
    return _block(STATISTICS, _tail.pack(interface) + _time(time) + _ended(options))


def option(code: int, value: bytes) -> bytes:
    return _option.pack(code, len(value)) + value + _PADDING[len(value) & 3]


def _text(code: int, text: str) -> bytes:
    if not text:
        return b""
    value = text.encode()
    if len(value) > _LONGEST_TEXT:  # its length has 16 bits; cut between characters
        value = value[:_LONGEST_TEXT].decode(errors="ignore").encode()
    return option(code, value)


def _ended(options: bytes) -> bytes:
    return options + _option.pack(0, 0) if options else b""


def _time(time: int) -> bytes:
    return struct.pack("<II", time >> 32, time & 0xFFFFFFFF)


def _block(kind: int, body: bytes) -> bytes:
    whole = _tail.pack(len(body) + 12)
    return _tail.pack(kind) + whole + body + whole


# -- reading back


def blocks(file: Readable, *, chunk: int = 1 << 20) -> Iterator[Block]:
    """Yield the blocks of a file of this module's; one that was cut off at its end is left out.

    Raises ValueError when it is none: no section header, or a length that cannot be.
    """
    held, at, first = b"", 0, True
    while True:
        while len(held) - at >= 12:
            kind, length = _head.unpack_from(held, at)
            if (first and kind != SECTION) or length % 4 or length < 12:
                raise ValueError("not a pcapng file of netlab's")
            if len(held) - at < length:
                break
            yield Block(kind, held[at : at + length])
            at += length
            first = False
        more = file.read(chunk)
        if not more:
            return
        held, at = held[at:] + more, 0


def read_packet(data: bytes) -> Packet:
    """Return the packet in a block of type `PACKET`."""
    _kind, whole, interface, high, low, kept, length = _packet.unpack_from(data)
    end = PACKET_HEAD + kept
    options = data[end + (-kept & 3) : whole - 4]
    return Packet(interface, high << 32 | low, data[PACKET_HEAD:end], length, options)


def read_interface(data: bytes) -> Device:
    """Return what a block of type `INTERFACE` says."""
    (link,) = struct.unpack_from("<H", data, 8)
    said = dict(options(data[16:-4]))
    name, description = (said.get(code, b"").decode() for code in (_NAME, _DESCRIPTION))
    return Device(name, description, link, said.get(_MAC, b""))


def read_dropped(data: bytes) -> tuple[int, int]:
    """Return the interface of a block of type `STATISTICS`, and how many the system dropped."""
    (interface,) = struct.unpack_from("<I", data, 8)
    said = dict(options(data[20:-4]))
    return interface, int.from_bytes(said.get(_OS_DROPPED, b""), "little")


def options(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the (code, value) of options, without the one that ends them."""
    at = 0
    while at + 4 <= len(data):
        code, length = _option.unpack_from(data, at)
        if code == 0:
            return
        yield code, data[at + 4 : at + 4 + length]
        at += 4 + length + (-length & 3)
