"""Which pods a kubelet does not take up, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from netlab.agent.admission import Admission
from netlab.controllers import scheduler
from netlab.controllers.admission import rejections
from netlab.controllers.clock import Clock, stamp
from netlab.controllers.podstate import rested
from netlab.model.kubernetes import Document

NODE: Document = {"kind": "Node", "metadata": {"name": "n1", "labels": {"disk": "ssd"}}, "spec": {}}
NO_PORTS = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
NOT_CHOSEN = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"


def port(number: int, protocol: str = "TCP", ip: str = "") -> dict[str, Any]:
    return {"containerPort": 80, "hostPort": number, "protocol": protocol, "hostIP": ip}


def pod(name: str, *ports: dict[str, Any], ip: str = "", age: int = 0, **spec: Any) -> Document:
    """Return a pod; one that has an *ip* is taken up; the least *age* is the oldest."""
    meta = {"name": name, "namespace": "x", "uid": name, "creationTimestamp": stamp(1000 + age)}
    status = {"phase": "Running", "podIP": ip} if ip else {"phase": "Pending"}
    made = {"containers": [{"name": "c", "ports": list(ports)}], "nodeName": "n1", **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": made, "status": status}


HELD = pod("held", port(8080), port(53, "UDP", "192.168.50.11"), ip="10.0.0.2")
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
        }
    }
}
CASES = {
    "same port": (pod("a", port(8080)), "NodePorts", NO_PORTS),
    "same port at one address": (pod("a", port(8080, ip="192.168.50.11")), "NodePorts", NO_PORTS),
    "same port and address": (pod("a", port(53, "UDP", "192.168.50.11")), "NodePorts", NO_PORTS),
    "that address among all": (pod("a", port(53, "UDP", "0.0.0.0")), "NodePorts", NO_PORTS),
    "another address": (pod("a", port(53, "UDP", "127.0.0.1")), "", ""),
    "another protocol": (pod("a", port(8080, "UDP")), "", ""),
    "another port": (pod("a", port(8081)), "", ""),
    "the node's own network": (
        pod("a", {"containerPort": 8080}, hostNetwork=True),
        "NodePorts",
        NO_PORTS,
    ),
    "a container's port alone": (pod("a", {"containerPort": 8080}), "", ""),
    "another label": (pod("a", nodeSelector={"disk": "hdd"}), "NodeAffinity", NOT_CHOSEN),
    "that label": (pod("a", nodeSelector={"disk": "ssd"}), "", ""),
    "required affinity": (pod("a", affinity=AFFINITY), "NodeAffinity", NOT_CHOSEN),
}


@pytest.mark.parametrize(("new", "reason", "message"), CASES.values(), ids=CASES)
def test_a_pod_that_the_node_cannot_take_is_rejected(
    new: Document, reason: str, message: str
) -> None:
    found = rejections([new], [HELD], NODE, addresses=10)
    assert [tuple(one) for one in found.values()] == ([(reason, message)] if reason else [])


def test_a_rejected_pod_has_failed_and_says_why() -> None:
    new = pod("a", port(8080))
    status = rejections([new], [HELD], NODE, addresses=10)["a"].of(new)["status"]
    assert status == {
        "phase": "Failed",
        "reason": "NodePorts",
        "message": f"Pod was rejected: {NO_PORTS}",
    }


def test_the_oldest_of_new_pods_gets_the_port() -> None:
    new = [pod("a", port(8080), age=2), pod("b", port(8080), age=1), pod("c", port(9), age=3)]
    assert rejections(new, [], NODE, addresses=10).keys() == {"a"}


def test_a_pod_that_has_ended_holds_no_port() -> None:
    over = {**HELD, "status": {**HELD["status"], "phase": "Succeeded"}}
    assert not rejections([pod("a", port(8080))], [over], NODE, addresses=10)


def test_pods_beyond_the_nodes_addresses_are_rejected() -> None:
    new = [pod("a", age=1), pod("b", age=2), pod("c", age=3, hostNetwork=True)]
    found = rejections(new, [HELD], NODE, addresses=2)
    assert found.keys() == {"b"}
    why = "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"
    assert tuple(found["b"]) == ("OutOfpods", why)


@pytest.mark.parametrize(
    ("key", "rejected"),
    [("maintenance", True), ("node.kubernetes.io/unreachable", False)],
    ids=["somebody's taint", "that of a node that was silent"],
)
def test_a_pod_that_would_be_evicted_at_once_is_rejected(key: str, rejected: bool) -> None:
    node = {**NODE, "spec": {"taints": [{"key": key, "effect": "NoExecute"}]}}
    found = rejections([pod("a")], [], node, addresses=10)
    assert [one.reason for one in found.values()] == ["TaintToleration"] * rejected


class Kept:
    """An Admission, and what it has had written."""

    def __init__(self) -> None:
        self.admission = Admission("n1")
        self.written: list[Document] = []
        self.refuses = False

    def look(self, *pods: Document, given: tuple[str, ...] = ()) -> list[str]:
        """Return the names of the pods that are taken up."""
        by_uid = {one["metadata"]["uid"]: one for one in pods}
        self.admission.look(by_uid, given, NODE, addresses=10)
        return [uid for uid, one in by_uid.items() if self.admission.takes(uid, one)]

    def write(self) -> list[tuple[str, str]]:
        def replaced(documents: Any) -> list[Document]:
            self.written += [] if self.refuses else documents
            return [] if self.refuses else list(documents)

        return [(one.reason, one.message) for one in self.admission.write(replaced)]


def test_what_was_rejected_stays_so_and_is_told_once() -> None:
    kept, new = Kept(), pod("a", port(8080))
    assert kept.look(HELD, new) == ["held"]
    assert kept.write() == [("NodePorts", NO_PORTS)]
    (failed,) = kept.written
    assert kept.look(failed) == []  # the port is free by now
    assert kept.write() == []
    assert Kept().look(failed) == []  # nor by an agent that was started again


def test_what_could_not_be_written_is_written_later() -> None:
    kept, new = Kept(), pod("a", port(8080))
    kept.look(HELD, new)
    kept.refuses = True
    assert kept.write() == []
    kept.refuses = False
    assert kept.look(new) == []
    assert kept.write() == [("NodePorts", NO_PORTS)]


def test_a_pod_whose_address_is_not_written_yet_is_taken_up() -> None:
    kept = Kept()
    assert kept.look(pod("a", port(8080)), pod("b", port(8080)), given=("b",)) == ["b"]


def test_after_a_rejected_pod_the_next_one_waits_longer_each_time() -> None:
    failed = [
        rejections([new], [HELD], NODE, addresses=10)["a"].of(new)
        for new in (pod("a", port(8080), age=0), pod("a", port(8080), age=10))
    ]
    assert rested([HELD], Clock(1000))
    assert not rested(failed[:1], Clock(1009))
    assert rested(failed[:1], Clock(1010))
    clock = Clock(1029)
    assert not rested(failed, clock)
    assert clock.next == 1030


ABOUT_PORTS = {case: (new, why) for case, (new, why, _) in CASES.items() if "label" not in case}
del ABOUT_PORTS["required affinity"]


@pytest.mark.parametrize(("new", "reason"), ABOUT_PORTS.values(), ids=ABOUT_PORTS)
def test_the_scheduler_and_the_node_agree_about_host_ports(new: Document, reason: str) -> None:
    waiting = {**new, "spec": {k: v for k, v in new["spec"].items() if k != "nodeName"}}
    (change,) = scheduler.bindings([HELD, waiting], [NODE], {"n1": 10})
    placed = change.document["spec"].get("nodeName", "")
    assert placed == ("" if reason else "n1")
    why = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    assert scheduler.why_waiting(change.document) == (why if reason else "")
