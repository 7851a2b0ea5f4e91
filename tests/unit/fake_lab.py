"""A lab in memory, with the face of `netlab.lab`, for tests of the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from netlab.cluster import Cluster, cluster
from netlab.controllers import Change, Verb
from netlab.errors import NotFoundError, UsageError
from netlab.lab.report import Report
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import Lab
from netlab.store.wire import KeyValue

LAB = {
    "apiVersion": "netlab/v1",
    "kind": "Lab",
    "metadata": {"name": "notes"},
    "underlay": {"segments": [{"name": "lan", "cidr": "192.168.50.0/24"}]},
    "master": {"address": "192.168.50.10"},
    "gateway": {"address": "192.168.50.1"},
    "nodes": [
        {"name": "node1", "address": "192.168.50.11"},
        {"name": "node2", "address": "192.168.50.12"},
    ],
    "network": {"Network": "10.244.0.0/16"},
}
LEASES = {
    "192.168.50.11": ("10.244.1.0/24", "02:00:00:00:00:01"),
    "192.168.50.12": ("10.244.2.0/24", "02:00:00:00:00:02"),
}


def owner(kind: str, name: str) -> list[Document]:
    return [{"apiVersion": "apps/v1", "kind": kind, "name": name, "controller": True}]


def pod(
    name: str,
    *,
    node: str = "node1",
    ip: str = "10.244.1.2",
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    owners: list[Document] | None = None,
) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "labels": labels or {},
            "creationTimestamp": "2024-05-01T10:00:00Z",
            "ownerReferences": owners or [],
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "app", "image": "nginx", "ports": [{"containerPort": 80}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "containerStatuses": [{"name": "app", "ready": True, "restartCount": 2}],
        },
    }


def simple(kind: str, name: str, version: str = "v1", **more: Any) -> Document:
    namespaced = kind not in ("Node", "Namespace")
    meta: Document = {"name": name, **({"namespace": "default"} if namespaced else {})}
    return {"apiVersion": version, "kind": kind, "metadata": meta, **more}


TEMPLATE = {"spec": {"containers": [{"name": "app", "image": "nginx"}]}}
DOCUMENTS: list[Document] = [
    simple("Namespace", "default"),
    simple("Namespace", "shop"),
    simple("Node", "node1"),
    simple("Node", "node2"),
    pod("pair", labels={"app": "pair"}),
    pod(
        "web-1",
        ip="10.244.2.2",
        node="node2",
        labels={"app": "web"},
        owners=owner("ReplicaSet", "web-5d"),
    ),
    pod("cart-1", namespace="shop", ip="10.244.1.3", labels={"app": "cart"}),
    simple("Deployment", "web", "apps/v1", spec={"replicas": 2, "template": TEMPLATE}),
    {
        **simple("ReplicaSet", "web-5d", "apps/v1", spec={"replicas": 2, "template": TEMPLATE}),
        "metadata": {
            "name": "web-5d",
            "namespace": "default",
            "ownerReferences": owner("Deployment", "web"),
        },
    },
    simple("Service", "web", spec={"selector": {"app": "web"}, "ports": [{"port": 80}]}),
    simple("Widget", "w1", "example.com/v1"),
]


class FakeLive:
    """A live lab over a list of documents."""

    def __init__(self, name: str = "notes", documents: Sequence[Document] = DOCUMENTS) -> None:
        self.name = name
        self.lab = msgspec.convert(LAB, Lab)
        self.stored = list(documents)
        self.place = None
        self.problems: list[str] = []
        self.subnets: list[KeyValue] = []

    def time_left(self) -> dict[str, int | None]:
        return {"10.244.1.0/24": 86_400, "10.244.7.0/24": None}

    def documents(self) -> list[Document]:
        return self.stored

    def cluster(self) -> Cluster:
        return cluster(self.lab, tuple(self.stored), leases=LEASES)

    def status(self, *, changes: bool = False) -> dict[str, Any]:
        node = {
            "state": "Ready",
            "pods": 2,
            "running": 1,
            "peers": 1,
            "online": True,
            "renews": 0.0,
        }
        return {
            "lab": self.name,
            "converged": not self.problems,
            "settled": not self.problems,
            "revision": 7,
            "problems": self.problems,
            "pods": {"ready": 1, "wanted": 2},
            "convergence": {"changed": 0.0, "seconds": 0.084, "converging": None},
            "faults": [],
            "changes": [],
            "nodes": [
                {**node, "name": n.name, "address": n.address, "subnet": "", "lastError": ""}
                for n in self.lab.nodes
            ],
            "agent": {"pid": 42, "since": 0.0, "version": "0.1.0", "rss": 38 << 20},
        }

    def apply(self, documents: Sequence[Document]) -> list[Change]:
        known = {registry_key(document) for document in self.stored}
        new = [document for document in documents if registry_key(document) not in known]
        self.stored += new
        return [Change(Verb.CREATE, document) for document in new]

    def delete(self, documents: Sequence[Document], *, grace: int | None = None) -> list[Change]:
        keys = {registry_key(document) for document in documents}
        found = [document for document in self.stored if registry_key(document) in keys]
        self.stored = [document for document in self.stored if registry_key(document) not in keys]
        return [Change(Verb.DELETE, document) for document in found]

    def revision(self) -> int:
        return 7

    def wait(self, *, revision: int = 0, timeout: float = 0.0) -> list[str]:
        return self.problems

    def require_whole(self) -> FakeLive:
        return self

    def machine_of(self, member: str) -> str:
        return ""


class FakeRoom(SimpleNamespace):
    """Stands for the functions of `netlab.lab`, over any number of fake labs."""

    def __init__(self, *labs: FakeLive) -> None:
        super().__init__()
        self.labs = {live.name: live for live in labs}
        self.report = Report()
        self.downed: list[str] = []

    def names(self) -> list[str]:
        return sorted(self.labs)

    def chosen(self, name: str | None) -> str:
        if name is None and len(self.labs) == 1:
            return next(iter(self.labs))
        if name is None and self.labs:
            raise UsageError(f"there are {len(self.labs)} labs", hint="name one with -L LAB")
        if name not in self.labs:
            raise NotFoundError(f"no lab called {name}", hint="start it: netlab up FILE")
        return name

    def connect(self, name: str, *, note: object = None) -> FakeLive:
        return self.labs[name]

    def up(self, declaration: Any, *, progress: Callable[[str], None], verbose: bool) -> Report:
        progress("nodes")
        return self.report

    def plan(self, declaration: Any) -> Report:
        return self.report

    def down(self, name: str, *, progress: Callable[[str], None]) -> Report:
        progress("namespaces")
        self.downed.append(name)
        return Report(seconds={"down": 0.1})
