"""What must agree between objects: names once, namespaces declared, pods with a place to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from netlab.controllers.declaration import NAMESPACES
from netlab.model.kubernetes import Document, kind_of, matches
from netlab.model.lab import Lab, LabNode
from netlab.topology import labdoc, values
from netlab.topology.declared import Piece
from netlab.topology.labrules import items
from netlab.topology.mistakes import Mistakes, Origin
from netlab.topology.podrules import TEMPLATED, mapping, pod_spec
from netlab.topology.tree import Path

NETNS_NAME_MAX = 255  # bytes; a file of /run/netns: linux/limits.h, NAME_MAX
GIVEN_NAME_MAX = 63  # characters of the name a controller gives a pod
COUNTED = {"Job": "parallelism"}  # the field with the number of pods, else `replicas`
Key = tuple[str, str, str, str]


class Nodes(NamedTuple):
    """The nodes that pods may be on: name to labels, and how many pods each holds, if known."""

    lab: str
    labels: dict[str, dict[str, str]]
    pods_each: int | None
    lease: str  # `a lease of /24`


def nodes_of(lab: Lab) -> Nodes:
    """Return the nodes of *lab*."""
    labels = {node.name: node.all_labels for node in lab.nodes}
    lease = f"a lease of /{lab.network.subnet_length}"
    return Nodes(lab.name, labels, lab.network.pods_per_node, lease)


def nodes_declared(value: dict[str, Any]) -> Nodes:
    """Return the nodes of a Lab document, or what it still tells about them despite mistakes."""
    try:
        return nodes_of(labdoc.lab_from(value))
    except (msgspec.ValidationError, ValueError):
        pass
    labels = {
        str(node["name"]): LabNode(str(node["name"]), "", labels=mapping(node, "labels")).all_labels
        for _, node in items(value.get("nodes"))
        if "name" in node
    }
    return Nodes(str(mapping(value, "metadata").get("name", "")), labels, None, "")


def object_key(document: Document) -> Key:
    """Return what makes *document* one object: group, kind, namespace, name."""
    kind = kind_of(document)
    group = kind.group if kind else document["apiVersion"]
    metadata = document["metadata"]
    return (
        group.rpartition("/")[0],
        document["kind"],
        str(metadata.get("namespace", "")),
        metadata["name"],
    )


def title(document: Document) -> str:
    """Return `Pod default/web`."""
    metadata = document["metadata"]
    parts = (metadata.get("namespace"), metadata["name"])
    return f"{document['kind']} {'/'.join(str(part) for part in parts if part)}"


def unique(pieces: Iterable[Piece], mistakes: Mistakes) -> list[Piece]:
    """Return *pieces* without those whose object was declared before, which is a mistake."""
    first: dict[Key, Origin] = {}
    kept: list[Piece] = []
    for piece in pieces:
        key = object_key(piece.document)
        if key in first:
            origin = first[key]
            where = f"{origin.source}:{origin.line(('metadata', 'name'))}"
            text = f"{title(piece.document)} is declared twice (first at {where})"
            mistakes.at(piece.origin, ("metadata", "name"), text)
        else:
            first[key] = piece.origin
            kept.append(piece)
    return kept


def check_namespaces(
    pieces: Sequence[Piece], stored: Iterable[Document], mistakes: Mistakes
) -> None:
    """Note objects whose namespace is neither declared nor stored."""
    documents = [*(piece.document for piece in pieces), *stored]
    known = {one["metadata"]["name"] for one in documents if one["kind"] == "Namespace"}
    known.update(NAMESPACES)
    for piece in pieces:
        namespace = piece.document["metadata"].get("namespace")
        if isinstance(namespace, str) and namespace and namespace not in known:
            text = f"Namespace {namespace} is not declared (known: {', '.join(sorted(known))})"
            mistakes.at(piece.origin, ("metadata", "namespace"), text)


def check_classes(pieces: Sequence[Piece], stored: Iterable[Document]) -> list[str]:
    """Return a note on each Ingress of a class that is neither declared nor stored.

    An API server accepts it, and no controller looks at it: nobody else would tell.
    """
    doubts = Mistakes()
    documents = [*(piece.document for piece in pieces), *stored]
    known = sorted(one["metadata"]["name"] for one in documents if one["kind"] == "IngressClass")
    for piece in pieces:
        if piece.document["kind"] == "Ingress":
            name = mapping(piece.document, "spec").get("ingressClassName")
            if isinstance(name, str) and name and name not in known:
                text = f"there is no IngressClass {name} (known: {', '.join(known) or 'none'})"
                doubts.at(piece.origin, ("spec", "ingressClassName"), text)
    return [f"{line}; nobody serves it" for line in doubts.lines()]


class _Wanted(NamedTuple):
    """How many pods one object makes, on which nodes."""

    piece: Piece | None  # None: stored, not declared now
    pods: int
    nodes: frozenset[str]


def check_placement(
    pieces: Sequence[Piece], stored: Iterable[Document], nodes: Nodes, mistakes: Mistakes
) -> list[str]:
    """Note pods whose node takes none of them; return a note on those that no node takes now.

    These an API server accepts: they wait, and events tell why.
    """
    doubts = Mistakes()
    wanted: list[_Wanted] = []
    declared = set()
    for piece in pieces:
        declared.add(object_key(piece.document))
        if piece.document["kind"] in ("Pod", *TEMPLATED) and kind_of(piece.document):
            eligible = _eligible(piece, nodes, mistakes, doubts)
            _check_netns_name(piece, eligible, nodes, mistakes)
            wanted.append(_wanted(piece.document, piece, eligible))
    for document in stored:
        makes_pods = document["kind"] in ("Pod", *TEMPLATED)
        owned = document["metadata"].get("ownerReferences")
        if makes_pods and not owned and object_key(document) not in declared:
            wanted.append(_wanted(document, None, _candidates(document, nodes)))
    if nodes.pods_each is not None and nodes.pods_each > 0:
        _check_room(wanted, nodes, mistakes, doubts)
    return [f"{line}; its pods wait" for line in doubts.lines()]


def _candidates(document: Document, nodes: Nodes) -> frozenset[str]:
    spec, _ = pod_spec(document)
    name, selector = spec.get("nodeName"), mapping(spec, "nodeSelector")
    names = [name] if isinstance(name, str) and name else nodes.labels
    return frozenset(one for one in names if matches(selector, nodes.labels.get(one, {})))


def _eligible(piece: Piece, nodes: Nodes, mistakes: Mistakes, doubts: Mistakes) -> frozenset[str]:
    """Return the nodes that may take the pods of *piece*; none is a mistake if it names one."""
    spec, path = pod_spec(piece.document)
    found = _candidates(piece.document, nodes)
    name, selector = spec.get("nodeName"), mapping(spec, "nodeSelector")
    pairs = ", ".join(f"{key}: {value}" for key, value in selector.items())
    known = ", ".join(list(nodes.labels)[:12]) + (", …" if len(nodes.labels) > 12 else "")
    if isinstance(name, str) and name and name not in nodes.labels:
        where: Path = (*path, "nodeName")
        mistakes.at(piece.origin, where, f"there is no node {name} (known: {known})")
    elif not found and name:
        where = (*path, "nodeSelector")
        mistakes.at(piece.origin, where, f"node {name} has not the labels {pairs}")
    elif not found and nodes.labels:
        where = (*path, "nodeSelector")
        doubts.at(piece.origin, where, f"no node has the labels {pairs} (nodes: {known})")
    return found


def _check_netns_name(
    piece: Piece, eligible: frozenset[str], nodes: Nodes, mistakes: Mistakes
) -> None:
    metadata = piece.document["metadata"]
    longest = max((len(name) for name in eligible), default=0)
    pod = GIVEN_NAME_MAX if piece.document["kind"] in TEMPLATED else len(metadata["name"])
    length = len(f"{nodes.lab}..{metadata.get('namespace', '')}.") + longest + pod
    if length > NETNS_NAME_MAX and pod <= values.SUBDOMAIN_MAX:
        text = f"makes a name of {length} characters, <lab>.<node>.<namespace>.<pod>"
        mistakes.at(piece.origin, ("metadata", "name"), f"{text} (at most {NETNS_NAME_MAX})")


def _wanted(document: Document, piece: Piece | None, eligible: frozenset[str]) -> _Wanted:
    spec, _ = pod_spec(document)
    count: Any = 1
    if document["kind"] in TEMPLATED:
        count = mapping(document, "spec").get(COUNTED.get(document["kind"], "replicas"), 1)
    if document["kind"] == "DaemonSet":
        count = 0  # one on each node that has room
    if spec.get("hostNetwork") is True or not isinstance(count, int):
        count = 0  # no address of the lease
    return _Wanted(piece, max(0, count), eligible)


def _check_room(
    wanted: Sequence[_Wanted], nodes: Nodes, mistakes: Mistakes, doubts: Mistakes
) -> None:
    """Note sets of nodes that cannot hold the pods confined to them; the smallest sets first."""
    each = nodes.pods_each or 0
    counts: dict[frozenset[str], int] = defaultdict(int)
    for one in wanted:
        counts[one.nodes] += one.pods
    counts.setdefault(frozenset(nodes.labels), 0)
    full: list[frozenset[str]] = []
    for group in sorted(counts, key=len):
        confined = sum(count for other, count in counts.items() if other <= group)
        if not group or confined <= len(group) * each or any(one < group for one in full):
            continue
        full.append(group)
        text = _too_many(group, confined, nodes)
        _blame(group, [one for one in wanted if one.nodes <= group], text, mistakes, doubts)


def _too_many(group: frozenset[str], confined: int, nodes: Nodes) -> str:
    each = nodes.pods_each or 0
    if len(group) == 1:
        (name,) = group
        return f"node {name} gets {confined} pods, but holds {each} ({nodes.lease})"
    names = "the nodes" if len(group) == len(nodes.labels) else ", ".join(sorted(group))
    return f"{names} get {confined} pods, but hold {len(group) * each} ({each} each: {nodes.lease})"


def _blame(
    group: frozenset[str],
    wanted: Sequence[_Wanted],
    text: str,
    mistakes: Mistakes,
    doubts: Mistakes,
) -> None:
    """Note *text* at the last declared object that puts pods on *group*.

    It is a mistake where they name their node: nobody would have them wait.
    """
    piece = next((one.piece for one in reversed(wanted) if one.piece and one.pods), None)
    if piece is None:
        return
    spec, path = pod_spec(piece.document)
    if piece.document["kind"] in TEMPLATED:
        path = ("spec", COUNTED.get(piece.document["kind"], "replicas"))
    else:
        path = (*path, "nodeName") if spec.get("nodeName") else ("metadata", "name")
    pinned = len(group) == 1 and spec.get("nodeName")
    (mistakes if pinned else doubts).at(piece.origin, path, text)
