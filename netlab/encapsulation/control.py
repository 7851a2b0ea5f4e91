"""The agent's side of the process of flannel's udp back end: found, started, told, ended.

The calling thread is in the namespace, in every call: there the process is found by the name of its
control socket, whoever started it. So a new agent takes over the running one.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from netlab.encapsulation.server import NAME
from netlab.errors import NetlabError
from netlab.residents import asking

KIND = asking.Kind(NAME, "flannel's udp process", "netlab.encapsulation.server", reply=10.0)


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
        self._process = asking.Resident(
            *(KIND, [str(netns), device]),
            run=run,
            role=f"flannel/{node}",
            log=run / "flannel.log",
        )
        self._told: Told | None = None

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when the process ends; None: there is none."""
        return self._process.fileno()

    def keep(self, told: Told) -> bool:
        """Have the process run and know *told*; return whether anything had to be done.

        Raises NetlabError when it does not come up; the log says why.
        """
        if self._process.connected and told == self._told:
            return False
        self._told = None  # should this fail, who knows what it knows
        message = msgspec.to_builtins(told)
        self._process.called(lambda connection: _exchanged(connection, message))
        self._told = told
        return True

    def forget(self) -> None:
        """Close the connection; the process goes on."""
        self._process.close()
        self._told = None


def end() -> bool:
    """End the process of this namespace; return whether there was one. Raises KernelError."""
    return asking.end(KIND)


def reached() -> dict[str, str] | None:
    """Return the nodes that the process of this namespace sends to, by prefix; None: it has no
    process."""
    connection = asking.connected(KIND)
    if connection is None:
        return None
    with connection:
        try:
            answer = _exchanged(connection, {"ask": "peers"})
        except OSError:
            return None
    return {str(prefix): str(address) for prefix, address in answer["peers"]}


def _exchanged(connection: socket.socket, message: dict[str, Any]) -> dict[str, Any]:
    """Tell the process *message*; return its answer.

    Raises OSError when it dies, NetlabError for what it refuses.
    """
    told: dict[str, Any] = json.loads(asking.exchanged(connection, message, KIND.words))
    if error := told.get("error"):
        raise NetlabError(f"{KIND.words}: {error}")
    return told


def peers_of(leases: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return *leases*, prefix and node, in one order: what differs in that only is no change."""
    return tuple(sorted(leases))
