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

from netlab import patience
from netlab.kernel.netns import entered
from netlab.packets import Protocol
from netlab.sensors.ports import MANY, Ports

AT_ONCE = 400  # sockets open together; below the usual limit of 1024 files
SILENCE = patience.seconds(1.1)  # without any answer the rest is given up; ARP retries in 1 s
QUESTION = b"who am I\n"


class Pair(NamedTuple):
    """A question to ask: from the namespace *netns* to a server's address and port.

    The same question may be asked often, under different numbers.
    """

    netns: str
    address: str
    port: int
    protocol: Protocol
    number: int = 0


class Answer(msgspec.Struct, frozen=True):
    """What a server said: whom it saw, who it is; or what went wrong. All empty: nothing came."""

    client: str = ""
    pod: str = ""
    namespace: str = ""
    error: str = ""


NOTHING = Answer()
_ports = Ports(MANY)


def answers(pairs: Sequence[Pair]) -> dict[Pair, Answer]:
    """Return, for each pair, what its server answered.

    *pairs* are sorted by source, so that each source's namespace is entered once per batch.
    """
    found: dict[Pair, Answer] = {}
    rest = iter(pairs)
    while batch := list(islice(rest, AT_ONCE)):
        found.update(_asked(batch))
        # UDP promises nothing: a server that is busy with others may have had no room.
        silent = [p for p in batch if found[p] is NOTHING and p.protocol is Protocol.UDP]
        if silent:
            found.update(_asked(silent))
    return found


def _asked(batch: Iterable[Pair]) -> dict[Pair, Answer]:
    answers: dict[Pair, Answer] = {}
    waiting: dict[int, tuple[socket.socket, Pair]] = {}
    poll = select.epoll()
    try:
        for netns, mine in groupby(batch, key=lambda pair: pair.netns):
            with entered(netns):
                for pair in mine:
                    answers[pair] = NOTHING
                    sock = _opened(pair)
                    waiting[sock.fileno()] = (sock, pair)
                    _start(sock, pair, poll, answers)
        last = time.monotonic()
        while any(answers[pair] is NOTHING for _, pair in waiting.values()):
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
    family = socket.AF_INET6 if ":" in pair.address else socket.AF_INET
    return socket.socket(family, kind | socket.SOCK_NONBLOCK)


def _start(
    sock: socket.socket, pair: Pair, poll: select.epoll, answers: dict[Pair, Answer]
) -> None:
    try:
        _ports.bind(sock, pair._replace(number=0), to=pair.port)
    except OSError as error:
        answers[pair] = Answer(error=(error.strerror or str(error)).lower())
        return
    failed = sock.connect_ex((pair.address, pair.port))
    if failed not in (0, errno.EINPROGRESS):
        answers[pair] = Answer(error=os.strerror(failed).lower())
        return
    if pair.protocol is Protocol.UDP:
        sock.send(QUESTION)
        poll.register(sock, select.EPOLLIN)
    else:
        poll.register(sock, select.EPOLLOUT)


def _advance(
    sock: socket.socket, pair: Pair, mask: int, poll: select.epoll, answers: dict[Pair, Answer]
) -> None:
    try:
        if mask & select.EPOLLOUT and not mask & select.EPOLLERR:
            sock.send(QUESTION)
            poll.modify(sock, select.EPOLLIN)
            return
        answers[pair] = _answer(sock.recv(4096))
    except BlockingIOError:
        return
    except OSError as error:
        answers[pair] = Answer(error=(error.strerror or str(error)).lower())
    poll.unregister(sock)


def _answer(line: bytes) -> Answer:
    try:
        # A server that was kept waiting has already answered once by itself.
        said = msgspec.json.decode(line.partition(b"\n")[0], type=Answer)
    except msgspec.DecodeError:
        return Answer(error=f"it answered {line[:40]!r}")
    return said if said.client else Answer(error="it names no client")
