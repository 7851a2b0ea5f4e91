"""What kubectl shows of NetworkPolicies, and which pods they isolate here.

Source: kubectl pkg/describe/describe.go, printNetworkPolicySpecTo; kubernetes
pkg/printers/internalversion/printers.go, printNetworkPolicy (v1.34).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from netlab.model.kubernetes import Document, LabelSelector, view
from netlab.model.policies import Direction, NetworkPolicy, Peer, PolicyPort
from netlab.policy.naming import selector_words

if TYPE_CHECKING:
    from netlab.cli.rows import Scene

NONE = "<none>"
_WAYS = {Direction.INGRESS: ("From", "source"), Direction.EGRESS: ("To", "destination")}


def selector(document: Document, scene: Scene) -> str:
    try:
        return selector_words(view(document, NetworkPolicy).spec.podSelector) or NONE
    except msgspec.ValidationError:
        return NONE


def facts(document: Document, scene: Scene) -> list[tuple[str, Any]]:
    """Return what `describe` says of a NetworkPolicy: its spec as kubectl has it, then its pods."""
    try:
        policy = view(document, NetworkPolicy)
    except msgspec.ValidationError as error:
        return [("Without effect", str(error))]
    return [
        ("Spec", list(_spec(policy))),
        ("Policy Types", ", ".join(policy.directions)),
        ("Pods", _pods(policy, scene)),
    ]


def _spec(policy: NetworkPolicy) -> Iterator[str]:
    words = selector_words(policy.spec.podSelector)
    everybody = f"{NONE} (Allowing the specific traffic to all pods in this namespace)"
    yield f"PodSelector:     {words or everybody}"
    for direction in Direction:
        low = direction.lower()
        if direction not in policy.directions:
            yield f"Not affecting {low} traffic"
            continue
        yield f"Allowing {low} traffic:"
        rules = policy.rules(direction)
        if not rules:
            yield f"  {NONE} (Selected pods are isolated for {low} connectivity)"
        for number, rule in enumerate(rules):
            if number:
                yield "  ----------"
            yield from (f"  {line}" for line in _ports(rule.ports))
            yield from (f"  {line}" for line in _peers(direction, rule.peers))


def _ports(ports: list[PolicyPort]) -> Iterator[str]:
    if not ports:
        yield "To Port: <any> (traffic allowed to all ports)"
    for port in ports:
        number = "<any>" if port.port is None else str(port.port)
        last = f"-{port.endPort}" if port.endPort else ""
        yield f"To Port: {number}{last}/{port.protocol}"


def _peers(direction: Direction, peers: list[Peer]) -> Iterator[str]:
    title, side = _WAYS[direction]
    if not peers:
        yield f"{title}: <any> (traffic not restricted by {side})"
    for peer in peers:
        yield f"{title}:"
        if peer.ipBlock is not None:
            yield "  IPBlock:"
            yield f"    CIDR: {peer.ipBlock.cidr}"
            yield f"    Except: {', '.join(peer.ipBlock.excepted)}".rstrip()
        if peer.namespaceSelector is not None:
            yield f"  NamespaceSelector: {_words(peer.namespaceSelector)}"
        if peer.podSelector is not None:
            yield f"  PodSelector: {_words(peer.podSelector)}"


def _words(selector: LabelSelector) -> str:
    return selector_words(selector) or NONE


def _pods(policy: NetworkPolicy, scene: Scene) -> list[str]:
    """Return the pods that *policy* isolates, with their nodes, whose tables say so."""
    from netlab.model.inventory import inventory
    from netlab.policy import Reader
    from netlab.policy.selection import Selection

    selection = Selection(Reader().facts(inventory(scene.documents)))
    return [
        f"{pod.title}  {', '.join(pod.addresses)}  {pod.node}"
        for pod in selection.pods(policy.metadata.namespace, policy.spec.podSelector)
    ]
