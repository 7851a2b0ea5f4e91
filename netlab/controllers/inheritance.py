"""What a Service that is declared anew keeps of what it was given: its address, its node ports."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from netlab.model.kubernetes import Document
from netlab.model.services import ServiceSpec, address_type, refusal


def kept(declared: Document, last: Document, stored: Document) -> Document:
    """Return the spec of the Service *declared* with what *stored* was given and still needs.

    *last*: how it was declared before. Of a refused Service only what was chosen for it is kept.
    Node ports are told apart by the names of their ports.
    Source: kubernetes pkg/registry/core/service/storage/storage.go, patchAllocatedValues.
    """
    spec, had = declared.get("spec") or {}, stored.get("spec") or {}
    try:
        new = msgspec.convert(spec, ServiceSpec)
        old = msgspec.convert(had, ServiceSpec)
        before = msgspec.convert(last.get("spec") or {}, ServiceSpec)
    except msgspec.ValidationError:
        return spec
    if not refusal(stored):
        before = ServiceSpec()
    found = {**spec}
    open_end = new.addressed and not new.clusterIP and not new.clusterIPs
    if open_end and old.addressed and old.clusterIP not in ("", before.clusterIP):
        found |= _addresses(new, old)
    open_end = new.health_checked and not new.healthCheckNodePort
    if open_end and old.health_checked and old.healthCheckNodePort != before.healthCheckNodePort:
        found["healthCheckNodePort"] = old.healthCheckNodePort
    if new.node_ports and old.node_ports and new.ports:
        chosen = {port.name: port.nodePort for port in old.ports or ()}
        for port in before.ports or ():
            if port.nodePort and chosen.get(port.name) == port.nodePort:
                del chosen[port.name]
        found["ports"] = _kept_ports(spec["ports"], chosen)
    return found


def _addresses(new: ServiceSpec, old: ServiceSpec) -> Document:
    """Return the addresses of *old* that *new* may keep: one, or one of each family."""
    given = old.clusterIPs or [old.clusterIP]
    if new.ipFamilies and address_type(old.clusterIP) != new.ipFamilies[0]:
        return {}
    both = new.ipFamilyPolicy not in (None, "SingleStack")
    return {"clusterIP": old.clusterIP, "clusterIPs": given if both else given[:1]}


def _kept_ports(ports: Sequence[Document], chosen: dict[str, int]) -> list[Document]:
    used = {port["nodePort"] for port in ports if port.get("nodePort")}
    found: list[Document] = []
    for port in ports:
        number = chosen.get(port.get("name", ""), 0)
        if port.get("nodePort") or not number or number in used:
            found.append(port)
        else:
            found.append({**port, "nodePort": number})
            used.add(number)
    return found
