"""The nftables tables of a node's policies, one of a family: who its isolated pods may talk to.

    egress        hook forward: by the source's address to the chain of its isolation
    ingress       hook forward, after it: by the destination's
    …-isolated-…  the chain of all pods that the same policies isolate: calls these, then drops
    …-policy      what one policy allows; whoever is allowed goes on to the next hook chain

1. A table of its own: whatever another table accepts, this one is asked too, and what it accepts
   is asked elsewhere. It does not depend on the proxy's mode.
2. Behind DNAT, so that a peer is the pod that a Service chose, and behind kube-proxy's own filter
   chains, so that a Service without endpoints refuses as ever.
3. Only the first packet of a flow is looked at, and costs two look-ups, however many pods and
   policies there are, and then one step for each policy that isolates its pod.
4. Forwarded packets only: what a node itself sends or takes passes other hooks, so a pod and its
   own node reach each other, as Kubernetes wants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netlab.model.policies import Direction, NetworkPolicy
from netlab.policy.facts import Facts, PodFact
from netlab.policy.matches import matches
from netlab.policy.naming import (
    ITSELF,
    TABLE,
    allowed_by,
    isolated_by,
    isolation_chain,
    pods_map,
    policy_chain,
)
from netlab.policy.selection import Selection
from netlab.proxy.addresses import Family
from netlab.proxy.nftables_words import ADDRESS, IP, base_chain, chain, comment
from netlab.proxy.ruleset import Block, Key, Sort

# After kube-proxy's, at 0, and flannel's; egress before ingress, as on the way between two nodes.
# nft lists a priority by this name up to 10 away from it.
PRIORITIES = {Direction.EGRESS: "filter + 5", Direction.INGRESS: "filter + 10"}
SIDES = {Direction.EGRESS: "saddr", Direction.INGRESS: "daddr"}
ESTABLISHED = "ct state established,related accept"
# Of frames that a bridge carries from pod to pod: no packet passes without them.
NEIGHBORS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"

Isolations = dict[Direction, dict[PodFact, list[NetworkPolicy]]]


def blocks(facts: Facts, node: str) -> dict[Key, Block]:
    """Return the tables of *node*, nothing where no policy selects a pod of it."""
    return {
        block.key: block for family in Family for block in _table(facts.of(family), node, family)
    }


def _table(facts: Facts, node: str, family: Family) -> Iterator[Block]:
    selection = Selection(facts)
    isolated = isolations(facts, selection, node)
    if not any(isolated.values()):
        return
    yield _itself((pod for pods in isolated.values() for pod in pods), family)
    first = (ESTABLISHED, NEIGHBORS) if family is Family.IPV6 else (ESTABLISHED,)
    for direction, pods in isolated.items():
        if not pods:
            continue
        hook = f"filter hook forward priority {PRIORITIES[direction]}"
        dispatch = f"{IP[family]} {SIDES[direction]} vmap @{pods_map(direction)}"
        yield base_chain(family, TABLE, direction.lower(), hook, (*first, dispatch))
        yield _pods(direction, pods, family)
        yield from _isolation_chains(direction, pods, family)
        yield from _policy_chains(selection, direction, pods, family)


def isolations(facts: Facts, selection: Selection, node: str) -> Isolations:
    """Return the pods of *node* that are isolated, for each direction, with the policies."""
    found: Isolations = {direction: {} for direction in Direction}
    for policy in facts.policies:
        for pod in selection.pods(policy.metadata.namespace, policy.spec.podSelector):
            if pod.node == node:
                for direction in policy.directions:
                    found[direction].setdefault(pod, []).append(policy)
    return found


def _itself(pods: Iterable[PodFact], family: Family) -> Block:
    pairs = sorted({f"{pod.address} . {pod.address}" for pod in pods})
    kind = f"type {ADDRESS[family]} . {ADDRESS[family]}"
    head = (kind, comment("a pod reaches itself through its Service"))
    return Block(family, Sort.SET, TABLE, ITSELF, head, tuple(pairs))


def _pods(direction: Direction, pods: dict[PodFact, list[NetworkPolicy]], family: Family) -> Block:
    elements = tuple(
        f"{pod.address} {comment(pod.title)} : goto {isolation_chain(direction, _names(policies))}"
        for pod, policies in sorted(pods.items())
    )
    said = comment(f"pods that policies isolate for {direction}")
    head = (f"type {ADDRESS[family]} : verdict", said)
    return Block(family, Sort.MAP, TABLE, pods_map(direction), head, elements)


def _isolation_chains(
    direction: Direction, pods: dict[PodFact, list[NetworkPolicy]], family: Family
) -> Iterator[Block]:
    to_itself = f"{IP[family]} saddr . {IP[family]} daddr @{ITSELF} accept"
    for names, policies in {_names(each): each for each in pods.values()}.items():
        allowing = [policy.name for policy in policies if policy.rules(direction)]
        jumps = [f"jump {policy_chain(direction, name)}" for name in allowing]
        lines = (to_itself, *jumps, f"counter drop {isolated_by(names)}")
        yield chain(family, TABLE, isolation_chain(direction, names), lines)


def _policy_chains(
    selection: Selection,
    direction: Direction,
    pods: dict[PodFact, list[NetworkPolicy]],
    family: Family,
) -> Iterator[Block]:
    """Yield a chain for each policy that allows something, with the sets it looks into."""
    isolated: dict[str, list[PodFact]] = {}
    policies: dict[str, NetworkPolicy] = {}
    for pod, mine in pods.items():
        for policy in mine:
            isolated.setdefault(policy.name, []).append(pod)
            policies[policy.name] = policy
    for name, policy in policies.items():
        said, lines = allowed_by(name), []
        for rule in policy.rules(direction):
            made = matches(
                selection,
                policy.metadata.namespace,
                direction,
                rule.peers,
                rule.ports,
                isolated[name],
                family,
            )
            yield from made.sets
            lines += [f"{match} accept {said}".strip() for match in made.lines]
        if policy.rules(direction):
            unique = tuple(dict.fromkeys(lines))
            yield chain(family, TABLE, policy_chain(direction, name), unique)


def _names(policies: Iterable[NetworkPolicy]) -> tuple[str, ...]:
    return tuple(policy.name for policy in policies)
