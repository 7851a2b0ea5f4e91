"""NetworkPolicies told: what a rule of theirs is for, and why one dropped a packet."""

from __future__ import annotations

import pytest
from policy_cases import ADDRESSES, CASES, Case

from netlab.cluster import cluster
from netlab.journeys import End, Fate, Kind, Place, Track
from netlab.model.inventory import inventory
from netlab.model.policies import Direction
from netlab.packets import Flow, Leg, Protocol, RuleHit
from netlab.policy.naming import TABLE, isolation_chain, pods_map, policy_chain
from netlab.policy.rules import ESTABLISHED
from netlab.telling.naming import Names
from netlab.telling.policies import PolicyMeanings, is_of_policies
from netlab.topology import labdoc
from netlab.tracing import denied
from netlab.tracing.stops import Stop

LAB = labdoc.lab_from({"metadata": {"name": "t"}, "nodes": [{"name": "n1"}, {"name": "n2"}]})
NAMES = ("x/a-from-y", "x/ab-from-z")
ISOLATED = isolation_chain(Direction.INGRESS, NAMES)
ALLOWING = policy_chain(Direction.INGRESS, NAMES[0])


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


OVERLAPPING = case_named("policies-of-overlapping-pods-add-up")


def hit(chain: str, rule: str, verdict: str, *, table: str = TABLE) -> RuleHit:
    flow = Flow(ADDRESSES["y/a"], ADDRESSES["x/a"], Protocol.TCP, 1234, 81)
    return RuleHit("t.n1", "ip", table, "forward", "ingress", chain, rule, verdict, flow)


@pytest.mark.parametrize(
    ("chain", "rule", "verdict", "meaning"),
    [
        (
            "ingress",
            f"ip daddr vmap @{pods_map(Direction.INGRESS)}",
            f"goto {ISOLATED}",
            "isolated by NetworkPolicy x/a-from-y, x/ab-from-z",
        ),
        (ISOLATED, f"jump {ALLOWING}", f"jump {ALLOWING}", "NetworkPolicy x/a-from-y"),
        (ALLOWING, "accept", "accept", "NetworkPolicy x/a-from-y allows it"),
        (ISOLATED, "accept", "accept", "a pod reaches itself"),
        (
            ISOLATED,
            "counter drop",
            "drop",
            "NetworkPolicy x/a-from-y, x/ab-from-z: none allows it",
        ),
        (
            "ingress",
            ESTABLISHED,
            "accept",
            "no first packet: policies are asked when a connection begins",
        ),
        ("ingress-isolated-gone", "counter drop", "drop", ""),
    ],
    ids=["isolated", "policy", "allowed", "itself", "denied", "established", "unknown"],
)
def test_a_rule_is_told_by_the_policies_there_are(
    chain: str, rule: str, verdict: str, meaning: str
) -> None:
    meanings = PolicyMeanings(OVERLAPPING.inventory(), ["n1", "n2"])
    assert meanings.of(hit(chain, rule, verdict)) == meaning


def test_rules_of_other_tables_are_not_of_policies() -> None:
    assert is_of_policies(hit("ingress", "", "accept"))
    assert not is_of_policies(hit("ingress", "", "accept", table="kube-proxy"))


def cause(case: Case, flow: Flow, chain: str) -> denied.Cause:
    seen = cluster(LAB, case.inventory(), leases={})
    place = Place("t.n1", "node", "n1")
    end = End(place, Fate.DROPPED)
    dropped = hit(chain, "counter drop", "drop")
    stop = Stop(Track("SYN", Leg.REQUEST, flow, (end,)), end, None, (dropped,), flow, (place,))
    return denied.cause_of(seen, Names(seen), stop, dropped)


def flow(source: str, destination: str, port: int, protocol: Protocol = Protocol.TCP) -> Flow:
    return Flow(ADDRESSES[source], ADDRESSES[destination], protocol, 1234, port)


def test_a_denial_names_who_isolates_what_they_allow_and_what_would() -> None:
    found = cause(OVERLAPPING, flow("y/a", "x/a", 81), ISOLATED)
    assert found.kind is Kind.POLICY
    assert found.what == (
        "NetworkPolicies x/a-from-y, x/ab-from-z isolate x/a for Ingress, and none of them allows "
        "81/TCP from y/a"
    )
    assert found.proof[1:] == (
        "NetworkPolicy x/a-from-y allows 80/TCP from all pods of namespaces ns=y",
        "NetworkPolicy x/ab-from-z allows 81/TCP from all pods of namespaces ns=z",
    )
    assert found.repair[-1].endswith(
        'ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}, '
        "podSelector: {matchLabels: {pod: a}}}], ports: [{port: 81}]}]"
    )


def test_a_denial_of_egress_speaks_of_where_it_goes() -> None:
    case = case_named("default-deny-egress")
    chain = isolation_chain(Direction.EGRESS, ["x/deny"])
    found = cause(case, flow("x/a", "x/b", 80, Protocol.UDP), chain)
    assert found.what == (
        "NetworkPolicy x/deny isolates x/a for Egress, and it does not allow 80/UDP to x/b"
    )
    assert found.proof[1:] == ("NetworkPolicy x/deny allows no egress at all",)
    assert found.repair[-1].endswith(
        "egress: [{to: [{podSelector: {matchLabels: {pod: b}}}], "
        "ports: [{port: 80, protocol: UDP}]}]"
    )


def test_a_rule_that_no_policy_asks_for_any_more_is_told_as_such() -> None:
    found = cause(case_named("no-policy"), flow("y/a", "x/a", 81), ISOLATED)
    assert found.kind is Kind.POLICY
    assert "no present policy asks for" in found.what


def test_what_would_repair_it_does() -> None:
    """The rule that is suggested, put into a policy, allows the flow."""
    import yaml

    for case, ends in (
        (OVERLAPPING, flow("y/a", "x/a", 81)),
        (case_named("default-deny-egress"), flow("x/a", "y/b", 80, Protocol.UDP)),
        (case_named("default-deny-ingress"), flow("x/c", "x/b", 81)),
    ):
        facts = denied.Reader().facts(case.inventory())
        side = denied.decision(facts, denied.asked(ends)).denying
        assert side is not None
        assert side.pod is not None
        chain = isolation_chain(side.direction, side.isolating)
        rule = cause(case, ends, chain).repair[-1].partition("in another: ")[2]
        spec = {"podSelector": {}, "policyTypes": [str(side.direction)], **yaml.safe_load(rule)}
        more = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "more", "namespace": side.pod.namespace},
            "spec": spec,
        }
        after = denied.Reader().facts(inventory([*case.inventory(), more]))
        assert denied.decision(after, denied.asked(ends)).allowed
