"""What must agree within one Service, EndpointSlice or Endpoints.

Tolerates values of the wrong form: those are already noted.
Source: kubernetes pkg/apis/core/validation/validation.go, ValidateService (v1.34).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netlab.model.services import EXTERNAL_NAME, EXTERNAL_TYPES, NO_CLUSTER_IP, address_type
from netlab.topology import values
from netlab.topology.labrules import Say, items
from netlab.topology.podrules import DEFAULT_PROTOCOL, mapping
from netlab.topology.servicefields import endpoint_ip
from netlab.topology.tree import Path

KUBELET_PORT = 10250  # some clouds open it on the nodes as well: ports.KubeletPort
LOAD_BALANCER_ONLY = (
    *("allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges"),
)


def check(document: dict[str, Any], say: Say) -> None:
    """Say everything in which *document* contradicts itself."""
    if document["kind"] == "Service":
        _check_service(mapping(document, "spec"), say)
        for index, one in items(mapping(status(document), "loadBalancer").get("ingress")):
            if one.get("ipMode") and not one.get("ip"):
                path: Path = ("status", "loadBalancer", "ingress", index, "ipMode")
                say(path, "is there without ip (which it is about)")
    elif document["kind"] == "EndpointSlice":
        _check_slice(document, say)
    elif document["kind"] == "Endpoints":
        for index, subset in items(document.get("subsets")):
            _check_ports(subset.get("ports"), ("subsets", index, "ports"), say)


def status(document: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of the status of *document*: what a load balancer would give a Service.

    Empty for other kinds and types. Source: ValidateLoadBalancerStatus of the same file.
    """
    if document["kind"] != "Service" or mapping(document, "spec").get("type") != "LoadBalancer":
        return {}
    given = mapping(document, "status").get("loadBalancer")
    return {"loadBalancer": given} if given else {}


def _check_service(spec: dict[str, Any], say: Say) -> None:
    kind = spec.get("type", "ClusterIP")
    _check_type(spec, kind, say)
    if kind == EXTERNAL_NAME:
        _check_external_name(spec, say)
    else:
        _check_cluster_ips(spec, kind, say)
        _check_families(spec, say)
    _check_ports(spec.get("ports"), ("spec", "ports"), say)
    _check_node_ports(spec, kind, say)


def _check_type(spec: dict[str, Any], kind: str, say: Say) -> None:
    """Check the fields that only some types have."""
    outside = kind in EXTERNAL_TYPES or (kind == "ClusterIP" and bool(spec.get("externalIPs")))
    if "externalTrafficPolicy" in spec and not outside:
        text = f"has no meaning for a Service of type {kind} (type NodePort or LoadBalancer)"
        say(("spec", "externalTrafficPolicy"), text)
    for field in LOAD_BALANCER_ONLY:
        if field in spec and kind != "LoadBalancer":
            say(("spec", field), f"has no meaning for type {kind} (type: LoadBalancer)")
    local = kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"
    for index, port in items(spec.get("ports")) if kind == "LoadBalancer" else ():
        if port.get("port") == KUBELET_PORT:
            text = f"{KUBELET_PORT} is the kubelet's, which no load balancer may expose (another)"
            say(("spec", "ports", index, "port"), text)
    if spec.get("healthCheckNodePort") and not local:
        text = "needs type: LoadBalancer and externalTrafficPolicy: Local (leave it out)"
        say(("spec", "healthCheckNodePort"), text)


def _check_external_name(spec: dict[str, Any], say: Say) -> None:
    name = spec.get("externalName")
    if not name:
        say(("spec", "externalName"), "is missing (the DNS name that type ExternalName stands for)")
    elif isinstance(name, str) and (wrong := values.subdomain(name.removesuffix("."))):
        say(("spec", "externalName"), wrong)
    for field in ("clusterIP", "clusterIPs"):
        if spec.get(field):
            say(("spec", field), f"a Service of type {EXTERNAL_NAME} has none (leave it out)")


def _check_cluster_ips(spec: dict[str, Any], kind: str, say: Say) -> None:
    single, several = spec.get("clusterIP") or "", spec.get("clusterIPs")
    if single == NO_CLUSTER_IP and kind != "ClusterIP":
        say(("spec", "clusterIP"), f"a Service of type {kind} needs one (not None)")
    if not spec.get("ports") and single != NO_CLUSTER_IP:
        say(("spec", "ports"), "is missing (at least one port; a headless Service needs none)")
    if not isinstance(several, list) or not several or not isinstance(single, str):
        return
    if not single:
        say(("spec", "clusterIP"), f"is missing (the first of clusterIPs: {several[0]})")
    elif several[0] != single:
        say(("spec", "clusterIPs", 0), f"{several[0]} is not clusterIP (which is {single})")
    families = spec.get("ipFamilies")
    listed = families if isinstance(families, list) else []
    known = [address_type(str(one)) for one in several[:2]]
    if len(several) > 2:
        say(("spec", "clusterIPs", 2), "a third address (one of each family)")
    elif len(known) > 1 and known[0] == known[1]:
        say(("spec", "clusterIPs", 1), f"{several[1]} is {known[1]}, as the first is (the other)")
    elif len(known) > 1 and spec.get("ipFamilyPolicy", "SingleStack") == "SingleStack":
        text = "a second address needs ipFamilyPolicy PreferDualStack or RequireDualStack"
        say(("spec", "clusterIPs", 1), f"{text} (or leave it out)")
    for index, (given, family) in enumerate(zip(known, listed, strict=False)):
        if given != family and several[index] not in ("", NO_CLUSTER_IP):
            text = f"{several[index]} is {given}, but ipFamilies[{index}] {family} (one of these)"
            say(("spec", "clusterIPs", index), text)


def _check_families(spec: dict[str, Any], say: Say) -> None:
    families = spec.get("ipFamilies")
    listed = families if isinstance(families, list) else []
    for index, family in enumerate(listed):
        if family in listed[:index]:
            say(("spec", "ipFamilies", index), f"{family} is given twice (each once)")
    if len(listed) > 1 and spec.get("ipFamilyPolicy") == "SingleStack":
        say(("spec", "ipFamilies"), "has several, but ipFamilyPolicy is SingleStack (one family)")


def _check_ports(ports: Any, path: Path, say: Say) -> None:
    """Check that several ports have names, and that no name and no number comes twice."""
    several = isinstance(ports, list) and len(ports) > 1
    names: dict[str, int] = {}
    numbers: dict[tuple[int, str], int] = {}
    for index, port in items(ports):
        name = port.get("name")
        if several and not name:
            say((*path, index, "name"), "is missing (several ports are told apart by their names)")
        elif isinstance(name, str) and names.setdefault(name, index) != index:
            text = f"{name} is also the name of ports[{names[name]}] (another name)"
            say((*path, index, "name"), text)
        number, protocol = port.get("port"), str(port.get("protocol", DEFAULT_PROTOCOL))
        if isinstance(number, int) and numbers.setdefault((number, protocol), index) != index:
            text = f"{number}/{protocol} is also ports[{numbers[number, protocol]}]"
            say((*path, index, "port"), f"{text} (another port or protocol)")


def _check_node_ports(spec: dict[str, Any], kind: str, say: Say) -> None:
    seen: dict[tuple[int, str], int] = {}
    for index, port in items(spec.get("ports")):
        number = port.get("nodePort")
        if not number or not isinstance(number, int):
            continue
        path: Path = ("spec", "ports", index, "nodePort")
        if kind not in EXTERNAL_TYPES:
            say(path, f"a Service of type {kind} has none (type: NodePort)")
        first = seen.setdefault((number, str(port.get("protocol", DEFAULT_PROTOCOL))), index)
        if first != index:
            say(path, f"{number} is also the nodePort of ports[{first}] (another one)")
        if number == spec.get("healthCheckNodePort"):
            say(path, f"{number} is also healthCheckNodePort (another one)")


def _check_slice(document: dict[str, Any], say: Say) -> None:
    kind = document.get("addressType")
    if kind in ("IPv4", "IPv6"):
        for index, endpoint in items(document.get("endpoints")):
            listed = endpoint.get("addresses")
            path: Path = ("endpoints", index, "addresses")
            _check_addresses(listed if isinstance(listed, list) else [], kind, path, say)
    names: dict[str, int] = {}
    for index, port in items(document.get("ports")):
        name = port.get("name") or ""
        if isinstance(name, str) and names.setdefault(name, index) != index:
            text = f"{name or 'no name'} is also ports[{names[name]}]'s (another name)"
            say(("ports", index, "name"), text)


def _check_addresses(addresses: Sequence[Any], kind: str, path: Path, say: Say) -> None:
    for index, address in enumerate(addresses):
        if not isinstance(address, str):
            continue
        if wrong := endpoint_ip(address):
            say((*path, index), wrong)
        elif address_type(address) != kind:
            say((*path, index), f"{address} is not {kind}, the addressType of the slice")
