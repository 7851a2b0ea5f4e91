"""EndpointSlices that hold given endpoints, with as few of them rewritten as can be.

A slice whose endpoints stay the same is not touched. What is new goes first into slices that are
rewritten anyway, then into the fullest one that has room for all of it, then into new ones. A
slice that is no longer needed is used again before another is made.
Source: k8s.io/endpointslice reconciler.go (v1.34), reconcileByPortMapping and finalize.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from netlab.controllers.change import Change, Verb, born
from netlab.controllers.podstate import ALPHABET
from netlab.model.kubernetes import Document

ENDPOINTS_MAX = 100  # of one slice: kube-controller-manager --max-endpoints-per-slice
SUFFIX_LENGTH = 5  # apiserver pkg/storage/names/generate.go
PREFIX_MAX = 248  # so that the name stays within 253 characters

Identity = tuple[tuple[str, ...], str]
Ports = list[dict[str, Any]]
PortsKey = tuple[tuple[str, str, int, str], ...]


class Group(NamedTuple):
    """Endpoints that serve the same ports, and so may share a slice."""

    ports: Ports
    endpoints: dict[Identity, Document]


class _Fill(NamedTuple):
    """A slice that is there and the endpoints it shall have."""

    document: Document
    endpoints: list[Document]

    @property
    def untouched(self) -> bool:
        return self.endpoints == (self.document.get("endpoints") or [])


def identity(endpoint: Document) -> Identity:
    """Return what makes *endpoint* the same one in two slices: its addresses and its pod."""
    target = endpoint.get("targetRef") or {}
    return tuple(endpoint.get("addresses") or ()), str(target.get("uid", ""))


def ports_key(ports: Sequence[Mapping[str, Any]]) -> PortsKey:
    """Return what two slices with the same ports have in common, whatever their order."""
    found = [
        (
            str(port.get("name", "")),
            str(port.get("protocol", "TCP")),
            int(port.get("port") or 0),
            str(port.get("appProtocol", "")),
        )
        for port in ports
    ]
    return tuple(sorted(found))


def fitted(
    groups: Mapping[PortsKey, Group],
    held: Sequence[Document],
    *,
    blank: Document,
    most: int = ENDPOINTS_MAX,
    placeholder: bool = True,
) -> list[Change]:
    """Return what makes the slices *held* hold *groups*, all of one address type.

    *blank*: a slice without name, ports and endpoints, which says what all of them have in common.
    *placeholder*: keep one empty slice when there is no endpoint.
    """
    by_ports: dict[PortsKey, list[Document]] = {}
    for document in held:
        by_ports.setdefault(ports_key(document.get("ports") or ()), []).append(document)
    fills: list[_Fill] = []
    fresh: list[Document] = []
    for key, group in groups.items():
        filled, rest = _filled(by_ports.pop(key, []), group, most)
        fills += filled
        fresh += [
            {**blank, "ports": group.ports, "endpoints": rest[first : first + most]}
            for first in range(0, len(rest), most)
        ]
    spare = [fill.document for fill in fills if not fill.endpoints]
    spare += [document for documents in by_ports.values() for document in documents]
    kept = [fill for fill in fills if fill.endpoints]
    if placeholder and not kept and not fresh:
        fresh = [{**blank, "ports": [], "endpoints": []}]
    return [
        *(change for fill in kept if (change := _rewritten(fill.document, _like(fill, blank)))),
        *_replaced(spare, fresh),
    ]


def _filled(
    held: Sequence[Document], group: Group, most: int
) -> tuple[list[_Fill], list[Document]]:
    """Return what each slice of *held* shall have of *group*, and what needs new slices."""
    left = dict(group.endpoints)
    fills = [
        _Fill(
            document,
            [
                left.pop(name)
                for endpoint in document.get("endpoints") or ()
                if (name := identity(endpoint)) in left
            ],
        )
        for document in held
    ]
    rest = list(left.values())
    if not rest:
        return fills, rest
    changed = [fill for fill in fills if not fill.untouched]
    for fill in sorted(changed, key=lambda one: -len(one.endpoints)):
        room = max(0, most - len(fill.endpoints))
        fill.endpoints.extend(rest[:room])
        del rest[:room]
    roomy = [fill for fill in fills if len(fill.endpoints) + len(rest) <= most]
    if rest and roomy:
        max(roomy, key=lambda one: len(one.endpoints)).endpoints.extend(rest)
        rest = []
    return fills, rest


def _like(fill: _Fill, blank: Document) -> Document:
    """Return the slice of *fill* with its endpoints and what *blank* says of all slices."""
    meta = {**fill.document["metadata"], **blank["metadata"]}
    return {**fill.document, "metadata": meta, "endpoints": fill.endpoints}


def _rewritten(before: Document, after: Document) -> Change | None:
    return None if before == after else Change(Verb.UPDATE, after)


def _replaced(spare: list[Document], fresh: list[Document]) -> list[Change]:
    """Return what turns the slices *spare* into *fresh* ones, as far as they go."""
    changes: list[Change] = []
    for old, new in zip(spare, fresh, strict=False):
        meta = {**old["metadata"], **new["metadata"]}
        change = _rewritten(old, {**old, **new, "metadata": meta})
        changes += [change] if change else []
    changes += [Change(Verb.DELETE, old) for old in spare[len(fresh) :]]
    changes += [Change(Verb.CREATE, born(_named(new))) for new in fresh[len(spare) :]]
    return changes


def _named(document: Document) -> Document:
    prefix = document["metadata"]["generateName"]
    name = prefix[:PREFIX_MAX] + "".join(random.choices(ALPHABET, k=SUFFIX_LENGTH))
    return {**document, "metadata": {"name": name, **document["metadata"]}}
