"""What a document must look like: fields, lists, maps and checks, and the walk that compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from netlab.topology import values
from netlab.topology.tree import Node, Path
from netlab.topology.values import Check, described

Report = Callable[[int, Path, str], None]  # line, field, what is wrong


class Fields(NamedTuple):
    """A mapping with known fields; `later` are right fields netlab cannot do yet."""

    known: Mapping[str, Shape]
    required: tuple[str, ...] = ()
    later: frozenset[str] = frozenset()


class Each(NamedTuple):
    """A list whose items all look alike."""

    item: Shape
    least: int = 0


class Pairs(NamedTuple):
    """A mapping with keys of the user's choice."""

    key: Callable[[str], str]
    value: Check


Shape = Check | Fields | Each | Pairs

STRINGS = Each(values.string)
LABELS = Pairs(values.label_key, values.label_value)
ANNOTATIONS = Pairs(values.label_key, values.string)
ANY_MAPPING = Pairs(values.anything, values.anything)
ANY_LIST = Each(values.anything)

KNOWN_MAX = 16  # fields listed to the user when none is near


def walk(node: Node, shape: Shape, path: Path, report: Report) -> None:
    """Report everything in which *node* differs from *shape*. Nothing (null) is an absent field."""
    value = node.value
    if isinstance(shape, Fields):
        if isinstance(value, dict):
            _walk_fields(node, shape, path, report)
        else:
            report(node.line, path, f"must be a mapping, not {described(value)} (name: value)")
    elif isinstance(shape, Each):
        if not isinstance(value, list):
            report(node.line, path, f"must be a list, not {described(value)} (- before each item)")
            return
        if len(value) < shape.least:
            report(node.line, path, f"is empty (at least {shape.least})")
        for index, item in enumerate(value):
            walk(item, shape.item, (*path, index), report)
    elif isinstance(shape, Pairs):
        if isinstance(value, dict):
            _walk_pairs(value, shape, path, report)
        else:
            report(node.line, path, f"must be a mapping, not {described(value)} (name: value)")
    elif wrong := shape(value):
        report(node.line, path, wrong)


def _walk_fields(node: Node, shape: Fields, path: Path, report: Report) -> None:
    for name, child in node.value.items():
        inner = shape.known.get(name)
        if inner is None:
            report(child.line, (*path, name), unknown_field(name, shape))
        elif child.value is not None:
            walk(child, inner, (*path, name), report)
    for name in shape.required:
        child = node.value.get(name)
        if child is None or child.value is None:
            line = node.line if child is None else child.line
            report(line, (*path, name), f"is missing ({_form(shape.known[name])} is required)")


def _form(shape: Shape) -> str:
    if isinstance(shape, Each):
        return "a list"
    return "a mapping" if isinstance(shape, Fields | Pairs) else "it"


def _walk_pairs(value: dict[str, Node], shape: Pairs, path: Path, report: Report) -> None:
    for key, child in value.items():
        if wrong := shape.key(key):
            report(child.line, (*path, key), wrong)
        if child.value is not None and (wrong := shape.value(child.value)):
            report(child.line, (*path, key), wrong)


def unknown_field(name: str, shape: Fields) -> str:
    """Return what is wrong with the field *name*, and which one was probably meant."""
    if name in shape.later:
        return "netlab has not got this yet (leave it out)"
    if near := values.nearest(name, shape.known):
        return f"unknown field (did you mean {near}?)"
    if len(shape.known) <= KNOWN_MAX:
        return f"unknown field (known: {', '.join(shape.known)})"
    return "unknown field (leave it out)"
