"""Whatever somebody wrote to etcd: what the registry lets through, the controllers can read."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
from test_controllers_settled import World, answered, born

from netlab.controllers.change import owned_by
from netlab.model.kubernetes import Document, registry_key
from netlab.store import shapes

JUNK: tuple[Any, ...] = (
    *(None, 7, -1, 3.5, True, "", "x", "10.96.0.300"),
    *([], [1], ["a"], [None], [{}], {}, {"a": 1}, {"a": None}),
)
KINDS = (
    *("Service", "Service", "EndpointSlice", "EndpointSlice", "Endpoints"),
    *("Pod", "Node", "Namespace", "Deployment", "ReplicaSet", "ConfigMap"),
    *("StatefulSet", "DaemonSet", "Job", "ControllerRevision", "Event"),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of everything in *value*."""
    yield path
    if isinstance(value, dict | list):
        for step, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(one, (*path, step))


def spoilt(document: Document, chance: random.Random) -> Document:
    """Return *document* with junk somewhere, or without something."""
    found = copy.deepcopy(document)
    *way, last = chance.choice(list(paths(found))[1:])
    at: Any = found
    for step in way:
        at = at[step]
    if isinstance(at, dict) and chance.random() < 0.2:
        del at[last]
    else:
        at[last] = chance.choice(JUNK)
    return found


def let_through(document: Document, key: str) -> bool:
    """Return whether the registry takes *document*, stored at *key*, for an object."""
    try:
        document["apiVersion"], document["metadata"]
        shapes.check(document)
        return registry_key(document) == key
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


@pytest.mark.parametrize("seed", range(60))
def test_no_object_stops_the_controllers(seed: int) -> None:
    chance, world = random.Random(seed), World(seed)
    world.make(answered(world.objects))
    owner = world.of("ReplicaSet")[0]
    owned = born("ConfigMap", "c", metadata={"ownerReferences": owned_by(owner)})
    world.put(owned)
    for happening in (world.new_endpoints, world.new_slice):
        happening()
    world.make(answered(world.objects))
    settled, read = dict(world.objects), 0
    for _ in range(30):
        one = world.any(chance.choice(KINDS))
        if one is None:
            continue
        key, bad = registry_key(one), spoilt(one, chance)
        for _ in range(chance.randrange(2)):
            bad = spoilt(bad, chance)
        if let_through(bad, key):
            answered(settled | {key: bad}, settled)
            answered(settled | {key: bad})
            answered(settled, settled | {key: bad})
            read += 1
    assert read
