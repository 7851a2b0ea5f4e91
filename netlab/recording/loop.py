"""The loop of a capture, and what it counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from netlab import world
from netlab.annotation.blocks import Annotator, Rules
from netlab.recording.wishes import LOOK, Follower, Meant, Wish
from netlab.sensors import pcapfiles
from netlab.sensors.interfaces import statistics
from netlab.sensors.pcapfiles import Output
from netlab.sensors.rulewatch import RuleWatch
from netlab.sensors.taps import Record, Taps

WAIT = 0.05  # seconds the loop sleeps at most
NOBODY = 5.0  # seconds after which a capture of namespaces that are all gone ends
BEHIND = 250_000_000  # ns that a stream may lag before its comments are left out
MIB = 1 << 20


class Summary(msgspec.Struct, frozen=True):
    """What came of a capture. `lost`: frames without room, by namespace; `bare`: without comments.

    `paths`: the files there are. `notes`: what else is to be known.
    """

    packets: int
    interfaces: int
    namespaces: int
    size: int
    seconds: float
    lost: dict[str, int]
    bare: int = 0
    paths: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


class Recording:
    """The loop, and what it counts."""

    def __init__(
        self, taps: Taps, output: Output, wish: Wish, first: Meant, watch: RuleWatch | None
    ) -> None:
        self._taps, self._output, self._wish, self._watch = taps, output, wish, watch
        self._at_once = (
            wish.path is None or output.streams
        )  # comments, as they cannot be added later
        self._annotator = Annotator(first.names)
        if watch is not None:
            self._annotator.rules = Rules()
        self._packets = self._bare = 0
        self._namespaces = len(taps.watched)
        self._targets, self._code = first.targets, first.code
        self._looks = time.monotonic() + LOOK  # when who is there is looked at next
        self._somebody = time.monotonic()
        self._began = time.time_ns()
        self._ended = 0
        self._lost: dict[str, int] = {}

    def run(self, follower: Follower, stopped: Callable[[], bool]) -> None:
        """Write what comes until it is enough. Raises OSError."""
        end = time.monotonic() + self._wish.seconds if self._wish.seconds else float("inf")
        while not stopped() and time.monotonic() < end and not self._full():
            self._taps.wait(min(WAIT, max(end - time.monotonic(), 0)))
            self._write(self._taps.take())
            if self._output.gone:
                raise BrokenPipeError  # nobody will ever read what comes next
            if not self._follow(follower):
                return

    def _follow(self, follower: Follower) -> bool:
        """Keep up with who there is; return whether anybody has been there lately."""
        now = time.monotonic()
        news = follower.news()
        if news is not None:
            self._annotator.know(news.names)
            self._code = news.code
            self._targets = news.targets
        if news is not None or now > self._looks:
            self._taps.follow(self._targets, code=self._code)
            self._looks = now + LOOK
            count = len(self._taps.watched)
            self._namespaces = max(self._namespaces, count)
            if count:
                self._somebody = now
        return now - self._somebody < NOBODY

    def _full(self) -> bool:
        wish = self._wish
        return bool(
            (wish.count and self._packets >= wish.count)
            or (wish.size and self._output.size >= wish.size * MIB)
        )

    def _write(self, records: list[Record]) -> None:
        if self._wish.count:
            records = self._kept(records, self._wish.count - self._packets)
        interfaces = self._taps.interfaces
        for one in interfaces[self._annotator.interfaces :]:
            self._annotator.interface(one.netns, one.link, card=one.device == world.UPLINK)
        blocks = [block for _, block in records]
        if self._at_once and self._wish.comments:
            blocks = self._with_comments(records)
        self._packets += len(blocks)
        self._output.write(blocks, interfaces)

    def _with_comments(self, records: list[Record]) -> list[bytes]:
        """Return the blocks of a stream: with comments, unless it has fallen behind."""
        if self._watch is not None and self._annotator.rules is not None:
            self._annotator.rules.add(self._watch.take())
        blocks: list[bytes] = []
        for number, (stamp, block) in enumerate(records):
            if number % 256 == 0 and time.time_ns() - stamp > BEHIND + self._taps.delay:
                self._bare += len(records) - number
                return blocks + [each for _, each in records[number:]]
            blocks.append(self._annotator.annotated(block))
        return blocks

    def _kept(self, records: list[Record], most: int) -> list[Record]:
        """Return the first of *records*; those after them do not count."""
        for _, block in records[most:]:
            self._taps.counts[int.from_bytes(block[8:12], "little")] -= 1
        return records[:most]

    def finish(self) -> None:
        """Write what is still in the rings, the statistics, and close the output."""
        full = self._full()
        rest = self._taps.rest()
        self._write(self._kept(rest, 0) if full else rest)
        self._ended = time.time_ns()
        self._lost = self._taps.lost
        self._taps.close()
        interfaces, counts = self._taps.interfaces, self._taps.counts
        bounds = {"start": self._began, "end": self._ended}
        self._output.end(list(statistics(interfaces, counts, self._lost, **bounds)))

    def commented(self, progress: Callable[[str], None]) -> Summary:
        """Add comments to what was written, if it is files; return the summary.

        *progress* is told how far that is; a KeyboardInterrupt it raises leaves the comments out.
        """
        notes = [*self._rule_notes(), *self._taps.notes()]
        paths = self._paths()
        bare = self._bare
        if paths and self._wish.comments and self._packets:
            if self._watch is not None and self._annotator.rules is not None:
                self._annotator.rules.add(self._watch.take())
            try:
                self._comment(paths, progress)
            except (OSError, KeyboardInterrupt) as error:
                why = (error.strerror or "") if isinstance(error, OSError) else "interrupted"
                notes.append(f"comments were left out: {why.lower()}")
                bare = self._packets
        return Summary(
            packets=self._packets,
            interfaces=len(self._taps.interfaces),
            namespaces=self._namespaces,
            size=self._output.size,
            seconds=(self._ended - self._began) / 1e9,
            lost=self._lost,
            bare=bare,
            paths=tuple(paths),
            notes=tuple(notes),
        )

    def _paths(self) -> list[Path]:
        if isinstance(self._output, pcapfiles.Ring):
            return self._output.paths
        return [self._wish.path] if self._wish.path and not self._output.streams else []

    def _comment(self, paths: list[Path], progress: Callable[[str], None]) -> None:
        whole = max(sum(path.stat().st_size for path in paths), 1)
        before = 0
        for path in paths:
            size = path.stat().st_size

            def so_far(done: int, before: int = before) -> None:
                progress(f"{(before + done) * 100 // whole} % of {self._packets} packets")

            so_far(0)
            pcapfiles.annotate(path, self._annotator, progress=so_far)
            before += size

    def _rule_notes(self) -> Iterator[str]:
        watch = self._watch
        if watch is None:
            return
        if watch.error is not None:
            yield f"rules were no longer told: {watch.error}"
        if watch.lost:
            yield "the kernel had more to tell of rules than there was room for"
        if watch.untold:
            yield f"the rules of {watch.untold} packets were left out"
