"""A capture of namespaces on several machines: this one's rings, and what captures on others write.

1. On each other machine `netlab capture … -w -` runs, and what it writes comes here through etcd.
2. The machines talk to etcd about it over the very cards that are watched: that traffic is left out
   of the filter, or each frame would beget more.
3. Frames from elsewhere come late. All are held back for `DELAY`, so that they are in order.
4. Another machine's clock is only corrected where it is further off than asking it can tell.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from ipaddress import ip_address

from netlab import pcapng
from netlab.errors import NetlabError
from netlab.lab.elsewhere import There, clock
from netlab.lab.live import Live
from netlab.recording.wishes import Wish
from netlab.sensors.interfaces import Interface
from netlab.sensors.taps import Record, Taps
from netlab.store.access import Access, endpoint
from netlab.store.etcd import PORT
from netlab.targets import Target

DELAY = 2_000_000_000  # ns
BEGINS, ENDS = 20.0, 20.0  # seconds a capture elsewhere may take to begin, and to end
_NUMBER = struct.Struct("<I")


class Stream:
    """A capture that runs on *machine*; a thread takes in what it writes."""

    def __init__(self, live: Live, machine: str, words: Sequence[str], targets: Sequence[Target]):
        """*targets*: what is meant there. Raises NetlabError when it cannot begin."""
        self.machine = machine
        self.targets = {one.label: one for one in targets}
        self.ahead = clock(live, machine)  # ns
        self.interfaces: list[Interface] = []
        self.lost: dict[str, int] = {}
        self.said = b""  # on its stderr
        self.error = ""
        self._records: list[Record] = []
        self._held = b""  # of a block that has not come whole
        self._lock = threading.Lock()
        self._begun, self._ended = threading.Event(), threading.Event()
        self._there = There(live, machine, words)
        threading.Thread(target=self._run, daemon=True).start()
        if not self._begun.wait(BEGINS):
            self._there.close()
            raise NetlabError(f"{machine}: its capture does not begin")
        if self.error and not self.interfaces:
            raise NetlabError(f"{machine}: {self.error}")

    def _run(self) -> None:
        try:
            with closing(self._there):
                for piece in self._there.pieces():
                    self.said += piece.err
                    self._take(piece.out)
                    if piece.code:
                        lines = self.said.decode(errors="replace").strip().splitlines()
                        errors = [one for one in lines if one.startswith("error: ")]
                        self.error = (errors or lines or ["ended"])[-1].removeprefix("error: ")
        except (NetlabError, ValueError) as error:
            self.error = str(error).removeprefix(f"{self.machine}: ")
        finally:
            self._begun.set()
            self._ended.set()

    def _take(self, data: bytes) -> None:
        found, self._held = whole_blocks(self._held + data)
        for block in found:
            if block.kind == pcapng.SECTION:
                self._begun.set()
            elif block.kind == pcapng.INTERFACE:
                self.interfaces.append(self._interface(pcapng.read_interface(block.data)))
            elif block.kind == pcapng.PACKET:
                stamp = pcapng.read_packet(block.data).time - self.ahead
                with self._lock:
                    self._records.append((stamp, block.data))
            elif block.kind == pcapng.STATISTICS:
                number, dropped = pcapng.read_dropped(block.data)
                if dropped:
                    self.lost[self.interfaces[number].netns] = dropped

    def _interface(self, one: pcapng.Device) -> Interface:
        label, _, device = one.name.rpartition(":")
        target = self.targets.get(label)
        netns = target.netns if target is not None else label
        return Interface(netns, device, one.name, one.description, one.link, one.mac)

    def taken(self) -> list[Record]:
        """Return what has come since the last call, by our clock; the numbers of interfaces are
        those of `interfaces`."""
        with self._lock:
            records, self._records = self._records, []
        return records

    @property
    def over(self) -> bool:
        return self._ended.is_set()

    def stop(self) -> None:
        """Have it end; what is left comes still."""
        if not self.over:
            try:
                self._there.stop()
            except NetlabError as error:
                self.error = self.error or str(error)

    def wait(self) -> None:
        if not self._ended.wait(ENDS):
            self.error = self.error or "its capture does not end"


def whole_blocks(data: bytes) -> tuple[list[pcapng.Block], bytes]:
    """Return the blocks that *data* begins with, and the rest. Raises ValueError for no block."""
    found, at = [], 0
    while len(data) - at >= 12:
        kind, length = struct.unpack_from("<II", data, at)
        if length % 4 or length < 12:
            raise ValueError("what came is no capture")
        if len(data) - at < length:
            break
        found.append(pcapng.Block(kind, data[at : at + length]))
        at += length
    return found, data[at:]


class WideTaps(Taps):
    """`Taps` of this machine, and what the *streams* bring of others. Close it."""

    delay = DELAY

    def __init__(self, code: bytes, streams: Sequence[Stream], *, snaplen: int = 0) -> None:
        super().__init__(code, snaplen=snaplen)
        self.streams = streams
        self._places: dict[tuple[str, int], int] = {}  # our number of an interface of a machine's
        self._waiting: list[Record] = []

    def _renumbered(self, stream: Stream, record: Record) -> Record:
        stamp, block = record
        (number,) = _NUMBER.unpack_from(block, 8)
        ours = self._places.get((stream.machine, number))
        if ours is None:
            ours = self._places[stream.machine, number] = len(self.interfaces)
            self.interfaces.append(stream.interfaces[number])
            self.counts.append(0)
        self.counts[ours] += 1
        times = struct.pack("<III", ours, stamp >> 32, stamp & 0xFFFFFFFF)
        return stamp, block[:8] + times + block[20:]

    def _gather(self) -> None:
        for stream in self.streams:
            self._waiting += [self._renumbered(stream, one) for one in stream.taken()]

    def settled(self) -> tuple[int, list[Record]]:
        until, records = super().settled()
        self._waiting += records
        self._gather()
        self._waiting.sort(key=lambda one: one[0])
        until -= DELAY
        count = sum(stamp <= until for stamp, _ in self._waiting)
        given, self._waiting = self._waiting[:count], self._waiting[count:]
        return until, given

    def rest(self) -> list[Record]:
        for stream in self.streams:
            stream.stop()
        records = super().rest()
        for stream in self.streams:
            stream.wait()
        self._gather()
        records += self._waiting
        self._waiting = []
        return sorted(records, key=lambda one: one[0])

    @property
    def watched(self) -> list[str]:
        there = (one for each in self.streams if not each.over for one in each.targets.values())
        return [*super().watched, *(one.netns for one in there)]

    @property
    def lost(self) -> dict[str, int]:
        found = super().lost
        for stream in self.streams:
            found |= stream.lost
        return found

    def notes(self) -> list[str]:
        """Return what is to be known of the other machines."""
        said = []
        for one in self.streams:
            if one.error:
                said.append(f"{one.machine}: {one.error}: what is here of it may not be all")
            if one.ahead:
                apart = f"{abs(one.ahead) / 1e9:.3f} s {'ahead' if one.ahead > 0 else 'behind'}"
                said.append(f"the clock of {one.machine} is {apart}: its times are moved by that")
        return said


def elsewhere(live: Live, targets: Sequence[Target]) -> dict[str, list[Target]]:
    """Return those of *targets* that are on other machines, by machine."""
    found: dict[str, list[Target]] = {}
    for one in targets:
        if machine := live.machine_of(one.node or one.title):
            found.setdefault(machine, []).append(one)
    return found


def without_etcd(live: Live, text: str) -> str:
    """Return the filter *text* without the machines' talk with etcd."""
    access: Access = live.place.access if live.place is not None else Access()
    ends = [endpoint(url)[1:] for url in access.urls] or [(live.lab.master.address, PORT)]
    talk = " or ".join(_talk(host, port) for host, port in ends)
    return f"not ({talk})" + (f" and ({text})" if text else "")


def _talk(host: str, port: int) -> str:
    try:
        return f"tcp port {port} and host {ip_address(host)}"
    except ValueError:
        return f"tcp port {port}"  # a name, whose address is nobody's here


def words(wish: Wish) -> list[str]:
    """Return the words by which another machine writes its part of *wish* to its stdout."""
    cut = ["-s", str(wish.snaplen)] if wish.snaplen else []
    what = ["-n", wish.namespace, *wish.words] if wish.words else ["--all"]
    return ["capture", "--here", "-w", "-", "--no-comments", "-f", wish.filter, *cut, *what]


def streams(live: Live, wish: Wish, there: Mapping[str, Sequence[Target]]) -> list[Stream]:
    """Begin a capture on each machine of *there*. Raises NetlabError, with none left running."""
    made: list[Stream] = []
    try:
        for machine, targets in there.items():
            made.append(Stream(live, machine, words(wish), targets))
    except NetlabError:
        for one in made:
            one.stop()
        raise
    return made
