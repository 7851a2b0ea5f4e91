"""Virtual hosts: what Ingresses and HTTPRoutes come to, whoever serves them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from netlab.model.kubernetes import Document

CONTROLLER = "k8s.io/ingress-nginx"  # what a class names, as ingress-nginx's does
HTTP, HTTPS = "http", "https"
SCHEMES = (HTTP, HTTPS)


class Settings(msgspec.Struct, frozen=True):
    """Whom a controller serves, and where it listens. The words are ingress-nginx's own."""

    controller_class: str = CONTROLLER
    ingress_class: str = "nginx"  # of the annotation
    without_class: bool = False
    namespace: str = ""  # the only one whose objects count; "": all
    publish_service: str = ""  # namespace/name
    default_backend: str = ""  # namespace/name
    default_certificate: str = ""  # namespace/name of a Secret
    http_port: int = 80
    https_port: int = 443
    healthz_port: int = 10254
    status_port: int = 10246  # on 127.0.0.1


class Match(StrEnum):
    """How a path is compared; the words are those of an Ingress's pathType."""

    EXACT = "Exact"
    PREFIX = "Prefix"  # element by element: /foo matches /foo and /foo/bar, not /foobar
    PLAIN = "ImplementationSpecific"  # letter by letter, as ingress-nginx does: /foo and /foobar


class Port(msgspec.Struct, frozen=True):
    """A port of a Service, as a backend names it."""

    namespace: str
    service: str
    port: str | int

    @property
    def name(self) -> str:
        """The name of the backend: `default/web:80`."""
        return f"{self.namespace}/{self.service}:{self.port}"


class Target(msgspec.Struct, frozen=True):
    """Where a share of a route's requests goes; None: to nobody, answered with 500."""

    port: Port | None
    weight: int = 1


class Route(msgspec.Struct, frozen=True):
    """Requests of one host and path.

    *path*: of a PREFIX without the slash at its end, "" for all paths; *source*: what asks for it,
    for reading; *to_https*: redirected there when it comes over HTTP; *rewrite*: the path that
    the endpoint sees instead; *falls*: it also serves hosts that are more special than its own, for
    paths that these do not have.
    """

    path: str
    match: Match
    targets: tuple[Target, ...]
    source: str
    schemes: tuple[str, ...] = SCHEMES
    to_https: bool = False
    rewrite: str = ""
    falls: bool = False


class Host(msgspec.Struct, frozen=True):
    """A virtual host.

    *name*: `shop.example`, `*.shop.example`, "" for every other; *deep*: a wildcard that stands for
    several labels; *secret*: namespace/name of its certificate, "" for the default one.
    """

    name: str
    routes: tuple[Route, ...]
    deep: bool = False
    secret: str = ""


class Note(msgspec.Struct, frozen=True):
    """Something to be said about an object, in an event."""

    about: Document
    reason: str
    message: str
    kind: str = "Warning"


class Attached(msgspec.Struct, frozen=True):
    """A Gateway API object and the status it is to have, without times."""

    document: Document
    status: Document


class Routing(msgspec.Struct, frozen=True):
    """All virtual hosts, the backends they need by name, and what there is to say.

    *taken*: the Ingresses that are served; *attached*: the Gateway API objects that are ours.
    """

    hosts: tuple[Host, ...]
    backends: Mapping[str, Port]
    notes: tuple[Note, ...] = ()
    taken: tuple[Document, ...] = ()
    attached: tuple[Attached, ...] = ()


def covers(pattern: str, name: str, *, deep: bool = False) -> bool:
    """Return whether the host *pattern* stands for *name*; a wildcard is one label unless *deep*.

    Of a wildcard *name* it must stand for all. Source: networking/v1 IngressRule.Host; Gateway API
    v1 Hostname: there `*.` is any number of labels.
    """
    if not pattern or pattern == name:
        return True
    if not pattern.startswith("*."):
        return False
    first, _, rest = name.partition(".")
    if deep:
        return name.endswith(pattern[1:]) and name != pattern[1:]
    return bool(first) and first != "*" and rest == pattern[2:]
