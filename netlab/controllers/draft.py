"""The objects as the controllers would have them, and what about them is news.

What was settled before is the measure: a controller is asked only when something it reads is news,
and of ten thousand Services only those are looked at that the news concerns. When nothing was
settled yet, everything is news.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from netlab.controllers.change import Change, Verb
from netlab.model.kinds import BY_KIND
from netlab.model.kubernetes import Document, registry_key

Objects = Mapping[str, Document]  # by registry key
Name = tuple[str, str]  # namespace and name


class Draft:
    """What *objects* become while controllers change them.

    *settled*: earlier objects, about which the controllers had nothing left to say. What is
    unchanged since is the same document (`is`), not an equal one.
    """

    def __init__(self, objects: Objects, settled: Objects) -> None:
        self.fresh = not settled
        self._before = objects
        self._objects = dict(objects)
        self._settled = settled
        self._made: dict[str, None] = {}  # the keys of what was changed here, in order
        self._lists: dict[str, list[Document]] = {}
        known = settled.get
        self._news = {key for key, document in objects.items() if known(key) is not document}
        self._news.update(settled.keys() - objects.keys())
        self._kinds = {one["kind"] for pair in self.news() for one in pair if one is not None}

    def all(self) -> Collection[Document]:
        """Return every object."""
        return self._objects.values()

    def of(self, kind: str) -> list[Document]:
        """Return the objects of one of Kubernetes' own kinds."""
        found = self._lists.get(kind)
        if found is None:
            version = BY_KIND[kind].group
            found = [one for one in self.all() if one["kind"] == kind]
            found = [one for one in found if one["apiVersion"] == version]
            self._lists[kind] = found
        return found

    def named(self, kind: str, names: Iterable[Name] | None) -> list[Document]:
        """Return those objects of *kind*, a namespaced one, that *names* has; None: all of them."""
        if names is None:
            return self.of(kind)
        prefix = f"/registry/{BY_KIND[kind].registry}"
        found = (self._objects.get(f"{prefix}/{space}/{name}") for space, name in names)
        return [one for one in found if one is not None]

    def parted(self, kind: str) -> tuple[list[Document], list[Document]]:
        """Return the objects of *kind* that are news, and the others."""
        news = {id(new) for _, new in self.news()}
        listed = self.of(kind)
        return (
            [one for one in listed if id(one) in news],
            [one for one in listed if id(one) not in news],
        )

    def news(self) -> Iterator[tuple[Document | None, Document | None]]:
        """Yield what differs from what was settled: each object as it was and as it is."""
        for key in self._news:
            yield self._settled.get(key), self._objects.get(key)

    def stirs(self, kinds: Iterable[str]) -> bool:
        """Return whether there is news of *kinds*."""
        return not self._kinds.isdisjoint(kinds)

    def make(self, changes: Iterable[Change]) -> None:
        """Make *changes* to the draft."""
        for change in changes:
            key = registry_key(change.document)
            if change.verb is Verb.DELETE:
                self._objects.pop(key, None)
            else:
                self._objects[key] = change.document
            self._made[key] = None
            self._news.add(key)
            self._kinds.add(change.document["kind"])
            self._lists.pop(change.document["kind"], None)

    def changes(self) -> list[Change]:
        """Return what leads from the objects to the draft: deletes, then updates, then creates.

        An object with another uid under the same key is another object: deleted, then created.
        """
        deletes, updates, creates = [], [], []
        for key in self._made:
            old, new = self._before.get(key), self._objects.get(key)
            same = old is not None and new is not None and uid(old) == uid(new)
            if old is not None and not same:
                deletes.append(Change(Verb.DELETE, old))
            if new is not None and not same:
                creates.append(Change(Verb.CREATE, new))
            if same and new is not None and new is not old:
                updates.append(Change(Verb.UPDATE, new))
        return deletes + updates + creates


def uid(document: Document) -> object:
    """Return what tells an object from another of the same name."""
    return document["metadata"].get("uid")
