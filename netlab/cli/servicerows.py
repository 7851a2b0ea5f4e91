"""What kubectl shows of Services and of what stands behind them.

Source: kubernetes pkg/printers/internalversion/printers.go (v1.34): printService,
printEndpointSlice, formatEndpoints, listWithMoreString; kubectl's describe of a Service.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from netlab.model.kubernetes import Document
from netlab.model.services import SERVICE_NAME_LABEL, pending, refusal

if TYPE_CHECKING:
    from netlab.cli.rows import Scene

SHOWN_MAX = 3  # of a list in one cell
UNSET = "<unset>"


def some(texts: Sequence[str]) -> str:
    """Return the first three of *texts*, and how many more there are."""
    more = f" + {len(texts) - SHOWN_MAX} more..." if len(texts) > SHOWN_MAX else ""
    return ",".join(texts[:SHOWN_MAX]) + more


def external(document: Document, scene: Scene) -> str:
    """Return how a Service is reached from outside."""
    spec = document.get("spec") or {}
    kind = spec.get("type", "ClusterIP")
    if kind == "ExternalName":
        return str(spec.get("externalName") or "")
    given = [str(address) for address in spec.get("externalIPs") or ()]
    if kind != "LoadBalancer":
        return ",".join(given)
    status = (document.get("status") or {}).get("loadBalancer") or {}
    named = [one.get("ip") or one.get("hostname") for one in status.get("ingress") or ()]
    balanced = sorted({str(name) for name in named if name})
    return ",".join([*balanced, *given]) or "<pending>"


def selector(document: Document, scene: Scene) -> str:
    pairs = (document.get("spec") or {}).get("selector") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(pairs.items()))


def slice_type(document: Document, scene: Scene) -> str:
    return str(document.get("addressType", ""))


def slice_ports(document: Document, scene: Scene) -> str:
    ports = document.get("ports") or ()
    return some([str(port.get("port") or port.get("name") or "*") for port in ports]) or UNSET


def slice_endpoints(document: Document, scene: Scene) -> str:
    found = [
        str(address)
        for endpoint in document.get("endpoints") or ()
        for address in endpoint.get("addresses") or ()
    ]
    return some(found) or UNSET


def endpoints(document: Document, scene: Scene) -> str:
    """Return the ready addresses of an Endpoints object, each with its ports."""
    return some(
        [
            f"{address.get('ip', '')}:{port['port']}" if port else str(address.get("ip", ""))
            for subset in document.get("subsets") or ()
            for port in subset.get("ports") or [{}]
            for address in subset.get("addresses") or ()
        ]
    )


def slices(service: Document, scene: Scene) -> list[Document]:
    """Return the slices that hold the endpoints of *service*."""
    meta = service["metadata"]
    return [
        one
        for one in scene.documents
        if one["kind"] == "EndpointSlice"
        and one["metadata"].get("namespace") == meta.get("namespace")
        and (one["metadata"].get("labels") or {}).get(SERVICE_NAME_LABEL) == meta["name"]
    ]


def facts(document: Document, scene: Scene) -> list[tuple[str, Any]]:
    """Return what `describe` says of a Service: where it listens, and who answers."""
    spec = document.get("spec") or {}
    held = slices(document, scene)
    found: list[tuple[str, Any]] = [
        ("Selector", selector(document, scene)),
        ("Type", str(spec.get("type", "ClusterIP"))),
        ("IP Family Policy", str(spec.get("ipFamilyPolicy") or "")),
        ("IP Families", ",".join(spec.get("ipFamilies") or ())),
        ("IP", str(spec.get("clusterIP") or "")),
    ]
    if (spec.get("type") or "ClusterIP") != "ClusterIP" or spec.get("externalIPs"):
        found.append(("External", external(document, scene)))
    for port in spec.get("ports") or ():
        found.append((f"Port {port.get('name') or UNSET}", _port_facts(port, held)))
    for title, field in (
        ("Session Affinity", "sessionAffinity"),
        ("Internal Traffic Policy", "internalTrafficPolicy"),
        ("External Traffic Policy", "externalTrafficPolicy"),
        ("Traffic Distribution", "trafficDistribution"),
        ("Health Check NodePort", "healthCheckNodePort"),
    ):
        if spec.get(field):
            found.append((title, str(spec[field])))
    lines = [_line(endpoint) for one in held for endpoint in one.get("endpoints") or ()]
    found.append((f"Endpoints ({len(lines)})", sorted(lines)))
    if why := refusal(document):
        found.append(("Refused", why))
    if why := pending(document):
        found.append(("Pending", why))
    return found


def _port_facts(port: Document, held: Sequence[Document]) -> list[tuple[str, Any]]:
    protocol = port.get("protocol", "TCP")
    found: list[tuple[str, Any]] = [
        ("Port", f"{port.get('port', '')}/{protocol}"),
        ("TargetPort", f"{port.get('targetPort') or port.get('port', '')}/{protocol}"),
    ]
    if port.get("nodePort"):
        found.append(("NodePort", f"{port['nodePort']}/{protocol}"))
    return [*found, ("Endpoints", some(sorted(_served(port.get("name") or "", held))))]


def _served(name: str, held: Sequence[Document]) -> Iterator[str]:
    """Return the ready endpoints of the port called *name*: `10.244.1.2:8080`."""
    for one in held:
        numbers = [p.get("port") for p in one.get("ports") or () if (p.get("name") or "") == name]
        for endpoint in one.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                for address in endpoint.get("addresses") or ():
                    host = f"[{address}]" if ":" in address else address
                    yield from (f"{host}:{number}" for number in numbers)


def _line(endpoint: Document) -> str:
    """Return one endpoint: its address, whose it is, where, and how it is."""
    target = endpoint.get("targetRef") or {}
    conditions = endpoint.get("conditions") or {}
    words = [",".join(endpoint.get("addresses") or ())]
    if target.get("name"):
        words.append(f"{str(target.get('kind', '')).lower()}/{target['name']}")
    if endpoint.get("nodeName"):
        words.append(f"on {endpoint['nodeName']}")
    if endpoint.get("zone"):
        words.append(f"in {endpoint['zone']}")
    if conditions.get("terminating"):
        words.append("terminating" if conditions.get("serving") else "terminating, not serving")
    else:
        words.append("not ready" if conditions.get("ready") is False else "ready")
    return "  ".join(words)
