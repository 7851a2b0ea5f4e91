"""A filter for conversations: both ways of them, and as they look behind a rewrite.

What a filter's words fit is one packet at one place. Its answer has the ends the other way round;
behind a Service's rule it goes to an endpoint, behind a masquerade it comes from a node. A sensor
that is to see the whole conversation from its first packet takes all of that (`widened`), and what
is of a conversation that the words fit is told from the rest afterwards (`fits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import islice

from msgspec.structs import replace

from netlab.annotation.names import addresses_of, services_of
from netlab.cluster import Cluster, NodeState
from netlab.filters.flows import flows
from netlab.filters.grammar import All, Condition, End, Kind, Not, OneOf, Wrapped
from netlab.model.kubernetes import Document
from netlab.model.services import SERVICE_NAME_LABEL, ServicePort
from netlab.packets import Flow, Outer, Protocol

FLOWS = 128  # of a filter that are looked at one by one
MOST = 48  # ends that a filter is widened by: every one is compared with every packet
_OTHER = {"src": "dst", "dst": "src", "": ""}


def mirrored(tree: Condition) -> Condition:
    """Return what fits the answers to what *tree* fits."""
    match tree:
        case Not():
            return Not(mirrored(tree.one))
        case All():
            return All(tuple(mirrored(one) for one in tree.parts))
        case OneOf():
            return OneOf(tuple(mirrored(one) for one in tree.parts))
        case End():
            return replace(tree, side=_OTHER[tree.side])
    return tree


def fits(tree: Condition, flow: Flow, outer: Outer | None = None) -> bool:
    """Return whether *tree* is true of a packet of *flow*, which may be in an envelope."""
    match tree:
        case Not():
            return not fits(tree.one, flow, outer)
        case All():
            return all(fits(one, flow, outer) for one in tree.parts)
        case OneOf():
            return any(fits(one, flow, outer) for one in tree.parts)
        case Wrapped():
            return outer is not None and tree.vni in (-1, outer.vni)
    layers = [flow, *([_envelope(outer)] if outer else [])]
    if isinstance(tree, Kind):
        return any(_is(tree.name, one) for one in layers)
    return any(_ends_in(tree, one) for one in layers)


def _envelope(outer: Outer) -> Flow:
    return Flow(
        *(outer.source, outer.destination, Protocol.UDP),
        *(outer.source_port, outer.destination_port),
    )


def _is(name: str, flow: Flow) -> bool:
    if name in ("ip", "ip6"):
        return (":" in flow.source) == (name == "ip6")
    return flow.protocol == name


def _ends_in(end: End, flow: Flow) -> bool:
    if end.protocol and flow.protocol != end.protocol:
        return False
    if end.ported and flow.protocol is Protocol.ICMP:
        return False
    return any(
        (end.network is None or ip_address(address) in end.network)
        and (not end.ported or end.low <= port <= end.high)
        for side, address, port in (
            ("src", flow.source, flow.source_port),
            ("dst", flow.destination, flow.destination_port),
        )
        if end.side in ("", side)
    )


def exact(some: Iterable[Flow]) -> Condition:
    """Return what fits packets of these flows and of no others, both ways."""
    parts: list[Condition] = []
    for flow in dict.fromkeys(each for one in some for each in (one, one.reply)):
        ends = _one_end("src", flow), _one_end("dst", flow.reply)
        parts.append(All((Kind("icmp"), *ends) if flow.protocol is Protocol.ICMP else ends))
    return OneOf(tuple(parts))


def _one_end(side: str, flow: Flow) -> End:
    """Return the source of *flow* as the *side* of a packet."""
    network = ip_network(flow.source)
    if flow.protocol is Protocol.ICMP:
        return End(side, network)
    return End(side, network, flow.protocol.value, flow.source_port, flow.source_port)


def widened(tree: Condition, cluster: Cluster) -> Condition:
    """Return what fits all of the conversations that *tree* fits a packet of, and some others.

    Not known beforehand, and so not in it: what a NAT that is none of the lab's makes of them.
    """
    other = mirrored(tree)
    more = list(dict.fromkeys([*endpoints(tree, cluster), *_masqueraded(tree, cluster)]))
    parts = [tree, *([other] if other != tree else []), *more[:MOST]]
    return OneOf(tuple(parts))


def endpoints(tree: Condition, cluster: Cluster) -> list[End]:
    """Return the endpoints of the Services that are asked by what *tree* fits, `MOST` of them."""
    return list(islice(dict.fromkeys(_endpoints(tree, cluster)), MOST))


def _endpoints(tree: Condition, cluster: Cluster) -> Iterator[End]:
    asked = [flow for flow in flows(tree, most=FLOWS) if flow.destination or flow.destination_port]
    if not asked:
        return
    nodes = [node.address for node in cluster.nodes]
    slices = _slices(cluster)
    for service in services_of(cluster):
        own = addresses_of(service)
        ports = service.spec.ports or ()
        if not any(_asks(flow, port, own, nodes) for flow in asked for port in ports):
            continue
        for one in slices.get((service.metadata.namespace, service.metadata.name), ()):
            yield from _of_slice(one, tree)


def _of_slice(one: Document, tree: Condition) -> Iterator[End]:
    for port in one.get("ports") or ():
        protocol, number = (port.get("protocol") or "TCP").lower(), port.get("port")
        for endpoint in one.get("endpoints") or () if number else ():
            for address in endpoint.get("addresses") or ():
                if not fits(tree, Flow("0.0.0.0", address, Protocol(protocol), 0, number)):
                    yield End("", ip_network(address), protocol, number, number)


def _slices(cluster: Cluster) -> dict[tuple[str, str], list[Document]]:
    """Return the EndpointSlices by the namespace and name of their Service."""
    found: dict[tuple[str, str], list[Document]] = {}
    for one in cluster.documents.of("EndpointSlice"):
        meta = one["metadata"]
        name = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL, "")
        found.setdefault((meta.get("namespace", ""), name), []).append(one)
    return found


def _asks(flow: Flow, port: ServicePort, own: Sequence[str], nodes: Sequence[str]) -> bool:
    """Return whether *flow* asks a Service's *port*, at its *own* addresses or the *nodes*'."""
    if flow.protocol != port.protocol.lower():
        return False
    ways = [(own, port.port), (nodes, port.nodePort or 0)]
    return any(
        number
        and flow.destination_port in (0, number)
        and (flow.destination in addresses or (not flow.destination and flow.destination_port))
        for addresses, number in ways
    )


def _masqueraded(tree: Condition, cluster: Cluster) -> Iterator[Condition]:
    """Yield the addresses that nodes may put in the place of a source that *tree* names."""
    named = {one.source for one in flows(tree, most=FLOWS) if one.source and not one.source_port}
    nodes: dict[str, None] = {}
    for address in named:
        pods = [pod.node for pod in cluster.pods if pod.ip == address]
        nodes.update(dict.fromkeys(pods or [node.name for node in cluster.nodes]))
    for node in cluster.nodes:
        if node.name in nodes:
            yield from _addresses(node)


def _addresses(node: NodeState) -> Sequence[Condition]:
    inside = [one for one in (node.bridge_address, node.tunnel_address) if one]
    return (
        All((Not(Wrapped()), End(network=ip_network(node.address)))),
        *(End(network=ip_network(one)) for one in inside),
    )
