"""Every pair of pods asked at once, over all protocols: which of them get an answer?"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby

from policy_cases import FLOWS, PORTS, TITLES, Asked

from netlab.capabilities import system as capabilities
from netlab.kernel.netns import entered

PATIENCE = 5.0  # seconds for those that are to be answered
GRACE = 0.1  # seconds more for those that are not: hundreds were answered in less
KINDS = {
    "TCP": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "UDP": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
}
with suppress(OSError):
    capabilities.sctp()
    KINDS["SCTP"] = socket.SOCK_STREAM, socket.IPPROTO_SCTP
SENT = [flow for flow in FLOWS if flow.protocol in KINDS]
FIRST_PORT = 20000
PLACES = len(TITLES) * len(PORTS)


def answered(
    addresses: Mapping[str, str],
    netns: Callable[[str], str],
    *,
    expected: Callable[[Asked], bool],
    number: int,
) -> set[Asked]:
    """Return which of SENT were answered.

    It ends soon after all that are *expected* to be were. *number*: another one each time, so that
    no connection is taken for one that was allowed before.
    """
    waiting: dict[int, tuple[socket.socket, Asked]] = {}
    found: set[Asked] = set()
    poll = select.epoll()
    try:
        for sock, flow in _opened(addresses, netns, number):
            waiting[sock.fileno()] = sock, flow
            poll.register(sock, select.EPOLLIN if flow.protocol == "UDP" else select.EPOLLOUT)
        missing = {flow for flow in SENT if expected(flow)}
        end = time.monotonic() + PATIENCE
        while (left := end - time.monotonic()) > 0:
            for fd, mask in poll.poll(left):
                sock, flow = waiting[fd]
                if not mask & (select.EPOLLERR | select.EPOLLHUP):
                    found.add(flow)
                poll.unregister(sock)
            if missing and not missing - found:
                missing, end = set(), time.monotonic() + GRACE
            elif not missing:
                end = min(end, time.monotonic() + GRACE)
    finally:
        poll.close()
        for sock, _ in waiting.values():
            sock.close()
    return found


def _opened(
    addresses: Mapping[str, str], netns: Callable[[str], str], number: int
) -> Iterator[tuple[socket.socket, Asked]]:
    """Yield a socket for each flow, which has sent its first packet."""
    for source, flows in groupby(SENT, key=lambda flow: flow.source):
        with entered(netns(source)):
            for flow in flows:
                kind, protocol = KINDS[flow.protocol]
                family = socket.AF_INET6 if ":" in addresses[flow.destination] else socket.AF_INET
                sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                place = TITLES.index(flow.destination) * len(PORTS) + PORTS.index(flow.port)
                sock.bind(("", FIRST_PORT + number * PLACES + place))
                sock.connect_ex((addresses[flow.destination], flow.port))
                if flow.protocol == "UDP":
                    sock.send(b"?\n")
                yield sock, flow
