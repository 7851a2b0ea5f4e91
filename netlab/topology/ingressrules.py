"""What must agree within one Ingress, Secret or Gateway API object.

Tolerates values of the wrong form: those are already noted.
Source: kubernetes pkg/apis/networking/validation/validation.go, pkg/apis/core/validation
ValidateSecret (v1.30); the rules in Gateway API's definitions (v1.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netlab.topology.labrules import Say, items
from netlab.topology.podrules import mapping
from netlab.topology.tree import Path

CLASS_ANNOTATION = "kubernetes.io/ingress.class"
TLS_KEYS = ("tls.crt", "tls.key")
PATH_MAX = 1024  # bytes; the Gateway API's bound, and well below nginx's own of a word
_INNER = ("//", "/./", "/../", "%2f", "%2F")
_ENDS = ("/..", "/.")


def check(document: dict[str, Any], say: Say) -> None:
    """Say everything in which *document* contradicts itself."""
    _CHECKS[document["kind"]](document, say)


def _check_ingress(document: dict[str, Any], say: Say) -> None:
    spec = mapping(document, "spec")
    if not spec.get("rules") and not spec.get("defaultBackend"):
        say(("spec",), "has neither rules nor defaultBackend (one of them)")
    annotations = mapping(document, "metadata", "annotations")
    if CLASS_ANNOTATION in annotations and spec.get("ingressClassName"):
        path: Path = ("metadata", "annotations", CLASS_ANNOTATION)
        say(path, "is there beside spec.ingressClassName (leave the annotation out)")
    if isinstance(spec.get("defaultBackend"), dict):
        _check_backend(spec["defaultBackend"], ("spec", "defaultBackend"), say)
    for index, rule in items(spec.get("rules")):
        for number, entry in items(mapping(rule, "http").get("paths")):
            here: Path = ("spec", "rules", index, "http", "paths", number)
            kind = entry.get("pathType")
            _check_path(entry.get("path"), kind, (*here, "path"), say)
            if isinstance(entry.get("backend"), dict):
                _check_backend(entry["backend"], (*here, "backend"), say)


def _check_path(value: Any, kind: Any, path: Path, say: Say) -> None:
    exact = kind in ("Exact", "Prefix")
    if value in (None, ""):
        if exact:
            say(path, f"is missing (pathType {kind} needs one, such as /)")
        return
    if not isinstance(value, str):
        return
    if not value.startswith("/"):
        say(path, f"{value} is not an absolute path (/{value})")
    elif len(value.encode()) > PATH_MAX:
        say(path, f"is {len(value.encode())} bytes long (at most {PATH_MAX})")
    elif exact:
        found = [one for one in _INNER if one in value]
        found += [one for one in _ENDS if value.endswith(one)]
        if found:
            say(path, f"{value} has {found[0]} in it (a plain path: no request matches this)")


def _check_backend(backend: dict[str, Any], path: Path, say: Say) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is None and resource is None:
        say(path, "has neither service nor resource (a service)")
    if service is not None and resource is not None:
        say(path, "has both service and resource (one of them)")
    if isinstance(service, dict) and isinstance(service.get("port"), dict):
        given = [name for name in ("name", "number") if service["port"].get(name)]
        if len(given) != 1:
            what = "both name and number" if given else "neither name nor number"
            say((*path, "service", "port"), f"has {what} (one of them)")


def _check_secret(document: dict[str, Any], say: Say) -> None:
    if document.get("type") != "kubernetes.io/tls":
        return
    for key in TLS_KEYS:
        if key not in mapping(document, "data") and key not in mapping(document, "stringData"):
            say(("data", key), "is missing (type kubernetes.io/tls has tls.crt and tls.key)")


def _check_gateway(document: dict[str, Any], say: Say) -> None:
    names: dict[str, int] = {}
    for index, listener in items(mapping(document, "spec").get("listeners")):
        name, protocol = listener.get("name"), listener.get("protocol")
        path: Path = ("spec", "listeners", index)
        if isinstance(name, str) and names.setdefault(name, index) != index:
            say((*path, "name"), f"{name} is also listeners[{names[name]}] (another name)")
        tls = listener.get("tls")
        if tls is not None and protocol in ("HTTP", "TCP", "UDP"):
            say((*path, "tls"), f"has no meaning with protocol {protocol} (HTTPS)")
        terminates = isinstance(tls, dict) and tls.get("mode", "Terminate") == "Terminate"
        if protocol == "HTTPS" and not terminates:
            text = "is missing" if tls is None else "does not end TLS here"
            say((*path, "tls"), f"{text} (mode: Terminate, with certificateRefs)")
        elif terminates and not mapping(listener, "tls").get("certificateRefs"):
            say((*path, "tls", "certificateRefs"), "is missing (a Secret of that type)")


def _check_http_route(document: dict[str, Any], say: Say) -> None:
    for index, rule in items(mapping(document, "spec").get("rules")):
        here: Path = ("spec", "rules", index)
        for number, match in items(rule.get("matches")):
            given = mapping(match, "path")
            if given.get("type", "PathPrefix") != "RegularExpression" and "value" in given:
                kind = "Prefix" if given.get("type", "PathPrefix") == "PathPrefix" else "Exact"
                _check_path(given["value"], kind, (*here, "matches", number, "path", "value"), say)
        for number, backend in items(rule.get("backendRefs")):
            plain = (backend.get("group") or "", backend.get("kind", "Service")) == ("", "Service")
            if plain and backend.get("port") is None:
                text = "is missing (a backend that is a Service needs its port's number)"
                say((*here, "backendRefs", number, "port"), text)


_CHECKS: dict[str, Callable[[dict[str, Any], Say], None]] = {
    "Ingress": _check_ingress,
    "Secret": _check_secret,
    "Gateway": _check_gateway,
    "HTTPRoute": _check_http_route,
}
KINDS = tuple(_CHECKS)
