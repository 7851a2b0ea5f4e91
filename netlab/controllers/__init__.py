"""From objects to objects: what the controllers of a cluster's master want changed.

    change       one step, and what every new object gets
    declaration  the files against what is stored
    deployment   Deployment to ReplicaSet
    replicaset   ReplicaSet to pods
    scheduler    pods to nodes
    garbage      what has lost its owner, namespace or node

Nothing here does anything; the agent writes the changes to etcd and asks again until there are
none. One call already goes to the end: a new Deployment gives its ReplicaSet and its placed pods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from netlab.controllers import deployment, garbage, replicaset, scheduler
from netlab.controllers.change import Change, Verb, apply, born, difference
from netlab.controllers.declaration import declaration_changes, declared
from netlab.model.kubernetes import Document, registry_key

__all__ = ["Change", "Verb", "born", "changes", "declaration_changes", "declared"]

ROUNDS_MAX = 20  # a change of template takes three


def changes(documents: Sequence[Document], *, capacity: Mapping[str, int]) -> list[Change]:
    """Return what the controllers change about *documents*; nothing once all is as it should be.

    *capacity*: how many pods each node has addresses for.
    """
    before = {registry_key(document): document for document in documents}
    after = dict(before)
    for _ in range(ROUNDS_MAX):
        if not _round(after, capacity):
            break
    return difference(before, after)


def _round(objects: dict[str, Document], capacity: Mapping[str, int]) -> bool:
    """Let each controller act on *objects* in turn; return whether any did."""

    def of(kind: str, group: str) -> list[Document]:
        return [
            one for one in objects.values() if one["kind"] == kind and one["apiVersion"] == group
        ]

    acted = False
    steps: tuple[Callable[[], list[Change]], ...] = (
        lambda: garbage.collected(list(objects.values())),
        lambda: deployment.replica_sets(
            of("Deployment", "apps/v1"), of("ReplicaSet", "apps/v1"), of("Pod", "v1")
        ),
        lambda: replicaset.pods(of("ReplicaSet", "apps/v1"), of("Pod", "v1")),
        lambda: scheduler.bindings(of("Pod", "v1"), of("Node", "v1"), capacity),
    )
    for act in steps:
        found = act()
        apply(found, objects)
        acted = acted or bool(found)
    return acted
