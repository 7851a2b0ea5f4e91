"""The proxy's side of the process of `userspace` mode: told what should be, found, started, ended.

The calling thread is in the namespace, in every call: there the process is found by the name of its
control socket, whoever started it. So a new agent takes over the running one, with its connections.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import netlab
from netlab import processes
from netlab.errors import KernelError, NetlabError
from netlab.portals.server import NAME
from netlab.proxy.portals import Portal

START_SECONDS = 10.0  # until a process that was started answers
REPLY_SECONDS = 30.0
END_SECONDS = 5.0  # until one that was told to end is gone
LOOK = 0.002  # seconds between looks
UNNAMED = "/run/netlab-proxy"  # whose such a process is when there is no lab


class Home(NamedTuple):
    """Whose the process is: a lab's node's, which outlives the agent; or the caller's own."""

    run: Path | str = UNNAMED
    role: str = "portals"
    netns: str = ""  # the path of the namespace's name, with which the process goes; "": none
    attached: bool = True  # it ends with the connection of who declared last
    log: Path = processes.STDERR


class Reply(msgspec.Struct):
    """What a process answers."""

    ports: dict[str, int] = {}
    errors: dict[str, str] = {}
    portals: list[Portal] = []
    flows: list[Relayed] = []
    error: str = ""


class Relayed(msgspec.Struct, frozen=True):
    """A flow that a process took, and the one it made for it. Ends are addresses and ports."""

    key: str
    client: tuple[str, int]
    source: tuple[str, int]
    endpoint: tuple[str, int]


class Portals:
    """A connection to the process of one namespace."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._connection: socket.socket | None = None

    @property
    def connected(self) -> bool:
        """Whether the process that was told last still runs."""
        return self._connection is not None and not _is_readable(self._connection)

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when the process ends; None: there is none."""
        return self._connection.fileno() if self._connection is not None else None

    def declare(self, portals: Iterable[Portal]) -> Reply:
        """Have *portals* and no others, with a process that is started if there is none.

        Raises NetlabError when it does not come up.
        """
        message = {"all": [msgspec.to_builtins(one) for one in portals]}
        deadline = time.monotonic() + START_SECONDS
        while True:
            if not self.connected:
                self._start(deadline)
            try:
                return self._exchanged(message)
            except OSError as error:  # one that was just killed takes connections for a moment
                self.close()
                if time.monotonic() > deadline:
                    raise NetlabError(
                        f"the userspace proxy does not answer: {error}",
                        hint=f"see {self.home.log}",
                    ) from error

    def update(self, portals: Iterable[Portal], gone: Collection[str]) -> Reply:
        """Have *portals* too, and those with the keys *gone* no longer. Raises OSError."""
        changed = [msgspec.to_builtins(one) for one in portals]
        return self._exchanged({"set": changed, "remove": list(gone)})

    def close(self) -> None:
        """Close the connection; a process that is attached to it ends."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _start(self, deadline: float) -> None:
        self.close()
        if self._connect():
            return
        root = str(Path(netlab.__file__).parent.parent)
        argv = [sys.executable, "-S", "-m", "netlab.portals.server", self.home.netns]
        env = {**os.environ, "PYTHONPATH": root}
        if self.home.attached:
            argv.append("attached")
        pid = processes.spawn(*(self.home.run, self.home.role, argv), env=env, stdout=self.home.log)
        while not self._connect():
            if processes.wait(pid, seconds=LOOK) and not self._connect():
                raise NetlabError(
                    "the userspace proxy does not come up", hint=f"see {self.home.log}"
                )
            if time.monotonic() > deadline:
                raise NetlabError("the userspace proxy does not come up in time")

    def _connect(self) -> bool:
        self._connection = _connected()
        return self._connection is not None

    def _exchanged(self, message: dict[str, Any]) -> Reply:
        if self._connection is None:
            raise ConnectionResetError("no connection")
        return _exchanged(self._connection, message)


def portals() -> list[Portal]:
    """Return the portals that the process of this namespace has, none if there is no process."""
    return _asked({"ask": "portals"}).portals


def ports() -> dict[str, int]:
    """Return their ports, by key."""
    return {one.key: one.port for one in portals()}


def flows_of(client: tuple[str, int], protocol: str) -> list[Relayed]:
    """Return where the process of this namespace sent *client*'s flows lately, the newest first.

    *protocol*: tcp or udp, each of which has ports of its own.

    *client* may also be the end of a flow that the process itself made.
    """
    return _asked({"ask": "flows", "client": client, "protocol": protocol}).flows


def _asked(question: dict[str, Any]) -> Reply:
    """Return the answer of this namespace's process, an empty one if there is none."""
    connection = _connected()
    if connection is None:
        return Reply()
    with connection:
        try:
            return _exchanged(connection, question)
        except OSError:
            return Reply()


def end() -> bool:
    """End the process of this namespace; return whether there was one. Raises KernelError."""
    connection = _connected()
    if connection is None:
        return False
    with connection:
        try:
            _exchanged(connection, {"end": True})
            connection.settimeout(END_SECONDS)
            while connection.recv(1 << 16):
                pass
        except TimeoutError as error:
            raise KernelError("the userspace proxy does not end") from error
        except OSError:
            pass
    return True


def _connected() -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(NAME)
    except OSError:
        connection.close()
        return None
    connection.settimeout(REPLY_SECONDS)
    return connection


def _exchanged(connection: socket.socket, message: dict[str, Any]) -> Reply:
    connection.sendall(msgspec.json.encode(message) + b"\n")
    answer = bytearray()
    while not answer.endswith(b"\n"):
        data = connection.recv(1 << 20)
        if not data:
            raise ConnectionResetError("the userspace proxy has died")
        answer += data
    reply = msgspec.json.decode(bytes(answer), type=Reply)
    if reply.error:
        raise NetlabError(f"the userspace proxy: {reply.error}")
    return reply


def _is_readable(connection: socket.socket) -> bool:
    """Return whether the process has closed the connection: it never speaks unasked."""
    look = select.poll()
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))
