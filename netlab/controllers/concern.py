"""Whom news concerns: Services whose endpoints it may change, and who may have lost a home."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from netlab.controllers.draft import Draft, Name, uid
from netlab.model.kubernetes import Document
from netlab.model.services import SERVICE_NAME_LABEL

SERVED = ("Service", "Endpoints")
Label = tuple[str, str, str]  # namespace, key, value


def services(draft: Draft) -> set[Name] | None:
    """Return the Services whose slices the news may change, and a few more; None: all of them.

    Those that are news themselves, whose slices or Endpoints are, and those that select a pod that
    is, by the labels it had or has.
    """
    if draft.fresh or _moved(draft):
        return None  # a node's zone is every endpoint's
    names: set[Name] = set()
    labels: set[Label] = set()
    for pair in draft.news():
        for one in pair:
            if one is None:
                continue
            meta = one["metadata"]
            space = meta.get("namespace", "")
            if one["kind"] == "Pod":
                labels.update((space, *label) for label in (meta.get("labels") or {}).items())
            elif one["kind"] == "EndpointSlice":
                names.add(_followed(one))
            elif one["kind"] in SERVED:
                names.add((space, meta["name"]))
    return names.union(_selecting(draft, labels)) if labels else names


def _moved(draft: Draft) -> bool:
    """Return whether a node came, went, or has other labels."""
    return draft.stirs(("Node",)) and any(
        old is None or new is None or old["metadata"].get("labels") != new["metadata"].get("labels")
        for old, new in draft.news()
        if (old or new or {}).get("kind") == "Node"
    )


def slices(draft: Draft, names: set[Name] | None) -> Sequence[Document]:
    """Return the slices of the Services called *names*; None: all of them."""
    listed = draft.of("EndpointSlice")
    if names is None:
        return listed
    some, key = {name for _, name in names}, SERVICE_NAME_LABEL
    near = [one for one in listed if (one["metadata"].get("labels") or {}).get(key) in some]
    return [one for one in near if _followed(one) in names]


def _followed(document: Document) -> Name:
    """Return which Service's endpoints the slice *document* has; an empty name: none's."""
    meta = document["metadata"]
    return meta.get("namespace", ""), (meta.get("labels") or {}).get(SERVICE_NAME_LABEL, "")


def homeless(draft: Draft) -> Collection[Document]:
    """Return the objects whose owner, namespace or node may be gone, and a few more.

    Who was settled loses them only with something that goes; but as long as there is no node at
    all, no pod's is missed.
    """
    if draft.fresh:
        return draft.objects
    found = []
    for old, new in draft.news():
        if old is None and new is not None and new["kind"] == "Node":
            return draft.objects
        if old is not None and (new is None or uid(new) != uid(old)):
            return draft.objects
        if new is not None:
            found.append(new)
    return found


def _selecting(draft: Draft, labels: set[Label]) -> Iterator[Name]:
    """Yield the Services all of whose selector is among *labels*, be they of several pods."""
    for service in draft.of("Service"):
        selector: Any = (service.get("spec") or {}).get("selector")
        if selector and isinstance(selector, dict):
            meta = service["metadata"]
            space = meta.get("namespace", "")
            pairs = selector.items()
            if all(isinstance(of, str) and (space, key, of) in labels for key, of in pairs):
                yield space, meta["name"]
