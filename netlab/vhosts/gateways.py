"""Gateways and HTTPRoutes into routes, each with the conditions it is to have.

What cannot be done here (matches by header, filters, …) makes a route not accepted, with the
reason: nothing is passed over in silence.
Source: Gateway API v1 and its conformance tests (HTTPRoute: precedence, weights, invalid refs).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, view
from netlab.vhosts import backends, listeners
from netlab.vhosts.documents import (
    GATEWAY_GROUP,
    Gateway,
    GatewayClass,
    HTTPRoute,
    Reference,
    RouteMatch,
    RouteRule,
)
from netlab.vhosts.gathering import Gathering, age, title
from netlab.vhosts.ingresses import normal
from netlab.vhosts.listeners import FINE, ROUTE, Open, Verdict
from netlab.vhosts.model import Attached, Match, Port, Route, Settings, Target

MATCHES = {"Exact": Match.EXACT, "PathPrefix": Match.PREFIX}
CONFLICTS = ("HostnameConflict",)


def gather(objects: Inventory, settings: Settings, gathering: Gathering) -> list[Attached]:
    """Have what HTTPRoutes ask for in *gathering*; return the objects that are ours."""
    classes = list(_classes(objects, settings))
    names = {one["metadata"]["name"] for one in classes}
    gateways = list(_gateways(objects, settings, names))
    opened = {
        _key(document): list(listeners.judged(gateway, objects, settings))
        for document, gateway in gateways
    }
    for each in opened.values():
        for one in each:
            if one.serves and one.secret:
                gathering.host(one.listener.hostname, deep=True, secret=one.secret)
    routes, counts = [], dict[tuple[str, str, str], int]()
    for document in sorted(objects.of(ROUTE), key=age):
        try:
            route = view(document, HTTPRoute)
        except msgspec.ValidationError as error:
            gathering.say(document, "Rejected", f"cannot be read: {error}")
            continue
        if parents := _Attaching(document, route, gathering, opened, settings, counts).parents():
            routes.append(Attached(document, {"parents": parents}))
    return [
        *(Attached(one, {"conditions": [_condition("Accepted", FINE)]}) for one in classes),
        *(
            Attached(one, _gateway_status(opened[_key(one)], counts, _key(one)))
            for one, _ in gateways
        ),
        *routes,
    ]


def _key(document: Document) -> str:
    meta = document["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


def _classes(objects: Inventory, settings: Settings) -> Iterator[Document]:
    for document in objects.of("GatewayClass"):
        try:
            one = view(document, GatewayClass)
        except msgspec.ValidationError:
            continue
        if one.spec.controllerName == settings.controller_class:
            yield document


def _gateways(
    objects: Inventory, settings: Settings, classes: set[str]
) -> Iterator[tuple[Document, Gateway]]:
    for document in sorted(objects.of("Gateway"), key=age):
        try:
            gateway = view(document, Gateway)
        except msgspec.ValidationError:
            continue
        where = gateway.metadata.namespace
        if gateway.spec.gatewayClassName in classes and settings.namespace in ("", where):
            yield document, gateway


class _Attaching:
    """One HTTPRoute on its way to the listeners it asks for."""

    def __init__(
        self,
        document: Document,
        route: HTTPRoute,
        gathering: Gathering,
        opened: dict[str, list[Open]],
        settings: Settings,
        counts: dict[tuple[str, str, str], int],
    ) -> None:
        self.document, self.route = document, route
        self.gathering, self.opened, self.settings = gathering, opened, settings
        self.namespace = route.metadata.namespace
        self.counts = counts
        self.resolved = FINE

    def parents(self) -> list[Document]:
        """Return the status for each of our Gateways that the route names."""
        found = []
        wrong = _unsupported(self.route)
        rules = [] if wrong.problem else [(rule, self._targets(rule)) for rule in self._rules()]
        for reference in self.route.spec.parentRefs or ():
            key = f"{reference.namespace or self.namespace}/{reference.name}"
            kind = (reference.group or GATEWAY_GROUP, reference.kind or "Gateway")
            if kind != (GATEWAY_GROUP, "Gateway") or key not in self.opened:
                continue
            verdict = wrong if wrong.problem else self._attach(reference, key, rules)
            for one in (verdict, self.resolved):
                if one.problem:
                    self.gathering.say(self.document, one.problem, one.message)
            found.append(
                {
                    "parentRef": _parent(reference),
                    "controllerName": self.settings.controller_class,
                    "conditions": [
                        _condition("Accepted", verdict),
                        _condition("ResolvedRefs", self.resolved),
                    ],
                }
            )
        return found

    def _rules(self) -> Sequence[RouteRule]:
        return self.route.spec.rules or [RouteRule()]

    def _attach(
        self, reference: Reference, key: str, rules: list[tuple[RouteRule, tuple[Target, ...]]]
    ) -> Verdict:
        named = [one for one in self.opened[key] if _meant(reference, one)]
        if not named:
            return Verdict("NoMatchingParent", "the Gateway has no such listener")
        allowed = [one for one in named if one.allows(self.route, self.gathering.objects)]
        if not allowed:
            text = f"no listener takes {ROUTE}s of namespace {self.namespace}"
            return Verdict("NotAllowedByListeners", text)
        hosts = [(one, one.hostnames(self.route.spec.hostnames)) for one in allowed]
        if not any(names for _, names in hosts):
            text = "no listener has one of the route's host names"
            return Verdict("NoMatchingListenerHostname", text)
        for one, names in hosts:
            if names:
                place = (*key.partition("/")[::2], one.listener.name)
                self.counts[place] = self.counts.get(place, 0) + 1
            for name in names if one.serves else ():
                self._serve(name, one, rules)
        return FINE

    def _serve(
        self, host: str, listener: Open, rules: list[tuple[RouteRule, tuple[Target, ...]]]
    ) -> None:
        self.gathering.host(host, deep=True, secret=listener.secret or None)
        for rule, targets in rules:
            for match in rule.matches or [RouteMatch()]:
                how = MATCHES[match.path.type]
                route = Route(
                    path=normal(match.path.value, how),
                    match=how,
                    targets=targets,
                    source=title(self.document),
                    schemes=(listener.scheme,),
                    falls=True,
                )
                self.gathering.add(host, route, by=self.document, deep=True)

    def _targets(self, rule: RouteRule) -> tuple[Target, ...]:
        found = tuple(
            Target(self._port(reference), reference.weight)
            for reference in rule.backendRefs or ()
            if reference.weight > 0
        )
        return found or (Target(None),)

    def _port(self, reference: Reference) -> Port | None:
        """Return where a backendRef points, None if nowhere; the reason goes into a condition."""
        kind = (reference.group or "", reference.kind or "Service")
        if kind != ("", "Service") or not reference.port:
            what = reference.kind if kind != ("", "Service") else f"{reference.name} without port"
            self.resolved = Verdict("InvalidKind", f"{what} is no port of a Service")
            return None
        objects = self.gathering.objects
        space = reference.namespace or self.namespace
        if not listeners.permitted(objects, ROUTE, self.namespace, reference, "Service"):
            text = f"no ReferenceGrant of {space} lets {ROUTE}s of {self.namespace} in"
            self.resolved = Verdict("RefNotPermitted", text)
            return None
        port = Port(space, reference.name, reference.port)
        if wrong := backends.missing(objects, port):
            self.resolved = Verdict("BackendNotFound", wrong)
            return None
        return port


def _unsupported(route: HTTPRoute) -> Verdict:
    """Return what in *route* cannot be done here."""
    for number, rule in enumerate(route.spec.rules or ()):
        here = f"rules[{number}]"
        for field in ("filters", "timeouts", "retry", "sessionPersistence"):
            if getattr(rule, field):
                return Verdict("UnsupportedValue", f"{here}.{field}: not served here")
        for reference in rule.backendRefs or ():
            if reference.filters:
                return Verdict("UnsupportedValue", f"{here}.backendRefs.filters: not served here")
        for match in rule.matches or ():
            for field in ("headers", "queryParams", "method"):
                if getattr(match, field):
                    return Verdict("UnsupportedValue", f"{here}.matches.{field}: not served here")
            if match.path.type not in MATCHES:
                text = f"{here}.matches.path.type {match.path.type}: not served here"
                return Verdict("UnsupportedValue", text)
    return FINE


def _meant(reference: Reference, one: Open) -> bool:
    listener = one.listener
    return reference.sectionName in (None, listener.name) and (
        reference.port in (None, listener.port)
    )


def _parent(reference: Reference) -> Document:
    """Return *reference* as the route has it, defaults left out."""
    return {
        key: value
        for key in ("group", "kind", "namespace", "name", "sectionName", "port")
        if (value := getattr(reference, key)) is not None
    }


def _condition(kind: str, verdict: Verdict, reason: str = "") -> Document:
    return {
        "type": kind,
        "status": "False" if verdict.problem else "True",
        "reason": verdict.problem or reason or kind,
        "message": verdict.message,
    }


def _gateway_status(
    opened: Sequence[Open], counts: dict[tuple[str, str, str], int], key: str
) -> Document:
    """Return the status of a Gateway, without its addresses."""
    bad = [one for one in opened if not one.serves]
    text = ", ".join(one.listener.name for one in bad)
    accepted = _condition("Accepted", FINE)
    if any(one.accepted.problem for one in opened):
        accepted |= {"reason": "ListenersNotValid", "message": f"not served: {text}"}
    programmed = FINE
    if len(bad) == len(opened):
        programmed = Verdict("Invalid", f"no listener is served: {text}")
    return {
        "conditions": [accepted, _condition("Programmed", programmed)],
        "listeners": [
            {
                "name": one.listener.name,
                "supportedKinds": [{"group": GATEWAY_GROUP, "kind": ROUTE}],
                "attachedRoutes": counts.get((*key.partition("/")[::2], one.listener.name), 0),
                "conditions": _listener_conditions(one),
            }
            for one in opened
        ],
    }


def _listener_conditions(one: Open) -> list[Document]:
    programmed = FINE if one.serves else Verdict("Invalid", "see the other conditions")
    conflict = one.accepted.problem in CONFLICTS
    conflicted = {
        "type": "Conflicted",
        "status": "True" if conflict else "False",
        "reason": one.accepted.problem if conflict else "NoConflicts",
        "message": one.accepted.message if conflict else "",
    }
    accepted = FINE if conflict else one.accepted
    return [
        _condition("Accepted", accepted),
        _condition("ResolvedRefs", one.resolved),
        _condition("Programmed", programmed),
        conflicted,
    ]
