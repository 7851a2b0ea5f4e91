"""The Kubernetes objects there are at one moment, to be asked by key and by kind."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from netlab.model.kinds import BY_KIND
from netlab.model.kubernetes import Document, registry_key


class Inventory(Collection[Document]):
    """Objects by registry key, in the order of the keys.

    A value: nobody changes it. `altered` returns another one, which shares what stayed the same,
    so that a change of one of many objects costs little.
    """

    def __init__(self, objects: Mapping[str, Document] | None = None) -> None:
        self._objects = dict(sorted(objects.items())) if objects else {}
        # What was asked for already, by kind:
        self._kinds: dict[str, dict[str, Document]] = {}
        self._lists: dict[str, tuple[Document, ...]] = {}
        self._versions: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._objects.values())

    def __contains__(self, document: object) -> bool:
        return any(one is document for one in self)

    def keys(self) -> Collection[str]:
        """Return the registry keys, in order."""
        return self._objects.keys()

    def get(self, key: str) -> Document | None:
        """Return the object at a registry key, None if there is none."""
        return self._objects.get(key)

    def named(self, kind: str, namespace: str, name: str) -> Document | None:
        """Return one object of a namespaced *kind*, None if there is none."""
        return self.get(f"/registry/{BY_KIND[kind].registry}/{namespace}/{name}")

    def of(self, kind: str) -> Sequence[Document]:
        """Return the objects of one of Kubernetes' own kinds; the same list while none changes."""
        found = self._lists.get(kind)
        if found is None:
            found = self._lists[kind] = tuple(self._of(kind).values())
        return found

    def _of(self, kind: str) -> dict[str, Document]:
        found = self._kinds.get(kind)
        if found is None:
            found = {key: one for key, one in self._objects.items() if one["kind"] == kind}
            found = {key: one for key, one in found.items() if _kind(one) == kind}
            self._kinds[kind] = found
        return found

    def versions(self, kind: str) -> int:
        """Return the sum of the resourceVersions of the objects of *kind*.

        With their number it tells any change: what is written gets a higher one than all before.
        """
        found = self._versions.get(kind)
        if found is None:
            found = self._versions[kind] = sum(map(_version, self.of(kind)))
        return found

    def altered(self, written: Mapping[str, Document], gone: Collection[str] = ()) -> Inventory:
        """Return what there is once *written* is written, by key, and the keys *gone* deleted."""
        if not written and not gone:
            return self  # with what was asked of it already
        after = Inventory()
        after._objects = _altered(self._objects, written, gone)
        pairs = {
            key: (self._objects.get(key), after._objects.get(key)) for key in (*written, *gone)
        }
        after._kinds, after._lists = dict(self._kinds), dict(self._lists)
        after._versions = dict(self._versions)
        for kind in {_kind(one) for pair in pairs.values() for one in pair if one is not None}:
            after._lists.pop(kind, None)
            old = {key: one for key, (one, _) in pairs.items() if one and _kind(one) == kind}
            new = {key: one for key, (_, one) in pairs.items() if one and _kind(one) == kind}
            if kind in after._kinds:
                after._kinds[kind] = _altered(after._kinds[kind], new, old.keys() - new.keys())
            if kind in after._versions:
                after._versions[kind] += sum(map(_version, new.values()))
                after._versions[kind] -= sum(map(_version, old.values()))
        return after

    def unlike(self, other: Inventory) -> dict[str, Document | None]:
        """Return what *other* has wherever it has another document than this, or only one has any.

        By key; None where *other* has none.
        """
        theirs = other._objects
        known = theirs.get
        found = {key: known(key) for key, one in self._objects.items() if known(key) is not one}
        shared = len(self) - sum(one is None for one in found.values())
        if shared < len(other):
            found |= {key: theirs[key] for key in theirs.keys() - self._objects.keys()}
        return found


def inventory(documents: Iterable[Document]) -> Inventory:
    """Return *documents* as an Inventory."""
    if isinstance(documents, Inventory):
        return documents
    return Inventory({registry_key(document): document for document in documents})


def _altered(
    objects: dict[str, Document], written: Mapping[str, Document], gone: Iterable[str]
) -> dict[str, Document]:
    found = {**objects, **written}
    for key in gone:
        found.pop(key, None)
    return dict(sorted(found.items())) if written.keys() - objects.keys() else found


def _kind(document: Document) -> str:
    """Return the kind of *document*, "" for one that is not Kubernetes' own."""
    kind = str(document["kind"])
    known = BY_KIND.get(kind)
    own = known is not None and document.get("apiVersion", known.group) == known.group
    return kind if own else ""


def _version(document: Document) -> int:
    return int(document["metadata"].get("resourceVersion", 0))
