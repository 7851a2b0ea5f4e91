"""Kubernetes objects in etcd, below /registry/ as the kube-apiserver keeps them, but in JSON.

1. Reading costs what changed, not what there is. A watch on everything knows what was written
   since the last reading, and etcd is not asked at all, but for a listing when it is quiet.
   Without one, etcd is asked for what was written since on the same connection, and how many keys
   there are; only when that number tells of a deletion is everything listed. (etcd looks at every
   key to find those that were written since: 25 ms for 20,000.) A new connection may lead to a new
   etcd: all is listed.
2. A value is decoded once per process, whichever of its threads asks: the documents returned are
   shared, and nobody may change them. Copy, then write.
3. Writing is conditional: what somebody else has changed meanwhile is not overwritten, but handed
   back, and the loop that wanted it decides again.
4. Events end by themselves, an hour after they were last written: an etcd lease of theirs runs out.
5. What is no Kubernetes object, or not one that can be acted on, does not exist.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from netlab.errors import StoreError
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key
from netlab.store import shapes
from netlab.store.etcd import (
    OPS_PER_TRANSACTION,
    Compare,
    Delete,
    Etcd,
    KeyValue,
    Listing,
    Op,
    Put,
    unchanged,
)
from netlab.store.watch import Watch

PREFIX = "/registry/"
LISTED_EVERY = 25.0  # seconds; a loop that nothing wakes looks again after 30
ECHO_WITHIN = 0.5  # seconds a watch has to tell of what etcd has answered already
EVENT_TTL = 3600  # seconds: kube-apiserver --event-ttl
EVENT_LEASE_SHARED = 60  # seconds of events that end together: storage/etcd3/lease_manager.go
# A nested transaction counts as one operation outside and one inside.
CHANGES_PER_REQUEST = OPS_PER_TRANSACTION // 2

Warn = Callable[[str], None]


class Change(Protocol):
    """What a controller wants: `create`, `update` or `delete` of a document."""

    @property
    def verb(self) -> str: ...

    @property
    def document(self) -> Document: ...


C = TypeVar("C", bound=Change)


class _Stored(msgspec.Struct, frozen=True):
    mod_revision: int
    value: bytes
    document: Document | None  # None: the value is no Kubernetes object


class _Seen(msgspec.Struct, frozen=True):
    """What the last reading over one connection gave."""

    connection: int = 0
    revision: int = 0
    items: dict[str, _Stored] = {}
    objects: Inventory = msgspec.field(default_factory=Inventory)
    listed: float = 0.0  # when etcd was last asked for it, monotonic seconds


_NOTHING = _Seen()
_seen: WeakKeyDictionary[Etcd, _Seen] = WeakKeyDictionary()
_decoded: dict[str, _Stored] = {}
_event_leases: WeakKeyDictionary[Etcd, tuple[int, float, int]] = WeakKeyDictionary()


def objects(
    etcd: Etcd, *, watch: Watch | None = None, warn: Warn = lambda _: None
) -> tuple[Inventory, int]:
    """Return the stored objects, and the store's revision.

    *watch*: one on everything, by the same thread; what it knows etcd is not asked for. It is
    drained, and does not wake its loop again for what is returned here.
    `metadata.resourceVersion` is the key's mod_revision. A value that is no Kubernetes object is
    left out, and told to *warn* when it is first seen. What was not written since the last reading
    is the same document, and the documents are shared: do not change them.
    """
    seen = _seen.get(etcd, _NOTHING)
    found = None if watch is None else _followed(etcd, seen, watch, warn)
    found = _seen[etcd] = found or _listed(etcd, seen, warn)
    if watch is not None:
        watch.forget(found.revision)
    return found.objects, found.revision


def documents(
    etcd: Etcd, *, watch: Watch | None = None, warn: Warn = lambda _: None
) -> tuple[list[Document], int]:
    """Return what `objects` does, as a list."""
    found, revision = objects(etcd, watch=watch, warn=warn)
    return list(found), revision


def _followed(etcd: Etcd, seen: _Seen, watch: Watch, warn: Warn) -> _Seen | None:
    """Return what was *seen* with what *watch* has heard since; None if it cannot say."""
    caught_up = watch.reaches(etcd.revision, seconds=ECHO_WITHIN)
    if not caught_up or etcd.connections != seen.connection:
        return None
    news = watch.since(seen.revision)
    if news is None or (not news and time.monotonic() - seen.listed > LISTED_EVERY):
        return None
    written: dict[str, _Stored] = {}
    gone: set[str] = set()
    for item in news:
        if not item.key.startswith(PREFIX):
            continue
        if item.version:
            written[item.key] = _decode(item, warn)
            gone.discard(item.key)
        else:
            gone.add(item.key)
    after = seen if not written and not gone else _with(seen, written, gone)
    return msgspec.structs.replace(after, revision=watch.revision)


def _with(seen: _Seen, written: dict[str, _Stored], gone: set[str]) -> _Seen:
    """Return what was *seen* with what was *written*, and without what is *gone*."""
    items = seen.items | written
    for key in gone:
        items.pop(key, None)
        _decoded.pop(key, None)
    readable = {key: one.document for key, one in written.items() if one.document is not None}
    objects = seen.objects.altered(readable, gone | (written.keys() - readable.keys()))
    return msgspec.structs.replace(seen, items=items, objects=objects)


def _listed(etcd: Etcd, seen: _Seen, warn: Warn) -> _Seen:
    """Return what etcd answers, asked for what was written since *seen* as long as that tells."""
    listing = etcd.range(PREFIX, since=seen.revision + 1) if seen.revision else etcd.range(PREFIX)
    items = seen.items | _stored(listing, warn)
    restarted = etcd.connections != seen.connection or listing.revision < seen.revision
    if seen.revision and (restarted or len(items) != listing.count):
        listing = etcd.range(PREFIX)
        items = _stored(listing, warn)
        for key in seen.items.keys() - items.keys():
            _decoded.pop(key, None)
    objects = seen.objects
    if items != seen.items:
        readable = {key: one.document for key, one in items.items() if one.document is not None}
        objects = Inventory(readable)
    return _Seen(etcd.connections, listing.revision, items, objects, time.monotonic())


def _stored(listing: Listing, warn: Warn) -> dict[str, _Stored]:
    return {item.key: _decode(item, warn) for item in listing.items}


def _decode(item: KeyValue, warn: Warn) -> _Stored:
    """Return what *item* holds; decoded already when some thread has seen the same."""
    known = _decoded.get(item.key)
    if known and known.mod_revision == item.mod_revision and known.value == item.value:
        return known
    stored = _Stored(item.mod_revision, item.value, _document(item, warn))
    _decoded[item.key] = stored
    return stored


def _document(item: KeyValue, warn: Warn) -> Document | None:
    try:
        document = msgspec.json.decode(item.value, type=Document)
        document["kind"], document["apiVersion"]
        metadata = document["metadata"]
        if registry_key(document) != item.key:
            raise ValueError(f"its own key would be {registry_key(document)}")
        shapes.check(document)
        metadata["resourceVersion"] = str(item.mod_revision)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # json.dumps shows bytes that are not text as escapes.
        warn(f"etcd key {json.dumps(item.key)} is no Kubernetes object, ignored: {error!r}")
        return None
    return document


def write(etcd: Etcd, changes: Sequence[C]) -> list[C]:
    """Make *changes* in order; return those that no longer held, of which nothing was done.

    A create holds when the object is not there; an update or delete whose document has a
    `metadata.resourceVersion`, when the object was not written since. Each change is atomic.
    """
    refused: list[C] = []
    for part in _parts(changes):
        lease = _event_lease(etcd) if any(map(_is_event, part)) else 0
        done = etcd.transactions([_transaction(change, lease) for change in part])
        refused += [change for change, made in zip(part, done, strict=True) if not made]
    return refused


def replaced(etcd: Etcd, documents: Sequence[Document]) -> list[Document]:
    """Write each of *documents* over the version it was made from (its resourceVersion).

    Return those that were written, with their new resourceVersion; the others were changed or
    deleted meanwhile, and nothing was done to them.
    """
    written = []
    for first in range(0, len(documents), CHANGES_PER_REQUEST):
        part = documents[first : first + CHANGES_PER_REQUEST]
        held = [(registry_key(d), int(d["metadata"]["resourceVersion"])) for d in part]
        results = etcd.transactions(
            [
                ([unchanged(key, version)], [Put(key, value(document))])
                for (key, version), document in zip(held, part, strict=True)
            ]
        )
        written += [
            document
            | {"metadata": document["metadata"] | {"resourceVersion": str(result.revision)}}
            for document, result in zip(part, results, strict=True)
            if result
        ]
    return written


def _parts(changes: Iterable[C]) -> Iterable[list[C]]:
    """Return *changes* in portions in which no key comes twice, as etcd demands."""
    part: dict[str, C] = {}
    for change in changes:
        key = registry_key(change.document)
        if key in part or len(part) == CHANGES_PER_REQUEST:
            yield list(part.values())
            part = {}
        part[key] = change
    if part:
        yield list(part.values())


def _is_event(change: Change) -> bool:
    return bool(change.document["kind"] == "Event")


def _event_lease(etcd: Etcd) -> int:
    """Return the etcd lease with which the events of this minute end, in an hour."""
    known = _event_leases.get(etcd)
    moment = time.monotonic()
    if known is None or known[0] != etcd.connections or moment > known[1]:
        lease = etcd.grant(EVENT_TTL + EVENT_LEASE_SHARED)
        known = _event_leases[etcd] = (etcd.connections, moment + EVENT_LEASE_SHARED, lease)
    return known[2]


def _transaction(change: Change, event_lease: int) -> tuple[list[Compare], list[Op]]:
    key = registry_key(change.document)
    version = change.document["metadata"].get("resourceVersion")
    lease = event_lease if _is_event(change) else 0
    if change.verb == "create":
        known = _decoded.get(key)
        # What nobody can read is not there; the key is taken from it.
        before = known.mod_revision if known is not None and known.document is None else 0
        return [unchanged(key, before)], [Put(key, value(change.document), lease)]
    holds = [unchanged(key, int(version))] if version else []
    if change.verb == "update":
        return holds, [Put(key, value(change.document), lease)]
    if change.verb == "delete":
        return holds, [Delete(key)]
    raise StoreError(f"{key}: no such change: {change.verb!r}")


def value(document: Document) -> bytes:
    """Return *document* as it is stored: compact JSON, without its resourceVersion."""
    metadata = {
        name: field for name, field in document["metadata"].items() if name != "resourceVersion"
    }
    return msgspec.json.encode(document | {"metadata": metadata})
