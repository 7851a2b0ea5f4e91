"""Pods, nodes and Services in a filter: the addresses and ports they stand for at this moment."""

from __future__ import annotations

from ipaddress import ip_network

from netlab import targets, world
from netlab.annotation.names import addresses_of
from netlab.cluster import Cluster
from netlab.errors import NotFoundError
from netlab.filters.grammar import PORTED, End, Names
from netlab.model.kubernetes import view
from netlab.model.services import Service


def names(cluster: Cluster, *, namespace: str = "default") -> Names:
    """Return what tells the ends of a name in *cluster*; bare names are of *namespace*.

    `host` takes `[NS/]POD`, `node/NAME`, `svc/[NS/]NAME`, and the members of the world around.
    """

    def ends(kind: str, word: str) -> list[End]:
        if kind == "host":
            return _of_host(cluster, word, namespace)
        return _OF[kind](cluster, word, namespace)

    return ends


def _of_host(cluster: Cluster, word: str, namespace: str) -> list[End]:
    members = world.member_addresses(cluster.lab)
    if word in members:
        return [_address(one) for one in members[word]]
    kind, slash, name = word.partition("/")
    if slash and kind in _OF:
        return _OF[kind](cluster, name, namespace)
    return _of_pod(cluster, word, namespace)


def _of_pod(cluster: Cluster, word: str, namespace: str) -> list[End]:
    pod = targets.pod_meant(cluster, word, namespace)
    if not pod.ip:
        raise NotFoundError(f"pod {pod.title} has no address yet")
    return [_address(pod.ip)]


def _of_node(cluster: Cluster, word: str, namespace: str) -> list[End]:
    try:
        node = cluster.node(word)
    except LookupError:
        known = ", ".join(each.name for each in cluster.nodes)
        raise NotFoundError(f"no node {word}", hint=f"there are: {known}") from None
    found = (node.address, node.bridge_address, node.tunnel_address)
    return [_address(one) for one in found if one]


def _of_service(cluster: Cluster, word: str, namespace: str) -> list[End]:
    """Return a Service's own addresses, its endpoints', its node ports: each with its port."""
    targets.served(cluster, word, namespace)  # or raises
    where, _, name = word.rpartition("/")
    where = where or namespace
    document = cluster.documents.named("Service", where, name)
    assert document is not None
    service = view(document, Service)
    found: list[End] = []
    for port in service.spec.ports or ():
        protocol = port.protocol.lower()
        if protocol not in PORTED:
            continue
        for address in addresses_of(service):
            found.append(_port(address, protocol, port.port))
        if port.nodePort:
            nodes = [each.address for each in cluster.nodes]
            found += [_port(one, protocol, port.nodePort) for one in nodes]
    found += _endpoints(cluster, where, name)
    if not found:
        raise NotFoundError(f"Service {where}/{name} has no address and no endpoint")
    return list(dict.fromkeys(found))


def _endpoints(cluster: Cluster, namespace: str, name: str) -> list[End]:
    found = []
    for document in targets.endpoint_slices(cluster, namespace, name):
        for port in document.get("ports") or ():
            protocol = (port.get("protocol") or "TCP").lower()
            if protocol in PORTED and port.get("port"):
                found += [
                    _port(address, protocol, port["port"])
                    for endpoint in document.get("endpoints") or ()
                    for address in endpoint.get("addresses") or ()
                ]
    return found


def _address(address: str) -> End:
    return End(network=ip_network(address))


def _port(address: str, protocol: str, port: int) -> End:
    return End(network=ip_network(address), protocol=protocol, low=port, high=port)


_OF = {"pod": _of_pod, "node": _of_node, "svc": _of_service, "service": _of_service}
