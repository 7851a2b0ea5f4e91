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

import fcntl
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from select import POLLIN, poll
from typing import NamedTuple

from netlab import pcapng
from netlab.errors import KernelError
from netlab.kernel import netns
from netlab.kernel.netns import entered
from netlab.sensors.ring import FRAME_HEAD, PACKET_OUTGOING, Ring, open_ring
from netlab.targets import Target

BLOCK = 128 << 10  # bytes: the longest frame there is, a segment of 64 KiB not yet cut, fits whole
RETIRE = 20  # milliseconds
SETTLED = 3 * RETIRE * 1_000_000  # ns; the kernel looks every RETIRE whether a block is that old
PAUSE = 0.004  # seconds
MEMORY = 64 << 20  # bytes for all rings together …
RING = (4 * BLOCK, 16 << 20)  # … of which each has at least and at most this

_KINDS = (pcapng.UNICAST, pcapng.BROADCAST, pcapng.MULTICAST, pcapng.PROMISCUOUS)  # sll_pkttype
_RAW_LINKS = frozenset((65534, 768, 769, 776, 778, 519))  # ARPHRD_NONE, tunnels of IP: no header
_SIOCGIFHWADDR = 0x8927  # netdevice(7)

Record = tuple[int, bytes]  # time (ns), packet block
_time_of = itemgetter(0)


class Interface(NamedTuple):
    """A device of the capture; its number is its place in `Taps.interfaces`."""

    netns: str
    device: str
    label: str
    description: str
    link: int  # LINKTYPE_*
    mac: bytes = b""


def statistics(
    interfaces: Sequence[Interface],
    counts: Sequence[int],
    lost: Mapping[str, int],
    *,
    start: int,
    end: int,
) -> Iterator[bytes]:
    """Yield a block for each interface: how many packets it had, and what its namespace lost.

    Losses stand at the first interface of a namespace, and a comment there says whose they are.
    """
    told: set[str] = set()
    for number, one in enumerate(interfaces):
        first, dropped = one.netns not in told, lost.get(one.netns, 0)
        told.add(one.netns)
        words = f"lost by all devices of {one.netns} together: the kernel counts them so"
        yield pcapng.statistics(
            number,
            end,
            start=start,
            end=end,
            received=counts[number],
            dropped=dropped if first else None,
            comment=words if first and dropped else "",
        )


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

    *code* is the filter (an array of struct sock_filter, which must let all frames through when
    it is "everything"), *snaplen* how much it keeps of each frame, 0: all. *memory*: bytes for all
    rings together. Raises CapabilityError where the kernel does not let us.
    """

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
            least, most = RING
            size = min(max(self._memory // len(self._taps), least), most)
            with ThreadPoolExecutor(min(len(fresh), 64)) as pool:
                list(pool.map(lambda tap: tap.ring.start(size, block=BLOCK, retire=RETIRE), fresh))
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
                following, sec, nsec, held, length, _, mac, _, _, _, index, _, kind = unpack(
                    memory, at
                )
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
        return pcapng.packet_options(flags=_flags(kind), dropped=lost)

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
            entry = number, pcapng.packet_options(flags=_flags(kind))
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
            kind, mac = _hardware(name)
            link = pcapng.RAW_IP if kind in _RAW_LINKS else pcapng.ETHERNET
            made = Interface(target.netns, name, target.name(name), target.description(name), link)
            self._numbers[key] = len(self.interfaces)
            self.interfaces.append(made._replace(mac=mac))
            self.counts.append(0)


def _flags(kind: int) -> int:
    """Return the flags of a packet of an sll_pkttype."""
    if kind == PACKET_OUTGOING:
        return pcapng.flags(outgoing=True)
    return pcapng.flags(outgoing=False, kind=_KINDS[kind] if kind < len(_KINDS) else 0)


def _hardware(device: str) -> tuple[int, bytes]:
    """Return the type (ARPHRD_*) and MAC of a device here; Ethernet for one that just went."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("16s24x", device.encode())
        try:
            answer = fcntl.ioctl(asked.fileno(), _SIOCGIFHWADDR, request)
        except OSError:
            return 1, b""
    kind = int(struct.unpack_from("=H", answer, 16)[0])
    return kind, answer[18:24] if kind == 1 else b""
