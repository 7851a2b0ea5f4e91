"""From objects to objects: what the controllers of a cluster's master want changed.

    change       one step, and what every new object gets
    declaration  the files against what is stored; `inheritance`: what a changed Service keeps
    deployment   Deployment to ReplicaSet
    replicaset   ReplicaSet to pods
    scheduler    pods to nodes
    garbage      what has lost its owner, namespace or node
    allocation   addresses and node ports for Services; `defaults`: what else they leave open
    endpoints    pods to the EndpointSlices of their Services
    mirroring    Endpoints kept by hand to EndpointSlices
    slices       how endpoints are shared out among slices

Nothing here does anything; the agent writes the changes to etcd and asks again until there are
none. One call already goes to the end: a new Deployment gives its ReplicaSet and its placed pods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from netlab.controllers import (
    allocation,
    deployment,
    endpoints,
    garbage,
    mirroring,
    replicaset,
    scheduler,
)
from netlab.controllers.change import Change, Verb, apply, born, difference
from netlab.controllers.declaration import declaration_changes, declared
from netlab.model.kinds import BY_KIND
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import SERVICE_CIDR

__all__ = ["Change", "Verb", "born", "changes", "declaration_changes", "declared"]

Of = Callable[[str], list[Document]]  # the objects of a kind
ROUNDS_MAX = 20  # a change of template takes three


def changes(
    documents: Sequence[Document],
    *,
    capacity: Mapping[str, int],
    service_cidr: str = SERVICE_CIDR,
) -> list[Change]:
    """Return what the controllers change about *documents*; nothing once all is as it should be.

    *capacity*: how many pods each node has addresses for; *service_cidr*: the addresses that
    Services get.
    """
    before = {registry_key(document): document for document in documents}
    after = dict(before)
    for _ in range(ROUNDS_MAX):
        if not _round(after, capacity, service_cidr):
            break
    return difference(before, after)


def _round(objects: dict[str, Document], capacity: Mapping[str, int], service_cidr: str) -> bool:
    """Let each controller act on *objects* in turn; return whether any did."""
    steps: tuple[Callable[[Of], list[Change]], ...] = (
        lambda of: garbage.collected(list(objects.values())),
        lambda of: deployment.replica_sets(of("Deployment"), of("ReplicaSet"), of("Pod")),
        lambda of: replicaset.pods(of("ReplicaSet"), of("Pod")),
        lambda of: scheduler.bindings(of("Pod"), of("Node"), capacity),
        lambda of: allocation.services(of("Service"), service_cidr),
        lambda of: endpoints.slices(of("Service"), of("Pod"), of("Node"), of("EndpointSlice")),
        lambda of: mirroring.mirrored(of("Endpoints"), of("Service"), of("EndpointSlice")),
    )
    acted = False
    of = _by_kind(objects)
    for act in steps:
        if found := act(of):
            apply(found, objects)
            of = _by_kind(objects)
            acted = True
    return acted


def _by_kind(objects: Mapping[str, Document]) -> Of:
    """Return what gives the objects of one of Kubernetes' own kinds."""
    sorted_out: dict[tuple[str, str], list[Document]] = {}
    for one in objects.values():
        sorted_out.setdefault((one["kind"], one["apiVersion"]), []).append(one)
    return lambda kind: sorted_out.get((kind, BY_KIND[kind].group), [])
