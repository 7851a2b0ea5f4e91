"""Packet blocks of a capture, with comments added to them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from netlab import pcapng
from netlab.annotation.headers import Ends, headers
from netlab.annotation.names import Names
from netlab.annotation.sightings import Sightings
from netlab.packets import unchanged

MOST = 50_000  # packets whose rules wait to be told
_FLAGS_ALONE = 12  # bytes of options: flags, and the end of them
STRANGER = "for another card's MAC: nobody takes it here"


class Met(NamedTuple):
    """The rules that a packet met in one base chain of a namespace, which it came to as *ends*.

    `mark`: what `headers.unchanged` gives of it.
    """

    netns: str
    ends: Ends
    mark: bytes
    rules: tuple[str, ...]


class Rules:
    """Rules met, until the packet that met them comes by."""

    def __init__(self) -> None:
        self._met: dict[tuple[str, int, bytes], list[Met]] = {}
        self.untold = 0  # packets whose rules had to be forgotten

    def add(self, met: Iterable[Met]) -> None:
        """Take note of rules, in the order in which they were met."""
        for one in met:
            self._met.setdefault((one.netns, one.ends.protocol, one.mark), []).append(one)
        while len(self._met) > MOST:
            del self._met[next(iter(self._met))]
            self.untold += 1

    def take(self, netns: str, ends: Ends, mark: bytes) -> list[str]:
        """Return the rules met in *netns* by the packet as it is now, and before it was so."""
        key = (netns, ends.protocol, mark)
        met = self._met.get(key)
        if met is None:
            return []
        last = max((at for at, one in enumerate(met) if one.ends == ends), default=-1)
        if last + 1 == len(met):
            del self._met[key]
        else:
            self._met[key] = met[last + 1 :]
        return [rule for one in met[: last + 1] for rule in one.rules]


class Annotator:
    """Adds to packet blocks what is to be said of them. They are to come in the order of time."""

    def __init__(self, names: Names) -> None:
        self.rules: Rules | None = None
        self._sightings = Sightings(names)
        self._links: list[tuple[str, int, bool]] = []  # see `interface`, by number

    def know(self, names: Names) -> None:
        """Use other names from now on."""
        self._sightings.know(names)

    def interface(self, netns: str, link: int, *, card: bool = False) -> None:
        """Take note of a further interface: its namespace, its LINKTYPE_*.

        *card*: a machine's own, not a port of a bridge, which takes frames for all MACs.
        """
        self._links.append((netns, link, card))

    @property
    def interfaces(self) -> int:
        """How many interfaces are known."""
        return len(self._links)

    def annotated(self, block: bytes) -> bytes:
        """Return a packet block with its comments and the id of its packet."""
        number, time, data, length, options = pcapng.read_packet(block)
        netns, link, card = self._links[number]
        seen = headers(data, link)
        if seen is None:
            return block
        flags, dropped = _said(options)
        note = self._sightings.note(
            seen, interface=number, outgoing=flags & 3 == pcapng.OUT, time=time
        )
        comments = note.comments
        if card and flags & 0x1C == pcapng.PROMISCUOUS:
            comments.append(STRANGER)
        if self.rules is not None:
            mark = unchanged(seen.ends.protocol, data[seen.transport : seen.transport + 20])
            comments += [f"rule: {one}" for one in self.rules.take(netns, seen.ends, mark)]
        said = pcapng.packet_options(comments, flags=flags, dropped=dropped, packet_id=note.packet)
        return pcapng.packet_with(number, time, data, options=said, length=length)


def _said(options: bytes) -> tuple[int, int]:
    """Return (flags, frames dropped) of the options of a packet block."""
    if len(options) == _FLAGS_ALONE:
        return options[4], 0
    flags = dropped = 0
    for code, value in pcapng.options(options):
        if code == pcapng.FLAGS:
            (flags,) = struct.unpack("<I", value)
        elif code == pcapng.DROPPED:
            (dropped,) = struct.unpack("<Q", value)
    return flags, dropped
