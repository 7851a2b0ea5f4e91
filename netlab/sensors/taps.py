"""Every frame of every device of a set of namespaces, as blocks of pcapng in the order of time.

1. The loop over frames is all that limits how many can be kept, so it does nothing but copy: a
   frame goes from the ring into its finished block, and what is to be said of it later is read
   back from there.
2. Rings hand over at different moments. A frame is given out once `SETTLED` has passed since its
   time stamp: by then every ring has handed over what is older, so all are in order.
3. Frames that a ring had no room for are counted, at the packet that follows them and in all. The
   kernel counts them by socket, so by namespace and not by device.
4. A namespace whose name is gone is let go at once: a socket would keep it, and its cables, alive.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from select import POLLIN, poll
from typing import NamedTuple

from netlab import pcapng
from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.netns import entered
from netlab.sensors.interfaces import Interface, flags, interface
from netlab.sensors.ring import FRAME_HEAD, Ring, open_ring
from netlab.targets import Target

RETIRE = 40  # milliseconds until a block with frames in it is handed over though it is not full
SETTLED = 3 * RETIRE * 1_000_000  # ns; the kernel looks every RETIRE whether a block is that old
PAUSE = 0.004  # seconds
LONGEST = 128 << 10  # bytes of a block that any frame fits in: a segment of 64 KiB not yet cut


BLOCKS = 16  # of a ring, at least: a trickle of frames uses up one every RETIRE
PAGE = 4096  # bytes; blocks are whole pages
MEMORY = 256 << 20  # bytes that the rings may share


class Room(NamedTuple):
    """Sizes of a ring and of its blocks, in bytes."""

    ring: int
    block: int


def room(memory: int, count: int, *, pods: bool) -> Room:
    """Return the room of each of *count* rings, when all rings share about *memory* bytes.

    Half of it is for pods, a quarter for machines, which see what all their pods do. Of a great
    many each has so little that the longest frames are cut to a block.
    """
    share, least, most = memory // 4, memory // 128, memory // 16
    if pods:
        share, least, most = memory // 2, memory // 1024, memory // 64
    size = min(max(share // max(count, 1), least, BLOCKS * PAGE), most)
    size = 1 << size.bit_length() - 1
    return Room(size, min(size // BLOCKS, LONGEST))


Record = tuple[int, bytes]  # time (ns), packet block
_time_of = itemgetter(0)


class _Tap:
    """One namespace: its ring, and what is known of its devices."""

    def __init__(self, target: Target, ring: Ring) -> None:
        self.target = target
        self.ring = ring
        self.identity = netns.identity(target.netns)
        self.devices: dict[int, str] = {}  # by index
        # By (ifindex, packet type): number of the interface and ready options; None: not wanted.
        self.known: dict[tuple[int, int], tuple[int, bytes] | None] = {}
        self.dropped = 0  # frames lost before the next one


class Taps:
    """The rings of many namespaces. Close it. For one thread.

    *code* is the filter (an array of struct sock_filter; `filters.everything()` takes all frames),
    *snaplen* how much of each frame it keeps, 0: all. *memory*: bytes for all rings together.
    Raises CapabilityError where the kernel does not let us.
    """

    delay = 0  # ns that frames are held back, beside `SETTLED`

    def __init__(self, code: bytes, *, snaplen: int = 0, memory: int = MEMORY) -> None:
        self.interfaces: list[Interface] = []
        self.counts: list[int] = []  # packets, by interface
        self.snaplen = snaplen
        self._code = code
        self._memory = memory
        self._taps: dict[str, _Tap] = {}
        self._by_descriptor: dict[int, _Tap] = {}
        self._numbers: dict[tuple[str, str], int] = {}  # of interfaces, by namespace and device
        self._pending: list[Record] = []
        self._lost: dict[str, int] = {}
        self._poll = poll()

    def follow(self, targets: Sequence[Target], *, code: bytes = b"") -> None:
        """Watch *targets* from now on and nothing else; *code* is the filter, if another one.

        To be called again and again: namespaces come, go, and are made anew.
        """
        wanted = {one.netns: one for one in targets}
        for name, tap in list(self._taps.items()):
            if name not in wanted or netns.identity(name) != tap.identity:
                self._end([name])
        if code and code != self._code:
            self._code = code
            for tap in self._taps.values():
                tap.ring.filter(code)
        for name, tap in self._taps.items():
            if wanted[name] != tap.target:
                tap.target, tap.known, tap.devices = wanted[name], {}, {}
        self._begin([one for one in targets if one.netns not in self._taps])

    def _begin(self, targets: Iterable[Target]) -> None:
        fresh: list[_Tap] = []
        try:
            for target in targets:
                try:
                    with entered(target.netns):
                        fresh.append(_Tap(target, open_ring(self._code)))
                        self._look(fresh[-1])
                except KernelError:
                    continue  # gone since it was looked up, or not there yet
        finally:
            self._taps.update({tap.target.netns: tap for tap in fresh})
        if fresh:
            pods = sum(tap.target.pod for tap in self._taps.values())
            counts = {True: pods, False: len(self._taps) - pods}
            rooms = {pod: room(self._memory, counts[pod], pods=pod) for pod in counts}

            def start(tap: _Tap) -> None:
                size, block = rooms[tap.target.pod]
                tap.ring.start(size, block=block, retire=RETIRE)

            with ThreadPoolExecutor(min(len(fresh), 64)) as pool:
                list(pool.map(start, fresh))
            for tap in fresh:
                self._by_descriptor[tap.ring.fileno()] = tap
                self._poll.register(tap.ring.fileno(), POLLIN)

    def _end(self, names: Iterable[str]) -> None:
        ended = [self._taps[name] for name in names]
        for tap in ended:
            self._read(tap)
            self._count_lost(tap)
            self._poll.unregister(tap.ring.fileno())
            del self._by_descriptor[tap.ring.fileno()]
            del self._taps[tap.target.netns]
        if ended:
            with ThreadPoolExecutor(min(len(ended), 64)) as pool:
                list(pool.map(lambda tap: tap.ring.close(), ended))

    def close(self) -> None:
        """Stop; what has not been taken yet still can be."""
        self._end(list(self._taps))

    @property
    def watched(self) -> list[str]:
        """The namespaces that are watched."""
        return list(self._taps)

    def notes(self) -> list[str]:
        """Return what else is to be known of what was seen."""
        return []

    @property
    def lost(self) -> dict[str, int]:
        """How many frames there was no room for, by namespace; those that lost none left out."""
        for tap in self._taps.values():
            self._count_lost(tap)
        return {name: count for name, count in self._lost.items() if count}

    def _count_lost(self, tap: _Tap) -> int:
        """Note what was lost meanwhile, and return it."""
        before = tap.ring.lost
        more = tap.ring.count_lost() - before
        if more:
            tap.dropped += more
            self._lost[tap.target.netns] = self._lost.get(tap.target.netns, 0) + more
        return more

    def wait(self, seconds: float) -> None:
        """Return when some ring has handed something over, or after *seconds*.

        Many rings would wake us thousands of times a second; a little later they are as full.
        """
        if self._poll.poll(seconds * 1000):
            time.sleep(PAUSE)

    def take(self) -> list[Record]:
        """Return what has settled, in the order of time."""
        return self.settled()[1]

    def settled(self) -> tuple[int, list[Record]]:
        """Return a time (ns), and all frames up to it that were not taken before."""
        until = time.time_ns() - SETTLED
        self._read_ready()
        return until, self._out(until)

    def _read_ready(self) -> None:
        for descriptor, _ in self._poll.poll(0):
            self._read(self._by_descriptor[descriptor])

    def rest(self) -> list[Record]:
        """Return all that was seen until now, and wait for the rings to hand it over."""
        until = time.time_ns()
        records: list[Record] = []
        while time.time_ns() < until + SETTLED:
            records += self.take()
            self.wait(RETIRE / 1000)
        self._read_ready()
        return records + self._out(until)

    def _out(self, until: int) -> list[Record]:
        pending = self._pending
        pending.sort(key=_time_of)
        if pending and pending[-1][0] <= until:
            self._pending = []
            return pending
        low, high = 0, len(pending)
        while low < high:
            middle = (low + high) // 2
            if pending[middle][0] <= until:
                low = middle + 1
            else:
                high = middle
        self._pending = pending[low:]
        return pending[:low]

    def _read(self, tap: _Tap) -> None:
        """Move what the ring has handed over into finished blocks: the loop to keep lean."""
        memory, known, counts, append = (
            tap.ring.memory,
            tap.known,
            self.counts,
            self._pending.append,
        )
        unpack, made = FRAME_HEAD.unpack_from, pcapng.packet_with
        for count, at, losing in tap.ring.blocks():
            assert memory is not None
            if losing:
                self._count_lost(tap)
            for _ in range(count):
                following, sec, nsec, held, length, mac, index, kind = unpack(memory, at)
                start = at + mac
                at += following
                try:
                    entry = known[index, kind]
                except KeyError:
                    entry = self._met(tap, index, kind)
                if entry is None:
                    continue
                number, options = entry
                if tap.dropped:
                    options = self._after_loss(tap, kind)
                counts[number] += 1
                stamp = sec * 1_000_000_000 + nsec
                block = made(
                    number, stamp, memory[start : start + held], options=options, length=length
                )
                append((stamp, block))

    def _after_loss(self, tap: _Tap, kind: int) -> bytes:
        lost, tap.dropped = tap.dropped, 0
        return pcapng.packet_options(flags=flags(kind), dropped=lost)

    def _met(self, tap: _Tap, index: int, kind: int) -> tuple[int, bytes] | None:
        """Return what is to be known of a device that has its first packet of this kind."""
        if index not in tap.devices:
            try:
                with entered(tap.target.netns):
                    self._look(tap)
            except KernelError:
                pass  # the namespace has lost its name; its packets are still its own
        name = tap.devices.get(index, "")
        number = self._numbers.get((tap.target.netns, name))
        entry = None
        if number is not None and tap.target.wants(name):
            entry = number, pcapng.packet_options(flags=flags(kind))
        tap.known[index, kind] = entry
        return entry

    def _look(self, tap: _Tap) -> None:
        """Learn the devices of a namespace, which the calling thread is in."""
        tap.devices = dict(socket.if_nameindex())
        target = tap.target
        for name in tap.devices.values():
            key = target.netns, name
            if key in self._numbers or not target.wants(name):
                continue
            self._numbers[key] = len(self.interfaces)
            self.interfaces.append(interface(target, name))
            self.counts.append(0)
