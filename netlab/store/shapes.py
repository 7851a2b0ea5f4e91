"""What a stored object must look like before anybody acts on it.

Anybody may write to etcd. What netlab itself has written has been through the loader; of anything
else, one malformed object must not stop the controllers, nor a node from serving the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address
from typing import Any

import msgspec

from netlab.model import services
from netlab.model.kubernetes import Document, Meta, Node, Pod, PodSpec, View, view
from netlab.model.workloads import Workload

NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", re.ASCII)  # RFC 1123 subdomain
NAME_MAX = 253  # characters
REPLICAS_MAX = 100_000
PORTS = range(1, 1 << 16)
PROTOCOLS = ("TCP", "UDP", "SCTP")


class _Any(View):
    metadata: Meta


APPS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet")
_VIEWS: dict[tuple[str, str], type[View]] = {
    ("v1", "Pod"): Pod,
    ("v1", "Node"): Node,
    ("v1", "Namespace"): _Any,
    **{("apps/v1", kind): Workload for kind in APPS},
    ("batch/v1", "Job"): Workload,
    ("apps/v1", "ControllerRevision"): _Any,
    ("v1", "Event"): _Any,
}
_SERVED: dict[tuple[str, str], type[View]] = {
    ("v1", "Service"): services.Service,
    ("v1", "Endpoints"): services.Endpoints,
    ("discovery.k8s.io/v1", "EndpointSlice"): services.EndpointSlice,
}


def check(document: Document) -> None:
    """Raise ValueError, KeyError or TypeError if what netlab reads of *document* is not there.

    Kinds that have no effect are not looked at.
    """
    which = document["apiVersion"], document["kind"]
    if which in _SERVED:
        _served(document, _SERVED[which])
    kind = _VIEWS.get(which)
    if kind is None:
        return
    seen = _seen(document, kind)
    metadata = document["metadata"]
    _name(metadata["name"])
    if not metadata["uid"]:
        raise ValueError("it has no uid")
    if isinstance(seen, Pod):
        _name(metadata["namespace"])
        _pod_spec(document["spec"], seen.spec)
        _status(document.get("status", {}))
    elif isinstance(seen, Node):
        _status(document.get("status") or {})
    elif isinstance(seen, Workload):
        _workload(document, seen)


def _workload(document: Document, seen: Workload) -> None:
    _name(document["metadata"]["namespace"])
    _pod_spec(document["spec"]["template"]["spec"], seen.spec.template.spec)
    for field in ("replicas", "parallelism"):
        number = getattr(seen.spec, field)
        if not 0 <= number <= REPLICAS_MAX:
            raise ValueError(f"{field}: {number}")
    _status(document.get("status") or {})


def _seen(document: Document, kind: type[View]) -> View:
    try:
        return view(document, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _served(document: Document, kind: type[View]) -> None:
    seen = _seen(document, kind)
    metadata = document["metadata"]
    _name(metadata["namespace"])
    owner = isinstance(seen, services.Endpoints)
    if isinstance(seen, services.Service):
        owner = bool(seen.spec.selector)
    if owner and not metadata["uid"]:  # its slices name it
        raise ValueError("it has no uid")


def _name(name: str) -> None:
    if len(name) > NAME_MAX or not NAME.fullmatch(name):
        raise ValueError(f"{name[:NAME_MAX]!r} is no name")


def _pod_spec(document: dict[str, Any], spec: PodSpec) -> None:
    if not document["containers"]:
        raise ValueError("it has no containers")
    for container in spec.containers:
        _name(container.name)
        for port in container.ports:
            if port.containerPort not in PORTS or port.protocol not in PROTOCOLS:
                raise ValueError(f"no such port: {port.containerPort}/{port.protocol}")


def _status(status: dict[str, Any]) -> None:
    if status.get("podIP"):
        IPv4Address(status["podIP"])
    for one in status.get("podIPs") or ():
        ip_address(one["ip"])
    _have(status.get("containerStatuses") or (), ("name",))
    _have(status.get("conditions") or (), ("type", "status"))


def _have(items: Iterable[dict[str, Any]], names: tuple[str, ...]) -> None:
    for item in items:
        for name in names:
            if not isinstance(item[name], str):
                raise ValueError(f"{name}: {item[name]!r}")
