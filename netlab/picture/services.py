"""The Services of a picture, and which pods serve them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from netlab.cluster import Cluster
from netlab.model.kubernetes import view
from netlab.model.services import EXTERNAL_NAME, SERVICE_NAME_LABEL, EndpointSlice
from netlab.model.services import Service as ServiceDocument
from netlab.picture.text import count, plain, title


class Service(msgspec.Struct, frozen=True):
    """A Service, or all of one namespace: then `name` says how many. `number` marks its pods.

    `address`: its cluster IP, or what it has instead. `endpoints`: titles of pods, addresses of
    endpoints that are none.
    """

    number: int
    name: str
    sort: str = ""  # ClusterIP, NodePort, …
    address: str = ""
    ports: tuple[str, ...] = ()  # `80/TCP`, `80:30080/TCP`
    endpoints: tuple[str, ...] = ()

    @property
    def reach(self) -> str:
        """`6 endpoints`, `nobody`."""
        return count(len(self.endpoints), "endpoint") if self.endpoints else "no endpoints"


def services_of(cluster: Cluster, namespace: str) -> tuple[Service, ...]:
    """Return the Services, numbered from 1; those that cannot be read are left out."""
    endpoints = _endpoints(cluster)
    found: list[Service] = []
    for document in cluster.documents.of("Service"):
        try:
            service = view(document, ServiceDocument)
        except msgspec.ValidationError:  # anybody may write to etcd
            continue
        meta, spec = service.metadata, service.spec
        if namespace not in ("", meta.namespace):
            continue
        instead = spec.externalName if spec.type == EXTERNAL_NAME else "headless"
        found.append(
            Service(
                number=len(found) + 1,
                name=title(meta.namespace, meta.name),
                sort=plain(spec.type),
                address=plain(", ".join(service.cluster_ips) or instead),
                ports=tuple(
                    f"{port.port}:{port.nodePort}/{plain(port.protocol)}"
                    if port.nodePort
                    else f"{port.port}/{plain(port.protocol)}"
                    for port in spec.ports or ()
                ),
                endpoints=tuple(sorted(endpoints.get((meta.namespace, meta.name), ()))),
            )
        )
    return tuple(found)


def _endpoints(cluster: Cluster) -> dict[tuple[str, str], set[str]]:
    """Return the ready endpoints of each Service, by its namespace and name."""
    titles = {pod.ip: pod.title for pod in cluster.pods if not pod.host_network}
    known = {pod.title for pod in cluster.pods}
    found: dict[tuple[str, str], set[str]] = {}
    for document in cluster.documents.of("EndpointSlice"):
        try:
            one = view(document, EndpointSlice)
        except msgspec.ValidationError:
            continue
        key = (one.metadata.namespace, one.metadata.labels.get(SERVICE_NAME_LABEL, ""))
        for endpoint in one.endpoints or ():
            if endpoint.conditions is not None and endpoint.conditions.ready is False:
                continue
            target = f"{one.metadata.namespace}/{(endpoint.targetRef or {}).get('name', '')}"
            for address in endpoint.addresses or ():
                pod = target if target in known else titles.get(address, plain(address))
                found.setdefault(key, set()).add(pod)
    return found


def serving_of(services: Iterable[Service]) -> dict[str, tuple[int, ...]]:
    """Return the numbers of the Services that each pod, by its title, is an endpoint of."""
    found: dict[str, tuple[int, ...]] = {}
    for service in services:
        if not service.number:
            continue
        for pod in service.endpoints:
            found[pod] = (*found.get(pod, ()), service.number)
    return found


def by_namespace(services: Sequence[Service]) -> tuple[Service, ...]:
    """Return one for all Services of a namespace; no pod is marked as theirs."""
    groups: dict[str, list[Service]] = {}
    for one in services:
        space, slash, _ = one.name.partition("/")
        groups.setdefault(space if slash else "default", []).append(one)
    return tuple(
        Service(
            number=0,
            name=f"{space}: {count(len(group), 'Service')}",
            endpoints=tuple(sorted({title for one in group for title in one.endpoints})),
        )
        for space, group in sorted(groups.items())
    )
