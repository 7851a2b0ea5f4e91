"""What has lost its reason to be: objects of a vanished owner, namespace or node."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from netlab.controllers.change import Change, Verb, controller
from netlab.controllers.declaration import NAMESPACES, reborn
from netlab.model.kubernetes import Document, kind_of


def collected(suspects: Iterable[Document], documents: Collection[Document]) -> list[Change]:
    """Return what must happen to those *suspects* whose owner, namespace or node is gone.

    That is, not among *documents*. They are deleted; but a pod its user declared, on a node that
    is gone, begins a new life with a new uid, to be scheduled elsewhere, unless the user named
    that very node.
    """
    suspects = list(suspects)
    owned = any("ownerReferences" in one["metadata"] for one in suspects)
    uids = {one["metadata"].get("uid") for one in documents} if owned else set()
    nodes = {one["metadata"]["name"] for one in documents if one["kind"] == "Node"}
    namespaces = {one["metadata"]["name"] for one in documents if one["kind"] == "Namespace"}
    namespaces.update(NAMESPACES)
    changes = []
    for document in suspects:
        if _orphaned(document, uids) or not _at_home(document, namespaces):
            changes.append(Change(Verb.DELETE, document))
        elif nodes and document["kind"] == "Pod" and _lost_node(document, nodes):
            changes += _moved(document)
    return changes


def _orphaned(document: Document, uids: set[str | None]) -> bool:
    reference = controller(document) if "ownerReferences" in document["metadata"] else None
    return reference is not None and reference.get("uid") not in uids


def _at_home(document: Document, namespaces: set[str]) -> bool:
    namespace = document["metadata"].get("namespace")
    if not namespace or namespace in namespaces:
        return True
    kind = kind_of(document)
    return kind is not None and not kind.namespaced


def _lost_node(pod: Document, nodes: set[str]) -> bool:
    name = pod["spec"].get("nodeName")
    return bool(name) and name not in nodes


def _moved(pod: Document) -> list[Change]:
    gone = Change(Verb.DELETE, pod)
    if controller(pod) is not None:
        return [gone]  # its ReplicaSet makes another
    again = reborn(pod)
    if again is None:
        return [gone]
    return [] if again["spec"].get("nodeName") else [gone, Change(Verb.CREATE, again)]
