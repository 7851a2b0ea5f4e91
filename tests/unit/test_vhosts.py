"""Ingresses and HTTPRoutes into virtual hosts, and these into text for nginx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import vhost_cases
from vhost_cases import ROWS, Row, ingress, objects, path

from netlab import vhosts
from netlab.model.inventory import inventory
from netlab.vhosts import Settings, backends, choice, nginx, status
from netlab.vhosts.model import HTTP, Match, Note, Route, Routing

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
HERE = nginx.Surroundings("/etc/nginx", {"": "/etc/nginx/certificates/default.pem"})


def routed(world: str, **settings: Any) -> Routing:
    return vhosts.routing(objects(world), Settings(**settings))


def answer(row: Row) -> str:
    """What the model says becomes of a request."""
    url = urlsplit(row.request)
    given = routed(row.world)
    host = choice.host_of(given.hosts, url.netloc)
    plain = unquote(url.path).replace("/x/..", "")  # as nginx has it then
    route = choice.route_of(host, url.scheme, plain) if host else None
    if route is None:
        return "404"
    if route.to_https and url.scheme == HTTP:
        return row.request.replace("http:", "https:")
    port = route.targets[0].port
    if port is None:
        return "500"
    return port.service if port.service in vhost_cases.SERVICES else "503"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_request_takes_the_route_it_should(row: Row) -> None:
    assert answer(row) == row.answer


def _walked(locations: dict[str, Route | None], at: str) -> Route | None:
    """What nginx does with its locations: `=` first, then the longest prefix."""
    exact = f"= {nginx.quoted(at)}"
    if exact in locations:
        return locations[exact]
    plain = {key.strip('"').replace('\\"', '"').replace("\\\\", "\\"): route
             for key, route in locations.items() if not key.startswith("=")}  # fmt: skip
    found = [key for key in plain if at.startswith(key)]
    return plain[max(found, key=len)] if found else None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_locations_say_what_the_model_says(row: Row) -> None:
    url = urlsplit(row.request)
    host = choice.host_of(routed(row.world).hosts, url.netloc)
    if host is not None:
        plain = unquote(url.path).replace("/x/..", "")
        walked = _walked(nginx.locations(host, url.scheme), plain)
        assert walked == choice.route_of(host, url.scheme, plain)


@pytest.mark.parametrize("world", vhost_cases.WORLDS)
def test_the_text_is_the_golden_one(world: str) -> None:
    """To see what changed: NETLAB_GOLDEN=1 pytest writes it anew; then git diff."""
    import os

    text = nginx.configuration(routed(world), Settings(), HERE)
    file = GOLDEN / f"nginx-{world}.conf"
    if os.environ.get("NETLAB_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def said(given: Routing) -> list[str]:
    return [f"{one.about['metadata']['name']}: {one.reason}: {one.message}" for one in given.notes]


def test_what_is_wrong_is_said_of_the_object_it_is_wrong_with() -> None:
    assert said(routed("conflicts")) == [
        "gone: BackendNotFound: no Service default/missing: answered with 503",
        "regex: Rejected: paths that are regular expressions are not served here (use-regex, $1)",
        "young: Conflict: twice.example/x (Prefix) is served by Ingress default/aged,"
        " which is older",
        "same-b: Conflict: tie.example/ (Prefix) is served by Ingress default/same-a,"
        " which is older",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda spec: spec.update(annotations={"nginx.ingress.kubernetes.io/limit-rps": "5"}),
         "AnnotationIgnored: nginx.ingress.kubernetes.io/limit-rps has no effect here"),
        (lambda spec: spec.update(port={"name": "https"}),
         "BackendNotFound: Service default/a has no port https: answered with 503"),
        (lambda spec: spec.update(klass="typo"),
         "IngressClassNotFound: no IngressClass typo: no controller serves this Ingress"),
        (lambda spec: spec.update(resource={"kind": "Bucket", "name": "b"}),
         "Rejected: a backend of kind Bucket is not served here (a Service)"),
        (lambda spec: spec.update(paths="x"), "Rejected: cannot be read: "),
    ],
    ids=["annotation", "port", "class", "resource", "garbled"],
)  # fmt: skip
def test_an_ingress_that_cannot_be_served_is_told(
    change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    wanted: dict[str, Any] = {}
    change(wanted)
    one = ingress("one", {"one.example": [path("Prefix", "/", "a")]})
    backend = one["spec"]["rules"][0]["http"]["paths"][0]["backend"]
    one["metadata"]["annotations"] = wanted.get("annotations", {})
    if "port" in wanted:
        backend["service"]["port"] = wanted["port"]
    if "klass" in wanted:
        one["spec"]["ingressClassName"] = wanted["klass"]
    if "resource" in wanted:
        del backend["service"]
        backend["resource"] = wanted["resource"]
    if "paths" in wanted:
        one["spec"]["rules"][0]["http"]["paths"] = wanted["paths"]
    given = vhosts.routing(inventory([*objects("hosts"), one]), Settings())
    (line,) = [text for text in said(given) if text.startswith("one: ")]
    assert line.startswith(f"one: {expected}")


@pytest.mark.parametrize(
    ("klass", "settings"),
    [("other", {}), ("typo", {"namespace": "elsewhere"})],
    ids=["of another controller", "outside its namespace"],
)
def test_an_ingress_that_is_somebody_elses_is_not_spoken_of(
    klass: str, settings: dict[str, Any]
) -> None:
    one = ingress("one", {"one.example": [path("Prefix", "/", "a")]}, ingressClassName=klass)
    given = vhosts.routing(inventory([*objects("hosts"), one]), Settings(**settings))
    assert [text for text in said(given) if text.startswith("one: ")] == []


@pytest.mark.parametrize(
    ("settings", "host", "expected"),
    [
        ({}, "none.example", None),
        ({"without_class": True}, "none.example", "c"),
        ({"controller_class": "example.org/other"}, "other.example", "c"),
        ({"namespace": "elsewhere"}, "one.foo.example", None),
        ({"default_backend": "default/d", "namespace": "elsewhere"}, "any.example", "d"),
        ({"default_backend": "default/d"}, "any.example", "rest"),
        ({"ingress_class": "older"}, "annotated.example", "rest"),
    ],
    ids=["class", "without class", "controller", "namespace", "backend", "asked", "annotation"],
)
def test_a_controller_serves_whom_it_is_told_to(
    settings: dict[str, Any], host: str, expected: str | None
) -> None:
    given = routed("hosts", **settings)
    found = choice.host_of(given.hosts, host)
    route = choice.route_of(found, HTTP, "/") if found else None
    if expected is None:
        assert route is None or route.targets[0].port.service == "rest"  # type: ignore[union-attr]
    else:
        assert route is not None and route.targets[0].port is not None
        assert route.targets[0].port.service == expected


# -- endpoints


def piece(name: str, *ends: dict[str, Any], port: str = "http", number: int = 80) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "a"},
        },
        "addressType": "IPv4",
        "ports": [{"name": port, "port": number}],
        "endpoints": list(ends),
    }


def end(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([], []),
        ([piece("x", end("10.0.0.1"), end("10.0.0.2", ready=True))], ["10.0.0.1", "10.0.0.2"]),
        ([piece("x", end("10.0.0.1", ready=False), end("10.0.0.2", ready=True))], ["10.0.0.2"]),
        ([piece("x", end("10.0.0.2")), piece("y", end("10.0.0.1"))], ["10.0.0.1", "10.0.0.2"]),
        ([piece("x", end("10.0.0.1", ready=False, serving=True, terminating=True))], ["10.0.0.1"]),
        ([piece("x", end("10.0.0.1", ready=False, serving=True, terminating=True),
                end("10.0.0.2", ready=True))], ["10.0.0.2"]),
        ([piece("x", end("10.0.0.1", ready=False, serving=False, terminating=True))], []),
        ([piece("x", end("10.0.0.1"), port="metrics", number=9090)], []),
    ],
    ids=["none", "ready by default", "not ready", "two slices", "all ending", "some ending",
         "ended", "another port"],
)  # fmt: skip
def test_endpoints_are_those_that_serve(slices: list[dict[str, Any]], expected: list[str]) -> None:
    port = vhosts.model.Port("default", "a", 80)
    found = backends.endpoints(inventory([*vhost_cases.services(), *slices]), {"x": port})
    assert found == {"x": tuple((address, 80) for address in expected)}


def test_the_endpoints_are_a_line_for_each_backend() -> None:
    text = nginx.endpoints_text({"n/b:80": (), "n/a:80": (("10.0.0.1", 80), ("10.0.0.2", 81))})
    assert text == "n/a:80 10.0.0.1:80 10.0.0.2:81\nn/b:80 \n"


# -- what is written back


def service(**spec: Any) -> dict[str, Any]:
    given = spec.pop("given", [])
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "pub", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", **spec},
        "status": {"loadBalancer": {"ingress": given}},
    }


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (service(), [{"ip": "10.96.0.7"}]),
        (service(type="NodePort"), [{"ip": "10.96.0.7"}]),
        (service(type="NodePort", externalIPs=["192.0.2.1"]), [{"ip": "192.0.2.1"}]),
        (service(type="LoadBalancer"), []),
        (service(type="LoadBalancer", given=[{"ip": "192.0.2.9", "ipMode": "VIP"}]),
         [{"ip": "192.0.2.9"}]),
        (service(type="LoadBalancer", given=[{"hostname": "lb.example"}]),
         [{"hostname": "lb.example"}]),
        (service(type="ExternalName", externalName="x.example"), [{"hostname": "x.example"}]),
    ],
    ids=["ClusterIP", "NodePort", "external IPs", "pending", "balancer", "by name", "a name"],
)  # fmt: skip
def test_the_address_of_an_ingress_is_its_controllers(
    published: dict[str, Any], expected: list[dict[str, str]]
) -> None:
    settings = Settings(publish_service="default/pub")
    assert status.addresses(inventory([published]), settings) == expected


def test_a_status_is_written_once() -> None:
    settings = Settings(publish_service="default/pub")
    for world in ("paths", "gateway"):
        held = inventory([*objects(world), service()])
        changes = status.changes(vhosts.routing(held, settings), held, settings)
        assert changes
        after = inventory([*held, *(one.document for one in changes)])
        assert status.changes(vhosts.routing(after, settings), after, settings) == []


def test_a_note_is_about_what_its_user_wrote() -> None:
    (note,) = [one for one in routed("conflicts").notes if one.reason == "BackendNotFound"]
    assert isinstance(note, Note)
    assert note.about["kind"] == "Ingress"
    assert note.kind == "Warning"
    assert Match("Exact") is Match.EXACT


# -- conditions of the Gateway API


def conditions(kind: str, name: str, *documents: dict[str, Any]) -> dict[str, str]:
    """The reasons of the conditions that an object gets, and their status."""
    given = vhosts.routing(inventory([*objects("hosts"), *documents]), Settings())
    for one in given.attached:
        if (one.document["kind"], one.document["metadata"]["name"]) == (kind, name):
            found = one.status
            listed = found["parents"][0]["conditions"] if "parents" in found else []
            listed = listed or found["conditions"]
            return {each["type"]: f"{each['status']} {each['reason']}" for each in listed}
    return {}


def http_route(**spec: Any) -> dict[str, Any]:
    made = vhost_cases.route("r", [("PathPrefix", "/", {"a": 1})], "r.example")
    made["spec"].update(spec)
    return made


def refs(**backend: Any) -> list[dict[str, Any]]:
    return [{"backendRefs": [{"name": "a", "port": 80, **backend}]}]


FINE = {"Accepted": "True Accepted", "ResolvedRefs": "True ResolvedRefs"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, FINE),
        ({"parentRefs": [{"name": "web", "sectionName": "http"}]}, FINE),
        ({"parentRefs": [{"name": "other"}]}, {}),
        ({"parentRefs": [{"name": "web", "kind": "Service", "group": ""}]}, {}),
        ({"parentRefs": [{"name": "web", "sectionName": "no"}]},
         {"Accepted": "False NoMatchingParent"}),
        ({"parentRefs": [{"name": "web", "port": 81}]}, {"Accepted": "False NoMatchingParent"}),
        ({"parentRefs": [{"name": "web", "sectionName": "only"}]},
         {"Accepted": "False NoMatchingListenerHostname"}),
        ({"rules": [{"filters": [{"type": "URLRewrite"}]}]},
         {"Accepted": "False UnsupportedValue"}),
        ({"rules": [{"matches": [{"headers": [{"name": "x", "value": "y"}]}]}]},
         {"Accepted": "False UnsupportedValue"}),
        ({"rules": [{"matches": [{"method": "GET"}]}]}, {"Accepted": "False UnsupportedValue"}),
        ({"rules": [{"matches": [{"path": {"type": "RegularExpression", "value": "/x"}}]}]},
         {"Accepted": "False UnsupportedValue"}),
        ({"rules": [{"timeouts": {"request": "1s"}}]}, {"Accepted": "False UnsupportedValue"}),
        ({"rules": refs(name="missing")}, {"ResolvedRefs": "False BackendNotFound"}),
        ({"rules": refs(port=81)}, {"ResolvedRefs": "False BackendNotFound"}),
        ({"rules": refs(kind="Bucket")}, {"ResolvedRefs": "False InvalidKind"}),
        ({"rules": refs(namespace="shop")}, {"ResolvedRefs": "False RefNotPermitted"}),
    ],
    ids=["fine", "section", "another Gateway", "a mesh's parent", "no such section",
         "another port", "host name", "filter", "header", "method", "regex", "timeout",
         "no Service", "no port", "no Service's kind", "another namespace"],
)  # fmt: skip
def test_a_route_is_told_whether_it_is_served(
    spec: dict[str, Any], expected: dict[str, str]
) -> None:
    assert conditions("HTTPRoute", "r", http_route(**spec)) == ({**FINE, **expected} if expected
                                                                else {})  # fmt: skip


def test_a_grant_permits_what_it_names() -> None:
    shop = {**vhost_cases.services()[0], "metadata": {"name": "a", "namespace": "shop"}}
    grant: dict[str, Any] = {
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "g", "namespace": "shop"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute",
                      "namespace": "default"}],
            "to": [{"group": "", "kind": "Service"}],
        },
    }  # fmt: skip
    wanted = http_route(rules=refs(namespace="shop"))
    assert conditions("HTTPRoute", "r", wanted, shop, grant) == FINE
    grant["spec"]["to"][0]["name"] = "b"
    refused = conditions("HTTPRoute", "r", wanted, shop, grant)
    assert refused["ResolvedRefs"] == "False RefNotPermitted"


def gateway(*listeners: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"gatewayClassName": "nginx", "listeners": list(listeners)},
    }


PLAIN_HTTP = {"name": "a", "port": 80, "protocol": "HTTP"}


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        ({}, {}),
        ({"port": 8080}, {"Accepted": "False PortUnavailable"}),
        ({"protocol": "TCP"}, {"Accepted": "False UnsupportedProtocol"}),
        ({"protocol": "HTTPS", "port": 443, "tls": {"certificateRefs": [{"name": "no"}]}},
         {"ResolvedRefs": "False InvalidCertificateRef"}),
        ({"protocol": "HTTPS", "port": 443,
          "tls": {"certificateRefs": [{"name": "no", "namespace": "shop"}]}},
         {"ResolvedRefs": "False RefNotPermitted"}),
        ({"protocol": "HTTPS", "port": 443, "tls": {"mode": "Passthrough"}},
         {"ResolvedRefs": "False InvalidCertificateRef"}),
    ],
    ids=["fine", "port", "protocol", "no Secret", "another namespace", "passthrough"],
)  # fmt: skip
def test_a_listener_is_told_whether_it_is_served(
    listener: dict[str, Any], expected: dict[str, str]
) -> None:
    one = gateway({**PLAIN_HTTP, **listener})
    given = vhosts.routing(inventory([*objects("gateway"), one]), Settings())
    (mine,) = [each for each in given.attached if each.document["metadata"]["name"] == "g"]
    (shown,) = mine.status["listeners"]
    found = {each["type"]: f"{each['status']} {each['reason']}" for each in shown["conditions"]}
    fine = "False Invalid" if expected else "True Programmed"
    assert found == {**FINE, "Programmed": fine, "Conflicted": "False NoConflicts", **expected}


@pytest.mark.parametrize(
    ("allowed", "attached"),
    [
        ({}, 0),
        ({"namespaces": {"from": "All"}}, 1),
        ({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "x"}}}}, 1),
        ({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "y"}}}}, 0),
        ({"namespaces": {"from": "All"}, "kinds": [{"kind": "TCPRoute"}]}, 0),
    ],
    ids=["same namespace", "all", "by label", "by another label", "another kind"],
)
def test_a_listener_lets_in_whom_it_allows(allowed: dict[str, Any], attached: int) -> None:
    one = gateway({**PLAIN_HTTP, "allowedRoutes": allowed})
    space = {"apiVersion": "v1", "kind": "Namespace",
             "metadata": {"name": "shop", "labels": {"team": "x"}}}  # fmt: skip
    wanted = http_route(parentRefs=[{"name": "g", "namespace": "default"}])
    wanted["metadata"]["namespace"] = "shop"
    given = vhosts.routing(inventory([*objects("gateway"), one, space, wanted]), Settings())
    (mine,) = [each for each in given.attached if each.document["metadata"]["name"] == "g"]
    assert mine.status["listeners"][0]["attachedRoutes"] == attached
