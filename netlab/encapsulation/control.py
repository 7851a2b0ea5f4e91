"""The agent's side of the process of flannel's udp back end: found, started, told, ended.

The calling thread is in the namespace, in every call: there the process is found by the name of its
control socket, whoever started it. So a new agent takes over the running one.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import netlab
from netlab import processes
from netlab.encapsulation.server import NAME
from netlab.errors import NetlabError

START_SECONDS = 10.0  # until a process that was started answers
REPLY_SECONDS = 10.0
END_SECONDS = 5.0  # until one that was told to end is gone
LOOK = 0.002  # seconds between looks


class Told(msgspec.Struct, frozen=True):
    """What a process is to know: its own end, and who leases what.

    *own*: the address from which it refuses packets, the bridge's. *peers*: prefix and node.
    """

    local: str
    port: int
    own: str
    peers: tuple[tuple[str, str], ...]


class Process:
    """The process of one node, which outlives who started it. *log*: what it prints goes there."""

    def __init__(self, run: Path, node: str, *, netns: Path, device: str) -> None:
        self._run, self._role, self._log = run, f"flannel/{node}", run / "flannel.log"
        self._argv = [str(netns), device]
        self._connection: socket.socket | None = None
        self._told: Told | None = None

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when the process ends; None: there is none."""
        return self._connection.fileno() if self._connection is not None else None

    def keep(self, told: Told) -> bool:
        """Have the process run and know *told*; return whether anything had to be done.

        Raises NetlabError when it does not come up; the log says why.
        """
        if self._connection is not None and not _ended(self._connection) and told == self._told:
            return False
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if self._connection is None or _ended(self._connection):
                    self._start(deadline)
                assert self._connection is not None
                _exchanged(self._connection, msgspec.to_builtins(told))
            except OSError as error:  # one that was just killed takes connections for a moment
                self.forget()
                if time.monotonic() > deadline:
                    raise NetlabError(
                        f"flannel's udp process does not answer: {error}", hint=f"see {self._log}"
                    ) from error
                continue
            self._told = told
            return True

    def forget(self) -> None:
        """Close the connection; the process goes on."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._told = None

    def _start(self, deadline: float) -> None:
        self.forget()
        self._connection = _connected()
        if self._connection is not None:
            return
        root = str(Path(netlab.__file__).parent.parent)
        argv = [sys.executable, "-S", "-m", "netlab.encapsulation.server", *self._argv]
        env = {**os.environ, "PYTHONPATH": root}
        pid = processes.spawn(self._run, self._role, argv, env=env, stdout=self._log)
        while (opened := _connected()) is None:
            if processes.wait(pid, seconds=LOOK) and (opened := _connected()) is None:
                raise NetlabError("flannel's udp process does not come up", hint=f"see {self._log}")
            if time.monotonic() > deadline:
                raise NetlabError("flannel's udp process does not come up in time")
            if opened is not None:
                break
        self._connection = opened


def end() -> bool:
    """End the process of this namespace; return whether there was one. Raises NetlabError."""
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
            raise NetlabError("flannel's udp process does not end") from error
        except OSError:
            pass
    return True


def reached() -> dict[str, str] | None:
    """Return the nodes that the process of this namespace sends to, by prefix; None: it has no
    process."""
    connection = _connected()
    if connection is None:
        return None
    with connection:
        try:
            answer = _exchanged(connection, {"ask": "peers"})
        except OSError:
            return None
    return {str(prefix): str(address) for prefix, address in answer["peers"]}


def _connected() -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(NAME)
    except OSError:
        connection.close()
        return None
    connection.settimeout(REPLY_SECONDS)
    return connection


def _exchanged(connection: socket.socket, message: dict[str, object]) -> dict[str, Any]:
    """Tell the process *message*; return its answer.

    Raises OSError when it dies, NetlabError for what it refuses.
    """
    connection.sendall(json.dumps(message).encode() + b"\n")
    answer = bytearray()
    while not answer.endswith(b"\n"):
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionResetError("it has died")
        answer += data
    told: dict[str, Any] = json.loads(answer)
    if error := told.get("error"):
        raise NetlabError(f"flannel's udp process: {error}")
    return told


def _ended(connection: socket.socket) -> bool:
    """Return whether the process has closed the connection: it never speaks unasked."""
    look = select.poll()
    look.register(connection, select.POLLIN)
    return bool(look.poll(0))


def peers_of(leases: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return *leases*, prefix and node, in one order: what differs in that only is no change."""
    return tuple(sorted(leases))
