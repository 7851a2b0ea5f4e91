"""The scheduler gives each pod without a node the one that suits it best.

A node takes a pod if it is not cordoned, has the labels of the pod's nodeSelector, and has an
address left. Of those, the one with the fewest pods of the same owner, then with the fewest pods,
then the first declared: the same objects always give the same places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from netlab.controllers.change import Change, Verb, controller, now
from netlab.model.kubernetes import Document, matches

SCHEDULED = "PodScheduled"
UNSCHEDULABLE = "Unschedulable"
NO_REASON: Mapping[str, str] = {}


def bindings(
    pods: Sequence[Document], nodes: Sequence[Document], capacity: Mapping[str, int]
) -> list[Change]:
    """Return updates that give *pods* without a node theirs, or say why none takes them.

    *capacity*: how many pods each node has addresses for; a node that is not in it takes none.
    """
    waiting = [pod for pod in pods if not pod["spec"].get("nodeName")]
    if not waiting:
        return []
    load = _Load(pods)
    changes = []
    for pod in waiting:
        refusals = {_name(node): _refusal(pod, node, load, capacity) for node in nodes}
        open_to_it = [node for node in nodes if not refusals[_name(node)]]
        if open_to_it:
            chosen = min(open_to_it, key=lambda node: load.of(_name(node), pod))
            load.add(_name(chosen), pod)
            changes.append(Change(Verb.UPDATE, _bound(pod, _name(chosen))))
        elif (told := _waiting(pod, list(refusals.values()))) != pod:
            changes.append(Change(Verb.UPDATE, told))
    return changes


def _name(node: Document) -> str:
    return str(node["metadata"]["name"])


class _Load:
    """How many pods there are on each node, and how many of each owner."""

    def __init__(self, pods: Iterable[Document]) -> None:
        self.addresses: Counter[str] = Counter()
        self._pods: Counter[str] = Counter()
        self._owned: Counter[tuple[str, str]] = Counter()
        for pod in pods:
            if node := pod["spec"].get("nodeName"):
                self.add(node, pod)

    def add(self, node: str, pod: Document) -> None:
        self._pods[node] += 1
        self._owned[node, _owner(pod)] += 1
        if not pod["spec"].get("hostNetwork"):
            self.addresses[node] += 1

    def of(self, node: str, pod: Document) -> tuple[int, int]:
        """Return what makes *node* less attractive for *pod*."""
        return self._owned[node, _owner(pod)], self._pods[node]


def _owner(pod: Document) -> str:
    """Return what *pod* is spread with: its controller's other pods, or its namespace's own."""
    reference = controller(pod)
    return str(reference["uid"]) if reference else f"/{pod['metadata'].get('namespace', '')}"


def _refusal(pod: Document, node: Document, load: _Load, capacity: Mapping[str, int]) -> str:
    """Return why *node* does not take *pod*, "" if it does."""
    name = _name(node)
    if node.get("spec", {}).get("unschedulable"):
        return "cordoned"
    if not matches(pod["spec"].get("nodeSelector") or {}, node["metadata"].get("labels") or {}):
        return "without the labels of nodeSelector"
    if not pod["spec"].get("hostNetwork") and load.addresses[name] >= capacity.get(name, 0):
        return "full"
    return ""


def _bound(pod: Document, node: str) -> Document:
    status = {**pod.get("status", {}), "conditions": _conditions(pod, "True")}
    return {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status}


def _waiting(pod: Document, refusals: Sequence[str]) -> Document:
    """Return *pod* with the reason why it waits: `0/3 nodes are available: 1 full, …`."""
    counted = ", ".join(f"{count} {why}" for why, count in sorted(Counter(refusals).items()))
    text = f"0/{len(refusals)} nodes are available" + (f": {counted}." if counted else "")
    told = {"reason": UNSCHEDULABLE, "message": text}
    status = {**pod.get("status", {}), "conditions": _conditions(pod, "False", told)}
    return {**pod, "status": status}


def _conditions(pod: Document, status: str, told: Mapping[str, str] = NO_REASON) -> list[Document]:
    """Return the conditions of *pod* with PodScheduled as it is now."""
    held = (pod.get("status") or {}).get("conditions") or ()
    others = [one for one in held if one.get("type") != SCHEDULED]
    old: Document = next((one for one in held if one.get("type") == SCHEDULED), {})
    same = old.get("status") == status
    since = old.get("lastTransitionTime") if same else now()
    return [*others, {"type": SCHEDULED, "status": status, "lastTransitionTime": since, **told}]


def why_waiting(pod: Document) -> str:
    """Return why no node takes *pod*, "" if the scheduler has not said so."""
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one.get("type") == SCHEDULED and one.get("reason") == UNSCHEDULABLE:
            return str(one.get("message", ""))
    return ""
