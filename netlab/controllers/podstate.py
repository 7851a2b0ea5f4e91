"""Pods as their controllers see them: made from templates, counted, given up.

A pod that its kubelet has taken up does not end at once: it is marked with when it must be gone,
leaves the endpoints, and its kubelet ends it and then deletes the object. One that no kubelet has
seen, or that has ended, is simply deleted.
Source: kubernetes pkg/registry/core/pod/strategy.go, CheckGracefulDelete; pkg/api/v1/pod/util.go.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping
from typing import Any

from netlab.controllers.change import Change, Verb, born, owned_by
from netlab.controllers.clock import Clock, stamp
from netlab.model.kubernetes import ENDED, Document

GRACE = 30  # seconds: terminationGracePeriodSeconds where a pod says nothing
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no words; apimachinery pkg/util/rand
SUFFIX_LENGTH = 5  # apiserver pkg/storage/names/generate.go
PREFIX_MAX = 58  # so that the name fits a label: 63
REJECTED = "Pod was rejected: "  # begins the message of one that its node did not take up
RESTS, LONGEST_REST = 10.0, 300.0  # seconds: after the first rejected pod, and at most


def status_of(document: Document) -> Mapping[str, Any]:
    """Return the status of an object, empty if it has none."""
    found = document.get("status")
    return found if isinstance(found, dict) else {}


def condition(document: Document, kind: str) -> Mapping[str, Any]:
    """Return a condition of an object's status, empty if it has none of that type."""
    for one in status_of(document).get("conditions") or ():
        if one.get("type") == kind:
            return dict(one)
    return {}


def ended(pod: Document) -> bool:
    """Return whether *pod* has come to its own end."""
    return status_of(pod).get("phase") in ENDED


def rejected(pod: Document) -> bool:
    """Return whether the node of *pod* did not take it up."""
    message = str(status_of(pod).get("message") or "")
    return status_of(pod).get("phase") == "Failed" and message.startswith(REJECTED)


def rested(pods: Iterable[Document], clock: Clock) -> bool:
    """Return whether it is time for another pod, where those of *pods* were rejected that were.

    The next one will be as well, most likely. Kubernetes makes pods without end where a template
    names a node that does not take them; here each time is twice as long as the one before.
    """
    times = [str(one["metadata"].get("creationTimestamp", "")) for one in pods if rejected(one)]
    if not times:
        return True
    return clock.after(max(times), min(RESTS * 2 ** min(len(times) - 1, 10), LONGEST_REST))


def terminating(pod: Document) -> bool:
    """Return whether *pod* is to go."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def active(pod: Document) -> bool:
    """Return whether *pod* counts as one of its controller's: it has not ended and stays."""
    return not ended(pod) and not terminating(pod)


def ready(pod: Document) -> bool:
    """Return whether *pod* serves."""
    return condition(pod, "Ready").get("status") == "True"


def available(pod: Document, seconds: int, clock: Clock) -> bool:
    """Return whether *pod* has been ready for as many *seconds* (minReadySeconds)."""
    found = condition(pod, "Ready")
    if found.get("status") != "True":
        return False
    return not seconds or clock.after(found.get("lastTransitionTime"), seconds)


def grace_of(pod: Document) -> int:
    """Return the seconds between being told to end and being made to."""
    found = pod["spec"].get("terminationGracePeriodSeconds")
    return found if isinstance(found, int) and found >= 0 else GRACE


def deletion(pod: Document, *, clock: Clock | None = None, grace: int | None = None) -> Change:
    """Return the step by which *pod* goes; what is asked for already is no update (`is`).

    *grace*: other than its own, seconds; 0 deletes at once, whatever its kubelet thinks.
    """
    seconds = grace_of(pod) if grace is None else grace
    unknown = not pod["spec"].get("nodeName") or not status_of(pod).get("podIP")
    if not seconds or unknown or ended(pod):
        return Change(Verb.DELETE, pod)
    meta = pod["metadata"]
    if terminating(pod):
        held = meta.get("deletionGracePeriodSeconds")
        if grace is None or not isinstance(held, int) or held <= seconds:
            return Change(Verb.UPDATE, pod)
    moment = (clock or Clock()).now + seconds
    marked = {"deletionTimestamp": stamp(moment), "deletionGracePeriodSeconds": seconds}
    return Change(Verb.UPDATE, {**pod, "metadata": {**meta, **marked}})


def given_up(pods: list[Document], clock: Clock) -> list[Change]:
    """Return what makes *pods* go, those left out that are going already."""
    changes = (deletion(pod, clock=clock) for pod in pods if not terminating(pod))
    return list(changes)


def of_template(
    owner: Document, template: Document, name: str, *, labels: Mapping[str, str] | None = None
) -> Document:
    """Return a new pod called *name* of *owner* as *template* has it, with more *labels*."""
    described = template.get("metadata") or {}
    meta: dict[str, Any] = {
        "name": name,
        "namespace": owner["metadata"]["namespace"],
        **{key: described[key] for key in ("labels", "annotations") if described.get(key)},
        "ownerReferences": owned_by(owner),
    }
    if labels:
        meta["labels"] = {**(meta.get("labels") or {}), **labels}
    return born({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})


def suffixed(prefix: str, taken: Container[str]) -> str:
    """Return *prefix* with five letters and digits behind it that make it one not *taken*."""
    while True:
        name = prefix[:PREFIX_MAX] + "".join(random.choices(ALPHABET, k=SUFFIX_LENGTH))
        if name not in taken:
            return name


def with_status(document: Document, status: Mapping[str, Any]) -> list[Change]:
    """Return the update that gives *document* the fields of *status*; none if it has them.

    It says of which generation of the spec it is, where these are counted.
    """
    old = status_of(document)
    if generation := document["metadata"].get("generation"):
        status = {**status, "observedGeneration": generation}
    if all(old.get(key) == value for key, value in status.items()):
        return []
    return [Change(Verb.UPDATE, {**document, "status": {**old, **status}})]


def conditions(
    old: Document, wanted: Mapping[str, tuple[str, str, str]], clock: Clock
) -> list[Document]:
    """Return the conditions of *old* with those *wanted*: type to (status, reason, message).

    One that keeps its status keeps its time.
    """
    held = list(status_of(old).get("conditions") or ())
    found = [one for one in held if one.get("type") not in wanted]
    for kind, (status, reason, message) in wanted.items():
        before = condition(old, kind)
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        found.append(
            {
                "type": kind,
                "status": status,
                "lastTransitionTime": since or stamp(clock.now),
                "reason": reason,
                "message": message,
            }
        )
    return found
