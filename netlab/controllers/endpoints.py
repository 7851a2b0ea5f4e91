"""The pods behind each Service, as EndpointSlices.

A Service with a selector has the pods of its namespace that carry the selector's labels, have an
address and have not ended; a named target port is looked up in each pod, so that pods of different
versions may listen on different ports. A Service without a selector is its user's own affair.
Source: k8s.io/endpointslice utils.go and reconciler.go, trafficdist.go (v1.34).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from netlab.controllers.change import Change, Verb, controller, owned_by
from netlab.controllers.declaration import last_declared
from netlab.controllers.slices import Group, Ports, PortsKey, fitted, identity, ports_key
from netlab.model.kubernetes import ENDED, Document, matches, view
from netlab.model.services import (
    EXTERNAL_NAME,
    HEADLESS_LABEL,
    MANAGED_BY_LABEL,
    SERVICE_NAME_LABEL,
    SLICE_CONTROLLER,
    ZONE_LABEL,
    Service,
    ServicePort,
    address_type,
    address_types,
    canonical,
    managed_by,
)

# trafficDistribution: whether the node is hinted at, beside the zone.
CLOSE = {"PreferClose": False, "PreferSameZone": False, "PreferSameNode": True}
# Older ways to ask for hints by the nodes' processors, which are not given here.
HINTS_BY_CPU = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode")
RESERVED_LABELS = (SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL)


def slices(
    services: Iterable[Document],
    pods: Iterable[Document],
    nodes: Iterable[Document],
    slices: Iterable[Document],
) -> list[Change]:
    """Return what must happen to *slices* so that each of *services* has its *pods*.

    Slices of users and of other controllers are left alone, and so are those of a Service that
    lost its selector: they are its user's from then on.
    """
    held: dict[tuple[str, str], list[Document]] = {}
    for document in slices:
        if managed_by(document) == SLICE_CONTROLLER and not last_declared(document):
            meta = document["metadata"]
            held.setdefault((meta["namespace"], meta["labels"].get(SERVICE_NAME_LABEL)), []).append(
                document
            )
    listed = list(services)
    index = _Pods(pods, _selected(listed))
    zones = {
        node["metadata"]["name"]: (node["metadata"].get("labels") or {}).get(ZONE_LABEL, "")
        for node in nodes
    }
    changes: list[Change] = []
    for document in listed:
        try:
            service = view(document, Service)
        except msgspec.ValidationError:
            continue  # its condition tells why: see allocation
        mine = held.get((service.metadata.namespace, service.metadata.name), [])
        if service.spec.type == EXTERNAL_NAME:
            changes += [Change(Verb.DELETE, one) for one in mine]
        elif service.spec.selector:
            changes += _changes(document, service, mine, index, zones)
    return changes


def followed(service: Document) -> bool:
    """Return whether slices of *service* are made, or unmade, here."""
    spec = service.get("spec") or {}
    return bool(spec.get("selector")) or spec.get("type") == EXTERNAL_NAME


def _selected(services: Iterable[Document]) -> set[tuple[str, str]]:
    """Return the labels that occur in selectors, keys and values."""
    selectors = ((one.get("spec") or {}).get("selector") for one in services)
    pairs = (pair for one in selectors if isinstance(one, dict) for pair in one.items())
    return {pair for pair in pairs if isinstance(pair[1], str)}


class _Pods:
    """The pods that may be endpoints, to be found by those of their labels that are selected."""

    def __init__(self, pods: Iterable[Document], labels: set[tuple[str, str]]) -> None:
        self._by_label: dict[tuple[str, str, str], list[Document]] = {}
        for pod in pods:
            meta = pod["metadata"]
            for label in labels.intersection((meta.get("labels") or {}).items()):
                if _reachable(pod):
                    self._by_label.setdefault((meta["namespace"], *label), []).append(pod)

    def selected(self, service: Service) -> list[Document]:
        """Return the pods that *service* selects, in the order they came."""
        selector = service.spec.selector or {}
        namespace = service.metadata.namespace
        found = [self._by_label.get((namespace, *pair), []) for pair in selector.items()]
        fewest = min(found, key=len)
        if len(selector) == 1:
            return fewest
        return [pod for pod in fewest if matches(selector, pod["metadata"]["labels"])]


def _reachable(pod: Document) -> bool:
    status = pod.get("status") or {}
    ended = status.get("phase") in ENDED
    return not ended and bool(status.get("podIP") or status.get("podIPs"))


def _changes(
    document: Document,
    service: Service,
    held: Sequence[Document],
    pods: _Pods,
    zones: dict[str, str],
) -> list[Change]:
    changes: list[Change] = []
    mine: dict[str, list[Document]] = {kind: [] for kind in address_types(service.spec)}
    for one in held:
        reference = controller(one)
        fits = reference is not None and reference.get("uid") == document["metadata"]["uid"]
        if fits and one.get("addressType") in mine:
            mine[one["addressType"]].append(one)
        else:
            changes.append(Change(Verb.DELETE, one))
    selected = pods.selected(service)
    for kind, slices in mine.items():
        groups = _groups(service, selected, kind, zones)
        changes += fitted(groups, slices, blank=_blank(document, service, kind))
    return changes


def _blank(document: Document, service: Service, kind: str) -> Document:
    """Return what every slice of *service* with addresses of *kind* has in common."""
    meta = document["metadata"]
    labels = {
        key: value for key, value in service.metadata.labels.items() if key not in RESERVED_LABELS
    }
    if service.spec.headless:
        labels[HEADLESS_LABEL] = ""
    own = {SERVICE_NAME_LABEL: meta["name"], MANAGED_BY_LABEL: SLICE_CONTROLLER}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "labels": {**labels, **own},
            "ownerReferences": owned_by(document),
        },
        "addressType": kind,
    }


def _groups(
    service: Service, pods: Sequence[Document], kind: str, zones: dict[str, str]
) -> dict[PortsKey, Group]:
    """Return the endpoints of *service* with addresses of *kind*, by the ports they serve."""
    listed = service.spec.ports or ()
    named = any(isinstance(port.targetPort, str) and port.targetPort for port in listed)
    common = [] if named else _ports(listed, {})
    common_key = ports_key(common)
    hints = _hints(service)
    groups: dict[PortsKey, Group] = {}
    for pod in pods:
        endpoint = _endpoint(service, pod, kind, zones, hints)
        if endpoint is None:
            continue
        ports = _ports(listed, pod["spec"]) if named else common
        key = ports_key(ports) if named else common_key
        group = groups.get(key)
        if group is None:
            group = groups[key] = Group(ports, {})
        group.endpoints[identity(endpoint)] = endpoint
    return groups


def _ports(ports: Iterable[ServicePort], pod_spec: Document) -> Ports:
    """Return the ports of a slice; one whose name the pod does not know is left out."""
    found: Ports = []
    for port in ports:
        target = port.targetPort or port.port
        number = _port_named(target, port.protocol, pod_spec) if isinstance(target, str) else target
        if number is not None:
            entry = {"name": port.name, "protocol": port.protocol, "port": number}
            found.append(entry | ({"appProtocol": port.appProtocol} if port.appProtocol else {}))
    return found


def _port_named(name: str, protocol: str, pod_spec: Document) -> int | None:
    for container in _containers(pod_spec):
        for port in container.get("ports") or ():
            if port.get("name") == name and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return None


def _containers(pod_spec: Document) -> Iterator[Document]:
    """Return the containers whose ports count: the ordinary ones, then the sidecars."""
    yield from pod_spec.get("containers") or ()
    for container in pod_spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            yield container


def _hints(service: Service) -> bool | None:
    """Return whether endpoints hint at their node beside their zone; None: no hints at all."""
    annotations = service.metadata.annotations
    asked = next((annotations[key] for key in HINTS_BY_CPU if key in annotations), "")
    if asked in ("Auto", "auto"):
        return None
    return CLOSE.get(service.spec.trafficDistribution or "")


def _endpoint(
    service: Service, pod: Document, kind: str, zones: dict[str, str], hints: bool | None
) -> Document | None:
    """Return *pod* as an endpoint of *service*; None without an address of *kind* or a node."""
    meta, spec, status = pod["metadata"], pod["spec"], pod["status"]
    node = spec.get("nodeName") or ""
    unready = service.spec.publishNotReadyAddresses
    addresses = _addresses(status, kind)
    if not addresses or (node not in zones and not unready):
        return None
    serving = _ready(status)
    terminating = bool(meta.get("deletionTimestamp"))
    ready = unready or (serving and not terminating)
    target = {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"]}
    endpoint: dict[str, Any] = {
        "addresses": addresses,
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {**target, "uid": meta["uid"]},
    }
    zone = zones.get(node, "")
    if node:
        endpoint["nodeName"] = node
    if zone:
        endpoint["zone"] = zone
    if spec.get("hostname") and spec.get("subdomain") == service.metadata.name:
        endpoint["hostname"] = spec["hostname"]
    if hints is not None and ready:
        near = {"forZones": [{"name": zone}]} if zone else {}
        near |= {"forNodes": [{"name": node}]} if hints and node else {}
        if near:
            endpoint["hints"] = near
    return endpoint


def _addresses(status: Document, kind: str) -> list[str]:
    listed = [one.get("ip") or "" for one in status.get("podIPs") or ()] or [status["podIP"]]
    found = (canonical(address) for address in listed)
    return [address for address in found if address and address_type(address) == kind]


def _ready(status: Document) -> bool:
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )
