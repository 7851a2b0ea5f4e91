"""A ReplicaSet keeps its number of pods alive: makes missing ones, deletes surplus ones."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from netlab.controllers.change import Change, Verb, born, by_controller, owned_by
from netlab.controllers.deployment import ALPHABET
from netlab.model.kubernetes import Document

SUFFIX_LENGTH = 5  # apiserver pkg/storage/names/generate.go
PREFIX_MAX = 58  # so that the name fits a label: 63
ENDED = ("Succeeded", "Failed")


def pods(replica_sets: Iterable[Document], pods: Sequence[Document]) -> list[Change]:
    """Return what must happen to *pods* so that each of *replica_sets* has its number of them."""
    owned = by_controller(pods)
    taken = {(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods}
    changes: list[Change] = []
    for replica_set in replica_sets:
        mine = owned.get(replica_set["metadata"]["uid"], [])
        alive = [pod for pod in mine if pod.get("status", {}).get("phase") not in ENDED]
        missing = int(replica_set["spec"].get("replicas", 1)) - len(alive)
        for _ in range(missing):
            pod = _pod(replica_set, taken)
            taken.add((pod["metadata"]["namespace"], pod["metadata"]["name"]))
            changes.append(Change(Verb.CREATE, born(pod)))
        if missing < 0:
            changes += [Change(Verb.DELETE, pod) for pod in _expendable_first(alive)[:-missing]]
    return changes


def _expendable_first(pods: Sequence[Document]) -> list[Document]:
    """Return *pods*, the least useful first: unplaced, not running, not ready, then the youngest.

    Source: kube-controller-manager pkg/controller/controller_utils.go, ActivePods.
    """
    youngest = sorted(pods, key=lambda pod: pod["metadata"]["name"])
    youngest.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True)
    return sorted(youngest, key=_usefulness)


def _usefulness(pod: Document) -> tuple[bool, bool, bool]:
    status = pod.get("status", {})
    placed = bool(pod["spec"].get("nodeName"))
    return placed, status.get("phase") == "Running", _ready(status)


def _ready(status: Document) -> bool:
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions", ())
    )


def _pod(replica_set: Document, taken: set[tuple[str, str]]) -> Document:
    """Return one more pod of *replica_set*, under a name that is not *taken*."""
    meta, template = replica_set["metadata"], replica_set["spec"]["template"]
    prefix = f"{meta['name']}-"
    name = _name(prefix)
    while (meta["namespace"], name) in taken:
        name = _name(prefix)
    described = template.get("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "generateName": prefix,
            "namespace": meta["namespace"],
            **{key: described[key] for key in ("labels", "annotations") if described.get(key)},
            "ownerReferences": owned_by(replica_set),
        },
        "spec": template["spec"],
    }


def _name(prefix: str) -> str:
    return prefix[:PREFIX_MAX] + "".join(random.choices(ALPHABET, k=SUFFIX_LENGTH))
