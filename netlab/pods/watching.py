"""A thread that answers descriptors: a container's output, a program's end."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable


class Watcher:
    """Calls what belongs to a descriptor whenever that is readable, in a thread of its own.

    The thread begins with the first descriptor and ends with `close`. Calls are made one at a
    time, and none is under way for a descriptor once `remove` has returned.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._end, select.EPOLLIN)

    def add(self, fd: int, ready: Callable[[], None]) -> None:
        with self._lock:
            self._ready[fd] = ready
            self._epoll.register(fd, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="pods", daemon=True)
                self._thread.start()

    def remove(self, fd: int) -> None:
        """Watch *fd* no longer; no error when it is not watched."""
        with self._lock:
            if self._ready.pop(fd, None) is not None:
                self._epoll.unregister(fd)

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        if self._thread is not None:
            self._thread.join()
        self._epoll.close()
        os.close(self._end)

    def _watch(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._end:
                    return
                with self._lock:
                    ready = self._ready.get(fd)
                    if ready is not None:  # removed meanwhile
                        ready()
