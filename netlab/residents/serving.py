"""The control socket of a resident: lines of JSON, each answered by one."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

from netlab.residents.loop import Loop

WAITING = 16  # who has not been let in yet
Message = dict[str, Any]


class Door:
    """The control socket, at which everybody is let in who may."""

    def __init__(
        self,
        name: str,
        loop: Loop,
        answer: Callable[[Message, Asker], Message],
        left: Callable[[Asker], None] = lambda _: None,
    ) -> None:
        """*answer* gets each message and who sent it; *left* who has gone.

        What *answer* raises for what is no message, or cannot be done, is the answer. Raises
        OSError: another resident has the *name* here.
        """
        self.loop, self.answer, self.left = loop, answer, left
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.bind(name)
        self._socket.listen(WAITING)
        loop.watch(self._socket.fileno(), self._accept, select.EPOLLIN)

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return
        Asker(self, sock)


class Asker:
    """Whoever is at the other end of the control socket: of our own user, or nobody."""

    def __init__(self, door: Door, sock: socket.socket) -> None:
        self._door = door
        self._sock = sock
        self._received = bytearray()
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if int.from_bytes(credentials[4:8], sys.byteorder) != os.geteuid():
            sock.close()
            return
        door.loop.watch(sock.fileno(), self._ready, select.EPOLLIN)

    def _ready(self, events: int) -> None:
        try:
            data = self._sock.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self._door.loop.forget(self._sock.fileno())
            self._sock.close()
            self._door.left(self)
            return
        self._received += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(self._received).split(b"\n")
        self._received[:] = rest
        for line in lines:
            try:
                self._sock.sendall(self._answered(line))
            except OSError:  # it is gone, which the next look tells
                return

    def _answered(self, line: bytes) -> bytes:
        try:
            answer = self._door.answer(json.loads(line), self)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            answer = {"error": f"not a message: {error!r}"}
        except OSError as error:
            answer = {"error": str(error)}
        return json.dumps(answer, separators=(",", ":")).encode() + b"\n"


def identity(path: str) -> tuple[int, int]:
    """Return which namespace *path* names, (0, 0) when it names none."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
