"""Routes put together by host: the oldest object wins, and the younger one is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document
from netlab.vhosts.model import Attached, Host, Match, Note, Port, Route, Routing, Target, covers

Name = tuple[str, bool]  # of a host, and whether it is deep
Key = tuple[str, Match, str]  # scheme, match, path


def age(document: Document) -> tuple[str, str, str]:
    """Return what sorts objects by age: the oldest first, then by namespace and name."""
    meta = document["metadata"]
    return str(meta.get("creationTimestamp") or ""), meta.get("namespace", ""), meta["name"]


def title(document: Document) -> str:
    """Return `Ingress shop/web`."""
    meta = document["metadata"]
    return f"{document['kind']} {meta.get('namespace', '')}/{meta['name']}"


class Gathering:
    """The hosts as they grow."""

    def __init__(self, objects: Inventory) -> None:
        self.objects = objects
        self.notes: list[Note] = []
        self._routes: dict[Name, dict[Key, Route]] = {}
        self._secrets: dict[Name, str] = {}

    def say(self, about: Document, reason: str, message: str) -> None:
        self.notes.append(Note(about, reason, message))

    def host(self, name: str, *, deep: bool = False, secret: str | None = None) -> None:
        """Have a host; the first to name its *secret* decides."""
        self._routes.setdefault(_named(name, deep), {})
        if secret is not None:
            self._secrets.setdefault(_named(name, deep), secret)

    def add(
        self, name: str, route: Route, *, by: Document | None = None, deep: bool = False
    ) -> None:
        """Have *route* in a host, for the schemes in which nobody had the same path before."""
        held = self._routes.setdefault(_named(name, deep), {})
        taken = ""
        for scheme in route.schemes:
            key = (scheme, _place(route), route.path)
            first = held.setdefault(key, route)
            if first.source != route.source:
                taken = first.source
        if taken and by is not None:
            where = f"{name or 'all hosts'}{route.path or '/'}"
            self.say(
                by, "Conflict", f"{where} ({route.match}) is served by {taken}, which is older"
            )

    def last_resort(self, namespace: str, name: str) -> None:
        """Have what no host and path has go to the first port of a Service."""
        service = self.objects.named("Service", namespace, name) or {}
        ports = (service.get("spec") or {}).get("ports") or [{}]
        target = Target(Port(namespace, name, ports[0].get("port", 80)))
        route = Route("", Match.PREFIX, (target,), f"default backend {namespace}/{name}")
        self.host("")
        for host, deep in self._routes:
            self.add(host, route, deep=deep)

    def routing(self, taken: Iterable[Document], attached: Iterable[Attached]) -> Routing:
        """Return what has been gathered."""
        hosts = []
        for name in sorted(self._routes, key=rank):
            routes = _merged(self._routes[name])
            routes += _fallen(name, routes, self._wider(name))
            secret = self._secrets.get(name, "")
            hosts.append(Host(name[0], tuple(sorted(routes, key=_order)), name[1], secret))
        backends = {
            target.port.name: target.port
            for host in hosts
            for route in host.routes
            for target in route.targets
            if target.port
        }
        return Routing(tuple(hosts), backends, tuple(self.notes), tuple(taken), tuple(attached))

    def _wider(self, name: Name) -> list[Route]:
        """Return the routes that fall through to *name*, those of the nearest host first."""
        wider = [
            one for one in self._routes if one != name and covers(one[0], name[0], deep=one[1])
        ]
        wider.sort(key=rank)
        return [route for one in wider for route in _merged(self._routes[one]) if route.falls]


def _named(name: str, deep: bool) -> Name:
    return name, deep and name.startswith("*.")


def rank(name: Name) -> tuple[bool, bool, int, bool, str]:
    """Return what sorts hosts by who is asked first: exact names, the longest wildcards, all."""
    host, deep = name
    return host == "", host.startswith("*."), -len(host), deep, host


def _place(route: Route) -> Match:
    """Return how a route shares its path with others: the root is the same for both prefixes."""
    return Match.PREFIX if route.match is Match.PLAIN and not route.path else route.match


def _merged(held: dict[Key, Route]) -> list[Route]:
    """Return each route once, with the schemes it has got."""
    schemes: dict[Route, list[str]] = {}
    for (scheme, _, _), route in held.items():
        schemes.setdefault(msgspec.structs.replace(route, schemes=()), []).append(scheme)
    return [msgspec.structs.replace(route, schemes=tuple(got)) for route, got in schemes.items()]


def _fallen(name: Name, own: Sequence[Route], wider: Iterable[Route]) -> list[Route]:
    """Return which of *wider* serve in host *name* what *own* leaves open."""
    found: list[Route] = []
    for route in wider:
        left = tuple(
            scheme
            for scheme in route.schemes
            if not any(scheme in one.schemes and _shadows(one, route) for one in (*own, *found))
        )
        if left:
            found.append(msgspec.structs.replace(route, schemes=left))
    return found


def _shadows(first: Route, second: Route) -> bool:
    """Return whether nothing of *second* is left where *first* is asked before."""
    if first.match is Match.EXACT:
        return second.match is Match.EXACT and first.path == second.path
    if first.match is Match.PLAIN:
        return second.path.startswith(first.path)
    end = "" if second.match is Match.PLAIN else "/"
    return not first.path or f"{second.path}{end}".startswith(f"{first.path}/")


def _order(route: Route) -> tuple[int, str, str, str]:
    return -len(route.path), route.path, route.match, route.source
