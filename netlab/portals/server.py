"""The process of kube-proxy's `userspace` mode: `python -m netlab.portals.server NETNS [attached]`.

1. *One per network namespace.* It is told what to serve on an abstract Unix socket, which the
   kernel keeps per namespace: whoever is in it finds it, and a second one cannot be.
2. *Told what should be.* A line of JSON states portals; the difference to what is open is opened
   and closed. A portal's endpoints change without its port, so no rule does.
3. *Never in the way.* It ends when the name NETNS (a path; "": it has none) is another namespace's
   or nobody's; when it is told to; and, *attached*, with the connection of whoever declared last.

Messages: `{"all": [portal…]}`, `{"set": [portal…], "remove": [key…]}` with portal `{key, family:
4|6, protocol: tcp|udp, port, endpoints: [[address, port]…], affinity: seconds}`; the answer is
`{"ports": {key: port}, "errors": {key: …}}`, of those named: a port that is taken is another's.
`{"ask": "portals"}` is answered with those there are; `{"ask": "flows", "client": [address, port],
"protocol": tcp|udp}` with `{"flows": [{key, client, source, endpoint}…]}`, the newest first;
`{"end": true}` ends it.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections import deque
from itertools import islice
from typing import Any

from netlab.portals.datagrams import IDLE, Datagrams, Session
from netlab.portals.rotation import Endpoint, Rotation
from netlab.portals.streams import BACKLOG, Listener, Relay
from netlab.residents.loop import Loop
from netlab.residents.serving import Asker, Door, identity

NAME = "\0netlab/proxy/portals"
TICK = 0.5  # seconds between looks at what has been silent, and at the namespace's name
REMEMBERED = 4096  # who was sent where lately
ATTEMPTS = 256  # ports tried from the one wished for, before the kernel chooses
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


class Portal:
    """The port that one port of a Service leads into, and where it goes from there."""

    def __init__(self, server: Server, words: dict[str, Any]) -> None:
        """Raises OSError; KeyError, TypeError, ValueError for what is no portal."""
        self.key = str(words["key"])
        self.family = _FAMILY[int(words["family"])]
        self.protocol = str(words["protocol"])
        self.loop = server.loop
        self.relays = server.relays
        self.sessions = server.sessions
        self.rotation = Rotation()
        self.make_room = server.make_room
        self._flows = server.flows
        self.declare(words)
        sock = _bound(self.family, self.protocol, int(words["port"]))
        self.port: int = sock.getsockname()[1]
        self._socket: Listener | Datagrams
        self._socket = Datagrams(self, sock) if self.protocol == "udp" else Listener(self, sock)

    def declare(self, words: dict[str, Any]) -> None:
        endpoints = [(str(address), int(port)) for address, port in words["endpoints"]]
        self.rotation.declare(endpoints, int(words["affinity"]))
        if hasattr(self, "_socket") and isinstance(self._socket, Datagrams):
            self._socket.leave()

    def words(self) -> dict[str, Any]:
        """Return what it is, as it was declared."""
        number = 4 if self.family == socket.AF_INET else 6
        named = {"key": self.key, "family": number, "protocol": self.protocol, "port": self.port}
        ends = sorted(self.rotation.endpoints)
        return {**named, "endpoints": ends, "affinity": self.rotation.affinity}

    def is_like(self, words: dict[str, Any]) -> bool:
        """Return whether only the endpoints and the affinity of a portal in *words* may differ."""
        same = (_FAMILY[int(words["family"])], str(words["protocol"]))
        return (self.family, self.protocol) == same

    def sent(self, client: Endpoint, source: Endpoint, endpoint: Endpoint) -> None:
        """Remember who was sent where, and as whom."""
        self._flows.appendleft((self.key, client, source, endpoint))

    def close(self) -> None:
        self._socket.close()


class Server:
    """All portals of a namespace, and the control socket."""

    def __init__(self, netns: str, *, attached: bool) -> None:
        """Raises OSError: there is one already."""
        self.loop = Loop()
        self.relays: dict[Relay, None] = {}
        self.sessions: dict[Session, None] = {}  # by last use, the oldest first
        self.flows: deque[tuple[str, Endpoint, Endpoint, Endpoint]] = deque(maxlen=REMEMBERED)
        self._netns = netns
        self._home = identity("/proc/self/ns/net")
        self._attached = attached
        self._declarer: Asker | None = None
        self._ended = False
        self._portals: dict[str, Portal] = {}
        self._door = Door(NAME, self.loop, self.answer, self.left)

    def serve(self) -> None:
        tick = 0.0
        while not self._ended:
            now = self.loop.now()
            if now >= tick:
                if self._netns and identity(self._netns) != self._home:
                    return
                self._end_silent(now)
                tick = now + TICK
            self.loop.turn(tick)

    def _end_silent(self, now: float) -> None:
        while self.sessions:
            oldest = next(iter(self.sessions))
            if now - oldest.used < IDLE:
                return
            oldest.close()

    def make_room(self) -> bool:
        """End the UDP session that has been silent for longest; False when there is none."""
        oldest = next(iter(self.sessions), None)
        if oldest is not None:
            oldest.close()
        return oldest is not None

    def answer(self, message: dict[str, Any], asker: Asker) -> dict[str, Any]:
        """Do what *message* says; return the answer. Raises as `Portal` for what is no message."""
        if message.get("end"):
            self._ended = True
            return {}
        match message.get("ask"):
            case None:
                answer = self._declare(message)
                self._declarer = asker
                return answer
            case "portals":
                return {"portals": [portal.words() for portal in self._portals.values()]}
            case "flows":
                client = tuple(message["client"])
                names = ("key", "client", "source", "endpoint")
                found = (dict(zip(names, one, strict=True)) for one in self.flows)
                of = f"/{message['protocol']}"
                mine = (
                    one
                    for one in found
                    if client in (one["client"], one["source"])
                    and str(one["key"]).removesuffix("/IPv6").endswith(of)
                )
                return {"flows": list(islice(mine, 8))}
        raise ValueError(message["ask"])

    def left(self, asker: Asker) -> None:
        """Take that *asker* has gone."""
        if asker is self._declarer and self._attached:
            self._ended = True

    def _declare(self, message: dict[str, Any]) -> dict[str, Any]:
        wanted = {str(one["key"]): one for one in message.get("all", message.get("set", []))}
        if "all" in message:
            gone = self._portals.keys() - wanted.keys()
        else:
            gone = {str(key) for key in message.get("remove", [])}
        for key in gone & self._portals.keys():
            self._portals.pop(key).close()
        ports, errors = {}, {}
        for key, words in wanted.items():
            portal = self._portals.get(key)
            if portal is not None and not portal.is_like(words):
                self._portals.pop(key).close()
                portal = None
            try:
                if portal is not None:
                    portal.declare(words)
                else:
                    self._portals[key] = portal = Portal(self, words)
                ports[key] = portal.port
            except OSError as error:
                errors[key] = f"{words['protocol']} port: {error.strerror}"
        return {"ports": ports, "errors": errors}


def _bound(family: socket.AddressFamily, protocol: str, wished: int) -> socket.socket:
    """Return a socket at the port *wished*, or the next that is free. Raises OSError."""
    candidates = [*range(wished, min(wished + ATTEMPTS, 65536)), 0]
    for port in candidates:
        kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol != "udp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((_ANY[family], port))
            if protocol != "udp":
                sock.listen(BACKLOG)
            return sock
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or not port:
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def main() -> int:
    """Serve, unless another one does in this namespace."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    netns, *rest = sys.argv[1:]
    try:
        server = Server(netns, attached="attached" in rest)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return 0
        raise
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
