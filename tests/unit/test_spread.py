"""A lab whose nodes are machines of their own: what is wanted there, said there, and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_agent import LAB as WHOLE
from test_agent import LEASES, NODES, document

from netlab import __version__, beyond, desired, topology, world
from netlab.agent.place import Place, introduced, read, write
from netlab.agent.reports import (
    ALIVE,
    LAB,
    REPORTS,
    BalancerReport,
    Heard,
    NodeReport,
    ServicesReport,
    Told,
    heard_of,
    pods_fingerprint,
)
from netlab.agent.state import State
from netlab.agent.summary import status
from netlab.cli.status import screen
from netlab.cluster import cluster
from netlab.errors import InputError, UsageError
from netlab.firewall import Published
from netlab.flannel.config import resolve
from netlab.flannel.lease import Lease
from netlab.model.lab import Balancer, Lab, LabNode
from netlab.objects import (
    Address,
    Bridge,
    Neighbor,
    Netns,
    NftTable,
    Object,
    Route,
    Sysctl,
    Veth,
    Vxlan,
)
from netlab.paths.ways import Way, across_underlay
from netlab.proxy.addresses import Family
from netlab.proxy.options import options_of
from netlab.store.access import Access, endpoint, from_environment
from netlab.store.etcd import KeyValue
from netlab.verify.away import cutting

SPREAD = msgspec.structs.replace(WHOLE, spread=True)
OPTIONS = options_of(SPREAD)
PLACE = Place(node="n1", uplink="enp0s8", access=Access(urls=("http://192.168.50.10:2379",)))


# -- what is wanted on the machine


def wanted_on(node: int, lab: Lab = SPREAD) -> list[Object]:
    """What is wanted on the first, 0, or the second machine, 1, whose card is enp0s8."""
    lab = msgspec.structs.replace(PLACE, node=f"n{node + 1}").fitted(lab)
    seen = cluster(lab, (document("a", ip="10.244.1.2"),), leases=LEASES)
    own, peer = Lease("10.244.1.0/24", "192.168.50.11"), Lease("10.244.2.0/24", "192.168.50.12")
    leases = (own, peer) if node == 0 else (peer, own)
    config = resolve(lab.network)
    return desired.node(seen, seen.nodes[node], config=config, own=leases[0], peers=leases[1:])


def test_a_machine_is_asked_for_nothing_of_its_own() -> None:
    wanted = wanted_on(0)
    (tunnel,) = (thing for thing in wanted if isinstance(thing, Vxlan))
    assert tunnel.device == "enp0s8"
    assert {thing.name for thing in wanted if isinstance(thing, Bridge)} == {"docker0"}
    on = {thing.link for thing in wanted if isinstance(thing, Address | Route | Neighbor)}
    assert on == {"docker0", "flannel.1", beyond.OUTWARDS}
    assert not [thing for thing in wanted if isinstance(thing, Netns)]
    settings = {thing.name for thing in wanted if isinstance(thing, Sysctl)}
    assert {name for name in settings if "flannel" not in name} == {
        "net.ipv4.ip_forward",
        "net.bridge.bridge-nf-call-iptables",
    }


OUTSIDE = ("203.0.113.10/32", "203.0.113.53/32", "198.51.100.10/32")


def ways_on(node: int, lab: Lab = SPREAD) -> dict[str, tuple[str, str | None, bool]]:
    """The routes of netlab's on a machine, but for those to pods."""
    return {
        thing.destination: (thing.link, thing.via, thing.onlink)
        for thing in wanted_on(node, lab)
        if isinstance(thing, Route) and not thing.destination.startswith("10.244.")
    }


def test_what_is_outside_is_behind_the_first_machine_and_nothing_else_is() -> None:
    assert ways_on(0) == dict.fromkeys(OUTSIDE, (beyond.OUTWARDS, "198.51.100.1", True))
    assert ways_on(1) == dict.fromkeys(OUTSIDE, ("enp0s8", "192.168.50.11", False))
    own = [thing for thing in wanted_on(0) if isinstance(thing, Address)]
    assert [one.address for one in own if one.link == beyond.OUTWARDS] == ["192.168.50.11/32"]
    around = beyond.outside(SPREAD)
    assert set(around) == {"t.client", "t.internet", "t.gateway"}
    (cable,) = (one for one in around["t.gateway"] if isinstance(one, Veth) and one.name == "eth0")
    assert (cable.peer_netns, cable.peer_name) == ("t.n1", beyond.OUTWARDS)
    assert not world.between(SPREAD) and beyond.outside_home(WHOLE) is None


# -- the balancer, which hangs on the first machine

BALANCED = msgspec.structs.replace(
    SPREAD, balancer=Balancer("192.168.50.5", ["192.168.50.200/31", "192.168.50.210"])
)
GIVEN = ("192.168.50.200/31", "192.168.50.210/32")


def test_the_balancers_addresses_are_behind_the_first_machine() -> None:
    cabled = ("balancer0", "192.168.50.5", True)
    for_clients = dict.fromkeys(OUTSIDE, (beyond.OUTWARDS, "198.51.100.1", True))
    own = {"192.168.50.5/32": ("balancer0", None, False), **dict.fromkeys(GIVEN, cabled)}
    assert ways_on(0, BALANCED) == {**for_clients, **own}
    every = (*OUTSIDE, "192.168.50.5/32", *GIVEN)
    assert ways_on(1, BALANCED) == dict.fromkeys(every, ("enp0s8", "192.168.50.11", False))
    assert not [one for one in wanted_on(1, BALANCED) if isinstance(one, NftTable)]
    around = beyond.outside(BALANCED, [Published("192.168.50.200", "tcp", 80)])
    assert set(around) == {f"t.{one}" for one in world.OUTSIDE}
    ends = {
        (one.name, one.peer_netns, one.peer_name)
        for one in around["t.balancer"]
        if isinstance(one, Veth)
    }
    assert ends == {("eth0", "t.n1", "balancer0"), ("gateway", "t.gateway", "balancer")}
    (rules,) = (one.body for one in around["t.gateway"] if isinstance(one, NftTable))
    assert "ip daddr 192.168.50.200 tcp dport 80 accept" in rules
    # What is not published is kept from the balancer, too.
    assert 'oifname != "eth0" oifname != "balancer" accept' in rules


def test_a_packet_sent_on_unchanged_passes_ip_of_the_first_machine() -> None:
    (table,) = (one for one in wanted_on(0, BALANCED) if isinstance(one, NftTable))
    assert (table.netns, table.family) == ("t.n1", "netdev")
    balanced, answers = table.body.split("chain answers")
    near = {one.address: one.mac for one in beyond.balancer(BALANCED) if isinstance(one, Neighbor)}
    cable = next(one for one in beyond.balancer(BALANCED) if isinstance(one, Veth))
    assert near["192.168.50.11"] == cable.peer_mac and len(set(near.values())) == 2
    assert 'device "balancer0"' in balanced and near["192.168.50.11"] not in balanced
    assert (
        f"ether daddr {near['192.168.50.12']} meta protocol ip "
        'fwd ip to 192.168.50.12 device "enp0s8" comment "to n2"'
    ) in balanced
    clients = "{ 198.51.100.10, 203.0.113.10, 203.0.113.53 }"
    for pool in ("192.168.50.200/31", "192.168.50.210"):
        onward = 'fwd ip to 198.51.100.1 device "outside0" comment "to gateway"'
        assert f"ip saddr {pool} ip daddr {clients} {onward}" in answers
    assert 'device "enp0s8" priority filter' in answers


def test_the_way_by_the_balancer_crosses_the_first_machine() -> None:
    way = Way(BALANCED, "198.51.100.10", "192.168.50.200")
    gateway, balancer = ("gateway", "192.168.50.1"), ("balancer", "192.168.50.5")
    across_underlay(way, gateway, balancer)
    way.forwarded()
    across_underlay(way, balancer, ("n2", "192.168.50.12"))
    assert [(f"{hop.netns[2:]}:{hop.device}", hop.ttl, hop.own) for hop in way.hops] == [
        ("gateway:balancer", 64, False),
        ("balancer:gateway", 64, True),
        ("balancer:eth0", 63, False),
        ("n1:balancer0", 63, False),  # its MAC is that of nobody there: the table's
        ("n1:eth0", 62, False),
        ("n2:eth0", 62, True),
    ]
    back = Way(BALANCED, "192.168.50.12", "192.168.50.5")
    across_underlay(back, ("n2", "192.168.50.12"), balancer)
    across_underlay(back, balancer, gateway)
    assert [f"{hop.netns[2:]}:{hop.device}" for hop in back.hops] == [
        *("n2:eth0", "n1:eth0", "n1:balancer0", "balancer:eth0"),
        *("balancer:gateway", "gateway:balancer"),
    ]


def test_what_the_balancer_says_is_said_on_every_machine() -> None:
    state = State(Path("/nowhere"), msgspec.structs.replace(PLACE, node="n2"))
    state.lab = BALANCED
    told = BalancerReport(known=True, listeners={"192.168.50.200:80/tcp": ["192.168.50.12"]})
    state.hear(Heard(reports={"n1": Told(balancer=told)}))
    assert status(state)["balancer"]["listeners"] == told.listeners
    here = State(Path("/nowhere"), PLACE)
    here.lab, woken = BALANCED, list[str]()
    here.on_report = woken.append
    here.report_balancer(told)
    assert here.told("n1").balancer == told and woken == ["n1"]


def test_the_balancer_is_on_the_segment_of_the_first_machine(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(
        "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\n"
        "underlay: {segments: [{name: a, cidr: 192.168.50.0/24, router: 192.168.50.254},"
        " {name: b, cidr: 192.168.60.0/24, router: 192.168.60.254}]}\n"
        "balancer:\n  address: 192.168.60.5\n  pool: [192.168.60.200/30]\n"
        "nodes: [{name: n1, address: 192.168.50.11}, {name: n2, address: 192.168.60.12}]\n"
    )
    assert topology.load([str(file)]).lab is not None
    with pytest.raises(InputError) as caught:
        topology.load([str(file)], spread=True)
    assert caught.value.mistakes == [
        f"{file}:6: balancer.address: 192.168.60.5 is not in 192.168.50.0/24, as is the first "
        "node, on whose machine it would be (an address there)"
    ]


def test_a_stranger_behind_another_machine_is_reached_by_that() -> None:
    guest = LabNode("guest-x", "192.168.50.254", host="n2")
    lab = msgspec.structs.replace(SPREAD, nodes=[*SPREAD.nodes, guest])
    there, back = Way(lab, "192.168.50.11", guest.address), Way(lab, guest.address, "192.168.50.11")
    across_underlay(there, ("n1", "192.168.50.11"), (guest.name, guest.address))
    across_underlay(back, (guest.name, guest.address), ("n1", "192.168.50.11"))
    port = world.port_name(guest.name)
    way = ["n1:eth0", "n2:eth0", f"n2:{port}", "guest-x:eth0"]
    assert [f"{hop.netns[2:]}:{hop.device}" for hop in there.hops] == way
    assert [f"{hop.netns[2:]}:{hop.device}" for hop in back.hops] == way[::-1]
    assert [hop.ttl for hop in there.hops] == [64, 64, 63, 63]


@pytest.mark.parametrize(
    ("family", "others"),
    [
        (Family.IPV4, "192.168.50.10, 192.168.50.11, 10.244.0.0/16"),
        (Family.IPV6, "fd00::a, fd00::1, fd00:10:244::/56"),
    ],
)
def test_a_machine_is_cut_off_from_all_others_and_from_nobody_else(
    family: Family, others: str
) -> None:
    addresses6 = {"n1": "fd00::1", "n2": "fd00::2"}
    lab = msgspec.structs.replace(
        SPREAD,
        nodes=[msgspec.structs.replace(n, address6=addresses6[n.name]) for n in SPREAD.nodes],
        master=msgspec.structs.replace(SPREAD.master, address6="fd00::a"),
        network=msgspec.structs.replace(SPREAD.network, IPv6Network="fd00:10:244::/56"),
    )
    incoming, outgoing = cutting(lab, lab.nodes[1], family)
    for chain, end in ((incoming, "saddr"), (outgoing, "daddr")):
        said = set(chain.partition(f" {end} {{ ")[2].partition(" }")[0].split(", "))
        assert said == set(others.split(", ")) and "eth0" in chain


def test_the_lab_in_etcd_names_no_machines_card() -> None:
    assert PLACE.common(PLACE.fitted(SPREAD)) == SPREAD
    assert PLACE.fitted(SPREAD).node("n1").uplink == "enp0s8"
    assert PLACE.fitted(SPREAD).node("n2").uplink == "eth0"


def test_a_place_is_read_as_it_was_written_and_by_root_alone(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    write(tmp_path, PLACE)
    assert read(tmp_path) == PLACE
    assert (tmp_path / "machine.json").stat().st_mode & 0o077 == 0


def test_a_node_says_which_netlab_keeps_it() -> None:
    node = introduced({"kind": "Node", "metadata": {"name": "n1"}, "status": {"addresses": []}})
    assert node["status"]["nodeInfo"]["kubeletVersion"].startswith("netlab/")
    assert node["status"]["addresses"] == [] and introduced(node) == node


# -- what the others say


def listened(tmp_path: Path, *, alive: str = "n2", told: dict[str, Told] | None = None) -> State:
    """A state in which all that lives here is well; of n2 is heard what *alive* and *told* say."""
    state = State(tmp_path, PLACE)
    state.lab = PLACE.fitted(SPREAD)
    state.lab_revision = 5
    pods = (
        document("a", "n1", "10.244.1.2", "Running"),
        document("b", "n2", "10.244.2.2", "Running"),
    )
    seen = cluster(state.lab, (*NODES, *pods), leases=LEASES, revision=7)
    state.publish(seen, stable=True, wake=lambda _: None)
    snapshot = state.snapshot("n1")
    assert snapshot is not None
    state.hear(Heard(frozenset(filter(None, [alive])), told or {}))
    state.report("n1", NodeReport(snapshot.version, "10.244.1.0/24", 1, True, nodes=BOTH))
    state.report_services("n1", ServicesReport(0, 0, OPTIONS))
    return state


BOTH = ("n1", "n2")
WELL = Told(
    "9.9",
    "eth1",
    NodeReport(
        40, "10.244.2.0/24", 1, True, nodes=BOTH, pods=pods_fingerprint([document("b")]), lab=5
    ),
    ServicesReport(0, 0, OPTIONS),
)  # fmt: skip


def changed(**fields: Any) -> Told:
    return msgspec.structs.replace(WELL, node=msgspec.structs.replace(WELL.node, **fields))


@pytest.mark.parametrize(
    ("alive", "told", "problem"),
    [
        ("n2", WELL, ""),
        ("", WELL, "waiting: its machine, or the agent on it, is not heard from"),
        ("", None, "waiting for its machine: run `netlab join 192.168.50.10` there"),
        ("n2", None, "no subnet lease yet"),
        ("n2", changed(pods=(1, 9)), "still changing"),
        ("n2", changed(lab=4), "still changing"),
        ("n2", changed(nodes=()), "knows 0 of 1 other leases"),
        ("n2", changed(error="no vxlan"), "no vxlan"),
        (
            "n2",
            msgspec.structs.replace(WELL, services=ServicesReport(1, 0, OPTIONS)),
            "its rules do not follow the Services yet",
        ),
    ],
)
def test_what_another_machine_lacks_is_a_problem_here(
    tmp_path: Path, alive: str, told: Told | None, problem: str
) -> None:
    state = listened(tmp_path, alive=alive, told={"n2": told} if told else {})
    assert state.problems() == ([f"node n2: {problem}"] if problem else [])
    # Nobody waits for a machine that is not there: all else is as it should be.
    assert (state.problems(expected=False) == []) == (not problem or problem.startswith("waiting"))


def test_status_shows_what_each_machine_says_of_itself(tmp_path: Path) -> None:
    shown = {one["name"]: one for one in status(listened(tmp_path, told={"n2": WELL}))["nodes"]}
    assert (shown["n1"]["here"], shown["n1"]["uplink"]) == (True, "enp0s8")
    assert (shown["n2"]["here"], shown["n2"]["uplink"]) == (False, "eth1")
    assert shown["n2"]["version"] == "9.9" and shown["n2"]["state"] == "Ready"
    silent = status(listened(tmp_path, alive=""))["nodes"]
    assert [one["state"] for one in silent] == ["Ready", "Waiting"]


def test_a_change_of_what_a_node_says_is_passed_on_once(tmp_path: Path) -> None:
    state = listened(tmp_path)
    told: list[str] = []
    state.on_report = told.append
    report = state.reports()["n1"]
    state.report("n1", report)
    state.report("n1", msgspec.structs.replace(report, error="x"))
    state.report_services("n1", ServicesReport(3, 0, OPTIONS))
    assert told == ["n1", "n1"]
    assert state.told("n1").node.error == "x" and state.told("n1").services.count == 3


def test_what_cannot_be_read_was_not_said() -> None:
    items = [
        KeyValue(ALIVE + "n2", b""),
        KeyValue(REPORTS + "n1", msgspec.json.encode(WELL)),
        KeyValue(REPORTS + "n2", b'{"node": {"settled": "later"}}'),
        KeyValue(LAB, b"{}", mod_revision=4),
        KeyValue("/netlab/else", b""),
    ]
    heard = heard_of(items)
    assert heard.alive == {"n2"} and heard.reports == {"n1": WELL}
    assert heard.lab is not None and heard.lab.mod_revision == 4


# -- what is declared


def test_only_machines_of_their_own_may_share_the_masters_address(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(
        "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\n"
        "master: {address: 192.168.50.11}\n"
        "nodes: [{name: n1, address: 192.168.50.11}, {name: n2, address: 192.168.50.12}]\n"
    )
    loaded = topology.load([str(file)], spread=True).require_lab()
    assert loaded.master.address == loaded.nodes[0].address and not loaded.spread
    with pytest.raises(InputError) as caught:
        topology.load([str(file)])
    assert caught.value.mistakes == [
        f"{file}:5: nodes[0].address: 192.168.50.11 is also the address of the master "
        "(an address of its own, or `up --master`)"
    ]
    file.write_text(file.read_text().replace("50.12", "50.11"))
    with pytest.raises(InputError, match="is also the address of node n1"):
        topology.load([str(file)], spread=True)


# -- the way to etcd


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://192.168.56.11:2379", ("http", "192.168.56.11", 2379)),
        ("https://etcd.example", ("https", "etcd.example", 2379)),
        ("http://[fd00::1]:4001/", ("http", "fd00::1", 4001)),
    ],
)
def test_an_etcds_url_is_read(url: str, parts: tuple[str, str, int]) -> None:
    assert endpoint(url) == parts


@pytest.mark.parametrize(
    "url",
    ["192.168.56.11:2379", "192.168.56.11", "ftp://x", "http://", "http://h/v3", "http://h:x"],
)
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(UsageError, match="no URL of an etcd"):
        endpoint(url)


@pytest.mark.parametrize(
    ("urls", "warned"),
    [
        (("http://192.168.56.11:2379",), False),
        (("http://127.0.0.1:2379", "http://10.0.0.1"), False),
        (("http://8.8.8.8:2379",), True),
        (("http://10.0.0.1", "http://etcd.example"), True),
        (("https://8.8.8.8:2379",), False),
    ],
)
def test_an_etcd_that_anybody_can_reach_is_warned_of(urls: tuple[str, ...], warned: bool) -> None:
    assert bool(Access(urls=urls).warning) == warned


def test_a_pods_program_is_told_the_whole_way_to_etcd() -> None:
    access = Access(
        ("https://a:1", "https://b:2"), "/ca", "/cert", "/key", username="u", password="p"
    )
    assert from_environment(access.environment("192.168.50.10")) == access
    plain = Access().environment("192.168.50.10")
    assert plain == {"NETLAB_ETCD": "http://192.168.50.10:2379"}


def test_status_says_whose_netlab_is_another(tmp_path: Path) -> None:
    found = status(listened(tmp_path, told={"n2": WELL}), agent={"version": __version__})
    machine = {"node": "n1", "uplink": "enp0s8", "master": False}
    lines = screen({**found, "machine": machine})
    assert f"note: n2 runs netlab 9.9, this machine {__version__}" in lines
    assert "this machine: node n1, uplink enp0s8" in lines
    assert len([line for line in lines if line.startswith("note:")]) == 1
