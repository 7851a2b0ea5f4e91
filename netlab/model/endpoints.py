"""Services and what stands behind them, as far as the controllers read them.

Views like those of `model/kubernetes.py`; the words are those of core/v1 and discovery.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import msgspec

from netlab.model.kubernetes import Document, Meta, View

SERVICE_NAME = "kubernetes.io/service-name"  # label of a slice: whose endpoints it has
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"  # label of a slice: who keeps it
SLICE_CONTROLLER = "endpointslice-controller.k8s.io"
MIRROR_CONTROLLER = "endpointslicemirroring-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"

HEADLESS = "None"  # the clusterIP of a Service that wants none
EXTERNAL_NAME = "ExternalName"
EXTERNAL_TYPES = ("NodePort", "LoadBalancer")
REFUSED = "Allocated"  # condition: status False while an address or port cannot be had


class ServicePort(View):
    port: int
    name: str = ""
    protocol: str = "TCP"
    appProtocol: str = ""
    targetPort: int | str = 0  # 0: the same as port
    nodePort: int = 0


class ServiceSpec(View):
    type: str = "ClusterIP"
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    ports: list[ServicePort] = msgspec.field(default_factory=list)
    clusterIP: str = ""
    clusterIPs: list[str] = msgspec.field(default_factory=list)
    ipFamilies: list[str] = msgspec.field(default_factory=list)
    ipFamilyPolicy: str = ""
    externalIPs: list[str] = msgspec.field(default_factory=list)
    externalName: str = ""
    externalTrafficPolicy: str = ""
    healthCheckNodePort: int = 0
    allocateLoadBalancerNodePorts: bool = True
    publishNotReadyAddresses: bool = False
    trafficDistribution: str = ""

    @property
    def headless(self) -> bool:
        return self.clusterIP == HEADLESS

    @property
    def addressed(self) -> bool:
        """Whether a cluster IP belongs to it."""
        return self.type != EXTERNAL_NAME and not self.headless

    @property
    def health_checked(self) -> bool:
        """Whether a port of its own tells a load balancer which nodes have endpoints."""
        return self.type == "LoadBalancer" and self.externalTrafficPolicy == "Local"

    @property
    def node_ports(self) -> bool:
        """Whether every one of its ports is to have a port of the nodes."""
        return self.type == "NodePort" or (
            self.type == "LoadBalancer" and self.allocateLoadBalancerNodePorts
        )


class Service(View):
    metadata: Meta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    apiVersion: str = "v1"
    kind: str = "Service"

    @property
    def title(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class EndpointSlice(View):
    metadata: Meta
    addressType: str = "IPv4"
    endpoints: list[dict[str, Any]] = msgspec.field(default_factory=list)
    ports: list[dict[str, Any]] = msgspec.field(default_factory=list)
    apiVersion: str = "discovery.k8s.io/v1"
    kind: str = "EndpointSlice"

    @property
    def service(self) -> str:
        """The name of the Service whose endpoints these are."""
        return self.metadata.labels.get(SERVICE_NAME, "")


class Subset(View):
    addresses: list[dict[str, Any]] | None = None
    notReadyAddresses: list[dict[str, Any]] | None = None
    ports: list[ServicePort] | None = None


class Endpoints(View):
    metadata: Meta
    subsets: list[Subset] | None = None
    apiVersion: str = "v1"
    kind: str = "Endpoints"


def managed_by(document: Document) -> str:
    """Return the name of the controller that keeps the slice *document*, "" for a user's own."""
    return str((document["metadata"].get("labels") or {}).get(MANAGED_BY, ""))


def refusal(service: Document) -> str:
    """Return why *service* does not get its addresses or ports, "" if it has them."""
    status = service.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    for condition in conditions if isinstance(conditions, list) else ():
        if not isinstance(condition, dict):  # anybody may write to etcd
            continue
        if condition.get("type") == REFUSED and condition.get("status") == "False":
            return str(condition.get("message", ""))
    return ""


@lru_cache(maxsize=1 << 16)
def canonical(address: str) -> str:
    """Return *address*, IPv4 or IPv6, in its usual form; "" if it is none.

    Leading zeros are decimal, as Kubernetes reads them: `010.1.2.3` is 10.1.2.3.
    Source: k8s.io/utils net, ParseIPSloppy.
    """
    text = address
    if ":" not in text:
        text = ".".join(part.lstrip("0") or part[-1:] for part in text.split("."))
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def address_type(address: str) -> str:
    """Return the addressType of a slice that holds *address*: IPv4 or IPv6."""
    return "IPv6" if ":" in address else "IPv4"


def address_types(spec: ServiceSpec) -> Sequence[str]:
    """Return the address types of the slices of a Service, the first one its own."""
    return spec.ipFamilies or [address_type(spec.clusterIP)]
