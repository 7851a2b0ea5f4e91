"""Which addresses of the balancer's pool Services of type LoadBalancer get, and which they keep."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netlab import controllers
from netlab.controllers import loadbalancers
from netlab.controllers.declaration import ANNOTATION
from netlab.model.inventory import inventory
from netlab.model.kubernetes import Document
from netlab.model.lab import Balancer

POOL = Balancer("192.168.50.5", ["192.168.50.200-192.168.50.202"])
ONE = Balancer("192.168.50.5", ["192.168.50.200"])


def service(name: str, *, held: str = "", born: str = "", **spec: Any) -> Document:
    """Return a Service of type LoadBalancer that has the address *held*."""
    annotations = spec.pop("annotations", {})
    made: Document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "default",
            "name": name,
            "creationTimestamp": born,
            "annotations": annotations,
        },
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}], **spec},
    }
    if held:
        made["status"] = {"loadBalancer": {"ingress": [{"ip": held, "ipMode": "VIP"}]}}
    return made


def addresses(services: list[Document], balancer: Balancer | None) -> dict[str, str]:
    """Return the address each of *services* has once nothing is left to change."""
    held = {one["metadata"]["name"]: one for one in services}
    for change in loadbalancers.given(services, balancer):
        held[change.document["metadata"]["name"]] = change.document
    assert loadbalancers.given(list(held.values()), balancer) == []
    return {name: loadbalancers._held(one) for name, one in held.items()}


def problems(services: list[Document], balancer: Balancer | None) -> list[str]:
    facts = loadbalancers.told(loadbalancers.given(services, balancer), inventory(services))
    return [one.message for one in facts if one.warning]


NEW, OLD = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
CASES = {
    "the first free one": ([service("a")], {"a": ".200"}),
    "each another": ([service("a"), service("b")], {"a": ".200", "b": ".201"}),
    "the older one first": (
        [service("a", born=NEW), service("b", born=OLD)],
        {"a": ".201", "b": ".200"},
    ),
    "kept while it lives": (
        [service("a", held="192.168.50.202"), service("b")],
        {"a": ".202", "b": ".200"},
    ),
    "what is asked for": ([service("a", loadBalancerIP="192.168.50.201")], {"a": ".201"}),
    "asked for, with leading zeros": (
        [service("a", loadBalancerIP="192.168.050.201")],
        {"a": ".201"},
    ),
    "asked for comes before the first free one": (
        [service("a"), service("b", loadBalancerIP="192.168.50.200")],
        {"a": ".201", "b": ".200"},
    ),
    "held comes before asked for": (
        [service("a", held="192.168.50.200"), service("b", loadBalancerIP="192.168.50.200")],
        {"a": ".200", "b": ""},
    ),
    "another one asked for later": (
        [service("a", held="192.168.50.200", loadBalancerIP="192.168.50.201")],
        {"a": ".201"},
    ),
    "two that hold one": (
        [service("a", held="192.168.50.200"), service("b", held="192.168.50.200")],
        {"a": ".200", "b": ".201"},
    ),
    "one of another pool": ([service("a", held="10.1.2.3")], {"a": ".200"}),
    "more than there are": (
        [service(name) for name in "abcd"],
        {"a": ".200", "b": ".201", "c": ".202", "d": ""},
    ),
    "its own class": ([service("a", loadBalancerClass="netlab.io/balancer")], {"a": ".200"}),
    "another class": (
        [service("a", loadBalancerClass="example.org/lb"), service("b")],
        {"a": "", "b": ".200"},
    ),
    "the status of another class is left": (
        [service("a", held="192.168.50.200", loadBalancerClass="example.org/lb")],
        {"a": ".200"},
    ),
    "released with the type": ([service("a", held="192.168.50.200", type="NodePort")], {"a": ""}),
    "another's address stays with another type": (
        [service("a", held="10.1.2.3", type="NodePort")],
        {"a": "10.1.2.3"},
    ),
    "outside the pool": ([service("a", loadBalancerIP="192.168.50.203")], {"a": ""}),
    "refused its node ports": (
        [
            {
                **service("a"),
                "status": {
                    "conditions": [{"type": "Allocated", "status": "False", "message": "no port"}]
                },
            }
        ],
        {"a": ""},
    ),
    "nothing to send to": (
        [
            service(
                "a",
                annotations={"netlab.io/ip-mode": "Proxy"},
                allocateLoadBalancerNodePorts=False,
                ports=[{"port": 80}],
            )
        ],
        {"a": ""},
    ),
    "no node ports needed": (
        [service("a", allocateLoadBalancerNodePorts=False, ports=[{"port": 80}])],
        {"a": ".200"},
    ),
    "a mode there is not": (
        [service("a", annotations={"netlab.io/ip-mode": "proxy"})],
        {"a": ""},
    ),
    "no mapping at all": ([{**service("a"), "spec": ["LoadBalancer"], "status": 3}], {"a": ""}),
}


@pytest.mark.parametrize(("services", "expected"), CASES.values(), ids=CASES)
def test_a_service_gets_an_address(services: list[Document], expected: dict[str, str]) -> None:
    whole = {
        name: f"192.168.50{each}" if each.startswith(".") else each
        for name, each in expected.items()
    }
    assert addresses(services, POOL) == whole


REFUSED = {
    "exhausted": (
        [service("a"), service("b")],
        ONE,
        "no address of 192.168.50.200 is free",
    ),
    "outside": (
        [service("a", loadBalancerIP="10.0.0.1")],
        ONE,
        "loadBalancerIP 10.0.0.1 is not in 192.168.50.200",
    ),
    "no address": (
        [service("a", loadBalancerIP="here")],
        ONE,
        "loadBalancerIP here is not in 192.168.50.200",
    ),
    "taken": (
        [service("a", held="192.168.50.200"), service("b", loadBalancerIP="192.168.50.200")],
        ONE,
        "loadBalancerIP 192.168.50.200 belongs to Service default/a",
    ),
    "no balancer": ([service("a")], None, loadbalancers.NO_BALANCER),
    "no such mode": (
        [service("a", annotations={"netlab.io/ip-mode": "vip"})],
        ONE,
        "annotation netlab.io/ip-mode: vip is neither VIP nor Proxy",
    ),
}


@pytest.mark.parametrize(("services", "balancer", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_given_is_told(
    services: list[Document], balancer: Balancer | None, why: str
) -> None:
    assert problems(services, balancer) == [f"Error syncing load balancer: {why}"]


def test_a_service_of_another_class_is_not_told_anything() -> None:
    assert problems([service("a", loadBalancerClass="example.org/lb")], ONE) == []
    assert problems([service("a", loadBalancerClass="example.org/lb")], None) == []


def test_the_mode_is_the_labs_or_the_services_own() -> None:
    services = [service("a"), service("b", annotations={"netlab.io/ip-mode": "VIP"})]
    given = loadbalancers.given(services, Balancer("192.168.50.5", POOL.pool, ipMode="Proxy"))
    modes = {
        change.document["metadata"]["name"]: one["ipMode"]
        for change in given
        for one in change.document["status"]["loadBalancer"]["ingress"]
    }
    assert modes == {"a": "Proxy", "b": "VIP"}


def test_without_a_balancer_only_what_a_user_declared_stays() -> None:
    declared = {"status": {"loadBalancer": {"ingress": [{"ip": "10.1.2.3", "ipMode": "VIP"}]}}}
    mine = service("mine", held="10.1.2.3", annotations={ANNOTATION: json.dumps(declared)})
    assert addresses([mine, service("left", held="192.168.50.200")], None) == {
        "mine": "10.1.2.3",
        "left": "",
    }


def test_a_released_address_goes_to_whom_it_was_missing() -> None:
    held, waiting = service("a", held="192.168.50.200"), service("b")
    assert addresses([held, waiting], ONE)["b"] == ""
    assert addresses([waiting], ONE)["b"] == "192.168.50.200"


def test_the_controllers_give_the_address_in_one_pass() -> None:
    documents = inventory([service("a", ports=[{"port": 80}])])
    change, event = controllers.changes(documents, capacity={}, balancer=POOL)
    assert (event.document["kind"], event.document["reason"]) == ("Event", "EnsuredLoadBalancer")
    ingress = change.document["status"]["loadBalancer"]["ingress"]
    assert ingress == [{"ip": "192.168.50.200", "ipMode": "VIP"}]
    assert change.document["spec"]["ports"][0]["nodePort"]
