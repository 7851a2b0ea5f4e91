"""Objects as an API server would hold them: with status, and with what it once let in.

For a service proxy that is driven by files. Fields and types are checked; whether an address or
port can be used is the proxy's own judgement, which leaves out what cannot and serves the rest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TextIO

import msgspec

from netlab.errors import InputError
from netlab.model.kubernetes import Document, Pod, View, kind_of, view
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.topology import cross, manifest, tree
from netlab.topology.declared import Piece, pieces, without_nulls
from netlab.topology.mistakes import Mistakes, Origin
from netlab.topology.shapes import walk
from netlab.topology.sources import texts
from netlab.topology.tree import Path, plain

VIEWS: dict[str, type[View]] = {
    "Service": Service,
    "EndpointSlice": EndpointSlice,
    "Node": ProxyNode,
    "Pod": Pod,
}
# Values that the API server of some version let in, or lets in for families netlab's labs lack.
_JUDGED_LATER = {
    *("clusterIP", "clusterIPs", "externalIPs", "loadBalancerSourceRanges"),
    *("nodePort", "healthCheckNodePort", "port"),
}
_PLACE = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([A-Za-z]+)|\[(\d+)\]")


def stored(
    sources: Sequence[str], *, stdin: TextIO | None = None
) -> tuple[list[Document], list[str]]:
    """Return the objects in *sources* and a note on each that no proxy reads.

    Raises InputError with every mistake there is.
    """
    mistakes = Mistakes()
    found: list[Piece] = []
    for source, text in texts(sources, mistakes, stdin=stdin):
        composed = tree.compose(text)
        for slip in composed.slips:
            mistakes.add(source, slip.line, slip.path, slip.text)
        for root in composed.roots:
            if root.value is not None:
                found.extend(pieces(source, root, mistakes, make=_piece))
    kept = cross.unique(found, mistakes)
    if mistakes:
        raise InputError(mistakes.lines())
    notes = [
        f"{origin.source}:{origin.line()}: {cross.title(document)} is passed over "
        f"(read are {', '.join(VIEWS)})"
        for document, origin in kept
        if document["kind"] not in VIEWS
    ]
    return [one.document for one in kept if one.document["kind"] in VIEWS], notes


def _piece(origin: Origin, kind: str, mistakes: Mistakes) -> Piece | None:
    def report(line: int, path: Path, text: str) -> None:
        if not any(step in _JUDGED_LATER for step in path):
            mistakes.add(origin.source, line, origin.prefix + path, text)

    document: Document = without_nulls(plain(origin.node))
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        mistakes.at(origin, ("metadata", "name"), "is missing (the object's name)")
        return None
    known = kind_of(document)
    if known is not None and known.namespaced:
        metadata.setdefault("namespace", "default")
    if known is not None and kind in VIEWS:
        shape = manifest.object_shape(kind)
        if shape is not None:
            walk(origin.node, shape, (), report)
        try:
            view(document, VIEWS[kind])
        except msgspec.ValidationError as error:
            what, path = _told(error)
            mistakes.at(origin, path, what)
    return Piece(document, origin)


def _told(error: msgspec.ValidationError) -> tuple[str, Path]:
    """Return what is wrong, and with which field."""
    text = str(error)
    place = _PLACE.search(text)
    if place is None:
        return text, ()
    steps = _STEP.findall(place[1])
    path = tuple(name or int(number) for name, number in steps)
    return text[: place.start()][:1].lower() + text[1 : place.start()], path
