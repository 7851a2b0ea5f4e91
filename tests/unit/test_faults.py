"""Faults as data: how they are told, what they become in the kernel, what `up` keeps of them."""

from __future__ import annotations

import msgspec
import pytest
from fake_lab import DOCUMENTS, LAB, LEASES

from netlab import desired, faults, plan, world
from netlab.cli import faulting
from netlab.cluster import cluster
from netlab.desired import joining
from netlab.errors import InputError, UsageError
from netlab.flannel.config import resolve
from netlab.flannel.lease import Lease
from netlab.kernel import netem
from netlab.kernel.links import Link
from netlab.model.faults import Fault, Sort, told, with_faults
from netlab.model.lab import Lab
from netlab.objects import GROUP, PEER_GROUP, Bridge, Netem, Netns, NftTable, Route, Veth
from netlab.topology import growth


def lab(*given: Fault) -> Lab:
    return msgspec.structs.replace(msgspec.convert(LAB, Lab), faults=given)


TOLD = [
    (Fault(Sort.LINK_DOWN, "node1"), "netlab link down node1", "netlab link up node1"),
    (
        Fault(Sort.LINK_LOSS, "default/pair", loss=2.5),
        "netlab link loss default/pair 2.5%",
        "netlab link loss default/pair 0",
    ),
    (
        Fault(Sort.LINK_DELAY, "node1", delay=50, jitter=5),
        "netlab link delay node1 50ms 5ms",
        "netlab link delay node1 0",
    ),
    (Fault(Sort.NODE_STOP, "node2"), "netlab node stop node2", "netlab node start node2"),
    (Fault(Sort.NODE_ADD, "n9"), "netlab node add n9", "netlab node remove n9"),
    (
        Fault(Sort.NODE_REMOVE, "n9", options="--address 10.0.0.9"),
        "netlab node remove n9",
        "netlab node add n9 --address 10.0.0.9",
    ),
    (Fault(Sort.ETCD_STOP), "netlab fault etcd-stop", "netlab fault clear etcd-stop"),
    (
        Fault(Sort.ETCD_PARTITION, "node1"),
        "netlab fault etcd-partition node1",
        "netlab fault clear etcd-partition node1",
    ),
]


@pytest.mark.parametrize(("fault", "command", "undo"), TOLD, ids=[t[0].sort for t in TOLD])
def test_a_fault_names_the_command_that_made_it_and_the_one_that_undoes_it(
    fault: Fault, command: str, undo: str
) -> None:
    assert (fault.command, fault.undo) == (command, undo)
    assert command in told(fault) and undo in told(fault)


def test_every_sort_of_fault_is_in_the_table() -> None:
    assert {fault.sort for fault, _, _ in TOLD} == set(Sort)


def cable_of(found: Lab, member: str) -> Veth:
    things = world.objects(found)[found.netns(world.UNDERLAY)]
    return next(one for one in things if isinstance(one, Veth) and one.peer_netns.endswith(member))


def test_a_pulled_cable_is_down_at_the_underlays_end_alone() -> None:
    found = lab(Fault(Sort.LINK_DOWN, "node1"))
    assert (cable_of(found, "node1").up, cable_of(found, "node1").peer_up) == (False, True)
    assert cable_of(found, "node2").up


def test_a_node_that_is_off_has_neither_namespace_nor_cable() -> None:
    found = world.objects(lab(Fault(Sort.NODE_STOP, "node1")))
    assert "notes.node1" not in found
    assert Netns("notes.node2") in found["notes.node2"]
    assert not [o for o in found["notes.underlay"] if isinstance(o, Veth) and o.name == "node1"]


def table(found: Lab) -> NftTable | None:
    things = world.objects(found)[found.netns(world.UNDERLAY)]
    return next((one for one in things if isinstance(one, NftTable)), None)


def test_without_faults_there_is_no_table() -> None:
    assert table(lab()) is None
    assert table(lab(Fault(Sort.LINK_DOWN, "node1"))) is None


def test_loss_is_by_chance_both_ways_and_says_by_which_command() -> None:
    found = table(lab(Fault(Sort.LINK_LOSS, "node1", loss=10)))
    assert found is not None
    for match in ('iifname "node1"', 'oifname "node1"'):
        assert (
            f"\t\t{match} numgen random mod 10000 < 1000 counter drop"
            ' comment "netlab link loss node1 10%"\n' in found.body
        )


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (100, ""),
        (50, "numgen random mod 10000 < 5000 "),
        (0.001, "numgen random mod 10000 < 1 "),
    ],
)
def test_a_loss_is_a_share_of_all_frames(loss: float, match: str) -> None:
    assert faults.chance(loss) == match


def test_a_partition_keeps_only_the_node_itself_from_etcd() -> None:
    found = table(lab(Fault(Sort.ETCD_PARTITION, "node2")))
    assert found is not None
    assert 'iifname "node2" ip daddr 192.168.50.10 tcp dport 2379-2380 counter drop' in found.body
    assert 'oifname "node2" ip saddr 192.168.50.10 tcp sport 2379-2380 counter drop' in found.body


def test_a_pods_cable_is_pulled_at_its_nodes_bridge_and_loses_there() -> None:
    given = (Fault(Sort.LINK_DOWN, "default/pair"), Fault(Sort.LINK_LOSS, "default/pair", loss=100))
    seen = cluster(lab(*given), DOCUMENTS, leases=LEASES)
    state = seen.node("node1")
    own = Lease(state.subnet, state.address, vni=1, vtep_mac=state.vtep_mac)
    things = desired.node(seen, state, config=resolve(seen.lab.network), own=own, peers=())
    veth = world.veth_name("default", "pair")
    cables = {one.name: one.up for one in things if isinstance(one, Veth)}
    assert cables == {veth: False, world.veth_name("shop", "cart-1"): True}
    rules = next(one for one in things if isinstance(one, NftTable))
    assert f'iifname "{veth}" counter drop comment "netlab link loss default/pair 100%"' in (
        rules.body
    )


def test_a_delay_is_a_queue_of_the_port_that_sends_to_the_machine() -> None:
    late = lab(Fault(Sort.LINK_DELAY, "node1", delay=50, jitter=5))
    things = world.objects(late)["notes.underlay"]
    assert Netem("notes.underlay", "node1", 50, 5) in things
    seen = cluster(lab(Fault(Sort.LINK_DELAY, "default/pair", delay=7)), DOCUMENTS, leases=LEASES)
    state = seen.node("node1")
    own = Lease(state.subnet, state.address, vni=1, vtep_mac=state.vtep_mac)
    made = desired.node(seen, state, config=resolve(seen.lab.network), own=own, peers=())
    assert Netem("notes.node1", world.veth_name("default", "pair"), 7) in made


def test_by_netem_either_end_of_the_cable_loses_what_it_sends_and_no_rule_does() -> None:
    given = (
        Fault(Sort.LINK_LOSS, "node1", loss=10, netem=True),
        Fault(Sort.LINK_DELAY, "node1", delay=50),
        Fault(Sort.LINK_LOSS, "gateway", loss=0.001, netem=True),
        Fault(Sort.LINK_LOSS, "default/pair", loss=100, netem=True),
        Fault(Sort.LINK_LOSS, "node2", loss=20),
    )
    things = world.objects(lab(*given))
    ports = [one for one in things["notes.underlay"] if isinstance(one, Netem)]
    assert ports == [
        Netem("notes.underlay", "node1", 50, loss=10),
        Netem("notes.underlay", "gateway", loss=0.01),
    ]
    assert Netem("notes.gateway", "eth0", loss=0.01) in things["notes.gateway"]
    rules = table(lab(*given))
    assert rules is not None and "node2" in rules.body and "node1" not in rules.body
    seen = cluster(lab(*given), DOCUMENTS, leases=LEASES)
    state = seen.node("node1")
    own = Lease(state.subnet, state.address, vni=1, vtep_mac=state.vtep_mac)
    made = desired.node(seen, state, config=resolve(seen.lab.network), own=own, peers=())
    assert [one for one in made if isinstance(one, Netem)] == [
        Netem("notes.node1", "eth0", loss=10),
        Netem("notes.node1", world.veth_name("default", "pair"), loss=100),
    ]
    assert not [one for one in made if isinstance(one, NftTable) and one.family == "bridge"]
    assert desired.pods(seen, state)["notes.node1.default.pair"][-1] == Netem(
        "notes.node1.default.pair", "eth0", loss=100
    )


def test_a_node_that_cannot_reach_etcd_stops_losing_what_it_sends() -> None:
    lossy, near = Netem("notes.node1", "eth0", loss=100), Netem("notes.node1", "veth1", loss=9)
    route = Route("notes.node1", "10.244.9.0/24", "flannel.1")
    new = Netns("notes.node1.default.p")
    operations = plan.difference([new], [lossy, near, route])
    assert {op.object for op in joining(operations)} == {new, lossy}


DELAYED = Netem("n", "eth0", 50, 5)


def test_a_delay_is_set_changed_and_taken_away_in_tcs_words() -> None:
    words = "tc -n n qdisc replace dev eth0 root netem delay 50ms 5ms"
    [op] = plan.difference([DELAYED], [])
    assert plan.words(op) == [words]
    [op] = plan.difference([DELAYED], [Netem("n", "eth0", 20)])
    assert plan.words(op) == [words]
    [op] = plan.difference([Netem("n", "eth0", loss=12.5)], [DELAYED])
    assert plan.words(op) == ["tc -n n qdisc replace dev eth0 root netem loss 12.5%"]
    [op] = plan.difference([Netem("n", "eth0", 50, 5, 10)], [])
    assert plan.words(op) == [f"{words} loss 10%"]
    [op] = plan.difference([], [DELAYED])
    assert plan.words(op) == ["tc -n n qdisc delete dev eth0 root"]


def test_a_delay_goes_with_its_link_and_comes_with_it() -> None:
    bridge = Bridge("n", "eth0", "02:00:00:00:00:01")
    verbs = [op.verb.value for op in plan.difference([], [bridge, DELAYED])]
    assert verbs == ["delete"], "the kernel takes a queue along with its link"
    broken = Veth("n", "eth0", "02:00:00:00:00:01", "", "", "")
    ops = plan.difference([bridge, DELAYED], [broken, DELAYED])
    assert [(op.verb.value, type(op.object).__name__) for op in ops] == [
        ("delete", "Veth"),
        ("add", "Bridge"),
        ("add", "Netem"),
    ]


QUEUE = """[{"kind":"netem","handle":"8001:","root":true,"refcnt":2,
"options":{"limit":1000,"delay":{"delay":0.05,"jitter":0.005,"correlation":0},"ecn":false}},
{"kind":"noqueue","handle":"0:"}]"""


def test_a_queue_is_seen_at_either_end_of_a_cable_and_not_on_others_links() -> None:
    def link(name: str, group: int, qdisc: str) -> Link:
        return Link(1, name, True, True, "", 1500, group, "veth", 0, 0, None, False, b"", qdisc)

    every = [
        link("n1", GROUP, "netem"),
        link("eth0", PEER_GROUP, "netem"),
        link("n2", GROUP, "noqueue"),
        link("theirs", 0, "netem"),
    ]
    assert netem.shaped(every) == ["n1", "eth0"]


def test_a_queue_is_read_as_tc_prints_it() -> None:
    assert [netem.times(one) for one in netem.listed(QUEUE)] == [(50.0, 5.0)]
    assert netem.listed("") == []
    assert [netem.loss(one) for one in netem.listed(QUEUE)] == [0.0]
    [both] = netem.listed(
        """[{"kind":"netem","root":true,"drops":7,"options":{"limit":1000,
        "delay":{"delay":0.05,"jitter":0,"correlation":0},
        "loss-random":{"loss":0.12299999,"correlation":0}}}]"""
    )
    assert (netem.times(both), netem.loss(both)) == ((50.0, 0.0), 12.3)
    assert netem.times({"kind": "netem", "options": {"limit": 1000}}) == (0.0, 0.0)


def test_a_pulled_cable_is_told_as_ip_pulls_it() -> None:
    up = cable_of(lab(), "node1")
    [op] = plan.difference([msgspec.structs.replace(up, up=False)], [up])
    assert plan.words(op) == ["ip -n notes.underlay link set dev node1 down"]


def test_up_keeps_faults_but_not_those_of_nodes_it_takes_away() -> None:
    running = lab(
        Fault(Sort.LINK_DOWN, "node1"),
        Fault(Sort.NODE_STOP, "node2"),
        Fault(Sort.NODE_ADD, "node9"),
        Fault(Sort.ETCD_STOP),
    )
    files = msgspec.structs.replace(lab(), nodes=lab().nodes[:1])
    kept = faults.carried(files, running).faults
    assert [(one.sort, one.target) for one in kept] == [
        (Sort.LINK_DOWN, "node1"),
        (Sort.ETCD_STOP, ""),
    ]
    assert faults.carried(files, None) == files


def test_a_fault_takes_the_place_of_one_of_its_kind() -> None:
    old, new = (Fault(Sort.LINK_LOSS, "node1", loss=share) for share in (10, 20))
    other = Fault(Sort.LINK_DOWN, "node1")
    assert with_faults((old, other), [new]) == (other, new)


def test_a_lab_with_faults_is_read_back_as_it_was_written() -> None:
    found = lab(*(fault for fault, _, _ in TOLD))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Lab) == found


def test_a_node_is_added_with_the_first_free_address() -> None:
    grown = growth.with_node(lab(), "node3", labels={"disk": "ssd"})
    added = grown.node("node3")
    assert (added.address, added.labels) == ("192.168.50.2", {"disk": "ssd"})
    assert grown.nodes[:2] == lab().nodes


@pytest.mark.parametrize(
    ("name", "address", "words"),
    [
        ("node1", "", "node1"),
        ("master", "", "master"),
        ("x" * 70, "", "63"),
        ("node3", "192.168.50.11", "192.168.50.11"),
        ("node3", "10.0.0.5", "segment"),
        ("node3", "five", "address"),
    ],
)
def test_a_node_that_cannot_be_added_is_refused(name: str, address: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        growth.with_node(lab(), name, address=address, labels={})
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"node {name}: ")


def test_a_removed_node_of_the_files_says_how_it_comes_back() -> None:
    gone = faulting.without_node(lab(Fault(Sort.LINK_DOWN, "node1")), "node1")
    assert [one.undo for one in gone.faults] == ["netlab node add node1 --address 192.168.50.11"]
    assert [node.name for node in gone.nodes] == ["node2"]


def test_a_removed_node_that_was_added_leaves_nothing() -> None:
    gone = faulting.without_node(lab(Fault(Sort.NODE_ADD, "node1")), "node1")
    assert gone.faults == ()


@pytest.mark.parametrize(
    ("word", "value"), [("10%", 10), ("0.5%", 0.5), ("7", 7), ("0", 0), ("100%", 100)]
)
def test_a_share_is_read(word: str, value: float) -> None:
    assert faulting.percent(word) == value


@pytest.mark.parametrize("word", ["-1", "101%", "ten", "%", "nan"])
def test_no_share_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        faulting.percent(word)


@pytest.mark.parametrize(
    ("word", "value"), [("50ms", 50), ("1s", 1000), ("200us", 0.2), ("5", 5), ("0", 0)]
)
def test_a_time_is_read_in_milliseconds(word: str, value: float) -> None:
    assert faulting.milliseconds(word) == value


@pytest.mark.parametrize("word", ["", "ms", "-5ms", "5m", "fast"])
def test_no_time_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        faulting.milliseconds(word)
