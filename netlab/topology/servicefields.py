"""The fields of Service, EndpointSlice and Endpoints, complete as of Kubernetes v1.34.

Source: k8s.io/api core/v1/types.go, discovery/v1/types.go; what a value may be:
kubernetes pkg/apis/core/validation, pkg/apis/discovery/validation.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from netlab.controllers.allocation import NODE_PORTS
from netlab.model.services import FAMILIES, NO_CLUSTER_IP, canonical
from netlab.topology import values
from netlab.topology.shapes import ANY_LIST, ANY_MAPPING, LABELS, Each, Fields, Shape

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
POLICIES = ("Cluster", "Local")
AFFINITY_MAX = 86400  # seconds
node_port = values.between(NODE_PORTS.start, NODE_PORTS[-1])


def target_port(value: Any) -> str:
    """Accept a port's number or the name a pod gives it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return values.port(value)
    if isinstance(value, str) and value.isdigit():
        return f'"{value}" is text, so the name of a port (without quotes: {value})'
    return values.port_name(value) if isinstance(value, str) else values.integer(value)


def cluster_ip(value: Any) -> str:
    """Accept an address, None for a headless Service, or nothing for one to be chosen."""
    if value in ("", NO_CLUSTER_IP):
        return ""
    if isinstance(value, str) and ":" in value:
        return values.address6(value)
    wrong = values.address(value)
    return f"{wrong.removesuffix(')')}, or None: headless)" if wrong.endswith(")") else wrong


def external_ip(value: Any) -> str:
    """Accept an address that packets from other machines can have."""
    if wrong := values.string(value):
        return wrong
    try:
        address = ip_address(value)
    except ValueError:
        return f"{value} is not an IP address (such as 192.0.2.10)"
    special = address.is_unspecified or address.is_loopback or address.is_link_local
    if special or address.is_multicast:
        return f"{value} is no address of a machine (neither 0.0.0.0, loopback, link-local, …)"
    return ""


def source_range(value: Any) -> str:
    """Accept a prefix in CIDR notation, with blanks around it, as kube-proxy does."""
    if wrong := values.string(value):
        return wrong
    try:
        ip_network(value.strip(), strict=False)
    except ValueError:
        return f"{value} is not a prefix (such as 203.0.113.0/24)"
    return "" if "/" in value else f"{value} has no prefix length ({value.strip()}/32)"


def balancer_ip(value: Any) -> str:
    """Accept the address of a load balancer, with leading zeros, as Kubernetes does."""
    if wrong := values.string(value):
        return wrong
    return "" if canonical(value) else f"{value} is not an IP address (such as 192.0.2.10)"


def balancer_class(value: Any) -> str:
    """Accept the name of a class of load balancers: `example.org/lb`."""
    return values.string(value) or _qualified(value, "such as netlab.io/balancer")


def app_protocol(value: Any) -> str:
    """Accept the name of what is spoken at a port: `http`, `kubernetes.io/h2c`."""
    return values.string(value) or _qualified(value, "such as http, or kubernetes.io/h2c")


def _qualified(value: str, example: str) -> str:
    wrong = values.label_key(value).partition(" (")[0].replace("label key", "qualified name")
    return f"{value} {wrong} (name, or domain/name, {example})" if wrong else ""


def balancer_name(value: Any) -> str:
    """Accept the DNS name of a load balancer."""
    if isinstance(value, str) and canonical(value):
        return f"{value} is an IP address (ip: {value})"
    return values.subdomain(value)


def endpoint_ip(value: Any) -> str:
    """Accept an address, with leading zeros, as Kubernetes does."""
    if wrong := values.string(value):
        return wrong
    address = canonical(value.strip())
    if not address:
        return f"{value} is not an IP address (such as 10.244.1.2)"
    return external_ip(address)


_SERVICE_PORT = Fields(
    {
        "name": values.label,
        "port": values.port,
        "protocol": values.one_of(values.PROTOCOLS),
        "targetPort": target_port,
        "nodePort": node_port,
        "appProtocol": app_protocol,
    },
    required=("port",),
)
_AFFINITY = Fields({"clientIP": Fields({"timeoutSeconds": values.between(1, AFFINITY_MAX)})})

SERVICE_SPEC = Fields(
    {
        "type": values.one_of(TYPES),
        "selector": LABELS,
        "ports": Each(_SERVICE_PORT),
        "clusterIP": cluster_ip,
        "clusterIPs": Each(cluster_ip),
        "externalIPs": Each(external_ip),
        "externalName": values.string,
        "externalTrafficPolicy": values.one_of(POLICIES),
        "internalTrafficPolicy": values.one_of(POLICIES),
        "ipFamilies": Each(values.one_of(FAMILIES)),
        "ipFamilyPolicy": values.one_of(("SingleStack", "PreferDualStack", "RequireDualStack")),
        "allocateLoadBalancerNodePorts": values.boolean,
        "healthCheckNodePort": node_port,
        "loadBalancerClass": balancer_class,
        "loadBalancerIP": values.string,
        "loadBalancerSourceRanges": Each(source_range),
        "publishNotReadyAddresses": values.boolean,
        "sessionAffinity": values.one_of(("None", "ClientIP")),
        "sessionAffinityConfig": _AFFINITY,
        "trafficDistribution": values.one_of(("PreferSameZone", "PreferSameNode", "PreferClose")),
    }
)

# Of status.loadBalancer, which a file may give: a lab has no cloud that would.
LOAD_BALANCER = Fields(
    {
        "ingress": Each(
            Fields(
                {
                    "ip": balancer_ip,
                    "hostname": balancer_name,
                    "ipMode": values.one_of(("VIP", "Proxy")),
                    "ports": ANY_LIST,
                }
            )
        )
    }
)

_ENDPOINT_PORT: dict[str, Shape] = {
    "name": values.string,
    "port": values.port,
    "protocol": values.one_of(values.PROTOCOLS),
    "appProtocol": values.string,
}
_NAMED = Each(Fields({"name": values.string}, required=("name",)))
_CONDITIONS = Fields(dict.fromkeys(("ready", "serving", "terminating"), values.boolean))

SLICE: dict[str, Shape] = {
    "addressType": values.one_of((*FAMILIES, "FQDN")),
    "endpoints": Each(
        Fields(
            {
                "addresses": Each(values.string, least=1),
                "conditions": _CONDITIONS,
                "hostname": values.label,
                "nodeName": values.string,
                "zone": values.string,
                "targetRef": ANY_MAPPING,
                "hints": Fields({"forZones": _NAMED, "forNodes": _NAMED}),
                "deprecatedTopology": LABELS,
            },
            required=("addresses",),
        )
    ),
    "ports": Each(Fields(_ENDPOINT_PORT)),
}

_ADDRESSES = Each(
    Fields(
        {
            "ip": endpoint_ip,
            "hostname": values.label,
            "nodeName": values.string,
            "targetRef": ANY_MAPPING,
        },
        required=("ip",),
    )
)
ENDPOINTS: dict[str, Shape] = {
    "subsets": Each(
        Fields(
            {
                "addresses": _ADDRESSES,
                "notReadyAddresses": _ADDRESSES,
                "ports": Each(Fields(_ENDPOINT_PORT, required=("port",))),
            }
        )
    )
}
