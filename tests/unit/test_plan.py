"""The order of a plan, and what a change of one object means for others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from netlab.objects import (
    Address,
    Bridge,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netns,
    NftTable,
    Object,
    Route,
    Sysctl,
    Veth,
    Vxlan,
)
from netlab.plan import Op, Verb, difference, words
from netlab.plan.order import sysctl_link

N, P = "t.n1", "t.n1.default.web"
BRIDGE = Bridge(N, "docker0", "02:00:00:00:00:01", 1450)
BRIDGE_ADDRESS = Address(N, "docker0", "10.244.1.1/24")
CABLE = Veth(
    *(N, "veth1", "02:00:00:00:01:01", P, "eth0", "02:00:00:00:01:02"),
    *(1450, "docker0", True),
)
TUNNEL = Vxlan(N, "flannel.1", "02:00:00:00:02:01", 1, "192.168.50.11", "eth0", 1450)
TUNNEL_SETTING = Sysctl(N, "net.ipv6.conf.flannel/1.accept_ra", "0")
TUNNEL_ROUTE = Route(N, "10.244.2.0/24", "flannel.1", "10.244.2.0", True, 3)
NEIGHBOR = Neighbor(N, "flannel.1", "10.244.2.0", "02:00:00:00:02:02")
ENTRY = FdbEntry(N, "flannel.1", "02:00:00:00:02:02", "192.168.50.12")
LINK_ROUTE = Route(N, "10.1.0.0/16", "docker0")
FORWARDING = Sysctl(N, "net.ipv4.ip_forward", "1")
CHAIN = IptablesChain(N, "filter", "FLANNEL-FWD", ("-j ACCEPT",))
JUMP = IptablesJump(N, "filter", "FORWARD", "-j FLANNEL-FWD")
TABLE = NftTable(N, "ip", "firewall", "\tchain c {\n\t}\n")
POD_ADDRESS = Address(P, "eth0", "10.244.1.2/24")
POD_ROUTE = Route(P, "default", "eth0", "10.244.1.1")
IN_ORDER = [
    *(Netns(N), Netns(P), FORWARDING, BRIDGE, CABLE, TUNNEL, BRIDGE_ADDRESS, POD_ADDRESS),
    *(LINK_ROUTE, TUNNEL_ROUTE, POD_ROUTE, NEIGHBOR, ENTRY, TUNNEL_SETTING, TABLE, CHAIN, JUMP),
]


def without(*gone: Object) -> list[Object]:
    return [thing for thing in IN_ORDER if thing not in gone]


def made(ops: list[Op]) -> list[Object]:
    return [op.object for op in ops if op.verb is Verb.ADD]


def deleted(ops: list[Op]) -> list[Object]:
    return [op.object for op in ops if op.verb is Verb.DELETE]


def test_nothing_differs_nothing_is_done() -> None:
    assert difference(IN_ORDER, list(reversed(IN_ORDER))) == []


def test_everything_is_made_after_what_it_needs() -> None:
    assert difference(list(reversed(IN_ORDER)), []) == [
        Op(Verb.ADD, thing)
        for thing in (
            *(Netns(P), Netns(N), FORWARDING, BRIDGE, CABLE, TUNNEL, POD_ADDRESS, BRIDGE_ADDRESS),
            *(LINK_ROUTE, POD_ROUTE, TUNNEL_ROUTE, NEIGHBOR, ENTRY, TUNNEL_SETTING),
            *(TABLE, CHAIN, JUMP),
        )
    ]


def test_what_is_in_a_dying_namespace_is_not_deleted_first() -> None:
    assert difference([], IN_ORDER) == [Op(Verb.DELETE, Netns(N)), Op(Verb.DELETE, Netns(P))]


def test_dependants_are_deleted_first() -> None:
    kept = [Netns(N), Netns(P), BRIDGE, BRIDGE_ADDRESS, CABLE, POD_ADDRESS, TUNNEL]
    ops = difference(kept, IN_ORDER)
    assert deleted(ops) == [
        *(JUMP, CHAIN, TABLE, TUNNEL_SETTING, ENTRY, NEIGHBOR, TUNNEL_ROUTE, POD_ROUTE),
        *(LINK_ROUTE, FORWARDING),
    ]


def test_a_pod_goes_cable_first() -> None:
    observed = [*IN_ORDER]
    ops = difference(without(CABLE, Netns(P), POD_ADDRESS, POD_ROUTE), observed)
    assert ops == [Op(Verb.DELETE, CABLE), Op(Verb.DELETE, Netns(P))]


def test_a_namespace_made_anew_is_filled_and_its_old_cable_goes_first() -> None:
    ops = difference(IN_ORDER, without(Netns(P)))
    assert ops[0] == Op(Verb.DELETE, CABLE)
    assert made(ops) == [Netns(P), CABLE, POD_ADDRESS, POD_ROUTE]


def test_the_unknown_other_end_of_a_cable_means_a_new_cable() -> None:
    broken = replace(CABLE, peer_netns="", peer_name="", peer_mac="", peer_up=False)
    ops = difference(IN_ORDER, [broken, *without(CABLE)])
    assert deleted(ops) == [broken]
    assert made(ops) == [CABLE, POD_ADDRESS, POD_ROUTE]


def test_where_a_new_cable_is_to_end_an_old_one_may_still_hang() -> None:
    ops = difference(IN_ORDER, without(CABLE))
    assert made(ops) == [CABLE, POD_ADDRESS, POD_ROUTE]


def test_a_tunnel_that_must_be_made_anew_gets_back_what_hung_on_it() -> None:
    ops = difference(IN_ORDER, [replace(TUNNEL, vni=9), *without(TUNNEL)])
    assert deleted(ops) == [replace(TUNNEL, vni=9)]
    assert made(ops) == [TUNNEL, TUNNEL_ROUTE, NEIGHBOR, ENTRY, TUNNEL_SETTING]


def test_a_tunnel_goes_with_its_device() -> None:
    uplink = Veth("t.u", "n1", "02:00:00:00:03:02", N, "eth0", "02:00:00:00:03:03")
    unplugged = replace(uplink, peer_netns="", peer_name="", peer_mac="")
    ops = difference([*IN_ORDER, uplink], [*IN_ORDER, unplugged])
    assert deleted(ops) == [unplugged]
    assert made(ops) == [uplink, TUNNEL, TUNNEL_ROUTE, NEIGHBOR, ENTRY, TUNNEL_SETTING]


def test_ports_are_plugged_into_a_bridge_made_anew() -> None:
    wrong = Vxlan(N, "docker0", "02:00:00:00:00:01", 5, "10.0.0.1", "eth0", 1450)
    ops = difference(IN_ORDER, [wrong, *without(BRIDGE)])
    assert deleted(ops) == [wrong]
    assert made(ops) == [BRIDGE, BRIDGE_ADDRESS, LINK_ROUTE]
    assert [(op.object, op.old) for op in ops if op.verb is Verb.CHANGE] == [
        (CABLE, replace(CABLE, bridge=None, hairpin=False))
    ]


def test_neighbours_are_made_again_when_their_link_gets_another_mac() -> None:
    old = replace(TUNNEL, mac="02:00:00:00:02:ff")
    ops = difference(IN_ORDER, [old, *without(TUNNEL)])
    assert ops == [Op(Verb.CHANGE, TUNNEL, old), Op(Verb.ADD, NEIGHBOR)]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (BRIDGE, replace(BRIDGE, mtu=1500)),
        (BRIDGE, replace(BRIDGE, up=False)),
        (CABLE, replace(CABLE, hairpin=False)),
        (CABLE, replace(CABLE, bridge=None)),
        (CABLE, replace(CABLE, peer_up=False)),
        (CABLE, replace(CABLE, peer_mac="02:00:00:00:01:ff")),
        (TUNNEL_ROUTE, replace(TUNNEL_ROUTE, via="10.244.9.0")),
        (ENTRY, replace(ENTRY, destination="192.168.50.99")),
        (CHAIN, replace(CHAIN, rules=())),
        (TABLE, replace(TABLE, body="")),
        (Netns(N), Netns(N, lo_up=False)),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_can_be_changed_is_changed(new: Object, old: Object) -> None:
    assert difference(IN_ORDER, [old, *without(new)]) == [Op(Verb.CHANGE, new, old)]


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("net.ipv4.ip_forward", None),
        ("net.ipv6.conf.all.disable_ipv6", None),
        ("net.ipv6.conf.default.accept_ra", None),
        ("net.ipv4.conf.lo.rp_filter", None),
        ("net.bridge.bridge-nf-call-iptables", None),
        ("net.ipv6.conf.flannel/1.accept_ra", "flannel.1"),
        ("net.ipv4.conf.eth0.rp_filter", "eth0"),
        ("net.ipv4.neigh.docker0.gc_stale_time", "docker0"),
    ],
)
def test_a_setting_belongs_to_a_link_or_to_its_namespace(name: str, link: str | None) -> None:
    assert sysctl_link(name) == link


@pytest.mark.parametrize(
    ("op", "lines"),
    [
        (Op(Verb.ADD, Netns(N)), ["ip netns add t.n1", "ip -n t.n1 link set lo up"]),
        (Op(Verb.DELETE, Netns(N)), ["ip netns delete t.n1"]),
        (
            Op(Verb.ADD, CABLE),
            [
                "ip -n t.n1 link add name veth1 address 02:00:00:00:01:01 mtu 1450 group 28268"
                " numtxqueues 1 numrxqueues 1 up"
                " master docker0 type veth peer name eth0 netns t.n1.default.web"
                " address 02:00:00:00:01:02 mtu 1450 group 28269"
                " numtxqueues 1 numrxqueues 1",
                "bridge -n t.n1 link set dev veth1 hairpin on",
                "ip -n t.n1.default.web link set dev eth0 up",
            ],
        ),
        (
            Op(Verb.CHANGE, TUNNEL_ROUTE, replace(TUNNEL_ROUTE, via="10.0.0.1")),
            ["ip -n t.n1 route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink proto 3"],
        ),
        (
            Op(Verb.ADD, TUNNEL_SETTING),
            ["ip netns exec t.n1 sysctl -q -w 'net.ipv6.conf.flannel/1.accept_ra=0'"],
        ),
        (
            Op(Verb.DELETE, JUMP),
            ["ip netns exec t.n1 iptables-nft -w -t filter -D FORWARD -j FLANNEL-FWD"],
        ),
        (
            Op(Verb.CHANGE, TABLE, TABLE),
            [
                "ip netns exec t.n1 nft -f - <<'END'",
                "delete table ip firewall",
                "table ip firewall {",
                "\tchain c {",
                "\t}",
                "}",
                "END",
            ],
        ),
    ],
)
def test_words(op: Op, lines: list[str]) -> None:
    assert words(op) == lines


@pytest.mark.parametrize("thing", IN_ORDER, ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize("verb", Verb)
def test_every_operation_has_words(verb: Verb, thing: Object) -> None:
    silent: dict[type, Callable[[Verb], bool]] = {Sysctl: lambda verb: verb is Verb.DELETE}
    old = thing if verb is Verb.CHANGE else None
    expected_silence = verb is Verb.CHANGE and isinstance(thing, Bridge | Veth | Vxlan)
    if silent.get(type(thing), lambda _: False)(verb) or expected_silence:
        assert words(Op(verb, thing, old)) == []
    else:
        assert all(line.strip() for line in words(Op(verb, thing, old)))
