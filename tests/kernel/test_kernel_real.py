"""What only the real kernel shows: drifts made by hand, others' things left alone, others' eyes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from pyroute2 import IPRoute, NetNS
from worlds import ACCEPTS, FORWARD, plan, sh, world

from netlab.errors import KernelError
from netlab.kernel import netns, rules
from netlab.kernel.real import RealKernel
from netlab.objects import (
    GROUP,
    PEER_GROUP,
    Address,
    Bridge,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netns,
    NftTable,
    Object,
    Route,
    Sysctl,
)
from netlab.plan import Op, Verb, words
from netlab.processes.commands import Completed, run
from netlab.sensors.insides import arp_overflows

pytestmark = pytest.mark.kernel
LAB = "nltest-r"
NODE, POD, UNDERLAY = f"{LAB}.node1", f"{LAB}.node1.default.web", f"{LAB}.underlay"


@pytest.fixture
def kernel() -> Iterator[RealKernel]:
    made = RealKernel()
    yield made
    made.apply([Op(Verb.DELETE, Netns(name)) for name in made.namespaces(LAB)])


@pytest.fixture
def wanted(kernel: RealKernel) -> dict[str, list[Object]]:
    """The whole world, made."""
    objects = world(LAB)
    kernel.apply(plan(kernel, objects))
    assert plan(kernel, objects) == []
    return objects


DRIFTS = {
    "bridge-deleted": f"ip -n {NODE} link delete docker0",
    "bridge-down": f"ip -n {NODE} link set docker0 down",
    "bridge-mtu": f"ip -n {NODE} link set docker0 mtu 1280",
    "bridge-mac": f"ip -n {NODE} link set docker0 address 02:aa:aa:aa:aa:aa",
    "bridge-address-deleted": f"ip -n {NODE} address delete 10.244.1.1/24 dev docker0",
    "veth-deleted": f"ip -n {NODE} link delete veth1",
    "veth-deleted-in-pod": f"ip -n {POD} link delete eth0",
    "veth-down": f"ip -n {NODE} link set veth1 down",
    "veth-unplugged": f"ip -n {NODE} link set veth1 nomaster",
    "veth-mac": f"ip -n {NODE} link set veth1 address 02:aa:aa:aa:aa:aa",
    "veth-hairpin-off": f"bridge -n {NODE} link set dev veth1 hairpin off",
    "veth-mtu": f"ip -n {NODE} link set veth1 mtu 1280",
    "veth-far-end-mtu": f"ip -n {POD} link set eth0 mtu 1280",
    "veth-far-end-mac": f"ip -n {POD} link set eth0 address 02:aa:aa:aa:aa:aa",
    "veth-far-end-down": f"ip -n {POD} link set eth0 down",
    "veth-far-end-renamed": f"ip -n {POD} link set eth0 down;"
    f" ip -n {POD} link set eth0 name eth7; ip -n {POD} link set eth7 up",
    "veth-far-end-moved": f"ip -n {POD} link set eth0 netns {UNDERLAY}",
    "pod-address-deleted": f"ip -n {POD} address flush dev eth0",
    "pod-route-deleted": f"ip -n {POD} route delete default",
    "pod-lo-down": f"ip -n {POD} link set lo down",
    "pod-made-anew": f"ip netns delete {POD}; ip netns add {POD}",
    "pod-deleted": f"ip netns delete {POD}",
    "node-deleted": f"ip netns delete {NODE}",
    "underlay-made-anew": f"ip netns delete {UNDERLAY}; ip netns add {UNDERLAY}",
    "uplink-deleted": f"ip -n {NODE} link delete eth0",
    "uplink-down": f"ip -n {NODE} link set eth0 down",
    "tunnel-deleted": f"ip -n {NODE} link delete flannel.1",
    "tunnel-down": f"ip -n {NODE} link set flannel.1 down",
    "tunnel-mac": f"ip -n {NODE} link set flannel.1 address 02:aa:aa:aa:aa:aa",
    "tunnel-learns": f"ip -n {NODE} link set flannel.1 type vxlan learning",
    "tunnel-other-vni": f"ip -n {NODE} link delete flannel.1; ip -n {NODE} link add flannel.1"
    f" group {GROUP} type vxlan id 9 dev eth0 dstport 4789",
    "tunnel-address-extra": f"ip -n {NODE} address add 10.9.9.9/32 dev flannel.1",
    "tunnel-route-deleted": f"ip -n {NODE} route delete 10.244.2.0/24",
    "tunnel-route-elsewhere": f"ip -n {NODE} route replace 10.244.2.0/24 via 192.168.50.99",
    "tunnel-route-stale": f"ip -n {NODE} route add 10.244.7.0/24 via 10.244.7.0 dev flannel.1"
    " onlink",
    "own-route-stale": f"ip -n {NODE} route add 10.99.0.0/16 via 192.168.50.9 proto 110",
    "neighbor-deleted": f"ip -n {NODE} neighbor delete 10.244.2.0 dev flannel.1",
    "neighbor-mac": f"ip -n {NODE} neighbor replace 10.244.2.0 lladdr 02:aa:aa:aa:aa:aa"
    " dev flannel.1 nud permanent",
    "neighbor-not-permanent": f"ip -n {NODE} neighbor replace 10.244.2.0"
    " lladdr 02:aa:aa:aa:aa:aa dev flannel.1 nud stale",
    "neighbor-stale": f"ip -n {NODE} neighbor add 10.244.7.0 lladdr 02:aa:aa:aa:aa:aa"
    " dev flannel.1 nud permanent",
    "place-deleted": f"ip -n {NODE} neighbor delete 192.168.50.12 dev eth0",
    "place-counted": f"ip -n {NODE} neighbor replace 192.168.50.12 lladdr 02:aa:aa:aa:aa:aa"
    " dev eth0 nud stale",
    "place-stale": f"ip -n {NODE} neighbor add 192.168.50.77 dev eth0 nud none extern_learn"
    " protocol 110",
    "fdb-deleted": f"bridge -n {NODE} fdb delete 02:00:00:00:02:02 dev flannel.1 dst 192.168.50.12",
    "fdb-elsewhere": f"bridge -n {NODE} fdb replace 02:00:00:00:02:02 dev flannel.1"
    " dst 192.168.50.99 self permanent",
    "fdb-stale": f"bridge -n {NODE} fdb append 02:bb:bb:bb:bb:bb dev flannel.1"
    " dst 192.168.50.77 self permanent",
    "sysctl": f"ip netns exec {NODE} sysctl -qw net.ipv4.ip_forward=0",
    "sysctl-of-link": f"ip netns exec {NODE} sysctl -qw net.ipv4.conf.flannel/1.log_martians=0",
    "chain-flushed": f"ip netns exec {NODE} iptables-nft -F FLANNEL-FWD",
    "chain-rule-added": f"ip netns exec {NODE} iptables-nft -I FLANNEL-FWD -j DROP",
    "chain-rule-deleted": f"ip netns exec {NODE} iptables-nft -D FLANNEL-FWD 2",
    "chain-and-jump-deleted": f"ip netns exec {NODE} iptables-nft -D FORWARD {FORWARD};"
    f" ip netns exec {NODE} iptables-nft -F FLANNEL-FWD;"
    f" ip netns exec {NODE} iptables-nft -X FLANNEL-FWD",
    "jump-deleted": f"ip netns exec {NODE} iptables-nft -F FORWARD",
    "chain-stale": f"ip netns exec {NODE} iptables-nft -N FLANNEL-OLD;"
    f" ip netns exec {NODE} iptables-nft -A INPUT -j FLANNEL-OLD",
    "nft-table-deleted": f"ip netns exec {NODE} nft delete table ip firewall",
    "nft-rule-added": f"ip netns exec {NODE} nft add rule ip firewall forward accept",
    "nft-everything-deleted": f"ip netns exec {NODE} nft flush ruleset",
}


@pytest.mark.parametrize("command", DRIFTS.values(), ids=DRIFTS)
@pytest.mark.parametrize(
    "again",
    [
        pytest.param(False, id="same-agent", marks=pytest.mark.stock),
        pytest.param(True, id="agent-restarted"),  # which asks the kernel nothing else
    ],
)
def test_what_somebody_changed_is_found_and_repaired(
    kernel: RealKernel, wanted: dict[str, list[Object]], command: str, again: bool
) -> None:
    sh(command)
    fresh = RealKernel() if again else kernel
    ops = plan(fresh, wanted)
    assert ops
    fresh.apply(ops)
    assert plan(fresh, wanted) == []


@pytest.mark.stock
def test_an_address_of_netlab_that_is_not_wanted_goes(
    kernel: RealKernel, wanted: dict[str, list[Object]]
) -> None:
    stale = Address(NODE, "docker0", "10.99.0.1/16")
    kernel.apply([Op(Verb.ADD, stale)])
    assert plan(kernel, wanted) == [Op(Verb.DELETE, stale)]
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []


@pytest.mark.stock
def test_an_agent_that_starts_again_plans_nothing(wanted: dict[str, list[Object]]) -> None:
    assert plan(RealKernel(), wanted) == []


OTHERS = {
    "link": (
        f"ip -n {NODE} link add br-mine type bridge",
        f"ip -n {NODE} link show br-mine",
        "br-mine",
    ),
    "address": (
        f"ip -n {NODE} address add 172.16.0.1/24 dev docker0",
        f"ip -n {NODE} address show docker0",
        "172.16.0.1/24",
    ),
    "route": (
        f"ip -n {NODE} route add 172.17.0.0/16 via 192.168.50.9",
        f"ip -n {NODE} route show",
        "172.17.0.0/16",
    ),
    "rule": (
        f"ip netns exec {NODE} iptables-nft -A FORWARD -s 1.2.3.4 -j DROP",
        f"ip netns exec {NODE} iptables-nft -S FORWARD",
        "1.2.3.4",
    ),
    "chain": (
        f"ip netns exec {NODE} iptables-nft -N MINE",
        f"ip netns exec {NODE} iptables-nft -S",
        "MINE",
    ),
    "table": (
        f"ip netns exec {NODE} nft add table ip mine",
        f"ip netns exec {NODE} nft list tables",
        "table ip mine",
    ),
    "neighbor": (
        f"ip -n {NODE} neighbor add 10.244.1.77 lladdr 02:aa:aa:aa:aa:aa dev docker0",
        f"ip -n {NODE} neighbor show",
        "10.244.1.77",
    ),
    "neighbor-on-uplink": (
        f"ip -n {NODE} neighbor add 192.168.50.77 lladdr 02:aa:aa:aa:aa:aa dev eth0",
        f"ip -n {NODE} neighbor show",
        "192.168.50.77",
    ),
    "neighbor-in-place": (
        f"ip -n {NODE} neighbor replace 192.168.50.12 lladdr 02:aa:aa:aa:aa:aa dev eth0",
        f"ip -n {NODE} neighbor show",
        "192.168.50.12 dev eth0 lladdr 02:aa:aa:aa:aa:aa PERMANENT",
    ),
}


@pytest.mark.stock
@pytest.mark.parametrize(("make", "show", "mark"), OTHERS.values(), ids=OTHERS)
def test_what_others_made_is_not_netlabs_business(
    kernel: RealKernel, wanted: dict[str, list[Object]], make: str, show: str, mark: str
) -> None:
    sh(make)
    assert plan(kernel, wanted) == []
    changed = {
        name: [thing for thing in things if not isinstance(thing, IptablesJump | NftTable)]
        for name, things in wanted.items()
    }
    kernel.apply(plan(kernel, changed))
    assert mark in sh(show)


@pytest.mark.stock
def test_neighbours_with_a_place_take_none_from_others(
    kernel: RealKernel, wanted: dict[str, list[Object]]
) -> None:
    limit = int(Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3").read_text())
    first = int(IPv4Address("10.77.0.0"))
    many = [Neighbor(NODE, "eth0", str(IPv4Address(first + n))) for n in range(limit + 100)]
    before = arp_overflows()
    wanted[NODE] += many
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []
    assert arp_overflows() == before
    wanted[NODE] = wanted[NODE][: -len(many)]
    kernel.apply(plan(kernel, wanted))
    assert "10.77." not in sh(f"ip -n {NODE} neighbor show nud all")


@pytest.mark.stock
def test_the_mac_of_a_neighbour_with_a_place_is_asked_for(
    kernel: RealKernel, wanted: dict[str, list[Object]]
) -> None:
    sh(
        f"""ip netns add {LAB}.node2
        ip -n {UNDERLAY} link add name n2 type veth peer name eth0 netns {LAB}.node2
        ip -n {UNDERLAY} link set n2 master br0 up
        ip -n {LAB}.node2 link set eth0 address 02:cc:cc:cc:cc:cc up
        ip -n {LAB}.node2 address add 192.168.50.12/24 dev eth0
        ip netns exec {NODE} ping -qc 1 -W 5 192.168.50.12"""
    )
    seen = sh(f"ip -n {NODE} neighbor show 192.168.50.12")
    assert "02:cc:cc:cc:cc:cc extern_learn" in seen
    assert plan(kernel, wanted) == []


@pytest.mark.stock
def test_a_route_of_others_in_the_way_is_an_error_and_stays(
    kernel: RealKernel, wanted: dict[str, list[Object]]
) -> None:
    sh(f"ip -n {NODE} route add 172.17.0.0/16 via 192.168.50.9 proto static")
    wanted[NODE].append(Route(NODE, "172.17.0.0/16", "eth0", "192.168.50.1"))
    with pytest.raises(KernelError, match=r"cannot add route to 172\.17\.0\.0/16 .*file exists"):
        kernel.apply(plan(kernel, wanted))
    assert "via 192.168.50.9" in sh(f"ip -n {NODE} route show 172.17.0.0/16")


@pytest.mark.stock
def test_the_words_of_a_plan_do_what_the_plan_does(kernel: RealKernel) -> None:
    wanted = world(LAB)
    sh("\n".join(line for op in plan(kernel, wanted) for line in words(op)))
    assert plan(kernel, wanted) == []


# Not where the kernel may take its time to free the far ends of a namespace's cables.
IN_WORDS = [name for name in DRIFTS if not name.endswith("anew") and name != "node-deleted"]


@pytest.mark.parametrize("drift", IN_WORDS)
def test_the_words_of_a_repair_do_what_the_repair_does(
    kernel: RealKernel, wanted: dict[str, list[Object]], drift: str
) -> None:
    sh(DRIFTS[drift])
    sh("\n".join(line for op in plan(kernel, wanted) for line in words(op)))
    assert plan(kernel, wanted) == []


@pytest.mark.stock
def test_ip_reads_what_was_written(wanted: dict[str, list[Object]]) -> None:
    links = {link["ifname"]: link for link in json.loads(sh(f"ip -n {NODE} -d -j link show"))}
    veth, tunnel, bridge = links["veth1"], links["flannel.1"], links["docker0"]
    assert (veth["group"], links["eth0"]["group"]) == (str(GROUP), str(PEER_GROUP))
    assert (veth["address"], veth["mtu"], veth["master"]) == ("02:00:00:00:01:01", 1450, "docker0")
    assert veth["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert bridge["linkinfo"]["info_data"]["stp_state"] == 0
    data = tunnel["linkinfo"]["info_data"]
    assert (data["id"], data["local"], data["link"], data["port"]) == (
        *(1, "192.168.50.11", "eth0"),
        8472,
    )
    assert (data["learning"], data["ttl"], tunnel["mtu"]) == (False, 0, 1450)
    assert "txqlen" not in tunnel or tunnel["txqlen"] == 0
    route = json.loads(sh(f"ip -n {NODE} -d -j route show 10.244.2.0/24"))[0]
    assert (route["gateway"], route["dev"], route["protocol"], route["flags"]) == (
        *("10.244.2.0", "flannel.1", "boot"),
        ["onlink"],
    )
    neighbor = json.loads(sh(f"ip -n {NODE} -j neighbor show 10.244.2.0"))[0]
    assert (neighbor["lladdr"], neighbor["state"]) == ("02:00:00:00:02:02", ["PERMANENT"])
    entries = json.loads(sh(f"bridge -n {NODE} -j fdb show dev flannel.1"))
    assert [(entry["mac"], entry["dst"], entry["state"]) for entry in entries] == [
        ("02:00:00:00:02:02", "192.168.50.12", "permanent")
    ]
    assert "10.244.1.2/24" in sh(f"ip -n {POD} address show dev eth0 up")


@pytest.mark.stock
def test_pyroute2_reads_what_was_written(wanted: dict[str, list[Object]]) -> None:
    with NetNS(NODE, flags=0) as there:
        assert isinstance(there, IPRoute)
        (veth,) = there.link("get", ifname="veth1")
        info = veth.get_attr("IFLA_LINKINFO")
        assert info.get_attr("IFLA_INFO_KIND") == "veth"
        assert veth.get_attr("IFLA_GROUP") == GROUP
        (address,) = [
            each
            for each in there.get_addr(family=2)
            if each.get_attr("IFA_ADDRESS") == "10.244.1.1"
        ]
        assert address["prefixlen"] == 24
        (route,) = [
            each for each in there.get_routes(family=2) if each.get_attr("RTA_DST") == "10.244.2.0"
        ]
        assert (route["proto"], route["scope"], route["type"]) == (3, 0, 1)


def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that every tool run from now on is noted in."""
    runs: list[str] = []

    def noted(argv: Sequence[str], **more: Any) -> Completed:
        runs.append(argv[0])
        return run(argv, **more)

    monkeypatch.setattr(rules, "run", noted)
    return runs


@pytest.mark.stock
def test_unchanged_rules_are_not_listed_again(
    kernel: RealKernel, wanted: dict[str, list[Object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = listings(monkeypatch)
    assert plan(kernel, wanted) == []
    assert runs == []
    sh(f"ip netns exec {NODE} nft add table ip other")
    runs.clear()
    assert plan(kernel, wanted) == []
    assert "iptables-nft-save" in runs
    runs.clear()
    assert plan(kernel, wanted) == []
    assert runs == []


@pytest.mark.stock
def test_rules_written_loosely_are_known_again_by_their_listing(
    kernel: RealKernel, wanted: dict[str, list[Object]]
) -> None:
    loose = ("-p tcp --dport 80 -j ACCEPT", *ACCEPTS)
    wanted[NODE].append(IptablesChain(NODE, "filter", "FLANNEL-LOOSE", loose))
    kernel.apply(plan(kernel, wanted))
    sh(f"ip netns exec {NODE} nft add table ip other")
    assert plan(kernel, wanted) == []


@pytest.mark.stock
def test_a_rule_the_tool_refuses_is_named(
    kernel: RealKernel, wanted: dict[str, list[Object]]
) -> None:
    wanted[NODE].append(IptablesChain(NODE, "filter", "FLANNEL-BAD", ("-j NOWHERE",)))
    with pytest.raises(KernelError, match="cannot add chain FLANNEL-BAD of table filter"):
        kernel.apply(plan(kernel, wanted))
    del wanted[NODE][-1]
    wanted[NODE].append(NftTable(NODE, "ip", "bad", "\tnonsense\n"))
    with pytest.raises(KernelError, match=r"cannot add table ip bad: .*syntax error"):
        kernel.apply(plan(kernel, wanted))


@pytest.mark.stock
def test_ipv6_is_off_before_the_first_link_comes_up(wanted: dict[str, list[Object]]) -> None:
    for name in (NODE, POD, UNDERLAY):
        assert "inet6" not in sh(f"ip -n {name} address show")


@pytest.mark.stock
def test_ipv6_addresses_and_routes_are_objects_too(kernel: RealKernel) -> None:
    wanted: dict[str, list[Object]] = {
        NODE: [
            Netns(NODE),
            Bridge(NODE, "docker0", "02:00:00:00:00:01"),
            Address(NODE, "docker0", "fd00:1::1/64"),
            Route(NODE, "fd00:2::/64", "docker0", "fd00:1::2"),
            Route(NODE, "::/0", "docker0", "fd00:1::9"),
        ]
    }
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []
    sh(f"ip -n {NODE} -6 route delete default")
    sh(f"ip -n {NODE} address delete fd00:1::1/64 dev docker0")
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []
    assert "default via fd00:1::9" in sh(f"ip -n {NODE} -6 route show")


@pytest.mark.stock
def test_an_error_carries_the_kernels_own_words(kernel: RealKernel) -> None:
    kernel.apply([Op(Verb.ADD, Netns(NODE))])
    route = Route(NODE, "10.0.0.0/8", "lo", "192.0.2.1")
    with pytest.raises(KernelError) as caught:
        kernel.apply([Op(Verb.ADD, route)])
    assert str(caught.value).startswith(f"{NODE}: cannot add route to 10.0.0.0/8 by lo: ")
    assert "Nexthop has invalid gateway" in str(caught.value)


@pytest.mark.stock
def test_a_setting_that_is_not_there_is_an_error(kernel: RealKernel) -> None:
    kernel.apply([Op(Verb.ADD, Netns(NODE))])
    with pytest.raises(KernelError, match=r"cannot add setting net\.ipv4\.nonsense: no such file"):
        kernel.apply([Op(Verb.ADD, Sysctl(NODE, "net.ipv4.nonsense", "1"))])


@pytest.mark.stock
def test_threads_work_on_namespaces_of_their_own(kernel: RealKernel) -> None:
    failures: list[BaseException] = []

    def live(node: str) -> None:
        try:
            wanted = renamed(node)
            for _ in range(3):
                kernel.apply(plan(kernel, wanted))
                assert plan(kernel, wanted) == []
                kernel.apply([Op(Verb.DELETE, Netns(name)) for name in wanted])
        except BaseException as error:
            failures.append(error)

    in_parallel([lambda node=f"n{i}": live(node) for i in range(4)])  # type: ignore[misc]
    assert failures == []


def renamed(node: str) -> dict[str, list[Object]]:
    """Return the world with names of its own, so that several may stand side by side."""
    return world(f"{LAB}.{node}")


def in_parallel(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.stock
def test_many_cables_go_at_once(kernel: RealKernel) -> None:
    wanted = world(LAB)
    pods = [f"{LAB}.node1.default.p{i}" for i in range(60)]
    cable = next(thing for thing in wanted[NODE] if getattr(thing, "name", "") == "veth1")
    for number, pod in enumerate(pods):
        mac = f"02:00:00:01:00:{number:02x}"
        wanted[NODE].append(replace(cable, name=f"vethp{number}", peer_netns=pod, mac=mac))
        wanted[pod] = [Netns(pod), Address(pod, "eth0", f"10.244.1.{number + 9}/24")]
    kernel.apply(plan(kernel, wanted))
    assert plan(kernel, wanted) == []
    for pod in pods:
        del wanted[pod]
    wanted[NODE] = [each for each in wanted[NODE] if getattr(each, "peer_netns", "") not in pods]
    kernel.apply(plan(kernel, wanted))
    assert "vethp" not in sh(f"ip -n {NODE} link show")
    assert plan(kernel, wanted) == []
    assert all(netns.exists(pod) for pod in pods)
