"""What becomes of a node that is no longer heard from, and of the pods on it.

1. A node that its agent keeps alive is Ready. One that is lost is Unknown, and tainted: nothing new
   is placed there, and what does not tolerate that is deleted, at once: no kubelet there could say
   that it has ended. Its controllers make it anew elsewhere. Upstream, a pod of a StatefulSet waits
   for the node, or for the taint out-of-service; here every lost node is out of service. A pod
   that a user's file declares is made anew as well, but for one that names that very node.
2. Pods of a node that is not Ready are not ready, so they leave the endpoints.
3. When no node at all is heard from, something else is wrong: nothing is tainted or evicted.
4. Any other NoExecute taint has the pods that do not tolerate it end in their own time.

Source: kube-controller-manager pkg/controller/nodelifecycle and tainteviction (v1.34).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from netlab.controllers import garbage, placement, podstate
from netlab.controllers.change import Change, Verb
from netlab.controllers.clock import Clock, epoch, stamp
from netlab.controllers.placement import NO_EXECUTE, NO_SCHEDULE, UNREACHABLE, Taint
from netlab.model.kubernetes import Document
from netlab.model.loose import mapping, mappings

READY = ("True", "KubeletReady", "kubelet is posting ready status")
LOST = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
EVICTING = (placement.UNREACHABLE, placement.NOT_READY)


class Health(NamedTuple):
    """The nodes that are heard from, and those that are lost; of others nothing is known yet.

    *toleration*: seconds that a pod which says nothing stays on a lost node.
    """

    alive: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    toleration: int = 0


def kept(nodes: Sequence[Document], health: Health, clock: Clock) -> list[Change]:
    """Return what makes *nodes* say how they are, and those that are lost be tainted."""
    names = {node["metadata"]["name"] for node in nodes}
    disrupted = bool(names) and names <= health.lost
    changes: list[Change] = []
    for node in nodes:
        name = node["metadata"]["name"]
        if name not in health.alive and name not in health.lost:
            continue
        lost = name in health.lost
        wanted = {"Ready": LOST if lost else READY}
        told = podstate.conditions(node, wanted, clock)
        after = {**node, "status": {**podstate.status_of(node), "conditions": told}}
        after["spec"] = _tainted(mapping(node, "spec"), lost=lost and not disrupted, clock=clock)
        if after != node:
            changes.append(Change(Verb.UPDATE, after))
    return changes


def _tainted(spec: Document, *, lost: bool, clock: Clock) -> Document:
    held = list(mappings(spec, "taints"))
    others = [one for one in held if one.get("key") != UNREACHABLE]
    mine = [one for one in held if one.get("key") == UNREACHABLE]
    if lost and not mine:
        added = {"key": UNREACHABLE, "timeAdded": stamp(clock.now)}
        mine = [{**added, "effect": effect} for effect in (NO_SCHEDULE, NO_EXECUTE)]
    wanted = [*others, *(mine if lost else [])]
    if wanted == held:
        return spec
    rest = {key: value for key, value in spec.items() if key != "taints"}
    return {**rest, "taints": wanted} if wanted else rest


def lost(node: Document) -> bool:
    """Return whether *node* was heard from once, and no longer is."""
    return podstate.condition(node, "Ready").get("status") == "Unknown"


def evicted(
    pods: Iterable[Document], nodes: Iterable[Document], health: Health, clock: Clock
) -> list[Change]:
    """Return what happens to those of *pods* whose nodes are lost, or drive them out."""
    bad = {
        node["metadata"]["name"]: (node, evicting)
        for node in nodes
        if (evicting := [t for t in placement.taints(node) if t.get("effect") == NO_EXECUTE])
        or lost(node)
    }
    if not bad:
        return []
    changes: list[Change] = []
    for pod in pods:
        node, evicting = bad.get(pod["spec"].get("nodeName", ""), (None, []))
        if node is None:
            continue
        if _driven_out(pod, evicting, health.toleration, clock):
            if lost(node):
                changes += garbage.moved(pod) or _left(pod, clock)
            elif not podstate.terminating(pod):
                changes.append(podstate.deletion(pod, clock=clock))
        elif lost(node):
            changes += _left(pod, clock)
    return changes


def _driven_out(pod: Document, taints: Sequence[Taint], toleration: int, clock: Clock) -> bool:
    """Return whether one of *taints* drives *pod* out by now."""
    tolerations = list(mappings(pod["spec"], "tolerations"))
    for taint in taints:
        matching = [one for one in tolerations if placement.tolerates(one, taint)]
        limits = [seconds for one in matching if (seconds := _seconds(one)) is not None]
        if matching and not limits:
            continue
        if not matching and taint.get("key") in EVICTING:
            limits = [toleration]
        since = epoch(taint.get("timeAdded"))
        if not limits or since is None or clock.reached(since + min(limits)):
            return True
    return False


def _seconds(toleration: dict[str, Any]) -> int | None:
    found = toleration.get("tolerationSeconds")
    return max(0, found) if isinstance(found, int) else None


def _left(pod: Document, clock: Clock) -> list[Change]:
    """Return what makes *pod*, which stays on a lost node, not ready, as far as anybody knows."""
    if not podstate.ready(pod):
        return []
    status = podstate.status_of(pod)
    told = [
        {**one, "status": "False", "lastTransitionTime": stamp(clock.now), "reason": "NodeNotReady"}
        if one.get("type") == "Ready"
        else one
        for one in status.get("conditions") or ()
    ]
    return [Change(Verb.UPDATE, {**pod, "status": {**status, "conditions": told}})]
