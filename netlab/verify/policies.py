"""The path that NetworkPolicies decide: whom they allow gets through, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from netlab.cluster import PodState
from netlab.model.lab import like
from netlab.packets import Outcome, RuleHit
from netlab.policy import Decision, Facts, Flow, Reader, decision
from netlab.policy.naming import policy_chain
from netlab.probe import Shot
from netlab.proxy.addresses import ANYWHERE, Family
from netlab.telling.policies import is_of_policies
from netlab.verify.context import (
    Checked,
    Context,
    Failure,
    Listener,
    Skip,
    listeners,
    required,
    usable,
)
from netlab.verify.pods import by

TARGETS = 2  # isolated pods that are asked, at most


class Pair(NamedTuple):
    """A pod that asks a port of an isolated one, and what the policies make of it."""

    source: PodState
    target: Listener
    decided: Decision
    family: Family

    @property
    def words(self) -> str:
        port = f"{self.target.port}/{self.target.protocol}"
        return f"{self.source.title} -> {self.target.pod.title} {port}{by(self.family)}"


def network_policy(context: Context) -> Checked:
    facts = Reader().facts(context.cluster.documents)
    found = [
        pairs
        for family in context.families
        for pairs in islice(_targets(context, facts, family), TARGETS)
    ]
    if not found:
        raise Skip(
            "needs a NetworkPolicy that isolates a pod with a port, a pod that it allows there and "
            "one that it does not"
        )
    checked = Checked()
    for allowed, denied in found:
        _passes(context, allowed, checked)
        _stops(context, denied, checked)
    return checked


def _targets(context: Context, facts: Facts, family: Family) -> Iterator[tuple[Pair, Pair]]:
    """Yield, for each port of an isolated pod, a pair that is allowed and one that is not."""
    pods = usable(context.cluster)
    isolated = [pod for pod in pods if pod not in context.pods]
    for target in (one for pod in isolated for one in listeners(pod)):
        pairs = [
            Pair(source, target, decision(facts, _flow(source, target, family)), family)
            for source in pods
            if context.is_here(source.node) and source.netns != target.pod.netns
        ]
        inward = [pair for pair in pairs if pair.decided.ingress.isolating]
        allowed = next((pair for pair in inward if pair.decided.allowed), None)
        denied = next((pair for pair in inward if not pair.decided.ingress.allowed), None)
        if allowed and denied:
            yield allowed, denied


def _flow(source: PodState, target: Listener, family: Family) -> Flow:
    here, there = (like(ANYWHERE[family], pod.ips) for pod in (source, target.pod))
    return Flow(here, there, target.protocol.upper(), target.port)


def _shot(context: Context, pair: Pair) -> Shot:
    target = pair.target
    return context.shoot(
        context.pod_place(pair.source, pair.family),
        context.pod_place(target.pod, pair.family),
        protocol=target.protocol,
        port=target.port,
    )


def _passes(context: Context, pair: Pair, checked: Checked) -> None:
    shot = required(_shot(context, pair))
    side = pair.decided.ingress
    chains = {policy_chain(side.direction, name): name for name in side.allowing}
    hit = next((one for one in _policies_hits(shot) if one.chain in chains), None)
    if hit is None:
        raise Failure(
            f"{pair.words}: answered, but by no rule of NetworkPolicy {', '.join(side.allowing)}",
            last_seen=shot.expectation.request[-1].where,
            expected_next=f"a rule of {', '.join(chains)} accepts it",
        )
    checked.evidence.append(
        f"{pair.words}: answered; NetworkPolicy {chains[hit.chain]} allows it, by `{hit.rule}`"
    )
    checked.took(shot)


def _stops(context: Context, pair: Pair, checked: Checked) -> None:
    shot = _shot(context, pair)
    side = pair.decided.denying
    assert side is not None and side.pod is not None
    by = f"NetworkPolicy {', '.join(side.isolating)}"
    last = next((one for one in reversed(shot.sightings) if one.flow == shot.flow), None)
    where = last.where if last else ""
    arrived = any(one.netns == pair.target.pod.netns for one in shot.sightings)
    if arrived or shot.verdict.outcome is Outcome.PASS:
        raise Failure(
            f"{pair.words}: arrived, though {by} isolates {side.pod.title} and does not allow it",
            last_seen=where,
            expected_next=f"a rule of {by} on {side.pod.node} drops it",
        )
    node = context.lab.netns(side.pod.node)
    hits = [one for one in _policies_hits(shot) if one.netns == node and one.verdict == "drop"]
    if not hits:
        raise Failure(
            f"{pair.words}: did not arrive, but no rule of {by} dropped it",
            last_seen=where,
            expected_next=f"a rule of {by} on {side.pod.node} drops it",
        )
    checked.evidence.append(
        f"{pair.words}: dropped on {side.pod.node}, last seen at {where}; {by} isolates "
        f"{side.pod.title}, by `{hits[0].rule}`"
    )


def _policies_hits(shot: Shot) -> list[RuleHit]:
    return [hit for hit in shot.hits if is_of_policies(hit)]
