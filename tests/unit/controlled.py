"""Objects in memory and what controllers do to them, checked as etcd would check it."""

from __future__ import annotations

import copy
from typing import Any

from netlab import controllers
from netlab.controllers import Change, Verb
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key

CAPACITY = {"node1": 100, "node2": 100, "node3": 100}


class Store:
    """The objects, and what is done to them, checked as etcd would check it."""

    def __init__(self, *documents: Document) -> None:
        self.objects = {registry_key(one): one for one in documents}

    def make(self, changes: list[Change]) -> list[str]:
        """Make *changes*; return them as `create Pod a`, those of Events left out."""
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
        return [
            f"{one.verb} {one.document['kind']} {name(one.document)}"
            for one in changes
            if one.document["kind"] != "Event"
        ]

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
