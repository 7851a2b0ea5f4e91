"""The proxy's side of the process of `userspace` mode: told what should be, found, started, ended.

The calling thread is in the namespace, in every call: there the process is found by the name of its
control socket, whoever started it. So a new agent takes over the running one, with its connections.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from netlab import processes
from netlab.errors import NetlabError
from netlab.portals.server import NAME
from netlab.proxy.portals import Portal
from netlab.residents import asking

KIND = asking.Kind(NAME, "the userspace proxy", "netlab.portals.server", reply=30.0)
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
        arguments = [home.netns, *(["attached"] if home.attached else [])]
        self._process = asking.Resident(KIND, arguments, run=home.run, role=home.role, log=home.log)

    @property
    def connected(self) -> bool:
        """Whether the process that was told last still runs."""
        return self._process.connected

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when the process ends; None: there is none."""
        return self._process.fileno()

    def declare(self, portals: Iterable[Portal]) -> Reply:
        """Have *portals* and no others, with a process that is started if there is none.

        Raises NetlabError when it does not come up.
        """
        message = {"all": [msgspec.to_builtins(one) for one in portals]}
        return self._process.called(lambda connection: _exchanged(connection, message))

    def update(self, portals: Iterable[Portal], gone: Collection[str]) -> Reply:
        """Have *portals* too, and those with the keys *gone* no longer. Raises OSError."""
        changed = [msgspec.to_builtins(one) for one in portals]
        return _exchanged(self._process.connection, {"set": changed, "remove": list(gone)})

    def close(self) -> None:
        """Close the connection; a process that is attached to it ends."""
        self._process.close()


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
    connection = asking.connected(KIND)
    if connection is None:
        return Reply()
    with connection:
        try:
            return _exchanged(connection, question)
        except OSError:
            return Reply()


def end() -> bool:
    """End the process of this namespace; return whether there was one. Raises KernelError."""
    return asking.end(KIND)


def _exchanged(connection: socket.socket, message: dict[str, Any]) -> Reply:
    answer = asking.exchanged(connection, message, KIND.words)
    reply = msgspec.json.decode(answer, type=Reply)
    if reply.error:
        raise NetlabError(f"{KIND.words}: {reply.error}")
    return reply
