"""Notes as events, each once, however many replicas see what it is about."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from netlab.controllers.change import Change
from netlab.controllers.events import Fact, recorded
from netlab.errors import StoreError
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key
from netlab.store import registry
from netlab.store.access import Access
from netlab.vhosts.model import Note

COMPONENT = "nginx-ingress-controller"
AGAIN_AFTER = timedelta(seconds=10)  # what was said since has been said by another replica

Key = tuple[str, str, str, str]


class Telling:
    """What has been said, so that it is said again only after it was not so meanwhile."""

    def __init__(self) -> None:
        self._said: set[Key] | None = None  # None: nothing yet; who was here before may have

    def changes(self, notes: Iterable[Note], objects: Inventory) -> list[Change]:
        """Return the events for those of *notes* that are new."""
        listed = {_key(note): note for note in notes}
        first, said = self._said is None, self._said or set()
        self._said = set(listed)
        found: list[Change] = []
        for key, note in listed.items():
            if key in said:
                continue
            fact = Fact(
                note.about, note.reason, note.message, COMPONENT, warning=note.kind == "Warning"
            )
            made = recorded([fact], objects)
            before = objects.get(registry_key(made[-1].document))
            if before is None or not (first or _lately(before)):
                found += made
        return found


def _key(note: Note) -> Key:
    """Return what makes a note another: what it is about, as its user wants it, and its words."""
    uid = str(note.about["metadata"].get("uid", ""))
    return uid, note.reason, note.message, str(note.about.get("spec"))


def _lately(event: Document) -> bool:
    try:
        last = datetime.fromisoformat(str(event.get("lastTimestamp")))
    except ValueError:
        return False
    return datetime.now(UTC) - last < AGAIN_AFTER


def tell_own_pod(access: Access, message: str) -> None:
    """Say in an event of the pod we are in why it cannot serve; of no use where etcd is away."""
    etcd = access.etcd("")
    try:
        objects, _ = registry.objects(etcd)
        names = os.environ.get("POD_NAMESPACE", ""), os.environ.get("POD_NAME", "")
        pod = objects.named("Pod", *names)
        if pod is not None:
            fact = Fact(pod, "Failed", message, COMPONENT, warning=True)
            registry.write(etcd, recorded([fact], objects))
    except StoreError:
        pass
    finally:
        etcd.close()
