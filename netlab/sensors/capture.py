"""Every sighting of a probe on every device of a set of namespaces, by the token it carries.

One ring per namespace sees all its devices; the kernel's time stamps are one clock for all.
A ring hands its frames over in blocks and in order, so `flush` sends a marker through each
namespace's `lo`: once it shows, all that was seen before it has been handed over.
What the rings hold is taken into memory several times a second, whether or not anybody asks, as a
trickle of frames uses a ring up as fast as a flood.
Memory is bounded: of the frames only those are kept that carry a probe's mark or open a TCP
connection, and of these the newest `KEPT`.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple
from uuid import uuid4

from netlab import patience
from netlab.errors import KernelError
from netlab.kernel.netns import entered, identity
from netlab.packets import Expectation, Flow, Sighting
from netlab.sensors import dissect, sieve
from netlab.sensors.ring import FRAME, Frame, Ring, open_ring
from netlab.sensors.token import MARK, TOKEN

FRAMES = 3000  # room in a ring by default: what a verification sends, many times over
KEPT = 400_000  # frames
FLUSH_MARK = b"netlab-flush:"  # what a marker begins with: whose it is, and its number, follow
FLUSH_PORT = 9  # discard (RFC 863), on 127.0.0.1
FLUSH_PATIENCE = patience.seconds(2.0)  # a marker takes some milliseconds, on a busy machine more
READ_EVERY = 0.1  # seconds: the rings hold more than comes meanwhile
NO_MARKER = 0.15  # seconds for a block to be handed over where no marker can be sent

_TCP_SYN_OR_RST, _TCP_ACK = 0x02 | 0x04, 0x10
_NUMBERS = struct.Struct("!II")  # sequence and acknowledgement
_IPV4_BEGINS = b"\x08\x00\x45"  # an Ethernet type, and a header without options
_IPV6_TYPE = dissect.IPV6_TYPE
_UDP = bytes([socket.IPPROTO_UDP])


class Kept(NamedTuple):
    netns: str
    frame: Frame


class Opening(NamedTuple):
    """What a frame says of the opening of a TCP connection."""

    number: int  # of the SYN that this is, or that it answers
    ends: bytes = b""  # of a SYN outside an envelope: addresses and ports


def opening(data: bytes, *, headless: bool = False) -> Opening | None:
    """Return what a frame says that opens or refuses a TCP connection, else None.

    Inside VXLAN, or bare in a datagram, too. *headless*: the frame begins with the IP header.
    """
    if headless:
        return _opening(data, 0, outside=True)
    if data[12:14] == _IPV6_TYPE:
        if data[20:21] != _UDP:
            return _opening_v6(data, dissect.ETHERNET, outside=True)
        typed = data[sieve.INNER_V6 - 2 : sieve.INNER_V6] == _IPV6_TYPE
        return _opening_v6(data, sieve.INNER_V6, outside=False) if typed else None
    if data[12:15] != _IPV4_BEGINS:
        return None
    if data[23:24] != _UDP:
        return _opening(data, dissect.ETHERNET, outside=True)
    if data[sieve.BARE : sieve.BARE + 1] == _IPV4_BEGINS[2:]:
        return _opening(data, sieve.BARE, outside=False)
    typed = data[sieve.INNER - 2 : sieve.INNER + 1] == _IPV4_BEGINS
    return _opening(data, sieve.INNER, outside=False) if typed else None


def _opening(data: bytes, ip: int, *, outside: bool) -> Opening | None:
    """Return the same of the IP packet that begins at byte *ip*; *outside* any envelope."""
    if len(data) < ip + 40 or data[ip] != 0x45 or data[ip + 9] != socket.IPPROTO_TCP:
        return None
    return _segment(data, ip + 20, data[ip + 12 : ip + 24] if outside else b"")


def _opening_v6(data: bytes, ip: int, *, outside: bool) -> Opening | None:
    if len(data) < ip + 60 or data[ip] >> 4 != 6 or data[ip + 6] != socket.IPPROTO_TCP:
        return None
    return _segment(data, ip + 40, data[ip + 8 : ip + 44] if outside else b"")


def _segment(data: bytes, tcp: int, ends: bytes) -> Opening | None:
    """Return the same of the TCP segment that begins at byte *tcp*, between *ends*."""
    flags = data[tcp + 13]
    if not flags & _TCP_SYN_OR_RST:
        return None
    number, answered = _NUMBERS.unpack_from(data, tcp + 4)
    if flags & _TCP_ACK:
        return Opening((answered - 1) & 0xFFFFFFFF)
    return Opening(number, ends)


class Capture:
    """A context manager: from its start to its end, nothing on these namespaces' wires is missed.

    May be used by several threads at once. *netns_names* are namespaces' names; a name twice
    counts once. *program*: a filter (see `sieve`) whose frames are all kept. Raises KernelError
    when a namespace does not exist.
    """

    def __init__(
        self, netns_names: Iterable[str], *, frames: int = FRAMES, program: bytes = b""
    ) -> None:
        self._names = list(dict.fromkeys(netns_names))
        self._frames = frames
        self._program = program
        self._rings: dict[str, Ring] = {}
        self._devices: dict[str, dict[int, str]] = {}
        self._named: dict[str, int] = {}  # when these were read, ns since the epoch
        self._identities: dict[str, int] = {}
        self._stale: list[Ring] = []  # of namespaces whose names are others' by now
        self._kept: deque[Kept] = deque()
        self._by_token: dict[bytes, list[Kept]] = {}
        self._openings: dict[int, list[Kept]] = {}  # by the number of the SYN
        self._numbers: dict[tuple[str, bytes], int] = {}  # of SYNs, by namespace and ends
        self._lock = threading.Lock()
        self._forgotten = 0
        self._late = 0  # rings that did not hand over what they had
        self._markers: dict[str, socket.socket] = {}
        self._marker = FLUSH_MARK + uuid4().hex.encode() + b":"  # another capture's says nothing
        self._flushed: dict[str, int] = {}
        self._flushes = 0
        self._reading: threading.Thread | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Capture:
        try:
            self.add(self._names)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, netns_names: Iterable[str]) -> None:
        """Watch further namespaces too, from now on; anew one that is another's by now: a pod of a
        StatefulSet comes back under its name."""
        added: dict[str, Ring] = {}
        try:
            for name in netns_names:
                if name not in added and not self._watches(name):
                    with entered(name):
                        self._identities[name] = identity(name)
                        added[name] = open_ring(self._program)
                        self._devices[name] = dict(socket.if_nameindex())
                        self._markers[name] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if added:
                with ThreadPoolExecutor(len(added)) as pool:
                    for _ in pool.map(
                        lambda ring: ring.start(self._frames * FRAME), added.values()
                    ):
                        pass
        finally:
            # Replaced, never changed: other threads walk over it meanwhile, and may wait for what
            # is replaced, so that is closed at the end.
            self._stale += [self._rings[name] for name in added if name in self._rings]
            self._rings = {**self._rings, **added}
        if self._rings and self._reading is None:
            self._reading = threading.Thread(target=self._read, daemon=True)
            self._reading.start()

    def _read(self) -> None:
        while not self._closed.wait(READ_EVERY):
            self.drain()

    def _watches(self, name: str) -> bool:
        """Return whether the namespace that is called *name* now is watched, or was and is gone."""
        return name in self._rings and identity(name) in (0, self._identities[name])

    def close(self) -> None:
        """Stop watching; what was kept stays."""
        self._closed.set()
        if self._reading is not None:
            self._reading.join()
        with self._lock:
            rings, self._rings = [*self._rings.values(), *self._stale], {}
        for marker in self._markers.values():
            marker.close()
        if rings:
            with ThreadPoolExecutor(len(rings)) as pool:
                for _ in pool.map(Ring.close, rings):
                    pass

    def wait(self, seconds: float) -> None:
        """Return when some ring has something new, or after *seconds*."""
        poll = select.poll()
        for ring in list(self._rings.values()):
            poll.register(ring.fileno(), select.POLLIN)
        poll.poll(seconds * 1000)
        self.drain()

    def drain(self) -> None:
        """Move what the rings hold into memory."""
        with self._lock:
            for name, ring in self._rings.items():
                for frame in ring.frames():
                    if FLUSH_MARK in frame.data:
                        _, mine, number = frame.data.partition(self._marker)
                        if mine:
                            self._flushed[name] = int(number)
                    else:
                        self._consider(Kept(name, frame))

    def _consider(self, kept: Kept) -> None:
        """Keep a frame that carries a probe's mark or opens a TCP connection; with a filter of
        somebody's, each that passes it."""
        data = kept.frame.data
        marks = set(TOKEN.findall(data)) if MARK in data else set()
        opens = opening(data, headless=kept.frame.headless)
        if not marks and opens is None and not self._program:
            return
        if len(self._kept) == KEPT:
            self._forget_oldest()
        self._kept.append(kept)
        for mark in marks:
            self._by_token.setdefault(mark, []).append(kept)
        if opens is not None:
            self._openings.setdefault(opens.number, []).append(kept)
            if opens.ends:
                self._numbers.setdefault((kept.netns, opens.ends), opens.number)

    def _forget_oldest(self) -> None:
        self._forgotten += 1
        oldest = self._kept.popleft()
        for mark in TOKEN.findall(oldest.frame.data):
            self._by_token.pop(mark, None)
        opens = opening(oldest.frame.data, headless=oldest.frame.headless)
        if opens is not None:
            self._openings.pop(opens.number, None)
            self._numbers.pop((oldest.netns, opens.ends), None)

    def flush(self) -> None:
        """Return when all that any ring saw before this call is in memory.

        A ring that does not hand it over within `FLUSH_PATIENCE` counts as one frame `lost`.
        """
        began = time.monotonic()
        with self._lock:
            self._flushes += 1
            number = self._flushes
            marked = [name for name in self._rings if self._mark(name, number)]
            silent = len(marked) < len(self._rings)
        while True:
            late = [name for name in marked if self._flushed.get(name, 0) < number]
            took = time.monotonic() - began
            if not late and (not silent or took > NO_MARKER):
                return
            if took > FLUSH_PATIENCE:
                with self._lock:
                    self._late += len(late)
                return
            self.wait(0.005)

    def gather(self, tokens: Sequence[bytes]) -> None:
        """Return when all that was seen of *tokens* before this call is at hand for `sightings`."""
        self.flush()

    def _mark(self, name: str, number: int) -> bool:
        """Send the marker *number* through a namespace; return whether that could be."""
        try:
            self._markers[name].sendto(self._marker + b"%d" % number, ("127.0.0.1", FLUSH_PORT))
        except OSError:
            return False  # lo is down, or a rule lets nothing out
        return True

    @property
    def lost(self) -> int:
        """How many frames the rings or the memory had no room for, or were not handed over."""
        with self._lock:
            unseen = sum(ring.count_lost() for ring in self._rings.values())
            return self._forgotten + self._late + unseen

    def forget(self) -> None:
        """Drop what was kept, to make room for a long series of probes."""
        with self._lock:
            self._kept.clear()
            self._by_token.clear()
            self._openings.clear()
            self._numbers.clear()

    def narrow(self, program: bytes) -> None:
        """Take what the filter *program* lets through from now on, and keep all of it."""
        self._program = program
        with self._lock:
            for ring in self._rings.values():
                ring.filter(program)

    def taken(self) -> list[Kept]:
        """Return what was kept since the last call, oldest first, and keep it no longer."""
        self.drain()
        with self._lock:
            found, self._kept = list(self._kept), deque()
            for index in (self._by_token, self._openings, self._numbers):
                index.clear()
        return sorted(found, key=lambda kept: kept.frame.time)

    def frames(self, token: bytes) -> list[Kept]:
        """Return the frames that have *token* in them, oldest first."""
        self.drain()
        with self._lock:
            found = list(self._by_token.get(token, ()))
        return sorted(found, key=lambda kept: kept.frame.time)

    def every(self) -> list[Kept]:
        """Return all frames that were kept, oldest first."""
        self.drain()
        with self._lock:
            return sorted(self._kept, key=lambda kept: kept.frame.time)

    def kept(self) -> int:
        """Return how many frames are kept by now."""
        self.drain()
        return len(self._kept)

    def sightings(self, token: bytes) -> list[Sighting]:
        """Return the sightings of the packets that have *token* in them, oldest first."""
        return self._seen(self.frames(token))

    def handshake(self, flow: Flow, *, netns: str) -> list[Sighting]:
        """Return the sightings of the SYN that opened *flow* in *netns*, and of what answered it.

        A TCP connection that is not answered carries no token. Its SYN is known by its sequence
        number, which masquerading leaves alone.
        """
        number = self.number(flow, netns=netns)
        return self.opening(number) if number is not None else []

    def number(self, flow: Flow, *, netns: str) -> int | None:
        """Return the sequence number of the SYN that opened *flow* in *netns*; None: none did."""
        if not flow.source:
            return None  # its kernel found no way to send it
        family = socket.AF_INET6 if ":" in flow.source else socket.AF_INET
        ends = b"".join(socket.inet_pton(family, one) for one in (flow.source, flow.destination))
        ports = flow.source_port.to_bytes(2, "big") + flow.destination_port.to_bytes(2, "big")
        self.drain()
        with self._lock:
            return self._numbers.get((netns, ends + ports))

    def opening(self, number: int) -> list[Sighting]:
        """Return the sightings of a SYN with the sequence *number*, and of what answered it."""
        self.drain()
        with self._lock:
            found = list(self._openings.get(number, ()))
        return self._seen(sorted(found, key=lambda kept: kept.frame.time))

    def in_order(self, expectation: Expectation, sightings: list[Sighting]) -> list[Sighting]:
        """Return the *sightings* of a flow by one clock: here all namespaces have the same."""
        return sightings

    def _seen(self, kept: Iterable[Kept]) -> list[Sighting]:
        found = []
        for netns, frame in kept:
            device = self.device(netns, frame)
            sighting = dissect.sighting(frame, netns=netns, device=device)
            if sighting is not None:
                found.append(sighting)
        return found

    def device(self, netns: str, frame: Frame) -> str:
        """Return the name of the device that *frame* was seen on.

        An index that was another device's may be given anew, so names that were read before the
        frame came are read again; a device that has gone since keeps the name it had.
        """
        if self._named.get(netns, 0) <= frame.time:
            now = time.time_ns()
            try:
                with entered(netns):
                    self._devices[netns].update(socket.if_nameindex())
            except KernelError:
                pass  # the namespace has lost its name; its packets are still its own
            self._named[netns] = now  # not before: other threads go by it
        return self._devices[netns].get(frame.ifindex, f"if{frame.ifindex}")
