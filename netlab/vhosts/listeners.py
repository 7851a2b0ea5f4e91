"""The listeners of a Gateway: which can be, whom they let in, for which host names.

Source: Gateway API v1, Listener, AllowedRoutes, ReferenceGrant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import LabelSelector, selects, view
from netlab.vhosts import certificates
from netlab.vhosts.documents import (
    GATEWAY_GROUP,
    Gateway,
    HTTPRoute,
    Listener,
    Reference,
    ReferenceGrant,
)
from netlab.vhosts.model import HTTP, HTTPS, Settings, covers

ROUTE = "HTTPRoute"


class Verdict(msgspec.Struct, frozen=True):
    """A condition's status: true without a `problem`, which is its reason then."""

    problem: str = ""
    message: str = ""


FINE = Verdict()


class Open(msgspec.Struct, frozen=True):
    """A listener, judged. *secret*: namespace/name of its certificate, "" over HTTP."""

    gateway: Gateway
    listener: Listener
    scheme: str = ""
    secret: str = ""
    accepted: Verdict = FINE
    resolved: Verdict = FINE

    @property
    def serves(self) -> bool:
        return not self.accepted.problem and not self.resolved.problem

    def allows(self, route: HTTPRoute, objects: Inventory) -> bool:
        """Return whether *route* may be attached: by its kind and its namespace."""
        kinds = self.listener.allowedRoutes.kinds
        if kinds and not any(_is_http_route(kind) for kind in kinds):
            return False
        given = self.listener.allowedRoutes.namespaces or {}
        own = self.gateway.metadata.namespace
        match given.get("from", "Same"):
            case "All":
                return True
            case "Selector":
                space = objects.get(f"/registry/namespaces/{route.metadata.namespace}") or {}
                labels = (space.get("metadata") or {}).get("labels") or {}
                selector = msgspec.convert(given.get("selector") or {}, LabelSelector)
                return selects(selector, labels)
        return route.metadata.namespace == own

    def hostnames(self, wanted: list[str] | None) -> list[str]:
        """Return what a route with the host names *wanted* (none: any) serves here; "": any."""
        own = self.listener.hostname
        if not own or not wanted:
            return wanted or [own]
        found = []
        for name in wanted:
            if covers(own, name, deep=True):
                found.append(name)
            elif covers(name, own, deep=True):
                found.append(own)
        return list(dict.fromkeys(found))


def _is_http_route(kind: dict[str, Any]) -> bool:
    return kind.get("kind") == ROUTE and kind.get("group", GATEWAY_GROUP) == GATEWAY_GROUP


def judged(gateway: Gateway, objects: Inventory, settings: Settings) -> Iterator[Open]:
    """Yield the listeners of *gateway*."""
    seen: set[tuple[int, str]] = set()
    for listener in gateway.spec.listeners:
        here = (listener.port, listener.hostname)
        scheme, accepted = _accepted(listener, settings)
        if here in seen:
            accepted = Verdict("HostnameConflict", "another listener has this port and host name")
        seen.add(here)
        secret, resolved = "", FINE
        if scheme == HTTPS and not accepted.problem:
            secret, resolved = _certificate(gateway, listener, objects)
        yield Open(gateway, listener, scheme, secret, accepted, resolved)


def _accepted(listener: Listener, settings: Settings) -> tuple[str, Verdict]:
    ports = {"HTTP": (HTTP, settings.http_port), "HTTPS": (HTTPS, settings.https_port)}
    if listener.protocol not in ports:
        text = f"protocol {listener.protocol} is not served here (HTTP, HTTPS)"
        return "", Verdict("UnsupportedProtocol", text)
    scheme, port = ports[listener.protocol]
    if listener.port != port:
        text = f"{listener.protocol} is served on port {port} only, not on {listener.port}"
        return scheme, Verdict("PortUnavailable", text)
    return scheme, FINE


def _certificate(gateway: Gateway, listener: Listener, objects: Inventory) -> tuple[str, Verdict]:
    tls = listener.tls
    if tls is not None and tls.mode != "Terminate":
        return "", Verdict("InvalidCertificateRef", f"tls.mode {tls.mode} is not served here")
    references = (tls.certificateRefs if tls else None) or []
    if not references:
        return "", Verdict("InvalidCertificateRef", "tls.certificateRefs is empty")
    reference, own = references[0], gateway.metadata.namespace
    if (reference.group or "", reference.kind or "Secret") != ("", "Secret"):
        return "", Verdict("InvalidCertificateRef", f"{reference.kind} is no Secret")
    if not permitted(objects, "Gateway", own, reference, "Secret"):
        text = f"no ReferenceGrant lets namespace {own} use {_name(reference, own)}"
        return "", Verdict("RefNotPermitted", text)
    secret = _name(reference, own)
    try:
        certificates.pair(objects, secret)
    except certificates.Unusable as error:
        return "", Verdict("InvalidCertificateRef", str(error))
    return secret, FINE


def _name(reference: Reference, namespace: str) -> str:
    return f"{reference.namespace or namespace}/{reference.name}"


def permitted(
    objects: Inventory, kind: str, namespace: str, reference: Reference, target: str
) -> bool:
    """Return whether an object of *kind* in *namespace* may refer to a *target*, of group ""."""
    if reference.namespace in (None, namespace):
        return True
    wanted = (GATEWAY_GROUP, kind, namespace)
    return any(
        grant.metadata.namespace == reference.namespace
        and any((one.group, one.kind, one.namespace) == wanted for one in grant.spec.sources)
        and any(
            (one.group, one.kind) == ("", target) and one.name in (None, "", reference.name)
            for one in grant.spec.targets
        )
        for grant in _granted(objects)
    )


def _granted(objects: Inventory) -> Iterator[ReferenceGrant]:
    for document in objects.of("ReferenceGrant"):
        try:
            yield view(document, ReferenceGrant)
        except msgspec.ValidationError:
            continue
