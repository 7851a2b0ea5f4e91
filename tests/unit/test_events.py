"""Events: told of changes, once each, counted when told again, never many."""

from __future__ import annotations

from typing import Any

import pytest
from controlled import NODES, Store, deployment, name, pod

from netlab import controllers
from netlab.controllers import events
from netlab.controllers.events import Fact
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document


def nodes() -> list[Document]:
    return [
        {**one, "metadata": {k: v for k, v in one["metadata"].items() if k != "uid"}}
        for one in NODES
    ]


@pytest.fixture
def store() -> Store:
    """Three nodes and a Deployment of three pods."""
    store = Store()
    store.declare(*nodes(), deployment(3))
    store.settle()
    return store


def test_a_new_deployment_is_told_of_from_top_to_bottom(store: Store) -> None:
    (replica_set,) = store.of("ReplicaSet")
    said = {(one["reason"], one["message"]) for one in store.of("Event")}
    assert ("ScalingReplicaSet", f"Scaled up replica set {name(replica_set)} from 0 to 3") in said
    for one in store.of("Pod"):
        where = one["spec"]["nodeName"]
        assert ("SuccessfulCreate", f"Created pod: {name(one)}") in said
        assert ("Scheduled", f"Successfully assigned default/{name(one)} to {where}") in said
    assert len(said) == 7


def test_nothing_changed_is_nothing_told(store: Store) -> None:
    before = dict(store.objects)
    assert store.settle() == []
    assert store.objects == before


def test_who_names_a_node_himself_was_not_scheduled() -> None:
    store = Store()
    store.declare(*nodes(), pod("pinned", nodeName="node1"))
    store.settle()
    assert store.of("Event") == []


def test_a_smaller_deployment_tells_which_pods_went(store: Store) -> None:
    store.declare(*nodes(), deployment(1))
    gone = {name(one) for one in store.of("Pod")}
    store.settle()
    gone -= {name(one) for one in store.of("Pod")}
    said = {one["message"] for one in store.of("Event") if one["reason"] == "SuccessfulDelete"}
    assert said == {f"Deleted pod: {one}" for one in gone}


def test_the_same_said_again_counts(store: Store) -> None:
    (about, *_) = store.of("Pod")
    before = len(store.of("Event"))
    for _ in range(3):
        fact = Fact(about, "Unhealthy", "Readiness probe failed: refused", "kubelet", warning=True)
        store.make(events.recorded([fact], Inventory(store.objects)))
    (said,) = [one for one in store.of("Event") if one["reason"] == "Unhealthy"]
    assert (said["count"], said["type"]) == (3, "Warning")
    assert said["involvedObject"]["uid"] == about["metadata"]["uid"]
    assert len(store.of("Event")) == before + 1


def test_many_of_one_kind_become_one(store: Store) -> None:
    store.declare(*nodes(), deployment(200))
    store.settle()
    said = [one for one in store.of("Event") if one["reason"] == "SuccessfulCreate"]
    combined = [one for one in said if one["message"].startswith(events.COMBINED)]
    assert len(said) == events.SIMILAR_MAX + 1
    assert [one["count"] for one in combined] == [200 - events.SIMILAR_MAX]
    assert sum(one["reason"] == "Scheduled" for one in store.of("Event")) == 3, "no bulk"


def test_the_oldest_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENTS_MAX", 5)
    store = Store()
    for number in range(8):
        monkeypatch.setattr(events, "now", lambda n=number: f"2026-01-01T00:00:{n:02}Z")
        about: Any = controllers.born(pod(f"p{number}"))
        store.make(events.recorded([Fact(about, "Killing", "x")], Inventory(store.objects)))
    left = [one["involvedObject"]["name"] for one in store.of("Event")]
    assert left == ["p3", "p4", "p5", "p6", "p7"]
