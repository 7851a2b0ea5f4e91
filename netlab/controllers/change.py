"""What a controller wants done to one object, and what every new object gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import msgspec

from netlab.model.kubernetes import Document


class Verb(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Change(msgspec.Struct, frozen=True):
    """One step. `document` is the whole new object; for a delete, the stored one.

    It shares its parts with the objects it was made from: nobody may change a document.
    """

    verb: Verb
    document: Document


def now() -> str:
    """Return the time as Kubernetes writes it: RFC 3339, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def born(document: Document) -> Document:
    """Return *document* with what an API server gives a new object, where it has none.

    metadata.uid, metadata.creationTimestamp and, for a pod, status.phase.
    """
    fresh = {"uid": str(uuid4()), "creationTimestamp": now()}
    whole = {**document, "metadata": {**document["metadata"]}}
    for name, value in fresh.items():
        whole["metadata"].setdefault(name, value)
    if whole["kind"] == "Pod":
        whole["status"] = {"phase": "Pending", **whole.get("status", {})}
    return whole


def generated(old: Document, new: Document) -> Document:
    """Return *new*, which takes the place of *old*, with the number of its generation.

    As an API server counts them: one more when the spec of what makes pods changes, so that its
    controller can say which one its status is about.
    """
    spec = new.get("spec")
    if not isinstance(spec, dict) or "template" not in spec or spec == old.get("spec"):
        return new
    before = old["metadata"].get("generation")
    number = (before if isinstance(before, int) else 1) + 1
    return {**new, "metadata": {**new["metadata"], "generation": number}}


def controller(document: Document) -> Mapping[str, Any] | None:
    """Return the reference to the object that made *document*, None if a user declared it."""
    references = document["metadata"].get("ownerReferences")
    for reference in references if isinstance(references, list) else ():
        if isinstance(reference, dict) and reference.get("controller"):
            return reference
    return None


def owned_by(owner: Document) -> list[dict[str, Any]]:
    """Return the ownerReferences of an object made for *owner*."""
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def by_controller(documents: Iterable[Document]) -> dict[str, list[Document]]:
    """Return *documents* by the uid of their controller."""
    found: dict[str, list[Document]] = {}
    for document in documents:
        reference = controller(document)
        if reference is not None:
            found.setdefault(reference.get("uid", ""), []).append(document)
    return found
