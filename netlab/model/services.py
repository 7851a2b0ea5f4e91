"""Services, EndpointSlices and Nodes, as far as a service proxy reads them: views.

A list or mapping that Kubernetes leaves out, or writes as null, is empty here.
"""

from __future__ import annotations

import msgspec

from netlab.model.kubernetes import Meta, View

AFFINITY_TIMEOUT = 10800  # seconds; core/v1 DefaultClientIPServiceAffinitySeconds
AFFINITY_TIMEOUTS = range(1, 86401)  # core/v1 MaxClientIPServiceAffinitySeconds; xt_recent has more
SERVICE_NAME_LABEL = "kubernetes.io/service-name"  # on a slice: the Service it belongs to
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"  # another proxy serves it
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"
NO_CLUSTER_IP = "None"  # spec.clusterIP of a headless Service


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
    loadBalancerSourceRanges: list[str] | None = None
    healthCheckNodePort: int = 0
    publishNotReadyAddresses: bool = False
    trafficDistribution: str | None = None
    externalName: str = ""


class LoadBalancerIngress(View):
    ip: str = ""
    hostname: str = ""
    ipMode: str | None = None


class LoadBalancerStatus(View):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(View):
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
        if spec.type == "ExternalName":
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
