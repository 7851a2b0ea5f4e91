"""Which route a request takes. nginx is held to this, and so are its texts.

1. The host: one of that very name; of wildcards the longest that stands for it; else the nameless.
2. The path: Exact; then the longest prefix. A Prefix is compared by path elements, with or without
   a slash at its end; ImplementationSpecific letter by letter.

Source: kubernetes.io docs, Ingress, "Path types", "Hostname wildcards".
"""

from __future__ import annotations

from collections.abc import Iterable

from netlab.vhosts.model import Host, Match, Route, covers


def host_of(hosts: Iterable[Host], name: str) -> Host | None:
    """Return the virtual host for requests to *name*, which may end in a port."""
    plain = name.partition(":")[0].lower().rstrip(".")
    return next((host for host in hosts if covers(host.name, plain, deep=host.deep)), None)


def route_of(host: Host, scheme: str, path: str) -> Route | None:
    """Return the route of *host* for *path*, None where there is none (404)."""
    found = [one for one in host.routes if scheme in one.schemes and matches(one, path)]
    return max(found, key=lambda one: (one.match is Match.EXACT, _length(one, path)), default=None)


def matches(route: Route, path: str) -> bool:
    """Return whether *path* is one of *route*'s."""
    if route.match is Match.EXACT:
        return path == route.path
    if route.match is Match.PLAIN:
        return path.startswith(route.path)
    return path == route.path or path.startswith(f"{route.path}/")


def _length(route: Route, path: str) -> float:
    """Return how much of *path* a route names: a Prefix all of it, where it ends with it."""
    if route.match is Match.PREFIX:
        return float("inf") if path == route.path else len(route.path) + 1
    return len(route.path)
