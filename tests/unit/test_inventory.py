"""An inventory that was altered again and again tells what one made at once does."""

from __future__ import annotations

import random

import pytest

from netlab.model.inventory import Inventory, inventory
from netlab.model.kubernetes import Document, registry_key

GROUPS = {"Pod": "v1", "Service": "v1", "EndpointSlice": "discovery.k8s.io/v1", "Node": "v1"}


def one(kind: str, name: str, version: int = 1, *, group: str = "") -> Document:
    meta = {"name": name, "namespace": "default", "resourceVersion": str(version)}
    return {"apiVersion": group or GROUPS[kind], "kind": kind, "metadata": meta}


def told(objects: Inventory) -> dict[str, object]:
    """Return all that *objects* tells."""
    kinds = [*GROUPS, "Deployment"]
    return {
        "all": list(zip(objects.keys(), objects, strict=True)),
        "len": len(objects),
        "kinds": {kind: objects.of(kind) for kind in kinds},
        "versions": {kind: objects.versions(kind) for kind in kinds},
    }


@pytest.mark.parametrize("seed", range(10))
def test_what_was_altered_is_what_is_made_at_once(seed: int) -> None:
    chance = random.Random(seed)
    names = [(kind, f"n{number}") for kind in GROUPS for number in range(6)]
    objects, version = Inventory(), 0
    for _ in range(80):
        written: dict[str, Document] = {}
        for kind, name in chance.sample(names, chance.randrange(4)):
            version += 1
            group = "example.org/v1" if chance.random() < 0.1 else ""
            made = one(kind, name, version, group=group)
            written[registry_key(made)] = made
        keys = [*objects.keys(), "/registry/pods/default/none"]
        gone = set(chance.sample(keys, min(len(keys), chance.randrange(3)))) - written.keys()
        before, expected = told(objects), dict(zip(objects.keys(), objects, strict=True)) | written
        if chance.random() < 0.5:
            objects.of(chance.choice(list(GROUPS)))
        after = objects.altered(written, gone)
        at_once = Inventory({key: made for key, made in expected.items() if key not in gone})
        if chance.random() < 0.5:  # or else nothing was asked yet
            assert told(after) == told(at_once)
        assert told(objects) == before, "an inventory is never changed"
        unlike = after.unlike(objects)
        was = dict(zip(objects.keys(), objects, strict=True))
        assert unlike == {key: was.get(key) for key in written.keys() | (gone & was.keys())}
        objects = after
    assert told(objects) == told(Inventory(dict(zip(objects.keys(), objects, strict=True))))
    assert version > 60


def test_what_stays_the_same_is_the_same() -> None:
    pods, services = [one("Pod", "b"), one("Pod", "a")], [one("Service", "s")]
    objects = inventory([*services, *pods])
    assert objects.of("Pod") == (pods[1], pods[0])
    again = one("Service", "s", 2)
    after = objects.altered({registry_key(again): again})
    assert after.of("Pod") is objects.of("Pod")
    assert after.of("Service") == (again,) != objects.of("Service")
    assert inventory(after) is after
    assert pods[0] in after and dict(pods[0]) not in after
    assert after.named("Service", "default", "s") is again
    assert after.named("Service", "other", "s") is None


def test_a_kind_of_another_group_is_not_kubernetes_own() -> None:
    objects = inventory([one("Service", "s", group="serving.knative.dev/v1")])
    assert objects.of("Service") == () and len(objects) == 1


def test_a_listing_of_versions_changes_with_every_write() -> None:
    objects = inventory([one("Pod", "a", 3), one("Pod", "b", 5)])
    for changed in (["a"], ["b"], ["a", "b"], []):
        others = inventory([one("Pod", name, 6) for name in changed])
        assert (len(others), others.versions("Pod")) != (2, 8)
    assert objects.versions("Pod") == 8


def test_nothing_altered_is_the_same_inventory() -> None:
    stored = Inventory({})
    assert stored.altered({}) is stored
