"""The server of all containers of a lab: `python -m netlab.pods.server RUNDIR`.

1. *One process.* It opens each containerPort's socket inside the pod's network namespace and is
   out of it again at once; a socket stays in the namespace it was made in.
2. *Told what should be.* A line of JSON on RUNDIR/pods.sock states entries; the difference to what
   is open is opened and closed. What did not change is not touched, its clients keep talking.
3. *Small and quick to start.* Plain epoll, one object per port: asyncio alone would cost 9 MB and
   50 ms, and a task per client.
4. *Never in the way.* A namespace that is deleted is let go (a socket would keep it alive), one
   that comes back under the same name is bound in again; the server ends with its run directory.

Messages: `{"all": [entry…]}` (with `"node": NAME`: all of that node), `{"set": [entry…],
"remove": [key…]}`; entry: `{key, netns, node, namespace, pod, container, hostname, names, ports:
[{port, protocol}…]}`. The answer is one line: `{"results": {key: {"bound": ["80/tcp"…],
"errors": […]}}}`.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from netlab.pods import namespaces
from netlab.pods.conversation import SILENCE, Channel, Conversation
from netlab.pods.listening import Datagrams, Listener, Port, Socket, opened, refusal

DNS = 53  # the port on which an entry's names are told
TICK = 1.0  # seconds between looks at what may have vanished
SETTLE = 3  # ticks that namespaces are looked at after one was made or deleted

Entry = dict[str, Any]


class Loop:
    """epoll, the clock, and the clients that have not spoken yet."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._fresh: deque[tuple[float, Conversation]] = deque()  # by age
        self.conversations: dict[Conversation, None] = {}  # by age

    def now(self) -> float:
        return time.monotonic()

    def watch(self, fd: int, ready: Callable[[int], None], events: int) -> None:
        self._ready[fd] = ready
        self._epoll.register(fd, events)

    def rewatch(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        del self._ready[fd]
        self._epoll.unregister(fd)

    def begun(self, conversation: Conversation) -> None:
        self.conversations[conversation] = None
        self._fresh.append((self.now() + SILENCE, conversation))

    def make_room(self) -> bool:
        """Close the oldest conversation; False when there is none."""
        oldest = next(iter(self.conversations), None)
        if oldest is not None:
            oldest.close()
        return oldest is not None

    def turn(self, until: float) -> None:
        """Serve whoever is ready, waiting for it until *until* at the latest."""
        now = self.now()
        first = min(until, self._fresh[0][0]) if self._fresh else until
        for fd, events in self._epoll.poll(max(0.0, first - now)):
            ready = self._ready.get(fd)
            if ready is not None:  # closed meanwhile by the one before
                ready(events)
        now = self.now()
        while self._fresh and self._fresh[0][0] <= now:
            self._fresh.popleft()[1].silent()

    def sweep(self) -> None:
        """Close what has been idle too long."""
        now = self.now()
        for conversation in [c for c in self.conversations if c.expired(now)]:
            conversation.close()


class Served:
    """A container: what it is to answer, and its open sockets.

    Raises KeyError, TypeError or ValueError for an entry that is none.
    """

    __slots__ = (
        *("errors", "facts", "inode", "ipv6", "key", "names", "netns", "node", "ports", "sockets"),
    )

    def __init__(self, entry: Entry) -> None:
        self.key = str(entry["key"])
        self.netns = str(entry["netns"])
        self.node = str(entry["node"])
        self.ports = [(int(p["port"]), str(p["protocol"]).lower()) for p in entry["ports"]]
        names = ("pod", "namespace", "container", "node")
        self.facts = {name: str(entry[name]) for name in names}
        self.facts["hostname"] = str(entry.get("hostname") or entry["pod"])
        self.names: dict[str, str] = dict(entry.get("names") or {})
        self.ipv6 = bool(entry.get("ipv6"))
        self.sockets: dict[Port, list[Socket]] = {}
        self.errors: dict[Port, str] = {}
        self.inode = 0  # of the network namespace the sockets are in

    @property
    def told(self) -> tuple[object, ...]:
        """What cannot change without opening its sockets anew."""
        return self.facts, self.netns, self.names, self.ipv6

    def result(self) -> dict[str, list[str]]:
        return {
            "bound": [f"{port}/{protocol}" for port, protocol in self.sockets],
            "errors": list(self.errors.values()),
        }

    def close(self, ports: Iterable[Port] | None = None) -> None:
        for port in list(self.sockets if ports is None else ports):
            for each in self.sockets.pop(port, []):
                each.close()


class Server:
    """Every container served, and the control socket."""

    def __init__(self, rundir: str) -> None:
        self.loop = Loop()
        self._path = f"{rundir}/pods.sock"
        self._served: dict[str, Served] = {}
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.bind(self._path)
        self._control.listen(64)
        self._control.setblocking(False)
        self._inode = os.stat(self._path).st_ino
        self._made = 0  # when a name below /run/netns was last made or deleted (ns)
        self._settle = 0
        self.loop.watch(self._control.fileno(), self._accept, select.EPOLLIN)

    def serve(self) -> None:
        """Serve until the run directory, or our socket in it, is gone."""
        tick = 0.0
        while True:
            if self.loop.now() >= tick:
                if not self._wanted():
                    return
                self._look()
                self.loop.sweep()
                tick = self.loop.now() + TICK
            self.loop.turn(tick)

    def _wanted(self) -> bool:
        try:
            return os.stat(self._path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def _look(self) -> None:
        """Let vanished namespaces go and bind again in those that came back."""
        try:
            made = os.stat(namespaces.NETNS_DIR).st_mtime_ns
        except FileNotFoundError:
            made = 0
        if made != self._made:
            self._made = made
            self._settle = SETTLE  # the mount on a new name comes a little after the name
        if self._settle:
            self._settle -= 1
            self._open(s for s in self._served.values() if s.inode != _inode(s))

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._control.accept()
        except OSError:
            return
        Control(self, sock)

    def declare(self, message: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
        """Make open what *message* states; return the result of each entry it names."""
        wanted = [Served(entry) for entry in message.get("all", message.get("set", []))]
        gone = [str(key) for key in message.get("remove", [])]
        if "all" in message:
            kept, node = {served.key for served in wanted}, message.get("node")
            gone = [
                key
                for key, served in self._served.items()
                if key not in kept and node in (None, served.node)
            ]
        for key in gone:
            if key in self._served:
                self._served.pop(key).close()
        for served in wanted:
            self._take_over(served)
        self._open(wanted)
        return {served.key: served.result() for served in wanted}

    def _take_over(self, new: Served) -> None:
        """Put *new* in its predecessor's place, with the sockets that both want."""
        old = self._served.get(new.key)
        if old is not None:
            if old.told != new.told:
                old.close()
            else:
                old.close(set(old.sockets) - set(new.ports))
                new.sockets, new.inode = old.sockets, old.inode
        self._served[new.key] = new

    def _open(self, wanted: Iterable[Served]) -> None:
        """Open what these containers lack, entering each namespace once."""
        entered = ""
        failure = ""
        try:
            for served in sorted(wanted, key=lambda served: served.netns):
                inode = _inode(served)
                if served.inode != inode:
                    served.close()
                    served.inode = inode
                missing = [port for port in served.ports if port not in served.sockets]
                served.errors = {}
                if not missing:
                    continue
                if served.netns != entered:
                    entered = served.netns
                    failure = _join(entered)
                for port in missing:
                    try:
                        if failure:
                            served.errors[port] = failure
                        else:
                            served.sockets[port] = self._sockets(served, port)
                    except OSError as error:
                        served.errors[port] = refusal(port, error)
        finally:
            if entered:
                namespaces.setns(self._home, namespaces.CLONE_NEWNET)

    def _sockets(self, served: Served, port: Port) -> list[Socket]:
        if served.names and port[0] == DNS:
            return self._name_servers(served, port)
        kind = Datagrams if port[1] == "udp" else Listener
        return [kind(self.loop, sock, served.facts, port[1]) for sock in opened(port)]

    def _name_servers(self, served: Served, port: Port) -> list[Socket]:
        from netlab.dns.answers import Answers
        from netlab.dns.fixed import FixedNames
        from netlab.nameserver import serving

        service = serving.Service(Answers(FixedNames(served.names)), serving.Nobody())
        server = serving.Datagrams if port[1] == "udp" else serving.Listener
        return [server(self.loop, sock, service) for sock in opened(port)]


class Control(Channel):
    """The agent at the other end of the control socket."""

    __slots__ = ("_buffer", "_server")

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._buffer = bytearray()
        super().__init__(server.loop, sock)

    def received(self, data: bytes) -> None:
        if not data:
            self.close()
            return
        self._buffer += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer[:] = rest
        for line in lines:
            self.send(json.dumps(self._reply(line), separators=(",", ":")).encode() + b"\n")

    def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            return {"results": self._server.declare(json.loads(line))}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return {"error": f"not a declaration: {error!r}"}


def _inode(served: Served) -> int:
    """Return the identity of the network namespace that has the wanted name now; 0: none."""
    try:
        return os.stat(namespaces.netns_path(served.netns)).st_ino
    except OSError:
        return 0


def _join(netns: str) -> str:
    """Enter *netns*; return why it did not work, or nothing."""
    try:
        namespaces.join_netns(netns)
    except FileNotFoundError:
        return f"no network namespace {netns}"
    except OSError as error:
        return f"cannot enter network namespace {netns}: {error.strerror}"
    return ""


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """Serve RUNDIR, unless another server does; the lock is free when that one is gone."""
    rundir = sys.argv[1]
    os.umask(0o077)
    _raise_file_limit()
    try:
        lock = os.open(f"{rundir}/pods.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    try:
        os.unlink(f"{rundir}/pods.sock")  # of a server that was killed
    except FileNotFoundError:
        pass
    Server(rundir).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
