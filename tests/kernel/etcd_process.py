"""A real etcd for one test or module: started, killed, started again on the same data."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from netlab.store import server
from netlab.store.etcd import Etcd

DEADLINE = 10.0  # s


def until(condition: Callable[[], object], what: str, *, seconds: float = DEADLINE) -> float:
    """Poll until *condition* is true; return how long it took, in s."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - began


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, as the one after it is."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class EtcdProcess:
    """An etcd and its data directory; `within` is put before its command line."""

    def __init__(
        self, host: str = "127.0.0.1", *, options: Sequence[str] = (), within: Sequence[str] = ()
    ) -> None:
        self.host = host
        self.port = free_port()
        self.directory = tempfile.mkdtemp(prefix="nltest-etcd-")
        self._options, self._within = list(options), list(within)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, on the data that is there."""
        arguments = server.arguments(f"{self.directory}/data", self.host, self.port)
        with open(f"{self.directory}/log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._within, *arguments, *self._options],
                env=os.environ | server.environment(),
                stdout=log,
                stderr=log,
            )

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it, the hard way by default."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE)
            self._process = None

    def wipe(self) -> None:
        """Throw its data away. It must not be running."""
        shutil.rmtree(f"{self.directory}/data")

    def client(self) -> Etcd:
        return Etcd(self.host, self.port)

    def ready(self) -> Etcd:
        """Start it, and return a client once it answers."""
        self.start()
        etcd = self.client()
        server.wait_healthy(etcd, DEADLINE)
        return etcd


@contextmanager
def running(*, options: Sequence[str] = ()) -> Iterator[EtcdProcess]:
    """An etcd on 127.0.0.1 that answers; gone, with its data, at the end."""
    process = EtcdProcess(options=options)
    try:
        process.ready()
        yield process
    finally:
        process.stop()
        shutil.rmtree(process.directory)
