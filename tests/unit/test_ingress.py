"""What an ingress controller says in events, and the class of Ingresses that name none."""

from __future__ import annotations

from typing import Any

import pytest
from vhost_cases import ingress

from netlab.controllers import ingressclass
from netlab.ingress import telling
from netlab.ingress.telling import Telling
from netlab.model.inventory import Inventory, inventory
from netlab.vhosts.model import Note

ABOUT = ingress("one", {})


def after(objects: Inventory, changes: list[Any]) -> Inventory:
    return inventory([*objects, *(one.document for one in changes)])


def counts(objects: Inventory) -> dict[str, int]:
    return {one["message"]: one["count"] for one in objects.of("Event")}


def test_a_note_becomes_one_event_however_often_it_is_seen() -> None:
    replica, other = Telling(), Telling()
    objects = inventory([ABOUT])
    note = Note(ABOUT, "SecretNotFound", "no Secret")
    for _ in range(3):
        objects = after(objects, replica.changes([note], objects))
        objects = after(objects, other.changes([note], objects))
    assert counts(objects) == {"no Secret": 1}
    (event,) = objects.of("Event")
    assert (event["type"], event["source"]["component"]) == ("Warning", "nginx-ingress-controller")


def test_a_controller_that_begins_again_does_not_repeat_itself() -> None:
    objects = inventory([ABOUT])
    note = Note(ABOUT, "Sync", "Scheduled for sync", "Normal")
    objects = after(objects, Telling().changes([note], objects))
    assert Telling().changes([note], objects) == []


def test_what_was_well_meanwhile_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_lately", lambda event: False)
    one, objects = Telling(), inventory([ABOUT])
    note = Note(ABOUT, "SecretNotFound", "no Secret")
    for notes in ([note], [], [note]):
        objects = after(objects, one.changes(notes, objects))
    assert counts(objects) == {"no Secret": 2}


# -- the default class


def klass(name: str, *, default: str = "true", day: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": name,
            "creationTimestamp": f"2026-01-{day:02}T00:00:00Z",
            "annotations": {ingressclass.DEFAULT: default},
        },
        "spec": {"controller": "k8s.io/ingress-nginx"},
    }


@pytest.mark.parametrize(
    ("classes", "spec", "annotations", "expected"),
    [
        ([], None, {}, None),
        ([klass("a", default="false")], None, {}, None),
        ([klass("a")], None, {}, "a"),
        ([klass("a"), klass("b", day=2)], None, {}, "b"),
        ([klass("b"), klass("a")], None, {}, "a"),
        ([klass("a")], "other", {}, None),
        ([klass("a")], None, {"kubernetes.io/ingress.class": "x"}, None),
    ],
    ids=["none", "no default", "one", "the youngest", "of one age, by name", "named", "annotated"],
)
def test_an_ingress_without_class_gets_the_default(
    classes: list[dict[str, Any]],
    spec: str | None,
    annotations: dict[str, str],
    expected: str | None,
) -> None:
    one = ingress("i", {}, ingressClassName=spec, annotations=annotations)
    changes = ingressclass.classed([one], classes)
    assert [each.document["spec"]["ingressClassName"] for each in changes] == (
        [expected] if expected else []
    )
    again = ingressclass.classed([each.document for each in changes], classes)
    assert again == []
