"""Workloads on their way: rolling updates, numbered pods, a pod per node, jobs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from controlled import CAPACITY, NODES, Store, deployment, name, node

from netlab import controllers
from netlab.controllers import Clock, podstate, rollout
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key


def nodes() -> list[Document]:
    return [
        {**one, "metadata": {k: v for k, v in one["metadata"].items() if k != "uid"}}
        for one in NODES
    ]


def workload(kind: str, title: str = "db", *, image: str = "a", **spec: Any) -> Document:
    labels = {"app": title}
    containers = [{"name": "c", "image": image}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
    if kind == "Job":
        template["spec"]["restartPolicy"] = "Never"  # type: ignore[index]
    selector = {} if kind == "Job" else {"selector": {"matchLabels": labels}}
    return {
        "apiVersion": "batch/v1" if kind == "Job" else "apps/v1",
        "kind": kind,
        "metadata": {"name": title, "namespace": "default"},
        "spec": {**selector, "template": template, **spec},
    }


def brought_up(*documents: Document) -> Store:
    store = Store()
    store.declare(*nodes(), *documents)
    store.live()
    return store


def active(store: Store) -> list[Document]:
    return [pod for pod in store.of("Pod") if podstate.active(pod)]


def images(store: Store) -> list[str]:
    return sorted(pod["spec"]["containers"][0]["name"] for pod in active(store))


# -- Deployments

SHARES = {
    "percent, up": ("25%", 6, True, 2),
    "percent, down": ("25%", 6, False, 1),
    "a number": (3, 6, True, 3),
    "none": (0, 6, True, 0),
    "nonsense": ("x%", 6, True, 0),
}


@pytest.mark.parametrize(("value", "total", "up", "pods"), SHARES.values(), ids=SHARES)
def test_a_share_of_pods(value: object, total: int, up: bool, pods: int) -> None:
    assert rollout.scaled(value, total, up=up) == pods


LIMITS: dict[str, tuple[dict[str, Any], int, int]] = {
    "by default": ({}, 8, 5),
    "one more": ({"maxSurge": 1, "maxUnavailable": 0}, 7, 6),
    "one fewer": ({"maxSurge": 0, "maxUnavailable": 1}, 6, 5),
    "halves": ({"maxSurge": "50%", "maxUnavailable": "50%"}, 9, 3),
    "all at once": ({"maxSurge": "100%", "maxUnavailable": 0}, 12, 6),
}


@pytest.mark.parametrize(("rolling", "most", "least"), LIMITS.values(), ids=LIMITS)
def test_a_rolling_update_keeps_its_limits_at_each_step(
    rolling: dict[str, Any], most: int, least: int
) -> None:
    def wanted(image: str) -> Document:
        one = deployment(6, image=image)
        one["spec"]["strategy"] = {"rollingUpdate": rolling}
        return one

    store = brought_up(wanted("a"))
    store.declare(*nodes(), wanted("b"))
    for _ in range(50):
        store.settle()
        there = active(store)
        assert len(there) <= most
        assert sum(map(podstate.ready, there)) >= least
        if not store.run():
            break
    assert images(store) == ["b"] * 6
    old, new = sorted(store.of("ReplicaSet"), key=lambda one: one["spec"]["replicas"])
    assert (old["spec"]["replicas"], new["spec"]["replicas"]) == (0, 6)
    (parent,) = store.of("Deployment")
    assert parent["status"]["updatedReplicas"] == parent["status"]["availableReplicas"] == 6
    assert podstate.condition(parent, "Progressing")["reason"] == "NewReplicaSetAvailable"


def test_an_update_that_never_serves_stops_where_it_hurts_nobody() -> None:
    store = brought_up(deployment(6))
    store.declare(*nodes(), deployment(6, image="b"))
    for _ in range(10):
        store.settle()
        store.run(ready=False)
    assert images(store).count("a") == 5, "25% of 6, rounded down, may be missing"
    assert images(store).count("b") == 3
    (parent,) = store.of("Deployment")
    assert podstate.condition(parent, "Available")["status"] == "True"


def test_pods_count_as_available_once_they_have_been_ready_for_long_enough() -> None:
    one = deployment(1)
    one["spec"]["minReadySeconds"] = 10
    store = brought_up(one)
    (pod,) = store.of("Pod")
    clock = Clock(1_000_000.0)
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-12T13:46:35Z"}
    store.objects[registry_key(pod)] = {**pod, "status": {**pod["status"], "conditions": [ready]}}
    objects = Inventory(store.objects)
    store.make(controllers.changes(objects, capacity=CAPACITY, clock=clock))
    assert store.of("Deployment")[0]["status"]["availableReplicas"] == 0
    assert clock.next == pytest.approx(1_000_005.0)
    later = Clock(1_000_006.0)
    store.make(controllers.changes(Inventory(store.objects), capacity=CAPACITY, clock=later))
    assert store.of("Deployment")[0]["status"]["availableReplicas"] == 1


def test_a_rollout_that_exceeded_its_deadline_stays_so_until_it_moves() -> None:
    def declared(image: str) -> Document:
        one = deployment(3, image=image)
        one["spec"]["progressDeadlineSeconds"] = 5
        return one

    def reason(at: float) -> str:
        objects = Inventory(store.objects)
        store.make(controllers.changes(objects, capacity=CAPACITY, clock=Clock(at)))
        return str(podstate.condition(store.of("Deployment")[0], "Progressing")["reason"])

    store = brought_up(declared("a"))
    (pod, *_) = store.of("Pod")
    lost = {"type": "Ready", "status": "False", "lastTransitionTime": "2001-09-09T01:46:40Z"}
    store.objects[registry_key(pod)] = {**pod, "status": {**pod["status"], "conditions": [lost]}}
    assert reason(2_000_000_000.0) == "NewReplicaSetAvailable", "a pod that fails is no rollout"
    store.objects[registry_key(pod)] = pod
    store.declare(*nodes(), declared("b"))
    for _ in range(5):
        assert reason(2_000_000_000.0) == "ReplicaSetUpdated"
        store.run(ready=False)
    assert reason(2_000_000_004.0) == "ReplicaSetUpdated"
    assert [reason(2_000_000_000.0 + at) for at in (6, 6, 7, 20)] == [
        "ProgressDeadlineExceeded"
    ] * 4
    for key, one in list(store.objects.items()):
        if one["kind"] == "Pod" and one["spec"]["containers"][0]["name"] == "b":
            served = {
                "type": "Ready",
                "status": "True",
                "lastTransitionTime": "2001-09-09T01:46:40Z",
            }
            store.objects[key] = {**one, "status": {**one["status"], "conditions": [served]}}
    assert reason(2_000_000_021.0) == "ReplicaSetUpdated"


def test_a_status_says_which_generation_it_is_about() -> None:
    store = brought_up(deployment(2))
    store.declare(*nodes(), deployment(3))
    (before,) = store.of("Deployment")
    assert before["metadata"]["generation"] == 2
    assert before["status"].get("observedGeneration", 0) < 2, "nobody has looked yet"
    store.live()
    (after,) = store.of("Deployment")
    assert (after["metadata"]["generation"], after["status"]["observedGeneration"]) == (2, 2)


def test_recreate_waits_until_the_old_ones_are_gone() -> None:
    def wanted(image: str) -> Document:
        one = deployment(3, image=image)
        one["spec"]["strategy"] = {"type": "Recreate"}
        return one

    store = brought_up(wanted("a"))
    store.declare(*nodes(), wanted("b"))
    store.settle()
    assert images(store) == [] and len(store.of("Pod")) == 3, "all are going, none is new"
    store.live()
    assert images(store) == ["b"] * 3


def test_a_paused_deployment_keeps_its_template_and_follows_its_number() -> None:
    store = brought_up(deployment(3))
    paused = deployment(5, image="b")
    paused["spec"]["paused"] = True
    store.declare(*nodes(), paused)
    store.live()
    assert images(store) == ["a"] * 5
    store.declare(*nodes(), deployment(5, image="b"))
    store.live()
    assert images(store) == ["b"] * 5


def test_only_the_latest_templates_are_remembered() -> None:
    def wanted(image: str) -> Document:
        one = deployment(1, image=image)
        one["spec"]["revisionHistoryLimit"] = 2
        return one

    store = brought_up(wanted("a"))
    for image in "bcde":
        store.declare(*nodes(), wanted(image))
        store.live()
    names = [
        one["spec"]["template"]["spec"]["containers"][0]["name"] for one in store.of("ReplicaSet")
    ]
    assert sorted(names) == ["c", "d", "e"]


# -- pods end in their own time


def test_a_pod_that_runs_is_marked_and_one_that_does_not_is_deleted() -> None:
    store = brought_up(deployment(2))
    pod = store.of("Pod")[0]
    clock = Clock(0.0)
    marked = podstate.deletion(pod, clock=clock)
    assert marked.verb is controllers.Verb.UPDATE
    assert marked.document["metadata"]["deletionTimestamp"] == "1970-01-01T00:00:30Z"
    again = podstate.deletion(marked.document, clock=clock)
    assert again.document is marked.document
    sooner = podstate.deletion(marked.document, clock=clock, grace=5)
    assert sooner.document["metadata"]["deletionGracePeriodSeconds"] == 5
    assert podstate.deletion(pod, grace=0).verb is controllers.Verb.DELETE
    for status in ({}, {**pod["status"], "phase": "Failed"}):
        assert podstate.deletion({**pod, "status": status}).verb is controllers.Verb.DELETE


# -- StatefulSets


def test_numbered_pods_come_one_after_the_other_and_go_the_other_way() -> None:
    store = Store()
    store.declare(*nodes(), workload("StatefulSet", replicas=3, serviceName="db"))
    for number in range(3):
        store.settle()
        assert sorted(store.places()) == [f"db-{n}" for n in range(number + 1)]
        store.run()
    store.declare(*nodes(), workload("StatefulSet", replicas=1, serviceName="db"))
    done = store.live()
    assert [one for one in done if one.startswith("end")] == ["end db-2", "end db-1"]
    (pod,) = store.of("Pod")
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-0", "db")
    labels = pod["metadata"]["labels"]
    assert labels["statefulset.kubernetes.io/pod-name"] == "db-0"
    assert labels["apps.kubernetes.io/pod-index"] == "0"


def test_nothing_goes_while_one_that_stays_does_not_serve() -> None:
    store = brought_up(workload("StatefulSet", replicas=3))
    first = next(pod for pod in store.of("Pod") if name(pod) == "db-0")
    unready = [{"type": "Ready", "status": "False"}]
    store.objects[registry_key(first)] = {
        **first,
        "status": {**first["status"], "conditions": unready},
    }
    store.declare(*nodes(), workload("StatefulSet", replicas=1))
    store.live()
    assert sorted(store.places()) == ["db-0", "db-1", "db-2"]


def test_parallel_ones_come_at_once() -> None:
    store = Store()
    parallel = {"podManagementPolicy": "Parallel", "ordinals": {"start": 5}}
    store.declare(*nodes(), workload("StatefulSet", replicas=3, **parallel))
    store.settle()
    assert sorted(store.places()) == ["db-5", "db-6", "db-7"]


def test_a_numbered_pod_has_its_name_again_with_another_uid() -> None:
    store = brought_up(workload("StatefulSet", replicas=2))
    victim = next(pod for pod in store.of("Pod") if name(pod) == "db-0")
    store.make([podstate.deletion(victim)])
    store.settle()
    assert len(store.of("Pod")) == 2, "the former one is still going"
    store.live()
    again = next(pod for pod in store.of("Pod") if name(pod) == "db-0")
    assert again["metadata"]["uid"] != victim["metadata"]["uid"]


UPDATES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "all, the highest first": ({}, ["db-2", "db-1", "db-0"]),
    "down to the partition": ({"rollingUpdate": {"partition": 2}}, ["db-2"]),
    "on delete": ({"type": "OnDelete"}, []),
}


@pytest.mark.parametrize(("strategy", "ended"), UPDATES.values(), ids=UPDATES)
def test_a_new_template_takes_numbered_pods(strategy: dict[str, Any], ended: list[str]) -> None:
    more = {"replicas": 3, "updateStrategy": strategy}
    store = brought_up(workload("StatefulSet", **more))
    store.declare(*nodes(), workload("StatefulSet", image="b", **more))
    done = store.live()
    assert [one.split()[1] for one in done if one.startswith("end")] == ended
    new = [name(p) for p in store.of("Pod") if p["spec"]["containers"][0]["image"] == "b"]
    assert sorted(new) == sorted(ended)
    (parent,) = store.of("StatefulSet")
    assert parent["status"]["updatedReplicas"] == len(ended)
    whole = parent["status"]["currentRevision"] == parent["status"]["updateRevision"]
    assert whole is (len(ended) == 3)


def test_below_the_partition_a_pod_comes_back_with_its_former_template() -> None:
    more = {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}}
    store = brought_up(workload("StatefulSet", **more))
    store.declare(*nodes(), workload("StatefulSet", image="b", **more))
    store.live()
    victim = next(pod for pod in store.of("Pod") if name(pod) == "db-0")
    store.make([podstate.deletion(victim)])
    store.live()
    found = {name(pod): pod["spec"]["containers"][0]["image"] for pod in store.of("Pod")}
    assert found == {"db-0": "a", "db-1": "b"}


# -- DaemonSets


def test_each_node_has_one_and_one_that_joins_too() -> None:
    store = brought_up(workload("DaemonSet"))
    assert sorted(store.places().values()) == ["node1", "node2", "node3"]
    joined = node("node4")
    store.objects[registry_key(joined)] = joined
    store.live({**CAPACITY, "node4": 5})
    assert sorted(store.places().values()) == ["node1", "node2", "node3", "node4"]
    del store.objects[registry_key(joined)]
    store.live()
    assert sorted(store.places().values()) == ["node1", "node2", "node3"]
    assert store.of("DaemonSet")[0]["status"]["numberReady"] == 3


SUITED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "a selector": ({}, {"nodeSelector": {"disk": "ssd"}}, ["node2"]),
    "a cordon does not matter": ({"unschedulable": True}, {}, ["node1", "node2", "node3"]),
    "a taint does": ({"taints": [{"key": "a", "effect": "NoSchedule"}]}, {}, ["node2", "node3"]),
    "but one that is tolerated": (
        {"taints": [{"key": "a", "effect": "NoSchedule"}]},
        {"tolerations": [{"key": "a", "operator": "Exists"}]},
        ["node1", "node2", "node3"],
    ),
}


@pytest.mark.parametrize(("first", "spec", "places"), SUITED.values(), ids=SUITED)
def test_a_daemon_is_where_its_node_suits_it(
    first: dict[str, Any], spec: dict[str, Any], places: list[str]
) -> None:
    one = workload("DaemonSet")
    one["spec"]["template"]["spec"] |= spec
    store = Store(node("node1", **first), *NODES[1:], controllers.born(one))
    store.live()
    assert sorted(store.places().values()) == places


@pytest.mark.parametrize(
    ("most", "kind"), [(1, "RollingUpdate"), (2, "RollingUpdate"), (0, "OnDelete")]
)
def test_a_new_template_takes_as_many_daemons_as_may_be_missing(most: int, kind: str) -> None:
    rolling = {"rollingUpdate": {"maxUnavailable": most}} if most else {}
    strategy = {"updateStrategy": {"type": kind, **rolling}}
    store = brought_up(workload("DaemonSet", **strategy))
    store.declare(*nodes(), workload("DaemonSet", image="b", **strategy))
    store.settle()
    assert sum(map(podstate.terminating, store.of("Pod"))) == most
    store.live()
    new = [p for p in store.of("Pod") if p["spec"]["containers"][0]["image"] == "b"]
    assert len(new) == (3 if most else 0)


# -- Jobs


def finished(store: Store, phase: str = "Succeeded") -> int:
    """Have all pods that run come to their end; return how many."""
    ended = 0
    for key, one in list(store.objects.items()):
        if one["kind"] == "Pod" and one.get("status", {}).get("phase") == "Running":
            store.objects[key] = {**one, "status": {**one["status"], "phase": phase}}
            ended += 1
    return ended


def test_a_job_runs_some_at_a_time_until_enough_have_succeeded() -> None:
    store = Store()
    store.declare(*nodes(), workload("Job", completions=5, parallelism=2))
    sizes = []
    for _ in range(10):
        store.live()
        if not (size := finished(store)):
            break
        sizes.append(size)
    assert sizes == [2, 2, 1]
    (job,) = store.of("Job")
    assert job["status"]["succeeded"] == 5 and job["status"]["active"] == 0
    assert podstate.condition(job, "Complete")["status"] == "True"
    assert "Job db Completed x1" in store.told()


def test_a_job_gives_up_after_too_many_failures() -> None:
    store = Store()
    store.declare(*nodes(), workload("Job", backoffLimit=1))
    for _ in range(3):
        store.live()
        finished(store, "Failed")
    store.live()
    (job,) = store.of("Job")
    assert job["status"]["failed"] == 2
    assert podstate.condition(job, "Failed")["reason"] == "BackoffLimitExceeded"
    assert len(store.of("Pod")) == 2


@pytest.mark.parametrize(
    ("fields", "after", "left"),
    [
        pytest.param({"activeDeadlineSeconds": 60}, 61, "Failed", id="too long"),
        pytest.param({"activeDeadlineSeconds": 60}, 59, "", id="in time"),
    ],
)
def test_a_job_has_a_deadline(fields: dict[str, Any], after: int, left: str) -> None:
    store = brought_up(workload("Job", **fields))
    (job,) = store.of("Job")
    began = controllers.clock.epoch(job["status"]["startTime"])
    assert began is not None
    clock = Clock(began + after)
    objects = Inventory(store.objects)
    store.make(controllers.changes(objects, capacity=CAPACITY, clock=clock))
    assert controllers.job.over(store.of("Job")[0]) == left
    assert (clock.next is None) is bool(left)


def test_a_finished_job_goes_after_its_time() -> None:
    store = brought_up(workload("Job", ttlSecondsAfterFinished=0))
    finished(store)
    store.live()
    assert store.of("Job") == store.of("Pod") == []


def test_nothing_that_was_read_is_changed() -> None:
    kinds = ("StatefulSet", "DaemonSet", "Job")
    store = brought_up(*(workload(kind, kind.lower(), replicas=2) for kind in kinds))
    store.declare(*nodes(), *(workload(kind, kind.lower(), image="b") for kind in kinds))
    before = copy.deepcopy(store.objects)
    assert controllers.changes(Inventory(store.objects), capacity=CAPACITY)
    assert store.objects == before
