"""From objects to objects: Deployments, ReplicaSets, the scheduler, and what files declare."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
from controlled import CAPACITY, NODES, Store, deployment, name, node, pod

from netlab import controllers, topology
from netlab.controllers import Change, Verb, replicaset, scheduler
from netlab.controllers.clock import Clock, stamp
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key

NOTES = str(Path(topology.__file__).parents[2] / "topologies" / "notes.yaml")


def test_a_deployment_becomes_placed_pods_in_one_step() -> None:
    store = Store(*NODES)
    store.declare(*declared_nodes(), deployment(6))
    store.settle()
    (replica_set,) = store.of("ReplicaSet")
    (parent,) = store.of("Deployment")
    told = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert name(replica_set) == f"web-{told}"
    assert replica_set["spec"]["selector"] == {
        "matchLabels": {"app": "web", "pod-template-hash": told}
    }
    assert replica_set["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": "web",
            "uid": parent["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    pods = store.of("Pod")
    assert Counter(store.places().values()) == {"node1": 2, "node2": 2, "node3": 2}
    assert len({one["metadata"]["uid"] for one in pods}) == 6
    for one in pods:
        assert name(one).startswith(f"web-{told}-")
        assert len(name(one)) == len(f"web-{told}-") + 5
        assert one["metadata"]["labels"] == {"app": "web", "pod-template-hash": told}
        assert one["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]
        assert one["status"]["phase"] == "Pending"
        assert one["metadata"]["creationTimestamp"].endswith("Z")


def declared_nodes() -> list[Document]:
    """Return NODES as their Lab declares them."""
    return [
        {**one, "metadata": {k: v for k, v in one["metadata"].items() if k != "uid"}}
        for one in NODES
    ]


@pytest.fixture
def store() -> Store:
    """A cluster of three nodes with six pods of the Deployment web."""
    store = Store()
    store.declare(*declared_nodes(), deployment(6))
    store.settle()
    return store


def test_a_killed_pod_is_replaced_where_it_is_missed(store: Store) -> None:
    victim = store.of("Pod")[0]
    store.make([Change(Verb.DELETE, victim)])
    (done,) = store.settle()
    assert done.startswith("create Pod web-")
    assert Counter(store.places().values()) == {"node1": 2, "node2": 2, "node3": 2}
    assert victim["metadata"]["uid"] not in {one["metadata"]["uid"] for one in store.of("Pod")}


def test_a_failed_pod_is_replaced_and_kept(store: Store) -> None:
    failed = store.of("Pod")[0]
    store.objects[registry_key(failed)] = {**failed, "status": {"phase": "Failed"}}
    assert len(store.settle()) == 1
    assert len(store.of("Pod")) == 7


def rejected(one: Document, at: float) -> Document:
    """Return a pod, made *at* that time, that its node has not taken up."""
    status = {"phase": "Failed", "reason": "NodePorts", "message": "Pod was rejected: no ports"}
    meta = {**one["metadata"], "creationTimestamp": stamp(at)}
    return {**one, "metadata": meta, "status": status}


@pytest.mark.parametrize("kind", ["ReplicaSet", "DaemonSet", "StatefulSet"])
def test_a_pod_that_its_node_rejects_is_not_replaced_at_once(kind: str) -> None:
    template = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "x"}]},
    }
    chosen = {"matchLabels": {"app": "web"}}
    spec = {"replicas": 1, "selector": chosen, "template": template, "serviceName": "web"}
    meta = {"name": "web", "namespace": "default"}
    owner: Document = {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec}
    store = Store()
    store.declare(*declared_nodes()[:1], owner)
    store.settle()
    (pod,) = store.of("Pod")
    store.objects[registry_key(pod)] = rejected(pod, 1000)

    def later(seconds: float) -> list[str]:
        clock = Clock(1000 + seconds)
        changes = controllers.changes(Inventory(store.objects), capacity=CAPACITY, clock=clock)
        assert seconds > 10 or clock.next == 1010
        return store.make(changes)

    assert [one for one in later(9) if "Pod" in one] == []
    done = later(11)
    assert [one for one in done if one.startswith(("create Pod", "delete Pod"))]


def test_more_replicas_add_only_what_is_missing(store: Store) -> None:
    store.declare(*declared_nodes(), deployment(8))
    done = store.settle()
    assert [one.split()[:2] for one in done] == [
        ["update", "ReplicaSet"],
        ["create", "Pod"],
        ["create", "Pod"],
    ]


def test_another_order_of_keys_is_no_other_template(store: Store) -> None:
    (before,) = store.of("ReplicaSet")
    turned = deployment(7)
    turned["spec"]["template"] = dict(reversed(turned["spec"]["template"].items()))
    store.declare(*declared_nodes(), turned)
    store.settle()
    (after,) = store.of("ReplicaSet")
    assert (name(after), after["metadata"]["uid"]) == (name(before), before["metadata"]["uid"])


def test_no_replicas_leave_the_replica_set(store: Store) -> None:
    store.declare(*declared_nodes(), deployment(0))
    store.settle()
    assert store.of("Pod") == []
    assert [one["spec"]["replicas"] for one in store.of("ReplicaSet")] == [0]


def test_another_template_makes_another_replica_set(store: Store) -> None:
    (before,) = store.of("ReplicaSet")
    old = {one["metadata"]["uid"] for one in store.of("Pod")}
    store.declare(*declared_nodes(), deployment(6, image="b"))
    store.settle()
    store.live()
    (after,) = [one for one in store.of("ReplicaSet") if one["spec"]["replicas"]]
    assert name(after) != name(before)
    assert len(store.of("ReplicaSet")) == 2, "the former one is kept, empty"
    assert len(store.of("Pod")) == 6
    assert not old & {one["metadata"]["uid"] for one in store.of("Pod")}
    assert {one["spec"]["containers"][0]["name"] for one in store.of("Pod")} == {"b"}


def test_the_former_template_is_taken_up_again(store: Store) -> None:
    (before,) = store.of("ReplicaSet")
    store.live()
    for image in ("b", "a"):
        store.declare(*declared_nodes(), deployment(6, image=image))
        store.live()
    (after,) = [one for one in store.of("ReplicaSet") if one["spec"]["replicas"]]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    (parent,) = store.of("Deployment")
    assert parent["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


def test_a_deleted_deployment_takes_all_it_made(store: Store) -> None:
    store.make([Change(Verb.DELETE, store.of("Deployment")[0])])
    store.settle()
    assert store.of("ReplicaSet") == store.of("Pod") == []


def test_a_new_deployment_of_the_same_name_starts_afresh(store: Store) -> None:
    old = {one["metadata"]["uid"] for one in store.of("ReplicaSet") + store.of("Pod")}
    store.make([Change(Verb.DELETE, store.of("Deployment")[0])])
    store.declare(*declared_nodes(), deployment(6))
    store.settle()
    assert len(store.of("Pod")) == 6
    new = {one["metadata"]["uid"] for one in store.of("ReplicaSet") + store.of("Pod")}
    assert not old & new


def test_the_least_useful_pods_go_first() -> None:
    owner = {"metadata": {"name": "rs", "namespace": "default", "uid": "u"}, "spec": {}}

    def state(title: str, *, born: str, placed: bool, phase: str, ready: bool) -> Document:
        one = pod(title, **({"nodeName": "node1"} if placed else {}))
        one["metadata"] |= {
            "creationTimestamp": born,
            "ownerReferences": [{"uid": "u", "controller": True}],
        }
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        return {**one, "status": {"phase": phase, "conditions": conditions}}

    pods = [
        state("old-ready", born="2024-01-01", placed=True, phase="Running", ready=True),
        state("young-ready", born="2024-01-03", placed=True, phase="Running", ready=True),
        state("old-unready", born="2024-01-01", placed=True, phase="Running", ready=False),
        state("pending", born="2024-01-01", placed=True, phase="Pending", ready=False),
        state("waiting", born="2024-01-01", placed=False, phase="Pending", ready=False),
    ]
    order = []
    for left in (4, 3, 2, 1, 0):
        owner["spec"] = {"replicas": left}
        change, _ = replicaset.pods([owner], pods)
        pods.remove(change.document)
        order.append(name(change.document))
    assert order == ["waiting", "pending", "old-unready", "young-ready", "old-ready"]


def test_names_of_pods_stay_labels() -> None:
    store = Store()
    store.declare(*declared_nodes(), deployment(2, title="w" * 80))
    store.settle()
    assert {len(name(one)) for one in store.of("Pod")} == {63}


PLACES = {
    "selector": (pod("p", nodeSelector={"disk": "ssd"}), NODES, CAPACITY, "node2"),
    "cordoned": (pod("p"), [node("node1", unschedulable=True), node("node2")], CAPACITY, "node2"),
    "full": (pod("p"), NODES, {"node1": 0, "node2": 0, "node3": 1}, "node3"),
    "unknown capacity": (pod("p"), NODES, {"node3": 1}, "node3"),
    "host network needs no address": (pod("p", hostNetwork=True), NODES, {}, "node1"),
    "first of equals": (pod("p"), NODES, CAPACITY, "node1"),
    "node of its own": (pod("p", nodeName="node3"), NODES, CAPACITY, "node3"),
}


@pytest.mark.parametrize(("one", "nodes", "capacity", "place"), PLACES.values(), ids=PLACES)
def test_a_pod_gets_its_place(
    one: Document, nodes: list[Document], capacity: dict[str, int], place: str
) -> None:
    store = Store(*nodes, controllers.born(one))
    store.settle(capacity)
    assert store.places() == {"p": place}


def test_pods_of_one_owner_are_spread_before_all_pods() -> None:
    store = Store(*NODES, *(controllers.born(pod(f"p{n}", nodeName="node3")) for n in range(5)))
    store.declare(*declared_nodes(), deployment(3))
    store.settle()
    web = [place for title, place in store.places().items() if title.startswith("web")]
    assert sorted(web) == ["node1", "node2", "node3"]


def test_a_pod_without_a_place_says_why_and_gets_one_later() -> None:
    store = Store(*NODES, controllers.born(pod("p", nodeSelector={"disk": "ssd"})))
    assert store.settle({"node1": 5, "node2": 0, "node3": 5}) == ["update Pod p"]
    (waiting,) = store.of("Pod")
    unlike = "node(s) didn't match Pod's node affinity/selector"
    why = f"0/3 nodes are available: 1 Too many pods, 2 {unlike}."
    (told,) = waiting["status"]["conditions"]
    assert (told["type"], told["status"], told["reason"]) == (
        "PodScheduled",
        "False",
        "Unschedulable",
    )
    assert told["message"] == scheduler.why_waiting(waiting) == why
    assert store.told() == ["Pod p FailedScheduling x1"]
    store.settle()
    (placed,) = store.of("Pod")
    assert placed["spec"]["nodeName"] == "node2"
    assert [(one["type"], one["status"]) for one in placed["status"]["conditions"]] == [
        ("PodScheduled", "True")
    ]
    assert scheduler.why_waiting(placed) == ""


def test_the_scheduler_is_deterministic() -> None:
    pods = [controllers.born(pod(f"p{n}")) for n in range(20)]
    first, second = (scheduler.bindings(pods, NODES, CAPACITY) for _ in range(2))
    assert first == second
    assert Counter(one.document["spec"]["nodeName"] for one in first) == {
        "node1": 7,
        "node2": 7,
        "node3": 6,
    }


def test_pods_of_a_lost_node_live_elsewhere_with_new_uids(store: Store) -> None:
    declared = [deployment(6), pod("alone", nodeSelector={"disk": "ssd"}), pod("free")]
    store.declare(*declared_nodes(), *declared)
    store.settle()
    old = {name(one): one["metadata"]["uid"] for one in store.of("Pod")}
    store.declare(*(one for one in declared_nodes() if name(one) != "node2"), *declared)
    store.settle()
    assert Counter(store.places().values()) == {"node1": 4, "node3": 3, "": 1}
    assert store.places()["alone"] == ""  # declared, but only node2 had the label
    new = {name(one): one["metadata"]["uid"] for one in store.of("Pod")}
    assert new["alone"] != old["alone"]
    assert new["free"] == old["free"]


def test_a_pod_named_for_a_lost_node_waits_for_it(store: Store) -> None:
    declared = [deployment(6), pod("pinned", nodeName="node2")]
    store.declare(*declared_nodes(), *declared)
    before = next(one for one in store.of("Pod") if name(one) == "pinned")
    store.declare(*(one for one in declared_nodes() if name(one) != "node2"), *declared)
    store.settle()
    after = next(one for one in store.of("Pod") if name(one) == "pinned")
    assert after == before


def test_a_pod_nobody_declared_goes_with_its_node() -> None:
    store = Store(*NODES, controllers.born(pod("p", nodeName="node9")))
    assert store.settle() == ["delete Pod p"]


def test_a_vanished_namespace_takes_its_objects() -> None:
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    inside = pod("p")
    inside["metadata"]["namespace"] = "shop"
    store = Store()
    store.declare(*declared_nodes(), shop, inside, pod("q"))
    store.settle()
    store.make([Change(Verb.DELETE, store.of("Namespace")[0])])
    assert store.settle() == ["delete Pod p"]


def test_nothing_the_controllers_read_is_changed(store: Store) -> None:
    store.declare(*declared_nodes(), deployment(9, image="b"))
    documents = store.documents
    before = copy.deepcopy(documents)
    assert controllers.changes(Inventory(store.objects), capacity=CAPACITY)
    assert documents == before


# -- what files declare


def test_the_notes_settle_and_a_second_declaration_changes_nothing() -> None:
    declaration = topology.load([NOTES])
    lab = declaration.require_lab()
    wanted = [*controllers.declared(lab), *declaration.documents]
    store = Store()
    store.declare(*wanted)
    store.settle({one.name: lab.network.pods_per_node for one in lab.nodes})
    assert controllers.declaration_changes(wanted, store.documents) == []
    owned = Counter(place for title, place in store.places().items() if title.startswith("web-"))
    assert owned == {"node1": 2, "node2": 2, "node3": 2}
    assert store.places()["archive"] == "node2"
    alone = [one for one in declaration.documents if one["kind"] == "Pod"]
    sizes = [one["spec"]["replicas"] for one in wanted if one["kind"] == "Deployment"]
    daemons = sum(one["kind"] == "DaemonSet" for one in wanted) * len(lab.nodes)
    firsts = sum(one["kind"] == "StatefulSet" for one in wanted)
    assert len(store.of("Pod")) == len(alone) + sum(sizes) + daemons + firsts
    store.live({one.name: lab.network.pods_per_node for one in lab.nodes})
    assert {"db-0", "db-1"} < store.places().keys()
    assert controllers.declaration_changes(wanted, store.documents) == []


def test_a_declaration_and_what_follows_from_it_are_one_answer() -> None:
    declaration = topology.load([NOTES])
    lab = declaration.require_lab()
    room = {one.name: lab.network.pods_per_node for one in lab.nodes}
    wanted = [*controllers.declared(lab), *declaration.documents]
    store = Store()
    first = controllers.declaration_changes(wanted, ())
    done = store.make(controllers.changes(Inventory(), capacity=room, first=first))
    assert len(done) > len(first)
    assert all(one.startswith("create ") for one in done), "nothing is made and then changed"
    assert store.settle(room) == []
    (web, *_) = [one for one in wanted if one["kind"] == "Pod"]
    other = {**web, "spec": {**web["spec"], "hostname": "other"}}
    changed = [other if one is web else one for one in wanted]
    before = Inventory(store.objects)
    first = controllers.declaration_changes(changed, before)
    again = controllers.changes(before, capacity=room, settled=before, first=first)
    assert store.make(again)[:2] == [f"delete Pod {name(web)}", f"create Pod {name(web)}"]
    assert store.places()[name(web)]


def test_a_lab_declares_its_nodes_and_namespaces_and_its_dns() -> None:
    lab = topology.load([NOTES]).require_lab()
    documents = controllers.declared(lab)
    assert [(one["kind"], name(one)) for one in documents] == [
        ("Namespace", "default"),
        ("Namespace", "kube-system"),
        ("Node", "node1"),
        ("Node", "node2"),
        ("Node", "node3"),
        ("Service", "kube-dns"),
        ("Deployment", "coredns"),
    ]
    labels = documents[3]["metadata"]["labels"]
    assert labels["kubernetes.io/hostname"] == "node2"
    assert labels["kubernetes.io/os"] == "linux"
    assert labels["disk"] == "ssd"
    assert documents[3]["status"]["addresses"] == [
        {"type": "InternalIP", "address": "192.168.50.12"},
        {"type": "Hostname", "address": "node2"},
    ]


def test_what_is_no_longer_declared_is_deleted_and_nothing_else(store: Store) -> None:
    store.declare(*declared_nodes(), deployment(6), pod("p"))
    foreign = controllers.born(pod("foreign"))
    store.objects[registry_key(foreign)] = foreign
    assert store.declare(*declared_nodes(), deployment(6)) == ["delete Pod p"]


def test_a_changed_spec_replaces_a_pod() -> None:
    store = Store()
    store.declare(*declared_nodes(), pod("p"))
    store.settle()
    (before,) = store.of("Pod")
    done = store.declare(*declared_nodes(), pod("p", hostname="other"))
    assert done == ["delete Pod p", "create Pod p"]
    (after,) = store.of("Pod")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert "nodeName" not in after["spec"]


def test_changed_labels_leave_a_pod_alive() -> None:
    store = Store()
    one = pod("p")
    one["metadata"] |= {"labels": {"app": "a", "old": "x"}, "annotations": {"note": "1"}}
    store.declare(*declared_nodes(), one)
    store.settle()
    (stored,) = store.of("Pod")
    stored["metadata"]["labels"]["added"] = "by another"
    stored["metadata"]["resourceVersion"] = "7"
    stored["status"] = {"phase": "Running", "podIP": "10.244.1.2"}
    other = copy.deepcopy(one)
    other["metadata"] |= {"labels": {"app": "b"}, "annotations": {}}
    assert store.declare(*declared_nodes(), other) == ["update Pod p"]
    (after,) = store.of("Pod")
    assert after["metadata"]["labels"] == {"app": "b", "added": "by another"}
    assert "note" not in after["metadata"]["annotations"]
    assert after["spec"]["nodeName"] == stored["spec"]["nodeName"] != ""
    assert after["status"] == stored["status"]
    for field in ("uid", "creationTimestamp", "resourceVersion"):
        assert after["metadata"][field] == stored["metadata"][field]


def test_the_order_of_keys_in_a_file_is_no_change(store: Store) -> None:
    turned = dict(reversed(deployment(6).items()))
    assert store.declare(*declared_nodes(), turned) == []


def test_a_node_that_moves_is_updated(store: Store) -> None:
    moved = copy.deepcopy(declared_nodes())
    moved[0]["status"] = {"addresses": [{"type": "InternalIP", "address": "10.0.0.9"}]}
    store.objects[registry_key(moved[0])]["status"] = {"conditions": ["kept"]}
    assert store.declare(*moved, deployment(6)) == ["update Node node1"]
    assert store.of("Node")[0]["status"] == {**moved[0]["status"], "conditions": ["kept"]}


def test_an_object_somebody_else_made_is_taken_over() -> None:
    found = controllers.born(deployment(2))
    store = Store(found)
    assert store.declare(deployment(3)) == ["update Deployment web"]
    (after,) = store.of("Deployment")
    assert after["spec"]["replicas"] == 3
    assert after["metadata"]["uid"] == found["metadata"]["uid"]


def test_a_namespace_comes_first_and_goes_last() -> None:
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    store = Store()
    assert store.declare(pod("p"), shop) == ["create Namespace shop", "create Pod p"]
    assert store.declare() == ["delete Pod p", "delete Namespace shop"]


def test_born_fills_in_what_a_server_does() -> None:
    first, second = controllers.born(pod("p")), controllers.born(pod("p"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert first["status"] == {"phase": "Pending"}
    assert controllers.born(first) == first
    assert "status" not in controllers.born(deployment(1))
