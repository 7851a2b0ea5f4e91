"""Paths from outside to a port of every node."""

from __future__ import annotations

from collections.abc import Sequence

from netlab import beyond, world
from netlab.cluster import NodeState
from netlab.model.lab import like
from netlab.packets import Outcome
from netlab.paths import Place
from netlab.paths.places import facing, of_member, of_node
from netlab.paths.rules import published
from netlab.proxy import Decision, Frontend, Kind, Policy
from netlab.proxy import Verdict as Sentence
from netlab.proxy.addresses import ANYWHERE
from netlab.verify import serviceprobe
from netlab.verify.context import Checked, Context, Refuted, Skip
from netlab.verify.serving import Asking, Decisions, frontends, most_served, protocol_of, watch

NODES = 5  # at most so many are asked


def nodeport(context: Context) -> Checked:
    decisions = Decisions(context)
    client, nodes = _client_and_nodes(context)
    if not nodes:
        raise Skip("needs a node")
    everywhere, local = [], []
    for family in context.families:
        found = [
            one
            for one in frontends(context, decisions.of(nodes[0]), Kind.NODE_PORT, family)
            if one.service.reachable
            and (client.node or published(context.lab, one.port, protocol_of(one)))
        ]
        everywhere += most_served(one for one in found if not _is_local(one))
        local += _telling([one for one in found if _is_local(one)], nodes)
    if not everywhere:
        raise Skip("needs a NodePort Service with an endpoint, its port in gateway.publish")
    groups = [
        [
            _asking(context, decisions, client, frontend, node)
            for node in _chosen(nodes, frontend)
            if not _misleads(_of_node(frontend, decisions.of(node), node))
        ]
        for frontend in (*everywhere, *local)
    ]
    checked = Checked()
    watch(one for group in groups for one in group)
    for group in groups:
        _ask(group, checked)
    if not local:
        checked.evidence.append("no Service with externalTrafficPolicy Local: not tried")
    untried = set(context.families) - {one.service.family for one in (*everywhere, *local)}
    checked.evidence += [f"no Service has node ports of {one}: not tried" for one in untried]
    return checked


def _client_and_nodes(context: Context) -> tuple[Place, list[NodeState]]:
    """Return who asks, and whom: the client outside each node. A machine that has no client, or
    whose gateway lets nothing in, asks the others."""
    nodes = [node for node in context.cluster.nodes if node.subnet]
    home = beyond.outside_home(context.lab)
    if home is None or (home.name == context.here and context.lab.gateway.publish):
        return of_member(context.cluster, world.CLIENT), nodes
    client = of_node(context.nodes[0])
    return client, [node for node in nodes if node.netns != client.netns]


def _is_local(frontend: Frontend) -> bool:
    """Return whether clients from outside are only sent to endpoints of the node they ask."""
    return frontend.policy is Policy.LOCAL


def _telling(found: Sequence[Frontend], nodes: Sequence[NodeState]) -> list[Frontend]:
    """Return one of each protocol: rather one that a node has no endpoint of, and must drop."""
    lacking = most_served(one for one in found if len(_networks(one)) < len(nodes))
    served = {protocol_of(one) for one in lacking}
    return [*lacking, *most_served(one for one in found if protocol_of(one) not in served)]


def _networks(frontend: Frontend) -> set[str]:
    """Return the leases that endpoints of *frontend* are in, as `10.244.1`."""
    return {_network(one.address) for one in frontend.service.known}


def _network(address: str) -> str:
    return address.rpartition("::" if ":" in address else ".")[0]


def _chosen(nodes: list[NodeState], frontend: Frontend) -> list[NodeState]:
    """Return at most NODES nodes, with and without an endpoint among them."""
    having = _networks(frontend)

    def serves(node: NodeState) -> bool:
        return any(_network(one) in having for one in node.bridge_addresses)

    ordered = sorted(nodes, key=serves)
    return nodes if len(nodes) <= NODES else [*ordered[: NODES // 2], *ordered[-(NODES // 2) :]]


def _asking(
    context: Context, decisions: Decisions, client: Place, frontend: Frontend, node: NodeState
) -> Asking:
    """Return flows from *client* to *frontend* as *node* has it."""
    made, address = decisions.of(node), _address(frontend, node)
    here = _of_node(frontend, made, node)
    return Asking(
        context,
        facing(context.cluster, client, address),
        here,
        node=node,
        made=made,
        address=address,
    )


def _address(frontend: Frontend, node: NodeState) -> str:
    """Return the node's address of the family of *frontend*."""
    return like(ANYWHERE[frontend.service.family], node.declared.addresses)


def _of_node(frontend: Frontend, made: Decision, node: NodeState) -> Frontend:
    """Return the NodePort *frontend* as *node* has it, at its address."""
    return next(
        one
        for one in made.frontends
        if one.kind is Kind.NODE_PORT
        and one.service.family is frontend.service.family
        and (one.port, one.service.protocol) == (frontend.port, frontend.service.protocol)
        and one.address in ("", _address(frontend, node))
    )


def _misleads(frontend: Frontend) -> bool:
    """Return whether clients from outside are sent where no answer can come back from: without an
    endpoint here, ipvs mode has all of them, for the pods' sake."""
    here = frontend.ways[0].policy if len(frontend.ways) == 1 else frontend.policy
    return here is not frontend.policy


def _ask(group: Sequence[Asking], checked: Checked) -> None:
    """Ask each node until all was seen that clients there are to see. Raises Refuted, Failure.

    The rules are told of the first node that serves, and of the first that does not.
    """
    told: set[Sentence] = set()
    for one in group:
        rules = one.fate.verdict not in told
        told.add(one.fate.verdict)
        if one.fate.verdict is Sentence.ENDPOINTS:
            seen = one.one_of_each(rules=rules)
            checked.evidence += seen.evidence
            checked.passages += seen.passages
        else:
            _dropped(one, checked, rules=rules)


def _dropped(one: Asking, checked: Checked, *, rules: bool) -> None:
    """Ask a node that has no endpoint of its own, and hear nothing. Raises Refuted, Failure."""
    asked = one.ask()
    if asked.shot.verdict.outcome is not Outcome.PASS:
        raise Refuted(asked.shot.verdict)
    hit = serviceprobe.ending(asked)
    refused = asked.shot.answer.refused if asked.shot.answer else ""
    if hit is None or refused or "reject" in hit.rule.lower():
        raise one.failure(
            f"ended by {hit or 'no known rule'}"
            + (f", the client was told {refused}" if refused else ""),
            expected=f"a rule for {one.frontend.service.text} that drops it, in silence",
        )
    line = f"{one.title}: dropped in silence, as {one.node.name} has no endpoint"
    checked.evidence += [line, *(serviceprobe.by_rules(asked) if rules else [])]
    checked.passages += asked.shot.verdict.passages
