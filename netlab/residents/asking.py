"""A resident from outside: found, started, told, ended.

The calling thread is in the resident's namespace, in every call.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

import netlab
from netlab import processes
from netlab.errors import KernelError, NetlabError

START_SECONDS = 10.0  # until a process that was started answers
END_SECONDS = 5.0  # until one that was told to end is gone
LOOK = 0.002  # seconds between looks
T = TypeVar("T")


class Kind(NamedTuple):
    """A kind of resident."""

    name: str  # of the control socket
    words: str  # `the userspace proxy`
    module: str  # the program
    reply: float  # seconds until it answers


class Resident:
    """A connection to the one of a kind that lives here, and how it is started.

    *arguments* are the program's; *run* and *role* its mark, see `processes`; what it prints goes
    to *log*.
    """

    def __init__(
        self, kind: Kind, arguments: Sequence[str], *, run: Path | str, role: str, log: Path
    ) -> None:
        self._kind, self._log = kind, log
        self._argv = [sys.executable, "-S", "-m", kind.module, *arguments]
        self._mark = run, role
        self._connection: socket.socket | None = None

    @property
    def connected(self) -> bool:
        """Whether the process that was told last still runs."""
        return self._connection is not None and not has_closed(self._connection)

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when the process ends; None: there is none."""
        return self._connection.fileno() if self._connection is not None else None

    @property
    def connection(self) -> socket.socket:
        """The connection. Raises OSError: there is none."""
        if self._connection is None:
            raise ConnectionResetError("no connection")
        return self._connection

    def called(self, exchange: Callable[[socket.socket], T]) -> T:
        """Return what *exchange* does on a connection, to a process that is started if there is
        none; and again with the next one where that dies meanwhile.

        Raises NetlabError when it does not come up.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            if not self.connected:
                self._start(deadline)
            try:
                return exchange(self.connection)
            except OSError as error:  # one that was just killed takes connections for a moment
                self.close()
                if time.monotonic() > deadline:
                    raise NetlabError(
                        f"{self._kind.words} does not answer: {error}", hint=f"see {self._log}"
                    ) from error

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _start(self, deadline: float) -> None:
        self.close()
        if self._connect():
            return
        env = {**os.environ, "PYTHONPATH": str(Path(netlab.__file__).parent.parent)}
        pid = processes.spawn(*self._mark, self._argv, env=env, stdout=self._log)
        while not self._connect():
            if processes.wait(pid, seconds=LOOK) and not self._connect():
                raise NetlabError(f"{self._kind.words} does not come up", hint=f"see {self._log}")
            if time.monotonic() > deadline:
                raise NetlabError(f"{self._kind.words} does not come up in time")

    def _connect(self) -> bool:
        self._connection = connected(self._kind)
        return self._connection is not None


def connected(kind: Kind) -> socket.socket | None:
    """Return a connection to the one that lives here, None if there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(kind.name)
    except OSError:
        connection.close()
        return None
    connection.settimeout(kind.reply)
    return connection


def exchanged(connection: socket.socket, message: dict[str, Any], who: str) -> bytes:
    """Send *message*, a line of JSON; return the line that answers it.

    Raises OSError when *who* is at the other end does not, or dies.
    """
    connection.sendall(msgspec.json.encode(message) + b"\n")
    answer = bytearray()
    while not answer.endswith(b"\n"):
        data = connection.recv(1 << 20)
        if not data:
            raise ConnectionResetError(f"{who} has died")
        answer += data
    return bytes(answer)


def has_closed(connection: socket.socket) -> bool:
    """Return whether the other end, which never speaks unasked, has closed the connection."""
    look = select.poll()  # select(2) knows no descriptor above 1023
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))


def end(kind: Kind) -> bool:
    """End the one that lives here; return whether there was one. Raises KernelError."""
    connection = connected(kind)
    if connection is None:
        return False
    with connection:
        try:
            exchanged(connection, {"end": True}, kind.words)
            connection.settimeout(END_SECONDS)
            while connection.recv(1 << 16):
                pass
        except TimeoutError as error:
            raise KernelError(f"{kind.words} does not end") from error
        except OSError:
            pass
    return True
