"""NetworkPolicies as rules: every flow of every case walked through the text of its two nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from policy_cases import CASES, FLOWS, IN_BOTH, NODES, Asked, Case
from policy_walk import Packet, Walk
from test_policy_decision import facts_of

from netlab import topology
from netlab.model.inventory import inventory
from netlab.policy import Reader
from netlab.policy.naming import selector_words
from netlab.policy.rules import blocks
from netlab.proxy import nft_text
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Sort, difference


def walks(case: Case) -> dict[str, Walk]:
    facts = facts_of(case)
    wanted = Family.IPV6 if case.ipv6 else Family.IPV4
    return {
        node: Walk(one for one in blocks(facts, node).values() if one.family is wanted)
        for node in NODES.values()
    }


def arrives(nodes: dict[str, Walk], case: Case, flow: Asked) -> bool:
    at = case.addresses
    packet = Packet(at[flow.source], at[flow.destination], flow.protocol.lower(), flow.port)
    way = dict.fromkeys(NODES[title[2]] for title in (flow.source, flow.destination))
    return all(nodes[node].passes(packet) for node in way)


@pytest.mark.parametrize("case", IN_BOTH, ids=lambda case: case.name)
def test_every_flow_passes_or_not_as_expected(case: Case) -> None:
    nodes = walks(case)
    assert [flow for flow in FLOWS if arrives(nodes, case, flow) is not case.expected(flow)] == []


@pytest.mark.parametrize("case", IN_BOTH, ids=lambda case: case.name)
def test_what_is_written_reads_back_as_what_is_wanted(case: Case) -> None:
    """As far as the order of a transaction goes: what is referred to is there before."""
    wanted = blocks(facts_of(case), "n1")
    text = nft_text.transaction(list(difference(wanted, {})))
    families = [*Family] if case.ipv6 else [Family.IPV4]
    assert {family for family, *_ in wanted} == {*(families if wanted else ())}
    names = {name for _, _, _, name in wanted}
    seen: set[str] = set()
    for line in text.splitlines():
        verb, kind, _, _, *rest = line.split(" ")
        assert verb == "add"
        if kind in ("chain", "set", "map"):
            seen.add(rest[0])
        for word in rest[1:]:
            if word.startswith("@") or word in names:
                assert word.removeprefix("@") in seen
    assert bool(text) is bool(wanted)


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("name", ["no-policy", "a-policy-that-selects-nobody"])
def test_nothing_is_written_where_nobody_is_isolated(name: str) -> None:
    facts = facts_of(case_named(name))
    assert [blocks(facts, node) for node in NODES.values()] == [{}, {}, {}]


def test_a_node_has_rules_for_its_own_pods_only() -> None:
    facts = facts_of(case_named("from-a-pod-of-the-same-namespace"))
    assert [bool(blocks(facts, node)) for node in NODES.values()] == [True, False, False]


def test_pods_that_the_same_policies_isolate_share_a_chain() -> None:
    found = blocks(facts_of(case_named("every-namespace-by-itself")), "n1").values()
    assert sum(one.name.startswith("ingress-isolated") for one in found) == 3


def test_another_pod_changes_elements_and_no_rule() -> None:
    case = case_named("from-all-pods-of-the-same-namespace")
    objects = case.inventory()
    more = case.pod("x/a")
    more["metadata"]["name"] = "a2"
    more["status"]["podIP"] = "10.244.1.77"
    before = blocks(Reader().facts(objects), "n1")
    after = blocks(Reader().facts(inventory([*objects, more])), "n1")
    changed = [step.block for step in difference(after, before)]
    assert {one.name for one in changed} == {"itself", "ingress-pods", changed[-1].name}
    assert all(one.sort is not Sort.CHAIN for one in changed)


def test_what_a_label_says_cannot_end_a_comment() -> None:
    case = Case(
        "odd",
        {
            "x/odd": {
                "podSelector": {},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": 'b" accept # '}}}]}],
            }
        },
        [],
        {},
    )
    text = nft_text.transaction(list(difference(blocks(facts_of(case), "n1"), {})))
    assert all(line.count('"') % 2 == 0 and '" accept #' not in line for line in text.splitlines())


@pytest.mark.parametrize(
    ("expressions", "words"),
    [
        ([{"key": "a", "operator": "In", "values": ["y", "x"]}], "app=web,a in (x,y)"),
        ([{"key": "a", "operator": "NotIn", "values": ["x"]}], "app=web,a notin (x)"),
        ([{"key": "a", "operator": "Exists"}], "app=web,a"),
        ([{"key": "a", "operator": "DoesNotExist"}], "app=web,!a"),
    ],
    ids=["in", "not-in", "exists", "does-not-exist"],
)
def test_selectors_are_written_as_kubectl_does(
    expressions: list[dict[str, object]], words: str
) -> None:
    from netlab.model.kubernetes import LabelSelector

    assert selector_words(LabelSelector({"app": "web"}, expressions)) == words


@pytest.mark.parametrize(
    "document",
    [
        "spec: {podSelector: {}}",
        "spec: {}",
        "",
        "spec: {podSelector: {}, policyTypes: [Egress, Egress], ingress: [], egress: [{}]}",
        "spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8, except: ['10.1.2.3/16']}}]}]}",
        "spec: {ingress: [{from: [{ipBlock: {cidr: 'fd00::/8', except: ['fd00:1::/64']}}]}]}",
        "spec: {ingress: [{ports: [{}, {protocol: SCTP}, {port: web}, {port: 1, endPort: 9}]}]}",
        "spec: {egress: [{to: [{podSelector: {}, namespaceSelector: null}], ports: null}]}",
    ],
)
def test_what_an_api_server_accepts_is_accepted_and_has_rules(
    tmp_path: Path, document: str
) -> None:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"
    file = tmp_path / "p.yaml"
    file.write_text(head + document)
    declared = topology.load([str(file)])
    assert declared.notes == ()  # it has an effect
    reader = Reader()
    pod = CASES[0].pod("x/a")
    pod["metadata"]["namespace"] = "default"
    found = blocks(reader.facts(inventory([*declared.documents, pod])), "n1")
    assert reader.warnings == []
    assert found
