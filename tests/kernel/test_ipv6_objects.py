"""The objects of a second stack in the real kernel: made, in use at once, put right, removed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from worlds import plan, sh

from netlab.flannel import rules
from netlab.kernel import addresses, netns
from netlab.kernel.real import RealKernel
from netlab.objects import (
    Address,
    Bridge,
    FdbEntry,
    Neighbor,
    Netns,
    Object,
    Route,
    Sysctl,
    Veth,
    Vxlan,
)
from netlab.plan import Op, Verb, words

pytestmark = pytest.mark.kernel
LAB = f"nltest-6x{os.getpid()}"
NODE, UNDERLAY = f"{LAB}.node1", f"{LAB}.underlay"
LINK, PEER_MAC = "flannel-v6.1", "02:00:00:00:02:02"
PEER_WAY = [
    Neighbor(NODE, LINK, "fd00:2::", PEER_MAC),
    FdbEntry(NODE, LINK, PEER_MAC, "fd50::12"),
    Route(NODE, "fd00:2::/64", LINK, "fd00:2::", onlink=True, protocol=3),
]
WORLD: dict[str, list[Object]] = {
    NODE: [
        Netns(NODE),
        Sysctl(NODE, "net.ipv6.conf.all.disable_ipv6", "0"),
        Sysctl(NODE, "net.ipv6.conf.all.forwarding", "1"),
        Bridge(NODE, "docker0", "02:00:00:00:00:01", 1450),
        Address(NODE, "docker0", "fd00:1::1/64"),
        Address(NODE, "eth0", "fd50::11/64"),
        Route(NODE, "::/0", "eth0", "fd50::1"),
        Neighbor(NODE, "eth0", "fd50::12"),
        Vxlan(NODE, LINK, "02:00:00:00:02:01", 1, "fd50::11", "eth0", 1430),
        Address(NODE, LINK, "fd00:1::/128"),
        *PEER_WAY,
        *rules.objects(NODE, "10.5.0.0/16", "10.5.1.0/24"),
        *rules.objects(NODE, "fd00::/48", "fd00:1::/64"),
    ],
    UNDERLAY: [
        Netns(UNDERLAY),
        Bridge(UNDERLAY, "br0", "02:00:00:00:03:01"),
        Veth(
            *(UNDERLAY, "node1", "02:00:00:00:03:02"),
            *(NODE, "eth0", "02:00:00:00:03:03", 1500, "br0"),
        ),
    ],
}


@pytest.fixture
def kernel() -> Iterator[RealKernel]:
    made = RealKernel()
    yield made
    made.apply([Op(Verb.DELETE, Netns(name)) for name in made.namespaces(LAB)])


def test_addresses_are_in_use_at_once(kernel: RealKernel) -> None:
    kernel.apply(plan(kernel, WORLD))
    shown = sh(f"ip -n {NODE} -6 address show scope global")
    assert shown.count("nodad") == 3 and "tentative" not in shown
    assert plan(kernel, WORLD) == []
    with netns.entered(NODE):
        assert not [one for one in ("fd50::11", "fd00:1::1") if one not in _local()]


def _local() -> frozenset[str]:
    return addresses.local_addresses(addresses.Family.IPV6)


DRIFTS = {
    "address": f"ip -n {NODE} address flush dev docker0 scope global",
    "default route": f"ip -n {NODE} -6 route delete default",
    "tunnel down": f"ip -n {NODE} link set {LINK} down",
    "tunnel gone": f"ip -n {NODE} link delete {LINK}",
    "tunnel route": f"ip -n {NODE} -6 route delete fd00:2::/64",
    "tunnel route elsewhere": f"ip -n {NODE} -6 route replace fd00:2::/64 via fd50::9",
    "stale route": f"ip -n {NODE} -6 route add fd00:7::/64 via fd00:7:: dev {LINK} onlink",
    "neighbour": f"ip -n {NODE} neighbor delete fd00:2:: dev {LINK}",
    "place": f"ip -n {NODE} neighbor delete fd50::12 dev eth0",
    "forwarding entry": f"bridge -n {NODE} fdb delete {PEER_MAC} dev {LINK} dst fd50::12",
    "more addresses": f"ip -n {NODE} address add fd00:9::9/128 dev {LINK}",
    "rules": f"ip netns exec {NODE} ip6tables-nft -t nat -F FLANNEL-POSTRTG",
    "jump": f"ip netns exec {NODE} ip6tables-nft -F FORWARD",
    "more rules": f"ip netns exec {NODE} ip6tables-nft -N FLANNEL-OLD",
    "forwarding": f"ip netns exec {NODE} sysctl -q -w net.ipv6.conf.all.forwarding=0",
    "ipv6 off": f"ip netns exec {NODE} sysctl -q -w net.ipv6.conf.all.disable_ipv6=1",
}


def test_each_drift_is_found_and_put_right(kernel: RealKernel) -> None:
    kernel.apply(plan(kernel, WORLD))
    for name, command in DRIFTS.items():
        sh(command)
        operations = plan(kernel, WORLD)
        assert operations, f"{name}: not found"
        kernel.apply(operations)
        assert plan(kernel, WORLD) == [], name


def test_what_a_plan_prints_does_the_same(kernel: RealKernel) -> None:
    lines = [line for op in plan(kernel, WORLD) for line in words(op)]
    # The marks that ip(8) cannot give: the addresses are seen as wanted all the same.
    sh("\n".join(lines))
    assert [words(op) for op in plan(kernel, WORLD)] == []


def test_with_the_second_stack_gone_its_rules_go(kernel: RealKernel) -> None:
    kernel.apply(plan(kernel, WORLD))
    of_ipv6 = [one for one in WORLD[NODE] if getattr(one, "family", "") == "ip6"]
    rest = {**WORLD, NODE: [one for one in WORLD[NODE] if one not in of_ipv6]}
    kernel.apply(plan(kernel, rest))
    assert "FLANNEL" not in sh(f"ip netns exec {NODE} ip6tables-nft-save")
    assert "FLANNEL-FWD" in sh(f"ip netns exec {NODE} iptables-nft-save")
