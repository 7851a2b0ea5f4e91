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
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from netlab.errors import NotFoundError

LOG_BYTES = 4 << 20  # of the current file; the one before it is kept too
PIPE_BYTES = 1 << 20  # what any user may have: /proc/sys/fs/pipe-max-size
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
    """Yield what the container has printed: all, or the last *tail* lines; with *follow*, whatever
    it prints from then on, until the pod is gone. Raises NotFoundError when there is no log.
    """
    path = log_path(rundir, namespace, pod, container)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        earlier = _earlier(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(
            f"container {container} of pod {namespace}/{pod} has no log",
            hint="only a container with a `command:` has one",
        ) from None
    try:
        yield _last(decoder.decode(earlier + b"".join(_rest(descriptor))), tail)
        while follow:
            for data in _rest(descriptor):
                yield decoder.decode(data)
            try:
                current = os.stat(path).st_ino
            except FileNotFoundError:
                if not path.parent.exists():
                    return
                continue  # just being put away
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


def _earlier(path: Path) -> bytes:
    """Return the part of the log that was put away last."""
    try:
        return _rotated(path).read_bytes()
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
        self._file = self._opened()
        self._size = os.fstat(self._file).st_size

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def writer(self) -> int:
        """Return a descriptor for the program to write to; the caller closes it."""
        return os.open(self.path.with_suffix(".pipe"), os.O_RDWR | os.O_CLOEXEC)

    def collect(self) -> None:
        """Move what is in the pipe to the file, putting it away when it is full."""
        try:
            data = os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return
        if self._size + len(data) > LOG_BYTES:
            os.replace(self.path, _rotated(self.path))
            os.close(self._file)
            self._file, self._size = self._opened(), 0
        os.write(self._file, data)
        self._size += len(data)

    def close(self) -> None:
        os.close(self.pipe)
        os.close(self._file)


class Collector:
    """The thread that empties the pipes. It begins with the first log and ends with `close`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._logs: dict[int, Log] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)

    def log(self, path: Path) -> Log:
        """Return the log kept at *path*, collected from now on. Raises OSError."""
        with self._lock:
            for log in self._logs.values():
                if log.path == path:
                    return log
            log = Log(path)
            self._logs[log.pipe] = log
            self._epoll.register(log.pipe, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._collect, name="logs", daemon=True)
                self._thread.start()
            return log

    def forget(self, path: Path) -> None:
        """Collect no more of the log at *path*, after what is in its pipe now."""
        with self._lock:
            for log in [log for log in self._logs.values() if log.path == path]:
                del self._logs[log.pipe]
                self._epoll.unregister(log.pipe)
                log.collect()
                log.close()

    def close(self) -> None:
        if self._thread is not None:
            os.write(self._woken, b"x")
            self._thread.join()
        for log in list(self._logs.values()):
            self.forget(log.path)
        self._epoll.close()
        os.close(self._wake)
        os.close(self._woken)

    def _collect(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._wake:
                    return
                with self._lock:
                    log = self._logs.get(fd)
                    if log is not None:
                        try:
                            log.collect()
                        except OSError:  # the disk is full, or the file's place gone: lost
                            pass
