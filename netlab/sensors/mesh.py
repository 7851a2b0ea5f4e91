"""Many sources asking many servers at once: whom does each server see?"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from itertools import groupby, islice
from typing import NamedTuple

import msgspec

from netlab.kernel.netns import entered
from netlab.packets import Protocol

AT_ONCE = 400  # sockets open together; below the usual limit of 1024 files
SILENCE = 1.1  # seconds without any answer, after which the rest is given up; ARP retries in 1 s
QUESTION = b"who am I\n"


class Pair(NamedTuple):
    """A question to ask: from the namespace *netns* to a server's address and port."""

    netns: str
    address: str
    port: int
    protocol: Protocol


class _Said(msgspec.Struct):
    client: str = ""


def clients(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """Return, for each pair, the address its server saw, or `error: …`, or "" for no answer.

    *pairs* are sorted by source, so that each source's namespace is entered once per batch.
    """
    answers: dict[Pair, str] = {}
    rest = iter(pairs)
    while batch := list(islice(rest, AT_ONCE)):
        answers.update(_asked(batch))
    return answers


def _asked(batch: Iterable[Pair]) -> dict[Pair, str]:
    answers: dict[Pair, str] = {}
    waiting: dict[int, tuple[socket.socket, Pair]] = {}
    poll = select.epoll()
    try:
        for netns, mine in groupby(batch, key=lambda pair: pair.netns):
            with entered(netns):
                for pair in mine:
                    answers[pair] = ""
                    sock = _opened(pair)
                    waiting[sock.fileno()] = (sock, pair)
                    _start(sock, pair, poll, answers)
        last = time.monotonic()
        while any(not answers[pair] for _, pair in waiting.values()):
            events = poll.poll(SILENCE)
            if not events and time.monotonic() - last > SILENCE:
                break
            last = time.monotonic()
            for number, mask in events:
                sock, pair = waiting[number]
                _advance(sock, pair, mask, poll, answers)
    finally:
        poll.close()
        for sock, _ in waiting.values():
            sock.close()
    return answers


def _opened(pair: Pair) -> socket.socket:
    kind = socket.SOCK_DGRAM if pair.protocol is Protocol.UDP else socket.SOCK_STREAM
    return socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK)


def _start(sock: socket.socket, pair: Pair, poll: select.epoll, answers: dict[Pair, str]) -> None:
    failed = sock.connect_ex((pair.address, pair.port))
    if failed not in (0, errno.EINPROGRESS):
        answers[pair] = f"error: {os.strerror(failed).lower()}"
        return
    if pair.protocol is Protocol.UDP:
        sock.send(QUESTION)
        poll.register(sock, select.EPOLLIN)
    else:
        poll.register(sock, select.EPOLLOUT)


def _advance(
    sock: socket.socket, pair: Pair, mask: int, poll: select.epoll, answers: dict[Pair, str]
) -> None:
    try:
        if mask & select.EPOLLOUT and not mask & select.EPOLLERR:
            sock.send(QUESTION)
            poll.modify(sock, select.EPOLLIN)
            return
        answers[pair] = _client(sock.recv(4096))
    except BlockingIOError:
        return
    except OSError as error:
        answers[pair] = f"error: {(error.strerror or str(error)).lower()}"
    poll.unregister(sock)


def _client(line: bytes) -> str:
    try:
        # A server that was kept waiting has already answered once by itself.
        first = line.partition(b"\n")[0]
        return msgspec.json.decode(first, type=_Said).client or "error: it names no client"
    except msgspec.DecodeError:
        return f"error: it answered {line[:40]!r}"
