"""Paths from outside to a port of every node."""

from __future__ import annotations

from collections.abc import Sequence

from netlab import world
from netlab.cluster import NodeState
from netlab.packets import Outcome
from netlab.paths import Place
from netlab.paths.places import of_member, of_node
from netlab.paths.rules import published
from netlab.proxy import Decision, Frontend, Kind, Policy
from netlab.proxy import Verdict as Sentence
from netlab.verify import serviceprobe
from netlab.verify.context import Checked, Context, Refuted, Skip
from netlab.verify.serving import Asking, Decisions, frontends, most_served, protocol_of, watch

NODES = 5  # at most so many are asked


def nodeport(context: Context) -> Checked:
    decisions = Decisions(context)
    client, nodes = _client_and_nodes(context)
    if not nodes:
        raise Skip("needs a node")
    found = [
        one
        for one in frontends(context, decisions.of(nodes[0]), Kind.NODE_PORT)
        if one.service.reachable
        and (client.node or published(context.lab, one.port, protocol_of(one)))
    ]
    everywhere = most_served(one for one in found if not _is_local(one))
    local = _telling([one for one in found if _is_local(one)], nodes)
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
    return checked


def _client_and_nodes(context: Context) -> tuple[Place, list[NodeState]]:
    """Return who asks, and whom: the client outside each node; in a lab of several machines the one
    we are on the others."""
    nodes = [node for node in context.cluster.nodes if node.subnet]
    if not context.here:
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
    return {one.address.rpartition(".")[0] for one in frontend.service.known}


def _chosen(nodes: list[NodeState], frontend: Frontend) -> list[NodeState]:
    """Return at most NODES nodes, with and without an endpoint among them."""
    having = _networks(frontend)
    ordered = sorted(nodes, key=lambda node: node.bridge_address.rpartition(".")[0] in having)
    return nodes if len(nodes) <= NODES else [*ordered[: NODES // 2], *ordered[-(NODES // 2) :]]


def _asking(
    context: Context, decisions: Decisions, client: Place, frontend: Frontend, node: NodeState
) -> Asking:
    """Return flows from *client* to *frontend* as *node* has it."""
    made = decisions.of(node)
    here = _of_node(frontend, made, node)
    return Asking(context, client, here, node=node, made=made, address=node.address)


def _of_node(frontend: Frontend, made: Decision, node: NodeState) -> Frontend:
    """Return the NodePort *frontend* as *node* has it, at its address."""
    return next(
        one
        for one in made.frontends
        if one.kind is Kind.NODE_PORT
        and (one.port, one.service.protocol) == (frontend.port, frontend.service.protocol)
        and one.address in ("", node.address)
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
