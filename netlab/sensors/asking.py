"""Questions asked as a program in a namespace would: HTTP, an echo of a given size.

A socket belongs to the namespace it was made in, so the thread is in there only meanwhile.
"""

from __future__ import annotations

import errno
import http.client
import os
import socket
import struct
import time
from collections.abc import Mapping
from typing import NamedTuple

from netlab.kernel.netns import entered
from netlab.sensors.token import token

BODY_MAX = 1 << 20  # bytes of a response that are read
# linux/in.h
IP_MTU_DISCOVER, IP_RECVERR, IP_MTU = 10, 11, 14
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
ECHO_REQUEST, ECHO_REPLY = 8, 0  # ICMP types, RFC 792


class Fetched(NamedTuple):
    """An HTTP response, its body decoded as UTF-8."""

    status: int
    reason: str
    headers: dict[str, str]  # names in lower case
    text: str


class Echo(NamedTuple):
    """What came of an echo request: who answered, or why nobody did."""

    source: str = ""
    refused: str = ""
    mtu: int = 0  # for what was too long: the largest packet, in bytes, that the way takes


def fetch(
    netns: str,
    address: str,
    port: int,
    *,
    host: str,
    path: str,
    headers: Mapping[str, str],
    timeout: float,
) -> Fetched:
    """Return what is answered to `GET path`, asked from *netns*, *host* being its Host header.

    Raises OSError: refused, unreachable, no answer in *timeout* seconds, no HTTP.
    """
    with entered(netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with sock:
        sock.settimeout(timeout)
        sock.connect((address, port))
        connection = http.client.HTTPConnection(host, port)
        connection.sock = sock
        wanted = {"Host": host, "User-Agent": "netlab", "Connection": "close", **headers}
        try:
            connection.request("GET", path, headers=wanted)
            found = connection.getresponse()
            body = found.read(BODY_MAX)
        except http.client.HTTPException as odd:
            raise OSError(errno.EPROTO, f"no HTTP response: {odd!r}") from odd
    named = {name.lower(): value for name, value in found.getheaders()}
    return Fetched(found.status, found.reason, named, body.decode(errors="replace"))


def echo(netns: str, address: str, *, size: int, whole: bool, timeout: float) -> Echo:
    """Return what came of an ICMP echo with *size* bytes of data, sent from *netns*.

    *whole*: with the flag that forbids routers to fragment it (`ping -M do`).
    """
    with entered(netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        sock.setsockopt(socket.SOL_IP, IP_MTU_DISCOVER, PMTUDISC_DO if whole else PMTUDISC_DONT)
        sock.setsockopt(socket.SOL_IP, IP_RECVERR, 1)  # as errors of the socket
        try:
            sock.connect((address, 0))
            ident, data = os.urandom(2), (token() + b"." * size)[:size]
            sock.send(_request(ident, data))
            return _answer(sock, ident + b"\0\1" + data, timeout)
        except TimeoutError:
            return Echo(refused=f"no answer within {timeout:g} s")
        except OSError as error:
            words = (error.strerror or str(error)).lower()
            mtu = sock.getsockopt(socket.SOL_IP, IP_MTU) if error.errno == errno.EMSGSIZE else 0
            return Echo(refused=f"{words} (MTU {mtu})" if mtu else words, mtu=mtu)


def _answer(sock: socket.socket, expected: bytes, timeout: float) -> Echo:
    """Wait for the echo reply that carries *expected*. Raises OSError."""
    deadline = time.monotonic() + timeout
    while True:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        packet, (source, _) = sock.recvfrom(65536)
        message = packet[(packet[0] & 0xF) * 4 :]
        if message[0] == ECHO_REPLY and message[4:] == expected:
            return Echo(source)
        if time.monotonic() > deadline:
            raise TimeoutError


def _request(ident: bytes, data: bytes) -> bytes:
    """Return an echo request (RFC 792), its checksum that of RFC 1071."""
    rest = ident + b"\0\1" + data
    padded = bytes([ECHO_REQUEST, 0]) + rest + b"\0" * (len(rest) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">BBH", ECHO_REQUEST, 0, ~total & 0xFFFF) + rest
