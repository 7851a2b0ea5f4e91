"""Controllers that look only at what is news find the same as those that look at everything."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from controlled import CAPACITY, NODES, Store, deployment, name

from netlab import controllers
from netlab.controllers import Change, Verb, allocation, endpoints, garbage, mirroring
from netlab.controllers import deployment as deployments
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key
from netlab.model.services import refusal

SPACES = ("default", "shop")
APPS = ("a", "b", "c")


def born(kind: str, title: str, space: str = "default", **fields: Any) -> Document:
    """Return an object as it is stored, whose creation its name's number tells."""
    version = "discovery.k8s.io/v1" if kind == "EndpointSlice" else "v1"
    number = int("0" + re.sub(r"\D", "", title))
    meta = {"creationTimestamp": f"2026-01-01T{number // 60:02}:{number % 60:02}:00Z"}
    meta |= {"uid": f"uid-{kind}-{title}-{random.random()}", "name": title, "namespace": space}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": meta | fields.pop("metadata", {}),
        **fields,
    }


def pod(title: str, space: str, app: str, node: str, ip: str) -> Document:
    return born(
        "Pod",
        title,
        space,
        metadata={"labels": {"app": app, "tier": "x"}},
        spec={"containers": [{"name": "c"}], "nodeName": node},
        status={"phase": "Running", "podIP": ip},
    )


def workload(kind: str, title: str) -> Document:
    """Return what makes pods that no Service selects, with affinity, taints and all."""
    labels = {"app": title}
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "labelSelector": {}}
    term = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "none"}}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    pod_spec: Document = {
        "containers": [{"name": "c"}],
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "topologySpreadConstraints": [spread],
        "affinity": affinity,
    }
    template = {"metadata": {"labels": labels}, "spec": pod_spec}
    selector = {} if kind == "Job" else {"selector": {"matchLabels": labels}}
    one = born(kind, title, spec={**selector, "template": template})
    return {**one, "apiVersion": "batch/v1" if kind == "Job" else "apps/v1"}


class World(Store):
    """A cluster in which something happens at each step; the controllers know the last."""

    def __init__(self, seed: int) -> None:
        shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "uid": "ns"}}
        super().__init__(*NODES, shop)
        self.random = random.Random(seed)
        self.count = 0
        self.settled: dict[str, Document] = {}
        for _ in range(12):
            self.new_pod()
            self.new_service()
        self.put(controllers.born(deployment(3)))
        for kind in ("StatefulSet", "DaemonSet", "Job"):
            self.put(workload(kind, self.title("w")))

    def put(self, document: Document) -> None:
        self.objects[registry_key(document)] = document

    def title(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def any(self, kind: str) -> Document | None:
        found = self.of(kind)
        return self.random.choice(found) if found else None

    def alter(self, kind: str, change: Callable[[Document], Document]) -> None:
        if (one := self.any(kind)) is not None:
            self.put(change(one))

    # -- what happens

    def new_pod(self) -> None:
        place = self.random.choice(["node1", "node2", "node3"])
        space, app = self.random.choice(SPACES), self.random.choice(APPS)
        self.put(pod(self.title("p"), space, app, place, f"10.244.1.{self.count % 250}"))

    def new_service(self) -> None:
        spec: Document = {"ports": [{"port": 80}]}
        way = self.random.randrange(5)
        if way < 3:
            spec["selector"] = {"app": self.random.choice(APPS)} | ({"tier": "x"} if way else {})
        if way == 2:
            port = self.random.choice([0, 30001, 30002])
            spec |= {
                "type": "NodePort",
                "ports": [{"port": 80, **({"nodePort": port} if port else {})}],
            }
        elif way == 3:
            spec["clusterIP"] = self.random.choice(["10.96.0.9", "10.96.0.10", "None"])
        self.put(born("Service", self.title("s"), self.random.choice(SPACES), spec=spec))

    def new_slice(self) -> None:
        if (one := self.any("Service")) is not None:
            labels = {"kubernetes.io/service-name": name(one)}
            space = one["metadata"]["namespace"]
            fields = {"addressType": "IPv4", "endpoints": [], "ports": []}
            self.put(
                born("EndpointSlice", self.title("e"), space, metadata={"labels": labels}, **fields)
            )

    def new_endpoints(self) -> None:
        if (one := self.any("Service")) is not None:
            subset = {"addresses": [{"ip": f"10.1.1.{self.count % 250}"}], "ports": [{"port": 80}]}
            space = one["metadata"]["namespace"]
            self.put(born("Endpoints", name(one), space, subsets=[subset]))

    def relabelled(self) -> None:
        labels = {"app": self.random.choice(APPS)}
        self.alter("Pod", lambda one: {**one, "metadata": {**one["metadata"], "labels": labels}})

    def readiness(self) -> None:
        ready = {"type": "Ready", "status": self.random.choice(["True", "False"])}
        self.alter("Pod", lambda one: {**one, "status": {**one["status"], "conditions": [ready]}})

    def selector(self) -> None:
        wanted = self.random.choice([None, {"app": "a"}, {"app": "b", "tier": "x"}])
        self.alter(
            "Service",
            lambda one: {
                **one,
                "spec": {**one["spec"], "selector": wanted}
                if wanted
                else {k: v for k, v in one["spec"].items() if k != "selector"},
            },
        )

    def external(self) -> None:
        spec = {"type": "ExternalName", "externalName": "example.org"}
        self.alter("Service", lambda one: {**one, "spec": spec})

    def emptied_slice(self) -> None:
        self.alter("EndpointSlice", lambda one: {**one, "endpoints": []})

    def mislabelled_slice(self) -> None:
        if (other := self.any("Service")) is not None:
            key = "kubernetes.io/service-name"
            self.alter(
                "EndpointSlice",
                lambda one: {
                    **one,
                    "metadata": {
                        **one["metadata"],
                        "labels": {**one["metadata"]["labels"], key: name(other)},
                    },
                },
            )

    def gone(self) -> None:
        kind = self.random.choice(
            ["Pod", "Pod", "Service", "EndpointSlice", "Endpoints", "ReplicaSet"]
        )
        if (one := self.any(kind)) is not None:
            del self.objects[registry_key(one)]

    def again(self) -> None:
        """An object of the same name, with another uid."""
        kind = self.random.choice(["Pod", "Service", "Endpoints"])
        uid = str(self.random.random())
        self.alter(kind, lambda one: {**one, "metadata": {**one["metadata"], "uid": uid}})

    def waiting(self) -> None:
        """A pod without a node, which only one that is not cordoned takes."""
        one = pod(self.title("p"), "default", "a", "", "")
        self.put({**one, "status": {"phase": "Pending"}})

    def cordon(self) -> None:
        chosen = self.random.random() < 0.7
        self.alter("Node", lambda one: {**one, "spec": {"unschedulable": chosen}})

    def zone(self) -> None:
        labels = {"topology.kubernetes.io/zone": self.random.choice(["east", "west"])}
        self.alter("Node", lambda one: {**one, "metadata": {**one["metadata"], "labels": labels}})

    def node_gone(self) -> None:
        if len(self.of("Node")) > 1 and self.random.random() < 0.3:
            del self.objects[registry_key(self.any("Node") or {})]

    def namespace_gone(self) -> None:
        if self.random.random() < 0.2:
            self.objects.pop("/registry/namespaces/shop", None)

    def scaled(self) -> None:
        number = self.random.randrange(5)
        self.alter("Deployment", lambda one: {**one, "spec": {**one["spec"], "replicas": number}})

    def step(self) -> str:
        happenings = (
            *(self.new_pod, self.new_service, self.new_slice, self.new_endpoints),
            *(self.relabelled, self.readiness, self.selector, self.external),
            *(self.emptied_slice, self.mislabelled_slice, self.gone, self.gone, self.again),
            *(
                self.waiting,
                self.cordon,
                self.cordon,
                self.zone,
                self.node_gone,
                self.namespace_gone,
                self.scaled,
            ),
        )
        chosen = self.random.choice(happenings)
        chosen()
        return chosen.__name__


def answered(
    objects: dict[str, Document], settled: dict[str, Document] | None = None
) -> list[Change]:
    """Return what the controllers want, given what was *settled*."""
    before = Inventory(settled)
    return controllers.changes(Inventory(objects), capacity=CAPACITY, settled=before)


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    """Return *changes* without what is random in them."""
    return sorted(
        (
            str(one.verb),
            one.document["kind"],
            meta.get("generateName") or one.document.get("reason") or meta["name"],
        )
        for one in changes
        for meta in [one.document["metadata"]]
    )


@pytest.mark.parametrize("seed", range(25))
def test_news_is_answered_as_everything_is(seed: int) -> None:
    world = World(seed)
    said = 0
    for _ in range(40):
        happened = world.step()
        changes = answered(world.objects, world.settled)
        assert told(changes) == told(answered(world.objects)), happened
        said += len(changes)
        world.make(changes)
        assert not answered(world.objects, world.settled)
        world.settled = dict(world.objects)
        assert not answered(world.objects), happened
    assert said > 40


# -- what it costs


@pytest.fixture
def many() -> Store:
    """A settled cluster: 200 Services of which each second selects one of 100 pods."""
    store = Store(*NODES)
    for number in range(0, 200, 2):
        one = pod(f"p{number}", "default", f"a{number}", "node1", f"10.244.1.{number + 2}")
        ports: Document = {"ports": [{"port": 80}]}
        chosen = {**ports, "selector": {"app": f"a{number}"}}
        manual = born(
            "EndpointSlice",
            f"e{number}",
            metadata={"labels": {"kubernetes.io/service-name": f"s{number + 1}"}},
            addressType="IPv4",
        )
        services = (
            born("Service", f"s{number}", spec=chosen),
            born("Service", f"s{number + 1}", spec=ports),
        )
        store.objects |= {registry_key(made): made for made in (one, manual, *services)}
    store.settle()
    return store


Calls = list[tuple[str, list[int]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, many: Store) -> Calls:
    """Return which controllers are asked from now on, and about how many objects of each kind."""
    found: Calls = []

    def spied(module: Any, function: str) -> None:
        original = getattr(module, function)

        def spy(*lists: Any, **named: Any) -> Any:
            found.append((function, [len(one) for one in lists if not isinstance(one, str)]))
            return original(*lists, **named)

        monkeypatch.setattr(module, function, spy)

    spied(allocation, "services")
    spied(endpoints, "slices")
    spied(mirroring, "mirrored")
    spied(deployments, "replica_sets")
    spied(garbage, "collected")
    return found


ALL, PODS = 503, 100
COLLECTED, SLICES = ("collected", [1, ALL]), ("slices", [1, PODS, 3, 1])
REPLICA_SETS = ("replica_sets", [0, 0, PODS])
NEWS: dict[str, tuple[str, Calls]] = {
    "a slice kept by hand": ("/registry/endpointslices/default/e6", [COLLECTED]),
    "a pod": ("/registry/pods/default/p6", [COLLECTED, REPLICA_SETS, SLICES]),
    "a service": (
        "/registry/services/specs/default/s6",
        [COLLECTED, ("services", [1]), SLICES, COLLECTED, SLICES],
    ),
    "an object of no controller": (
        "/registry/configmaps/default/c",
        [("collected", [1, ALL + 1])],
    ),
}


@pytest.mark.parametrize("first", [False, True], ids=["written", "about to be written"])
@pytest.mark.parametrize(("key", "expected"), NEWS.values(), ids=NEWS)
def test_nobody_is_asked_about_what_is_settled(
    many: Store, asked: Calls, key: str, expected: Calls, first: bool
) -> None:
    old = many.objects.get(key) or born("ConfigMap", "c")
    meta = old["metadata"]
    new = {**old, "metadata": {**meta, "labels": {**meta.get("labels", {}), "new": "1"}}}
    settled = Inventory(many.objects)
    if first:
        changes = [Change(Verb.UPDATE, new)]
        controllers.changes(settled, capacity=CAPACITY, settled=settled, first=changes)
    else:
        objects = settled.altered({key: new})
        controllers.changes(objects, capacity=CAPACITY, settled=settled)
    assert asked == expected


def test_a_second_round_is_about_what_the_first_changed(many: Store, asked: Calls) -> None:
    lost = next(key for key in many.objects if "/endpointslices/default/s6-" in key)
    rest = {key: one for key, one in many.objects.items() if key != lost}
    (change,) = answered(rest)
    assert change.verb is Verb.CREATE
    assert asked == [
        ("collected", [ALL - 1, ALL - 1]),
        REPLICA_SETS,
        ("services", [200]),
        ("slices", [100, PODS, 3, 199]),
        COLLECTED,
        SLICES,
    ]


def test_what_was_refused_gets_what_becomes_free() -> None:
    """Its holder goes; the refused Service itself is no news."""
    ports = [{"port": 80, "nodePort": 30001}]
    spec = {"type": "NodePort", "ports": ports}
    store = Store(*NODES, born("Service", "s1", spec=spec), born("Service", "s2", spec=spec))
    store.settle()
    first, second = store.of("Service")
    assert not refusal(first) and refusal(second)
    settled = dict(store.objects)
    store.make([Change(Verb.DELETE, first)])
    store.make(answered(store.objects, settled))
    (left,) = store.of("Service")
    assert not refusal(left) and left["spec"]["clusterIP"]


def test_a_service_that_becomes_a_name_loses_its_slices(many: Store) -> None:
    settled, key = dict(many.objects), "/registry/services/specs/default/s6"
    spec = {"type": "ExternalName", "externalName": "example.org"}
    many.objects[key] = {**many.objects[key], "spec": spec}
    for before in (settled, {}):
        changes = answered(many.objects, before)
        assert ("delete", "EndpointSlice", "s6-") in told(changes)


def test_a_first_node_tells_of_pods_on_others() -> None:
    store = Store(pod("p1", "default", "a", "node9", "10.244.9.2"))
    assert store.settle() == []
    settled = dict(store.objects)
    store.objects |= {registry_key(NODES[0]): NODES[0]}
    changes = answered(store.objects, settled)
    assert told(changes) == [("delete", "Pod", "p1")]


HOLDING: dict[str, Document] = {
    "address": {"clusterIP": "10.96.0.9"},
    "node port": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30009}]},
    "health check port": {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30009,
    },
}


@pytest.mark.parametrize("spec", HOLDING.values(), ids=HOLDING)
def test_what_a_settled_service_holds_nobody_else_gets(spec: Document) -> None:
    spec = {"ports": [{"port": 80}], **spec}
    store = Store(*NODES, born("Service", "s1", spec=spec))
    store.settle()
    settled = dict(store.objects)
    other = born("Service", "s2", spec=spec)
    store.objects[registry_key(other)] = other
    store.make(answered(store.objects, settled))
    assert [bool(refusal(one)) for one in store.of("Service")] == [False, True]


def test_who_holds_an_address_keeps_it_from_who_comes_with_an_older_date() -> None:
    spec = {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}
    store = Store(*NODES, born("Service", "s5", spec=spec))
    store.settle()
    settled = dict(store.objects)
    (held,) = store.of("Service")
    older = born("Service", "s1", spec=held["spec"])
    store.objects[registry_key(older)] = older
    store.make(answered(store.objects, settled))
    assert [bool(refusal(one)) for one in store.of("Service")] == [False, True]
    assert answered(store.objects) == []
