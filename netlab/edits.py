"""What kubectl's verbs make of an object: pure, from a document to a document.

1. Each gives the document itself when there is nothing to change, so that one can tell.
2. What kubectl refuses is refused in its words.
Source: kubectl v1.30, pkg/cmd/{scale,label,annotate,drain,taint,rollout}, pkg/polymorphichelpers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from netlab.errors import NetlabError, UsageError
from netlab.model.kubernetes import Document

SCALED = ("Deployment", "ReplicaSet", "StatefulSet", "ReplicationController")
ROLLED = ("Deployment", "StatefulSet", "DaemonSet")
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_KEY = re.compile(r"([A-Za-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


class Pairs(NamedTuple):
    """`a=b` and `c-`: what to set, and what to take away."""

    set: Mapping[str, str]
    remove: tuple[str, ...]


class Taint(NamedTuple):
    """A taint as the command line has it; no effect: all of the key, where it is removed."""

    key: str
    value: str = ""
    effect: str = ""

    def document(self) -> Document:
        fields = {"key": self.key, "value": self.value, "effect": self.effect}
        return {name: field for name, field in fields.items() if field}


def pairs(words: Iterable[str], *, labels: bool) -> Pairs:
    """Return what `a=b c-` means; *labels*: values must be a label's. Raises UsageError."""
    found: dict[str, str] = {}
    gone: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and word.endswith("-"):
            gone.append(word[:-1])
            key = word[:-1]
        elif not equals:
            raise UsageError(f"{word!r} is neither KEY=VALUE nor KEY-")
        else:
            found[key] = value
        if not _KEY.fullmatch(key):
            raise UsageError(f"{key!r} is no key", hint="letters, digits, - _ . and one / at most")
        if labels and equals and not _VALUE.fullmatch(value):
            raise UsageError(
                f"{value!r} is no label value", hint="63 letters, digits, - _ . at most"
            )
    if both := set(found) & set(gone):
        raise UsageError(f"can not both modify and remove {sorted(both)[0]!r} in one command")
    return Pairs(found, tuple(gone))


def paired(document: Document, field: str, wanted: Pairs, *, overwrite: bool) -> Document:
    """Return *document* with these labels or annotations (*field*). Raises NetlabError for one
    that has another value, unless *overwrite*."""
    held: dict[str, str] = document["metadata"].get(field) or {}
    for key, value in wanted.set.items():
        if not overwrite and held.get(key, value) != value:
            raise NetlabError(
                f"{key!r} already has a value ({held[key]}), and --overwrite is false"
            )
    new = {key: value for key, value in held.items() if key not in wanted.remove}
    new |= wanted.set
    if new == held:
        return document
    return {**document, "metadata": {**document["metadata"], field: new}}


def scaled(document: Document, replicas: int, *, current: int | None = None) -> Document:
    """Return *document* with so many *replicas*; *current*: how many it must have."""
    if document["kind"] not in SCALED:
        raise UsageError(
            f"a {document['kind']} has no replicas", hint="deployment, replicaset, statefulset"
        )
    held = replicas_of(document)
    if current is not None and current != held:
        raise NetlabError(f"Expected replicas to be {current}, was {held}")
    return document if held == replicas else _spec(document, replicas=replicas)


def replicas_of(document: Document) -> int:
    """Return how many replicas an object asks for: one, when it does not say."""
    value = (document.get("spec") or {}).get("replicas")
    return 1 if value is None else int(value)


def _spec(document: Document, **fields: Any) -> Document:
    """Return *document* with these fields of its spec; None takes one away."""
    spec = {**(document.get("spec") or {}), **fields}
    return {**document, "spec": {name: value for name, value in spec.items() if value is not None}}


def cordoned(node: Document, on: bool) -> Document:
    """Return *node* as one that takes no new pods, or takes them again."""
    held = bool((node.get("spec") or {}).get("unschedulable"))
    return node if held == on else _spec(node, unschedulable=True if on else None)


def taints(words: Iterable[str]) -> tuple[list[Taint], list[Taint]]:
    """Return the taints to set and to remove that `k=v:Effect k:Effect k- k:Effect-` mean."""
    new: list[Taint] = []
    gone: list[Taint] = []
    for word in words:
        told, remove = word.removesuffix("-"), word.endswith("-")
        pair, colon, effect = told.partition(":")
        key, _, value = pair.partition("=")
        if not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
            raise UsageError(f"invalid taint spec: {word}", hint="key=value:NoSchedule, key-")
        if (effect or not remove) and effect not in EFFECTS:
            raise UsageError(
                f"invalid taint effect: {effect or word}", hint=f"one of {', '.join(EFFECTS)}"
            )
        (gone if remove else new).append(Taint(key, value, effect))
        if remove and colon and not effect:
            raise UsageError(f"invalid taint spec: {word}")
    return new, gone


def tainted(
    node: Document, new: Sequence[Taint], gone: Sequence[Taint], *, overwrite: bool
) -> Document:
    """Return *node* with and without these taints. Raises NetlabError for one that is there with
    the same effect unless *overwrite*, and for one to be removed that is not there."""
    held: list[Document] = list((node.get("spec") or {}).get("taints") or [])
    for taint in gone:
        left = [one for one in held if not _is(one, taint)]
        if left == held:
            raise NetlabError(
                f'taint "{taint.key}{":" * bool(taint.effect)}{taint.effect}" not found'
            )
        held = left
    for taint in new:
        same = [one for one in held if _is(one, taint)]
        if same and not overwrite:
            raise NetlabError(
                f"node {node['metadata']['name']} already has {taint.key} taint(s) with same "
                "effect(s) and --overwrite is false"
            )
        held = [*(one for one in held if one not in same), taint.document()]
    if held == ((node.get("spec") or {}).get("taints") or []):
        return node
    return _spec(node, taints=held or None)


def _is(held: Document, taint: Taint) -> bool:
    return held.get("key") == taint.key and taint.effect in ("", held.get("effect"))


def restarted(document: Document, *, at: str) -> Document:
    """Return *document* with a template that says when it was restarted: its pods are replaced."""
    rolled(document)
    if (document.get("spec") or {}).get("paused"):
        name = document["metadata"]["name"]
        raise NetlabError(
            f'deployments.apps "{name}" can\'t restart paused deployment (run rollout resume first)'
        )
    template = document["spec"]["template"]
    meta = template.get("metadata") or {}
    annotations = {**(meta.get("annotations") or {}), RESTARTED_AT: at}
    return _spec(document, template={**template, "metadata": {**meta, "annotations": annotations}})


def paused(document: Document, on: bool) -> Document:
    """Return a Deployment that rolls nothing out, or does so again. Raises as kubectl does."""
    name = document["metadata"]["name"]
    if document["kind"] != "Deployment":
        raise UsageError(f"a {document['kind']} cannot be paused", hint="only deployments can")
    if bool(document["spec"].get("paused")) == on:
        raise NetlabError(f'deployments.apps "{name}" is {"already" if on else "not"} paused')
    return _spec(document, paused=True if on else None)


def rolled(document: Document) -> None:
    """Raise UsageError unless *document* is rolled out."""
    if document["kind"] not in ROLLED:
        raise UsageError(
            f"a {document['kind']} is not rolled out", hint="deployment, statefulset, daemonset"
        )
