"""Services and EndpointSlices into the endpoints of a backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, view
from netlab.model.services import (
    EXTERNAL_NAME,
    SERVICE_NAME_LABEL,
    EndpointSlice,
    Service,
    ServicePort,
)
from netlab.vhosts.model import Port

Endpoint = tuple[str, int]  # address and port


def _service(objects: Inventory, port: Port) -> Service | None:
    document = objects.named("Service", port.namespace, port.service)
    try:
        return None if document is None else view(document, Service)
    except msgspec.ValidationError:
        return None


def _named(service: Service, port: str | int) -> ServicePort | None:
    """Return the port of *service* that has that number or name."""
    listed = service.spec.ports or ()
    key = "port" if isinstance(port, int) else "name"
    return next((one for one in listed if getattr(one, key) == port), None)


def missing(objects: Inventory, port: Port) -> str:
    """Return what *port* names that is not there; "" if all is."""
    service = _service(objects, port)
    if service is None:
        return f"no Service {port.namespace}/{port.service}"
    if service.spec.type == EXTERNAL_NAME:
        return f"Service {port.namespace}/{port.service} is an ExternalName, which has no endpoints"
    if _named(service, port.port) is None:
        return f"Service {port.namespace}/{port.service} has no port {port.port}"
    return ""


def endpoints(objects: Inventory, ports: Mapping[str, Port]) -> dict[str, tuple[Endpoint, ...]]:
    """Return the endpoints of each backend of *ports*, by name.

    Those that are ready; where none is, those that still serve while they end, as kube-proxy does:
    better than nobody.
    """
    slices = _slices(objects, {(port.namespace, port.service) for port in ports.values()})
    found = {}
    for name, port in ports.items():
        service = _service(objects, port)
        entry = _named(service, port.port) if service else None
        listed = slices.get((port.namespace, port.service), []) if entry else []
        found[name] = _of(listed, entry.name if entry else "")
    return found


def _slices(
    objects: Inventory, wanted: set[tuple[str, str]]
) -> dict[tuple[str, str], list[EndpointSlice]]:
    found: dict[tuple[str, str], list[EndpointSlice]] = {}
    for document in objects.of("EndpointSlice"):
        meta = document["metadata"]
        key = (meta.get("namespace", ""), (meta.get("labels") or {}).get(SERVICE_NAME_LABEL, ""))
        if key in wanted and document.get("addressType") == "IPv4":
            found.setdefault(key, []).extend(_read(document))
    return found


def _read(document: Document) -> Iterable[EndpointSlice]:
    try:
        yield view(document, EndpointSlice)
    except msgspec.ValidationError:
        return


def _of(slices: Iterable[EndpointSlice], port: str) -> tuple[Endpoint, ...]:
    ready: set[Endpoint] = set()
    ending: set[Endpoint] = set()
    for one in slices:
        numbers = [each.port for each in one.ports or () if (each.name or "") == port and each.port]
        for endpoint in one.endpoints or ():
            state = endpoint.conditions
            for address in (endpoint.addresses or ())[:1]:
                here = {(address, number) for number in numbers if number}
                if state is None or state.ready is not False:
                    ready |= here
                elif state.serving and state.terminating:
                    ending |= here
    return tuple(sorted(ready or ending))
