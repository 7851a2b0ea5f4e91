"""Cluster addresses, node ports and defaults of Services: given once, kept, refused with reason."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from controlled import CAPACITY, Store, name

from netlab import controllers
from netlab.controllers import Change, Verb, allocation, defaults
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document
from netlab.model.services import refusal

CIDR = "10.96.0.0/12"
UPPER = range(30086, 32768)  # above the band of 86 that is left to users
PORTS = [{"port": 80}]


def service(title: str = "web", *, born: str = "", **spec: Any) -> Document:
    whole = {"selector": {"app": "web"}, "ports": PORTS, **spec}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": title,
            "namespace": "default",
            "uid": f"uid-{title}",
            "creationTimestamp": born or "2026-01-01T00:00:00Z",
        },
        "spec": {key: value for key, value in whole.items() if value is not None},
    }


def declared(document: Document) -> Document:
    meta = {key: document["metadata"][key] for key in ("name", "namespace")}
    return {**document, "metadata": meta}


def given(*services: Document, cidr: str = CIDR) -> dict[str, Document]:
    """Return the Services by name after one call, which must be enough."""
    by_name = {name(one): one for one in services}
    before = copy.deepcopy(services)
    for change in allocation.services(services, cidr):
        assert change.verb is Verb.UPDATE
        by_name[name(change.document)] = change.document
    assert services == before
    assert allocation.services(list(by_name.values()), cidr) == []
    return by_name


def specs(*services: Document, cidr: str = CIDR) -> dict[str, Document]:
    return {title: one["spec"] for title, one in given(*services, cidr=cidr).items()}


def test_a_cluster_ip_gets_all_an_api_server_gives() -> None:
    spec = specs(service())["web"]
    address = spec.pop("clusterIP")
    assert IPv4Address("10.96.1.1") <= IPv4Address(address) <= IPv4Address("10.111.255.254")
    assert spec == {
        "selector": {"app": "web"},
        "type": "ClusterIP",
        "clusterIPs": [address],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    }


FILLED = {
    "type": ({}, "type", "ClusterIP"),
    "no external policy for a cluster IP": ({}, "externalTrafficPolicy", None),
    "external policy with externalIPs": (
        {"externalIPs": ["192.0.2.1"]},
        "externalTrafficPolicy",
        "Cluster",
    ),
    "external policy": ({"type": "NodePort"}, "externalTrafficPolicy", "Cluster"),
    "a given external policy": (
        {"type": "NodePort", "externalTrafficPolicy": "Local"},
        "externalTrafficPolicy",
        "Local",
    ),
    "internal policy": ({"type": "LoadBalancer"}, "internalTrafficPolicy", "Cluster"),
    "no internal policy for a name": ({"type": "ExternalName"}, "internalTrafficPolicy", None),
    "affinity for three hours": (
        {"sessionAffinity": "ClientIP"},
        "sessionAffinityConfig",
        {"clientIP": {"timeoutSeconds": 10800}},
    ),
    "a given affinity": (
        {
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
        },
        "sessionAffinityConfig",
        {"clientIP": {"timeoutSeconds": 5}},
    ),
    "no affinity, no timeout": (
        {"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}},
        "sessionAffinityConfig",
        None,
    ),
    "node ports of a load balancer": (
        {"type": "LoadBalancer"},
        "allocateLoadBalancerNodePorts",
        True,
    ),
}


@pytest.mark.parametrize(("spec", "field", "expected"), FILLED.values(), ids=FILLED)
def test_defaults_are_the_api_servers(spec: Document, field: str, expected: object) -> None:
    found = defaults.filled(spec)
    assert found.get(field) == expected
    assert defaults.filled(found) == found


def test_ports_get_protocol_and_target() -> None:
    ports = [{"port": 53, "protocol": "UDP", "targetPort": "dns"}, {"port": 80}]
    assert defaults.filled({"ports": ports})["ports"] == [
        {"port": 53, "protocol": "UDP", "targetPort": "dns"},
        {"port": 80, "protocol": "TCP", "targetPort": 80},
    ]


WITHOUT = {
    "headless": ({"clusterIP": "None"}, ("None", ["None"], ["IPv4"], "SingleStack")),
    "headless, by hand": (
        {"clusterIP": "None", "selector": None},
        ("None", ["None"], ["IPv4", "IPv6"], "RequireDualStack"),
    ),
    "headless, by hand, one family": (
        {"clusterIP": "None", "selector": None, "ipFamilyPolicy": "SingleStack"},
        ("None", ["None"], ["IPv4"], "SingleStack"),
    ),
    "a name": ({"type": "ExternalName", "externalName": "x.org"}, (None, None, None, None)),
    "two families if there were": (
        {"clusterIP": "10.96.0.9", "ipFamilyPolicy": "PreferDualStack"},
        ("10.96.0.9", ["10.96.0.9"], ["IPv4"], "PreferDualStack"),
    ),
}


@pytest.mark.parametrize(("spec", "expected"), WITHOUT.values(), ids=WITHOUT)
def test_families_and_what_needs_no_address(spec: Document, expected: tuple[object, ...]) -> None:
    found = specs(service(**spec))["web"]
    fields = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
    assert tuple(found.get(field) for field in fields) == expected
    assert not any("nodePort" in port for port in found["ports"])


def test_addresses_and_ports_are_given_once() -> None:
    found = specs(*(service(f"s{n}", type="NodePort") for n in range(300)))
    assert len({spec["clusterIP"] for spec in found.values()}) == 300
    ports = {spec["ports"][0]["nodePort"] for spec in found.values()}
    assert len(ports) == 300
    assert ports <= set(UPPER)


def test_a_lab_brought_up_again_gets_the_same() -> None:
    assert specs(service(type="NodePort")) == specs(service(type="NodePort"))
    assert specs(service())["web"]["clusterIP"] != specs(service("db"))["db"]["clusterIP"]


BANDS = {
    "10.96.0.0/12": 256,
    "10.96.0.0/20": 256,
    "10.96.0.0/22": 64,
    "10.96.0.0/24": 16,
    "10.96.0.0/27": 16,
    "10.96.0.0/28": 0,
    "10.96.0.0/31": 0,
}


@pytest.mark.parametrize(("cidr", "band"), BANDS.items())
def test_the_lower_band_of_addresses(cidr: str, band: int) -> None:
    assert allocation.address_band(cidr) == band


@pytest.mark.parametrize(
    ("count", "band"), [(2768, 86), (16, 0), (17, 16), (640, 20), (10_000, 128)]
)
def test_the_lower_band_of_node_ports(count: int, band: int) -> None:
    assert allocation.port_band(range(30000, 30000 + count)) == band


def test_the_lower_band_is_used_last_and_network_and_broadcast_never() -> None:
    cidr = "10.96.0.0/27"  # 30 addresses; the lower band: .1 to .16
    some = [service(f"s{n:02}") for n in range(14)]
    found = {spec["clusterIP"] for spec in specs(*some, cidr=cidr).values()}
    assert found == {f"10.96.0.{n}" for n in range(17, 31)}
    more = [service(f"s{n:02}") for n in range(31)]
    services = given(*more, cidr=cidr)
    found = {one["spec"].get("clusterIP") for one in services.values()}
    assert found == {str(host) for host in IPv4Network(cidr).hosts()} | {None}
    (without,) = [one for one in services.values() if refusal(one)]
    assert refusal(without) == "clusterIP: no address of 10.96.0.0/27 is free"
    assert without["spec"] == more[0]["spec"]


def test_what_a_file_names_comes_before_what_is_chosen() -> None:
    chosen = specs(service("a", type="NodePort"))["a"]
    address, port = chosen["clusterIP"], chosen["ports"][0]["nodePort"]
    named = service("z", type="NodePort", clusterIP=address, ports=[{"port": 80, "nodePort": port}])
    found = specs(service("a", type="NodePort"), named)
    assert (found["z"]["clusterIP"], found["z"]["ports"][0]["nodePort"]) == (address, port)
    assert found["a"]["clusterIP"] != address
    assert found["a"]["ports"][0]["nodePort"] != port


def node_ports(spec: Document) -> list[int | None]:
    return [port.get("nodePort") for port in spec["ports"]]


def test_every_port_of_a_node_port_service_has_its_own() -> None:
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30001}]
    first, second = node_ports(specs(service(type="NodePort", ports=ports))["web"])
    assert first in UPPER
    assert second == 30001


def test_one_number_over_two_protocols_shares_its_node_port() -> None:
    ports = [
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "tcp", "port": 53},
        {"name": "more", "port": 54},
    ]
    udp, tcp, more = node_ports(specs(service(type="NodePort", ports=ports))["web"])
    assert udp == tcp != more
    ports[1]["nodePort"] = 30053
    udp, tcp, _ = node_ports(specs(service(type="NodePort", ports=ports))["web"])
    assert udp == tcp == 30053


HEALTH = {
    "local load balancer": ({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, True),
    "cluster load balancer": ({"type": "LoadBalancer"}, False),
    "local node port": ({"type": "NodePort", "externalTrafficPolicy": "Local"}, False),
}


@pytest.mark.parametrize(("spec", "checked"), HEALTH.values(), ids=HEALTH)
def test_a_local_load_balancer_has_a_health_check_port(spec: Document, checked: bool) -> None:
    found = specs(service(**spec))["web"]
    assert (found.get("healthCheckNodePort") in UPPER) == checked
    assert found.get("healthCheckNodePort") not in node_ports(found)
    assert specs(service(**spec, healthCheckNodePort=30005))["web"]["healthCheckNodePort"] == 30005


def test_a_load_balancer_may_do_without_node_ports() -> None:
    spec = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}
    assert node_ports(specs(service(**spec))["web"]) == [None]


def with_port(number: int, title: str = "web", **more: Any) -> Document:
    ports = [{"port": 80, "nodePort": number}]
    return service(title, **{"type": "NodePort", "ports": ports, **more})


FIRST = service("db", born="2025-01-01T00:00:00Z", type="NodePort", clusterIP="10.96.0.9")
FIRST["spec"]["ports"] = [{"port": 80, "nodePort": 30009}]
REFUSED = {
    "taken address": (
        service(clusterIP="10.96.0.9"),
        "clusterIP 10.96.0.9 belongs to Service default/db",
    ),
    "outside": (
        service(clusterIP="10.95.0.9"),
        "clusterIP 10.95.0.9 is not a host's address of 10.96.0.0/12",
    ),
    "the network's": (
        service(clusterIP="10.96.0.0"),
        "clusterIP 10.96.0.0 is not a host's address of 10.96.0.0/12",
    ),
    "the broadcast": (
        service(clusterIP="10.111.255.255"),
        "clusterIP 10.111.255.255 is not a host's address of 10.96.0.0/12",
    ),
    "not an address": (service(clusterIP="x"), "clusterIP x is not an IPv4 address"),
    "IPv6": (service(clusterIP="fd00::1"), "clusterIP fd00::1 is not an IPv4 address"),
    "taken port": (with_port(30009), "nodePort 30009 belongs to Service default/db"),
    "port too low": (with_port(29999), "nodePort 29999 is not in 30000-32767"),
    "port too high": (with_port(32768), "nodePort 32768 is not in 30000-32767"),
    "taken health check port": (
        service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30009),
        "healthCheckNodePort 30009 belongs to Service default/db",
    ),
    "health check on a node port": (
        with_port(
            30010, type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30010
        ),
        "healthCheckNodePort 30010 is also one of its nodePorts",
    ),
    "two families": (
        service(ipFamilyPolicy="RequireDualStack"),
        "ipFamilyPolicy RequireDualStack: the lab has IPv4 only",
    ),
    "the other family": (service(ipFamilies=["IPv6"]), "ipFamilies IPv6: the lab has IPv4 only"),
}


@pytest.mark.parametrize(("one", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_given_is_refused_with_the_reason(one: Document, reason: str) -> None:
    found = given(FIRST, one)
    (condition,) = found["web"]["status"]["conditions"]
    assert condition.pop("lastTransitionTime").endswith("Z")
    assert condition == {
        "type": "Allocated",
        "status": "False",
        "reason": "Refused",
        "message": reason,
    }
    assert found["web"]["spec"] == one["spec"]
    assert not refusal(found["db"])


def test_several_reasons_are_told_together() -> None:
    found = given(FIRST, with_port(30009, clusterIP="10.96.0.9"))
    assert refusal(found["web"]).count("belongs to") == 2


def test_who_holds_it_keeps_it() -> None:
    """The newcomer is older, but has asked for it later."""
    held = given(service("young", born="2026-02-02T00:00:00Z", clusterIP="10.96.0.9"))["young"]
    old = service("old", born="2025-01-01T00:00:00Z", clusterIP="10.96.0.9")
    found = given(old, held)
    assert refusal(found["old"]) == "clusterIP 10.96.0.9 belongs to Service default/young"
    assert found["young"] == held


def test_a_refusal_ends_with_its_reason() -> None:
    kept = {"type": "Other", "status": "True"}
    one = {**service(clusterIP="10.96.0.9"), "status": {"conditions": [kept]}}
    refused = given(FIRST, one)["web"]
    assert len(refused["status"]["conditions"]) == 2
    found = given(refused)["web"]
    assert found["status"] == {"conditions": [kept]}
    assert found["spec"]["clusterIPs"] == ["10.96.0.9"]


def test_a_refusal_keeps_its_time() -> None:
    refused = given(FIRST, service(clusterIP="10.96.0.9"))
    refused["web"]["status"]["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    assert allocation.services(list(refused.values()), CIDR) == []


# -- declared again


def stored(*services: Document) -> Store:
    store = Store()
    store.declare(*(declared(one) for one in services))
    store.settle()
    return store


def spec_of(store: Store, title: str = "web") -> Document:
    (found,) = [one for one in store.of("Service") if name(one) == title]
    return dict(found["spec"])


LOCAL = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
TWO = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]


def test_what_was_given_survives_a_change_of_the_file() -> None:
    store = stored(service(**LOCAL, ports=TWO))
    before = spec_of(store)
    other = [{"name": "c", "port": 82}, {"name": "b", "port": 8081}, {"name": "a", "port": 80}]
    store.declare(declared(service(**LOCAL, ports=other, selector={"app": "other"})))
    store.settle()
    after = spec_of(store)
    for field in ("clusterIP", "clusterIPs", "healthCheckNodePort", "ipFamilies"):
        assert after[field] == before[field]
    ports = {port["name"]: port["nodePort"] for port in after["ports"]}
    was = {port["name"]: port["nodePort"] for port in before["ports"]}
    assert (ports["a"], ports["b"]) == (was["a"], was["b"])
    assert ports["c"] not in was.values()
    assert after["selector"] == {"app": "other"}


def test_a_health_check_port_of_the_file_stays_when_the_file_is_silent() -> None:
    store = stored(service(**LOCAL, healthCheckNodePort=30005))
    store.declare(declared(service(**LOCAL)))
    store.settle()
    assert spec_of(store)["healthCheckNodePort"] == 30005


def test_a_type_without_node_ports_gives_them_back() -> None:
    store = stored(service(**LOCAL))
    before = spec_of(store)
    store.declare(declared(service()))
    store.settle()
    after = spec_of(store)
    assert after["clusterIP"] == before["clusterIP"]
    assert node_ports(after) == [None]
    assert "healthCheckNodePort" not in after


def test_an_address_is_given_up_for_another_one_for_none_and_for_a_name() -> None:
    store = stored(service())
    for spec, expected in (
        ({"clusterIP": "10.96.0.7"}, "10.96.0.7"),
        ({}, "10.96.0.7"),
        ({"clusterIP": "None"}, "None"),
    ):
        store.declare(declared(service(**spec)))
        store.settle()
        assert spec_of(store)["clusterIP"] == spec_of(store)["clusterIPs"][0] == expected
    store.declare(declared(service()))
    store.settle()
    assert spec_of(store)["clusterIP"].startswith("10.")
    store.declare(declared(service(type="ExternalName", externalName="x.org")))
    store.settle()
    assert "clusterIP" not in spec_of(store)


def test_a_port_given_to_another_name_is_not_kept_for_the_old() -> None:
    store = stored(service(type="NodePort", ports=TWO))
    was = spec_of(store)["ports"][0]["nodePort"]
    store.declare(declared(service(type="NodePort", ports=[TWO[0], {**TWO[1], "nodePort": was}])))
    store.settle()
    first, second = node_ports(spec_of(store))
    assert (second, first != was) == (was, True)


def test_a_refused_change_of_a_file_can_be_taken_back() -> None:
    store = stored(FIRST, service(type="NodePort"))
    before = spec_of(store)
    store.declare(declared(FIRST), declared(with_port(30009, clusterIP="10.96.0.9")))
    store.settle()
    assert spec_of(store)["clusterIP"] == "10.96.0.9"
    store.declare(declared(FIRST), declared(service(type="NodePort")))
    store.settle()
    assert refusal(next(one for one in store.of("Service") if name(one) == "web")) == ""
    assert spec_of(store)["clusterIP"] == before["clusterIP"]


def test_a_refused_port_does_not_cost_the_address() -> None:
    store = stored(FIRST, service("x"), service(type="NodePort"))
    address = spec_of(store)["clusterIP"]
    store.declare(*map(declared, (FIRST, service("x"), with_port(30009))))
    store.settle()
    assert spec_of(store)["clusterIP"] == address
    store.declare(*map(declared, (FIRST, service("x", clusterIP=address), with_port(30009))))
    store.settle()
    taken = next(one for one in store.of("Service") if name(one) == "x")
    assert refusal(taken) == f"clusterIP {address} belongs to Service default/web"


def test_what_a_deleted_service_had_is_free_again() -> None:
    store = stored(FIRST)
    (old,) = store.of("Service")
    store.make([Change(Verb.DELETE, old)])
    store.declare(declared(with_port(30009, clusterIP="10.96.0.9")))
    store.settle()
    (new,) = store.of("Service")
    assert (new["spec"]["clusterIP"], refusal(new)) == ("10.96.0.9", "")


def test_a_lab_has_a_range_of_its_own() -> None:
    objects = Inventory(Store(service()).objects)
    (change, *_) = controllers.changes(objects, capacity=CAPACITY, service_cidr="172.30.0.0/16")
    assert change.document["spec"]["clusterIP"].startswith("172.30.")


def balanced(*ingress: Document) -> Document:
    one = declared(service(type="LoadBalancer"))
    return {**one, "status": {"loadBalancer": {"ingress": list(ingress)}}} if ingress else one


def test_a_load_balancers_addresses_follow_the_file() -> None:
    store = Store()
    first, second = {"ip": "203.0.113.5"}, {"ip": "203.0.113.6", "ipMode": "Proxy"}
    condition = {"type": "Other", "status": "True"}
    for ingress in (first, second):
        store.declare(balanced(ingress))
        store.settle()
        (found,) = store.of("Service")
        assert found["status"]["loadBalancer"] == {"ingress": [ingress]}
        found["status"]["conditions"] = [condition]
    assert store.declare(balanced(second)) == []
    store.declare(balanced())
    (found,) = store.of("Service")
    assert found["status"] == {"conditions": [condition]}


def test_what_somebody_else_says_of_a_load_balancer_stays() -> None:
    store = Store()
    store.declare(balanced())
    store.settle()
    (found,) = store.of("Service")
    found["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}
    other = balanced()
    other["spec"] = {**other["spec"], "externalTrafficPolicy": "Local"}
    assert store.declare(other) == ["update Service web"]
    (after,) = store.of("Service")
    assert after["status"] == found["status"]
    store.declare(balanced({"ip": "203.0.113.5"}))
    (taken,) = store.of("Service")
    assert taken["status"] == {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}
    store.declare(balanced())
    (empty,) = store.of("Service")
    assert "status" not in empty
