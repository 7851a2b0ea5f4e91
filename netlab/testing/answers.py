"""What a test is given back: plain data, as it travels from the keeper to the tests' process."""

from __future__ import annotations

import json as decoder
from typing import Any

import msgspec

SHOWN = 120  # characters of a text in a repr, which pytest prints in one line


class Place(msgspec.Struct, frozen=True):
    """Somewhere in the lab. *word*: how `netlab exec` and `netlab trace` call it."""

    word: str  # default/web-1, node/n1, client
    name: str  # default/web-1, n1, client
    kind: str  # pod, node, member
    node: str = ""  # the one a pod is on; a node's own name
    netns: str = ""
    address: str = ""  # of a pod without one yet: ""
    labels: dict[str, str] = {}
    phase: str = ""  # of a pod


class Response(msgspec.Struct, frozen=True):
    """An HTTP response. `by`: the pod that answered, `client`: the address it saw; "" when the
    server is none of netlab's own, which say so."""

    url: str
    status: int
    reason: str = ""
    headers: dict[str, str] = {}  # names in lower case
    text: str = ""
    by: str = ""  # default/web-1
    client: str = ""
    seconds: float = 0.0

    def json(self) -> Any:
        """Return the body, decoded. Raises ValueError."""
        return decoder.loads(self.text)

    def __bool__(self) -> bool:
        """Whether it is no error: a status below 400."""
        return self.status < 400

    def __repr__(self) -> str:
        said = f"by {self.by}, which saw {self.client}" if self.by else repr(self.text[:SHOWN])
        return f"<response {self.status} {self.reason} of {self.url}: {said}>"


class Answer(msgspec.Struct, frozen=True):
    """What came of a ping, a TCP connection or a UDP datagram; true when it was answered.

    `refused` says why there was no answer: `connection refused`, `no answer within 2 s`.
    `by`, `client` as in `Response`.
    """

    asked: str  # default/a -> web 10.96.0.10:80 tcp
    source: str = ""  # who answered: the address it came from
    by: str = ""
    client: str = ""
    refused: str = ""
    mtu: int = 0  # for what was too long: the largest packet, in bytes, that the way takes
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return not self.refused

    def __repr__(self) -> str:
        if self.refused:
            return f"<no answer: {self.asked}: {self.refused}>"
        said = f" {self.by}, which saw {self.client}" if self.by else ""
        return f"<answer: {self.asked}: from {self.source}{said}>"


class Ran(msgspec.Struct, frozen=True):
    """A command that has ended, with exit code 0 or another."""

    where: str
    args: tuple[str, ...]
    returncode: int
    stdout: str = ""
    stderr: str = ""

    def __repr__(self) -> str:
        said = (self.stderr or self.stdout).strip()[-SHOWN:]
        words = " ".join(self.args)[:SHOWN]
        return f"<{self.where}: {words}: exit code {self.returncode}: {said!r}>"


class Port(msgspec.Struct, frozen=True):
    """A port of a Service; `node_port` 0: none."""

    port: int
    protocol: str  # TCP, UDP
    name: str = ""
    node_port: int = 0


class Endpoint(msgspec.Struct, frozen=True):
    """Who serves a port of a Service: an address that new connections go to."""

    address: str
    port: int
    protocol: str = "TCP"
    pod: str = ""  # default/web-1
    node: str = ""


class Service(msgspec.Struct, frozen=True):
    """A Service as the lab has it now."""

    name: str
    namespace: str
    cluster_ip: str  # `None` as Kubernetes writes it for a headless one
    ports: tuple[Port, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()  # those that are ready

    def __str__(self) -> str:
        """`default/web`."""
        return f"{self.namespace}/{self.name}"


class Texts(msgspec.Struct, frozen=True):
    """What is kept of a failing test: file names and what goes into them."""

    texts: dict[str, str] = {}
    capture: bytes = b""  # a pcapng; empty: nothing was recorded
    status: tuple[str, ...] = ()  # lines of `netlab status`
    notes: tuple[str, ...] = ()  # what could not be had, and why
