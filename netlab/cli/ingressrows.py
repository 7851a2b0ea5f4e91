"""What kubectl shows of Ingresses, their classes, Secrets, and the Gateway API's objects.

Source: kubernetes pkg/printers/internalversion/printers.go (v1.34): printIngress, formatHosts,
ingressLoadBalancerStatusStringer, printIngressClass, printSecret; kubectl's describe of an Ingress;
Gateway API's additionalPrinterColumns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from netlab.cli.servicerows import some
from netlab.model.kubernetes import Document
from netlab.vhosts import backends
from netlab.vhosts.model import Port

if TYPE_CHECKING:
    from netlab.cli.rows import Cell, Scene

ADDRESS_MAX = 16  # characters, unless wide
UNKNOWN = "Unknown"


def ingress_class(document: Document, scene: Scene) -> str:
    spec = document.get("spec") or {}
    annotations = document["metadata"].get("annotations") or {}
    return str(
        spec.get("ingressClassName") or annotations.get("kubernetes.io/ingress.class") or "<none>"
    )


def hosts(document: Document, scene: Scene) -> str:
    rules = (document.get("spec") or {}).get("rules") or ()
    return some([str(rule["host"]) for rule in rules if rule.get("host")]) or "*"


def address(document: Document, scene: Scene) -> str:
    whole = full_address(document, scene)
    return whole if len(whole) <= ADDRESS_MAX else f"{whole[: ADDRESS_MAX - 3]}..."


def full_address(document: Document, scene: Scene) -> str:
    status = (document.get("status") or {}).get("loadBalancer") or {}
    found = {str(one.get("ip") or one.get("hostname")) for one in status.get("ingress") or ()}
    return ",".join(sorted(found))


def ports(document: Document, scene: Scene) -> str:
    return "80, 443" if (document.get("spec") or {}).get("tls") else "80"


def parameters(document: Document, scene: Scene) -> str:
    given = (document.get("spec") or {}).get("parameters")
    if not given:
        return "<none>"
    group = f".{given['apiGroup']}" if given.get("apiGroup") else ""
    return f"{given.get('kind', '')}{group}/{given.get('name', '')}"


def secret_type(document: Document, scene: Scene) -> str:
    return str(document.get("type") or "Opaque")


def secret_data(document: Document, scene: Scene) -> str:
    return str(len({*(document.get("data") or {}), *(document.get("stringData") or {})}))


def gateway_address(document: Document, scene: Scene) -> str:
    status = document.get("status") or {}
    return ",".join(str(one.get("value", "")) for one in status.get("addresses") or ())


def condition(kind: str) -> Cell:
    """Return the cell that shows the status of a condition."""

    def cell(document: Document, scene: Scene) -> str:
        listed = (document.get("status") or {}).get("conditions") or ()
        found = (str(one.get("status")) for one in listed if one.get("type") == kind)
        return next(found, UNKNOWN)

    return cell


def hostnames(document: Document, scene: Scene) -> str:
    names = (document.get("spec") or {}).get("hostnames") or ()
    return "[" + ",".join(f'"{name}"' for name in names) + "]" if names else ""


def facts(document: Document, scene: Scene) -> list[tuple[str, Any]]:
    """Return what `describe` says of an Ingress: who answers for which host and path."""
    spec = document.get("spec") or {}
    default = spec.get("defaultBackend")
    tls = [
        f"{one.get('secretName') or 'SNI routes'} terminates {','.join(one.get('hosts') or ())}"
        for one in spec.get("tls") or ()
    ]
    return [
        ("Address", full_address(document, scene)),
        ("Ingress Class", ingress_class(document, scene)),
        ("Default backend", _backend(default, document, scene) if default else "<default>"),
        ("TLS", tls),
        ("Rules", list(_rules(document, scene))),
        (
            "Annotations",
            [
                f"{name}: {value}"
                for name, value in (document["metadata"].get("annotations") or {}).items()
                if not name.startswith("netlab.io/")
            ],
        ),
    ]


def _rules(document: Document, scene: Scene) -> Iterator[str]:
    rows = [("Host", "Path", "Backends"), ("----", "----", "--------")]
    for rule in (document.get("spec") or {}).get("rules") or ():
        rows.append((str(rule.get("host") or "*"), "", ""))
        for path in (rule.get("http") or {}).get("paths") or ():
            rows.append(
                ("", str(path.get("path") or "/"), _backend(path["backend"], document, scene))
            )
    widths = [max(len(row[at]) for row in rows) for at in (0, 1)]
    for host, path, backend in rows:
        yield f"{host:{widths[0]}}  {path:{widths[1]}}  {backend}".rstrip()


def _backend(backend: Document, document: Document, scene: Scene) -> str:
    service = backend.get("service")
    if not service:
        resource = backend.get("resource") or {}
        return f"{resource.get('kind', '')}/{resource.get('name', '')} (a resource: not served)"
    given = service.get("port") or {}
    number = given.get("number") or given.get("name") or ""
    port = Port(document["metadata"].get("namespace", ""), service["name"], number)
    objects = scene.cluster.documents
    wrong = backends.missing(objects, port)
    if wrong:
        return f"{service['name']}:{number} (<error: {wrong}>)"
    ends = backends.endpoints(objects, {port.name: port})[port.name]
    return f"{service['name']}:{number} ({some([f'{ip}:{at}' for ip, at in ends])})"
