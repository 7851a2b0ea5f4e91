"""What travels: a flow, the hops it should take, the sightings of a real packet, the verdict."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Protocol(StrEnum):
    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Flow(msgspec.Struct, frozen=True):
    """Who speaks to whom: addresses as text, ports 0 for ICMP."""

    source: str
    destination: str
    protocol: Protocol
    source_port: int = 0
    destination_port: int = 0

    @property
    def reply(self) -> Flow:
        return Flow(
            self.destination, self.source, self.protocol, self.destination_port, self.source_port
        )


class Direction(StrEnum):
    """As seen by the device: a packet comes in from it, or goes out through it."""

    IN = "in"
    OUT = "out"


class Outer(msgspec.Struct, frozen=True):
    """The VXLAN envelope of a packet (RFC 7348)."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    vni: int
    ttl: int
    inner_source_mac: str
    inner_destination_mac: str


class Sighting(msgspec.Struct, frozen=True):
    """One packet on one device: when (ns since the epoch, one clock for all), where, what."""

    time: int
    netns: str
    device: str
    direction: Direction
    flow: Flow
    ttl: int
    length: int  # bytes of the (inner) IP packet
    source_mac: str = ""
    destination_mac: str = ""
    outer: Outer | None = None
    payload: bytes = b""
    ip_id: int = 0


class Hop(msgspec.Struct, frozen=True):
    """One place a packet is expected at, and how it must look there; None: not checked."""

    netns: str
    device: str
    direction: Direction
    source: str
    destination: str
    ttl: int | None = None
    outer_source: str | None = None  # with outer_destination: inside VXLAN here
    outer_destination: str | None = None
    why: str = (
        ""  # what makes it go on from here: `docker0 forwards to vethX`, `route via flannel.1`
    )


class Expectation(msgspec.Struct, frozen=True):
    """The way a flow should take: hops of the request, of the reply, and where it must not show."""

    flow: Flow
    request: tuple[Hop, ...]
    reply: tuple[Hop, ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()  # (netns, device)


class Outcome(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"


class Verdict(msgspec.Struct, frozen=True):
    """What a comparison found: evidence for a pass; for a failure where it stopped."""

    path: str
    outcome: Outcome
    title: str = ""
    evidence: tuple[str, ...] = ()
    last_seen: str = ""  # `notes.node1 flannel.1 out`
    expected_next: str = ""
    seconds: float = 0.0
