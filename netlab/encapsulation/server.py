"""The process of flannel's udp back end: `python -m netlab.encapsulation.server NETNS DEVICE`.

1. *What flanneld's does.* Each packet that the kernel gives the tun DEVICE goes, its TTL one less,
   bare in a UDP datagram to the node that leases its destination; what comes by UDP goes, its TTL
   one less again, to the device. What nobody leases is answered with an ICMP error.
2. *One per network namespace.* It is told whom it reaches on an abstract Unix socket, which the
   kernel keeps per namespace: whoever is in it finds it, and a second one cannot be.
3. *Never in the way.* It ends when DEVICE or the name NETNS (a path; "": it has none) is gone or
   another's, and when it is told to.

Differences from flannel, wanted: an error comes from the address of the node's bridge, which the
sender takes it from, and there is one for a TTL that has run out, too.

Messages: `{"local": address, "port": n, "own": address, "peers": [[prefix, address]…]}` states all
of it, `{"end": true}` ends it; the answer to each is `{}` or `{"error": …}`. `{"ask": "peers"}` is
answered with those it knows, `{"peers": [[prefix, address]…]}`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from typing import Any

from netlab.encapsulation import datagrams, device
from netlab.residents.loop import Loop
from netlab.residents.serving import Asker, Door, identity

NAME = "\0netlab/flannel/udp"
TICK = 0.5  # seconds between looks at the namespace's name
LARGEST = 65535  # bytes of a packet
AT_ONCE = 64  # packets of one direction before the other has its turn
BUFFER = 4 << 20  # bytes of the socket's buffers


class Peers:
    """Which node leases an address: by prefix length, the longest first."""

    def __init__(self, peers: list[tuple[str, str]]) -> None:
        tables: dict[int, dict[int, str]] = {}
        for prefix, address in peers:
            network, _, length = prefix.partition("/")
            number = int.from_bytes(socket.inet_aton(network), "big")
            shift = 32 - int(length)
            tables.setdefault(shift, {})[number >> shift] = address
        self._tables = sorted(tables.items())

    def of(self, address: int) -> str:
        """Return the node to send to, "" when nobody leases *address*."""
        for shift, table in self._tables:
            if (found := table.get(address >> shift)) is not None:
                return found
        return ""


class Carrier:
    """The device, the socket, and what is told by the control socket."""

    def __init__(self, netns: str, name: str) -> None:
        """Raises OSError: there is one already, or another has the device."""
        self._netns = netns
        self._home = identity("/proc/self/ns/net")
        self._loop = Loop()
        self._door = Door(NAME, self._loop, self._answer)
        self._tun = device.opened()
        device.attach(self._tun, name)
        os.set_blocking(self._tun, False)
        self._socket: socket.socket | None = None
        self._local = ("", 0)
        self._own = ""
        self._peers, self._known = Peers([]), list[Any]()
        self._ended = False
        self._loop.watch(self._tun, self._outward, select.EPOLLIN)

    def serve(self) -> None:
        """Carry packets until it is to end. Raises OSError when the device goes."""
        tick = 0.0
        while not self._ended:
            now = self._loop.now()
            if now >= tick:
                if self._netns and identity(self._netns) != self._home:
                    return
                tick = now + TICK
            self._loop.turn(tick)

    def _outward(self, events: int) -> None:
        for _ in range(AT_ONCE):
            try:
                packet = bytearray(os.read(self._tun, LARGEST))
            except BlockingIOError:
                return
            to = datagrams.destination(packet)
            if to < 0 or self._socket is None:
                continue  # IPv6, which the network has none of
            peer = self._peers.of(to)
            if not peer:
                self._refuse(packet, datagrams.NET_UNREACHABLE)
            elif not datagrams.aged(packet):
                self._refuse(packet, datagrams.TIME_EXCEEDED)
            else:
                try:
                    self._socket.sendto(packet, (peer, self._local[1]))
                except OSError:
                    continue  # no way there now; whoever waits for an answer sends again

    def _inward(self, events: int) -> None:
        opened = self._socket
        assert opened is not None
        for _ in range(AT_ONCE):
            try:
                packet = bytearray(opened.recv(LARGEST))
            except BlockingIOError:
                return
            except OSError:
                continue  # what ICMP told of an earlier one: nobody listens there
            if datagrams.destination(packet) < 0:
                continue
            if not datagrams.aged(packet):
                self._refuse(packet, datagrams.TIME_EXCEEDED)
                continue
            self._give(packet)

    def _refuse(self, packet: bytearray, what: tuple[int, int]) -> None:
        """Answer the sender; where it is another node's, through the tunnel."""
        error = bytearray(datagrams.refusal(packet, self._own, what)) if self._own else b""
        if not error:
            return
        peer = self._peers.of(datagrams.destination(error))
        if not peer:
            self._give(error)
        elif self._socket is not None:
            try:
                self._socket.sendto(error, (peer, self._local[1]))
            except OSError:
                return

    def _give(self, packet: bytes | bytearray) -> None:
        try:
            os.write(self._tun, packet)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINVAL, errno.EIO):
                raise  # EIO: it is down; EINVAL: the kernel takes no such packet

    # -- being told

    def _answer(self, message: dict[str, Any], asker: Asker) -> dict[str, Any]:
        if message.get("end"):
            self._ended = True
            return {}
        if message.get("ask") == "peers":
            return {"peers": self._known}
        local = str(message["local"]), int(message["port"])
        peers = Peers([(str(prefix), str(address)) for prefix, address in message["peers"]])
        if local != self._local or self._socket is None:
            self._bind(local)
        self._own, self._peers, self._known = str(message["own"]), peers, message["peers"]
        return {}

    def _bind(self, local: tuple[str, int]) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                opened.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            opened.bind(local)
        except OSError:
            opened.close()
            raise
        self._socket, self._local = opened, local
        self._loop.watch(opened.fileno(), self._inward, select.EPOLLIN)


def main() -> int:
    netns, name = sys.argv[1:]
    try:
        Carrier(netns, name).serve()
    except OSError as error:
        print(f"{netns} {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
