"""Services and pods to EndpointSlices: who is an endpoint, in which slice, what is rewritten."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from controlled import Store, name, node

from netlab.controllers import Change, Verb, endpoints, mirroring
from netlab.controllers.slices import fitted
from netlab.model.kubernetes import Document, registry_key
from netlab.model.services import canonical

ZONE = "topology.kubernetes.io/zone"
NODES = [node("node1", {ZONE: "east"}), node("node2", {ZONE: "west"}), node("node3")]


def service(title: str = "web", *, meta: Document | None = None, **spec: Any) -> Document:
    whole = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **spec}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": title, "namespace": "default", "uid": f"uid-{title}", **(meta or {})},
        "spec": {key: value for key, value in whole.items() if value is not None},
    }


def pod(
    title: str,
    *,
    ip: str = "10.244.1.2",
    ready: bool = True,
    phase: str = "Running",
    meta: Document | None = None,
    **spec: Any,
) -> Document:
    labels = {"app": "web", "tier": "front"}
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"phase": phase, "conditions": conditions}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": title,
            "namespace": "default",
            "uid": f"uid-{title}",
            "labels": labels,
            **(meta or {}),
        },
        "spec": {"nodeName": "node1", "containers": [{"name": "c"}], **spec},
        "status": status | ({"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}),
    }


def many(count: int) -> list[Document]:
    return [pod(f"p{n:03}", ip=f"10.244.{n // 200}.{n % 200 + 2}") for n in range(count)]


def slices(store: Store) -> list[Document]:
    return store.of("EndpointSlice")


def addresses(store: Store) -> list[str]:
    return sorted(a for one in slices(store) for e in one["endpoints"] for a in e["addresses"])


def only_endpoint(one_service: Document, one_pod: Document) -> Document:
    store = Store(*NODES, one_service, one_pod)
    store.settle()
    (found,) = slices(store)
    (endpoint,) = found["endpoints"]
    return dict(endpoint)


def test_a_slice_is_what_kubernetes_writes() -> None:
    labels = {"team": "a", "endpointslice.kubernetes.io/managed-by": "mine"}
    labels["service.kubernetes.io/headless"] = ""  # it is not
    one = service(meta={"labels": labels}, ports=[{"name": "http", "port": 80, "targetPort": 8080}])
    store = Store(*NODES, one, pod("a"))
    store.settle()
    (found,) = slices(store)
    meta = found.pop("metadata")
    assert name({"metadata": meta})[:4] == "web-"
    assert len(meta.pop("name")) == len("web-") + 5
    assert meta.pop("uid")
    assert meta.pop("creationTimestamp")
    assert meta == {
        "generateName": "web-",
        "namespace": "default",
        "labels": {
            "team": "a",
            "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        },
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "name": "web",
                "uid": "uid-web",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    assert found == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {
                "addresses": ["10.244.1.2"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {
                    "kind": "Pod",
                    "namespace": "default",
                    "name": "a",
                    "uid": "uid-a",
                },
                "nodeName": "node1",
                "zone": "east",
            }
        ],
    }


GONE = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
CONDITIONS = {  # ready, serving, terminating
    "ready": (service(), pod("a"), (True, True, False)),
    "not ready": (service(), pod("a", ready=False), (False, False, False)),
    "terminating": (service(), pod("a", meta=GONE), (False, True, True)),
    "terminating, not ready": (service(), pod("a", ready=False, meta=GONE), (False, False, True)),
    "published, not ready": (
        service(publishNotReadyAddresses=True),
        pod("a", ready=False),
        (True, False, False),
    ),
    "published, terminating": (
        service(publishNotReadyAddresses=True),
        pod("a", meta=GONE),
        (True, True, True),
    ),
}


@pytest.mark.parametrize(("one", "a", "expected"), CONDITIONS.values(), ids=CONDITIONS)
def test_conditions_follow_the_pod(
    one: Document, a: Document, expected: tuple[bool, bool, bool]
) -> None:
    assert tuple(only_endpoint(one, a)["conditions"].values()) == expected


SELECTED = {
    "its labels": (service(), pod("a"), True),
    "all of several labels": (service(selector={"app": "web", "tier": "front"}), pod("a"), True),
    "one label missing": (service(selector={"app": "web", "tier": "back"}), pod("a"), False),
    "another value": (service(selector={"app": "db"}), pod("a"), False),
    "another namespace": (service(meta={"namespace": "kube-system"}), pod("a"), False),
    "no address yet": (service(), pod("a", ip=""), False),
    "succeeded": (service(), pod("a", phase="Succeeded"), False),
    "failed": (service(), pod("a", phase="Failed"), False),
    "pending with an address": (service(), pod("a", phase="Pending", ready=False), True),
    "host network": (service(), pod("a", ip="192.168.50.11", hostNetwork=True), True),
    "an address that is none": (service(), pod("a", ip="10.244.1"), False),
    "of the other family": (service(), pod("a", ip="fd00::2"), False),
    "headless": (service(clusterIP="None"), pod("a"), True),
    "headless without ports": (service(clusterIP="None", ports=None), pod("a"), True),
    "external name": (service(type="ExternalName", externalName="x.org"), pod("a"), False),
}


@pytest.mark.parametrize(("one", "a", "is_endpoint"), SELECTED.values(), ids=SELECTED)
def test_who_is_an_endpoint(one: Document, a: Document, is_endpoint: bool) -> None:
    store = Store(*NODES, one, a)
    store.settle()
    assert bool(addresses(store)) == is_endpoint


def test_a_pod_has_all_labels_that_are_selected() -> None:
    one = service(selector={"app": "web", "tier": "front"})
    others = [
        pod("a", meta={"labels": {"app": "web"}}),
        pod("b", meta={"labels": {"tier": "front", "app": "db"}}),
    ]
    store = Store(*NODES, one, *others, pod("c", ip="10.244.1.9"), pod("d", ip="10.244.1.8"))
    store.settle()
    assert addresses(store) == ["10.244.1.8", "10.244.1.9"]


def test_each_family_has_its_own_slices() -> None:
    both = pod("a")
    both["status"]["podIPs"] = [{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]
    changes = endpoints.slices([service(ipFamilies=["IPv4", "IPv6"])], [both], NODES, [])
    assert [
        (one.document["addressType"], one.document["endpoints"][0]["addresses"]) for one in changes
    ] == [("IPv4", ["10.244.1.2"]), ("IPv6", ["fd00::2"])]


@pytest.mark.parametrize("published", [False, True])
def test_a_pod_on_an_unknown_node_is_endpoint_only_when_asked_for(published: bool) -> None:
    one = service(publishNotReadyAddresses=published, ipFamilies=["IPv4"])
    (change,) = endpoints.slices([one], [pod("a", nodeName="node9")], NODES, [])
    assert len(change.document["endpoints"]) == int(published)


HOSTNAMES = {
    "of the service's subdomain": ({"hostname": "a-0", "subdomain": "web"}, "a-0"),
    "another subdomain": ({"hostname": "a-0", "subdomain": "db"}, None),
    "no hostname": ({"subdomain": "web"}, None),
}


@pytest.mark.parametrize(("spec", "expected"), HOSTNAMES.values(), ids=HOSTNAMES)
def test_a_hostname_is_told_within_its_subdomain(spec: Document, expected: str | None) -> None:
    one = service(clusterIP="None")
    assert only_endpoint(one, pod("a", **spec)).get("hostname") == expected


HINTS = {
    "PreferClose": {"forZones": [{"name": "east"}]},
    "PreferSameZone": {"forZones": [{"name": "east"}]},
    "PreferSameNode": {"forZones": [{"name": "east"}], "forNodes": [{"name": "node1"}]},
    "": None,
}


@pytest.mark.parametrize(("distribution", "expected"), HINTS.items())
def test_traffic_distribution_gives_hints(distribution: str, expected: Document | None) -> None:
    one = service(trafficDistribution=distribution)
    assert only_endpoint(one, pod("a")).get("hints") == expected
    assert "hints" not in only_endpoint(one, pod("a", ready=False))
    by_cpu = {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}
    annotated = service(trafficDistribution=distribution, meta=by_cpu)
    assert "hints" not in only_endpoint(annotated, pod("a"))


def test_a_node_without_a_zone_hints_at_itself_only() -> None:
    one = service(trafficDistribution="PreferSameNode")
    found = only_endpoint(one, pod("a", nodeName="node3"))
    assert found["hints"] == {"forNodes": [{"name": "node3"}]}
    assert "zone" not in found


def containers(port: int, protocol: str = "TCP") -> list[Document]:
    return [{"name": "c", "ports": [{"name": "http", "containerPort": port, "protocol": protocol}]}]


def test_named_ports_are_looked_up_in_each_pod() -> None:
    sidecar = {**containers(8082)[0], "restartPolicy": "Always"}
    store = Store(
        *NODES,
        service(ports=[{"name": "x", "port": 80, "targetPort": "http"}]),
        pod("a", ip="10.244.1.1", containers=containers(8080)),
        pod("b", ip="10.244.1.2", containers=containers(8081)),
        pod("c", ip="10.244.1.3", containers=containers(8080)),
        pod("d", ip="10.244.1.4", initContainers=[sidecar]),
        pod("e", ip="10.244.1.5", initContainers=containers(8083)),  # ends before the pod runs
        pod("f", ip="10.244.1.6", containers=containers(8080, "UDP")),
    )
    store.settle()
    found = {
        tuple(port["port"] for port in one["ports"]): [
            e["targetRef"]["name"] for e in one["endpoints"]
        ]
        for one in slices(store)
    }
    assert found == {(8080,): ["a", "c"], (8081,): ["b"], (8082,): ["d"], (): ["e", "f"]}


def test_a_port_without_target_is_its_own_target() -> None:
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 53, "protocol": "UDP"}]
    ports[0]["appProtocol"] = "h2c"
    store = Store(*NODES, service(ports=ports), pod("a"))
    store.settle()
    assert slices(store)[0]["ports"] == [
        {"name": "a", "protocol": "TCP", "port": 80, "appProtocol": "h2c"},
        {"name": "b", "protocol": "UDP", "port": 53},
    ]
    (change,) = endpoints.slices([service(ports=[{"port": 81}])], [pod("a")], NODES, [])
    assert change.document["ports"][0]["port"] == 81


def test_a_headless_service_marks_its_slices() -> None:
    store = Store(*NODES, service(clusterIP="None"), pod("a"))
    store.settle()
    assert slices(store)[0]["metadata"]["labels"]["service.kubernetes.io/headless"] == ""


def test_a_service_nobody_serves_has_one_empty_slice() -> None:
    store = Store(*NODES, service())
    store.settle()
    (empty,) = slices(store)
    assert (empty["endpoints"], empty["ports"]) == ([], [])
    store.objects[registry_key(pod("a"))] = pod("a")
    assert store.settle() == [f"update EndpointSlice {name(empty)}"]
    store.make([Change(Verb.DELETE, pod("a"))])
    assert store.settle() == [f"update EndpointSlice {name(empty)}"]
    assert slices(store)[0]["endpoints"] == slices(store)[0]["ports"] == []


def test_a_hundred_endpoints_fill_a_slice() -> None:
    store = Store(*NODES, service(), *many(250))
    store.settle()
    assert [len(one["endpoints"]) for one in slices(store)].count(100) == 2
    assert len(addresses(store)) == len(set(addresses(store))) == 250


def test_only_the_slice_of_a_changed_pod_is_rewritten() -> None:
    store = Store(*NODES, service(), *many(250))
    store.settle()
    before = {name(one): one for one in slices(store)}
    changed = pod("p000", ip="10.244.0.2", ready=False)
    (home,) = [
        title
        for title, one in before.items()
        if any(e["targetRef"]["name"] == "p000" for e in one["endpoints"])
    ]
    store.objects[registry_key(changed)] = changed
    assert store.settle() == [f"update EndpointSlice {home}"]
    for one in slices(store):
        assert (one == before[name(one)]) == (name(one) != home)
        assert one["metadata"]["uid"] == before[name(one)]["metadata"]["uid"]


def sizes(store: Store) -> dict[int, str]:
    """Return the names of slices, all of different size, by how many endpoints they have."""
    return {len(one["endpoints"]): name(one) for one in slices(store)}


@pytest.fixture
def uneven() -> Store:
    """A Service with slices of 99 and of 50 endpoints."""
    store = Store(*NODES, service(), *many(150))
    store.settle()
    full = next(one for one in slices(store) if len(one["endpoints"]) == 100)
    store.make([Change(Verb.DELETE, pod(full["endpoints"][3]["targetRef"]["name"]))])
    store.settle()
    assert sizes(store).keys() == {99, 50}
    return store


def test_a_new_pod_goes_into_the_fullest_slice_with_room(uneven: Store) -> None:
    before = sizes(uneven)
    new = pod("new", ip="10.244.9.9")
    uneven.objects[registry_key(new)] = new
    assert uneven.settle() == [f"update EndpointSlice {before[99]}"]
    more = pod("more", ip="10.244.9.8")
    uneven.objects[registry_key(more)] = more
    assert uneven.settle() == [f"update EndpointSlice {before[50]}"]
    assert sizes(uneven) == {100: before[99], 51: before[50]}


def test_slices_that_are_rewritten_anyway_are_filled_first(uneven: Store) -> None:
    before = sizes(uneven)
    half = next(one for one in slices(uneven) if len(one["endpoints"]) == 50)
    uneven.make([Change(Verb.DELETE, pod(half["endpoints"][3]["targetRef"]["name"]))])
    new = pod("new", ip="10.244.9.9")
    uneven.objects[registry_key(new)] = new
    assert uneven.settle() == [f"update EndpointSlice {before[50]}"]


def test_an_emptied_slice_goes() -> None:
    store = Store(*NODES, service(), *many(150))
    store.settle()
    (small,) = [one for one in slices(store) if len(one["endpoints"]) == 50]
    store.make([Change(Verb.DELETE, pod(e["targetRef"]["name"])) for e in small["endpoints"]])
    assert store.settle() == [f"delete EndpointSlice {name(small)}"]


def test_an_endpoint_in_two_slices_stays_in_one() -> None:
    store = Store(*NODES, service(), pod("a"))
    store.settle()
    (one,) = slices(store)
    twin = copy.deepcopy(one)
    twin["metadata"] |= {"name": "web-twin", "uid": "twin"}
    store.objects[registry_key(twin)] = twin
    assert len(store.settle()) == 1
    assert addresses(store) == ["10.244.1.2"]


def test_a_pod_that_moves_keeps_the_slice() -> None:
    store = Store(*NODES, service(), pod("a"))
    store.settle()
    (before,) = slices(store)
    moved = pod("a", ip="10.244.2.9", nodeName="node2")
    store.objects[registry_key(moved)] = moved
    assert store.settle() == [f"update EndpointSlice {name(before)}"]
    assert addresses(store) == ["10.244.2.9"]
    assert slices(store)[0]["endpoints"][0]["zone"] == "west"


def test_a_relabelled_and_a_deleted_pod_leave_in_the_same_pass() -> None:
    store = Store(*NODES, service(), *many(3))
    store.settle()
    other = pod("p000", ip="10.244.0.2", meta={"labels": {"app": "other"}})
    store.objects[registry_key(other)] = other
    store.make([Change(Verb.DELETE, pod("p001"))])
    assert len(store.settle()) == 1
    assert addresses(store) == ["10.244.0.4"]


def test_a_scaled_deployment_and_its_slice_change_in_one_pass() -> None:
    """The ReplicaSet's pods are given up in the pass in which the slice says so."""
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}], "nodeName": "node1"},
    }
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    meta = {"name": "web", "namespace": "default", "uid": "d"}
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
    store = Store(*NODES, service(), owner)
    store.settle()
    for number, one in enumerate(store.of("Pod")):
        one["status"] = {"phase": "Running", "podIP": f"10.244.1.{number + 2}"}
    store.settle()
    assert len(addresses(store)) == 2
    store.objects[registry_key(owner)] = {**owner, "spec": {**spec, "replicas": 1}}
    done = store.settle()
    assert sorted(one.split()[0:2] for one in done) == [
        ["update", "EndpointSlice"],
        ["update", "Pod"],
        ["update", "ReplicaSet"],
    ]
    (one,) = store.of("EndpointSlice")
    assert sum(each["conditions"]["terminating"] for each in one["endpoints"]) == 1
    store.run()
    store.settle()
    assert len(addresses(store)) == 1


def test_slices_go_with_their_service() -> None:
    store = Store(*NODES, service(), pod("a"))
    store.settle()
    (one,) = slices(store)
    store.make([Change(Verb.DELETE, service())])
    assert store.settle() == [f"delete EndpointSlice {name(one)}"]


def test_a_new_service_of_the_same_name_has_new_slices() -> None:
    store = Store(*NODES, service(), pod("a"))
    store.settle()
    (old,) = slices(store)
    again = service(meta={"uid": "another"})
    store.objects[registry_key(again)] = again
    store.settle()
    (new,) = slices(store)
    assert name(new) != name(old)
    assert new["metadata"]["ownerReferences"][0]["uid"] == "another"


def test_the_labels_of_a_service_are_those_of_its_slices() -> None:
    store = Store(*NODES, service(meta={"labels": {"a": "1"}}), pod("a"))
    store.settle()
    (one,) = slices(store)
    stored = store.of("Service")[0]
    stored["metadata"]["labels"] = {"b": "2"}
    assert store.settle() == [f"update EndpointSlice {name(one)}"]
    labels = slices(store)[0]["metadata"]["labels"]
    assert (labels.get("a"), labels.get("b")) == (None, "2")


def manual(title: str, labels: Document) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": title, "namespace": "default", "uid": title, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["192.0.2.1"]}],
    }


def test_slices_of_users_and_others_are_left_alone() -> None:
    label = {"kubernetes.io/service-name": "web"}
    others = [
        manual("mine", label),
        manual("theirs", {**label, "endpointslice.kubernetes.io/managed-by": "me"}),
    ]
    store = Store(*NODES, service(selector=None), *others)
    store.settle()
    assert slices(store) == others
    store.objects[registry_key(service())] = service()
    assert [one.split()[0] for one in store.settle()] == ["update", "create"]
    assert [one for one in slices(store) if one in others] == others


def test_a_slice_of_an_unknown_owner_is_replaced() -> None:
    managed = "endpointslice-controller.k8s.io"
    label = {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": managed,
    }
    store = Store(*NODES, service(), pod("a"), manual("stray", label))
    store.settle()
    assert "stray" not in [name(one) for one in slices(store)]
    assert addresses(store) == ["10.244.1.2"]


def test_a_declared_slice_is_its_users_whatever_its_labels_say() -> None:
    managed = "endpointslice-controller.k8s.io"
    label = {
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": managed,
    }
    nodes = [
        {**one, "metadata": {k: v for k, v in one["metadata"].items() if k != "uid"}}
        for one in NODES
    ]
    store = Store()
    declared = [*nodes, service(), manual("dumped", label)]
    store.declare(*declared)
    store.settle()
    assert "dumped" in [name(one) for one in slices(store)]
    assert store.declare(*declared) == []


def test_a_lost_selector_leaves_the_slices_to_the_user() -> None:
    store = Store(*NODES, service(), pod("a"))
    store.settle()
    before = copy.deepcopy(slices(store))
    del store.of("Service")[0]["spec"]["selector"]
    store.make([Change(Verb.DELETE, pod("a"))])
    assert store.settle() == []
    assert slices(store) == before


def test_a_service_that_becomes_a_name_loses_its_slices() -> None:
    store = Store(*NODES, service(), pod("a"))
    store.settle()
    named = service(type="ExternalName", externalName="example.org")
    store.objects[registry_key(named)] = named
    store.settle()
    assert slices(store) == []


def test_what_cannot_be_read_hinders_no_other_service() -> None:
    store = Store(*NODES, service("bad", ports="80"), service(), pod("a"))
    store.settle()
    assert addresses(store) == ["10.244.1.2"]
    bad = store.of("Service")[0]
    assert "cannot be read" in bad["status"]["conditions"][0]["message"]


# -- Endpoints kept by hand


def hand_made(subsets: list[Document], **meta: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "default", "uid": "ep", **meta},
        "subsets": subsets,
    }


SUBSET = {
    "addresses": [{"ip": "192.0.2.1", "nodeName": "node1"}, {"ip": "fd00::1"}],
    "notReadyAddresses": [{"ip": "192.0.2.02", "hostname": "h"}],
    "ports": [{"name": "http", "port": 8080}],
}


def test_endpoints_kept_by_hand_are_mirrored() -> None:
    notes = {"note": "1", "netlab.io/declared": "{}"}
    store = Store(
        *NODES,
        service(selector=None),
        hand_made([SUBSET], labels={"team": "a"}, annotations=notes),
    )
    store.settle()
    four, six = sorted(slices(store), key=lambda one: str(one["addressType"]))
    assert (four["addressType"], six["addressType"]) == ("IPv4", "IPv6")
    assert four["metadata"]["labels"] == {
        "team": "a",
        "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    assert four["metadata"]["annotations"] == {"note": "1"}
    assert four["metadata"]["ownerReferences"][0]["kind"] == "Endpoints"
    assert four["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    assert four["endpoints"] == [
        {"addresses": ["192.0.2.1"], "conditions": {"ready": True}, "nodeName": "node1"},
        {"addresses": ["192.0.2.2"], "conditions": {"ready": False}, "hostname": "h"},
    ]
    assert [one["addresses"] for one in six["endpoints"]] == [["fd00::1"]]


NOT_MIRRORED = {
    "a selector": (service(), {}),
    "no service": (service("other", selector=None), {}),
    "the label": (
        service(selector=None),
        {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
    ),
    "a lock": (
        service(selector=None),
        {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}},
    ),
}


@pytest.mark.parametrize(("one", "meta"), NOT_MIRRORED.values(), ids=NOT_MIRRORED)
def test_endpoints_are_not_mirrored_with(one: Document, meta: Document) -> None:
    assert mirroring.mirrored([hand_made([SUBSET], **meta)], [one], []) == []


def test_a_mirror_follows_in_place_and_goes_with_its_endpoints() -> None:
    four = {**SUBSET, "addresses": [{"ip": "192.0.2.1"}], "notReadyAddresses": []}
    store = Store(*NODES, service(selector=None), hand_made([four]))
    store.settle()
    (one,) = slices(store)
    other = hand_made([{**four, "addresses": [{"ip": "192.0.2.7"}, {"ip": "bad"}]}])
    store.objects[registry_key(other)] = other
    assert store.settle() == [f"update EndpointSlice {name(one)}"]
    assert addresses(store) == ["192.0.2.7"]
    served = service(type="ExternalName", externalName="x.org")  # a selector, but no slices
    store.objects[registry_key(served)] = served
    store.settle()
    assert addresses(store) == []
    store.objects[registry_key(service())] = service(selector=None)
    store.settle()
    assert addresses(store) == ["192.0.2.7"]
    store.make([Change(Verb.DELETE, other)])
    store.settle()
    assert slices(store) == []


@pytest.mark.parametrize("subsets", ["x", [1], [{"ports": [{}]}], [{"addresses": "x"}]], ids=str)
def test_endpoints_that_cannot_be_read_hinder_nothing(subsets: Any) -> None:
    other = {
        **hand_made([SUBSET]),
        "metadata": hand_made([])["metadata"] | {"name": "b", "uid": "b"},
    }
    services = [service(selector=None), service("b", selector=None)]
    changes = mirroring.mirrored([hand_made(subsets), other], services, [])
    assert len(changes) == 2
    assert mirroring.mirrored([hand_made(None)], services, []) == []  # type: ignore[arg-type]


def test_a_subset_is_mirrored_up_to_a_thousand_addresses() -> None:
    listed = [{"ip": f"10.{n // 250}.0.{n % 250}"} for n in range(1200)]
    subset = {"addresses": listed, "ports": [{"port": 80}]}
    (only,) = mirroring.mirrored([hand_made([subset])], [service(selector=None)], [])
    assert len(only.document["endpoints"]) == 1000


# -- the rest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.244.1.2", "10.244.1.2"),
        ("010.000.1.02", "10.0.1.2"),
        ("0.0.0.0", "0.0.0.0"),
        ("FD00:0::1", "fd00::1"),
        ("10.1.2", ""),
        ("256.1.1.1", ""),
        (" 10.1.1.1", ""),
        ("", ""),
    ],
)
def test_addresses_have_one_form(text: str, expected: str) -> None:
    assert canonical(text) == expected


def test_no_slice_is_needed_without_endpoints_unless_asked_for() -> None:
    blank = {"kind": "EndpointSlice", "metadata": {"generateName": "x-"}, "addressType": "IPv4"}
    assert fitted({}, [], blank=blank, placeholder=False) == []
    assert [one.verb for one in fitted({}, [], blank=blank)] == [Verb.CREATE]
