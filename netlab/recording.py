"""A capture as it runs: who is watched, what is written, when it ends, what is said of it all.

1. The loop takes what has settled in the rings and writes it; nothing else happens in its thread
   that could take longer than the rings have room for. Who is watched, what the filter's names
   mean, and which rules were met are found out by other threads.
2. Comments are added to a file when the capture has ended, to a stream at once, as long as that
   keeps up: a stream that falls behind goes on without them, and how many lack them is told.
3. Namespaces and devices that appear are watched from then on, if the words of the command mean
   them; those that go are let go.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from select import POLLERR, poll
from typing import Protocol as Interface

import msgspec

from netlab import filters, targets, world
from netlab.annotation.blocks import Annotator, Rules
from netlab.annotation.names import Names, names
from netlab.cluster import Cluster
from netlab.errors import NetlabError, NotFoundError, UsageError
from netlab.filters import names as filter_names
from netlab.filters.flows import flows
from netlab.filters.grammar import Condition
from netlab.sensors import pcapfiles
from netlab.sensors.pcapfiles import About, File, Output
from netlab.sensors.rulewatch import RuleWatch
from netlab.sensors.taps import Record, Taps, statistics
from netlab.targets import Target

LOOK = 1.0  # seconds between two looks at who there is
WAIT = 0.05  # seconds the loop sleeps at most
BEHIND = 250_000_000  # ns that a stream may lag before its comments are left out
MIB = 1 << 20


class Live(Interface):
    """What a capture needs of a running lab."""

    def cluster(self) -> Cluster: ...
    def revision(self) -> int: ...


class Wish(msgspec.Struct, frozen=True):
    """What to capture, how much of it, and where to. 0 stands for no bound.

    `path` None: to `stream`, a descriptor. `size`, `ring` in MiB, `seconds` in s.
    """

    words: tuple[str, ...] = ()  # targets; none: everything
    namespace: str = "default"
    filter: str = ""
    path: Path | None = None
    stream: int = 1
    count: int = 0
    seconds: float = 0.0
    size: float = 0.0
    ring: float = 0.0
    files: int = 2
    snaplen: int = 0
    comments: bool = True
    rules: bool = False


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


class _Meant(msgspec.Struct, frozen=True):
    """What a wish means at one moment."""

    targets: tuple[Target, ...]
    tree: Condition | None
    code: bytes
    names: Names
    revision: int


def meant(cluster: Cluster, wish: Wish, *, strict: bool = True) -> _Meant:
    """Return what *wish* means in *cluster*.

    Raises NotFoundError and UsageError; without *strict* what is not there is passed over.
    """
    if not wish.words:
        found = targets.every(cluster)
    elif strict:
        found = targets.targets(cluster, wish.words, namespace=wish.namespace)
    else:
        known = [word for word in wish.words if _is_there(cluster, word, wish.namespace)]
        found = targets.targets(cluster, known, namespace=wish.namespace)
    tree = None
    code = filters.everything(wish.snaplen)
    if wish.filter:
        known_names = filter_names.names(cluster, namespace=wish.namespace)
        tree = filters.parsed(wish.filter, known_names)
        code = filters.program(tree, wish.snaplen)
    return _Meant(tuple(found), tree, code, names(cluster), cluster.revision)


def _is_there(cluster: Cluster, word: str, namespace: str) -> bool:
    try:
        targets.targets(cluster, [word], namespace=namespace)
    except NotFoundError:
        return False
    return True


class _Follower:
    """A thread that keeps up with the lab: `news` is what a wish means since it last changed."""

    def __init__(self, live: Live, wish: Wish, first: _Meant) -> None:
        self._live, self._wish = live, wish
        self._known = first
        self._news: _Meant | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def news(self) -> _Meant | None:
        """Return what is new since the last call, None when nothing is."""
        news, self._news = self._news, None
        return news

    def end(self) -> None:
        """End soon: who waits for etcd is not waited for."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.wait(LOOK):
            try:
                if self._live.revision() == self._known.revision:
                    continue
                self._known = meant(self._live.cluster(), self._wish, strict=False)
            except (NetlabError, OSError):
                continue  # etcd is out of reach, or a name of the filter's is gone: as it was
            self._news = self._known


def record(
    live: Live,
    wish: Wish,
    *,
    stopped: Callable[[], bool],
    began: Callable[[Taps], None] = lambda taps: None,
    progress: Callable[[str], None] = lambda words: None,
) -> Summary:
    """Capture what *wish* says until *stopped* or a bound; return what came of it.

    Raises NotFoundError, UsageError before anything is written; CapabilityError; OSError for a
    file that cannot be written, BrokenPipeError when the reader of the stream has gone.
    """
    first = meant(live.cluster(), wish)
    _raise_open_files()
    with ExitStack() as stack:
        taps = Taps(first.code, snaplen=wish.snaplen)
        stack.callback(taps.close)
        watch = _rule_watch(first) if wish.rules else None
        with watch or nullcontext():
            taps.follow(first.targets)
            recording = _Recording(taps, _output(wish), wish, first.names, watch)
            follower = _Follower(live, wish, first)
            stack.callback(follower.end)
            began(taps)
            recording.run(follower, stopped)
        recording.finish()
    return recording.commented(progress)


def _rule_watch(first: _Meant) -> RuleWatch:
    """Pods have no rules of their own: of all others the rules are told."""
    places = [one.netns for one in first.targets if "/" not in one.label]
    if not places:
        raise UsageError("no rules to tell: only pods are captured", hint="add node/NAME")
    return RuleWatch(places, flows(first.tree))


def _raise_open_files() -> None:
    """Each namespace takes a descriptor, and the usual limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _output(wish: Wish) -> Output:
    about = About(wish.snaplen, wish.filter)
    if wish.path is None:
        return File(wish.stream, about)
    if wish.ring:
        most = int(wish.ring * MIB)
        return pcapfiles.Ring(wish.path, about, most=most, keep=wish.files)
    return File(pcapfiles.create(wish.path), about)


class _Recording:
    """The loop, and what it counts."""

    def __init__(
        self, taps: Taps, output: Output, wish: Wish, names: Names, watch: RuleWatch | None
    ) -> None:
        self._taps, self._output, self._wish, self._watch = taps, output, wish, watch
        self._streams = wish.path is None
        self._annotator = Annotator(names)
        if watch is not None:
            self._annotator.rules = Rules()
        self._packets = self._bare = 0
        self._namespaces = 0
        self._began = time.time_ns()
        self._ended = 0
        self._lost: dict[str, int] = {}

    def run(self, follower: _Follower, stopped: Callable[[], bool]) -> None:
        """Write what comes until it is enough."""
        end = time.monotonic() + self._wish.seconds if self._wish.seconds else float("inf")
        gone = poll()
        if self._streams:
            gone.register(self._wish.stream, POLLERR)
        while not stopped() and time.monotonic() < end and not self._full():
            self._taps.wait(min(WAIT, max(end - time.monotonic(), 0)))
            self._write(self._taps.take())
            if self._streams and any(event & POLLERR for _, event in gone.poll(0)):
                raise BrokenPipeError  # nobody will ever read what comes next
            news = follower.news()
            if news is not None:
                self._taps.follow(news.targets, code=news.code)
                self._annotator.know(news.names)
            self._namespaces = max(self._namespaces, len(self._taps.watched))
            if not self._taps.watched:
                return  # the lab is gone

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
        if self._streams and self._wish.comments:
            blocks = self._with_comments(records)
        self._packets += len(blocks)
        self._output.write(blocks, interfaces)

    def _with_comments(self, records: list[Record]) -> list[bytes]:
        """Return the blocks of a stream: with comments, unless it has fallen behind."""
        if self._watch is not None and self._annotator.rules is not None:
            self._annotator.rules.add(self._watch.take())
        blocks: list[bytes] = []
        for number, (stamp, block) in enumerate(records):
            if number % 256 == 0 and time.time_ns() - stamp > BEHIND:
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
        notes = list(self._rule_notes())
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
        return [self._wish.path] if self._wish.path and self._wish.path.is_file() else []

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
