"""Which route a request takes: objects, and for each of many requests who is to answer.

The facts are those of Kubernetes' documentation of Ingress (path types, examples, host wildcards),
of Gateway API's conformance tests, and of ingress-nginx. An answer is a Service's name, a status,
or where a redirect leads. Both the model (unit) and a real nginx (kernel) are held to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from netlab.model.inventory import Inventory, inventory

SERVICES = ("root", "a", "b", "c", "d", "old", "new", "wild", "deep", "exact", "plain", "rest")


class Row(NamedTuple):
    id: str
    world: str
    request: str  # SCHEME://HOST/PATH
    answer: str


def path(kind: str, at: str, service: str) -> dict[str, Any]:
    backend = {"service": {"name": service, "port": {"number": 80}}}
    return {"path": at, "pathType": kind, "backend": backend}


def ingress(
    name: str, rules: dict[str, list[dict[str, Any]]], *, day: int = 1, **spec: Any
) -> dict[str, Any]:
    """Return an Ingress; *rules*: paths by host; *day*: of its creation."""
    annotations = spec.pop("annotations", {})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": f"2026-01-{day:02}T00:00:00Z",
            "annotations": annotations,
        },
        "spec": {
            "ingressClassName": "nginx",
            "rules": [
                {**({"host": host} if host else {}), "http": {"paths": paths}}
                for host, paths in rules.items()
            ],
            **spec,
        },
    }


def route(
    name: str,
    rules: list[tuple[str, str, dict[str, int]]],
    *hostnames: str,
    day: int = 1,
    section: str = "",
) -> dict[str, Any]:
    """Return an HTTPRoute of Gateway `web`; a rule: path type, path, weights by Service."""
    parent = {"name": "web", **({"sectionName": section} if section else {})}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"uid-{name}",
            "creationTimestamp": f"2026-02-{day:02}T00:00:00Z",
        },
        "spec": {
            "parentRefs": [parent],
            "hostnames": list(hostnames),
            "rules": [
                {
                    "matches": [{"path": {"type": kind, "value": at}}],
                    "backendRefs": [
                        {"name": service, "port": 80, "weight": weight}
                        for service, weight in shares.items()
                    ],
                }
                for kind, at, shares in rules
            ],
        },
    }


GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: nginx, uid: gc}
spec: {controllerName: k8s.io/ingress-nginx}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: default, uid: gw}
spec:
  gatewayClassName: nginx
  listeners:
    - {name: http, port: 80, protocol: HTTP}
    - {name: only, port: 80, protocol: HTTP, hostname: "*.only.example"}
"""
CLASS = """
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx}
spec: {controller: k8s.io/ingress-nginx}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: other}
spec: {controller: example.org/other}
"""

WORLDS: dict[str, list[dict[str, Any]]] = {
    "paths": [
        ingress(
            "paths",
            {
                "paths.example": [
                    path("Prefix", "/foo", "a"),
                    path("Prefix", "/aaa/bbb/", "b"),
                    path("Exact", "/exact", "exact"),
                    path("Exact", "/slash/", "c"),
                    path("Prefix", "/both", "d"),
                    path("Exact", "/both", "exact"),
                    path("Prefix", "/both/inner", "b"),
                    path("ImplementationSpecific", "/plain", "plain"),
                    path("ImplementationSpecific", "/dir/", "plain"),
                    path("Prefix", "/sp ace", "c"),
                    path("Prefix", "/per%20cent", "c"),
                    path("Prefix", '/q"uo\\te', "c"),
                ],
                "root.example": [
                    path("Prefix", "/", "root"),
                    path("Prefix", "/aaa", "a"),
                    path("Prefix", "/aaa/bbb", "b"),
                ],
            },
        ),
        ingress(
            "default",
            {"back.example": [path("Exact", "/x", "a")]},
            defaultBackend=path("Prefix", "/", "rest")["backend"],
        ),
    ],
    "hosts": [
        ingress(
            "hosts",
            {
                "*.foo.example": [path("Prefix", "/", "wild")],
                "bar.foo.example": [path("Prefix", "/in", "exact")],
                "*.bar.foo.example": [path("Prefix", "/", "b")],
                "": [path("Prefix", "/any", "a")],
            },
        ),
        ingress("all", {}, defaultBackend=path("Prefix", "/", "rest")["backend"]),
        ingress("other", {"other.example": [path("Prefix", "/", "c")]}, ingressClassName="other"),
        ingress("none", {"none.example": [path("Prefix", "/", "c")]}, ingressClassName=None),
        ingress(
            "annotated",
            {"annotated.example": [path("Prefix", "/", "d")]},
            ingressClassName=None,
            annotations={"kubernetes.io/ingress.class": "nginx"},
        ),
    ],
    "conflicts": [
        ingress(
            "young",
            {"twice.example": [path("Prefix", "/x", "new"), path("Prefix", "/y", "new")]},
            day=2,
        ),
        ingress(
            "aged",
            {"twice.example": [path("Prefix", "/x", "old"), path("Exact", "/y", "old")]},
            day=1,
        ),
        ingress("same-b", {"tie.example": [path("Prefix", "/", "b")]}, day=3),
        ingress("same-a", {"tie.example": [path("Prefix", "/", "a")]}, day=3),
        ingress("gone", {"gone.example": [path("Prefix", "/", "missing")]}),
        ingress("idle", {"idle.example": [path("Prefix", "/", "idle")]}),
        ingress(
            "secure",
            {
                "secure.example": [path("Prefix", "/", "a")],
                "a.wild.example": [path("Prefix", "/", "a")],
                "open.example": [path("Prefix", "/", "b")],
            },
            tls=[{"hosts": ["secure.example", "*.wild.example"], "secretName": "t"}],
        ),
        ingress(
            "kept",
            {"kept.example": [path("Prefix", "/", "a")]},
            tls=[{"hosts": ["kept.example"], "secretName": "t"}],
            annotations={"nginx.ingress.kubernetes.io/ssl-redirect": "false"},
        ),
        ingress(
            "forced",
            {"forced.example": [path("Prefix", "/", "a")]},
            annotations={"nginx.ingress.kubernetes.io/force-ssl-redirect": "true"},
        ),
        ingress(
            "rewritten",
            {"rewritten.example": [path("Prefix", "/old", "d")]},
            annotations={"nginx.ingress.kubernetes.io/rewrite-target": "/new"},
        ),
        ingress(
            "regex",
            {"regex.example": [path("ImplementationSpecific", "/x(.*)", "a")]},
            annotations={"nginx.ingress.kubernetes.io/rewrite-target": "/$1"},
        ),
    ],
    "gateway": [
        route(
            "general",
            [
                ("PathPrefix", "/", {"a": 1}),
                ("PathPrefix", "/v2", {"b": 1}),
                ("Exact", "/v2/one", {"exact": 1}),
            ],
            "gw.example",
        ),
        route("wildcard", [("PathPrefix", "/w", {"wild": 1})], "*.gw.example"),
        route("special", [("PathPrefix", "/s", {"c": 1})], "x.gw.example"),
        route("anywhere", [("PathPrefix", "/any", {"rest": 1})]),
        route("deep", [("PathPrefix", "/", {"deep": 1})], "*.only.example", section="only"),
        route("wrong", [("PathPrefix", "/", {"d": 1})], "no.example", section="only"),
        route("young", [("PathPrefix", "/v2", {"new": 1})], "gw.example", day=5),
        route(
            "shares",
            [
                ("PathPrefix", "/half", {"a": 1, "b": 0}),
                ("PathPrefix", "/nobody", {"a": 0}),
                ("PathPrefix", "/lost", {"missing": 1}),
            ],
            "shares.example",
        ),
    ],
}


def _row(world: str, request: str, answer: str, id: str = "") -> Row:
    return Row(f"{world}: {id or request}", world, request, answer)


ROWS = [
    # kubernetes.io: path types, examples
    _row("paths", "http://paths.example/foo", "a", "prefix, the path itself"),
    _row("paths", "http://paths.example/foo/", "a", "prefix, with a slash"),
    _row("paths", "http://paths.example/foo/bar", "a", "prefix, below"),
    _row("paths", "http://paths.example/foobar", "404", "prefix is by elements"),
    _row("paths", "http://paths.example/FOO", "404", "case counts"),
    _row("paths", "http://paths.example/aaa/bbb", "b", "a prefix's own slash is ignored"),
    _row("paths", "http://paths.example/aaa/bbb/ccc", "b"),
    _row("paths", "http://paths.example/aaa/bbbxyz", "404"),
    _row("paths", "http://paths.example/aaa", "404", "shorter than the prefix"),
    _row("paths", "http://paths.example/exact", "exact"),
    _row("paths", "http://paths.example/exact/", "404", "exact, and a slash more"),
    _row("paths", "http://paths.example/slash/", "c", "exact with a slash"),
    _row("paths", "http://paths.example/slash", "404", "exact, and a slash less"),
    _row("paths", "http://paths.example/both", "exact", "exact before prefix"),
    _row("paths", "http://paths.example/both/", "d", "prefix beside exact"),
    _row("paths", "http://paths.example/both/inner/x", "b", "the longest prefix"),
    _row("paths", "http://paths.example/both/innerx", "d"),
    _row("paths", "http://paths.example/plain", "plain"),
    _row("paths", "http://paths.example/plainer", "plain", "plain is by letters"),
    _row("paths", "http://paths.example/dir/x", "plain"),
    _row("paths", "http://paths.example/dir", "404", "no redirect to the slash"),
    _row("paths", "http://paths.example/", "404", "no root"),
    _row("paths", "http://paths.example/foo?x=/aaa/bbb", "a", "a query is no path"),
    _row("paths", "http://paths.example/sp%20ace/x", "c", "a blank"),
    _row("paths", "http://paths.example/per%20cent", "c", "an escape"),
    _row("paths", "http://paths.example/q%22uo%5Cte", "c", "quotes"),
    _row("paths", "http://paths.example/x/../foo", "a", "dots are resolved"),
    _row("paths", "http://root.example/", "root"),
    _row("paths", "http://root.example/ccc", "root"),
    _row("paths", "http://root.example/aaa/ccc", "a"),
    _row("paths", "http://root.example/aaa/bbb", "b"),
    _row("paths", "http://PATHS.example:8080/foo", "a", "a host has no case, and no port"),
    _row("paths", "https://paths.example/foo", "a", "without TLS of its own, over HTTPS too"),
    _row("paths", "http://back.example/x", "a"),
    _row("paths", "http://back.example/y", "rest", "default backend of the Ingress"),
    _row("paths", "http://nobody.example/", "404", "no such host"),
    # hosts
    _row("hosts", "http://one.foo.example/", "wild"),
    _row("hosts", "http://two.one.foo.example/", "rest", "a wildcard is one label"),
    _row("hosts", "http://foo.example/", "rest", "a wildcard is not none"),
    _row("hosts", "http://bar.foo.example/in", "exact", "the name before the wildcard"),
    _row("hosts", "http://bar.foo.example/out", "404", "a host's paths are its own"),
    _row("hosts", "http://x.bar.foo.example/", "b", "the longer wildcard"),
    _row("hosts", "http://unknown.example/any", "a", "a rule without host"),
    _row("hosts", "http://unknown.example/", "rest", "default backend of all"),
    _row("hosts", "http://other.example/", "rest", "another controller's"),
    _row("hosts", "http://none.example/", "rest", "no class"),
    _row("hosts", "http://annotated.example/", "d", "the annotation"),
    # two objects, and what else may be
    _row("conflicts", "http://twice.example/x", "old", "the oldest wins"),
    _row("conflicts", "http://twice.example/y", "old", "exact of another object"),
    _row("conflicts", "http://twice.example/y/z", "new"),
    _row("conflicts", "http://tie.example/", "a", "of one age, by name"),
    _row("conflicts", "http://gone.example/", "503", "no such Service"),
    _row("conflicts", "http://idle.example/", "503", "no endpoints"),
    _row("conflicts", "http://secure.example/p?q=1", "https://secure.example/p?q=1"),
    _row("conflicts", "https://secure.example/p", "a"),
    _row("conflicts", "http://a.wild.example/", "https://a.wild.example/", "TLS by wildcard"),
    _row("conflicts", "http://open.example/", "b", "a host that is not in tls"),
    _row("conflicts", "http://kept.example/", "a", "ssl-redirect off"),
    _row("conflicts", "http://forced.example/", "https://forced.example/"),
    _row("conflicts", "http://rewritten.example/old/x", "d", "rewritten"),
    _row("conflicts", "http://regex.example/xyz", "404", "refused"),
    # Gateway API
    _row("gateway", "http://gw.example/", "a"),
    _row("gateway", "http://gw.example/v2", "b"),
    _row("gateway", "http://gw.example/v2/two", "b", "the oldest wins"),
    _row("gateway", "http://gw.example/v20", "a", "by elements"),
    _row("gateway", "http://gw.example/v2/one", "exact"),
    _row("gateway", "http://gw.example/v2/one/", "b"),
    _row("gateway", "http://y.gw.example/w", "wild"),
    _row("gateway", "http://z.y.gw.example/w", "wild", "a wildcard is many labels"),
    _row("gateway", "http://x.gw.example/s", "c"),
    _row("gateway", "http://x.gw.example/w/1", "wild", "what a name leaves open"),
    _row("gateway", "http://x.gw.example/else", "404"),
    _row("gateway", "http://x.gw.example/any", "rest", "a route without host names"),
    _row("gateway", "http://nowhere.example/any/x", "rest"),
    _row("gateway", "http://a.b.only.example/", "deep", "a listener's own host name"),
    _row("gateway", "http://only.example/", "404"),
    _row("gateway", "http://no.example/", "404", "not of the listener's host name"),
    _row("gateway", "http://shares.example/half", "a", "a share of nothing"),
    _row("gateway", "http://shares.example/nobody", "500", "no share at all"),
    _row("gateway", "http://shares.example/lost", "500", "a reference to nothing"),
    _row("gateway", "https://gw.example/", "404", "no listener of HTTPS"),
]


def services() -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]},
        }
        for name in (*SERVICES, "idle")
    ]


def objects(world: str) -> Inventory:
    """Return the objects of a world."""
    shared = [*yaml.safe_load_all(CLASS), *yaml.safe_load_all(GATEWAY)]
    documents = [*shared, *services(), *WORLDS[world]]
    for number, document in enumerate(documents):
        document["metadata"]["resourceVersion"] = str(number + 1)
    return inventory(documents)
