"""What becomes of one packet under a decision: the same answer the kernel is to give.

The few points in which the modes cannot do the same are told apart here.
Source: measured, kube-proxy v1.30.5 and v1.34's tests; of ipvs, its rules, v1.33.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum

import msgspec

from netlab.model.modes import Mode
from netlab.proxy.addresses import contains, family, is_loopback
from netlab.proxy.endpoints import Endpoint
from netlab.proxy.frontend import Clients, Frontend, Kind, Policy, Refusal, Way
from netlab.proxy.node import Decision
from netlab.proxy.options import Situation


class Verdict(StrEnum):
    """What a proxy does to a packet."""

    ENDPOINTS = "endpoints"
    REJECTED = "rejected"
    DROPPED = "dropped"
    NO_MATCH = "no-match"  # nothing: it goes where it was going
    HOST = "host"  # let in to the node's own health-check server
    CLOSED = "closed"  # accepted by a process that has no endpoint, and closed; UDP: not answered


REFUSED = {
    Refusal.REJECT: Verdict.REJECTED,
    Refusal.DROP: Verdict.DROPPED,
    Refusal.CLOSE: Verdict.CLOSED,
}


class Packet(msgspec.Struct, frozen=True):
    """The first packet of a connection, as it enters a node or leaves a process there."""

    source: str  # canonical, as is `address`
    address: str
    port: int
    protocol: str = "TCP"
    interface: str = ""  # it came in by; "": a process on the node sent it
    bridged: bool = False  # by a port of a bridge of the node's, as its pods' do


class Outcome(msgspec.Struct, frozen=True):
    """A verdict, and of ENDPOINTS each one it may go to with whether it is masqueraded."""

    verdict: Verdict
    endpoints: dict[str, bool] = {}


def outcome(decision: Decision, packet: Packet, *, local: Collection[str]) -> Outcome:
    """Return what *decision* does to *packet* on a node whose own addresses are *local*."""
    situation = decision.situations[family(packet.address)]
    on_node = packet.address in local or is_loopback(packet.address)
    candidates = list(_candidates(decision, situation, packet, on_node))
    for one in candidates:
        # A NodePort may be matched for refusal at more addresses than for service.
        everywhere = one.kind is Kind.NODE_PORT and not one.address
        if everywhere and not situation.node_ports.on(packet.address):
            continue
        if not _admitted(one, packet, situation):
            return Outcome(Verdict.DROPPED)
        for way in one.ways:
            if _is_served(way, packet, situation, local, on_node):
                masquerade = _is_masqueraded(decision, one, way, packet, situation, local)
                return Outcome(Verdict.ENDPOINTS, _targets(one, way, packet, situation, masquerade))
    if _is_martian(packet, situation):
        return Outcome(Verdict.DROPPED)
    for one in candidates:
        if one.refusal and _is_refused(one, packet, situation, on_node):
            return Outcome(REFUSED[one.refusal])
    return Outcome(_untouched(decision, situation, packet, on_node))


def _candidates(
    decision: Decision, situation: Situation, packet: Packet, on_node: bool
) -> Iterator[Frontend]:
    """Yield the frontend at the packet's very address, then the NodePort or hostPort."""
    exact = (situation.family, packet.address, packet.protocol, packet.port)
    any_own = (situation.family, "", packet.protocol, packet.port)
    for one in decision.frontends:
        if one.key == exact and (on_node or one.kind is not Kind.HOST_PORT):
            yield one
    if on_node:
        yield from (one for one in decision.frontends if one.key == any_own)


def _admitted(frontend: Frontend, packet: Packet, situation: Situation) -> bool:
    sources = frontend.sources
    if sources and situation.mode is Mode.IPVS and not packet.interface:
        return frontend.address in sources  # the node as a whole, whatever address it has
    return not sources or any(contains(one, packet.source) for one in sources)


def _is_served(
    way: Way, packet: Packet, situation: Situation, local: Collection[str], on_node: bool
) -> bool:
    if way.clients is Clients.WIRED:
        return on_node or _is_wired(packet)
    return _is_from(way.clients, packet, situation, local)


def _is_wired(packet: Packet) -> bool:
    return bool(packet.interface) and not packet.bridged


def _is_from(
    clients: Clients, packet: Packet, situation: Situation, local: Collection[str]
) -> bool:
    match clients:
        case Clients.ALL:
            return True
        case Clients.PODS:
            return _is_from_pod(packet, situation)
        case Clients.NOT_PODS:
            return not _is_from_pod(packet, situation)
        case Clients.NODE:
            return packet.source in local or is_loopback(packet.source)
        case Clients.LOOPBACK:
            return is_loopback(packet.source)
    return False


def _is_from_pod(packet: Packet, situation: Situation) -> bool:
    pods = situation.pods
    if pods.cidr:
        return contains(pods.cidr, packet.source)
    if pods.interface:
        return packet.interface == pods.interface
    return bool(pods.prefix) and packet.interface.startswith(pods.prefix)


def _is_masqueraded(
    decision: Decision,
    frontend: Frontend,
    way: Way,
    packet: Packet,
    situation: Situation,
    local: Collection[str],
) -> bool:
    """Return whether *packet* gets the node's address, whichever endpoint it goes to."""
    if situation.mode is Mode.IPVS and frontend.kind is not Kind.HOST_PORT:
        if is_loopback(packet.source):
            return False
        if frontend.kind is Kind.CLUSTER_IP and way.masquerade is Clients.NONE:
            # The node's own, that took the address it goes to for its source.
            source = (situation.family, packet.source, packet.protocol, packet.port)
            of = (one for one in decision.frontends if one.kind is Kind.CLUSTER_IP)
            if any(one.key == source for one in of):
                return True
        if _has_number_of_node_port(decision, frontend):
            return True
    return _is_from(way.masquerade, packet, situation, local)


def _has_number_of_node_port(decision: Decision, frontend: Frontend) -> bool:
    """Return whether KUBE-NODE-PORT takes *frontend* for a NodePort: it looks at ports alone, of
    packets to any of the node's addresses."""
    service = frontend.service
    return (
        frontend.kind in (Kind.CLUSTER_IP, Kind.LOAD_BALANCER)
        and service.protocol != "SCTP"
        and any(
            one.kind is Kind.NODE_PORT
            and one.policy is Policy.CLUSTER
            and one.port == frontend.port
            and one.service.protocol == service.protocol
            and one.service.family is service.family
            for one in decision.frontends
        )
    )


def _targets(
    frontend: Frontend, way: Way, packet: Packet, situation: Situation, masquerade: bool
) -> dict[str, bool]:
    of: tuple[Endpoint, ...] = frontend.service.of(way.policy)
    here_only = situation.mode is Mode.IPVS  # KUBE-LOOP-BACK has the node's own endpoints
    return {
        one.text: masquerade or (one.address == packet.source and (one.local or not here_only))
        for one in of
    }


def _is_martian(packet: Packet, situation: Situation) -> bool:
    """Return whether *packet*, untranslated, is what the guard of a routable loopback drops."""
    martian = is_loopback(packet.address) and not is_loopback(packet.source)
    return martian and situation.mode is Mode.IPTABLES and situation.route_localnet


def _is_refused(frontend: Frontend, packet: Packet, situation: Situation, on_node: bool) -> bool:
    """Return whether the rule that refuses sees *packet*, which no way of *frontend* took."""
    if frontend.refusal is Refusal.CLOSE:  # it takes whoever it would take if it had endpoints
        return frontend.kind is not Kind.EXTERNAL_IP or on_node or _is_wired(packet)
    if situation.mode is Mode.NFTABLES:
        return frontend.kind is not Kind.NODE_PORT or situation.node_ports.on(packet.address)
    if situation.mode is Mode.IPVS:
        return True
    # KUBE-EXTERNAL-SERVICES is in INPUT and FORWARD, not in OUTPUT, and knows local addresses only
    # as such.
    return frontend.kind is Kind.CLUSTER_IP or on_node or bool(packet.interface)


def _untouched(decision: Decision, situation: Situation, packet: Packet, on_node: bool) -> Verdict:
    """Return the verdict on a packet that no frontend concerns."""
    bound = is_bound(decision, situation, packet.address)
    healthy = packet.protocol == "TCP" and situation.mode is not Mode.USERSPACE
    if (on_node or bound) and healthy:
        ports = {one.port for one in decision.health_checks if one.family is situation.family}
        if packet.port in ports:
            return Verdict.HOST
    if situation.mode is Mode.IPVS:
        return Verdict.REJECTED if bound else Verdict.NO_MATCH
    if situation.mode is not Mode.NFTABLES or (on_node and packet.interface):
        return Verdict.NO_MATCH
    cluster_ips = {one.address for one in decision.frontends if one.kind is Kind.CLUSTER_IP}
    if packet.address in cluster_ips:
        return Verdict.REJECTED
    # Nobody has the address, as far as this node has heard.
    unused = any(contains(one, packet.address) for one in situation.service_cidrs)
    return Verdict.DROPPED if unused else Verdict.NO_MATCH


def is_bound(decision: Decision, situation: Situation, address: str) -> bool:
    """Return whether *address* is the node's for its Services' sake, as in ipvs mode."""
    return (
        situation.mode is Mode.IPVS
        and address not in situation.local
        and any(
            one.address == address
            for one in decision.frontends
            if one.kind not in (Kind.NODE_PORT, Kind.HOST_PORT)
        )
    )
