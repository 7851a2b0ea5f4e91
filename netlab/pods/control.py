"""The agent's side of the pod server: which containers it serves, and what is bound.

The server is found by its mark and its socket, so a new agent adopts the running one. What was
declared is remembered here: a server that died is replaced, and told all of it again.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

import netlab
from netlab import processes
from netlab.errors import NetlabError
from netlab.model.kubernetes import Pod
from netlab.pods.apart import apart
from netlab.pods.namespaces import CLONE_NEWNET, setns
from netlab.pods.waiting import until
from netlab.residents import asking

ROLE = "pods"
START_SECONDS = 10.0  # until a server that was started answers
STARTS = 3  # before giving up
REPLY_SECONDS = 30.0


class Port(msgspec.Struct, frozen=True):
    """A containerPort; protocol as Kubernetes writes it (TCP, UDP, SCTP) or in lower case."""

    port: int
    protocol: str = "TCP"


class Served(msgspec.Struct, frozen=True):
    """A container whose ports are to be served, in the network namespace *netns*.

    *names*: addresses by name, which its ports 53 then tell as a DNS server does.
    """

    netns: str
    node: str
    namespace: str
    pod: str
    container: str
    ports: tuple[Port, ...]
    hostname: str = ""  # the pod's name unless given
    names: dict[str, str] = {}
    ipv6: bool = False  # whether it has IPv6, too: when that changes, its ports are opened anew

    @property
    def key(self) -> str:
        return f"{self.netns}/{self.namespace}/{self.pod}/{self.container}"


class Result(msgspec.Struct, frozen=True):
    """What became of a container's ports: `80/tcp`; `bind tcp/80: address already in use`."""

    bound: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class _Reply(msgspec.Struct):
    results: dict[str, Result] = {}
    error: str = ""


def served(pod: Pod, netns: str) -> list[Served]:
    """Return what the server is to serve for *pod*: its containers that have no command."""
    return [
        Served(
            netns=netns,
            node=pod.spec.nodeName,
            namespace=pod.metadata.namespace,
            pod=pod.metadata.name,
            container=container.name,
            ports=tuple(Port(p.containerPort, p.protocol) for p in container.ports),
            hostname=pod.spec.hostname or pod.metadata.name,
        )
        for container in pod.spec.containers
        if not container.command
    ]


class Servers:
    """The pod server of one lab. Every method may be called from any thread."""

    def __init__(self, rundir: Path | str) -> None:
        self._rundir = Path(rundir)
        self._path = str(self._rundir / "pods.sock")
        self._lock = threading.RLock()
        self._wanted: dict[str, Served] = {}
        self._connection: socket.socket | None = None

    def ensure(self) -> int:
        """Return the pid of the running server, after starting one and telling it all if needed.

        Raises NetlabError when it does not come up; RUNDIR/pods.log says why.
        """
        with self._lock:
            if self._connection is not None and asking.has_closed(self._connection):
                self.close()
            deadline = time.monotonic() + START_SECONDS
            while self._connection is None:
                self._connect()
                try:  # one that was just killed still takes connections for a moment
                    self._exchange({"set": self._entries(self._wanted.values())})
                except OSError as error:
                    self._give_up(error, deadline)
            return _peer(self._connection)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the server dies; then `ensure()`."""
        with self._lock:
            self.ensure()
            assert self._connection is not None
            return self._connection.fileno()

    def declare(self, wanted: Sequence[Served], *, node: str | None = None) -> dict[str, Result]:
        """Make *wanted* all that is served (on *node*, when given); return the results by key.

        Unchanged ports keep their sockets and clients. Failed ones are tried again.
        """
        with self._lock:
            kept = {each.key: each for each in wanted}
            others = (each for each in self._wanted.values() if node not in (None, each.node))
            self._wanted = {each.key: each for each in others} | kept
            message: dict[str, object] = {"all": self._entries(kept.values())}
            return self._ask(message if node is None else {**message, "node": node})

    def update(self, set: Iterable[Served] = (), remove: Iterable[str] = ()) -> dict[str, Result]:
        """Serve *set* too and the keys *remove* no longer; return the results of *set* by key."""
        with self._lock:
            gone, new = list(remove), {each.key: each for each in set}
            for key in gone:
                self._wanted.pop(key, None)
            self._wanted |= new
            return self._ask({"set": self._entries(new.values()), "remove": gone})

    def close(self) -> None:
        """Close the connection; the server goes on."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @staticmethod
    def _entries(wanted: Iterable[Served]) -> list[dict[str, object]]:
        return [{"key": each.key, **msgspec.to_builtins(each)} for each in wanted]

    def _ask(self, message: dict[str, object]) -> dict[str, Result]:
        """Exchange *message*; if the server dies, with its successor, which knows the rest."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.ensure()
            try:
                return self._exchange(message)
            except OSError as error:
                self._give_up(error, deadline)

    def _give_up(self, error: OSError, deadline: float) -> None:
        """Leave this server; raise NetlabError when it is too late for another."""
        self.close()
        if time.monotonic() > deadline:
            raise NetlabError(
                f"{self._path}: the pod server does not answer: {error}",
                hint=f"see {self._rundir}/pods.log",
            ) from error

    def _exchange(self, message: dict[str, object]) -> dict[str, Result]:
        assert self._connection is not None
        answer = asking.exchanged(self._connection, message, "the pod server")
        reply = msgspec.json.decode(answer, type=_Reply)
        if reply.error:
            raise NetlabError(f"{self._path}: {reply.error}")
        return reply.results

    def _connect(self) -> None:
        for _ in range(STARTS):
            if self._connected():
                return
            if not self._running():
                self._start()
            until(lambda: self._connected() or not self._running(), within=START_SECONDS)
            if self._connection is not None:
                return
        raise NetlabError(
            f"{self._path}: the pod server does not come up",
            hint=f"see {self._rundir}/pods.log",
        )

    def _running(self) -> bool:
        return bool(processes.marked(self._rundir).get(ROLE))

    def _connected(self) -> bool:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            return False
        connection.settimeout(REPLY_SECONDS)
        self._connection = connection
        return True

    def _start(self) -> None:
        """Start a server; -S: it needs no site packages, and is up in half the time.

        The calling thread may live in a node's namespace; the server must not, so it is made in
        the process's own.
        """
        root = str(Path(netlab.__file__).parent.parent)
        home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        def spawned() -> int:
            setns(home, CLONE_NEWNET)
            return processes.spawn(
                self._rundir,
                ROLE,
                [sys.executable, "-S", "-m", "netlab.pods.server", str(self._rundir)],
                env={**os.environ, "PYTHONPATH": root},
                stdout=self._rundir / "pods.log",
            )

        try:
            apart(spawned)
        finally:
            os.close(home)


def _peer(connection: socket.socket) -> int:
    """Return the pid of the process that listens at the other end (unix(7), SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)
