"""What happened to objects, as Kubernetes' Events: what changes of objects say, once each.

1. An event follows from a change, never from a state: where nothing changes, nothing is told, so
   looking again and again adds nothing.
2. Its name follows from what it says: the same said again raises `count` and `lastTimestamp`.
3. There are never many. An object's eleventh event of one reason, and all after it, are one, as
   client-go's EventCorrelator has it; pods placed in bulk are not told of one by one; etcd forgets
   an event after an hour (`store.registry`), and the oldest go when there are a thousand.

Source: client-go tools/record/events_cache.go (v0.34); the reasons and words are those of
kube-controller-manager and kube-scheduler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from netlab.controllers.change import Change, Verb, born, controller, now
from netlab.controllers.podstate import condition
from netlab.controllers.scheduler import SCHEDULED, why_waiting
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key

SIMILAR_MAX = 10  # of one object and reason: defaultAggregateMaxEvents
EVENTS_MAX = 1000  # of a lab
BULK = 20  # pods placed at once that are told of one by one
NAME_MAX = 230  # characters of the object's own name in that of an event
COMBINED = "(combined from similar events): "


class Fact(NamedTuple):
    """What is to be told about an object. *field*: the part of it, `spec.containers{app}`."""

    about: Document
    reason: str  # UpperCamelCase: FailedScheduling
    message: str
    component: str = "netlab"
    warning: bool = False
    host: str = ""
    field: str = ""


def recorded(facts: Iterable[Fact], objects: Inventory) -> list[Change]:
    """Return what makes *facts* Events among *objects*, and those forgotten for their sake."""
    listed = list(facts)
    if not listed:
        return []
    held = {registry_key(one): one for one in objects.of("Event")}
    similar = Counter(_similar(one) for one in held.values())
    made: dict[str, Document] = {}
    for fact in listed:
        event = _event(fact, fact.message)
        key = registry_key(event)
        new = key not in held and key not in made
        if new and similar[_similar(event)] >= SIMILAR_MAX:
            event = _event(fact, COMBINED)
            event["message"] = COMBINED + fact.message
            key = registry_key(event)
        before = made.get(key) or held.get(key)
        if before is None:
            similar[_similar(event)] += 1
        made[key] = _again(before, event) if before else event
    changes = [
        Change(Verb.UPDATE, one) if key in held else Change(Verb.CREATE, born(one))
        for key, one in made.items()
    ]
    return [*_oldest(held, made), *changes]


def _similar(event: Document) -> tuple[str, str]:
    about = event.get("involvedObject")
    uid = about.get("uid", "") if isinstance(about, dict) else ""
    return str(uid), str(event.get("reason", ""))


def _again(before: Document, event: Document) -> Document:
    count = before.get("count")
    return {
        **before,
        "message": event["message"],
        "count": (count if isinstance(count, int) else 1) + 1,
        "lastTimestamp": event["lastTimestamp"],
    }


def _oldest(held: dict[str, Document], made: dict[str, Document]) -> list[Change]:
    """Return the deletion of the oldest of *held*, when with *made* there are too many."""
    surplus = len(held.keys() | made.keys()) - EVENTS_MAX
    if surplus <= 0:
        return []
    kept = [one for key, one in held.items() if key not in made]
    kept.sort(key=lambda one: str(one.get("lastTimestamp") or ""))
    return [Change(Verb.DELETE, one) for one in kept[:surplus]]


def _event(fact: Fact, said: str) -> Document:
    """Return the Event that tells *fact*; *said*: what its name follows from."""
    meta, moment = fact.about["metadata"], now()
    space = meta.get("namespace") or "default"
    told = "\0".join((str(meta.get("uid", "")), fact.reason, fact.field, said))
    about = {
        "kind": fact.about["kind"],
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "uid": meta.get("uid", ""),
        "apiVersion": fact.about["apiVersion"],
    } | ({"fieldPath": fact.field} if fact.field else {})
    source = {"component": fact.component} | ({"host": fact.host} if fact.host else {})
    name = f"{meta['name'][:NAME_MAX]}.{sha256(told.encode()).hexdigest()[:16]}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": space},
        "involvedObject": {key: value for key, value in about.items() if value},
        "reason": fact.reason,
        "message": fact.message,
        "source": source,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "type": "Warning" if fact.warning else "Normal",
        "eventTime": None,
        "reportingComponent": fact.component,
        "reportingInstance": fact.host,
    }


# -- what changes say


def told(changes: Sequence[Change], before: Inventory, after: Inventory) -> list[Fact]:
    """Return what *changes*, which lead from *before* to *after*, say about their objects."""
    placed: list[Fact] = []
    facts: list[Fact] = []
    for change in changes:
        new = change.document
        if new["kind"] == "Pod":
            old = before.get(registry_key(new)) if change.verb is Verb.UPDATE else None
            facts += _of_owner(change, old, after)
            if change.verb is not Verb.DELETE:
                placed += _scheduled(new, old)
                facts += _unscheduled(new, old)
                facts += _abandoned(new, old)
        elif new["kind"] == "ReplicaSet":
            facts += _scaled(change, before.get(registry_key(new)), after)
        elif change.verb is Verb.UPDATE and new["kind"] in ("Node", "Job"):
            facts += _conditioned(new, before.get(registry_key(new)) or {})
    return facts + (placed if len(placed) <= BULK else [])


def owner(document: Document, objects: Inventory) -> Document | None:
    """Return the object that controls *document*, None if it is not, or no longer, there."""
    reference = controller(document)
    if reference is None:
        return None
    named = {key: str(reference.get(key)) for key in ("apiVersion", "kind", "name")}
    where = {"name": named["name"], "namespace": document["metadata"].get("namespace")}
    found = objects.get(registry_key({**named, "metadata": where}))
    same = found is not None and found["metadata"].get("uid") == reference.get("uid")
    return found if same else None


def _of_owner(change: Change, old: Document | None, after: Inventory) -> Iterator[Fact]:
    """Yield what the controller of a pod says of its making, or of its end."""
    made = change.verb is Verb.CREATE
    ended = change.verb is Verb.DELETE and not _dying(change.document)
    ended = ended or (old is not None and _dying(change.document) and not _dying(old))
    if not made and not ended:
        return
    by = owner(change.document, after)
    if by is None:
        return
    component = f"{by['kind'].lower()}-controller"
    name = change.document["metadata"]["name"]
    if by["kind"] == "StatefulSet":
        verb = "create" if made else "delete"
        message = f"{verb} Pod {name} in StatefulSet {by['metadata']['name']} successful"
    else:
        message = f"{'Created' if made else 'Deleted'} pod: {name}"
    yield Fact(by, "SuccessfulCreate" if made else "SuccessfulDelete", message, component)


def _dying(document: Document) -> bool:
    return bool(document["metadata"].get("deletionTimestamp"))


def _scheduled(new: Document, old: Document | None) -> Iterator[Fact]:
    """Yield where a pod was placed; not for one whose maker named the node."""
    meta, node = new["metadata"], new["spec"].get("nodeName")
    if node and (old is None or not old["spec"].get("nodeName")) and _by_scheduler(new):
        where = f"{meta.get('namespace', 'default')}/{meta['name']}"
        message = f"Successfully assigned {where} to {node}"
        yield Fact(new, "Scheduled", message, "default-scheduler")


def _unscheduled(new: Document, old: Document | None) -> Iterator[Fact]:
    why = why_waiting(new)
    if why and (old is None or why != why_waiting(old)):
        yield Fact(new, "FailedScheduling", why, "default-scheduler", warning=True)


def _abandoned(new: Document, old: Document | None) -> Iterator[Fact]:
    told = condition(new, "Ready")
    if told.get("reason") == "NodeNotReady" and old and condition(old, "Ready") != told:
        yield Fact(new, "NodeNotReady", "Node is not ready", "node-controller", warning=True)


def _by_scheduler(pod: Document) -> bool:
    """Return whether the scheduler chose the node of *pod*: it says so in a condition."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == SCHEDULED for one in conditions)


def _scaled(change: Change, old: Document | None, after: Inventory) -> Iterator[Fact]:
    """Yield what a Deployment says of the size it gave a ReplicaSet."""
    by = owner(change.document, after)
    if by is None or change.verb is Verb.DELETE:
        return
    was = _replicas(old) if change.verb is Verb.UPDATE and old is not None else 0
    size = _replicas(change.document)
    if was != size:
        name = change.document["metadata"]["name"]
        message = f"Scaled {'up' if size > was else 'down'} replica set {name} from {was} to {size}"
        yield Fact(by, "ScalingReplicaSet", message, "deployment-controller")


def _conditioned(new: Document, old: Document) -> Iterator[Fact]:
    """Yield what became of a node, or of a Job."""
    name = new["metadata"]["name"]
    if new["kind"] == "Node":
        status, was = (condition(one, "Ready").get("status") for one in (new, old))
        if status == "True" and was != "True":
            yield Fact(new, "NodeReady", f"Node {name} status is now: NodeReady", "kubelet")
        elif status != "True" and was == "True":
            words = f"Node {name} status is now: NodeNotReady"
            yield Fact(new, "NodeNotReady", words, "node-controller")
        return
    for kind in ("Complete", "Failed"):
        now_, then = condition(new, kind), condition(old, kind)
        if now_.get("status") == "True" and then.get("status") != "True":
            failed = kind == "Failed"
            reason = str(now_.get("reason")) if failed else "Completed"
            message = str(now_.get("message")) if failed else "Job completed"
            yield Fact(new, reason, message, "job-controller", warning=failed)


def _replicas(document: Document) -> int:
    return int(document["spec"].get("replicas", 1))
