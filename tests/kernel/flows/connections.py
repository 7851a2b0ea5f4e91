"""Connections that last: real sockets at both ends, for what a first packet cannot show."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netlab.kernel.netns import entered

from .packets import TCP, Packet, segment
from .sensors import Sighting
from .topology import Place
from .traffic import Traffic, on_one_cpu, token

PATIENCE = 5.0  # seconds; a deadline
_ALL = 0x0003  # linux/if_ether.h, ETH_P_ALL
_SYN_ACK = 0x12


class Connection(NamedTuple):
    """A TCP connection, or a UDP client and its server."""

    client: socket.socket
    server: socket.socket
    peer: tuple[str, int]  # the client as the server sees it
    sequence: int = 0  # the server's first (TCP)
    acknowledged: int = 0  # the client's next

    def works(self) -> bool:
        """Return whether data get through both ways."""
        try:
            for sender, receiver in (self.client, self.server), (self.server, self.client):
                data = token().to_bytes(4, "big")
                if sender.type == socket.SOCK_DGRAM and sender is self.server:
                    sender.sendto(data, self.peer)
                else:
                    sender.send(data)
                if receiver.recv(64) != data:
                    return False
        except OSError:
            return False
        return True


class Fate(NamedTuple):
    """What became of a segment, and whether its connection went on."""

    sightings: list[Sighting]
    works: bool


@contextmanager
def connected(client: Place, to: tuple[str, int], server: Place, port: int) -> Iterator[Connection]:
    """Have a TCP connection from *client* to an address that is translated to *server*'s."""
    with (
        _opened(server, socket.SOCK_STREAM) as listening,
        _opened(client, socket.SOCK_STREAM) as calling,
        entered(server.netns),
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL)) as wire,
    ):
        wire.settimeout(PATIENCE)
        listening.bind((server.addresses[0], port))
        listening.listen()
        calling.connect(to)
        accepted, peer = listening.accept()
        with accepted:
            accepted.settimeout(PATIENCE)
            yield Connection(calling, accepted, peer, *_numbers(wire, port))


@contextmanager
def talking(client: Place, to: tuple[str, int], server: Place, port: int) -> Iterator[Connection]:
    """Have a UDP client that a server at *server* has heard of and answered."""
    with (
        _opened(server, socket.SOCK_DGRAM) as listening,
        _opened(client, socket.SOCK_DGRAM) as calling,
    ):
        listening.bind((server.addresses[0], port))
        calling.connect(to)
        calling.send(b"hello")
        _, peer = listening.recvfrom(64)
        listening.sendto(b"hello", peer)
        calling.recv(64)
        yield Connection(calling, listening, peer)


@contextmanager
def listening(place: Place, port: int) -> Iterator[None]:
    """Have *place* accept TCP connections."""
    with _opened(place, socket.SOCK_STREAM) as opened:
        opened.bind((place.addresses[0], port))
        opened.listen()
        yield


def stray_segment(client: Place, to: tuple[str, int], server: Place, traffic: Traffic) -> Fate:
    """Have *server* send a segment far outside its window to a client that called *to*."""
    with connected(client, to, server, 80) as connection:
        packet, raw = _astray(connection)
        with on_one_cpu():
            traffic.send_raw(server, raw, packet.destination)
            traffic.settle(server)
        return Fate(traffic.sightings(packet.token), connection.works())


def _astray(connection: Connection) -> tuple[Packet, bytes]:
    source, port = connection.server.getsockname()
    packet = Packet(source, port, *connection.peer, TCP, token())
    sequence = (connection.sequence + (1 << 30)) & 0xFFFFFFFF
    return packet, segment(packet, sequence, connection.acknowledged)


def _opened(place: Place, kind: socket.SocketKind) -> socket.socket:
    with entered(place.netns):
        opened = socket.socket(socket.AF_INET, kind)
    opened.settimeout(PATIENCE)
    return opened


def _numbers(wire: socket.socket, port: int) -> tuple[int, int]:
    """Return the sequence and the acknowledged number of the first SYN and ACK from *port*."""
    while True:
        data = wire.recv(2048)
        ours = data[9] == TCP and data[20:22] == port.to_bytes(2, "big")
        if ours and data[33] & _SYN_ACK == _SYN_ACK:
            return int.from_bytes(data[24:28], "big"), int.from_bytes(data[28:32], "big")
