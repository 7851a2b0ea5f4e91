"""The objects as the controllers would have them, and what about them is news.

What was settled before is the measure: a controller is asked only when something it reads is news,
and of ten thousand Services only those are looked at that the news concerns. When nothing was
settled yet, everything is news.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from netlab.controllers.change import Change, Verb
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key

Name = tuple[str, str]  # namespace and name


class Draft:
    """What *objects* become while controllers change them, in rounds; *first* is made before.

    *stirred*: kinds of which there is news though no object has changed: time has come for some.
    *settled*: earlier objects, about which the controllers had nothing left to say. What is
    unchanged since is the same document (`is`), not an equal one. News in a round is what the round
    before changed, for those who came before the change, and what was changed in the round itself.
    """

    def __init__(
        self,
        objects: Inventory,
        settled: Inventory,
        first: Iterable[Change] = (),
        *,
        stirred: Iterable[str] = (),
    ) -> None:
        self.objects = objects
        self.fresh = not settled
        self._before = objects
        self._made: dict[str, None] = {}  # the keys of what was changed here, in order
        self._news = objects.unlike(settled)  # by key, as it was
        self._next: dict[str, Document | None] = {}
        self._stirred = self._kinds().union(stirred)
        self.make(first)
        self._next = {}

    def of(self, kind: str) -> Sequence[Document]:
        """Return the objects of one of Kubernetes' own kinds."""
        return self.objects.of(kind)

    def named(self, kind: str, names: Iterable[Name] | None) -> Sequence[Document]:
        """Return those objects of *kind*, a namespaced one, that *names* has; None: all of them."""
        if names is None:
            return self.of(kind)
        found = (self.objects.named(kind, *name) for name in names)
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
        """Yield what is news: each object as it was, and as it is; None: it was, or is, not."""
        for key, old in self._news.items():
            yield old, self.objects.get(key)

    def _kinds(self) -> set[str]:
        return {one["kind"] for pair in self.news() for one in pair if one is not None}

    def stirs(self, kinds: Iterable[str]) -> bool:
        """Return whether there is news of *kinds*."""
        return not self._stirred.isdisjoint(kinds)

    def make(self, changes: Iterable[Change]) -> None:
        """Make *changes* to the draft."""
        written: dict[str, Document] = {}
        gone: dict[str, None] = {}
        for change in changes:
            key = registry_key(change.document)
            self._news.setdefault(key, self.objects.get(key))
            self._next.setdefault(key, self.objects.get(key))
            self._stirred.add(change.document["kind"])
            self._made[key] = None
            if change.verb is Verb.DELETE:
                gone[key] = None
            else:
                written[key] = change.document
                gone.pop(key, None)
        self.objects = self.objects.altered(written, gone)

    def turn(self) -> bool:
        """Begin another round; return whether there is anything new in it."""
        self._news, self._next = self._next, {}
        self._stirred, self.fresh = self._kinds(), False
        return bool(self._news)

    def changes(self) -> list[Change]:
        """Return what leads from the objects to the draft: deletes, then updates, then creates.

        An object with another uid under the same key is another object: deleted, then created.
        """
        deletes, updates, creates = [], [], []
        for key in self._made:
            old, new = self._before.get(key), self.objects.get(key)
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
