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

    def __str__(self) -> str:
        """`10.244.1.2:40001 -> 10.244.2.3:80 tcp`."""
        ends = [
            f"{address}:{port}" if port else address
            for address, port in (
                (self.source, self.source_port),
                (self.destination, self.destination_port),
            )
        ]
        return f"{ends[0]} -> {ends[1]} {self.protocol}"


class Entry(msgspec.Struct, frozen=True):
    """What a kernel remembers of a flow (conntrack), and so does to its later packets.

    `original` is the flow as its first packet came, `reply` what an answer to it must look like:
    where the flow was translated, the one is not the reverse of the other. `key` is what the kernel
    knows it by.
    """

    original: Flow
    reply: Flow
    zone: int = 0  # tables within the table; those who never heard of zones use 0
    mark: int = 0
    status: int = 0  # IPS_*, linux/netfilter/nf_conntrack_common.h
    id: int = 0
    timeout: int = 0  # seconds until it is forgotten, if nothing more comes
    state: str = ""  # of TCP and SCTP: `ESTABLISHED`, as conntrack(8) says it
    key: bytes = b""

    @property
    def redirected(self) -> bool:
        """Whether its packets go elsewhere than they were sent to."""
        sent, answered = self.original, self.reply
        return (sent.destination, sent.destination_port) != (answered.source, answered.source_port)

    @property
    def masqueraded(self) -> bool:
        """Whether its packets go on with another source than they came with."""
        sent, answered = self.original, self.reply
        return (sent.source, sent.source_port) != (answered.destination, answered.destination_port)

    @property
    def replied(self) -> bool:
        """Whether an answer was seen."""
        return bool(self.status & 0x2)  # IPS_SEEN_REPLY

    def __str__(self) -> str:
        """`10.244.1.2:4001 -> 10.96.0.10:53 udp, answered 10.244.2.3:53 -> 10.244.1.2:4001 udp`."""
        return f"{self.original}, answered {self.reply}"


class Direction(StrEnum):
    """As seen by the device: a packet comes in from it, or goes out through it."""

    IN = "in"
    OUT = "out"


class Leg(StrEnum):
    """Which half of a conversation a packet belongs to."""

    REQUEST = "request"
    REPLY = "reply"


BARE = -1  # for a VNI: there is no VXLAN, the UDP datagram holds an IP packet and nothing else


class Outer(msgspec.Struct, frozen=True):
    """The envelope of a packet: VXLAN (RFC 7348), or with VNI `BARE` flannel's bare UDP."""

    source: str
    destination: str
    vni: int
    source_port: int = 0
    destination_port: int = 0
    ttl: int = 0

    @property
    def kind(self) -> str:
        """`VXLAN`, `UDP`."""
        return "UDP" if self.vni == BARE else "VXLAN"

    @property
    def number(self) -> int | None:
        """The VNI, None where there is none."""
        return None if self.vni == BARE else self.vni

    @property
    def title(self) -> str:
        """`VXLAN 1`, `UDP`."""
        return self.kind if self.vni == BARE else f"{self.kind} {self.vni}"


class Sighting(msgspec.Struct, frozen=True):
    """One packet on one device: when (ns since the epoch, one clock for all), where, what.

    `flow`, `ttl`, `length`, `ip_id` and the MACs are those of the packet the probe is in: inside
    VXLAN the inner ones. `content` is that packet without what a router or a card fills in: TTL
    and checksums; `frame` all of what was on the device, envelope included. `icmp` names an ICMP
    message: `echo-request`, `net-unreachable`, …
    """

    time: int
    netns: str
    device: str
    direction: Direction
    flow: Flow
    ttl: int
    length: int  # bytes of the IP packet
    source_mac: str = ""
    destination_mac: str = ""
    outer: Outer | None = None
    ip_id: int = 0
    icmp: str = ""
    foreign: bool = False
    content: bytes = b""
    frame: bytes = b""

    @property
    def where(self) -> str:
        """`notes.node1 flannel.1 out`."""
        return f"{self.netns} {self.device} {self.direction}"


class VirtualConnection(msgspec.Struct, frozen=True):
    """A connection that ip_vs remembers: what was asked, and the real server it has."""

    flow: Flow
    address: str  # of the real server
    port: int
    state: str  # ESTABLISHED, SYN_RECV, UDP, …
    timeout: int  # seconds it is remembered without a packet
    scheduler: str = ""  # of its virtual server; "": not known

    @property
    def server(self) -> str:
        """The virtual server: `TCP 10.96.0.10:80`."""
        host = f"[{self.flow.destination}]" if ":" in self.flow.destination else ""
        return (
            f"{self.flow.protocol.upper()} {host or self.flow.destination}"
            f":{self.flow.destination_port}"
        )

    @property
    def real(self) -> str:
        """The real server: `10.244.1.2:80`."""
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else (f"{self.address}:{self.port}")
        )

    def with_scheduler(self, scheduler: str) -> VirtualConnection:
        return msgspec.structs.replace(self, scheduler=scheduler)


class RuleHit(msgspec.Struct, frozen=True):
    """One rule that a packet fitted: where, which, what it did with it.

    `hook` is the point in the network stack, `base` the chain that is called there, `chain` the
    one the rule is in. `rule` is what the tool that owns the table prints: iptables-save's words or
    nft's; "" for the policy of a base chain. `verdict` is what came of it: `jump KUBE-SERVICES`,
    `goto KUBE-SEP-…`, `accept`, `drop`, `return`, `continue` (the rule only did something to the
    packet), `policy accept`. `flow`, `incoming` and `outgoing` are the packet as it came to the
    base chain: a rewrite shows in the next one. `mark` is the packet's, after the rule.
    """

    netns: str
    family: str  # of the table: ip, ip6, inet
    table: str
    hook: str
    base: str
    chain: str
    rule: str
    verdict: str
    flow: Flow
    mark: int = 0
    incoming: str = ""  # the device it came in from, "" when a process here sent it
    outgoing: str = ""
    state: str = (
        ""  # what conntrack says of it, `new`, `established`; "": not asked yet, or unknown
    )
    handle: int = 0  # the kernel's number for the rule, 0: none, as for a policy

    @property
    def where(self) -> str:
        """`notes.node1 nat KUBE-SERVICES`."""
        return f"{self.netns} {self.table} {self.chain}"

    def __str__(self) -> str:
        """`notes.node1 nat KUBE-SERVICES: -d 10.96.0.1/32 … -j KUBE-SVC-…`."""
        return f"{self.where}: {self.rule or self.verdict}"


Identity = tuple[Protocol, bytes]
ICMP_ERRORS = frozenset((3, 4, 5, 11, 12))  # RFC 792: types that quote the packet they are about
_NUMBERS = {Protocol.ICMP: 1, Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}


def unchanged(number: int, transport: bytes) -> bytes:
    """Return what no rewrite of addresses and ports changes in a packet of IP protocol *number*.

    *transport*: its transport header and what is behind it, of which 20 bytes count: the kernel's
    rule traces show no more. Of TCP it is the numbers and flags; of UDP and ICMP how the payload
    begins; of an ICMP error how the packet it quotes begins, up to where NAT would change that.
    """
    if number == 6:
        return transport[4:14]
    if number == 132:
        return transport[4:8] + transport[12:20]  # without the checksum
    if number == 17:
        return transport[8:20]
    error = transport[:1] and transport[0] in ICMP_ERRORS
    return transport[:1] + transport[8 : 18 if error else 20]


def identity(protocol: Protocol, transport: bytes) -> Identity:
    """Return by what a packet is known again anywhere: its protocol, and what is `unchanged`."""
    return protocol, unchanged(_NUMBERS[protocol], transport)


class Passing(msgspec.Struct, frozen=True):
    """One packet's way through one base chain of a namespace, told by the kernel.

    `flow` is the packet as it came to the chain, `incoming` and `outgoing` the devices, "" for
    none; `hits` the rules it fitted, in their order. `conntrack` is the id of the kernel's entry
    for it, 0 where that is not told.
    """

    netns: str
    hook: str
    table: str
    flow: Flow
    identity: Identity
    incoming: str
    outgoing: str
    hits: tuple[RuleHit, ...]
    conntrack: int = 0
    opens: bool = False  # it is a TCP SYN
    icmp_error: bool = False


class Hop(msgspec.Struct, frozen=True):
    """One place a packet is expected at, and how it must look there; None: not checked.

    A port is None where a masquerade chose it, and where no Service is on the way. `own`: it must
    be addressed to this device's MAC, as a bridge's port does not ask for. `why` names what carries
    the packet on from here (a bridge, a route, a neighbour entry), so that a verdict can say what
    to look at when it is seen here and not at the next hop.
    """

    netns: str
    device: str
    direction: Direction
    source: str
    destination: str
    ttl: int | None = None
    outer: Outer | None = None  # compared: addresses, destination port, VNI
    source_mac: str | None = None
    destination_mac: str | None = None
    own: bool = False
    why: str = ""
    source_port: int | None = None
    destination_port: int | None = None

    @property
    def where(self) -> str:
        """`notes.node1 flannel.1 out`."""
        return f"{self.netns} {self.device} {self.direction}"

    @property
    def looks(self) -> str:
        """How the packet must look here: `10.244.1.2 -> 10.244.2.2 in VXLAN 192.168…`."""
        ends = (self.source, self.source_port), (self.destination, self.destination_port)
        inner = " -> ".join(f"{address}:{port}" if port else address for address, port in ends)
        if self.outer is None:
            return inner
        return f"{inner} in {self.outer.title}, {self.outer.source} -> {self.outer.destination}"


class Expectation(msgspec.Struct, frozen=True):
    """The way a flow should take: hops of the request, of the reply, and where it must not show.

    `ends` is empty for a flow that is to be answered; otherwise it says what stops the request
    behind its last hop. `translated` is the flow behind the rewriting of a Service's address: its
    ports, too, tell request from reply, and so do those of `between`, where it is rewritten twice.
    `ports` are devices, by the beginning of their names,
    through which a bridge may send a copy of a frame whose MAC it has not learned: no sign of a
    wrong way.
    """

    flow: Flow
    request: tuple[Hop, ...]
    reply: tuple[Hop, ...] = ()
    forbidden: tuple[tuple[str, str], ...] = ()  # (netns, device)
    ends: str = ""
    ports: tuple[tuple[str, str], ...] = ()  # (netns, beginning of the device's name)
    translated: Flow | None = None
    between: tuple[int, ...] = ()  # destination ports of the request, meanwhile


class Passage(msgspec.Struct, frozen=True):
    """An expected hop and the sighting that stands for it; `problem` when it looked otherwise."""

    leg: Leg
    hop: Hop
    sighting: Sighting | None = None
    problem: str = ""


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
    expected_next: str = ""  # the hop that is missing or wrong, and what should have led there
    seconds: float = 0.0
    flow: Flow | None = None
    passages: tuple[Passage, ...] = ()
