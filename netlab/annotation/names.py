"""Who has an address, in the lab's words: `pod default/web-1`, `Service default/web:http`."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import msgspec

from netlab import world
from netlab.annotation.headers import SCTP, TCP, UDP
from netlab.cluster import Cluster
from netlab.model.kubernetes import view
from netlab.model.services import Service

PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}


class Names(msgspec.Struct, frozen=True):
    """Names of addresses, as bytes; of addresses with a port; of ports that every node has."""

    machines: dict[bytes, str] = {}
    services: dict[tuple[int, bytes, int], str] = {}
    node_ports: dict[tuple[int, int], str] = {}
    nodes: frozenset[bytes] = frozenset()

    def service(self, protocol: int, address: bytes, port: int) -> str:
        """Return the Service that is reached there, "" when it is none's."""
        found = self.services.get((protocol, address, port), "")
        if not found and address in self.nodes:
            found = self.node_ports.get((protocol, port), "")
        return found

    def end(self, protocol: int, address: bytes, port: int) -> str:
        """Return who is there; an address that nobody has, as text."""
        service = self.service(protocol, address, port)
        if service:
            return service
        return self.machines.get(address) or self.services.get((0, address, 0)) or words(address)


def words(address: bytes) -> str:
    """Return an address as text."""
    return str(ip_address(address))


def packed(address: str) -> bytes:
    return ip_address(address).packed


def names(cluster: Cluster) -> Names:
    """Return the names of all that *cluster* has."""
    machines: dict[bytes, str] = {}
    for member, addresses in world.member_addresses(cluster.lab).items():
        machines.update({packed(one): member for one in addresses})
    for pod in cluster.pods:
        if pod.ip and not pod.host_network:
            machines[packed(pod.ip)] = f"pod {pod.title}"
    nodes = set()
    for node in cluster.nodes:
        machines[packed(node.address)] = node.name
        nodes.add(packed(node.address))
        for address, device in ((node.bridge_address, "bridge"), (node.tunnel_address, "tunnel")):
            if address:
                machines[packed(address)] = f"{node.name}'s {device}"
                nodes.add(packed(address))
    services: dict[tuple[int, bytes, int], str] = {}
    node_ports: dict[tuple[int, int], str] = {}
    for service in services_of(cluster):
        title = f"Service {service.metadata.namespace}/{service.metadata.name}"
        for port in service.spec.ports or ():
            protocol = PROTOCOLS.get(port.protocol.upper(), 0)
            named = f"{title}:{port.name or port.port}"
            for address in addresses_of(service):
                services[protocol, packed(address), port.port] = named
                services[0, packed(address), 0] = title
            if port.nodePort:
                node_ports[protocol, port.nodePort] = f"{named} (NodePort)"
    return Names(machines, services, node_ports, frozenset(nodes))


def services_of(cluster: Cluster) -> Iterator[Service]:
    """Yield the Services of *cluster*."""
    for document in cluster.documents.of("Service"):
        yield view(document, Service)


def addresses_of(service: Service) -> list[str]:
    """Return the addresses that are a Service's own: cluster, external, load balancer's."""
    balancers = service.status.loadBalancer.ingress or ()
    found = [*service.cluster_ips, *(service.spec.externalIPs or ())]
    found += [one.ip for one in balancers if one.ip]
    return [one for one in found if _is_address(one)]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
