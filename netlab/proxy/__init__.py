"""Services as one node serves them: decided once, for every proxy mode.

    addresses  addresses as people write them, in one form
    options    what whoever starts a proxy chooses, and what that means on a node
    endpoints  from EndpointSlices to the endpoints that are used
    frontend   who goes where from an address and port, and what the others get
    service    the frontends that a Service has
    hostport   the frontends that pods have
    claims     who has an address and port that several claim
    node       the decision: all of them together
    objects    the same, kept as stored objects change
    packet     what a decision does to one packet

    ruleset    blocks of rules, and the steps from one state to another
    names      what upstream calls chains
    iptables, nftables, ipvs   the renderers: from frontends to blocks, in upstream's words
    iptables_frame, iptables_words, hostport_rules   parts of the first
    userspace   a renderer into portals: ports that a process listens on
    portals     what that process is to serve
    programme  all blocks of a node, kept as Services change
    nft_text   steps as nft transactions, and its listings as blocks
    nft_tables, nft_portions   tables that go as wholes; transactions that are too big

    staleness  which UDP flows a change leads astray
    settings   the node's settings that rules rely on

Nothing above the gap knows a rule's syntax; nothing below it decides.
"""

from __future__ import annotations

from netlab.model.modes import Mode
from netlab.proxy.endpoints import Endpoint
from netlab.proxy.frontend import (
    Clients,
    Frontend,
    HealthCheck,
    Kind,
    Policy,
    Refusal,
    ServicePort,
    Way,
)
from netlab.proxy.node import Decision, decision, frontends
from netlab.proxy.options import DetectLocal, NodePorts, Options, PodTraffic, Situation
from netlab.proxy.packet import Outcome, Packet, Verdict, outcome

__all__ = [
    "Clients",
    "Decision",
    "DetectLocal",
    "Endpoint",
    "Frontend",
    "HealthCheck",
    "Kind",
    "Mode",
    "NodePorts",
    "Options",
    "Outcome",
    "Packet",
    "PodTraffic",
    "Policy",
    "Refusal",
    "ServicePort",
    "Situation",
    "Verdict",
    "Way",
    "decision",
    "frontends",
    "outcome",
]
