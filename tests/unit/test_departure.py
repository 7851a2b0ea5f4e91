"""What of a live object is otherwise than declared: what `up` brings back, and what undoes it."""

from __future__ import annotations

from typing import Any

import pytest

from netlab import edits
from netlab.controllers import Verb, declaration_changes
from netlab.controllers.departure import Declared, covers, departures, missing
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key

WEB: Document = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "x", "ports": []}]},
        },
    },
}
NODE: Document = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1", "labels": {"disk": "ssd"}},
    "spec": {},
}
POD: Document = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "namespace": "default", "labels": {"app": "a"}},
    "spec": {"containers": [{"name": "c", "image": "x"}]},
}


def stored(declared: Document) -> Document:
    [change] = declaration_changes([declared], [])
    assert change.verb is Verb.CREATE
    return change.document


def labelled(document: Document, *words: str, field: str = "labels") -> Document:
    wanted = edits.pairs(words, labels=field == "labels")
    return edits.paired(document, field, wanted, overwrite=True)


CASES = [
    (WEB, lambda one: one, [], False),
    (
        WEB,
        lambda one: edits.scaled(one, 3),
        ["netlab scale deployment/web --replicas 2 -n shop"],
        True,
    ),
    (
        WEB,
        lambda one: edits.paused(one, True),
        ["netlab rollout resume deployment/web -n shop"],
        False,
    ),
    (WEB, lambda one: edits.restarted(one, at="now"), [], False),
    (
        WEB,
        lambda one: {**one, "spec": {**one["spec"], "template": {"spec": {"containers": []}}}},
        ["netlab rollout undo deployment/web -n shop"],
        True,
    ),
    (NODE, lambda one: edits.cordoned(one, True), ["netlab uncordon n1"], False),
    (
        NODE,
        lambda one: edits.tainted(one, *edits.taints(["a=b:NoExecute"]), overwrite=False),
        ["netlab taint node n1 a:NoExecute-"],
        False,
    ),
    (NODE, lambda one: labelled(one, "disk-"), ["netlab label node n1 disk=ssd"], True),
    (POD, lambda one: labelled(one, "tier=db"), ["netlab label pod a tier-"], False),
    (
        POD,
        lambda one: labelled(one, "app=b"),
        ["netlab label pod a app=a --overwrite"],
        True,
    ),
    (
        POD,
        lambda one: labelled(one, "why=x", field="annotations"),
        ["netlab annotate pod a why-"],
        False,
    ),
    (POD, lambda one: labelled(one, "node.kubernetes.io/x=1"), [], False),
]


@pytest.mark.parametrize(
    ("declared", "edit", "undo", "back"), CASES, ids=[str(c[2]) for c in CASES]
)
def test_a_change_is_listed_with_what_undoes_it_and_up_brings_declared_values_back(
    declared: Document, edit: Any, undo: list[str], back: bool
) -> None:
    live = edit(stored(declared))
    assert [one.undo for one in departures(declared, live)] == undo
    changes = declaration_changes([declared], [live])
    assert [change.verb for change in changes] == [Verb.UPDATE] * back
    for change in changes:
        assert departures(declared, change.document) == []


def test_up_leaves_what_was_added_beside_when_it_brings_something_back() -> None:
    live = edits.scaled(edits.restarted(stored(WEB), at="now"), 5)
    live = edits.paused(live, True)
    [change] = declaration_changes([WEB], [live])
    spec = change.document["spec"]
    assert spec["replicas"] == 2 and spec["paused"] is True
    assert spec["template"]["metadata"]["annotations"] == {edits.RESTARTED_AT: "now"}


def test_a_field_that_is_declared_no_more_goes() -> None:
    before = {**NODE, "spec": {"podCIDR": "10.0.0.0/24"}}
    live = edits.cordoned(stored(before), True)
    [change] = declaration_changes([NODE], [live])
    assert change.document["spec"] == {"unschedulable": True}


@pytest.mark.parametrize(
    ("wanted", "held", "true"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 0}, {}, False),
        ({"a": False}, {"a": True}, False),
        ({"a": None, "b": "", "c": [], "d": {}}, {"d": {}}, True),
        ([{"a": 1}], [{"a": 1, "b": 2}], True),
        ([1, 2], [1], False),
    ],
)
def test_what_is_null_or_empty_says_nothing(wanted: Any, held: Any, true: bool) -> None:
    assert covers(wanted, held) is true


OBJECTS: list[Document] = [
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"}, "spec": {}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}},
    {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "default"}},
]


@pytest.mark.parametrize(
    ("files", "undo"),
    [
        (("/a/lab.yaml", "/b/more files"), "netlab up /a/lab.yaml '/b/more files'"),
        ((), "netlab up FILE"),
    ],
    ids=["files", "stdin"],
)
def test_what_is_gone_though_declared_comes_back_by_up(files: tuple[str, ...], undo: str) -> None:
    declared = Declared.of(OBJECTS, files)
    whole = Inventory({registry_key(one): one for one in OBJECTS})
    assert missing(declared, whole) == []
    # Nodes are removed and added by commands of their own, a Job goes when its time is over.
    assert missing(declared, Inventory()) == [
        ("pod p -n shop is gone, though declared", undo),
        ("service s is gone, though declared", undo),
        ("namespace shop is gone, though declared", undo),
    ]
