"""What the user declared against what is stored.

A stored object carries what its user declared in an annotation, as `kubectl apply` does with its
last-applied-configuration: an unchanged file is recognised however much the controllers added,
and an object that was declared once and is no longer in the files is told from one that the
controllers made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from netlab.controllers import clusterdns, podstate
from netlab.controllers.change import Change, Verb, born, generated
from netlab.controllers.departure import departed
from netlab.controllers.inheritance import kept
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import Lab, LabNode
from netlab.model.loose import mapping, mappings

ANNOTATION = "netlab.io/declared"
NAMESPACES = ("default", "kube-system")  # of every cluster
SERVERS = (  # fields of metadata that no user declares
    *("uid", "creationTimestamp", "resourceVersion", "generation"),
    *("ownerReferences", "finalizers"),
)
# A Namespace comes before what is in it and goes after it.
FIRST = {"Namespace": 0, "Node": 1}


def declared(lab: Lab, documents: Sequence[Document] = ()) -> list[Document]:
    """Return the objects that *lab* itself declares: its nodes, the namespaces that always exist,
    and its DNS unless *documents*, its files', bring one."""
    spaces: list[Document] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "status": {"phase": "Active"},
        }
        for name in NAMESPACES
    ]
    nodes = [_node(node) for node in lab.nodes]
    return [*spaces, *nodes, *clusterdns.objects(lab, documents)]


def _node(node: LabNode) -> Document:
    taints = [
        {"key": one.key, **({"value": one.value} if one.value else {}), "effect": one.effect}
        for one in node.taints
    ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": node.all_labels},
        "spec": {"taints": taints} if taints else {},
        "status": {
            "addresses": [
                *({"type": "InternalIP", "address": one} for one in node.addresses),
                {"type": "Hostname", "address": node.name},
            ]
        },
    }


def declaration_changes(declared: Iterable[Document], stored: Iterable[Document]) -> list[Change]:
    """Return what makes the user's objects among *stored* match *declared*.

    An object that no annotation marks as declared is left alone unless it is declared now. A pod
    whose spec changed is deleted and created, at once: a pod's spec never changes in its life.
    """
    wanted = {registry_key(document): document for document in declared}
    held = {registry_key(document): document for document in stored}
    gone = [one for key, one in held.items() if key not in wanted and last_declared(one)]
    changes = [change for one in sorted(gone, key=_order, reverse=True) for change in _gone(one)]
    for key, document in sorted(wanted.items(), key=lambda item: _order(item[1])):
        old = held.get(key)
        changes += [Change(Verb.CREATE, _new(document))] if old is None else _changed(document, old)
    return changes


def _gone(document: Document) -> list[Change]:
    """Return the end of an object; a pod that runs ends in its own time."""
    if document["kind"] != "Pod":
        return [Change(Verb.DELETE, document)]
    change = podstate.deletion(document)
    return [] if change.document is document and change.verb is Verb.UPDATE else [change]


def _order(document: Document) -> int:
    return FIRST.get(document["kind"], len(FIRST))


def _text(document: Document) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def last_declared(stored: Document) -> str:
    """Return the text of the declaration that *stored* carries, "" if no user declared it."""
    return str((stored["metadata"].get("annotations") or {}).get(ANNOTATION, ""))


def reborn(stored: Document) -> Document | None:
    """Return *stored* as it is when it is created anew; None when no user declared it."""
    declared = _loaded(last_declared(stored))
    return _new(declared) if declared.get("spec") else None


def as_declared(stored: Document) -> Document:
    """Return what the user of *stored* declared; without a spec and more, if no user did."""
    return _loaded(last_declared(stored))


def _loaded(text: str) -> Document:
    """Return what was declared; as good as nothing when somebody has spoilt the annotation."""
    try:
        document = json.loads(text)
        return document if isinstance(document["metadata"], dict) else {"metadata": {}}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {"metadata": {}}


def _new(document: Document) -> Document:
    return born(_annotated(document, {}))


def _annotated(document: Document, others: dict[str, str]) -> Document:
    """Return *document* with its own text among its annotations, and with those of *others*."""
    meta = document["metadata"]
    annotations = {**others, **meta.get("annotations", {}), ANNOTATION: _text(document)}
    return {**document, "metadata": {**meta, "annotations": annotations}}


def _changed(document: Document, stored: Document) -> list[Change]:
    before = last_declared(stored)
    if document["kind"] == "Pod" and podstate.terminating(stored):
        return [Change(Verb.DELETE, stored), Change(Verb.CREATE, _new(document))]
    if before == _text(document) and not departed(document, stored):
        return []
    last = _loaded(before)
    if document["kind"] == "Pod" and document["spec"] != last.get("spec"):
        return [Change(Verb.DELETE, stored), Change(Verb.CREATE, _new(document))]
    merged = generated(stored, _merged(document, last, stored))
    return [] if merged == stored else [Change(Verb.UPDATE, merged)]


def _merged(document: Document, last: Document, stored: Document) -> Document:
    """Return *stored* as *document* now wants it, with what others than the user gave it."""
    meta = stored["metadata"]
    merged = _annotated(document, _foreign("annotations", last, stored))
    new = merged["metadata"]
    if labels := {**_foreign("labels", last, stored), **new.get("labels", {})}:
        new["labels"] = labels
    for name in SERVERS:
        if name in meta:
            new.setdefault(name, meta[name])
    if document["kind"] == "Pod":
        merged["spec"] = stored["spec"]  # the same, with the scheduler's nodeName
    elif document["kind"] == "Service" and document["apiVersion"] == "v1":
        merged["spec"] = kept(document, last, stored)
    elif document["kind"] == "Node":
        merged["spec"] = _node_spec(document, last, stored)
    elif "spec" in merged:
        merged["spec"] = _blended(merged["spec"], last.get("spec"), stored.get("spec"))
    mine, others = document.get("status") or {}, stored.get("status") or {}
    others = {key: value for key, value in others.items() if key not in (last.get("status") or {})}
    if status := {**others, **mine}:
        merged["status"] = status
    return merged


def _node_spec(document: Document, last: Document, stored: Document) -> Document:
    """Return a node's spec as declared, with what others gave it: a cordon, further taints."""
    spec, mine = stored.get("spec") or {}, mapping(last, "spec")
    others = {key: value for key, value in spec.items() if key not in mine}
    taints = [one for one in mappings(spec, "taints") if one not in list(mappings(mine, "taints"))]
    wanted = {**others, **document["spec"]}
    if taints := [*mappings(document, "spec", "taints"), *taints]:
        return {**wanted, "taints": taints}
    wanted.pop("taints", None)
    return wanted


def _blended(new: Any, last: Any, stored: Any) -> Any:
    """Return *new* with what *stored* has beside it, and did not have by the *last* declaration."""
    if not isinstance(new, dict) or not isinstance(stored, dict):
        return new
    before = last if isinstance(last, dict) else {}
    kept_ = {key: value for key, value in stored.items() if key not in before or key in new}
    mine = {key: _blended(new[key], before.get(key), stored.get(key)) for key in new}
    return {**kept_, **mine}


def _foreign(field: str, last: Document, stored: Document) -> dict[str, Any]:
    """Return the labels or annotations of *stored* that its user did not declare."""
    mine = last["metadata"].get(field) or {}
    pairs: Iterable[tuple[str, Any]] = (stored["metadata"].get(field) or {}).items()
    return {key: value for key, value in pairs if key not in mine and key != ANNOTATION}
