"""What a node's kernel must hold for its leases."""

from __future__ import annotations

import msgspec
import pytest

from netlab.flannel import backends, rules, udp, vxlan
from netlab.flannel.config import resolve
from netlab.flannel.lease import Lease
from netlab.model.lab import Backend, Network
from netlab.objects import (
    Address,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Object,
    Route,
    Sysctl,
    Tun,
    Vxlan,
)

CONFIG = resolve(Network("10.5.0.0/16"))
OWN = Lease("10.5.17.0/24", "192.168.77.1", vtep_mac="02:00:00:00:00:01")
PEER = Lease("10.5.80.0/24", "192.168.77.2", vtep_mac="82:75:80:91:8e:b1")
TUNNEL = [
    Vxlan("demo.n1", "flannel.1", "02:00:00:00:00:01", 1, "192.168.77.1", "eth0", mtu=1450, port=0),
    Address("demo.n1", "flannel.1", "10.5.17.0/32"),
    Sysctl("demo.n1", "net.ipv6.conf.flannel/1.accept_ra", "0"),
]
WAY = [
    Neighbor("demo.n1", "flannel.1", "10.5.80.0", "82:75:80:91:8e:b1"),
    FdbEntry("demo.n1", "flannel.1", "82:75:80:91:8e:b1", "192.168.77.2"),
    Route("demo.n1", "10.5.80.0/24", "flannel.1", "10.5.80.0", onlink=True, protocol=3),
]


def objects(*peers: Lease, config=CONFIG, **how) -> list[Object]:
    return backends.objects(
        "demo.n1",
        config=config,
        own=OWN,
        peers=peers,
        device="eth0",
        local="192.168.77.1",
        home=["192.168.77.0/24"],
        underlay_mtu=how.pop("underlay_mtu", 1500),
        **how,
    )


def test_a_node_alone_has_its_tunnel() -> None:
    assert objects() == TUNNEL


def test_a_peer_is_three_entries_in_flannels_order() -> None:
    assert objects(OWN, PEER) == TUNNEL + WAY


def test_the_net_conf_shapes_the_device() -> None:
    config = resolve(Network("10.5.0.0/16", Backend=Backend(VNI=42, Port=4789, MTU=1400)))
    device, _, setting = objects(config=config)
    assert device == Vxlan(
        "demo.n1", "flannel.42", OWN.vtep_mac, 42, OWN.public_ip, "eth0", mtu=1350, port=4789
    )
    assert setting == Sysctl("demo.n1", "net.ipv6.conf.flannel/42.accept_ra", "0")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"vtep_mac": ""}, id="no-mac"),
        pytest.param({"vtep_mac": "01:00:5e:00:00:01"}, id="group-mac"),
        pytest.param({"backend_type": "host-gw"}, id="other-backend"),
        pytest.param({"backend_type": "VXLAN"}, id="other-case"),
        pytest.param({"public_ip": OWN.public_ip}, id="own-public-ip"),
        pytest.param({"public_ip": "10.5.3.3"}, id="node-within-the-overlay"),
        pytest.param({"subnet": OWN.subnet}, id="own-subnet"),
        pytest.param({"subnet": "10.5.17.128/25"}, id="part-of-the-own-subnet"),
        pytest.param({"subnet": "192.168.77.0/24"}, id="over-the-nodes"),
        pytest.param({"subnet": "192.168.77.8/29"}, id="over-the-underlay"),
        pytest.param({"subnet": "192.0.0.0/4"}, id="over-much"),
    ],
)
def test_a_lease_that_cannot_be_a_peer_is_passed_over(change: dict[str, str]) -> None:
    bad = msgspec.structs.replace(PEER, subnet="10.5.81.0/24", vtep_mac="02:00:00:00:00:09")
    bad = msgspec.structs.replace(bad, **change)
    assert objects(OWN, bad, PEER, underlay=["192.168.77.0/24"]) == TUNNEL + WAY


def test_a_subnet_out_of_the_network_is_followed_as_flannel_does() -> None:
    far = msgspec.structs.replace(PEER, subnet="172.30.9.0/24")
    routes = [thing for thing in objects(OWN, far) if isinstance(thing, Route)]
    assert [route.destination for route in routes] == ["172.30.9.0/24"]


def test_two_subnets_of_one_peer_share_its_fdb_entry() -> None:
    second = msgspec.structs.replace(PEER, subnet="10.5.81.0/24")
    found = objects(PEER, second)
    assert len([thing for thing in found if isinstance(thing, FdbEntry)]) == 1
    assert len([thing for thing in found if isinstance(thing, Route)]) == 2
    assert len({thing.key for thing in found}) == len(found)


def test_one_mac_at_two_nodes_is_one_entry_and_always_the_same() -> None:
    second = Lease("10.5.81.0/24", "192.168.77.3", vtep_mac=PEER.vtep_mac)
    for thing in objects(PEER, second):
        if isinstance(thing, FdbEntry):
            assert thing.destination == PEER.public_ip


HOST_GW = resolve(Network("10.5.0.0/16", Backend=Backend(Type="host-gw")))
BY_UDP = resolve(Network("10.5.0.0/16", Backend=Backend(Type="udp")))
DIRECT = resolve(Network("10.5.0.0/16", Backend=Backend(DirectRouting=True)))
NEAR = Lease("10.5.80.0/24", "192.168.77.2", "host-gw")
FAR = Lease("10.5.81.0/24", "192.168.78.2", "host-gw")


def test_by_host_gw_a_peer_is_one_route_by_its_own_address() -> None:
    assert objects(OWN, NEAR, config=HOST_GW) == [
        Route("demo.n1", "10.5.80.0/24", "eth0", "192.168.77.2")
    ]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(FAR, id="behind-a-router"),
        pytest.param(PEER, id="other-backend"),
        pytest.param(msgspec.structs.replace(NEAR, backend_type=""), id="udp"),
        pytest.param(msgspec.structs.replace(NEAR, public_ip=OWN.public_ip), id="own-public-ip"),
        pytest.param(msgspec.structs.replace(NEAR, subnet=OWN.subnet), id="own-subnet"),
        pytest.param(msgspec.structs.replace(NEAR, subnet="192.168.77.0/25"), id="underlay"),
    ],
)
def test_by_host_gw_a_lease_that_cannot_be_a_peer_is_passed_over(bad: Lease) -> None:
    assert objects(OWN, bad, config=HOST_GW) == []


def test_direct_routing_takes_the_tunnel_only_to_other_segments() -> None:
    far = msgspec.structs.replace(
        PEER, subnet="10.5.81.0/24", public_ip="192.168.78.2", vtep_mac="02:00:00:00:00:09"
    )
    found = objects(OWN, PEER, far, config=DIRECT)
    assert found == [
        *TUNNEL,
        Route("demo.n1", "10.5.80.0/24", "eth0", "192.168.77.2"),
        *vxlan.way("demo.n1", "flannel.1", far),
    ]


def test_by_udp_the_whole_network_is_behind_one_device() -> None:
    assert objects(OWN, NEAR, config=BY_UDP) == [
        Tun("demo.n1", "flannel0", 1472),
        Address("demo.n1", "flannel0", "10.5.17.0/32"),
        Sysctl("demo.n1", "net.ipv4.conf.flannel0.accept_local", "1"),
        Route("demo.n1", "10.5.0.0/16", "flannel0"),
    ]


@pytest.mark.parametrize(
    ("change", "sent_to"),
    [
        pytest.param({}, [("10.5.80.0/24", "192.168.77.2")], id="a-peer"),
        pytest.param({"backend_type": "vxlan"}, [], id="other-backend"),
        pytest.param({"public_ip": OWN.public_ip}, [], id="own-public-ip"),
        pytest.param({"subnet": OWN.subnet}, [], id="own-subnet"),
        pytest.param({"subnet": "192.168.77.0/25"}, [], id="over-the-nodes"),
    ],
)
def test_by_udp_packets_are_sent_to_peers(change: dict[str, str], sent_to: list[object]) -> None:
    peer = msgspec.structs.replace(NEAR, **({"backend_type": ""} | change))
    outside = backends.uncovered(OWN.public_ip, ["192.168.77.0/24"], [peer])
    assert udp.reached(BY_UDP, OWN, [OWN, peer], outside) == sent_to


@pytest.mark.parametrize(
    ("config", "within"),
    [(CONFIG, 1450), (DIRECT, 1450), (HOST_GW, 1500), (BY_UDP, 1472)],
    ids=["vxlan", "direct", "host-gw", "udp"],
)
def test_pods_have_the_mtu_that_fits_the_way_between_nodes(config, within: int) -> None:
    assert backends.mtu(config, 1500) == within


@pytest.mark.parametrize(
    ("config", "peer", "of_it"),
    [(CONFIG, PEER, True), (CONFIG, NEAR, False), (HOST_GW, NEAR, True), (HOST_GW, PEER, False)],
)
def test_a_node_that_still_has_another_back_end_is_not_followed(config, peer, of_it) -> None:
    assert (backends.followed(config, [peer]) == [peer]) is of_it


@pytest.mark.parametrize(("underlay", "inner"), [(1500, 1450), (9000, 8950), (1330, 1280)])
def test_the_tunnel_costs_fifty_bytes(underlay: int, inner: int) -> None:
    assert vxlan.inner_mtu(underlay) == inner


def test_an_underlay_too_narrow_is_refused() -> None:
    with pytest.raises(ValueError, match="1329"):
        vxlan.inner_mtu(1329)


def test_a_vtep_mac_is_stable_local_and_unicast() -> None:
    macs = {
        vxlan.vtep_mac(lab, node, vni) for lab in "ab" for node in ("n1", "n2") for vni in (1, 2)
    }
    assert len(macs) == 8
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs)
    # Written down: after an upgrade a node must not look like another.
    assert vxlan.vtep_mac("notes", "node1", 1) == "ee:73:1b:b0:cd:3a"


def test_the_rules_are_flannels() -> None:
    found = rules.objects("demo.n1", "10.5.0.0/16", "10.5.34.0/24")
    assert [as_saved(thing) for thing in found] == [
        ["filter",
         '-A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
         '-A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT'],
        ["filter", '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD'],
        ["nat",
         '-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" '
         "-j RETURN",
         '-A FLANNEL-POSTRTG -s 10.5.34.0/24 -d 10.5.0.0/16 -m comment --comment "flanneld masq" '
         "-j RETURN",
         '-A FLANNEL-POSTRTG -s 10.5.0.0/16 -d 10.5.34.0/24 -m comment --comment "flanneld masq" '
         "-j RETURN",
         '-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.34.0/24 -m comment '
         '--comment "flanneld masq" -j RETURN',
         '-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment '
         '--comment "flanneld masq" -j MASQUERADE --random-fully',
         '-A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment '
         '--comment "flanneld masq" -j MASQUERADE --random-fully'],
        ["nat", '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG'],
    ]  # fmt: skip


def as_saved(thing: Object) -> list[str]:
    if isinstance(thing, IptablesChain):
        return [thing.table, *(f"-A {thing.name} {rule}" for rule in thing.rules)]
    assert isinstance(thing, IptablesJump)
    return [thing.table, f"-A {thing.chain} {thing.rule}"]
