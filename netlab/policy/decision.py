"""What policies make of one flow: which isolate its ends, and which of these allow it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from netlab.model.policies import Direction, IPBlock, NetworkPolicy, Peer, PolicyPort
from netlab.policy.facts import Facts, PodFact
from netlab.policy.selection import Selection

Addresses = Mapping[str, Collection[str]]  # of each node


class Flow(NamedTuple):
    """A connection as it is at the pods: after DNAT, with the source seen at that node."""

    source: str
    destination: str
    protocol: str = "TCP"
    port: int = 0  # 0: the protocol has none


class Side(NamedTuple):
    """What policies say at one end of a flow."""

    direction: Direction
    pod: PodFact | None = None  # None: the end is no pod
    isolating: tuple[str, ...] = ()  # policies that select the pod, `namespace/name`
    allowing: tuple[str, ...] = ()  # those of them that allow the flow

    @property
    def allowed(self) -> bool:
        return bool(self.allowing) or not self.isolating


class Decision(NamedTuple):
    """What policies make of a flow at both ends; `reason` when they were not asked."""

    egress: Side
    ingress: Side
    reason: str = ""

    @property
    def allowed(self) -> bool:
        return self.egress.allowed and self.ingress.allowed

    @property
    def denying(self) -> Side | None:
        """The first end that does not allow the flow, as packets meet them."""
        return next((side for side in (self.egress, self.ingress) if not side.allowed), None)


def decision(facts: Facts, flow: Flow, *, nodes: Addresses | None = None) -> Decision:
    """Return what the policies of *facts* make of *flow*.

    *nodes*: the addresses of each node itself. A pod reaches itself, and its own node and it reach
    each other, whatever policies say.
    """
    selection = Selection(facts)
    pods = {address: pod for pod in facts.pods for address in pod.addresses}
    source, destination = pods.get(flow.source), pods.get(flow.destination)
    nobody = Decision(Side(Direction.EGRESS, source), Side(Direction.INGRESS, destination))
    if flow.source == flow.destination:
        return nobody._replace(reason="a pod reaches itself")
    for pod, other in ((source, flow.destination), (destination, flow.source)):
        if pod is not None and other in (nodes or {}).get(pod.node, ()):
            return nobody._replace(reason="a pod and its own node reach each other")
    return Decision(
        _side(facts, selection, Direction.EGRESS, source, flow),
        _side(facts, selection, Direction.INGRESS, destination, flow),
    )


def _side(
    facts: Facts, selection: Selection, direction: Direction, pod: PodFact | None, flow: Flow
) -> Side:
    if pod is None:
        return Side(direction)
    isolating = [
        policy
        for policy in facts.policies
        if policy.metadata.namespace == pod.namespace
        and direction in policy.directions
        and pod in selection.pods(pod.namespace, policy.spec.podSelector)
    ]
    allowing = [one for one in isolating if _allows(one, direction, flow, selection, facts)]
    return Side(direction, pod, _names(isolating), _names(allowing))


def _names(policies: Collection[NetworkPolicy]) -> tuple[str, ...]:
    return tuple(policy.name for policy in policies)


def _allows(
    policy: NetworkPolicy, direction: Direction, flow: Flow, selection: Selection, facts: Facts
) -> bool:
    namespace = policy.metadata.namespace
    other = flow.source if direction is Direction.INGRESS else flow.destination
    target = next((pod for pod in facts.pods if flow.destination in pod.addresses), None)
    return any(
        (not rule.peers or is_peer(selection, namespace, rule.peers, other))
        and (not rule.ports or any(_is_port(port, flow, target) for port in rule.ports))
        for rule in policy.rules(direction)
    )


def is_peer(selection: Selection, namespace: str, peers: Collection[Peer], address: str) -> bool:
    """Return whether *address* is one of *peers* of a policy of *namespace*."""
    if any(peer.ipBlock and is_within(peer.ipBlock, address) for peer in peers):
        return True
    return any(address in pod.addresses for pod in selection.peers(namespace, peers))


def is_within(block: IPBlock, address: str) -> bool:
    """Return whether *address* is in *block* and not in what it excepts."""
    ip = ip_address(address)
    return ip in block.network and not any(ip in one for one in block.exceptions)


def _is_port(port: PolicyPort, flow: Flow, target: PodFact | None) -> bool:
    if port.protocol != flow.protocol:
        return False
    if port.port is None:
        return True
    if isinstance(port.port, str):
        return target is not None and flow.port in target.numbers(port.port, port.protocol)
    return port.port <= flow.port <= (port.endPort or port.port)
