"""Services, EndpointSlices and a node, for tests of what a proxy decides."""

from __future__ import annotations

from typing import Any

from netlab import proxy
from netlab.model.kubernetes import view
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.proxy import Decision, DetectLocal, Frontend, Kind, Options
from netlab.proxy.addresses import Family

V4, V6 = Family.IPV4, Family.IPV6
HERE, THERE = "node1", "node2"
CIDR = {"detect_local": DetectLocal.CLUSTER_CIDR, "pod_cidrs": ("10.244.0.0/16",)}
NODE = {
    "metadata": {"name": HERE, "labels": {"topology.kubernetes.io/zone": "a"}},
    "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
    "status": {
        "addresses": [
            {"type": "ExternalIP", "address": "203.0.113.9"},
            {"type": "InternalIP", "address": "192.168.50.11"},
            {"type": "InternalIP", "address": "fd00:50::11"},
        ]
    },
}


def service(name: str = "web", *, ip: str = "10.96.0.1", **spec: Any) -> dict[str, Any]:
    ingress = [{"ip": one} if isinstance(one, str) else one for one in spec.pop("ingress", ())]
    return {
        "metadata": {"name": name, "namespace": "default", "labels": spec.pop("labels", {})},
        "spec": {"clusterIP": ip, "ports": [{"port": 80, "name": "http"}], **spec},
        "status": {"loadBalancer": {"ingress": ingress}},
    }


def endpoint(ip: str, node: str = HERE, *, state: str = "ready", **others: Any) -> dict[str, Any]:
    """Return an endpoint that is ready, unready (but serving), lingering or gone."""
    going = state == "lingering"
    conditions = {"ready": state == "ready", "serving": state != "gone"}
    found = {"addresses": [ip], "conditions": {**conditions, "terminating": going}}
    return {**found, "nodeName": node, **others}


def slice_(*endpoints: Any, of: str = "web", name: str = "web-1", **others: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": of, **others.pop("labels", {})}
    return {
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list(endpoints),
        **others,
    }


def decide(
    services: list[Any], slices: list[Any] | tuple[Any, ...] = (), **options: Any
) -> Decision:
    return proxy.decision(
        [view(one, Service) for one in services],
        [view(one, EndpointSlice) for one in slices],
        view(NODE, ProxyNode),
        Options(**options),
    )


def only(decision: Decision, kind: Kind = Kind.CLUSTER_IP) -> Frontend:
    (found,) = [one for one in decision.frontends if one.kind is kind]
    return found


def texts(endpoints: Any) -> list[str]:
    return [one.text for one in endpoints]


LOCAL = {"type": "NodePort", "externalTrafficPolicy": "Local"}
