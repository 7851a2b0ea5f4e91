"""The pod templates that a StatefulSet or DaemonSet has had: its ControllerRevisions.

Source: kubernetes pkg/controller/history/controller_history.go (v1.34).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from netlab.controllers.change import Change, Verb, born, owned_by
from netlab.controllers.deployment import template_hash
from netlab.model.kubernetes import Document

LABEL = "controller-revision-hash"  # of pods
HASH_LABEL = "controller.kubernetes.io/hash"  # of revisions
HISTORY = 10  # revisionHistoryLimit


class History(NamedTuple):
    """The templates of one workload, the present one last, and what must happen to be so."""

    changes: list[Change]
    templates: dict[str, Document]  # by the name of their revision
    present: str


def history(owner: Document, held: Sequence[Document], used: Collection[str] = ()) -> History:
    """Return the history of *owner*, whose revisions are *held*; those *used* are kept."""
    template = owner["spec"]["template"]
    told = template_hash(template)
    name = f"{owner['metadata']['name']}-{told}"
    known = sorted((one for one in held if _template(one)), key=_number)
    last = _number(known[-1]) if known else 0
    current = next((one for one in known if one["metadata"]["name"] == name), None)
    changes: list[Change] = []
    if current is None:
        current = born(_revision(owner, name, told, last + 1))
        changes.append(Change(Verb.CREATE, current))
    elif current is not known[-1]:  # back to a former template
        known.remove(current)
        current = {**current, "revision": last + 1}
        changes.append(Change(Verb.UPDATE, current))
    else:
        known.pop()
    limit = owner["spec"].get("revisionHistoryLimit", HISTORY)
    spare = [one for one in known if one["metadata"]["name"] not in used]
    gone = spare[: max(0, len(spare) - (limit if isinstance(limit, int) else HISTORY))]
    changes += [Change(Verb.DELETE, one) for one in gone]
    kept = [one for one in known if not any(one is other for other in gone)]
    templates = {one["metadata"]["name"]: _template(one) for one in [*kept, current]}
    return History(changes, {**templates, name: template}, name)


def _number(revision: Document) -> int:
    found = revision.get("revision")
    return found if isinstance(found, int) else 0


def _template(revision: Document) -> Document:
    """Return the pod template that *revision* keeps, empty if somebody has spoilt it."""
    try:
        found: Document = revision["data"]["spec"]["template"]
        return found if found["spec"]["containers"] else {}
    except (KeyError, TypeError):
        return {}


def _revision(owner: Document, name: str, told: str, number: int) -> Document:
    template = owner["spec"]["template"]
    labels = (template.get("metadata") or {}).get("labels") or {}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": {**labels, HASH_LABEL: told},
            "ownerReferences": owned_by(owner),
        },
        "data": {"spec": {"template": template}},
        "revision": number,
    }
