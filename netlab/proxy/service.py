"""What one Service has on one node: its frontends and its health-check node port.

A Service is decided without the others, so that a change costs what changed.
Source: kube-proxy pkg/proxy/serviceport.go and {iptables,nftables}/proxier.go, v1.34.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from netlab.model import services as model
from netlab.model.modes import Mode
from netlab.model.services import HEADLESS_LABEL, PROXY_NAME_LABEL, EndpointSlice, Service
from netlab.proxy import endpoints
from netlab.proxy.addresses import Family, address, contains, family, network
from netlab.proxy.endpoints import PORTS, Found, Say, Usable
from netlab.proxy.frontend import (
    Clients,
    Frontend,
    HealthCheck,
    Kind,
    Policy,
    Refusal,
    ServicePort,
    Way,
)
from netlab.proxy.options import Situation

PROTOCOLS = ("TCP", "UDP", "SCTP")
# The names that get into rules, of one line with blanks between its words and 255 bytes to a
# comment. An API server lets fewer in, but anybody may write to etcd.
NAME = re.compile(r"[-._A-Za-z0-9]{1,63}", re.ASCII)


class Served(NamedTuple):
    """What one Service has on this node."""

    frontends: list[Frontend]
    health_checks: list[HealthCheck]


NOTHING = Served([], [])


def is_served(labels: Mapping[str, str]) -> bool:
    """Return whether an object with *labels*, a Service or a slice, is this proxy's business."""
    return PROXY_NAME_LABEL not in labels and HEADLESS_LABEL not in labels


def service_name(one: EndpointSlice) -> tuple[str, str]:
    """Return namespace and name of the Service of slice *one*; no name: of none."""
    return one.metadata.namespace, one.metadata.labels.get(model.SERVICE_NAME_LABEL, "")


def misnamed(service: Service) -> str:
    """Return in words what about the name of *service* no rule can hold, "" if it is a name."""
    meta = service.metadata
    for what, name in (("namespace", meta.namespace), ("name", meta.name)):
        if not NAME.fullmatch(name):
            return f"Service {meta.namespace!r}/{meta.name!r}: {what}: no name; left out"
    return ""


def served(
    service: Service,
    slices: Sequence[EndpointSlice],
    situations: Mapping[Family, Situation],
    say: Say,
) -> Served:
    """Return what *service*, with its own *slices*, has on a node.

    *say* is told what is left out since it cannot be used.
    """
    if not is_served(service.metadata.labels):
        return NOTHING
    where = f"Service {service.metadata.namespace}/{service.metadata.name}"
    cluster_ips = _by_family(service.cluster_ips, f"{where}: clusterIP", say)
    if not cluster_ips:
        return NOTHING
    node = next(iter(situations.values())).node
    mine = [one for one in slices if is_served(one.metadata.labels)]
    found = endpoints.found(sorted(mine, key=lambda one: one.metadata.name), node, say)
    outer = _Outer.of(service, where, say)
    result = Served([], [])
    for which, situation in situations.items():
        for cluster_ip in cluster_ips.get(which, ())[:1]:
            for port in service.spec.ports or ():
                if _is_sound(port, where, say) and _is_spoken(port, where, situation, say):
                    result.frontends.extend(
                        _port_frontends(service, port, cluster_ip, found, outer, situation)
                    )
            result.health_checks.extend(_health_check(service, found, which))
    return result


def _is_sound(port: model.ServicePort, where: str, say: Say) -> bool:
    sound = (
        port.port in PORTS
        and (not port.nodePort or port.nodePort in PORTS)
        and port.protocol in PROTOCOLS
        and (not port.name or bool(NAME.fullmatch(port.name)))
    )
    if not sound:
        name = f" {port.name!r}" if port.name else ""
        number = f"{port.port}/{port.protocol}"
        say(f"{where}: port{name} {number}, node port {port.nodePort}: left out")
    return sound


def _is_spoken(port: model.ServicePort, where: str, situation: Situation, say: Say) -> bool:
    """Return whether the mode serves the protocol of *port*."""
    spoken = situation.mode is not Mode.USERSPACE or port.protocol != "SCTP"
    if not spoken:
        say(f"{where}: port {port.port}/SCTP: left out: userspace mode serves TCP and UDP")
    return spoken


def _by_family(texts: Iterable[str], what: str, say: Say) -> dict[Family, list[str]]:
    """Return those of *texts* that are addresses, in canonical form, each once."""
    held: dict[Family, list[str]] = {}
    for text in texts:
        canonical = address(text)
        if not canonical:
            say(f"{what}: {text!r} is no address")
        elif canonical not in held.setdefault(family(canonical), []):
            held[family(canonical)].append(canonical)
    return held


class _Outer(NamedTuple):
    """The addresses of a Service beside its cluster IPs, per family, and who may use the last."""

    external_ips: dict[Family, list[str]]
    load_balancers: dict[Family, list[str]]
    sources: dict[Family, list[str]]

    @classmethod
    def of(cls, service: Service, where: str, say: Say) -> _Outer:
        spec = service.spec
        if not (
            spec.externalIPs or spec.loadBalancerSourceRanges or service.status.loadBalancer.ingress
        ):
            return _NO_OUTER
        # An address whose ipMode is Proxy is the balancer's own: it rewrites the destination.
        ingress = [
            one.ip
            for one in service.status.loadBalancer.ingress or ()
            if one.ip and one.ipMode in (None, "VIP")
        ]
        sources: dict[Family, list[str]] = {}
        for text in spec.loadBalancerSourceRanges or ():
            prefix = network(text)
            if prefix:
                sources.setdefault(family(prefix), []).append(prefix)
            else:
                say(f"{where}: loadBalancerSourceRanges: {text!r} is no prefix")
        return cls(
            _by_family(spec.externalIPs or (), f"{where}: externalIPs", say),
            _by_family(ingress, f"{where}: status.loadBalancer", say),
            sources,
        )


_NO_OUTER = _Outer({}, {}, {})


def _external_policy(service: Service) -> Policy:
    """Return the policy for traffic from outside; without a way in from there, Cluster."""
    spec = service.spec
    outside = spec.type in ("NodePort", "LoadBalancer") or bool(spec.externalIPs)
    return Policy.LOCAL if outside and spec.externalTrafficPolicy == "Local" else Policy.CLUSTER


def _internal_policy(service: Service) -> Policy:
    return Policy.LOCAL if service.spec.internalTrafficPolicy == "Local" else Policy.CLUSTER


def _port_frontends(
    service: Service,
    port: model.ServicePort,
    cluster_ip: str,
    found: Found,
    outer: _Outer,
    situation: Situation,
) -> Iterator[Frontend]:
    """Yield the frontends of one *port* in one family."""
    which = situation.family
    if situation.mode is Mode.USERSPACE:
        yield from _portal_frontends(service, port, cluster_ip, found, outer, situation)
        return
    external, internal = _external_policy(service), _internal_policy(service)
    external_ips = outer.external_ips.get(which, ())
    load_balancers = outer.load_balancers.get(which, ())
    accessible = bool(port.nodePort or external_ips or load_balancers)
    known = found.get((which, port.name, port.protocol), ())
    use = endpoints.usable(
        known,
        # Even under external policy Local, pods and the node itself reach all endpoints.
        cluster=accessible or internal is Policy.CLUSTER,
        local=internal is Policy.LOCAL or (accessible and external is Policy.LOCAL),
        node=situation.node,
        zone=situation.zone,
    )
    mine = ServicePort(
        service.metadata.namespace,
        service.metadata.name,
        port.name,
        port.protocol,
        which,
        use.cluster,
        use.local,
        known,
        service.affinity_timeout,
    )
    ways, refusal = _internal_ways(internal, use, situation)
    yield Frontend(mine, Kind.CLUSTER_IP, cluster_ip, port.port, ways, refusal, policy=internal)
    if not accessible:
        return
    ways, refusal = _external_ways(external, use, situation)
    for one in external_ips:
        yield Frontend(mine, Kind.EXTERNAL_IP, one, port.port, ways, refusal, policy=external)
    for one in load_balancers:
        sources = _sources(outer.sources.get(which, []), one, use, situation)
        yield Frontend(mine, Kind.LOAD_BALANCER, one, port.port, ways, refusal, sources, external)
    if port.nodePort:
        for one in _node_port_addresses(situation):
            yield Frontend(mine, Kind.NODE_PORT, one, port.nodePort, ways, refusal, policy=external)


def _node_port_addresses(situation: Situation) -> list[str]:
    """Return where a NodePort is: [""] for whatever addresses the node has."""
    if situation.mode is not Mode.IPVS:
        return [""]
    return [one for one in situation.local if situation.node_ports.on(one)]


def _portal_frontends(
    service: Service,
    port: model.ServicePort,
    cluster_ip: str,
    found: Found,
    outer: _Outer,
    situation: Situation,
) -> Iterator[Frontend]:
    """Yield the frontends of one *port* in userspace mode, which knows no policies.

    Every address leads to a process of the node's, and from there to any endpoint that is ready;
    topology, source ranges and endpoints that end have no say.
    Source: kubernetes pkg/proxy/userspace/proxier.go and roundrobin.go, v1.25.
    """
    which = situation.family
    known = found.get((which, port.name, port.protocol), ())
    ready = tuple(one for one in known if one.ready)
    mine = ServicePort(
        service.metadata.namespace,
        service.metadata.name,
        port.name,
        port.protocol,
        which,
        ready,
        (),
        known,
        service.affinity_timeout,
    )

    def at(kind: Kind, address: str, number: int, clients: Clients = Clients.ALL) -> Frontend:
        ways = (Way(clients, Policy.CLUSTER, Clients.ALL),) if ready else ()
        return Frontend(mine, kind, address, number, ways, None if ready else Refusal.CLOSE)

    yield at(Kind.CLUSTER_IP, cluster_ip, port.port)
    for one in outer.external_ips.get(which, ()):
        yield at(Kind.EXTERNAL_IP, one, port.port, Clients.WIRED)
    for one in outer.load_balancers.get(which, ()):
        yield at(Kind.LOAD_BALANCER, one, port.port)
    if port.nodePort:
        yield at(Kind.NODE_PORT, "", port.nodePort)


Ways = tuple[tuple[Way, ...], Refusal | None]


def _internal_ways(policy: Policy, use: Usable, situation: Situation) -> Ways:
    """Return who reaches a cluster IP, and what the others get."""
    if not use.exist:
        return (), Refusal.REJECT
    if policy is Policy.LOCAL and not use.local:
        if situation.mode is not Mode.IPVS:
            return (), Refusal.DROP
        policy = Policy.CLUSTER  # rather than nobody; see `_external_ways`
        if not use.cluster:
            return (), Refusal.REJECT
    if situation.masquerade_all:
        masquerade = Clients.ALL
    else:
        # From outside, the endpoint's answer must come back through this node.
        masquerade = Clients.NOT_PODS if situation.pods.known else Clients.NONE
    return (Way(Clients.ALL, policy, masquerade),), None


def _external_ways(policy: Policy, use: Usable, situation: Situation) -> Ways:
    """Return who reaches a NodePort, external IP or load balancer's address."""
    if not use.exist:
        return (), Refusal.REJECT
    if policy is Policy.CLUSTER:
        return (Way(Clients.ALL, policy, Clients.ALL),), None
    if situation.mode is Mode.IPVS:
        # A virtual server has the same real servers for everybody: those that are here, or else
        # all of them, so that pods and the node are served; who asks from outside gets no answer.
        # Source: kubernetes pkg/proxy/ipvs/proxier.go, syncEndpoint, v1.33.
        used = Policy.LOCAL if use.local else Policy.CLUSTER
        return (Way(Clients.ALL, used, Clients.NONE),), None
    # Pods and the node are served as if they had gone out to the load balancer and come back.
    ways = [Way(Clients.PODS, Policy.CLUSTER, Clients.NONE)] if situation.pods.known else []
    ways.append(Way(Clients.NODE, Policy.CLUSTER, Clients.ALL))
    if not use.local:
        return tuple(ways), Refusal.DROP
    return (*ways, Way(Clients.ALL, Policy.LOCAL, Clients.NONE)), None


def _sources(ranges: list[str], own: str, use: Usable, situation: Situation) -> tuple[str, ...]:
    """Return who may use the load balancer's address *own*; () without a range of its family.

    If the node may, its address itself may, too: bound locally, it is the source the node uses.
    In iptables mode an address without endpoints refuses everybody alike.
    """
    if not ranges or (situation.mode is Mode.IPTABLES and not use.exist):
        return ()
    node = situation.address
    itself = (own,) if node and any(contains(one, node) for one in ranges) else ()
    return (*ranges, *itself)


def _health_check(service: Service, found: Found, which: Family) -> Iterator[HealthCheck]:
    spec, meta = service.spec, service.metadata
    if spec.type != "LoadBalancer" or _external_policy(service) is not Policy.LOCAL:
        return
    if spec.healthCheckNodePort in PORTS:
        here = {
            one.address
            for key, known in found.items()
            for one in known
            if key[0] is which and one.local and one.ready
        }
        yield HealthCheck(meta.namespace, meta.name, which, spec.healthCheckNodePort, len(here))
