"""What a trace tells: one conversation, packet by packet, and of each packet step by step.

A `Journey` is what was seen, not what was expected: it is put together from the sightings of the
packets on devices, the kernel's rule traces and its connection tracking. Every form of a trace
(text, JSON, a picture) is made from this and from nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from netlab.packets import Direction, Entry, Flow, Leg, Outer, RuleHit, VirtualConnection


class Place(msgspec.Struct, frozen=True):
    """Where a step happened: a namespace, in the lab's words.

    `kind` is `pod`, `node` or `member` (underlay, gateway, internet, client, master); `name` what
    a person calls it: `default/web-1`, `node2`, `gateway`. `node`: the one a pod is on.
    """

    netns: str
    kind: str
    name: str
    node: str = ""

    def __str__(self) -> str:
        """`pod default/web-1 on node2`, `node2`, `gateway`."""
        return f"pod {self.name} on {self.node}" if self.kind == "pod" else self.name


class Seen(msgspec.Struct, frozen=True, tag_field="step", tag="device"):
    """The packet on a device. *time*: ns since the epoch. *outer*: it is in that envelope.

    `length` is that of the (inner) IP packet, in bytes; `mtu` the device's, 0 when not known.
    `frame` is the whole frame as it was on the device, envelope included.
    """

    place: Place
    time: int
    device: str
    direction: Direction
    flow: Flow
    ttl: int
    length: int
    mtu: int = 0
    source_mac: str = ""
    destination_mac: str = ""
    outer: Outer | None = None
    icmp: str = ""  # `echo-request`, `port-unreachable`, …
    foreign: bool = False  # addressed to another card's MAC: a bridge floods, nobody takes it
    frame: bytes = b""


class Rule(msgspec.Struct, frozen=True, tag_field="step", tag="rule"):
    """A rule that the packet met. *fitted*: false for those that it did not fit.

    `means` is what the rule is for, in Kubernetes' words, "" when that is not known:
    `Service default/web:http`, `endpoint default/web-2 10.244.3.2:80, 2 of 3, p 0.5`.
    """

    place: Place
    hit: RuleHit
    fitted: bool = True
    means: str = ""


class RewriteKind(StrEnum):
    """What was changed, and whether it is a first change or the undoing of one in a reply."""

    DNAT = "dnat"  # the destination
    SNAT = "snat"  # the source: masquerading
    UN_DNAT = "un-dnat"  # a reply's source, back to what was asked
    UN_SNAT = "un-snat"  # a reply's destination, back to who asked


class Rewrite(msgspec.Struct, frozen=True, tag_field="step", tag="rewrite"):
    """The packet's ends were changed. `conntrack` is the id of the kernel's entry, 0: not known.

    `before`, `after`: the whole flow as it was and as it is. `means`: who is meant by the new end.
    `by`: what did it, `ip_vs`; "": the kernel's NAT.
    """

    place: Place
    kind: RewriteKind
    before: Flow
    after: Flow
    conntrack: int = 0
    means: str = ""
    by: str = ""


IP_VS = "ip_vs"  # a `Rewrite.by`


class Envelope(msgspec.Struct, frozen=True, tag_field="step", tag="envelope"):
    """The packet was put into a VXLAN envelope on *device*, or (*opened*) taken out of it."""

    place: Place
    device: str
    outer: Outer
    opened: bool = False


class NextHop(msgspec.Struct, frozen=True, tag_field="step", tag="next-hop"):
    """Where the kernel sends it from here, and by what: asked of it right after the packet.

    `by` is `route`, `bridge` or `rule`; `device` it leaves by, `gateway` "" for a direct route.
    `words`: `route 10.244.2.0/24 via 10.244.2.0 dev flannel.1; neighbour …; FDB …`.
    """

    place: Place
    by: str
    device: str
    words: str
    gateway: str = ""
    mac: str = ""  # of the neighbour
    tunnel: str = ""  # the address of the tunnel's other end, "" for other devices


class Fate(StrEnum):
    DELIVERED = "delivered"
    DROPPED = "dropped"
    REFUSED = "refused"
    LEFT = "left"  # out of a foreign machine's port: what it does there is not seen
    LOST = "lost"  # last seen here, and nothing says why


class End(msgspec.Struct, frozen=True, tag_field="step", tag="end"):
    """Where the packet's way ended, and what became of it there."""

    place: Place
    fate: Fate
    words: str = ""  # `to default/web-2 80/tcp`, `by rule …`


Step = Seen | Rule | Rewrite | NextHop | Envelope | End


class Track(msgspec.Struct, frozen=True):
    """One packet and its steps, in order. `name`: `SYN`, `SYN ACK`, `data 24 bytes`, `query`, …

    `flow` is the packet as first seen. `same_as`: the number of an earlier packet of the
    conversation (from 0) that took the same way over the same devices, -1 if none did. `by`: of a
    flow that a process made for the conversation: which one and why, in words.
    """

    name: str
    leg: Leg
    flow: Flow
    steps: tuple[Step, ...]
    same_as: int = -1
    by: str = ""

    @property
    def sightings(self) -> list[Seen]:
        return [step for step in self.steps if isinstance(step, Seen)]

    @property
    def nanoseconds(self) -> int:
        """From its first sighting to its last."""
        seen = [step.time for step in self.sightings]
        return max(seen) - min(seen) if seen else 0


class NamedEntry(msgspec.Struct, frozen=True):
    """What the kernel of *place* remembers of the flow."""

    place: Place
    entry: Entry


class NamedConnection(msgspec.Struct, frozen=True):
    """What ip_vs of *place* remembers of the flow."""

    place: Place
    connection: VirtualConnection


class Journey(msgspec.Struct, frozen=True):
    """One conversation: what was sent, whom it reached, its packets in order.

    `service`: `default/web:http`, "" when the destination is no Service's; `endpoint`:
    `default/web-2 10.244.3.2:80`. `refused`: what the sender was told instead of an answer.
    `says`: what a server of netlab's answered of itself. `lost`: frames and rule messages that
    the sensors had no room for. `notes`: what else a reader should know. `attached`: it was not
    sent for this, others had it; `seconds` are then those between its first packet and its last.
    """

    source: str  # title: `default/pair`
    destination: str
    flow: Flow
    tracks: tuple[Track, ...]
    service: str = ""
    endpoint: str = ""
    answered: bool = False
    refused: str = ""
    says: dict[str, Any] = {}
    seconds: float = 0.0
    entries: tuple[NamedEntry, ...] = ()
    virtual: tuple[NamedConnection, ...] = ()  # in ipvs mode
    lost: int = 0
    notes: tuple[str, ...] = ()
    attached: bool = False


class Kind(StrEnum):
    """What may stop a packet. The words are part of the JSON form."""

    RULE = "rule"  # a rule or a policy dropped or refused it
    POLICY = "policy"  # no NetworkPolicy allows it, and some isolate one of its ends
    RULE_GONE = "rule-missing"  # a rule that should have rewritten or accepted it is not there
    CONNTRACK_INVALID = "conntrack-invalid"
    CONNTRACK_FULL = "conntrack-full"
    NO_ENDPOINTS = "no-endpoints"
    NO_NODE = "no-healthy-node"  # behind a load balancer
    SOURCE_RANGE = "source-range"  # the client is not of those that a load balancer lets in
    NO_PORT = "no-such-port"  # a Service's address, and a port that it does not serve
    ROUTE = "route"
    NEIGHBOUR = "neighbour"
    FDB = "fdb"
    LEASE = "lease"
    ADDRESS = "address"
    INTERFACE_DOWN = "interface-down"
    INTERFACE_GONE = "interface-missing"
    BRIDGE_PORT = "bridge-port"  # a cable that is plugged into no bridge
    TUNNEL = "tunnel"  # two ends of VXLAN that do not agree
    FORWARDING = "forwarding-off"
    RP_FILTER = "rp-filter"
    MTU = "mtu"
    TTL = "ttl"
    NO_LISTENER = "no-listener"
    SILENT_SERVER = "silent-server"
    SENDER = "sender"  # its own kernel would not send it
    FAULT = "fault"  # one that was made on purpose, `netlab link down`
    UNKNOWN = "unknown"


class Cause(msgspec.Struct, frozen=True):
    """Why a packet went no further. `what`: one sentence; `repair`: what to do, perhaps commands.

    `proof`: what shows that it is this: a verdict, an ICMP answer, the kernel's own answer.
    """

    kind: Kind
    place: Place
    what: str
    proof: tuple[str, ...] = ()
    repair: tuple[str, ...] = ()


class Diagnosis(msgspec.Struct, frozen=True):
    """A journey and what stopped it. `causes`: the likeliest first; empty when nothing did."""

    journey: Journey
    causes: tuple[Cause, ...] = ()
    seconds: float = 0.0

    @property
    def works(self) -> bool:
        return self.journey.answered
