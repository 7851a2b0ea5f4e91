"""A flight recorder: the newest frames of a set of namespaces, in memory until they are wanted.

    with Recorder(["demo.node1", "demo.node2"]) as recorder:
        ...
        recorder.dump(Path("failed.pcapng"))  # at any time, and as often as one likes

It costs 2 us of CPU time per frame and `size` bytes; nothing is written before `dump`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from netlab import filters, patience, world
from netlab.annotation.blocks import Annotator
from netlab.annotation.names import Names
from netlab.errors import NetlabError
from netlab.sensors.interfaces import statistics
from netlab.sensors.pcapfiles import About, File, create
from netlab.sensors.taps import Record, Taps
from netlab.targets import Target

SIZE = 16 << 20  # bytes
RINGS = 64 << 20  # bytes of the kernel's rings, on the way there
OVERHEAD = 150  # bytes that Python takes for each frame besides its own
COUNT = 0.5  # seconds between two counts of lost frames: a call per namespace
LOOK = 1.0  # seconds between two looks for namespaces that came or went
WAIT = 0.05  # seconds the thread sleeps at most
PATIENCE = patience.seconds(2.0)  # seconds for what was seen before a `dump` to be handed over


class Recorder:
    """A context manager: from its start to its end, the newest *size* bytes of frames are kept.

    *places*: namespaces by name, or as `netlab.targets` gives them (`targets.every(cluster)`),
    with labels. *code*: a filter (`filters.program`), *names*: for the comments
    (`annotation.names.names(cluster)`), *memory*: bytes of the rings that frames come through.
    May be used by several threads. Raises CapabilityError, when it begins, where the kernel does
    not let us; namespaces that do not exist are left out.
    """

    def __init__(
        self,
        places: Iterable[str | Target],
        *,
        size: int = SIZE,
        code: bytes = b"",
        snaplen: int = 0,
        memory: int = RINGS,
        names: Names | None = None,
    ) -> None:
        self._wanted = _targets(places)
        self._names = names or Names()
        self._size = size
        self._about = About(snaplen)
        self._taps = Taps(code or filters.everything(snaplen), snaplen=snaplen, memory=memory)
        self._kept: deque[Record] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._looks = time.monotonic() + LOOK  # when namespaces are looked for next
        self._looked = 0  # ns: all frames older than this are in memory
        self._lost: dict[str, int] = {}
        self._counted = 0.0  # when the lost frames were counted last
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def __enter__(self) -> Recorder:
        try:
            self._taps.follow(self._wanted)
        except BaseException:
            self._taps.close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop recording; what was kept can still be dumped."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def watch(self, places: Iterable[str | Target], *, names: Names | None = None) -> None:
        """Record *places* from now on, and nothing else; what was kept of others stays."""
        with self._lock:
            self._wanted = _targets(places)
            self._names = names or self._names

    @property
    def lost(self) -> dict[str, int]:
        """How many frames there was no room for in the rings, by namespace."""
        with self._lock:
            return dict(self._lost)

    def forget(self) -> None:
        """Drop what was kept: what comes from now on is another story."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def dump(self, path: Path, *, comments: bool = True) -> int:
        """Write what was kept of all that was seen until now; return how many packets that is.

        Raises OSError.
        """
        until = time.time_ns()
        deadline = time.monotonic() + PATIENCE
        while self._looked < until and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        with self._lock:
            records = list(self._kept)
            interfaces = list(self._taps.interfaces)
            names, lost = self._names, dict(self._lost)
        blocks = [block for _, block in records]
        if comments:
            annotator = Annotator(names)
            for one in interfaces:
                annotator.interface(one.netns, one.link, card=one.device == world.UPLINK)
            blocks = [annotator.annotated(block) for block in blocks]
        file = File(create(path), self._about)
        try:
            file.write(blocks, interfaces)
            began = records[0][0] if records else until
            counts = Counter(int.from_bytes(block[8:12], "little") for block in blocks)
            each = [counts[number] for number in range(len(interfaces))]
            file.end(list(statistics(interfaces, each, lost, start=began, end=until)))
        finally:
            file.close()
        return len(blocks)

    def _run(self) -> None:
        wanted = self._wanted
        try:
            while not self._ending.is_set():
                self._taps.wait(WAIT)
                if time.monotonic() > self._looks or self._wanted is not wanted:
                    wanted, self._looks = self._wanted, time.monotonic() + LOOK
                    self._follow(wanted)
                settled, records = self._taps.settled()
                self._keep(records)
                self._looked = settled
            self._counted = 0.0
            self._keep(self._taps.rest())
            self._looked = time.time_ns()
        finally:
            self._taps.close()

    def _follow(self, wanted: list[Target]) -> None:
        try:
            self._taps.follow(wanted)
        except NetlabError:
            pass  # what is watched already stays so: a recorder must not end what it records

    def _keep(self, records: list[Record]) -> None:
        now = time.monotonic()
        lost = None
        if now - self._counted > COUNT:
            lost, self._counted = self._taps.lost, now
        with self._lock:
            self._lost = self._lost if lost is None else lost
            self._kept += records
            self._bytes += sum(len(block) + OVERHEAD for _, block in records)
            while self._bytes > self._size:
                self._bytes -= len(self._kept.popleft()[1]) + OVERHEAD


def _targets(places: Iterable[str | Target]) -> list[Target]:
    return [Target(one, one, one) if isinstance(one, str) else one for one in places]
