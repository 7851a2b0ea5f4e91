"""Endpoints that a user keeps by hand, mirrored into EndpointSlices, which proxies read.

Only those of a Service without a selector. An Endpoints object with the label
`endpointslice.kubernetes.io/skip-mirror: "true"` is left alone.
Source: kube-controller-manager pkg/controller/endpointslicemirroring (v1.34).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import msgspec

from netlab.controllers.change import Change, Verb, by_controller, owned_by
from netlab.controllers.declaration import ANNOTATION, last_declared
from netlab.controllers.slices import Group, Ports, PortsKey, fitted, identity, ports_key
from netlab.model.kubernetes import Document, view
from netlab.model.services import (
    MANAGED_BY_LABEL,
    MIRROR_CONTROLLER,
    SERVICE_NAME_LABEL,
    Endpoints,
    Subset,
    address_type,
    canonical,
    managed_by,
)

ADDRESSES_MAX = 1000  # of one subset: --mirroring-max-endpoints-per-subset
SKIP_LABEL = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"  # annotation: a lock, not endpoints
OWN_ANNOTATIONS = (
    ANNOTATION,
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
)


def mirrored(
    endpoints: Iterable[Document], services: Iterable[Document], slices: Iterable[Document]
) -> list[Change]:
    """Return what must happen to *slices* so that they mirror *endpoints*.

    Of an object that cannot be read the slices stay as they are.
    """
    ours = [
        one for one in slices if managed_by(one) == MIRROR_CONTROLLER and not last_declared(one)
    ]
    held = by_controller(ours)
    manual = {
        (one["metadata"]["namespace"], one["metadata"]["name"])
        for one in services
        if not (one.get("spec") or {}).get("selector")
    }
    changes: list[Change] = []
    for document in endpoints:
        meta = document["metadata"]
        mine = held.pop(meta["uid"], [])
        if (meta["namespace"], meta["name"]) in manual and not _skipped(meta):
            with suppress(msgspec.ValidationError):
                changes += _changes(document, mine)
        else:
            changes += [Change(Verb.DELETE, one) for one in mine]
    return changes


def _skipped(meta: Document) -> bool:
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    return labels.get(SKIP_LABEL) == "true" or LEADER in annotations


def _changes(document: Document, held: Sequence[Document]) -> list[Change]:
    changes: list[Change] = []
    wanted: dict[str, dict[PortsKey, Group]] = {"IPv4": {}, "IPv6": {}}
    for subset in view(document, Endpoints).subsets or ():
        ports = _ports(subset)
        for endpoint in _endpoints(subset):
            groups = wanted[address_type(endpoint["addresses"][0])]
            group = groups.setdefault(ports_key(ports), Group(ports, {}))
            group.endpoints.setdefault(identity(endpoint), endpoint)
    for kind, groups in wanted.items():
        mine = [one for one in held if one.get("addressType") == kind]
        blank = _blank(document, kind)
        changes += fitted(groups, mine, blank=blank, most=ADDRESSES_MAX, placeholder=False)
    return changes


def _blank(document: Document, kind: str) -> Document:
    meta = document["metadata"]
    labels = {SERVICE_NAME_LABEL: meta["name"], MANAGED_BY_LABEL: MIRROR_CONTROLLER}
    annotations = {
        key: value
        for key, value in (meta.get("annotations") or {}).items()
        if key not in OWN_ANNOTATIONS
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "labels": {**(meta.get("labels") or {}), **labels},
            "annotations": annotations,
            "ownerReferences": owned_by(document),
        },
        "addressType": kind,
    }


def _ports(subset: Subset) -> Ports:
    found: Ports = []
    for port in subset.ports or ():
        entry = {"name": port.name, "protocol": port.protocol, "port": port.port}
        found.append(entry | ({"appProtocol": port.appProtocol} if port.appProtocol else {}))
    return found


def _endpoints(subset: Subset) -> Iterator[Document]:
    """Return the first thousand addresses of *subset* as endpoints, those that are ready first."""
    listed = [(one, True) for one in subset.addresses or ()]
    listed += [(one, False) for one in subset.notReadyAddresses or ()]
    right = [(one, ready) for one, ready in listed if canonical(str(one.get("ip", "")))]
    for one, ready in right[:ADDRESSES_MAX]:
        endpoint = {"addresses": [canonical(str(one["ip"]))], "conditions": {"ready": ready}}
        yield endpoint | {
            key: one[key] for key in ("targetRef", "nodeName", "hostname") if one.get(key)
        }
