"""A StatefulSet's pods have numbers for names, come and go in their order, and keep their names.

OrderedReady: a pod is made when all before it are ready, and goes when all behind it are gone;
Parallel: all at once. A new template takes the pods from the highest number down to the partition,
one at a time. A pod is made again under its name once the former one is gone entirely.
Source: kube-controller-manager pkg/controller/statefulset/stateful_set_control.go (v1.34). There a
pod below the update, when it dies, comes back with the former template; here with the present one,
unless the partition keeps it. Volume claims are kept and have no effect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from netlab.controllers import podstate, revisions
from netlab.controllers.change import Change, Verb, by_controller
from netlab.controllers.clock import Clock
from netlab.model.kubernetes import Document

NAME_LABEL = "statefulset.kubernetes.io/pod-name"
INDEX_LABEL = "apps.kubernetes.io/pod-index"


def pods(
    stateful_sets: Iterable[Document],
    pods: Sequence[Document],
    held: Iterable[Document],
    *,
    clock: Clock | None = None,
) -> list[Change]:
    """Return the next step by which each of *stateful_sets* comes to have its *pods*.

    *held*: the ControllerRevisions there are.
    """
    clock = clock or Clock()
    owned, kept = by_controller(pods), by_controller(held)
    changes: list[Change] = []
    for one in stateful_sets:
        uid = one["metadata"]["uid"]
        changes += _Set(one, owned.get(uid, []), kept.get(uid, []), clock).changes()
    return changes


class _Set:
    """One StatefulSet and its pods."""

    def __init__(
        self,
        document: Document,
        pods: Sequence[Document],
        held: Sequence[Document],
        clock: Clock,
    ) -> None:
        spec = document["spec"]
        self.document, self.clock = document, clock
        self.replicas = int(spec.get("replicas", 1))
        self.start = int((spec.get("ordinals") or {}).get("start") or 0)
        self.ordered = spec.get("podManagementPolicy") != "Parallel"
        self.seconds = int(spec.get("minReadySeconds") or 0)
        strategy = spec.get("updateStrategy") or {}
        self.rolling = strategy.get("type") != "OnDelete"
        self.partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
        self.pods = {ordinal: pod for pod in pods if (ordinal := self._ordinal(pod)) >= 0}
        current = str(podstate.status_of(document).get("currentRevision") or "")
        self.history = revisions.history(
            document, held, {current, *map(_revision, self.pods.values())}
        )
        self.update = self.history.present
        self.current = current if current in self.history.templates else self.update

    def _ordinal(self, pod: Document) -> int:
        stem, _, number = pod["metadata"]["name"].rpartition("-")
        right = stem == self.document["metadata"]["name"] and number.isdigit()
        return int(number) if right else -1

    def changes(self) -> list[Change]:
        """Return the next step."""
        return [*self.history.changes, *self._step(), *self._told()]

    def _serves(self, pod: Document) -> bool:
        return podstate.active(pod) and podstate.available(pod, self.seconds, self.clock)

    def _step(self) -> list[Change]:
        made, waiting = self._missing()
        if waiting and self.ordered:
            return made
        gone, waiting = self._surplus()
        if (waiting and self.ordered) or made or gone:
            return made + gone
        return self._outdated() if self.rolling else []

    def _missing(self) -> tuple[list[Change], bool]:
        """Return the pods to be made (and the ended ones to be removed for it), the lowest first;
        and whether one must be waited for before others."""
        changes: list[Change] = []
        waiting = False
        for ordinal in range(self.start, self.start + self.replicas):
            pod = self.pods.get(ordinal)
            if pod is None:
                changes.append(Change(Verb.CREATE, self._pod(ordinal)))
            elif podstate.ended(pod):
                if podstate.rested([pod], self.clock):
                    changes.append(Change(Verb.DELETE, pod))
            elif self._serves(pod):
                continue
            waiting = True
            if self.ordered:
                break
        return changes, waiting

    def _surplus(self) -> tuple[list[Change], bool]:
        """Return what makes the pods beyond the wanted ones go, the highest first; and whether
        one is still going."""
        end = self.start + self.replicas
        surplus = [n for n in sorted(self.pods, reverse=True) if not self.start <= n < end]
        if not self.ordered:
            return podstate.given_up([self.pods[n] for n in surplus], self.clock), bool(surplus)
        for ordinal in surplus:
            return podstate.given_up([self.pods[ordinal]], self.clock), True
        return [], False

    def _outdated(self) -> list[Change]:
        """Return what makes the highest pod of a former template go, once all above it serve."""
        lowest = max(self.start, self.start + self.partition)
        for ordinal in sorted(self.pods, reverse=True):
            pod = self.pods[ordinal]
            if ordinal < lowest:
                break
            if _revision(pod) != self.update:
                return podstate.given_up([pod], self.clock)
            if not self._serves(pod):
                break
        return []

    def _pod(self, ordinal: int) -> Document:
        kept = self.rolling and ordinal < self.start + self.partition
        revision = self.current if kept else self.update
        meta, spec = self.document["metadata"], self.document["spec"]
        name = f"{meta['name']}-{ordinal}"
        labels = {revisions.LABEL: revision, NAME_LABEL: name, INDEX_LABEL: str(ordinal)}
        template = self.history.templates[revision]
        pod = podstate.of_template(self.document, template, name, labels=labels)
        known: dict[str, Any] = {"hostname": name, "subdomain": spec.get("serviceName") or ""}
        pod["spec"] = {**pod["spec"], **{key: value for key, value in known.items() if value}}
        return pod

    def _told(self) -> list[Change]:
        """Return the StatefulSet with its status."""
        pods = [pod for pod in self.pods.values() if not podstate.ended(pod)]
        active = [pod for pod in pods if podstate.active(pod)]
        updated = [pod for pod in active if _revision(pod) == self.update]
        serving = [pod for pod in updated if self._serves(pod)]
        whole = len(serving) == len(pods) == self.replicas
        current = self.update if whole else self.current
        status = {
            "replicas": len(pods),
            "readyReplicas": sum(map(podstate.ready, active)),
            "availableReplicas": sum(map(self._serves, active)),
            "currentReplicas": sum(_revision(pod) == current for pod in active),
            "updatedReplicas": len(updated),
            "currentRevision": current,
            "updateRevision": self.update,
        }
        return podstate.with_status(self.document, status)


def _revision(pod: Document) -> str:
    return str((pod["metadata"].get("labels") or {}).get(revisions.LABEL, ""))
