"""NetworkPolicies decided: every flow of every case, and what the cases do not reach."""

from __future__ import annotations

import pytest
from policy_cases import ADDRESSES, CASES, FLOWS, IN_BOTH, Case

from netlab.model.inventory import inventory
from netlab.policy import Facts, Flow, Reader, decision
from netlab.policy.facts import PodFact, pod_fact

NODE = {"n1": ("192.168.50.11", "10.244.1.1")}


def facts_of(case: Case) -> Facts:
    reader = Reader()
    found = reader.facts(case.inventory())
    assert reader.warnings == []
    return found


@pytest.mark.parametrize("case", IN_BOTH, ids=lambda case: case.name)
def test_every_flow_is_decided_as_expected(case: Case) -> None:
    facts, at = facts_of(case), case.addresses
    wrong = [
        flow
        for flow in FLOWS
        if decision(
            facts, Flow(at[flow.source], at[flow.destination], flow.protocol, flow.port)
        ).allowed
        is not case.expected(flow)
    ]
    assert wrong == []


def test_no_two_cases_have_one_name() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 40


def named(name: str) -> Facts:
    return facts_of(next(case for case in CASES if case.name == name))


def test_a_denial_names_the_policies_that_isolate() -> None:
    facts = named("policies-add-up")
    found = decision(facts, Flow(ADDRESSES["y/a"], ADDRESSES["x/b"], "TCP", 80))
    assert found.denying is found.ingress
    assert found.ingress.isolating == ("x/deny",)
    assert found.ingress.allowing == ()


def test_an_allowance_names_the_policies_that_allow() -> None:
    facts = named("policies-add-up")
    found = decision(facts, Flow(ADDRESSES["y/a"], ADDRESSES["x/a"], "TCP", 80))
    assert found.denying is None
    assert found.ingress.isolating == ("x/a-from-everybody", "x/deny")
    assert found.ingress.allowing == ("x/a-from-everybody",)


@pytest.mark.parametrize("address", NODE["n1"])
def test_a_pods_own_node_reaches_it_and_is_reached(address: str) -> None:
    facts = named("default-deny-both")
    for ends in ((address, ADDRESSES["x/a"]), (ADDRESSES["x/a"], address)):
        assert not decision(facts, Flow(*ends, "TCP", 80)).allowed
        assert decision(facts, Flow(*ends, "TCP", 80), nodes=NODE).allowed
    # n1 is not the node of x/b
    assert not decision(facts, Flow(address, ADDRESSES["x/b"], "TCP", 80), nodes=NODE).allowed


def test_a_protocol_without_ports_needs_a_rule_without_ports() -> None:
    by_port, by_peer = named("two-ports"), named("from-a-pod-of-the-same-namespace")
    ping = Flow(ADDRESSES["x/b"], ADDRESSES["x/a"], "ICMP")
    assert not decision(by_port, ping).allowed
    assert decision(by_peer, ping).allowed


def test_an_address_outside_is_no_pod_to_any_selector() -> None:
    outside = Flow("203.0.113.10", ADDRESSES["x/a"], "TCP", 80)
    assert not decision(named("from-all-namespaces"), outside).allowed
    assert decision(named("everywhere"), outside).allowed


def test_a_pod_with_host_network_is_no_pod_to_policies() -> None:
    document = CASES[0].pod("x/a")
    assert isinstance(pod_fact(document), PodFact)
    document["spec"]["hostNetwork"] = True
    assert pod_fact(document) is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_came_to_its_end_has_given_its_address_back(phase: str) -> None:
    document = CASES[0].pod("x/a")
    document["status"]["phase"] = phase
    assert pod_fact(document) is None


def test_a_policy_that_cannot_be_read_is_told_and_the_others_hold() -> None:
    case = next(case for case in CASES if case.name == "default-deny-ingress")
    odd = {**case.documents(ADDRESSES)[0], "metadata": {"namespace": "x", "name": "odd"}}
    for spec in (
        {"podSelector": {}, "policyTypes": ["Sideways"]},
        {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]},
        {"podSelector": {}, "ingress": [{"ports": [{"protocol": "} accept"}]}]},
    ):
        reader = Reader()
        facts = reader.facts(inventory([*case.inventory(), {**odd, "spec": spec}]))
        assert [policy.name for policy in facts.policies] == ["x/deny"]
        assert len(reader.warnings) == 1
        assert reader.warnings[0].startswith("NetworkPolicy x/odd: ")


def test_what_is_read_again_is_what_changed() -> None:
    case = next(case for case in CASES if case.name == "default-deny-ingress")
    reader = Reader()
    objects = case.inventory()
    first = reader.facts(objects)
    assert reader.facts(objects) is first
    probed = case.pod("x/a")
    probed["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    assert reader.facts(objects.altered({"/registry/pods/x/a": probed})) == first
    moved = case.pod("x/a")
    moved["status"]["podIP"] = "10.244.1.9"
    assert reader.facts(objects.altered({"/registry/pods/x/a": moved})) != first


def test_without_policies_pods_are_not_read() -> None:
    assert Reader().facts(Case("none", {}, [], {}).inventory()) == Facts()
