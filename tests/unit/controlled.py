"""Objects in memory and what controllers do to them, checked as etcd would check it."""

from __future__ import annotations

import copy
from typing import Any

from netlab import controllers
from netlab.controllers import Change, Verb
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key

LONG_AGO = "2026-01-01T00:00:00Z"
WORKLOADS = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job")
CAPACITY = {"node1": 100, "node2": 100, "node3": 100}


class Store:
    """The objects, and what is done to them, checked as etcd would check it."""

    def __init__(self, *documents: Document) -> None:
        self.objects = {registry_key(one): one for one in documents}
        self.count = 0

    def make(self, changes: list[Change]) -> list[str]:
        """Make *changes*; return them as `create Pod a`, those of Events left out."""
        told = [one for one in changes if not self._only_told(one)]
        for change in changes:
            key = registry_key(change.document)
            if change.verb is Verb.CREATE:
                assert key not in self.objects
                assert "resourceVersion" not in change.document["metadata"]
            else:
                stored = self.objects[key]["metadata"]
                assert change.document["metadata"]["uid"] == stored["uid"]
            if change.verb is Verb.DELETE:
                del self.objects[key]
            else:
                self.objects[key] = copy.deepcopy(change.document)
        return [f"{one.verb} {one.document['kind']} {name(one.document)}" for one in told]

    def _only_told(self, change: Change) -> bool:
        """Return whether *change* is an Event, or what a workload says in its status."""
        new = change.document
        old = self.objects.get(registry_key(new), {})
        if new["kind"] not in WORKLOADS or change.verb is not Verb.UPDATE:
            return bool(new["kind"] == "Event")
        return old.get("spec") == new["spec"]

    def run(self, *, ready: bool = True) -> list[str]:
        """Do what kubelets do: run the placed pods, or have them not *ready*; end those to go."""
        done = []
        for key, one in list(self.objects.items()):
            if one["kind"] != "Pod" or not one["spec"].get("nodeName"):
                continue
            if one["metadata"].get("deletionTimestamp"):
                del self.objects[key]
                done.append(f"end {name(one)}")
            elif not (one.get("status") or {}).get("podIP"):
                status = one.get("status") or {}
                told = {"type": "Ready", "status": str(ready), "lastTransitionTime": LONG_AGO}
                conditions = [*(status.get("conditions") or ()), told]
                self.count += 1
                status = {"phase": "Running", "podIP": f"10.244.0.{self.count % 250 + 2}"}
                self.objects[key] = {**one, "status": {**status, "conditions": conditions}}
                done.append(f"run {name(one)}")
        return done

    def live(self, capacity: dict[str, int] | None = None) -> list[str]:
        """Let controllers and kubelets finish."""
        done = []
        for _ in range(100):
            step = self.settle(capacity) + self.run()
            if not step:
                return done
            done += step
        raise AssertionError("no end")

    def told(self) -> list[str]:
        """Return the Events as `ReplicaSet web SuccessfulCreate x2`, in order."""
        return sorted(
            f"{one['involvedObject']['kind']} {one['involvedObject']['name']} {one['reason']}"
            f" x{one['count']}"
            for one in self.of("Event")
        )

    def settle(self, capacity: dict[str, int] | None = None) -> list[str]:
        """Let the controllers finish; they must have nothing left to do."""
        room = CAPACITY if capacity is None else capacity
        done = self.make(controllers.changes(Inventory(self.objects), capacity=room))
        assert controllers.changes(Inventory(self.objects), capacity=room) == []
        return done

    def declare(self, *documents: Document) -> list[str]:
        done = self.make(controllers.declaration_changes(documents, self.documents))
        assert controllers.declaration_changes(documents, self.documents) == []
        return done

    @property
    def documents(self) -> list[Document]:
        """Return the objects, without the Events about them."""
        return [one for one in self.objects.values() if one["kind"] != "Event"]

    def of(self, kind: str) -> list[Document]:
        return [one for one in self.objects.values() if one["kind"] == kind]

    def places(self) -> dict[str, str]:
        return {name(pod): pod["spec"].get("nodeName", "") for pod in self.of("Pod")}


def name(document: Document) -> str:
    return str(document["metadata"]["name"])


def node(title: str, labels: dict[str, str] | None = None, **spec: Any) -> Document:
    metadata = {"name": title, "labels": labels or {}, "uid": f"uid-{title}"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}


NODES = [node("node1"), node("node2", {"disk": "ssd"}), node("node3")]


def pod(title: str, **spec: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": title, "namespace": "default"},
        "spec": {"containers": [{"name": "c"}], **spec},
    }


def deployment(replicas: int, *, image: str = "a", title: str = "web", **spec: Any) -> Document:
    labels = {"app": title}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": image}], **spec}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": title, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }
