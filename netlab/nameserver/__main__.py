"""A cluster's DNS, the program of the image netlab/dns: `python -m netlab.nameserver OPTION=VALUE…`

Options: `domain`, `ttl` (seconds), `pods` (insecure, verified, disabled), `upstream` (addresses of
resolvers for all other names, with commas between). From the environment: NETLAB_ETCD, POD_IP.
"""

from __future__ import annotations

import os
import resource
import socket
import sys

from netlab.dns.answers import Answers
from netlab.dns.cluster import ClusterNames
from netlab.dns.zone import PODS, Settings, Zone
from netlab.model.inventory import Inventory
from netlab.nameserver import health
from netlab.nameserver.following import Follower
from netlab.nameserver.forwarding import PORT, Forwarder
from netlab.nameserver.health import Health
from netlab.nameserver.serving import Datagrams, Listener, Service
from netlab.pods.listening import opened
from netlab.pods.server import Loop
from netlab.store.access import from_environment

TICK = 1.0  # seconds between looks at clients that may be idle
REST = 3600.0  # seconds without any
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BACKLOG_BYTES = 4 << 20  # of queries that wait to be read


class NameServer:
    """Answers for the cluster, from its objects as they were last heard of."""

    def __init__(self, settings: Settings, upstreams: list[str]) -> None:
        self.settings = settings
        self.ready = False
        self.loop = Loop()
        self.forwarder = Forwarder(self.loop, upstreams)
        unknown = ClusterNames(Zone(Inventory(), settings), known=False)
        self.service = Service(Answers(unknown), self.forwarder)
        self._listeners: list[Listener] = []
        self._seen: tuple[object, ...] = ()

    def open(self) -> None:
        """Open the ports. Raises OSError."""
        for sock in opened((PORT, "udp")):
            _make_room(sock)
            Datagrams(self.loop, sock, self.service)
        self._listeners = [
            Listener(self.loop, sock, self.service) for sock in opened((PORT, "tcp"))
        ]
        for sock in opened((health.PORT, "tcp")):
            Health(self.loop, sock, lambda: self.ready)

    def publish(self, objects: Inventory, revision: int) -> None:
        """Answer from *objects* from now on. Called by another thread."""
        kinds = ["Namespace", "Service", "EndpointSlice"]
        kinds += ["Pod"] if self.settings.pods == "verified" else []
        lists = tuple(map(objects.of, kinds))
        if self.ready and all(one is other for one, other in zip(lists, self._seen, strict=True)):
            return
        self._seen = lists
        zone = Zone(objects, self.settings, revision=revision)
        self.service.answers = Answers(ClusterNames(zone))
        self.ready = True

    def serve(self) -> None:
        """Answer for ever. With nobody to wait for, nothing is done."""
        tick = 0.0
        while True:
            now = self.loop.now()
            if now >= tick:
                for listener in self._listeners:
                    listener.sweep()
                tick = now + REST
            if any(listener.busy for listener in self._listeners):
                tick = min(tick, now + TICK)
            late = self.forwarder.due()
            self.loop.turn(tick if late is None else min(tick, late))
            self.forwarder.sweep()


def _make_room(sock: socket.socket) -> None:
    """Let bursts of queries wait; beyond the machine's limit only with the right to it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BACKLOG_BYTES)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BACKLOG_BYTES)


def _settings(words: list[str]) -> tuple[Settings, list[str]]:
    """Return what the command line says. Raises ValueError."""
    given = dict(word.split("=", 1) for word in words)
    upstream = [one for one in given.pop("upstream", "").split(",") if one]
    settings = Settings(
        domain=given.pop("domain", Settings().domain),
        ttl=int(given.pop("ttl", Settings().ttl)),
        pods=given.pop("pods", Settings().pods),
        own=os.environ.get("POD_IP", ""),
    )
    if given or settings.pods not in PODS:
        raise ValueError(f"unknown: {', '.join(given) or settings.pods}")
    return settings, upstream


def main() -> int:
    """Serve; 2 and the reason for a command line that is not understood, 1 for ports in use."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        server = NameServer(*_settings(sys.argv[1:]))
    except ValueError as error:
        print(f"netlab.nameserver: {error}", file=sys.stderr)
        return 2
    try:
        server.open()
    except OSError as error:
        print(f"netlab.nameserver: cannot open its ports: {error}", file=sys.stderr)
        return 1
    Follower(from_environment(os.environ), server.publish).start()
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
