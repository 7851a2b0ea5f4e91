"""A Deployment keeps one ReplicaSet: that of its present pod template.

When the template changes, a new ReplicaSet takes over at once and the old one goes down to nothing
(the strategy Recreate; a rolling update is not there yet).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from netlab.controllers.change import Change, Verb, born, by_controller, owned_by
from netlab.model.kubernetes import Document

HASH_LABEL = "pod-template-hash"
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no words; apimachinery pkg/util/rand
HASH_LENGTH = 10


def replica_sets(
    deployments: Iterable[Document], replica_sets: Iterable[Document], pods: Iterable[Document]
) -> list[Change]:
    """Return what must happen to *replica_sets* so that each of *deployments* has its own.

    An old ReplicaSet is deleted once none of *pods* is left of it.
    """
    owned = by_controller(replica_sets)
    left = by_controller(pods)
    changes: list[Change] = []
    for deployment in deployments:
        mine = owned.get(deployment["metadata"]["uid"], [])
        changes += _changes(deployment, mine, left)
    return changes


def _changes(
    deployment: Document, owned: Sequence[Document], left: dict[str, list[Document]]
) -> list[Change]:
    wanted = _replica_set(deployment)
    current = next((one for one in owned if _hash(one) == _hash(wanted)), None)
    changes: list[Change] = []
    if current is None:
        changes.append(Change(Verb.CREATE, born(wanted)))
    elif _replicas(current) != _replicas(wanted):
        changes.append(_scaled(current, _replicas(wanted)))
    for old in owned:
        if old is current:
            continue
        if _replicas(old) != 0:
            changes.append(_scaled(old, 0))
        elif not left.get(old["metadata"]["uid"]):
            changes.append(Change(Verb.DELETE, old))
    return changes


def _replicas(document: Document) -> int:
    return int(document["spec"].get("replicas", 1))


def _hash(replica_set: Document) -> str:
    return str(replica_set["metadata"].get("labels", {}).get(HASH_LABEL, ""))


def _scaled(replica_set: Document, replicas: int) -> Change:
    spec = {**replica_set["spec"], "replicas": replicas}
    return Change(Verb.UPDATE, {**replica_set, "spec": spec})


def template_hash(template: dict[str, Any]) -> str:
    """Return ten letters and digits that change whenever *template* does."""
    text = json.dumps(template, sort_keys=True, separators=(",", ":"))
    number = int.from_bytes(sha256(text.encode()).digest())
    letters = []
    for _ in range(HASH_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[digit])
    return "".join(letters)


def _replica_set(deployment: Document) -> Document:
    """Return the ReplicaSet of the present template, as it is when it is new."""
    meta, spec = deployment["metadata"], deployment["spec"]
    template = spec["template"]
    told = template_hash(template)
    labels = {**(template.get("metadata", {}).get("labels") or {}), HASH_LABEL: told}
    selector = spec.get("selector", {})
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{meta['name']}-{told}",
            "namespace": meta["namespace"],
            "labels": labels,
            "ownerReferences": owned_by(deployment),
        },
        "spec": {
            "replicas": _replicas(deployment),
            "selector": {
                **selector,
                "matchLabels": {**selector.get("matchLabels", {}), HASH_LABEL: told},
            },
            "template": {
                **template,
                "metadata": {**template.get("metadata", {}), "labels": labels},
            },
        },
    }
