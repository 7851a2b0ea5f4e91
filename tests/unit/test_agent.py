"""What the agent's loops decide without a kernel: status, problems, addresses, rest."""

from __future__ import annotations

import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from netlab import cni, controllers, desired, world
from netlab.agent.control_plane import PODS_PORTION, PORTION, portions
from netlab.agent.loop import Loop
from netlab.agent.podstatus import pod_status
from netlab.agent.reports import NodeReport, ServicesReport, fingerprint, policies_fingerprint
from netlab.agent.state import State
from netlab.agent.summary import status
from netlab.cluster import PodState, cluster
from netlab.controllers import Change, Verb
from netlab.errors import NetlabError
from netlab.flannel.config import resolve
from netlab.flannel.lease import Lease
from netlab.model.inventory import inventory
from netlab.model.kubernetes import Container, Meta
from netlab.model.lab import Gateway, Lab, LabNode, Master, Network, Segment, Underlay
from netlab.model.modes import Mode
from netlab.objects import Address, FdbEntry, IptablesChain, Route, Veth, Vxlan
from netlab.proxy.options import options_of

LAB = Lab(
    metadata=Meta(name="t"),
    underlay=Underlay(segments=[Segment(name="lan", cidr="192.168.50.0/24")]),
    master=Master(address="192.168.50.10"),
    nodes=[LabNode(name=f"n{i}", address=f"192.168.50.{10 + i}") for i in (1, 2)],
    network=Network(Network="10.244.0.0/16"),
    gateway=Gateway(address="192.168.50.1", publish=["30000-32767/tcp"]),
)
OPTIONS = options_of(LAB)
LEASES = {
    "192.168.50.11": ("10.244.1.0/24", "02:00:00:00:00:01"),
    "192.168.50.12": ("10.244.2.0/24", "02:00:00:00:00:02"),
}


NODES = tuple(one for one in controllers.declared(LAB) if one["kind"] == "Node")


def document(name: str, node: str = "n1", ip: str = "", phase: str = "Pending") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {"phase": phase, "podIP": ip},
    }


# -- addresses


@pytest.mark.parametrize(
    ("used", "first"),
    [
        pytest.param([], ["10.244.1.2", "10.244.1.3"], id="the bridge has .1"),
        pytest.param(["10.244.1.2", "10.244.1.9"], ["10.244.1.10"], id="after the highest in use"),
        pytest.param(["10.244.1.254"], ["10.244.1.2"], id="then the lowest free one"),
        pytest.param(["10.244.9.7"], ["10.244.1.2"], id="others' addresses do not count"),
    ],
)
def test_free_addresses_in_the_order_they_are_taken(used: list[str], first: list[str]) -> None:
    assert list(islice(cni.free_addresses("10.244.1.0/24", used), len(first))) == first


def test_a_lease_holds_as_many_pods_as_it_has_free_addresses() -> None:
    assert len(list(cni.free_addresses("10.244.1.0/24", []))) == LAB.network.pods_per_node == 253
    assert len(list(cni.free_addresses("10.244.1.0/30", []))) == 1


# -- status

RUNNING = {"name": "c", "problem": ""}
CRASHED = {"name": "c", "problem": "", "restartCount": 2, "state": {"waiting": {"reason": "Crash"}}}


def done(code: int) -> dict[str, Any]:
    return {
        "name": "c",
        "problem": "",
        "restartCount": 0,
        "state": {"terminated": {"exitCode": code}},
    }


@pytest.mark.parametrize(
    ("containers", "restart", "phase", "ready"),
    [
        pytest.param([RUNNING], "Always", "Running", "True", id="serves"),
        pytest.param(
            [{"name": "c", "problem": "bind tcp/80: in use"}],
            "Always",
            "Pending",
            "False",
            id="cannot bind",
        ),
        pytest.param([CRASHED], "Always", "Running", "False", id="crashes again and again"),
        pytest.param([done(0)], "Never", "Succeeded", "False", id="ended well"),
        pytest.param([done(0), done(1)], "OnFailure", "Failed", "False", id="one ended badly"),
        pytest.param([RUNNING, done(0)], "Never", "Running", "False", id="one of two still runs"),
    ],
)
def test_pod_status(containers: list[dict[str, Any]], restart: str, phase: str, ready: str) -> None:
    pod = PodState(
        "default",
        "p",
        "n1",
        "t.n1.default.p",
        "veth0",
        "10.244.1.2",
        "",
        (),
        {},
        restart_policy=restart,
    )
    found = pod_status(pod, {"podIP": "10.244.1.2", "phase": "Pending"}, containers)
    assert found["phase"] == phase
    assert found["podIP"] == "10.244.1.2"
    assert {c["type"]: c["status"] for c in found["conditions"]}["Ready"] == ready
    assert pod_status(pod, found, containers) == found, "a second look changes nothing"


def test_the_reason_a_pod_does_not_run_is_its_message() -> None:
    pod = PodState("default", "p", "n1", "t.n1.default.p", "veth0", "", "", (Container("c"),), {})
    found = pod_status(pod, {}, [{"name": "c", "problem": "bind tcp/80: address already in use"}])
    assert found["message"] == "c: bind tcp/80: address already in use"


# -- problems


BOTH = ("n1", "n2")


def converged(state: State) -> None:
    """Make *state* one of which nothing is left to say."""
    documents = (*NODES, document("a", ip="10.244.1.2", phase="Running"))
    state.lab = LAB
    state.publish(
        cluster(LAB, documents, leases=LEASES, revision=7), stable=True, wake=lambda _: None
    )
    for name in ("n1", "n2"):
        snapshot = state.snapshot(name)
        assert snapshot is not None
        subnet = LEASES[LAB.node(name).address][0]
        state.report(name, NodeReport(snapshot.version, subnet, 1, True, nodes=BOTH))
        state.report_services(name, ServicesReport(0, 0, options_of(LAB)))


def test_a_lab_whose_nodes_have_settled_has_no_problems(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert state.problems() == ["no lab is declared yet"]
    converged(state)
    assert state.problems(revision=7) == [] and state.calm()
    assert status(state)["converged"]
    assert state.problems(revision=8) == ["the controllers are still at work"]


def test_an_etcd_that_has_lost_a_node_is_a_problem(tmp_path: Path) -> None:
    state = State(tmp_path)
    converged(state)
    state.publish(cluster(LAB, NODES[:1], leases=LEASES), stable=True, wake=lambda _: None)
    (problem,) = state.problems()
    assert problem.startswith("etcd has lost node n2")


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (NodeReport(1, "", 1, True), "no subnet lease yet"),
        (NodeReport(1, "10.244.2.0/24", 0, True), "knows 0 of 1 other leases"),
        # One peer, but it is no node of the lab.
        (NodeReport(1, "10.244.2.0/24", 1, True), "knows 0 of 1 other leases"),
        (NodeReport(0, "10.244.2.0/24", 1, True, nodes=BOTH), "still changing"),
        (NodeReport(1, "10.244.2.0/24", 1, False, error="etcd is away"), "etcd is away"),
        (
            NodeReport(1, "10.244.2.0/24", 1, True, written=9, nodes=BOTH),
            "the controllers have not read yet how its pods are",
        ),
    ],
)
def test_what_a_node_lacks_is_a_problem(tmp_path: Path, report: NodeReport, problem: str) -> None:
    state = State(tmp_path)
    converged(state)
    state.report("n2", report)
    assert state.problems() == [f"node n2: {problem}"]


def test_a_node_that_waits_for_a_foreign_lease_says_so_and_is_waited_for_by_nobody(
    tmp_path: Path,
) -> None:
    state = State(tmp_path)
    converged(state)
    state.report("n1", NodeReport(1, "10.244.1.0/24", 0, True))
    state.report("n2", NodeReport(1, "", 1, True, nodes=BOTH, awaits="waits for a lease"))
    assert state.problems() == ["node n2: waits for a lease"]
    assert state.problems(expected=False) == []  # no waiting of netlab's mends it
    told = {one["name"]: (one["state"], one["lastError"]) for one in status(state)["nodes"]}
    assert told == {"n1": ("Ready", ""), "n2": ("NotReady", "waits for a lease")}


def test_a_node_without_rules_of_netlabs_is_not_asked_for_the_labs_mode(tmp_path: Path) -> None:
    state = State(tmp_path)
    nodes = [LAB.nodes[0], msgspec.structs.replace(LAB.nodes[1], proxyMode="none")]
    converged(state)
    state.lab = lab = msgspec.structs.replace(LAB, nodes=nodes)
    documents = (*NODES, document("a", ip="10.244.1.2", phase="Running"))
    state.publish(cluster(lab, documents, leases=LEASES), stable=True, wake=lambda _: None)
    for name in BOTH:
        subnet = LEASES[lab.node(name).address][0]
        state.report(name, NodeReport(2, subnet, 1, True, nodes=BOTH))
    assert state.problems() == ["node n2: its rules are still those of mode iptables"]
    state.report_services("n2", ServicesReport(0, 0, None))
    assert state.problems() == []


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (ServicesReport(), "its rules do not follow the Services yet"),
        (ServicesReport(1, 0, OPTIONS), "its rules do not follow the Services yet"),
        (ServicesReport(0, 1, OPTIONS), "its rules do not follow the Services yet"),
        (
            ServicesReport(0, 0, replace(OPTIONS, mode=Mode.NFTABLES)),
            "its rules are still those of mode nftables",
        ),
        (
            ServicesReport(0, 0, replace(OPTIONS, scheduler="lc")),
            "its proxy has not taken the lab's options of mode iptables yet",
        ),
        (ServicesReport(0, 0, OPTIONS, "no nft"), "services: no nft"),
        (
            ServicesReport(0, 0, OPTIONS, policies=(1, 7)),
            "its rules do not follow the NetworkPolicies yet",
        ),
    ],
)
def test_rules_behind_the_services_are_a_problem(
    tmp_path: Path, report: ServicesReport, problem: str
) -> None:
    state = State(tmp_path)
    converged(state)
    state.report_services("n2", report)
    assert state.problems() == [f"node n2: {problem}"]


def test_any_change_of_policies_and_what_they_select_is_seen() -> None:
    def stored(kind: str, revision: str) -> dict[str, Any]:
        group = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "v1"
        meta = {"name": "a", "namespace": "default", "resourceVersion": revision}
        return {"apiVersion": group, "kind": kind, "metadata": meta}

    pod, space = stored("Pod", "3"), stored("Namespace", "4")
    assert policies_fingerprint(inventory([pod, space])) == (0, 0)
    first = policies_fingerprint(inventory([pod, space, stored("NetworkPolicy", "5")]))
    for changed in ("Pod", "Namespace", "NetworkPolicy"):
        others = [
            one for one in (pod, space, stored("NetworkPolicy", "5")) if one["kind"] != changed
        ]
        assert policies_fingerprint(inventory([*others, stored(changed, "9")])) != first


def test_any_change_of_services_is_seen(tmp_path: Path) -> None:
    def stored(kind: str, *revisions: str) -> list[dict[str, Any]]:
        group = {"Service": "v1", "EndpointSlice": "discovery.k8s.io/v1", "Pod": "v1"}[kind]
        return [
            {
                "apiVersion": group,
                "kind": kind,
                "metadata": {"name": f"s{index}", "namespace": "x", "resourceVersion": one},
            }
            for index, one in enumerate(revisions)
        ]

    def mark(*documents: dict[str, Any]) -> tuple[int, int]:
        return fingerprint(inventory(documents))

    services, slices = stored("Service", "3", "5"), stored("EndpointSlice", "4")
    for revisions in (("3",), ("5",), ("3", "6"), ("3", "5", "6"), ()):
        assert mark(*stored("Service", *revisions)) != mark(*services)
        assert mark(*services, *stored("EndpointSlice", "4", *revisions)) != mark(*services)
    assert mark(*services, *stored("Pod", "9")) == mark(*services)
    assert mark(*services, *slices) == (3, 12)


def test_a_refused_service_is_a_problem(tmp_path: Path) -> None:
    state = State(tmp_path)
    converged(state)
    condition = {"type": "Allocated", "status": "False", "message": "nodePort 1 is not in range"}
    meta = {"name": "web", "namespace": "default", "uid": "s"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {}}
    assert state.cluster is not None
    documents = (*state.cluster.documents, service)
    for conditions, problems in (
        ([condition], ["service default/web: nodePort 1 is not in range"]),
        ([{**condition, "status": "True"}], []),
    ):
        service["status"] = {"conditions": conditions}
        seen = cluster(LAB, documents, leases=LEASES, revision=7)
        state.publish(seen, stable=True, wake=lambda _: None)
        for name in ("n1", "n2"):
            state.report_services(name, ServicesReport(1, 0, OPTIONS))
        assert state.problems() == problems


def test_only_nodes_whose_pods_changed_are_woken(tmp_path: Path) -> None:
    state = State(tmp_path)
    converged(state)
    woken: list[str] = []
    again = (*NODES, document("a", ip="10.244.1.2", phase="Running"))
    state.publish(cluster(LAB, again, leases=LEASES), stable=True, wake=woken.append)
    assert woken == []
    more = (*again, document("b", "n2"))
    state.publish(cluster(LAB, more, leases=LEASES), stable=True, wake=woken.append)
    assert woken == ["n2"]
    assert "pod default/b: Pending" in state.problems()
    assert not state.calm()


@pytest.mark.parametrize(
    ("phase", "settled"),
    [("Running", True), ("Succeeded", True), ("Failed", True), ("Pending", False), ("", False)],
)
def test_a_pod_that_runs_or_has_ended_is_no_problem(
    tmp_path: Path, phase: str, settled: bool
) -> None:
    state = State(tmp_path)
    converged(state)
    pods = (*NODES, document("a", phase="Running"), document("b", phase=phase))
    seen = cluster(LAB, pods, leases=LEASES)
    state.publish(seen, stable=True, wake=lambda _: None)
    assert ("pod default/b" not in " ".join(state.problems())) == settled


def test_a_pod_that_is_the_same_is_taken_from_before() -> None:
    a, b = document("a"), document("b")
    first = cluster(LAB, inventory([a, b]), leases={})
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    more = first.documents.altered({"/registry/services/specs/default/s": service})
    assert cluster(LAB, more, leases={}, before=first).pods is first.pods
    newer = {**b, "metadata": {**b["metadata"], "resourceVersion": "2"}, "spec": {"nodeName": "n2"}}
    after = cluster(LAB, [a, newer], leases={}, before=first)
    assert after.pods[0] is first.pods[0]
    assert [pod.node for pod in after.pods] == ["n1", "n2"]
    renamed = msgspec.structs.replace(LAB, metadata=Meta(name="u"))
    other = cluster(renamed, first.documents, leases={}, before=first)
    assert [pod.netns for pod in other.pods] == ["u.n1.default.a", "u.n1.default.b"]


# -- what a node should hold


def test_a_node_without_a_lease_has_only_its_uplink() -> None:
    seen = cluster(LAB, (document("a"),), leases={})
    wanted = desired.node(seen, seen.nodes[0], config=resolve(LAB.network), own=None, peers=[])
    assert not [thing for thing in wanted if isinstance(thing, Veth | Vxlan | IptablesChain)]
    assert Address("t.n1", "eth0", "192.168.50.11/24") in wanted


def test_a_node_with_a_lease_has_bridge_tunnel_and_the_way_to_each_peer() -> None:
    seen = cluster(LAB, (document("a", ip="10.244.1.2"),), leases=LEASES)
    own, peer = (Lease(LEASES[a][0], a, vtep_mac=LEASES[a][1]) for a in LEASES)
    wanted = desired.node(seen, seen.nodes[0], config=resolve(LAB.network), own=own, peers=[peer])
    assert Address("t.n1", "docker0", "10.244.1.1/24") in wanted
    assert (
        Route("t.n1", "10.244.2.0/24", "flannel.1", "10.244.2.0", onlink=True, protocol=3) in wanted
    )
    assert FdbEntry("t.n1", "flannel.1", peer.vtep_mac, "192.168.50.12") in wanted
    (cable,) = (thing for thing in wanted if isinstance(thing, Veth))
    assert (cable.peer_netns, cable.bridge, cable.mtu) == ("t.n1.default.a", "docker0", 1450)


def test_the_firewall_lets_only_published_ports_in() -> None:
    body = world.firewall(LAB).body
    assert "policy drop" in body
    assert "ip daddr { 192.168.50.11, 192.168.50.12 } tcp dport 30000-32767 accept" in body


# -- loops


class Counting(Loop):
    """A loop that fails as often as it is told to."""

    def __init__(self, failures: int) -> None:
        super().__init__("counting")
        self.failures = failures
        self.looks = threading.Semaphore(0)

    def once(self) -> None:
        self.looks.release()
        if self.failures:
            self.failures -= 1
            raise NetlabError("not yet")


def test_a_loop_that_fails_tries_again_by_itself_and_recovers() -> None:
    loop = Counting(failures=2)
    loop.start()
    try:
        for _ in range(3):
            assert loop.looks.acquire(timeout=10)
        deadline = time.monotonic() + 10
        while loop.error and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not loop.error
    finally:
        loop.end()
        loop.join(timeout=10)
    assert not loop.is_alive()


def test_a_loop_sleeps_until_it_is_woken() -> None:
    loop = Counting(failures=0)
    loop.start()
    try:
        assert loop.looks.acquire(timeout=10)
        assert not loop.looks.acquire(timeout=0.2)
        loop.wake()
        assert loop.looks.acquire(timeout=10)
    finally:
        loop.end()
        loop.join(timeout=10)


# -- what the control plane writes


def test_new_pods_are_written_last_and_node_by_node() -> None:
    nodes = ["n2", "n1"] * 300
    pods = [Change(Verb.CREATE, document(f"p{i}", node)) for i, node in enumerate(nodes)]
    gone = Change(Verb.DELETE, document("p0", "n1"))
    owner = Change(Verb.CREATE, {"kind": "ReplicaSet", "metadata": {"name": "web"}})
    parts = list(portions([gone, *pods, owner]))
    assert [len(part) for part in parts] == [2, PODS_PORTION, PODS_PORTION, 100]
    written = [change for part in parts for change in part]
    assert written[:2] == [gone, owner], "what was there goes first; an owner before what it owns"
    placed = [change.document["spec"]["nodeName"] for change in written[2:]]
    assert placed == ["n1"] * 300 + ["n2"] * 300
    many = [Change(Verb.UPDATE, {"kind": "Service"})] * (PORTION + 1)
    assert [len(part) for part in portions(many)] == [PORTION, 1]
