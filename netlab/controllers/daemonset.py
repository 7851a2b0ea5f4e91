"""A DaemonSet has one pod on each node that suits it; the scheduler puts it there.

Its pods tolerate what is wrong with a node, and cordons. A new template replaces as many at a time
as maxUnavailable says, or none until they are deleted (OnDelete). maxSurge is not there yet.
Source: kube-controller-manager pkg/controller/daemon (v1.34): daemon_controller.go, update.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from netlab.controllers import placement, podstate, revisions
from netlab.controllers.change import Change, Verb, by_controller
from netlab.controllers.clock import Clock
from netlab.controllers.placement import REQUIRED
from netlab.controllers.rollout import scaled
from netlab.model.kubernetes import Document
from netlab.model.loose import mapping, mappings

NODE_FIELD = "metadata.name"


def pods(
    daemon_sets: Iterable[Document],
    pods: Sequence[Document],
    nodes: Sequence[Document],
    held: Iterable[Document],
    *,
    clock: Clock | None = None,
) -> list[Change]:
    """Return the next step by which each of *daemon_sets* comes to have its *pods* on *nodes*.

    *held*: the ControllerRevisions there are.
    """
    clock = clock or Clock()
    owned, kept = by_controller(pods), by_controller(held)
    taken = {pod["metadata"]["name"] for pod in pods}
    changes: list[Change] = []
    for one in daemon_sets:
        uid = one["metadata"]["uid"]
        mine = _Set(one, owned.get(uid, []), kept.get(uid, []), clock)
        changes += mine.changes(nodes, taken)
    return changes


def node_of(pod: Document) -> str:
    """Return the node that a daemon pod is on, or is made for."""
    if name := pod["spec"].get("nodeName"):
        return str(name)
    terms = mappings(pod["spec"], "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms")
    for field in (field for term in terms for field in mappings(term, "matchFields")):
        if field.get("key") == NODE_FIELD and field.get("values"):
            return str(field["values"][0])
    return ""


class _Set:
    """One DaemonSet and its pods."""

    def __init__(
        self,
        document: Document,
        pods: Sequence[Document],
        held: Sequence[Document],
        clock: Clock,
    ) -> None:
        spec = document["spec"]
        self.document, self.clock = document, clock
        self.template = spec["template"]["spec"]
        self.tolerating = {
            **self.template,
            "tolerations": [
                *mappings(self.template, "tolerations"),
                *placement.DAEMON_TOLERATIONS,
            ],
        }
        self.seconds = int(spec.get("minReadySeconds") or 0)
        self.strategy = spec.get("updateStrategy") or {}
        self.history = revisions.history(document, held)
        self.hash = self.history.present.rpartition("-")[2]
        self.by_node: dict[str, list[Document]] = {}
        for pod in sorted(pods, key=lambda one: one["metadata"].get("creationTimestamp", "")):
            self.by_node.setdefault(node_of(pod), []).append(pod)

    def changes(self, nodes: Sequence[Document], taken: set[str]) -> list[Change]:
        """Return the next step: missing and surplus pods first, then those of former templates."""
        named = {node["metadata"]["name"]: node for node in nodes}
        right = [name for name, node in named.items() if self._fits(node)]
        changes: list[Change] = []
        for name, node in named.items():
            changes += self._on(name, node, name in right, taken)
        for name in self.by_node.keys() - named.keys():  # garbage takes those that were there
            waiting = [p for p in self.by_node[name] if not p["spec"].get("nodeName")]
            changes += podstate.given_up(waiting, self.clock)
        if not changes and self.strategy.get("type") != "OnDelete":
            changes += self._outdated(right)
        return [*self.history.changes, *changes, *self._told(right, named)]

    def _fits(self, node: Document) -> bool:
        hard = (placement.NO_SCHEDULE, placement.NO_EXECUTE)
        bad = placement.untolerated(self.tolerating, placement.taints(node), hard)
        return not bad and placement.chosen(self.template, node)

    def _stays(self, node: Document) -> bool:
        """Return whether a pod that is there already may go on."""
        taints, evicting = placement.taints(node), (placement.NO_EXECUTE,)
        return placement.chosen(self.template, node) and not placement.untolerated(
            self.tolerating, taints, evicting
        )

    def _on(self, name: str, node: Document, right: bool, taken: set[str]) -> list[Change]:
        """Return what must happen on the node called *name*."""
        here = self.by_node.get(name, [])
        ended = [pod for pod in here if podstate.ended(pod)]
        active = [pod for pod in here if podstate.active(pod)]
        changes = [Change(Verb.DELETE, pod) for pod in ended if podstate.rested([pod], self.clock)]
        if not right and not self._stays(node):
            return changes + podstate.given_up(active, self.clock)
        if right and not here:
            changes.append(Change(Verb.CREATE, self._pod(name, taken)))
        return changes + podstate.given_up(active[1:], self.clock)

    def _serves(self, pod: Document) -> bool:
        return podstate.active(pod) and podstate.available(pod, self.seconds, self.clock)

    def _updated(self, pod: Document) -> bool:
        labels = mapping(pod, "metadata", "labels")
        return labels.get(revisions.LABEL) == self.hash

    def _outdated(self, right: Sequence[str]) -> list[Change]:
        """Return what makes pods of former templates go, not more than may be missing at once."""
        rolling = mapping(self.strategy, "rollingUpdate")
        most = max(1, scaled(rolling.get("maxUnavailable", 1), len(right), up=True))
        serving = {name: any(map(self._serves, self.by_node.get(name, ()))) for name in right}
        room = most - sum(not serves for serves in serving.values())
        old = [
            pod
            for name in right
            for pod in self.by_node.get(name, ())
            if podstate.active(pod) and not self._updated(pod)
        ]
        broken = [pod for pod in old if not self._serves(pod)]
        whole = [pod for pod in old if self._serves(pod)]
        return podstate.given_up(broken + whole[: max(0, room)], self.clock)

    def _pod(self, node: str, taken: set[str]) -> Document:
        prefix = f"{self.document['metadata']['name']}-"
        name = podstate.suffixed(prefix, taken)
        taken.add(name)
        template = self.history.templates[self.history.present]
        labels = {revisions.LABEL: self.hash}
        pod = podstate.of_template(self.document, template, name, labels=labels)
        pod["metadata"]["generateName"] = prefix
        pod["spec"] = {
            **pod["spec"],
            "affinity": self._bound_to(node),
            "tolerations": self.tolerating["tolerations"],
        }
        return pod

    def _bound_to(self, node: str) -> dict[str, Any]:
        """Return the template's affinity with *node* as the only one it means."""
        affinity = mapping(self.template, "affinity")
        nodes = mapping(affinity, "nodeAffinity")
        here = [{"key": NODE_FIELD, "operator": "In", "values": [node]}]
        terms = list(mappings(nodes, REQUIRED, "nodeSelectorTerms")) or [{}]
        bound = [{**term, "matchFields": here} for term in terms]
        return {**affinity, "nodeAffinity": {**nodes, REQUIRED: {"nodeSelectorTerms": bound}}}

    def _told(self, right: Sequence[str], nodes: dict[str, Document]) -> list[Change]:
        """Return the DaemonSet with its status."""
        active = {
            name: [pod for pod in pods if podstate.active(pod)]
            for name, pods in self.by_node.items()
        }
        wanted = [active[name][0] for name in right if active.get(name)]
        available = sum(map(self._serves, wanted))
        status = {
            "desiredNumberScheduled": len(right),
            "currentNumberScheduled": len(wanted),
            "numberMisscheduled": sum(
                bool(pods) for name, pods in active.items() if name in nodes and name not in right
            ),
            "numberReady": sum(map(podstate.ready, wanted)),
            "updatedNumberScheduled": sum(map(self._updated, wanted)),
            "numberAvailable": available,
            "numberUnavailable": len(right) - available,
        }
        return podstate.with_status(self.document, status)
