"""From the trees of the files to objects: what each document is, and its fields against its shape.

What an API server would fill in itself (uid, status, resourceVersion, …) is dropped, so that the
output of `kubectl get -o yaml` can be declared as it is; but not the addresses of a load balancer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from netlab.controllers.declaration import ANNOTATION
from netlab.model.kinds import BY_KIND, KINDS, OTHER_VERSIONS, Kind
from netlab.model.kubernetes import Document, kind_of
from netlab.model.lab import API_VERSION
from netlab.topology import (
    dualstack,
    ingressrules,
    labdoc,
    labrules,
    manifest,
    podrules,
    policies,
    servicerules,
    values,
)
from netlab.topology.mistakes import Mistakes, Origin
from netlab.topology.servicefields import LOAD_BALANCER
from netlab.topology.shapes import walk
from netlab.topology.tree import Node, Path, plain

LAB = "Lab"
_SERVER_FIELDS = (
    *("uid", "resourceVersion", "generation", "selfLink", "managedFields"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"),
    "ownerReferences",  # to uids of another cluster
)
RULES: dict[str, Callable[[Document, labrules.Say], None]] = {
    **dict.fromkeys(("Pod", *podrules.TEMPLATED), podrules.check),
    **dict.fromkeys(("Service", "EndpointSlice", "Endpoints"), servicerules.check),
    "NetworkPolicy": policies.check,
    **dict.fromkeys(ingressrules.KINDS, ingressrules.check),
}
_GROUPS = {kind.group.rpartition("/")[0] for kind in KINDS}
_VERSIONS = dict.fromkeys((*(kind.group for kind in KINDS), API_VERSION))


class Piece(NamedTuple):
    """One declared object and its place."""

    document: Document
    origin: Origin


Make = Callable[[Origin, str, Mistakes], Piece | None]


def pieces(
    source: str, root: Node, mistakes: Mistakes, *, make: Make | None = None
) -> Iterator[Piece]:
    """Return the objects of one document of *source*: one, or the items of a List.

    *make*: reads one object of a known kind; without, as a user declares it.
    """
    yield from _pieces(Origin(source, root), mistakes, make or _piece)


def _pieces(origin: Origin, mistakes: Mistakes, make: Make) -> Iterator[Piece]:
    fields = origin.node.value
    if not isinstance(fields, dict):
        what = values.described(fields)
        mistakes.at(origin, (), f"must be an object with apiVersion and kind, not {what}")
        return
    if not _identified(origin, mistakes):
        return
    kind = fields["kind"].value
    if kind.endswith("List") and kind not in BY_KIND:
        listed = fields["items"].value if "items" in fields else None
        if not isinstance(listed, list):
            what = values.described(listed)
            mistakes.at(origin, ("items",), f"must be a list, not {what} (of objects)")
            return
        for index, item in enumerate(listed):
            path = (*origin.prefix, "items", index)
            yield from _pieces(Origin(origin.source, item, path), mistakes, make)
    elif piece := make(origin, kind, mistakes):
        yield piece


def _identified(origin: Origin, mistakes: Mistakes) -> bool:
    """Return whether apiVersion and kind are there and known."""
    fields = origin.node.value
    right = True
    for name, example in (("apiVersion", "v1"), ("kind", "Pod")):
        node = fields.get(name)
        if node is None or node.value is None:
            mistakes.at(origin, (name,), f"is missing (such as {example})")
            right = False
        elif wrong := values.string(node.value):
            mistakes.at(origin, (name,), wrong)
            right = False
    if not right:
        return False
    path, wrong = _unknown(fields["apiVersion"].value, fields["kind"].value)
    if wrong:
        mistakes.at(origin, path, wrong)
    return not wrong


def _unknown(version: str, kind: str) -> tuple[Path, str]:
    """Return the field that makes *version* and *kind* unknown, and why; "" if they are known."""
    if (kind == LAB) != (version == API_VERSION):
        if kind == LAB:
            return ("apiVersion",), f"{version} has no Lab ({API_VERSION})"
        return ("kind",), f"{API_VERSION} has no {kind} ({LAB})"
    if kind == LAB or (kind.endswith("List") and kind not in BY_KIND):
        return (), ""
    group = version.rpartition("/")[0]
    known = BY_KIND.get(kind)
    custom = "." in group and group not in _GROUPS and version.count("/") == 1
    if known is None:
        if custom:
            return (), ""
        if group in _GROUPS:
            near = values.nearest(kind, BY_KIND)
            hint = f"did you mean {near}?" if near else f"not of {version} in Kubernetes v1.30"
            return ("kind",), f"unknown kind {kind} ({hint})"
        near = values.nearest(version, _VERSIONS)
        hint = f"did you mean {near}?" if near else "such as apps/v1, or example.org/v1"
        return ("apiVersion",), f"unknown apiVersion {version} ({hint})"
    if version in (known.group, *OTHER_VERSIONS.get(kind, ())):
        return (), ""
    if custom and not group.endswith(".k8s.io"):
        return (), ""
    return ("apiVersion",), f"{version} has no {kind} ({known.group})"


def of_machines(origin: Origin, kind: str, mistakes: Mistakes) -> Piece | None:
    """Return one object as a user declares it for a lab whose nodes are machines of their own."""
    return _piece(origin, kind, mistakes, spread=True)


def _piece(origin: Origin, kind: str, mistakes: Mistakes, *, spread: bool = False) -> Piece | None:
    def report(line: int, path: Path, text: str) -> None:
        mistakes.add(origin.source, line, origin.prefix + path, text)

    def say(path: Path, text: str) -> None:
        mistakes.at(origin, path, text)

    if kind == LAB:
        walk(origin.node, labdoc.SHAPE, (), report)
        value = without_nulls(plain(origin.node))
        completed = labdoc.completed(value)
        labrules.check(completed, say, spread=spread)
        dualstack.check(completed, say, spread=spread)
        return Piece(value, origin)
    document: Document = plain(origin.node)
    known = kind_of(document)
    if known is not None and kind == "Node":
        mistakes.at(origin, ("kind",), "a Node object (declare nodes in the Lab document)")
        return None
    shape = manifest.object_shape(kind) if known is not None else None
    if shape is not None:
        walk(origin.node, shape, (), report)
        document = without_nulls(document)
        if kind in RULES:
            RULES[kind](document, say)
        if servicerules.status(document):
            node = origin.node.value["status"].value["loadBalancer"]
            walk(node, LOAD_BALANCER, ("status", "loadBalancer"), report)
    else:
        _check_metadata(origin, kind if known else "", report)
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    return Piece(_cleaned(document, known), origin)


def _check_metadata(origin: Origin, kind: str, report: Any) -> None:
    node = origin.node.value.get("metadata")
    if node is None or node.value is None:
        line = origin.line(("metadata",))
        report(line, ("metadata",), "is missing (a mapping with a name is required)")
    else:
        walk(node, manifest.metadata_shape(kind), ("metadata",), report)


def _cleaned(document: Document, known: Kind | None) -> Document:
    """Return *document* as its user means it: with a namespace, without a server's fields."""
    metadata = without_nulls(document["metadata"])
    for field in _SERVER_FIELDS:
        metadata.pop(field, None)
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict) and annotations.pop(ANNOTATION, None) and not annotations:
        del metadata["annotations"]
    if known is not None and known.namespaced:
        metadata.setdefault("namespace", "default")
    elif known is not None:
        metadata.pop("namespace", None)
    cleaned = {**document, "metadata": metadata}
    cleaned.pop("status", None)
    status = servicerules.status(document) if known is not None else {}
    return {**cleaned, "status": status} if status else cleaned


def without_nulls(value: Any) -> Any:
    """Return *value* without the fields that are null, as an API server drops them."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value
