"""A stub resolver: what a program in a pod is told when it asks for a name.

It reads no file of this machine's, but takes what the pod's /etc/resolv.conf says, and asks from
the network namespace the thread is in.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator

from netlab.dns import wire
from netlab.dns.files import Resolving
from netlab.dns.wire import Answer, Malformed, Name
from netlab.errors import NetlabError
from netlab.nameserver.forwarding import PORT, SIZE

SECONDS = 2.0  # for an answer
NDOTS = 1  # resolv.conf(5): dots in a name that is first tried as it is
DROPPED = 2  # questions sent again over UDP
REFUSED_PAUSE = 0.1  # seconds until one that was refused is sent again


def asked(
    server: str, name: Name, kind: int, *, tcp: bool = False, seconds: float = SECONDS
) -> Answer:
    """Return what *server* answers; over TCP too when its answer over UDP was cut.

    Raises NetlabError when it does not answer.
    """
    number = secrets.randbits(16)
    query = wire.query(name, kind, number=number, size=SIZE)
    try:
        answer = _over_tcp(server, query, seconds) if tcp else _over_udp(server, query, seconds)
    except (OSError, Malformed) as error:
        words = "no answer" if isinstance(error, TimeoutError) else str(error).lower()
        how = "TCP" if tcp else "UDP"
        raise NetlabError(f"{server}: {wire.text_of(name)} asked over {how}: {words}") from error
    if answer.truncated and not tcp:
        return asked(server, name, kind, tcp=True, seconds=seconds)
    return answer


def _over_udp(server: str, query: bytes, seconds: float) -> Answer:
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((server, PORT))
        for left in range(DROPPED, -1, -1):
            try:
                sock.send(query)
                while True:
                    sock.settimeout(max(0.01, (deadline - time.monotonic()) / (left + 1)))
                    data = sock.recv(65535)
                    if data[:2] == query[:2]:
                        return wire.read_answer(data)
            except TimeoutError:
                continue
            except ConnectionRefusedError:  # its port is not open yet, or no more
                time.sleep(REFUSED_PAUSE)
    raise TimeoutError


def _over_tcp(server: str, query: bytes, seconds: float) -> Answer:
    with socket.create_connection((server, PORT), timeout=seconds) as sock:
        sock.sendall(len(query).to_bytes(2, "big") + query)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = sock.recv(65535)
            if not more:
                raise ConnectionError("the connection was closed")
            data += more
        return wire.read_answer(data[2:])


def tried(resolving: Resolving, text: str) -> Iterator[Name]:
    """Yield the names that *text* is completed to, in the order in which they are asked for.

    Source: resolv.conf(5), ndots and search. Raises Malformed for what can be no name.
    """
    ndots = NDOTS
    for option in resolving.options:
        key, _, value = option.partition(":")
        if key == "ndots" and value.isdigit():
            ndots = int(value)
    own = wire.name_of(text)
    if text.endswith("."):
        yield own
        return
    early = len(own) - 1 >= ndots
    if early:
        yield own
    for search in resolving.searches:
        yield own + wire.name_of(search)
    if not early:
        yield own


def resolved(
    resolving: Resolving,
    text: str,
    kind: int = wire.A,
    *,
    tcp: bool = False,
    seconds: float = SECONDS,
) -> tuple[Name, Answer]:
    """Return the first of the completed names that has records, with the answer; the last name
    and its answer when none has.

    Raises NetlabError when nobody answers, or *text* can be no name.
    """
    if not resolving.nameservers:
        raise NetlabError(f"{text}: nobody to ask for names", hint="see /etc/resolv.conf")
    try:
        names = list(tried(resolving, text))
    except Malformed as error:
        raise NetlabError(str(error)) from error
    for name in names:
        answer = asked(resolving.nameservers[0], name, kind, tcp=tcp, seconds=seconds)
        if answer.answers:
            break
    return name, answer
