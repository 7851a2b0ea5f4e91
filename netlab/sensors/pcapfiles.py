"""Where a capture is written: one file, a ring of files of which the newest stay, or a stream.

A file is whole at any moment up to its last write, so nothing is lost with a process that is
killed. Comments are added later, in a copy that then takes its place.
"""

from __future__ import annotations

import os
import re
import select
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from netlab import __version__, pcapng
from netlab.annotation.blocks import Annotator
from netlab.sensors.interfaces import Interface

CHUNK = 1 << 20  # bytes that are read at once when comments are added


class About(msgspec.Struct, frozen=True):
    """What the blocks of a file's interfaces say besides their names."""

    snaplen: int = 0
    filter: str = ""

    def section(self) -> bytes:
        machine = os.uname()
        return pcapng.section(
            hardware=machine.machine,
            system=f"{machine.sysname} {machine.release}",
            application=f"netlab {__version__}",
        )

    def interface(self, one: Interface) -> bytes:
        return pcapng.interface(
            one.label,
            description=one.description,
            link=one.link,
            snaplen=self.snaplen,
            mac=one.mac,
            filter=self.filter,
        )


class Output(Protocol):
    """What packet blocks are written to, in the order of time."""

    size: int  # bytes written

    @property
    def streams(self) -> bool:
        """Whether what is written cannot be read back: a pipe, a terminal, a device."""
        ...

    @property
    def gone(self) -> bool:
        """Whether nobody will ever read what is written next."""
        ...

    def write(self, blocks: Sequence[bytes], interfaces: Sequence[Interface]) -> None: ...
    def end(self, blocks: Sequence[bytes]) -> None: ...


class File:
    """A file or stream, by its descriptor, which is closed with it. Raises OSError."""

    def __init__(self, descriptor: int, about: About) -> None:
        self._descriptor = descriptor
        self._about = about
        self._told = 0  # interfaces whose blocks are written
        self.size = 0
        self.streams = not stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._put(about.section())

    @property
    def gone(self) -> bool:
        watch = select.poll()
        watch.register(self._descriptor, 0)  # errors are told unasked
        return self.streams and any(event & select.POLLERR for _, event in watch.poll(0))

    def write(self, blocks: Sequence[bytes], interfaces: Sequence[Interface]) -> None:
        fresh = [self._about.interface(one) for one in interfaces[self._told :]]
        self._told += len(fresh)
        if fresh or blocks:
            self._put(b"".join((*fresh, *blocks)))

    def end(self, blocks: Sequence[bytes]) -> None:
        """Write the statistics and close."""
        try:
            self._put(b"".join(blocks))
        finally:
            self.close()

    def close(self) -> None:
        if self._descriptor > 2:
            os.close(self._descriptor)
        self._descriptor = -1

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.size += len(data)


class Ring:
    """Files `NAME_00001.EXT`, `NAME_00002.EXT`, … of about *most* bytes; the newest *keep* stay."""

    streams = gone = False

    def __init__(self, path: Path, about: About, *, most: int, keep: int) -> None:
        self._path, self._about = path, about
        self._most, self._keep = most, keep
        self._count = _last(path)
        self.size = 0
        self.paths: list[Path] = []
        self._file = self._next()

    def _next(self) -> File:
        self._count += 1
        name = f"{self._path.stem}_{self._count:05}{self._path.suffix}"
        self.paths.append(self._path.with_name(name))
        made = File(create(self.paths[-1]), self._about)
        self._fresh = True
        for old in self.paths[: -self._keep]:
            old.unlink(missing_ok=True)
        del self.paths[: -self._keep]
        return made

    def write(self, blocks: Sequence[bytes], interfaces: Sequence[Interface]) -> None:
        rest = list(blocks)
        while True:
            part = _fitting(rest, self._most - self._file.size, least=int(self._fresh))
            before = self._file.size
            self._file.write(rest[:part], interfaces)
            self.size += self._file.size - before
            self._fresh = self._fresh and not part
            del rest[:part]
            if not rest:
                return
            self._file.close()
            self._file = self._next()

    def end(self, blocks: Sequence[bytes]) -> None:
        self._file.end(blocks)


def _fitting(blocks: Sequence[bytes], room: int, *, least: int) -> int:
    """Return how many of *blocks* fit into *room* bytes, *least* at least."""
    for number, block in enumerate(blocks):
        room -= len(block)
        if room < 0:
            return min(max(number, least), len(blocks))
    return len(blocks)


def create(path: Path) -> int:
    """Return a descriptor of a new file; one that is there is emptied. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)


def annotate(path: Path, annotator: Annotator, *, progress: Callable[[int], None]) -> None:
    """Add comments to a capture, in a copy that takes its place when it is done.

    The annotator knows the interfaces. *progress* is called with the bytes read so far.
    Raises OSError, and whatever *progress* raises; the file then stays as it was.
    """
    # A name that nobody can foresee: whoever may write to the folder could have a link there.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    copy = Path(name)
    try:
        with path.open("rb", buffering=0) as file, os.fdopen(descriptor, "wb", CHUNK) as out:
            os.fchmod(out.fileno(), os.fstat(file.fileno()).st_mode & 0o777)
            done = told = 0
            for block in pcapng.blocks(file, chunk=CHUNK):
                done += len(block.data)
                said = block.data
                if block.kind == pcapng.PACKET:
                    said = annotator.annotated(block.data)
                out.write(said)
                if done - told > CHUNK:
                    told = done
                    progress(done)
        copy.replace(path)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise


def _last(path: Path) -> int:
    """Return the highest number of an earlier ring of that name, whose files stay as they are."""
    pattern = re.compile(re.escape(path.stem) + r"_(\d{5})" + re.escape(path.suffix))
    found = [pattern.fullmatch(one.name) for one in path.parent.iterdir()]
    return max((int(one[1]) for one in found if one), default=0)
