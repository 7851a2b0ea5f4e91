"""NetworkPolicy of networking.k8s.io/v1, as far as it decides about packets: all of its spec.

Source: k8s.io/api networking/v1/types.go (v1.34); what may be left out: kubernetes
pkg/apis/networking/v1/defaults.go.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

import msgspec

from netlab.model.kubernetes import LabelSelector, Meta, View

Prefix = IPv4Network | IPv6Network


class Direction(StrEnum):
    """The values of `policyTypes`: which way, as seen by the pods a policy selects."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


class PolicyPort(View):
    """A port: of a number, up to `endPort`, or by its name in the destination pod; None: any."""

    protocol: str = "TCP"
    port: int | str | None = None
    endPort: int | None = None


class IPBlock(View):
    cidr: str
    excepted: list[str] = msgspec.field(name="except", default_factory=list)

    @property
    def network(self) -> Prefix:
        """The addresses meant, less the `exceptions`. Raises ValueError."""
        return ip_network(self.cidr, strict=False)

    @property
    def exceptions(self) -> list[Prefix]:
        return [ip_network(one, strict=False) for one in self.excepted]


class Peer(View):
    """Who is on the other side: pods by labels, or addresses."""

    podSelector: LabelSelector | None = None
    namespaceSelector: LabelSelector | None = None
    ipBlock: IPBlock | None = None


class PolicyRule(View):
    """What is allowed: with any of the peers, to any of the ports; with everybody if none is said.

    Peers are called `from` in a rule of ingress, `to` in one of egress.
    """

    ports: list[PolicyPort] = msgspec.field(default_factory=list)
    senders: list[Peer] = msgspec.field(name="from", default_factory=list)
    receivers: list[Peer] = msgspec.field(name="to", default_factory=list)

    @property
    def peers(self) -> list[Peer]:
        return self.senders or self.receivers


class PolicySpec(View):
    podSelector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    policyTypes: list[Direction] = msgspec.field(default_factory=list)
    ingress: list[PolicyRule] = msgspec.field(default_factory=list)
    egress: list[PolicyRule] = msgspec.field(default_factory=list)


class NetworkPolicy(View):
    metadata: Meta
    spec: PolicySpec = msgspec.field(default_factory=PolicySpec)
    apiVersion: str = "networking.k8s.io/v1"
    kind: str = "NetworkPolicy"

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Which ways it isolates the pods it selects.

        Not said: Ingress, and Egress if there are rules for it.
        """
        if self.spec.policyTypes:
            return tuple(way for way in Direction if way in self.spec.policyTypes)
        return tuple(Direction) if self.spec.egress else (Direction.INGRESS,)

    def rules(self, direction: Direction) -> list[PolicyRule]:
        """Return what it allows in *direction*."""
        if direction not in self.directions:
            return []
        return self.spec.ingress if direction is Direction.INGRESS else self.spec.egress
