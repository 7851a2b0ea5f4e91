"""NetworkPolicies as causes: which isolate the pod, what they allow, and what would."""

from __future__ import annotations

from collections.abc import Iterator

from netlab.cluster import Cluster
from netlab.journeys import Cause, Kind
from netlab.model.policies import Direction, NetworkPolicy
from netlab.packets import Flow as Packet
from netlab.packets import Protocol, RuleHit
from netlab.policy import Facts, Flow, Reader, decision
from netlab.policy.decision import Side
from netlab.policy.facts import NAME_LABEL, PodFact
from netlab.policy.naming import peer_words
from netlab.telling.naming import Names
from netlab.telling.policies import direction_of
from netlab.topology.scalars import plain_scalar
from netlab.tracing.stops import Stop

WAYS = {Direction.INGRESS: ("ingress", "from"), Direction.EGRESS: ("egress", "to")}


def cause_of(cluster: Cluster, names: Names, stop: Stop, hit: RuleHit) -> Cause:
    """Return why the policies there are dropped the packet of *stop*, by the rule of *hit*."""
    facts = Reader().facts(cluster.documents)
    direction, flow = direction_of(hit), stop.flow
    found = decision(facts, asked(flow))
    side = found.ingress if direction is Direction.INGRESS else found.egress
    proof = [
        f"the kernel's trace: verdict {hit.verdict} at {hit.hook} of {stop.place}, "
        f"table {hit.table} {hit.chain}"
    ]
    if side.pod is None or side.allowed:
        what = f"a rule of NetworkPolicies drops it that no present policy asks for: {hit.rule}"
        repair = ("its node's agent puts the rules right: `netlab status`",)
        return Cause(Kind.POLICY, stop.place, what, tuple(proof), repair)
    proof += [
        f"NetworkPolicy {policy.name} allows {words}"
        for policy in facts.policies
        if policy.name in side.isolating
        for words in allowed_words(policy, direction)
    ]
    return Cause(
        Kind.POLICY,
        stop.place,
        _denied(side, flow, names),
        tuple(proof),
        tuple(_repairs(facts, side, flow)),
    )


def asked(flow: Packet) -> Flow:
    """Return what the policies are asked of a packet's *flow*."""
    port = 0 if flow.protocol is Protocol.ICMP else flow.destination_port
    return Flow(flow.source, flow.destination, flow.protocol.upper(), port)


def _denied(side: Side, flow: Packet, names: Names) -> str:
    assert side.pod is not None
    who = flow.source if side.direction is Direction.INGRESS else flow.destination
    other = names.who(who) or who
    _, preposition = WAYS[side.direction]
    several = len(side.isolating) > 1
    by = ("NetworkPolicies " if several else "NetworkPolicy ") + ", ".join(side.isolating)
    none = "none of them allows" if several else "it does not allow"
    return (
        f"{by} {'isolate' if several else 'isolates'} {side.pod.title} for {side.direction}, and "
        f"{none} {_port_words(flow)} {preposition} {other}"
    )


def _port_words(flow: Packet) -> str:
    if flow.protocol is Protocol.ICMP:
        return "ICMP"
    return f"{flow.destination_port}/{flow.protocol.upper()}"


def allowed_words(policy: NetworkPolicy, direction: Direction) -> Iterator[str]:
    """Yield what each rule of *policy* allows: `80/TCP from pods app=web of shop`."""
    rules = policy.rules(direction)
    if not rules:
        yield f"no {WAYS[direction][0]} at all"
    for rule in rules:
        ports = ", ".join(
            f"{'any' if port.port is None else port.port}"
            f"{f'-{port.endPort}' if port.endPort else ''}/{port.protocol}"
            for port in rule.ports
        )
        peers = "; ".join(
            f"{peer.ipBlock.cidr}{_except(peer.ipBlock.excepted)}"
            if peer.ipBlock
            else peer_words(policy.metadata.namespace, peer)
            for peer in rule.peers
        )
        yield f"{ports or 'all ports'} {WAYS[direction][1]} {peers or 'everybody'}"


def _except(prefixes: list[str]) -> str:
    return f" except {', '.join(prefixes)}" if prefixes else ""


def _repairs(facts: Facts, side: Side, flow: Packet) -> Iterator[str]:
    assert side.pod is not None
    for name in side.isolating[:2]:
        namespace, _, called = name.partition("/")
        yield f"netlab describe netpol {called} -n {namespace}"
    other = flow.source if side.direction is Direction.INGRESS else flow.destination
    pod = next((pod for pod in facts.pods if other in pod.addresses), None)
    rules, peers = WAYS[side.direction]
    ports = "" if flow.protocol is Protocol.ICMP else f", ports: [{_port(flow)}]"
    peer = _peer(pod, side.pod.namespace) if pod else f"{{ipBlock: {{cidr: {other}/32}}}}"
    rule = f"{rules}: [{{{peers}: [{peer}]{ports}}}]"
    yield f"a rule that allows it, in one of them or in another: {rule}"


def _port(flow: Packet) -> str:
    protocol = "" if flow.protocol is Protocol.TCP else f", protocol: {flow.protocol.upper()}"
    return f"{{port: {flow.destination_port}{protocol}}}"


def _text(word: str) -> str:
    """Return *word* as YAML has it: in quotes where it would be a number or a boolean."""
    return word if plain_scalar(word) == word else f'"{word}"'


def _peer(pod: PodFact, namespace: str) -> str:
    """Return a peer that means *pod*, in a policy of *namespace*."""
    labels = ", ".join(
        f"{_text(key)}: {_text(value)}" for key, value in pod.labels if key != "pod-template-hash"
    )
    parts = [f"podSelector: {{{f'matchLabels: {{{labels}}}' if labels else ''}}}"]
    if pod.namespace != namespace:
        name = f"{NAME_LABEL}: {_text(pod.namespace)}"
        parts.insert(0, f"namespaceSelector: {{matchLabels: {{{name}}}}}")
    return f"{{{', '.join(parts)}}}"
