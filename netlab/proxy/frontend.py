"""A frontend: what happens to a packet for one address and port of a Service.

1. The renderers of all modes, the tests and the expected ways of packets read it and decide
   nothing.
2. It says it whole: who goes to which endpoints and with what source, and what the others get.
   The first of `ways` that a packet fits counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

from netlab.proxy.addresses import Family
from netlab.proxy.endpoints import Endpoint


class Kind(StrEnum):
    """The kinds of frontends. If two claim one address and port, the first kind wins."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"
    HOST_PORT = "hostPort"


class Policy(StrEnum):
    """Which endpoints of a service port."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Clients(StrEnum):
    """Where a packet comes from, as rules on the node can tell."""

    ALL = "all"
    PODS = "pods"  # this node's, as far as its detector tells
    NOT_PODS = "not pods"
    NODE = "node"  # the source is an address of the node
    LOOPBACK = "loopback"  # the source is 127.0.0.1 or its like
    WIRED = "wired"  # it came in by a card that is no bridge's; all, to an address of the node
    NONE = "none"


class Refusal(StrEnum):
    """What happens to a packet that goes to no endpoint."""

    REJECT = "reject"  # ICMP port unreachable
    DROP = "drop"  # in silence: another node may well serve it
    CLOSE = "close"  # a process accepts a connection and closes it; a datagram it forgets


class Way(NamedTuple):
    """*clients* go to the endpoints of *policy*; *masquerade* of them get the node's address.

    Whoever is sent to itself is masqueraded in any case.
    """

    clients: Clients
    policy: Policy
    masquerade: Clients


class ServicePort(msgspec.Struct, frozen=True):
    """One port of a Service in one family: what its frontends share."""

    namespace: str
    name: str
    port_name: str
    protocol: str
    family: Family
    cluster: tuple[Endpoint, ...]  # of Policy.CLUSTER; sorted by text, so are the others
    local: tuple[Endpoint, ...]
    known: tuple[Endpoint, ...]  # all its slices name, used here or not
    affinity: int  # seconds a client stays at its endpoint, whatever frontend it uses; 0: not

    @property
    def text(self) -> str:
        """`default/web`, or `default/web:http`, as kube-proxy writes it into comments and names."""
        return f"{self.namespace}/{self.name}" + (f":{self.port_name}" if self.port_name else "")

    @property
    def reachable(self) -> tuple[Endpoint, ...]:
        """Every endpoint that some packet on this node may be sent to."""
        if set(self.local) <= set(self.cluster):
            return self.cluster
        return tuple(sorted({*self.cluster, *self.local}, key=lambda one: one.text))

    def of(self, policy: Policy) -> tuple[Endpoint, ...]:
        """Return the endpoints of *policy*."""
        return self.cluster if policy is Policy.CLUSTER else self.local


class Frontend(msgspec.Struct, frozen=True):
    """An address and port at which a Service is served."""

    service: ServicePort
    kind: Kind
    # "": of a NodePort, see Situation.node_ports (in ipvs mode there is one frontend for each
    # address instead); of a hostPort, each of the node
    address: str
    port: int
    ways: tuple[Way, ...]
    refusal: Refusal | None  # for those without a way; None: everybody has one
    sources: tuple[str, ...] = ()  # prefixes the others of which are dropped; (): all may come
    policy: Policy = Policy.CLUSTER  # what the Service asks for, whoever gets it

    @property
    def key(self) -> tuple[Family, str, str, int]:
        """What only one frontend can have."""
        return self.service.family, self.address, self.service.protocol, self.port


def by_port(frontends: Iterable[Frontend]) -> list[tuple[ServicePort, list[Frontend]]]:
    """Return the ports that *frontends*, all of one Service and family, are of, each with its own.

    In the order in which they first come.
    """
    found: dict[tuple[str, str], tuple[ServicePort, list[Frontend]]] = {}
    for one in frontends:
        service = one.service
        key = (service.port_name, service.protocol)
        found.setdefault(key, (service, []))[1].append(one)
    return list(found.values())


class HealthCheck(msgspec.Struct, frozen=True):
    """What a health-check node port answers to a load balancer that asks whether to send here."""

    namespace: str
    name: str
    family: Family
    port: int
    local_endpoints: int  # ready addresses on this node

    @property
    def status(self) -> int:
        """The HTTP status."""
        return 200 if self.local_endpoints else 503

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers."""
        return {
            "Content-Type": "application/json",
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": str(self.local_endpoints),
        }

    @property
    def body(self) -> str:
        """The HTTP body, JSON. Source: pkg/proxy/healthcheck/service_health.go, v1.34."""
        answer = {
            "service": {"namespace": self.namespace, "name": self.name},
            "localEndpoints": self.local_endpoints,
            "serviceProxyHealthy": True,
        }
        return msgspec.json.format(msgspec.json.encode(answer), indent=1).decode()
