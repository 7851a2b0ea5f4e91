"""Services and what stands behind them, as far as controllers and service proxies read them.

Views like those of `model/kubernetes.py`; the words are those of core/v1 and discovery.k8s.io/v1.
A list or mapping that Kubernetes leaves out, or writes as null, is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import msgspec

from netlab.model.kubernetes import Document, Meta, View

AFFINITY_TIMEOUT = 10800  # seconds; core/v1 DefaultClientIPServiceAffinitySeconds
AFFINITY_TIMEOUTS = range(1, 86401)  # core/v1 MaxClientIPServiceAffinitySeconds; xt_recent has more
SERVICE_NAME_LABEL = "kubernetes.io/service-name"  # on a slice: the Service it belongs to
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"  # on a slice: who keeps it
SLICE_CONTROLLER = "endpointslice-controller.k8s.io"
MIRROR_CONTROLLER = "endpointslicemirroring-controller.k8s.io"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"  # another proxy serves it
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"
FAMILIES = ("IPv4", "IPv6")  # core/v1 IPFamily
NO_CLUSTER_IP = "None"  # spec.clusterIP of a headless Service
EXTERNAL_NAME = "ExternalName"
EXTERNAL_TYPES = ("NodePort", "LoadBalancer")
UNBALANCED = "netlab.io/LoadBalancer"  # condition: False while a balancer's address is missing
REFUSED = "Allocated"  # condition: status False while an address or port cannot be had


class ServicePort(View):
    port: int
    name: str = ""
    protocol: str = "TCP"
    nodePort: int = 0
    targetPort: int | str | None = None
    appProtocol: str | None = None


class ClientIPConfig(View):
    timeoutSeconds: int | None = None


class SessionAffinityConfig(View):
    clientIP: ClientIPConfig | None = None


class ServiceSpec(View):
    type: str = "ClusterIP"
    clusterIP: str = ""
    clusterIPs: list[str] | None = None
    ipFamilies: list[str] | None = None
    ipFamilyPolicy: str | None = None
    ports: list[ServicePort] | None = None
    selector: dict[str, str] | None = None
    externalIPs: list[str] | None = None
    externalTrafficPolicy: str = "Cluster"
    internalTrafficPolicy: str | None = None
    sessionAffinity: str = "None"
    sessionAffinityConfig: SessionAffinityConfig | None = None
    loadBalancerIP: str = ""
    loadBalancerClass: str | None = None
    loadBalancerSourceRanges: list[str] | None = None
    healthCheckNodePort: int = 0
    allocateLoadBalancerNodePorts: bool = True
    publishNotReadyAddresses: bool = False
    trafficDistribution: str | None = None
    externalName: str = ""

    @property
    def headless(self) -> bool:
        return self.clusterIP == NO_CLUSTER_IP

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


class LoadBalancerIngress(View):
    ip: str = ""
    hostname: str = ""
    ipMode: str | None = None


class LoadBalancerStatus(View):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(View):
    conditions: list[dict[str, Any]] | None = None
    loadBalancer: LoadBalancerStatus = msgspec.field(default_factory=LoadBalancerStatus)


class Service(View):
    metadata: Meta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ServiceStatus = msgspec.field(default_factory=ServiceStatus)
    apiVersion: str = "v1"
    kind: str = "Service"

    @property
    def cluster_ips(self) -> list[str]:
        """Its cluster IPs as written, without `None` and blanks; none of an ExternalName."""
        spec = self.spec
        if spec.type == EXTERNAL_NAME:
            return []
        given = spec.clusterIPs or [spec.clusterIP]
        return [one for one in given if one and one != NO_CLUSTER_IP]

    @property
    def affinity_timeout(self) -> int:
        """For how many seconds a client stays at its endpoint; 0 without session affinity.

        What no API server would let in is as if it were not given: a tool refuses all rules for it.
        """
        if self.spec.sessionAffinity != "ClientIP":
            return 0
        config = self.spec.sessionAffinityConfig
        given = config.clientIP.timeoutSeconds if config and config.clientIP else None
        return given if given and given in AFFINITY_TIMEOUTS else AFFINITY_TIMEOUT


class Conditions(View):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Named(View):
    """A zone or a node that a hint names."""

    name: str


class Hints(View):
    forZones: list[Named] | None = None
    forNodes: list[Named] | None = None


class SliceEndpoint(View):
    addresses: list[str] | None = None
    conditions: Conditions | None = None
    nodeName: str | None = None
    zone: str | None = None
    hints: Hints | None = None
    hostname: str | None = None
    targetRef: dict[str, Any] | None = None


class SlicePort(View):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(View):
    metadata: Meta
    addressType: str = ""
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None
    apiVersion: str = "discovery.k8s.io/v1"
    kind: str = "EndpointSlice"


class Subset(View):
    addresses: list[dict[str, Any]] | None = None
    notReadyAddresses: list[dict[str, Any]] | None = None
    ports: list[ServicePort] | None = None


class Endpoints(View):
    metadata: Meta
    subsets: list[Subset] | None = None
    apiVersion: str = "v1"
    kind: str = "Endpoints"


class NodeAddress(View):
    type: str
    address: str


class NodeStatus(View):
    addresses: list[NodeAddress] | None = None


class ProxyNodeSpec(View):
    podCIDR: str = ""
    podCIDRs: list[str] | None = None


class ProxyNode(View):
    """A Node, with what the proxy on it reads: its zone, addresses and pods' subnets."""

    metadata: Meta
    spec: ProxyNodeSpec = msgspec.field(default_factory=ProxyNodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)
    apiVersion: str = "v1"
    kind: str = "Node"

    @property
    def pod_cidrs(self) -> list[str]:
        """The subnets of its pods, one per family."""
        return self.spec.podCIDRs or ([self.spec.podCIDR] if self.spec.podCIDR else [])


def managed_by(document: Document) -> str:
    """Return the name of the controller that keeps the slice *document*, "" for a user's own."""
    return str((document["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL, ""))


def refusal(service: Document) -> str:
    """Return why *service* does not get its addresses or ports, "" if it has them."""
    return _false(service, REFUSED)


def pending(service: Document) -> str:
    """Return why *service* waits for a load balancer's address, "" if it does not."""
    return _false(service, UNBALANCED)


def _false(service: Document, sort: str) -> str:
    """Return the message of the condition of this *sort* if it is False, "" otherwise."""
    status = service.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    for condition in conditions if isinstance(conditions, list) else ():
        if not isinstance(condition, dict):  # anybody may write to etcd
            continue
        if condition.get("type") == sort and condition.get("status") == "False":
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
