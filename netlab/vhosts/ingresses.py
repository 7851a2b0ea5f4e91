"""Ingresses into routes.

Whose an Ingress is, is told by its class: the IngressClass it names has a controller, and that is
ours; or, older, an annotation. Others are not our business, so nothing is said of them, but for
those of a class that is not there: nobody else could say it.
Source: ingress-nginx internal/ingress/controller/store (IngressClass), controller.go
(getBackendServers, createServers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import unquote

import msgspec

from netlab.controllers.ingressclass import OLD_CLASS
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, view
from netlab.vhosts import backends, switches
from netlab.vhosts.documents import (
    TLS,
    Backend,
    HTTPPath,
    Ingress,
    IngressClass,
    Rule,
)
from netlab.vhosts.gathering import Gathering, age, title
from netlab.vhosts.model import Match, Port, Route, Settings, Target, covers


def gather(objects: Inventory, settings: Settings, gathering: Gathering) -> list[Document]:
    """Have every Ingress of ours in *gathering*; return those that are served."""
    taken = []
    classes = _classes(objects, settings)
    for document in sorted(objects.of("Ingress"), key=age):
        try:
            ingress = view(document, Ingress)
        except msgspec.ValidationError as error:
            gathering.say(document, "Rejected", f"cannot be read: {error}")
            continue
        if not _is_ours(ingress, classes, settings):
            _say_unknown_class(document, ingress, objects, settings, gathering)
            continue
        given = ingress.metadata.annotations
        for name in switches.without_effect(given):
            gathering.say(document, "AnnotationIgnored", f"{name} has no effect here")
        if switches.needs_regex(given):
            text = "paths that are regular expressions are not served here (use-regex, $1)"
            gathering.say(document, "Rejected", text)
            continue
        _Ingress(document, ingress, gathering).add()
        taken.append(document)
    return taken


def _classes(objects: Inventory, settings: Settings) -> set[str]:
    """Return the names of the IngressClasses that are ours."""
    ours = set()
    for document in objects.of("IngressClass"):
        try:
            one = view(document, IngressClass)
        except msgspec.ValidationError:
            continue
        if one.spec.controller == settings.controller_class:
            ours.add(one.metadata.name)
    return ours


def _is_ours(ingress: Ingress, classes: set[str], settings: Settings) -> bool:
    if settings.namespace and ingress.metadata.namespace != settings.namespace:
        return False
    old = ingress.metadata.annotations.get(OLD_CLASS)
    if old is not None:
        return old == settings.ingress_class
    if ingress.spec.ingressClassName is not None:
        return ingress.spec.ingressClassName in classes
    return settings.without_class


def _say_unknown_class(
    document: Document,
    ingress: Ingress,
    objects: Inventory,
    settings: Settings,
    gathering: Gathering,
) -> None:
    name = ingress.spec.ingressClassName
    if name is None or OLD_CLASS in ingress.metadata.annotations:
        return
    if settings.namespace and ingress.metadata.namespace != settings.namespace:
        return
    if all(one["metadata"].get("name") != name for one in objects.of("IngressClass")):
        text = f"no IngressClass {name}: no controller serves this Ingress"
        gathering.say(document, "IngressClassNotFound", text)


class _Ingress:
    """One Ingress on its way into a gathering."""

    def __init__(self, document: Document, ingress: Ingress, gathering: Gathering) -> None:
        self.document = document
        self.spec = ingress.spec
        self.namespace = ingress.metadata.namespace
        self.annotations = ingress.metadata.annotations
        self.gathering = gathering
        self.source = title(document)
        self.missing: set[str] = set()

    def add(self) -> None:
        rules = self.spec.rules or []
        default = self.spec.defaultBackend
        for rule in rules:
            tls = tls_of(self.spec.tls or (), rule.host)
            secret = None
            if tls is not None and rule.host:
                secret = f"{self.namespace}/{tls.secretName}" if tls.secretName else ""
            self.gathering.host(rule.host, secret=secret)
            for path in _paths(rule):
                self._route(rule.host, path, tls=tls is not None)
            if default is not None:
                self._route(rule.host, HTTPPath(default, "/", Match.PREFIX), tls=tls is not None)
        if default is not None and not rules:
            self._route("", HTTPPath(default, "/", Match.PREFIX), tls=False)

    def _route(self, host: str, path: HTTPPath, *, tls: bool) -> None:
        port = self._port(path.backend)
        if port is None:
            return
        match = Match(path.pathType)
        route = Route(
            path=normal(path.path or "/", match),
            match=match,
            targets=(Target(port),),
            source=self.source,
            to_https=switches.to_https(self.annotations, tls=tls),
            rewrite=self.annotations.get(switches.REWRITE_TARGET, ""),
        )
        self.gathering.add(host, route, by=self.document)

    def _port(self, backend: Backend) -> Port | None:
        """Return where *backend* points; None if to no Service. Says what is not there."""
        if backend.service is None:
            kind = (backend.resource or {}).get("kind", "nothing")
            text = f"a backend of kind {kind} is not served here (a Service)"
            self.gathering.say(self.document, "Rejected", text)
            return None
        number = backend.service.port.number
        port = Port(self.namespace, backend.service.name, number or backend.service.port.name)
        wrong = backends.missing(self.gathering.objects, port)
        if wrong and wrong not in self.missing:
            self.missing.add(wrong)
            self.gathering.say(self.document, "BackendNotFound", f"{wrong}: answered with 503")
        return port


def _paths(rule: Rule) -> Iterator[HTTPPath]:
    for path in (rule.http.paths if rule.http else None) or ():
        if path.pathType in tuple(Match):
            yield path


def normal(path: str, match: Match) -> str:
    """Return *path* as a Route has it: a Prefix without a slash at its end, the root as "".

    Escapes are undone, as in what it is compared with.
    """
    path = unquote(path)
    if match is Match.EXACT:
        return path
    return path.rstrip("/") if match is Match.PREFIX or path == "/" else path


def tls_of(entries: Sequence[TLS], host: str) -> TLS | None:
    """Return the entry of spec.tls for *host*: with its name, a wildcard, or without hosts."""
    for entry in entries:
        if host and host in (entry.hosts or ()):
            return entry
    for entry in entries:
        if any(one and covers(one, host) for one in entry.hosts or ()):
            return entry
    return next((entry for entry in entries if not entry.hosts), None)
