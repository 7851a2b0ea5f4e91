"""A Service as a test sees it: its ports, and who is behind them now."""

from __future__ import annotations

from collections.abc import Iterator

from netlab.cluster import Cluster
from netlab.model.kubernetes import Document, view
from netlab.model.services import NO_CLUSTER_IP, SERVICE_NAME_LABEL, EndpointSlice
from netlab.model.services import Service as Declared
from netlab.testing import names
from netlab.testing.answers import Endpoint, Port, Service


def service(cluster: Cluster, word: str) -> Service:
    """Return the Service that *word* names. Raises NotFoundError."""
    document = names.service(cluster, word)
    declared = view(document, Declared)
    meta = declared.metadata
    return Service(
        meta.name,
        meta.namespace,
        declared.spec.clusterIP or NO_CLUSTER_IP,
        tuple(
            Port(port.port, port.protocol, port.name, port.nodePort)
            for port in declared.spec.ports or ()
        ),
        tuple(_endpoints(cluster, document)),
    )


def _endpoints(cluster: Cluster, document: Document) -> Iterator[Endpoint]:
    """Yield who serves the Service, by its EndpointSlices: those that are ready."""
    meta = document["metadata"]
    for one in cluster.documents.of("EndpointSlice"):
        labels = one["metadata"].get("labels") or {}
        its = one["metadata"].get("namespace", "default"), labels.get(SERVICE_NAME_LABEL)
        if its != (meta.get("namespace", "default"), meta["name"]):
            continue
        found = view(one, EndpointSlice)
        for endpoint in found.endpoints or ():
            if endpoint.conditions is not None and endpoint.conditions.ready is False:
                continue
            target = endpoint.targetRef or {}
            pod = f"{target.get('namespace', 'default')}/{target['name']}" if target else ""
            for address in endpoint.addresses or ():
                for port in found.ports or ():
                    yield Endpoint(
                        address,
                        port.port or 0,
                        port.protocol or "TCP",
                        pod,
                        endpoint.nodeName or "",
                    )
