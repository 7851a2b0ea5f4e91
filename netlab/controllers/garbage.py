"""What has lost its reason to be: objects of a vanished owner, namespace or node."""

from __future__ import annotations

from collections.abc import Collection

from netlab.controllers.change import Change, Verb, controller
from netlab.controllers.declaration import NAMESPACES, reborn
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, kind_of, registry_key


def collected(suspects: Collection[Document], objects: Inventory) -> list[Change]:
    """Return what must happen to those *suspects* whose owner, namespace or node is gone.

    That is, not among *objects*. They are deleted; but a pod its user declared, on a node that
    is gone, begins a new life with a new uid, to be scheduled elsewhere, unless the user named
    that very node.
    """
    nodes = {one["metadata"]["name"] for one in objects.of("Node")}
    namespaces = {one["metadata"]["name"] for one in objects.of("Namespace")}
    namespaces.update(NAMESPACES)
    changes = []
    for document in suspects:
        if _orphaned(document, objects) or not _at_home(document, namespaces):
            changes.append(Change(Verb.DELETE, document))
        elif nodes and document["kind"] == "Pod" and _lost_node(document, nodes):
            changes += _moved(document)
    return changes


def _orphaned(document: Document, objects: Inventory) -> bool:
    reference = controller(document) if "ownerReferences" in document["metadata"] else None
    if reference is None:
        return False
    named = {key: str(reference.get(key)) for key in ("apiVersion", "kind", "name")}
    where = {"name": named["name"], "namespace": document["metadata"].get("namespace")}
    owner = objects.get(registry_key({**named, "metadata": where}))
    return owner is None or owner["metadata"].get("uid") != reference.get("uid")


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
