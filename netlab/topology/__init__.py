"""The input: files, directories or standard input into a Lab and Kubernetes objects.

    sources   the texts
    tree      a text's documents, each value with its line; `scalars`: what a word means;
              `syntax`: what is no YAML
    shapes    the form of a document, and the walk that compares; `values`: of one value
    labdoc    the Lab document: its shape and what may be left out; `labrules`: what must agree
    manifest  the fields of the Kubernetes kinds; `podrules`: what must agree within one object
    dnsfields      what pods say of names
    servicefields, servicerules   the same for Services and what stands behind them
    policies  both for NetworkPolicies
    ingressfields, ingressrules   the same for Ingresses, Secrets and the Gateway API
    declared  trees into objects
    growth    a node more, for a lab that runs
    cross     what must agree between objects; `servicecross`: between Services
    mistakes  file:line: field: what is wrong (what would be right)

Every mistake of every file is found in one run and raised as one InputError.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

import msgspec

from netlab.controllers import clusterdns
from netlab.errors import InputError
from netlab.model.kubernetes import Document, kind_of
from netlab.model.lab import Lab, both
from netlab.topology import cross, labdoc, servicecross, tree, values
from netlab.topology.declared import LAB, Piece, of_machines, pieces
from netlab.topology.mistakes import Mistakes, Origin
from netlab.topology.sources import texts

__all__ = ["Declaration", "check", "load", "require_lab"]

LAB_EXAMPLE = "apiVersion: netlab/v1, kind: Lab, metadata: {name: demo}, nodes: [{name: node1}]"


class Declaration(msgspec.Struct, frozen=True):
    """What some sources declare. `origins` has the place of each of `documents`; `files` are the
    sources, absolute, if none of it came from stdin; `lab_origin` is the place of the Lab."""

    lab: Lab | None
    documents: tuple[Document, ...]
    notes: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()
    files: tuple[str, ...] = ()
    lab_origin: Origin | None = None

    def require_lab(self) -> Lab:
        """Return the Lab. Raises InputError when no Lab document was declared."""
        return require_lab(self)


def load(
    sources: Sequence[str], *, stdin: TextIO | None = None, spread: bool = False
) -> Declaration:
    """Return what *sources* declare: files, directories, or `-` for *stdin*.

    *spread*: the nodes are machines of their own, and one of them may be the master, too.

    Kubernetes objects come in the order of the files, with namespace `default` filled in and
    without the fields an API server fills in. Raises InputError with every mistake there is.
    """
    mistakes = Mistakes()
    found: list[Piece] = []
    given = texts(sources, mistakes, stdin=stdin)
    whole = not mistakes
    for source, text in given:
        composed = tree.compose(text)
        for slip in composed.slips:
            mistakes.add(source, slip.line, slip.path, slip.text)
        whole = whole and not composed.slips
        roots = [root for root in composed.roots if root.value is not None]
        if not roots and not composed.slips:
            what = "has no document in it" if text.strip() else "is empty"
            mistakes.add(source, 0, (), f"{what} (a Lab document or Kubernetes objects)")
        for root in roots:
            make = of_machines if spread else None
            found.extend(pieces(source, root, mistakes, make=make))
    labs = [piece for piece in found if piece.document["kind"] == LAB]
    others = cross.unique((one for one in found if one.document["kind"] != LAB), mistakes)
    _check_one_lab(labs, mistakes)
    doubts = _check_between(others, labs[0], mistakes) if labs and whole else []
    if mistakes:
        raise InputError(mistakes.lines())
    return Declaration(
        lab=labdoc.lab_from(labs[0].document) if labs else None,
        documents=tuple(piece.document for piece in others),
        notes=(*_notes(others), *doubts),
        origins=tuple(piece.origin for piece in others),
        lab_origin=labs[0].origin if labs else None,
        files=() if "-" in sources else tuple(os.path.abspath(one) for one in sources),
    )


def check(declaration: Declaration, *, lab: Lab, stored: Sequence[Document] = ()) -> list[str]:
    """Check what *declaration* declares against a live *lab* and its *stored* objects; return notes
    on what it will not come to.

    For a declaration without a Lab of its own, as `netlab apply -f` has. Raises InputError.
    """
    mistakes = Mistakes()
    found = [Piece(*pair) for pair in zip(declaration.documents, declaration.origins, strict=True)]
    cross.check_namespaces(found, stored, mistakes)
    doubts = cross.check_placement(found, stored, cross.nodes_of(lab), mistakes)
    _check_services(found, stored, both(lab.serviceCIDR, lab.serviceCIDR6), mistakes)
    if mistakes:
        raise InputError(mistakes.lines())
    return [*doubts, *cross.check_classes(found, stored)]


def require_lab(declaration: Declaration, sources: Sequence[str] = ()) -> Lab:
    """Return the Lab of *declaration*, which *sources* gave. Raises InputError without one."""
    if declaration.lab is not None:
        return declaration.lab
    place = " ".join(sources) or "input"
    raise InputError([f"{place}: there is no Lab document (add one: {LAB_EXAMPLE})"])


def _check_one_lab(labs: Sequence[Piece], mistakes: Mistakes) -> None:
    for extra in labs[1:]:
        first = labs[0].origin
        where = f"{first.source}:{first.line()}"
        mistakes.at(extra.origin, ("kind",), f"a second Lab document (first at {where})")


def _check_between(others: Sequence[Piece], lab: Piece, mistakes: Mistakes) -> list[str]:
    """Check the objects against each other and the Lab, as far as the Lab is sound; return notes
    on what they will not come to."""
    own = _own(lab, [piece.document for piece in others])
    cross.check_namespaces(others, (), mistakes)
    doubts = cross.check_placement(others, own, cross.nodes_declared(lab.document), mistakes)
    whole = labdoc.completed(lab.document)
    given = (whole["serviceCIDR"], whole.get("serviceCIDR6"))
    sound = not values.network(given[0]) and (given[1] is None or not values.network6(given[1]))
    cidrs = both(str(given[0]), str(given[1] or "")) if sound else ()
    _check_services(others, own, cidrs, mistakes)
    return [*doubts, *cross.check_classes(others, own)]


def _own(lab: Piece, documents: Sequence[Document]) -> list[Document]:
    """Return the objects that the Lab itself brings, as far as it is sound."""
    try:
        return clusterdns.objects(labdoc.lab_from(lab.document), documents)
    except (msgspec.ValidationError, ValueError, IndexError):
        return []


def _check_services(
    found: Sequence[Piece], stored: Sequence[Document], cidrs: Sequence[str], mistakes: Mistakes
) -> None:
    servicecross.check_services(found, stored, cidrs, mistakes, key=cross.object_key)


def _notes(found: Sequence[Piece]) -> list[str]:
    """Return a line for every object that is kept without having an effect yet."""
    notes = []
    for document, origin in found:
        kind = kind_of(document)
        if kind is None or not kind.effective:
            place = f"{origin.source}:{origin.line()}"
            notes.append(f"{place}: {cross.title(document)} is kept, but has no effect yet")
    return notes
