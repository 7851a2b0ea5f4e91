"""Where pods may be, why not, and what happens to those whose node is lost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from controlled import CAPACITY, NODES, Store, deployment, name, node, pod

from netlab import controllers
from netlab.agent.endings import LINGER, Endings
from netlab.agent.liveness import Liveness
from netlab.cluster import pod_state
from netlab.controllers import Change, Clock, Health, Verb, podstate, scheduler
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, Meta, registry_key
from netlab.model.lab import Gateway, Lab, LabNode, Master, Network, Segment, Taint, Underlay

ZONES = [
    node("a1", {"zone": "a", "size": "3"}),
    node("a2", {"zone": "a", "size": "9"}),
    node("b1", {"zone": "b"}),
]
ROOM = {"a1": 9, "a2": 9, "b1": 9}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def selecting(*expressions: dict[str, Any]) -> dict[str, Any]:
    terms = [{"matchExpressions": list(expressions)}]
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}}


def near(kind: str, key: str, app: str) -> dict[str, Any]:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {"affinity": {kind: {REQUIRED: [term]}}}


def placed(title: str, where: str, app: str, **spec: Any) -> Document:
    one = controllers.born(pod(title, nodeName=where, **spec))
    one["metadata"]["labels"] = {"app": app}
    return one


SPREAD = {"maxSkew": 1, "topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}
PLACES: dict[str, tuple[dict[str, Any], list[Document], str]] = {
    "in a list": (selecting({"key": "zone", "operator": "In", "values": ["b"]}), [], "b1"),
    "not in it": (selecting({"key": "zone", "operator": "NotIn", "values": ["a"]}), [], "b1"),
    "there is none": (selecting({"key": "size", "operator": "DoesNotExist"}), [], "b1"),
    "greater": (selecting({"key": "size", "operator": "Gt", "values": ["5"]}), [], "a2"),
    "less": (selecting({"key": "size", "operator": "Lt", "values": ["5"]}), [], "a1"),
    "one by name": (
        {
            "affinity": {
                "nodeAffinity": {
                    REQUIRED: {
                        "nodeSelectorTerms": [
                            {
                                "matchFields": [
                                    {"key": "metadata.name", "operator": "In", "values": ["a2"]}
                                ]
                            }
                        ]
                    }
                }
            }
        },
        [],
        "a2",
    ),
    "a wish": (
        {
            "affinity": {
                "nodeAffinity": {
                    PREFERRED: [
                        {
                            "weight": 5,
                            "preference": {
                                "matchExpressions": [
                                    {"key": "zone", "operator": "In", "values": ["b"]}
                                ]
                            },
                        }
                    ]
                }
            }
        },
        [],
        "b1",
    ),
    "with others, in their zone": (
        near("podAffinity", "zone", "x"),
        [placed("o", "b1", "x")],
        "b1",
    ),
    "away from others": (
        near("podAntiAffinity", "zone", "x"),
        [placed("o", "a1", "x")],
        "b1",
    ),
    "kept away by others": (
        {},
        [placed("o", "a1", "y", **near("podAntiAffinity", "zone", "x"))],
        "b1",
    ),
    "spread over zones": (
        {"topologySpreadConstraints": [SPREAD]},
        [placed("o", "a1", "x"), placed("q", "a2", "y")],
        "b1",
    ),
    "a port of the node": (
        {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]},
        [
            placed(
                f"o-{one}",
                one,
                "y",
                containers=[{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}],
            )
            for one in ("a1", "a2")
        ],
        "b1",
    ),
}


@pytest.mark.parametrize(("spec", "others", "place"), PLACES.values(), ids=PLACES)
def test_a_pod_is_placed_by_what_it_asks_for(
    spec: dict[str, Any], others: list[Document], place: str
) -> None:
    one = controllers.born(pod("p", **spec))
    one["metadata"]["labels"] = {"app": "x"}
    store = Store(*ZONES, *copy.deepcopy(others), one)
    store.settle(ROOM)
    assert store.places()["p"] == place


TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
REFUSALS: dict[str, tuple[dict[str, Any], list[Document], str]] = {
    "a taint": ({}, [node("n", taints=[TAINT])], "1 node(s) had untolerated taint {gpu: yes}"),
    "a cordon": ({}, [node("n", unschedulable=True)], "1 node(s) were unschedulable"),
    "labels": (
        {"nodeSelector": {"a": "b"}},
        [node("n")],
        "1 node(s) didn't match Pod's node affinity/selector",
    ),
    "company": (
        near("podAffinity", "zone", "nobody"),
        ZONES,
        "3 node(s) didn't match pod affinity rules",
    ),
    "spread without a label": (
        {"topologySpreadConstraints": [{**SPREAD, "topologyKey": "rack"}]},
        ZONES,
        "3 node(s) didn't match pod topology spread constraints (missing required label)",
    ),
    "a term that says nothing": (
        {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}}},
        ZONES,
        "3 node(s) didn't match Pod's node affinity/selector",
    ),
    "several": (
        {},
        [node("m", unschedulable=True), node("n", taints=[TAINT])],
        "1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable",
    ),
}


@pytest.mark.parametrize(("spec", "nodes", "why"), REFUSALS.values(), ids=REFUSALS)
def test_a_pod_that_fits_nowhere_says_why(
    spec: dict[str, Any], nodes: list[Document], why: str
) -> None:
    one = controllers.born(pod("p", **spec))
    (change,) = scheduler.bindings([one], nodes, {name(each): 9 for each in nodes})
    total = len(nodes)
    assert scheduler.why_waiting(change.document) == f"0/{total} nodes are available: {why}."


def test_a_spread_that_would_be_too_uneven_is_waited_for() -> None:
    zones = [*ZONES[:2], node("b1", {"zone": "b"}, unschedulable=True)]
    others = [placed("o", "a1", "x")]
    one = controllers.born(pod("p", topologySpreadConstraints=[SPREAD]))
    one["metadata"]["labels"] = {"app": "x"}
    (change,) = scheduler.bindings([one, *others], zones, ROOM)
    why = "1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints"
    assert scheduler.why_waiting(change.document) == f"0/3 nodes are available: {why}."


def test_no_node_at_all_is_said_in_other_words() -> None:
    (change,) = scheduler.bindings([controllers.born(pod("p"))], [], {})
    assert scheduler.why_waiting(change.document) == "no nodes available to schedule pods"


TOLERATIONS: dict[str, tuple[dict[str, Any], bool]] = {
    "equal": ({"key": "gpu", "value": "yes"}, True),
    "another value": ({"key": "gpu", "value": "no"}, False),
    "any value": ({"key": "gpu", "operator": "Exists"}, True),
    "everything": ({"operator": "Exists"}, True),
    "another effect": ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
    "nothing": ({}, False),
}


@pytest.mark.parametrize(("toleration", "fits"), TOLERATIONS.values(), ids=TOLERATIONS)
def test_a_taint_is_tolerated(toleration: dict[str, Any], fits: bool) -> None:
    one = controllers.born(pod("p", tolerations=[toleration]))
    (change,) = scheduler.bindings([one], [node("n", taints=[TAINT])], {"n": 1})
    assert (change.document["spec"].get("nodeName") == "n") is fits


# -- lost nodes


def health(*lost: str, toleration: int = 0) -> Health:
    names = {name(one) for one in NODES}
    return Health(frozenset(names - set(lost)), frozenset(lost), toleration)


def after(store: Store, found: Health, clock: Clock | None = None) -> list[str]:
    """Let the controllers act on the nodes' health."""
    changes = controllers.changes(
        Inventory(store.objects), capacity=CAPACITY, health=found, clock=clock
    )
    done = store.make(changes)
    again = controllers.changes(
        Inventory(store.objects), capacity=CAPACITY, health=found, clock=clock
    )
    assert again == [], "a second look changes nothing"
    return done


@pytest.fixture
def store() -> Store:
    """Three nodes that are alive, and a Deployment of six pods that run."""
    store = Store(*(copy.deepcopy(one) for one in NODES), controllers.born(deployment(6)))
    after(store, health())
    store.run()
    after(store, health())
    return store


def test_nodes_that_are_heard_from_are_ready(store: Store) -> None:
    assert {podstate.condition(one, "Ready")["status"] for one in store.of("Node")} == {"True"}


def test_a_lost_node_is_unknown_and_its_pods_live_elsewhere(store: Store) -> None:
    old = {one["metadata"]["uid"] for one in store.of("Pod") if one["spec"]["nodeName"] == "node2"}
    after(store, health("node2"))
    (lost,) = [one for one in store.of("Node") if name(one) == "node2"]
    assert podstate.condition(lost, "Ready")["status"] == "Unknown"
    assert {one["effect"] for one in lost["spec"]["taints"]} == {"NoSchedule", "NoExecute"}
    assert sorted(store.places().values()) == ["node1"] * 3 + ["node3"] * 3
    assert not old & {one["metadata"]["uid"] for one in store.of("Pod")}
    assert "Node node2 NodeNotReady x1" in store.told()
    after(store, health())
    (back,) = [one for one in store.of("Node") if name(one) == "node2"]
    assert podstate.condition(back, "Ready")["status"] == "True"
    assert "taints" not in back["spec"]


def test_who_tolerates_it_stays_for_as_long(store: Store) -> None:
    clock = Clock()
    after(store, health("node2", toleration=30), clock)
    assert sorted(store.places().values()).count("node2") == 2
    ready = [podstate.ready(p) for p in store.of("Pod") if p["spec"]["nodeName"] == "node2"]
    assert ready == [False, False], "but they serve nobody"
    assert clock.next is not None and 28 < clock.next - clock.now <= 30
    after(store, health("node2", toleration=30), Clock(clock.now + 31))
    assert "node2" not in store.places().values()


def test_when_no_node_is_heard_from_nobody_is_evicted(store: Store) -> None:
    before = store.places()
    after(store, health("node1", "node2", "node3"))
    assert store.places() == before
    assert not any(one["spec"].get("taints") for one in store.of("Node"))


def test_a_declared_pod_lives_elsewhere_unless_it_names_the_node() -> None:
    store = Store()
    nodes = [{**one, "metadata": {"name": name(one)}} for one in NODES]
    store.declare(*nodes, pod("pinned", nodeName="node1"), pod("free"))
    after(store, health())
    store.run()
    where = store.places()["free"]
    after(store, health("node1", where))
    assert store.places()["pinned"] == "node1"
    assert store.places()["free"] not in ("node1", where)


def test_a_taint_of_a_users_own_has_pods_end_in_their_own_time(store: Store) -> None:
    (key,) = [registry_key(one) for one in store.of("Node") if name(one) == "node1"]
    taint = {"key": "out", "effect": "NoExecute"}
    store.objects[key] = {**store.objects[key], "spec": {"taints": [taint]}}
    after(store, health())
    going = [p for p in store.of("Pod") if podstate.terminating(p)]
    assert {p["spec"]["nodeName"] for p in going} == {"node1"}
    assert len(going) == 2


def test_a_declared_taint_and_others_live_side_by_side() -> None:
    lab = Lab(
        metadata=Meta(name="t"),
        underlay=Underlay(segments=[Segment(name="lan", cidr="192.168.50.0/24")]),
        master=Master(address="192.168.50.10"),
        nodes=[LabNode(name="n1", address="192.168.50.11", taints=[Taint("gpu", "NoSchedule")])],
        network=Network(Network="10.244.0.0/16"),
        gateway=Gateway(address="192.168.50.1"),
    )
    store = Store()
    store.declare(*controllers.declared(lab))
    (one,) = store.of("Node")
    other = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    one["spec"] = {**one["spec"], "unschedulable": True, "taints": [*one["spec"]["taints"], other]}
    store.declare(*controllers.declared(lab))
    assert store.of("Node")[0]["spec"] == one["spec"]


# -- who is alive


def test_a_node_whose_key_goes_is_lost_at_once_and_one_never_heard_from_later() -> None:
    found = Liveness()
    nodes = ["a", "b", "c"]
    assert found.health(nodes, ["a", "b"], grace=5, now=0) == Health(frozenset("ab"), frozenset())
    assert found.due == 5
    assert found.health(nodes, ["a"], grace=5, now=1).lost == {"b"}
    assert found.health(nodes, ["a"], grace=5, now=5).lost == {"b", "c"}
    assert found.health(nodes, nodes, grace=5, now=6) == Health(frozenset(nodes), frozenset())


def test_after_silence_every_node_gets_its_time_again() -> None:
    found = Liveness()
    nodes = ["a", "b"]
    found.health(nodes, nodes, grace=5, now=0)
    assert found.health(nodes, [], grace=5, now=10).lost == {"a", "b"}
    assert found.health(nodes, ["a"], grace=5, now=11) == Health(frozenset("a"), frozenset())
    assert found.health(nodes, ["a"], grace=5, now=16).lost == {"b"}


def test_a_new_lab_has_lost_nobody() -> None:
    found = Liveness()
    assert found.health(["a"], [], grace=5, now=100) == Health()
    assert found.health(["a"], [], grace=5, now=104.9).lost == frozenset()
    assert found.health(["a"], [], grace=5, now=105).lost == {"a"}


# -- how pods end


class Moment:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def going(grace: int = 30, **container: Any) -> Document:
    one = controllers.born(pod("p", nodeName="n1", containers=[{"name": "c", **container}]))
    one["status"] = {"phase": "Running", "podIP": "10.244.1.2"}
    return podstate.deletion(one, grace=grace).document


LAB = Lab(
    metadata=Meta(name="t"),
    underlay=Underlay(segments=[Segment(name="lan", cidr="192.168.50.0/24")]),
    master=Master(address="192.168.50.10"),
    nodes=[LabNode(name="n1", address="192.168.50.11")],
    network=Network(Network="10.244.0.0/16"),
    gateway=Gateway(address="192.168.50.1"),
)
SLEEP = {"lifecycle": {"preStop": {"sleep": {"seconds": 5}}}}
ENDS: dict[str, tuple[Document, bool, float, float]] = {
    # document, whether a program goes on, when it is told to end, when the pod is gone
    "netlab's own server": (going(), False, 0.0, LINGER),
    "with a preStop sleep": (going(**SLEEP), False, 5.0, 5.0),
    "no longer than its grace": (going(2, **SLEEP), False, 5.0, 2.0),
    "a program that has ended": (going(command=["x"]), False, 0.0, 0.0),
    "a program that goes on": (going(10, command=["x"]), True, 0.0, 10.0),
}


@pytest.mark.parametrize(("one", "program", "told", "gone"), ENDS.values(), ids=ENDS)
def test_a_pod_ends(one: Document, program: bool, told: float, gone: float) -> None:
    clock = Moment()
    endings = Endings(clock=clock)
    state = pod_state(LAB, one)
    assert state is not None
    documents = {state.uid: one}
    running = [("default", "p", "c")] if program else []
    assert endings.take([one]) == [one] and endings.new == [one]
    for moment in (0.0, 0.9, 1.0, 2.0, 4.9, 5.0, 9.9, 10.0):
        clock.now = moment
        assert endings.told(one, "c") is (moment >= told)
        endings.look([state], documents, running)
        assert bool(endings.gone) is (moment >= gone)
        due = endings.due([state], documents)
        assert due == 0.0 if endings.gone else due is not None and moment + due <= gone + 5
        if endings.gone:
            assert endings.take([one]) == []
            break


def test_a_pod_that_stays_is_left_alone() -> None:
    endings = Endings()
    one = controllers.born(pod("p", nodeName="n1"))
    assert endings.take([one]) == [one]
    assert (endings.new, endings.gone, endings.told(one, "c")) == ([], [], False)


def test_a_changed_spec_replaces_a_pod_that_is_going() -> None:
    store = Store(*NODES)
    nodes = [{**one, "metadata": {"name": name(one)}} for one in NODES]
    store.declare(*nodes, pod("p"))
    store.settle()
    store.run()
    (one,) = store.of("Pod")
    store.make([Change(Verb.UPDATE, podstate.deletion(one).document)])
    assert store.declare(*nodes, pod("p")) == ["delete Pod p", "create Pod p"]
