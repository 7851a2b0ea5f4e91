"""Where a stored object is otherwise than its user declared it: scaled, labelled, cordoned, paused.

1. `departed` says that `up` has something to bring back: a declared field has another value, as for
   `kubectl apply`. What was only added beside is left alone: labels, taints, a cordon.
2. `departures` lists all of it, each with the command that undoes it.
3. What was deleted carries no declaration any more. `Declared` is what the last `up` said, which
   the agent that it was said to remembers; only `up` starts another agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from shlex import quote
from typing import Any, NamedTuple

import msgspec

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, kind_named, registry_key

COME_AND_GO = ("Node", "Job")  # that one removes and adds; that goes when its time is over
GIVEN = ("Pod", "Service")  # whose specs get, field by field, what was left open
OWN = "node.kubernetes.io/"  # taints that the node controller sets and takes away


class Departure(NamedTuple):
    """One difference, in words, and the command that undoes it."""

    words: str
    undo: str


class Declared(msgspec.Struct, frozen=True):
    """What `up` declared last: the objects, without their specs, and the files they came from."""

    objects: tuple[Document, ...] = ()
    files: tuple[str, ...] = ()  # absolute paths; () when some of it came from stdin

    @classmethod
    def of(cls, documents: Iterable[Document], files: Iterable[str]) -> Declared:
        """Return what is to be kept of *documents*."""
        named = (
            {
                "apiVersion": one["apiVersion"],
                "kind": one["kind"],
                "metadata": {
                    key: one["metadata"][key]
                    for key in ("name", "namespace")
                    if key in one["metadata"]
                },
            }
            for one in documents
        )
        return cls(tuple(one for one in named if one["kind"] not in COME_AND_GO), tuple(files))


def missing(declared: Declared, stored: Inventory) -> list[Departure]:
    """Return which objects that were *declared* are gone, and how they come back."""
    undo = f"netlab up {' '.join(map(quote, declared.files)) or 'FILE'}"
    found = []
    for one in declared.objects:
        if stored.get(registry_key(one)) is None:
            told, _, where = _called(one)
            found.append(Departure(f"{told}{where} is gone, though declared", undo))
    return found


def departed(declared: Document, stored: Document) -> bool:
    """Return whether a field that is *declared* has another value in *stored*."""
    there, here = stored["metadata"], declared["metadata"]
    for field in ("labels", "annotations"):
        if not covers(here.get(field) or {}, there.get(field) or {}):
            return True
    if declared["kind"] in GIVEN:
        return False
    return not covers(declared.get("spec") or {}, stored.get("spec") or {})


def covers(wanted: Any, held: Any) -> bool:
    """Return whether *held* has all that *wanted* says; what is null or empty says nothing."""
    if isinstance(wanted, dict):
        return isinstance(held, dict) and all(
            covers(value, held.get(key)) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        same = isinstance(held, list) and len(held) == len(wanted)
        return not wanted or (same and all(map(covers, wanted, held)))
    return wanted in (None, "") or bool(wanted == held)


def departures(declared: Mapping[str, Any], stored: Document) -> list[Departure]:
    """Return in what *stored* differs from what its user *declared*."""
    return [*_spec(declared, stored), *_pairs(declared, stored)]


def _called(document: Document) -> tuple[str, str, str]:
    """Return `pod archive`, `pod/archive` and the options that name its namespace."""
    meta, kind = document["metadata"], kind_named(document["kind"])
    word = document["kind"].lower()
    namespace = meta.get("namespace", "default") if kind is None or kind.namespaced else "default"
    where = f" -n {namespace}" if namespace != "default" else ""
    return f"{word} {meta['name']}", f"{word}/{meta['name']}", where


def _spec(declared: Mapping[str, Any], stored: Document) -> Iterator[Departure]:
    told, name, where = _called(stored)
    mine, held = declared.get("spec") or {}, stored.get("spec") or {}
    if "template" in held:
        wanted, there = mine.get("replicas", 1), held.get("replicas", 1)
        if wanted != there and stored["kind"] != "DaemonSet":
            yield Departure(
                f"{told}{where} has {there} replicas, declared are {wanted}",
                f"netlab scale {name} --replicas {wanted}{where}",
            )
        if held.get("paused") and not mine.get("paused"):
            yield Departure(f"{told}{where} is paused", f"netlab rollout resume {name}{where}")
        if not covers(mine.get("template") or {}, held["template"]):
            yield Departure(
                f"{told}{where} has another pod template than declared",
                f"netlab rollout undo {name}{where}",
            )
    if stored["kind"] != "Node":
        return
    if held.get("unschedulable") and not mine.get("unschedulable"):
        yield Departure(f"{told} is cordoned", f"netlab uncordon {stored['metadata']['name']}")
    for taint in held.get("taints") or []:
        if taint not in (mine.get("taints") or []) and not taint["key"].startswith(OWN):
            spec = f"{taint['key']}:{taint.get('effect', '')}"
            yield Departure(f"{told} has taint {spec}", f"netlab taint {told} {spec}-")


def _pairs(declared: Mapping[str, Any], stored: Document) -> Iterator[Departure]:
    told, _, where = _called(stored)
    for field, verb in (("labels", "label"), ("annotations", "annotate")):
        mine = (declared.get("metadata") or {}).get(field) or {}
        held = stored["metadata"].get(field) or {}
        word = field.removesuffix("s")
        for key in sorted({*mine, *held}):
            was, is_ = mine.get(key), held.get(key)
            if was == is_ or (was is None and _others(key)):
                continue
            if was is None:
                undo, words = f"{key}-", f"{word} {key}={is_}"
            elif is_ is None:
                undo, words = f"{key}={was}", f"no {word} {key}, declared is {was}"
            else:
                undo, words = f"{key}={was} --overwrite", f"{word} {key}={is_}, declared is {was}"
            yield Departure(f"{told}{where} has {words}", f"netlab {verb} {told} {undo}{where}")


def _others(key: str) -> bool:
    """Return whether a label or annotation is none that a user gives by hand."""
    domain, slash, _ = key.rpartition("/")
    ours = domain.endswith(("kubernetes.io", "k8s.io", "netlab.io"))
    return bool(slash) and ours and key != "kubernetes.io/change-cause"


def listed(stored: Iterable[Document], declared: Mapping[str, Document]) -> Iterator[Departure]:
    """Yield the departures of all *stored* objects; *declared*: by uid."""
    for document in stored:
        mine = declared.get(document["metadata"].get("uid", ""))
        if mine is not None:
            yield from departures(mine, document)
