"""What sensors would bring of packets: frames on devices, passes through base chains."""

from __future__ import annotations

from collections.abc import Sequence

import frames

from netlab.packets import Direction, Flow, Passing, Protocol, RuleHit, identity
from netlab.sensors import dissect
from netlab.sensors.ring import Frame
from netlab.telling.selecting import Caught, ends, transport

SYN, ACK, RST, PUSH = 0x02, 0x10, 0x04, 0x08
NO_FLOW = Flow("", "", Protocol.TCP)
STEP = 1_000  # ns between two devices
MTU = 1450  # bytes
NODES = "192.168.50.101", "192.168.50.102"


def tcp(
    source: str,
    destination: str,
    *,
    flags: int = SYN,
    numbers: tuple[int, int] = (0x10000, 0),
    payload: bytes = b"",
    ttl: int = 64,
) -> bytes:
    """Return a TCP segment from `ADDRESS:PORT` to another."""
    (here, sport), (there, dport) = (end.split(":") for end in (source, destination))
    ports = int(sport), int(dport)
    return frames.ip4(*(here, there, "tcp", ports, payload), flags=flags, numbers=numbers, ttl=ttl)


def udp(source: str, destination: str, payload: bytes) -> bytes:
    (here, sport), (there, dport) = (end.split(":") for end in (source, destination))
    return frames.ip4(here, there, "udp", (int(sport), int(dport)), payload)


def icmp(source: str, destination: str, payload: bytes, *, kind: tuple[int, int] = (8, 0)) -> bytes:
    """Return an ICMP message: an echo request, or one whose type and code are *kind*."""
    return frames.ip4(source, destination, "icmp", kind, payload)


class Watch:
    """Takes notes as sensors do, on a clock of its own (ns)."""

    def __init__(self) -> None:
        self.clock = 1_700_000_000_000_000_000
        self.caught: list[Caught] = []
        self.passings: list[Passing] = []

    def seen(
        self, where: str, packet: bytes, *, wrapped: tuple[str, str] | None = None, **frame: bool
    ) -> None:
        """*packet* is on a device, `t.n1 eth0 out`; *wrapped*: in an envelope between these two."""
        netns, device, way = where.split()
        self.clock += STEP
        data = frames.ether(packet)
        if wrapped:
            data = frames.vxlan(data, *wrapped)
        one = Frame(self.clock, 1, way == Direction.OUT, frame.get("foreign", False), data)
        sighting = dissect.sighting(one, netns=netns, device=device)
        assert sighting is not None
        self.caught.append(Caught(sighting, data, MTU))

    def passed(
        self,
        where: str,
        packet: bytes,
        *hits: str,
        devices: str = " > ",
        conntrack: int = 0,
        table: str = "nat",
    ) -> None:
        """*packet* passes a base chain, `t.n1 prerouting`; *hits*: `CHAIN: RULE -> verdict`.

        *devices*: `docker0 > flannel.1`, either may be missing.
        """
        netns, hook, *chain = where.split()
        base = chain[0] if chain else hook.upper()
        flow = ends(packet)
        assert flow is not None
        incoming, _, outgoing = (part.strip() for part in devices.partition(">"))
        seen = tuple(
            hit(one, netns=netns, hook=hook, base=base, flow=flow, table=table)
            for one in hits or (f"{base}: -> policy accept",)
        )
        self.passings.append(
            Passing(
                *(netns, hook, table, flow, identity(flow.protocol, transport(packet))),
                *(incoming, outgoing, seen),
                conntrack=conntrack,
                opens=flow.protocol is Protocol.TCP and transport(packet)[13] == SYN,
            )
        )

    def envelope(self, source: str, destination: str, inner: bytes) -> bytes:
        """Return the IP packet that the envelope of *inner* is, for a pass."""
        return frames.vxlan(frames.ether(inner), source, destination)[14:]


def hit(
    words: str,
    *,
    netns: str = "t.n1",
    hook: str = "prerouting",
    base: str = "PREROUTING",
    table: str = "nat",
    flow: Flow = NO_FLOW,
    handle: int = 0,
) -> RuleHit:
    """Return the hit that *words* mean: `KUBE-SVC-1: -j KUBE-SEP-1 -> jump KUBE-SEP-1`."""
    chain, _, rest = words.partition(": ")
    rule, _, verdict = rest.rpartition("-> ")
    return RuleHit(
        netns, "ip", table, hook, base, chain, rule.strip(), verdict, flow, handle=handle
    )


def flows_of(caught: Sequence[Caught]) -> list[str]:
    return [str(one.sighting.flow) for one in caught]
