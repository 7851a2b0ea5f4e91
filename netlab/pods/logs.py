"""What the programs in containers print: collected, bounded, read back.

A program writes into a pipe with a name, which one thread of the agent empties into the log, so
the log has a bound whatever the program does. The program holds the pipe open at both ends itself:
when the agent dies it goes on, and waits only when a pipe's worth is unread (1 MiB); the next
agent opens the pipe by its name and reads on.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from netlab.errors import NotFoundError
from netlab.pods.watching import Watcher

LOG_BYTES = 4 << 20  # of the current file; the one before it is kept too
PIPE_BYTES = 1 << 20  # what any user may have: /proc/sys/fs/pipe-max-size
_APPENDING = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
LOOK = 0.1  # seconds between looks for more, when following


def log_path(rundir: Path | str, namespace: str, pod: str, container: str) -> Path:
    return Path(rundir, "logs", namespace, pod, f"{container}.log")


def logs(
    rundir: Path | str,
    namespace: str,
    pod: str,
    container: str,
    *,
    follow: bool = False,
    tail: int | None = None,
) -> Iterator[str]:
    """Yield what the container has printed, see `written`, until the pod is gone. Raises
    NotFoundError when there is no log."""
    try:
        path = log_path(rundir, namespace, pod, container)
        yield from written(path, follow=follow, tail=tail)
    except FileNotFoundError:
        raise NotFoundError(
            f"container {container} of pod {namespace}/{pod} has no log",
            hint="only a container with a `command:` has one",
        ) from None


def written(path: Path, *, follow: bool = False, tail: int | None = None) -> Iterator[str]:
    """Yield what the log at *path* holds: all, or the last *tail* lines; with *follow*, whatever is
    written from then on, until it is gone. Raises FileNotFoundError."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        earlier = _earlier(path, besides=os.fstat(descriptor).st_ino)
        yield _last(decoder.decode(earlier + b"".join(_rest(descriptor))), tail)
        while follow:
            for data in _rest(descriptor):
                yield decoder.decode(data)
            try:
                current = os.stat(path).st_ino
            except FileNotFoundError:
                return
            if current == os.fstat(descriptor).st_ino:
                time.sleep(LOOK)
                continue
            for data in _rest(descriptor):  # what came before it was put away
                yield decoder.decode(data)
            os.close(descriptor)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def _rest(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, 1 << 16):
        yield data


def _earlier(path: Path, *, besides: int) -> bytes:
    """Return the part that was put away last, unless it is the file *besides* (its inode)."""
    try:
        with open(_rotated(path), "rb") as file:
            return b"" if os.fstat(file.fileno()).st_ino == besides else file.read()
    except FileNotFoundError:
        return b""


def _rotated(path: Path) -> Path:
    return path.with_suffix(".log.1")


def _last(text: str, lines: int | None) -> str:
    if lines is None:
        return text
    return "".join(text.splitlines(keepends=True)[-lines:]) if lines else ""


class Log:
    """One container's pipe, and the file its content goes to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        pipe = path.with_suffix(".pipe")
        try:
            os.mkfifo(pipe, 0o600)
        except FileExistsError:  # an agent before us made it
            pass
        # Both ends: as a reader alone we would be woken for ever while nobody writes.
        self.pipe = os.open(pipe, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # a smaller one will do
            pass
        self._file = os.open(path, _APPENDING, 0o644)
        self._size = os.fstat(self._file).st_size

    def writer(self) -> int:
        """Return a descriptor for the program to write to; the caller closes it."""
        return os.open(self.path.with_suffix(".pipe"), os.O_RDWR | os.O_CLOEXEC)

    def collect(self) -> None:
        """Move what is in the pipe to the file, putting it away when it is full."""
        try:
            data = os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return
        try:
            if self._size + len(data) > LOG_BYTES:
                self._put_away()
            os.write(self._file, data)
        except OSError:  # no room, or its directory removed: what was printed is lost
            return
        self._size += len(data)

    def _put_away(self) -> None:
        """Begin a new file; there is one under the log's name at any moment."""
        second, fresh = self.path.with_suffix(".log.2"), self.path.with_suffix(".log.0")
        second.unlink(missing_ok=True)
        os.link(self.path, second)
        os.replace(second, _rotated(self.path))
        os.close(self._file)
        self._file = os.open(fresh, _APPENDING, 0o644)
        os.replace(fresh, self.path)
        self._size = 0

    def close(self) -> None:
        os.close(self.pipe)
        os.close(self._file)


class Collector:
    """The logs whose pipes are emptied, by a watcher's thread."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._logs: dict[Path, Log] = {}

    def log(self, path: Path) -> Log:
        """Return the log kept at *path*, collected from now on. Raises OSError."""
        log = self._logs.get(path)
        if log is None:
            log = self._logs[path] = Log(path)
            self._watcher.add(log.pipe, log.collect)
        return log

    def forget(self, path: Path) -> None:
        """Collect no more of the log at *path*, after what is in its pipe now."""
        log = self._logs.pop(path, None)
        if log is not None:
            self._watcher.remove(log.pipe)
            log.collect()
            log.close()

    def close(self) -> None:
        for path in list(self._logs):
            self.forget(path)
