"""What the balancer listens on, and the nodes behind it.

1. A listener is an address and port of one Service of type LoadBalancer. Its mode says how packets
   get to a node: VIP unchanged, by direct routing, so that the node's own rules for that address
   serve them and the node answers the client itself; Proxy by rewriting both ends, to a NodePort.
2. Direct routing names the next hop by its MAC, so VIP reaches the nodes of the balancer's own
   segment only.
3. Which nodes are asked at all follows from their Node objects, as with a cloud's controller;
   whether a node is well only from its own answers.
Source: KEP-1860 (ipMode), KEP-3458 (which nodes); cloud-provider v1.34 controllers/service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, collapse_addresses
from typing import Any, NamedTuple

import msgspec

from netlab.firewall import Published
from netlab.model.kubernetes import Document, view
from netlab.model.lab import IP_MODES, Lab
from netlab.model.services import Service, ServiceSpec, canonical
from netlab.proxy.addresses import Family, family, network
from netlab.proxy.endpoints import PORTS
from netlab.proxy.service import PROTOCOLS, misnamed

CLASS = "netlab.io/balancer"  # spec.loadBalancerClass; a Service without one is the balancer's too
MODE_ANNOTATION = "netlab.io/ip-mode"  # of one Service, instead of the Lab's balancer.ipMode
VIP, PROXY = IP_MODES
HEALTHZ_PORT = 10256  # kube-proxy --healthz-bind-address
EXCLUDED_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
LEAVING_TAINT = "ToBeDeletedByClusterAutoscaler"


class Backend(NamedTuple):
    """A node that packets may be sent to."""

    name: str
    address: str


class Probe(NamedTuple):
    """A question to a node, whose answer 200 means that it is well: GET /healthz on *port*."""

    address: str
    port: int


class Listener(msgspec.Struct, frozen=True):
    """An address and port of a Service."""

    service: str  # default/web
    address: str
    protocol: str  # tcp, udp, sctp
    port: int
    mode: str
    node_port: int
    check_port: int  # where nodes say whether they are well
    sources: tuple[str, ...] = ()  # prefixes of clients; (): all may come
    sticky: bool = False  # a client stays at its node

    @property
    def chain(self) -> str:
        """The chain that serves it, `vip-default/web/tcp/80`."""
        return f"{self.mode.lower()}-{self.service}/{self.protocol}/{self.port}"


def mapping(value: Document, name: str) -> Document:
    """Return the mapping *name* of *value*, an empty one if it is anything else."""
    inner: Any = value.get(name)
    return inner if isinstance(inner, dict) else {}


def is_ours(service: Document) -> bool:
    """Return whether *service* wants an address of the balancer, by its type and class."""
    spec = mapping(service, "spec")
    return spec.get("type") == "LoadBalancer" and spec.get("loadBalancerClass") in (None, "", CLASS)


def mode(lab_mode: str, service: Document) -> str:
    """Return the ipMode that *service* asks for, or that of the Lab; not one that there is not."""
    annotations = mapping(service["metadata"], "annotations")
    return str(annotations.get(MODE_ANNOTATION) or lab_mode)


def listeners(lab: Lab, services: Iterable[Document]) -> list[Listener]:
    """Return the listeners of *services*: of those to which the balancer gave an address.

    If two of them have one address and port, the first by name has it.
    """
    balancer = lab.balancer
    if balancer is None:
        return []
    found: dict[tuple[str, str, int], Listener] = {}
    for document in services:
        if not is_ours(document):
            continue
        try:
            service = view(document, Service)
        except msgspec.ValidationError:
            continue
        if misnamed(service):
            continue
        for given in service.status.loadBalancer.ingress or ():
            address = canonical(given.ip)
            if address and ":" not in address and balancer.holds(address):
                for one in _listeners(service, address, given.ipMode or VIP):
                    found.setdefault((one.address, one.protocol, one.port), one)
    return list(found.values())


def _listeners(service: Service, address: str, ip_mode: str) -> Iterator[Listener]:
    spec, meta = service.spec, service.metadata
    for port in spec.ports or ():
        if port.port not in PORTS or port.protocol not in PROTOCOLS:
            continue  # an API server lets no such one in, but anybody may write to etcd
        if ip_mode == PROXY and port.nodePort not in PORTS:
            continue
        yield Listener(
            service=f"{meta.namespace}/{meta.name}",
            address=address,
            protocol=port.protocol.lower(),
            port=port.port,
            mode=ip_mode,
            node_port=port.nodePort,
            check_port=spec.healthCheckNodePort if spec.health_checked else HEALTHZ_PORT,
            # VIP: the nodes' own rules refuse the others, and see the clients' addresses.
            sources=_sources(spec) if ip_mode == PROXY else (),
            sticky=service.affinity_timeout > 0,
        )


def _sources(spec: ServiceSpec) -> tuple[str, ...]:
    """Return the IPv4 ranges of clients that may come; () if all may."""
    found = [network(text) for text in spec.loadBalancerSourceRanges or ()]
    nets = [IPv4Network(one) for one in found if one and family(one) is Family.IPV4]
    whole = [str(one) for one in collapse_addresses(nets)]
    return () if whole == ["0.0.0.0/0"] else tuple(whole)


def backends(lab: Lab, nodes: Sequence[Document], *, ip_mode: str) -> list[Backend]:
    """Return the nodes that listeners of a mode may send to, by what is declared of them."""
    assert lab.balancer is not None
    home = lab.segment_of(lab.balancer.address)
    fit = {one["metadata"]["name"] for one in nodes if _fit(one)}
    return [
        Backend(node.name, node.address)
        for node in lab.nodes
        if node.name in fit
        and (ip_mode == PROXY or (lab.segment_of(node.address) == home and not node.host))
    ]


def _fit(node: Document) -> bool:
    labels, taints = mapping(node["metadata"], "labels"), mapping(node, "spec").get("taints")
    listed = taints if isinstance(taints, list) else []
    leaving = any(isinstance(one, dict) and one.get("key") == LEAVING_TAINT for one in listed)
    return EXCLUDED_LABEL not in labels and not leaving


def published(lab: Lab, services: Iterable[Document]) -> tuple[Published, ...]:
    """Return what the gateway must let through from outside to the balancer's addresses."""
    return tuple(
        sorted(Published(one.address, one.protocol, one.port) for one in listeners(lab, services))
    )
