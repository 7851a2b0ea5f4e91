"""NetworkPolicies in a whole lab: every case by packets, and what no table of pods can tell."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from labs import Cli, eventually, inside, namespaces
from policy_cases import CASES, NODES, TITLES, Case, pod
from policy_cases import namespaces as namespaces_of
from policy_packets import KINDS, SENT, answered

from netlab.kernel.netns import entered
from netlab.lab.live import Live
from netlab.model.kubernetes import Document, registry_key
from netlab.policy.naming import TABLE

pytestmark = pytest.mark.lab

PLAIN = Case("plain", {}, [], {})


def lab_document(name: str) -> Document:
    return {
        "apiVersion": "netlab/v1",
        "kind": "Lab",
        "metadata": {"name": name},
        "nodes": [{"name": node} for node in NODES.values()],
        "network": {"EnableIPv6": True},
    }


class Ground:
    """The lab of nine pods, under one case after another."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.live = Live(cli.lab)
        pods = {f"{pod.namespace}/{pod.name}": pod for pod in self.live.cluster().pods}
        self.addresses: Mapping[str, str] = {title: pod.ip for title, pod in pods.items()}
        self.addresses6: Mapping[str, str] = {title: pod.ip_v6 for title, pod in pods.items()}
        self._held: dict[str, Document] = {}
        self._labelled: set[str] = set()
        self._number = 0

    def netns(self, title: str) -> str:
        namespace, _, name = title.partition("/")
        return self.cli.netns(NODES[name], namespace, name)

    def of(self, case: Case) -> Mapping[str, str]:
        return self.addresses6 if case.ipv6 else self.addresses

    def take(self, case: Case) -> None:
        """Have the lab hold the policies and labels of *case*, and nothing of the one before."""
        policies = {registry_key(one): one for one in case.documents(self.of(case))}
        now = labelled(case)
        others = {title: now[title] for title in {*self._labelled, *case.labels}}
        self.live.delete([one for key, one in self._held.items() if key not in policies])
        self.live.apply([*policies.values(), *others.values()])
        assert self.live.wait(revision=self.live.revision()) == []
        self._held, self._labelled = policies, set(case.labels)

    def check(self, case: Case) -> list[str]:
        """Return the flows that are not as *case* expects."""
        self._number += 1
        found = answered(self.of(case), self.netns, expected=case.expected, number=self._number)
        return [
            f"{flow}: {'answered' if flow in found else 'not answered'}"
            for flow in SENT
            if (flow in found) is not case.expected(flow)
        ]


def labelled(case: Case) -> dict[str, Document]:
    """Return the pods and namespaces as *case* labels them, by what it calls them."""
    found = {one["metadata"]["name"]: one for one in namespaces_of(case)}
    for title in TITLES:
        found[title] = pod(*title.split("/"), protocols=KINDS)
        found[title]["metadata"]["labels"] |= case.labels.get(title, {})
    return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Ground]:
    cli = Cli(f"np{worker_id.removeprefix('gw')}", tmp_path_factory.mktemp("lab"))
    documents = [lab_document(cli.lab), *namespaces_of(PLAIN)]
    documents += [pod(*title.split("/"), protocols=KINDS) for title in TITLES]
    # JSON: in YAML as netlab reads it, y is a boolean.
    cli("up", cli.file("---\n".join(f"{json.dumps(one)}\n" for one in documents)))
    try:
        yield Ground(cli)
    finally:
        cli("down")
    assert namespaces(cli.lab) == []


def test_every_case_holds_for_packets(ground: Ground) -> None:
    wrong = {}
    for case in [PLAIN, *CASES]:
        ground.take(case)
        if differing := ground.check(case):
            wrong[case.name] = differing
    assert wrong == {}


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize(
    "name",
    [
        *("default-deny-both", "from-a-pod-of-the-same-namespace", "a-chain-of-three"),
        *("all-but-a-nodes-and-another", "to-a-named-port-of-a-block", "outside-the-cluster-only"),
        *("a-named-port-is-the-destinations", "prefixes-of-ipv6-mean-nobody-here"),
    ],
)
def test_a_case_holds_for_packets_by_ipv6(ground: Ground, name: str) -> None:
    case = case_named(name).by_ipv6()
    ground.take(case)
    for title in TITLES:  # who is a neighbour must be found out under these policies
        inside(ground.netns(title), "ip", "-6", "neigh", "flush", "all")
    assert ground.check(case) == []


def test_policies_hold_in_another_proxy_mode(ground: Ground) -> None:
    some = ["default-deny-both", "a-named-port-is-the-destinations", "a-chain-of-three"]
    ground.live.serve_by("nftables")
    try:
        for case in map(case_named, some):
            ground.take(case)
            assert ground.check(case) == [], case.name
    finally:
        ground.live.serve_by("iptables")


@pytest.mark.stock
def test_packets_of_sctp(ground: Ground) -> None:
    if "SCTP" not in KINDS:
        pytest.skip("this kernel lacks SCTP")
    ground.take(case_named("sctp-is-not-tcp"))
    assert ground.check(case_named("sctp-is-not-tcp")) == []


def connected(ground: Ground, source: str, address: str, port: int = 80) -> bool:
    """Return whether a connection comes about from a pod or, `node/n1`, from a node."""
    name = ground.cli.netns(source[5:]) if source.startswith("node/") else ground.netns(source)
    with entered(name), socket.socket() as sock:
        sock.settimeout(0.3)
        return sock.connect_ex((address, port)) == 0


def test_a_pods_own_node_reaches_it_and_another_does_not(ground: Ground) -> None:
    ground.take(case_named("default-deny-both"))
    address = ground.addresses["x/a"]
    assert connected(ground, "node/n1", address)
    assert not connected(ground, "node/n2", address)


def service(name: str, pods: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "x"},
        "spec": {
            "type": "NodePort",
            "selector": {"pod": pods},
            "ports": [{"port": 8080, "targetPort": 80}],
        },
    }


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_a_service_is_asked_as_the_pod_behind_it(ground: Ground, mode: str) -> None:
    """Peers are pods: who may reach the pod may reach it through its Service, and who not, not."""
    ground.live.serve_by(mode)
    ground.take(case_named("from-a-pod-of-the-same-namespace"))
    ground.live.apply([service("front", "a")])
    try:
        assert ground.live.wait(revision=ground.live.revision()) == []
        stored = ground.cli.get("service", "front", "-n", "x")
        address = stored["spec"]["clusterIP"]
        assert connected(ground, "x/b", address, 8080)
        assert not connected(ground, "x/c", address, 8080)
        assert not connected(ground, "y/a", address, 8080)  # on its node
        # A pod reaches itself, isolated or not, and by whatever name it calls itself.
        assert connected(ground, "x/a", address, 8080)
        ground.take(case_named("default-deny-both"))
        assert connected(ground, "x/a", address, 8080)
        assert not connected(ground, "x/b", address, 8080)
    finally:
        ground.live.delete([service("front", "a")])
        ground.live.serve_by("iptables")


def test_a_connection_that_was_allowed_goes_on_and_a_new_one_is_not(ground: Ground) -> None:
    ground.take(PLAIN)
    with entered(ground.netns("x/b")):
        held = socket.create_connection((ground.addresses["x/a"], 80), 3)
    with held:
        ground.take(case_named("default-deny-both"))
        assert not connected(ground, "x/b", ground.addresses["x/a"])
        held.sendall(b"still there?\n")
        assert json.loads(held.makefile().readline())["pod"] == "a"


def test_why_names_the_policies_that_isolate(ground: Ground) -> None:
    ground.take(case_named("policies-of-overlapping-pods-add-up"))
    told = json.loads(ground.cli("why", "y/a", "x/a:81", "-o", "json", code=1).stdout)
    cause = told["causes"][0]
    assert cause["kind"] == "policy"
    assert cause["place"]["name"] == "n1"
    assert cause["what"] == (
        "NetworkPolicies x/a-from-y, x/ab-from-z isolate x/a for Ingress, and none of them allows "
        "81/TCP from y/a"
    )
    assert (
        "NetworkPolicy x/a-from-y allows 80/TCP from all pods of namespaces ns=y" in cause["proof"]
    )
    assert (
        'namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}'
        in cause["repair"][-1]
    )


def test_a_trace_tells_which_policy_allowed(ground: Ground) -> None:
    ground.take(case_named("policies-of-overlapping-pods-add-up"))
    told = ground.cli("trace", "y/a", "x/a:80").stdout
    assert "=> NetworkPolicy x/a-from-y allows it" in told
    denied = ground.cli("trace", "y/a", "x/b:80", code=None).stdout
    assert "=> NetworkPolicy x/ab-from-z: none allows it" in denied


def test_a_table_that_somebody_deletes_comes_back(ground: Ground) -> None:
    case = case_named("default-deny-ingress")
    ground.take(case)
    inside(ground.cli.netns("n1"), "nft", "delete", "table", "ip", TABLE)
    eventually(lambda: not connected(ground, "y/a", ground.addresses["x/a"]))
    assert "repaired: netlab-policy ingress: 2 rules" in ground.cli.log()


def test_without_policies_there_is_no_table(ground: Ground) -> None:
    ground.take(case_named("default-deny-both"))
    ground.take(PLAIN)
    for node in NODES.values():
        assert TABLE not in inside(ground.cli.netns(node), "nft", "list", "tables")


def test_get_and_describe_show_policies_as_kubectl_does(ground: Ground) -> None:
    ground.take(case_named("a-rule-for-each-peer-and-port"))
    assert ground.cli("get", "netpol", "-n", "x").stdout.splitlines()[0].split() == [
        "NAME",
        "POD-SELECTOR",
        "AGE",
    ]
    assert ground.cli("get", "netpol", "-n", "x").stdout.splitlines()[1].split()[:2] == [
        "two",
        "pod=a",
    ]
    told = ground.cli("describe", "netpol", "two", "-n", "x").stdout
    assert (
        "\n".join(
            (
                "  PodSelector:     pod=a",
                "  Allowing ingress traffic:",
                "    To Port: 80/TCP",
                "    From:",
                "      PodSelector: pod=b",
                "    ----------",
                "    To Port: 81/TCP",
                "    From:",
                "      NamespaceSelector: ns=y",
                "  Not affecting egress traffic",
                "Policy Types:",
            )
        )
        in told
    )
    assert f"  x/a  {ground.addresses['x/a']}, {ground.addresses6['x/a']}  n1" in told


def test_verify_proves_a_policy_by_packets_and_sees_one_that_does_not_hold(ground: Ground) -> None:
    def proven(code: int) -> dict[str, Any]:
        told = ground.cli("verify", "network-policy", "-o", "json", code=code).stdout
        return dict(json.loads(told)["paths"][0])

    ground.take(case_named("from-a-pod-of-the-same-namespace"))
    evidence = " ".join(proven(0)["evidence"])
    assert "x/b -> x/a 80/tcp: answered; NetworkPolicy x/a-from-b allows it" in evidence
    assert "dropped on n1" in evidence
    agent = ground.cli.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    try:
        inside(ground.cli.netns("n1"), "nft", "delete", "table", "ip", TABLE)
        broken = " ".join(proven(1)["evidence"])
    finally:
        os.kill(agent, signal.SIGCONT)
    assert "answered, but by no rule of NetworkPolicy x/a-from-b" in broken


def test_verify_says_what_it_needs_where_no_policy_is(ground: Ground) -> None:
    ground.take(PLAIN)
    told = json.loads(ground.cli("verify", "network-policy", "-o", "json").stdout)["paths"][0]
    assert told["outcome"] == "skip"
    assert told["evidence"][0].startswith("needs a NetworkPolicy that isolates a pod")
