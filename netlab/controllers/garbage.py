"""What has lost its reason to be: objects of a vanished owner, namespace or node."""

from __future__ import annotations

from collections.abc import Collection

from netlab.controllers import podstate
from netlab.controllers.change import Change, Verb, controller
from netlab.controllers.clock import Clock
from netlab.controllers.declaration import NAMESPACES, reborn
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, kind_of, registry_key


def collected(
    suspects: Collection[Document], objects: Inventory, *, clock: Clock | None = None
) -> list[Change]:
    """Return what must happen to those *suspects* whose owner, namespace or node is gone.

    That is, not among *objects*. They are deleted; but a pod its user declared, on a node that
    is gone, begins a new life with a new uid, to be scheduled elsewhere, unless the user named
    that very node. A pod that only lost its owner or namespace ends in its own time.
    """
    nodes = {one["metadata"]["name"] for one in objects.of("Node")}
    namespaces = {one["metadata"]["name"] for one in objects.of("Namespace")}
    namespaces.update(NAMESPACES)
    changes = []
    for document in suspects:
        if _orphaned(document, objects) or not _at_home(document, namespaces):
            changes += _ended(document, nodes, clock)
        elif nodes and document["kind"] == "Pod" and _lost_node(document, nodes):
            changes += moved(document)
    return changes


def _ended(document: Document, nodes: set[str], clock: Clock | None) -> list[Change]:
    if document["kind"] != "Pod" or _lost_node(document, nodes):
        return [Change(Verb.DELETE, document)]
    gone = podstate.deletion(document, clock=clock)
    return [] if gone.document is document and gone.verb is Verb.UPDATE else [gone]


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


def moved(pod: Document) -> list[Change]:
    """Return what makes *pod*, whose node is gone, go on elsewhere; see `collected`."""
    gone = Change(Verb.DELETE, pod)
    if controller(pod) is not None:
        return [gone]  # its ReplicaSet makes another
    again = reborn(pod)
    if again is None:
        return [gone]
    return [] if again["spec"].get("nodeName") else [gone, Change(Verb.CREATE, again)]
