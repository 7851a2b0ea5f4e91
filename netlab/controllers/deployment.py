"""A Deployment has a ReplicaSet for each of its pod templates, and moves to the present one's pods.

RollingUpdate: never more pods than `replicas` and maxSurge, never fewer available ones than
`replicas` less maxUnavailable. Recreate: the new ones when none of the old ones is left. `paused`:
only the number of pods follows. ReplicaSets of former templates are kept, empty, for going back.
Source: kube-controller-manager pkg/controller/deployment (v1.34): rolling.go, recreate.go, sync.go,
util/deployment_util.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from netlab.controllers import podstate
from netlab.controllers.change import Change, Verb, born, by_controller, owned_by
from netlab.controllers.clock import Clock
from netlab.controllers.podstate import ALPHABET
from netlab.controllers.rollout import both, progress
from netlab.model.kubernetes import Document

HASH_LABEL = "pod-template-hash"
HASH_LENGTH = 10
REVISION = "deployment.kubernetes.io/revision"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MOST = "deployment.kubernetes.io/max-replicas"
HISTORY = 10  # revisionHistoryLimit

Pods = Mapping[str, Sequence[Document]]  # by the uid of their ReplicaSet


def replica_sets(
    deployments: Iterable[Document],
    replica_sets: Iterable[Document],
    pods: Iterable[Document],
    *,
    clock: Clock | None = None,
) -> list[Change]:
    """Return the next step by which each of *deployments* comes to have its number of pods of its
    present template, and says in its status how far it is."""
    clock = clock or Clock()
    owned = by_controller(replica_sets)
    left = by_controller(pods)
    changes: list[Change] = []
    for deployment in deployments:
        mine = owned.get(deployment["metadata"]["uid"], [])
        changes += _Rollout(deployment, mine, left, clock).changes()
    return changes


class _Rollout:
    """One Deployment on its way."""

    def __init__(
        self, deployment: Document, owned: Sequence[Document], left: Pods, clock: Clock
    ) -> None:
        spec = deployment["spec"]
        self.deployment, self.owned, self.left, self.clock = deployment, owned, left, clock
        self.replicas = _replicas(deployment)
        self.paused = bool(spec.get("paused"))
        self.seconds = int(spec.get("minReadySeconds") or 0)
        strategy = spec.get("strategy") or {}
        self.recreate = strategy.get("type") == "Recreate"
        surge, unavailable = both(strategy.get("rollingUpdate") or {}, self.replicas)
        self.most = self.replicas + (0 if self.recreate else surge)
        self.least = self.replicas - (0 if self.recreate else unavailable)
        wanted = _replica_set(deployment)
        self.new = next((one for one in owned if _hash(one) == _hash(wanted)), None)
        self.olds = [one for one in owned if one is not self.new]
        self.olds.sort(key=lambda one: (one["metadata"].get("creationTimestamp", ""), _name(one)))
        self.size = {_uid(one): _replicas(one) for one in owned}
        self._serving: dict[str, int] = {}  # available pods by the uid of their ReplicaSet
        if self.new is None and not self.paused and not (self.recreate and self._old_pods()):
            self.new = born(wanted)
            self.size[_uid(self.new)] = 0

    def _old_pods(self) -> list[Document]:
        """Return the pods of former templates that have not ended, those that are going too."""
        pods = (pod for one in self.olds for pod in self.left.get(_uid(one), ()))
        return [pod for pod in pods if not podstate.ended(pod)]

    def _active(self, replica_set: Document) -> list[Document]:
        return [pod for pod in self.left.get(_uid(replica_set), ()) if podstate.active(pod)]

    def _available(self, replica_set: Document) -> int:
        key = _uid(replica_set)
        if key not in self._serving:
            pods = self._active(replica_set)
            found = (podstate.available(pod, self.seconds, self.clock) for pod in pods)
            self._serving[key] = sum(found)
        return self._serving[key]

    def changes(self) -> list[Change]:
        """Return the next step."""
        if self.paused:
            self._keep_number()
        elif self.recreate:
            for old in self.olds:
                self.size[_uid(old)] = 0
            if self.new is not None:
                self.size[_uid(self.new)] = self.replicas
        elif self.new is not None:
            self._grow(self.new)
            self._shrink(self.new)
        sized, revision = self._sized()
        return [*sized, *self._forgotten(), *self._told(revision)]

    def _grow(self, new: Document) -> None:
        """Give *new* as many pods as there is room for, and no more than wanted."""
        room = max(0, self.most - sum(self.size.values()))
        self.size[_uid(new)] = min(self.replicas, self.size[_uid(new)] + room)

    def _shrink(self, new: Document) -> None:
        """Take pods from former templates: those that do not serve, then those to spare."""
        coming = self.size[_uid(new)] - self._available(new)
        spare = sum(self.size.values()) - self.least - coming
        if spare <= 0 or not self.olds:
            return
        for old in self.olds:
            broken = self.size[_uid(old)] - self._available(old)
            spare -= self._taken(old, min(spare, broken))
        serving = sum(map(self._available, [*self.olds, new]))
        spare = serving - self.least
        for old in self.olds:
            spare -= self._taken(old, spare)

    def _taken(self, old: Document, number: int) -> int:
        """Make *old* smaller by *number* pods, as far as it has them; return by how many."""
        number = max(0, min(number, self.size[_uid(old)]))
        self.size[_uid(old)] -= number
        return number

    def _keep_number(self) -> None:
        """Have as many pods as wanted, of whatever templates there are: the largest one follows."""
        listed = [*self.olds, *([self.new] if self.new is not None else [])]
        live = [one for one in listed if self.size[_uid(one)]] or listed[-1:]
        if not live:
            return
        total = sum(self.size[_uid(one)] for one in live)
        wanted = min(max(total, self.replicas), self.most) if len(live) > 1 else self.replicas
        largest = max(live, key=lambda one: self.size[_uid(one)])
        self.size[_uid(largest)] = max(0, self.size[_uid(largest)] + wanted - total)

    def _sized(self) -> tuple[list[Change], int]:
        """Return the new ReplicaSet, and those whose number changes; and the present revision."""
        notes = {DESIRED: str(self.replicas), MOST: str(self.most)}
        last = max(map(_revision, self.olds), default=0)
        changes: list[Change] = []
        for old in self.olds:
            if self.size[_uid(old)] != _replicas(old):
                changes.append(Change(Verb.UPDATE, self._with(old, notes)))
        if self.new is None:
            return changes, last
        revision = max(_revision(self.new), last + 1)
        after = self._with(self.new, {**notes, REVISION: str(revision)})
        if not any(self.new is one for one in self.owned):
            changes.append(Change(Verb.CREATE, after))
        elif after != self.new:
            changes.append(Change(Verb.UPDATE, after))
        return changes, revision

    def _with(self, one: Document, notes: Mapping[str, str]) -> Document:
        """Return the ReplicaSet *one* with its size and *notes*."""
        meta = one["metadata"]
        meta = {**meta, "annotations": {**(meta.get("annotations") or {}), **notes}}
        return {
            **one,
            "metadata": meta,
            "spec": {
                **one["spec"],
                "replicas": self.size[_uid(one)],
                "minReadySeconds": self.seconds,
            },
        }

    def _forgotten(self) -> list[Change]:
        """Return the deletion of empty former ReplicaSets, but for the latest few."""
        limit = self.deployment["spec"].get("revisionHistoryLimit", HISTORY)
        empty = [
            one
            for one in sorted(self.olds, key=_revision)
            if not _replicas(one) and not self.size[_uid(one)] and not self._left(one)
        ]
        kept = limit if isinstance(limit, int) else HISTORY
        return [Change(Verb.DELETE, one) for one in empty[: max(0, len(empty) - kept)]]

    def _left(self, one: Document) -> bool:
        return bool(self.left.get(_uid(one)))

    def _told(self, revision: int) -> list[Change]:
        """Return the Deployment with its status and the number of its revision."""
        sets = [*self.olds, *([self.new] if self.new is not None else [])]
        active = {_uid(one): self._active(one) for one in sets}
        pods = [pod for listed in active.values() for pod in listed]
        counts = {
            "replicas": len(pods),
            "updatedReplicas": len(active[_uid(self.new)]) if self.new is not None else 0,
            "readyReplicas": sum(map(podstate.ready, pods)),
            "availableReplicas": sum(map(self._available, sets)),
        }
        counts["unavailableReplicas"] = max(0, self.replicas - counts["availableReplicas"])
        meta = self.deployment["metadata"]
        name = _name(self.new) if self.new is not None else meta["name"]
        told = progress(self.deployment, counts, least=self.least, name=name, clock=self.clock)
        notes = meta.get("annotations") or {}
        after = self.deployment
        if revision and notes.get(REVISION) != str(revision):
            notes = {**notes, REVISION: str(revision)}
            after = {**after, "metadata": {**meta, "annotations": notes}}
        status = {**counts, "conditions": told}
        changed = podstate.with_status(after, status)
        return changed or ([] if after is self.deployment else [Change(Verb.UPDATE, after)])


def _uid(document: Document) -> str:
    return str(document["metadata"]["uid"])


def _name(document: Document) -> str:
    return str(document["metadata"]["name"])


def _replicas(document: Document) -> int:
    return int(document["spec"].get("replicas", 1))


def _hash(replica_set: Document) -> str:
    return str(replica_set["metadata"].get("labels", {}).get(HASH_LABEL, ""))


def _revision(replica_set: Document) -> int:
    text = str((replica_set["metadata"].get("annotations") or {}).get(REVISION, "0"))
    return int(text) if text.isdigit() else 0


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
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH_LABEL: told}
    selector = spec.get("selector") or {}
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
                "matchLabels": {**(selector.get("matchLabels") or {}), HASH_LABEL: told},
            },
            "template": {
                **template,
                "metadata": {**(template.get("metadata") or {}), "labels": labels},
            },
        },
    }
