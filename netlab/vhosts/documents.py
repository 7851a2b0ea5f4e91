"""Ingress, Gateway API and Secret, as far as an ingress controller reads them.

Views like those of `model/kubernetes.py`. Source: k8s.io/api networking/v1/types.go (v0.30);
sigs.k8s.io/gateway-api apis/v1 (v1.1).
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from netlab.model.kubernetes import Meta, View

TLS_SECRET = "kubernetes.io/tls"  # type of a Secret
GATEWAY_GROUP = "gateway.networking.k8s.io"


class BackendPort(View):
    name: str = ""
    number: int = 0


class ServiceBackend(View):
    name: str
    port: BackendPort = field(default_factory=BackendPort)


class Backend(View):
    service: ServiceBackend | None = None
    resource: dict[str, Any] | None = None


class HTTPPath(View):
    backend: Backend
    path: str | None = None
    pathType: str = "ImplementationSpecific"


class HTTPRule(View):
    paths: list[HTTPPath] | None = None


class Rule(View):
    host: str = ""
    http: HTTPRule | None = None


class TLS(View):
    hosts: list[str] | None = None
    secretName: str = ""


class IngressSpec(View):
    ingressClassName: str | None = None
    defaultBackend: Backend | None = None
    rules: list[Rule] | None = None
    tls: list[TLS] | None = None


class Ingress(View):
    metadata: Meta
    spec: IngressSpec = field(default_factory=IngressSpec)


class IngressClassSpec(View):
    controller: str = ""


class IngressClass(View):
    metadata: Meta
    spec: IngressClassSpec = field(default_factory=IngressClassSpec)


class GatewayClassSpec(View):
    controllerName: str


class GatewayClass(View):
    metadata: Meta
    spec: GatewayClassSpec


class Reference(View):
    """A reference to a Gateway, a Service or a Secret; `weight` of a backend only."""

    name: str
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    sectionName: str | None = None
    port: int | None = None
    weight: int = 1
    filters: list[dict[str, Any]] | None = None


class ListenerTLS(View):
    mode: str = "Terminate"
    certificateRefs: list[Reference] | None = None


class AllowedRoutes(View):
    namespaces: dict[str, Any] | None = None
    kinds: list[dict[str, Any]] | None = None


class Listener(View):
    name: str
    port: int
    protocol: str
    hostname: str = ""
    tls: ListenerTLS | None = None
    allowedRoutes: AllowedRoutes = field(default_factory=AllowedRoutes)


class GatewaySpec(View):
    gatewayClassName: str
    listeners: list[Listener]


class Gateway(View):
    metadata: Meta
    spec: GatewaySpec


class PathMatch(View):
    type: str = "PathPrefix"
    value: str = "/"


class RouteMatch(View):
    path: PathMatch = field(default_factory=PathMatch)
    headers: list[dict[str, Any]] | None = None
    queryParams: list[dict[str, Any]] | None = None
    method: str | None = None


class RouteRule(View):
    matches: list[RouteMatch] | None = None
    filters: list[dict[str, Any]] | None = None
    backendRefs: list[Reference] | None = None
    timeouts: dict[str, Any] | None = None
    retry: dict[str, Any] | None = None
    sessionPersistence: dict[str, Any] | None = None


class Grantee(View):
    kind: str
    namespace: str
    group: str = ""


class Granted(View):
    kind: str
    group: str = ""
    name: str | None = None


class ReferenceGrantSpec(View, rename={"sources": "from", "targets": "to"}):
    sources: list[Grantee]
    targets: list[Granted]


class ReferenceGrant(View):
    metadata: Meta
    spec: ReferenceGrantSpec


class HTTPRouteSpec(View):
    parentRefs: list[Reference] | None = None
    hostnames: list[str] | None = None
    rules: list[RouteRule] | None = None


class HTTPRoute(View):
    metadata: Meta
    spec: HTTPRouteSpec = field(default_factory=HTTPRouteSpec)
