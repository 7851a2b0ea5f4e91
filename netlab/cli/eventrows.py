"""What kubectl shows of Events, and those of one object.

Source: kubernetes pkg/printers/internalversion/printers.go (v1.34), printEvent; kubectl's
DescribeEvents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from netlab.cli import tables
from netlab.model.kubernetes import Document

if TYPE_CHECKING:
    from netlab.cli.rows import Scene


def field(name: str) -> Callable[[Document, Scene], str]:
    """Return the cell that shows a field of the Event."""
    return lambda document, scene: str(document.get(name) or "").strip()


def last_seen(document: Document, scene: Scene) -> str:
    return tables.age(_time(document, "lastTimestamp"))


def first_seen(document: Document, scene: Scene) -> str:
    return tables.age(_time(document, "firstTimestamp"))


def _time(document: Document, name: str) -> str:
    return str(document.get(name) or document.get("eventTime") or "")


def about(document: Document, scene: Scene) -> str:
    """Return what an Event is about: `pod/web-7f-x2x1z`."""
    found = _mapping(document, "involvedObject")
    return f"{str(found.get('kind', '')).lower()}/{found.get('name', '')}"


def subobject(document: Document, scene: Scene) -> str:
    return str(_mapping(document, "involvedObject").get("fieldPath", ""))


def source(document: Document, scene: Scene) -> str:
    found = _mapping(document, "source")
    return ", ".join(str(found[key]) for key in ("component", "host") if found.get(key))


def _mapping(document: Document, name: str) -> dict[str, Any]:
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def in_order(events: Iterable[Document]) -> list[Document]:
    """Return *events*, that seen last at the end."""
    return sorted(events, key=lambda one: _time(one, "lastTimestamp"))


def lines(document: Document, scene: Scene) -> list[str]:
    """Return the Events about *document* as a table; none: no line."""
    uid = document["metadata"].get("uid")
    found = [
        one
        for one in scene.documents
        if one["kind"] == "Event" and uid and _mapping(one, "involvedObject").get("uid") == uid
    ]
    rows = [
        [
            str(one.get("type") or ""),
            str(one.get("reason") or ""),
            _age(one, scene),
            source(one, scene),
            str(one.get("message") or "").strip(),
        ]
        for one in in_order(found)
    ]
    return tables.aligned(["Type", "Reason", "Age", "From", "Message"], rows) if rows else []


def _age(event: Document, scene: Scene) -> str:
    """Return `12s`, or `12s (x3 over 5m)` of one that was seen several times."""
    last, count = last_seen(event, scene), event.get("count")
    if isinstance(count, int) and count > 1:
        return f"{last} (x{count} over {first_seen(event, scene)})"
    return last
