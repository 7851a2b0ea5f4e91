"""Causes in what a load balancer was given: no address, or no Service at an address or port."""

from __future__ import annotations

from collections.abc import Iterator

from netlab.cluster import Cluster
from netlab.journeys import Cause, Journey, Kind
from netlab.model.services import pending
from netlab.paths.places import OUTSIDE
from netlab.telling.naming import Names
from netlab.tracing.asking import Asking


def causes(cluster: Cluster, names: Names, asked: Asking, journey: Journey) -> Iterator[Cause]:
    """Yield why nobody answers at an address of the balancer's pool, or at a cluster IP that was
    asked from outside, where a load balancer's address was meant."""
    flow, place = journey.flow, names.place(asked.source.netns)
    to, port = flow.destination, f"{flow.destination_port}/{flow.protocol}"
    balancer = cluster.lab.balancer
    if balancer is not None and balancer.holds(to):
        served = names.served_at(to)
        if not served:
            what = f"no Service has {to}, an address of the balancer's pool"
            yield Cause(Kind.ADDRESS, place, what, (), ("netlab get services -A",))
        elif port not in served:
            service = next(iter(served.values())).partition(":")[0]
            what = f"Service {service} does not serve {port} at {to}: it serves {', '.join(served)}"
            yield Cause(Kind.NO_PORT, place, what, (), (f"netlab describe service {service}",))
    elif asked.source.member in OUTSIDE:
        yield from _waiting(cluster, names, asked, to)


def _waiting(cluster: Cluster, names: Names, asked: Asking, to: str) -> Iterator[Cause]:
    for document in cluster.documents.of("Service"):
        why = pending(document)
        if why and (document.get("spec") or {}).get("clusterIP") == to:
            meta = document["metadata"]
            service = f"{meta.get('namespace', '')}/{meta['name']}"
            what = f"Service {service} waits for a load balancer's address: {why}"
            proof = ("its status has no ingress, and its cluster IP means nothing outside",)
            place = names.place(asked.source.netns)
            yield Cause(Kind.ADDRESS, place, what, proof, (f"netlab describe service {service}",))
