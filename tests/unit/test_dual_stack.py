"""Two stacks: what a Lab document becomes, what nodes write into etcd and hold in their kernels."""

from __future__ import annotations

import io
import json
from random import Random

import pytest

from netlab import cni, desired, topology, world
from netlab.cluster import Cluster, cluster
from netlab.dns import files
from netlab.flannel import backends, rules
from netlab.flannel.choice import Choice, choose
from netlab.flannel.config import SUBNETS, Range, parse, resolve
from netlab.flannel.lease import Lease
from netlab.flannel.lease import parse as parse_lease
from netlab.flannel.subnets import Me, own_lease
from netlab.model.lab import Backend, Lab, Network
from netlab.objects import (
    Address,
    FdbEntry,
    IptablesChain,
    Neighbor,
    NftTable,
    Object,
    Route,
    Sysctl,
    Vxlan,
)

HEAD = "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\n"
NODES = "nodes: [{name: n1, address: 192.168.50.11}, {name: n2, address: 192.168.50.112}]\n"
DUAL = HEAD + NODES + "network: {EnableIPv6: true}\n"
MAC, MAC6 = "c6:29:ca:3e:6a:67", "a6:a7:1f:f6:22:c0"
NETWORK = Network("10.5.0.0/16", EnableIPv6=True, IPv6Network="fc00:5::/48")


def lab(text: str = DUAL) -> Lab:
    found = topology.load(["-"], stdin=io.StringIO(text)).lab
    assert found is not None
    return found


def test_what_is_left_out_has_numbers_that_read_alike() -> None:
    found = lab()
    assert [node.addresses for node in found.nodes] == [
        ("192.168.50.11", "fd00:192:168:50::11"),
        ("192.168.50.112", "fd00:192:168:50::112"),
    ]
    assert found.gateway.addresses == ("192.168.50.1", "fd00:192:168:50::1")
    assert found.underlay.segments[0].prefixes == ("192.168.50.0/24", "fd00:192:168:50::/64")
    assert found.serviceCIDR6 == "fd00:10:96::/112"
    assert found.outside.machine("client") == ("198.51.100.10/24", "2001:db8:2::10/64")
    assert resolve(found.network).networks == ("10.244.0.0/16", "fd00:10:244::/56")


def test_a_lab_of_one_stack_has_nothing_of_the_other() -> None:
    one = lab(HEAD + NODES)
    assert "6" not in json.dumps([one.serviceCIDR6, one.nodes[0].address6, one.outside.client6])
    every = [thing for things in world.objects(one).values() for thing in things]
    every += cni.node_objects(one, cluster(one, [], leases={}).nodes[0])
    assert not [t for t in every if isinstance(t, Address | Route) and ":" in str(t.key)]
    settings = {t.name: t.value for t in every if isinstance(t, Sysctl) and "ipv6" in t.name}
    assert settings == {"net.ipv6.conf.all.disable_ipv6": "1"}


def test_the_net_conf_is_read_as_it_was_written() -> None:
    config = resolve(NETWORK)
    assert config.ipv6 == Range("fc00:5::/48", 64, "fc00:5:0:1::", "fc00:5:0:ffff::")
    assert json.loads(config.json())["IPv6SubnetMin"] == "fc00:5:0:1::"
    assert parse(config.json()) == config
    assert "IPv6" not in resolve(Network("10.5.0.0/16")).json()


@pytest.mark.parametrize(
    ("network", "length"), [("fd00::/62", 64), ("fd00::/63", 65), ("fd00::/124", 126)]
)
def test_the_length_of_a_lease_is_flannels(network: str, length: int) -> None:
    declared = Network("10.5.0.0/16", EnableIPv6=True, IPv6Network=network)
    config = resolve(declared)
    assert config.ipv6 is not None and config.ipv6.subnet_len == length


ME = Me("192.168.77.1", MAC, "fd77::1", MAC6)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (
            "vxlan",
            '{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendType":"vxlan",'
            '"BackendData":{"VNI":1,"VtepMAC":"c6:29:ca:3e:6a:67"},'
            '"BackendV6Data":{"VNI":1,"VtepMAC":"a6:a7:1f:f6:22:c0"}}',
        ),
        (
            "host-gw",
            '{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendType":"host-gw"}',
        ),
    ],
)
def test_a_lease_reads_as_flannels_byte_for_byte(kind: str, value: str) -> None:
    config = resolve(Network("10.5.0.0/16", Backend=Backend(Type=kind)))
    lease = own_lease(config, "10.5.8.0/24", ME, "fc00:5:0:57::/64")
    assert lease.key == f"{SUBNETS}/10.5.8.0-24&fc00:5:0:57::-64"
    assert lease.value().decode() == value
    assert parse_lease(lease.key, lease.value()) == (lease, "")


@pytest.mark.parametrize("address", ["fe80::1", "::1", "ff02::1", "fc00:5:0:57::9"])
def test_what_cannot_be_reached_by_ipv6_is_still_a_peer_by_ipv4(address: str) -> None:
    key = f"{SUBNETS}/10.5.8.0-24&fc00:5:0:57::-64"
    lease, wrong = parse_lease(
        key,
        b'{"PublicIP":"192.168.77.2","PublicIPv6":"%s","BackendType":"host-gw"}' % address.encode(),
    )
    assert len(lease.halves) == 1 and lease.key == key and wrong.startswith("is of IPv4 only")


class Item:
    """A key in etcd."""

    def __init__(self, lease: Lease) -> None:
        self.key, self.value = lease.key, lease.value()
        self.mod_revision = self.create_revision = 5
        self.lease = 0


def chosen(*items: Item, network: Network = NETWORK, **how: str) -> Choice | None:
    return choose(
        resolve(network), items, public_ip=ME.public_ip, rng=Random(1), **how  # type: ignore[arg-type]
    )  # fmt: skip


def held(subnet: str, subnet_v6: str, me: Me = ME) -> Item:
    return Item(own_lease(resolve(NETWORK), subnet, me, subnet_v6))


def test_a_node_takes_a_subnet_of_each_family_again() -> None:
    own = held("10.5.8.0/24", "fc00:5:0:57::/64")
    assert chosen(own) == Choice("10.5.8.0/24", 5, 5, (), "fc00:5:0:57::/64")


def test_a_node_that_gets_a_second_stack_keeps_its_subnet_of_the_first() -> None:
    own = held("10.5.8.0/24", "")
    found = chosen(own, previous="10.5.8.0/24")
    assert found is not None and found.subnet == "10.5.8.0/24" and found.stale == (own.key,)
    assert resolve(NETWORK).fits(found.subnet, found.subnet_v6)


def test_a_lease_of_two_stacks_does_not_fit_a_network_of_one() -> None:
    own = held("10.5.8.0/24", "fc00:5:0:57::/64")
    found = chosen(own, network=Network("10.5.0.0/16"), previous="10.5.8.0/24")
    assert found == Choice("10.5.8.0/24", stale=(own.key,))


def test_of_each_family_a_free_subnet_is_taken() -> None:
    small = Network("10.5.0.0/22", EnableIPv6=True, IPv6Network="fc00:5::/62")
    other = Me("192.168.77.2", MAC, "fd77::2", MAC6)
    taken = [
        held("10.5.1.0/24", "fc00:5:0:2::/64", other),
        held("10.5.2.0/24", "fc00:5:0:1::/64", Me("192.168.77.3", MAC, "fd77::3", MAC6)),
    ]
    assert chosen(*taken, network=small) == Choice("10.5.3.0/24", subnet_v6="fc00:5:0:3::/64")
    third = held("10.6.0.0/24", "fc00:5:0:3::/64", Me("192.168.77.4", MAC, "fd77::4", MAC6))
    assert chosen(*taken, third, network=small) is None


PEER = Lease(
    *("10.5.80.0/24", "192.168.77.2", "vxlan", 1, "82:75:80:91:8e:b1"),
    *("fc00:5:0:2c::/64", "fd77::2", "82:75:80:91:8e:b6"),
)


def held_by_a_node(peer: Lease, kind: str = "vxlan", **backend: bool) -> list[Object]:
    network = Network(
        "10.5.0.0/16",
        EnableIPv6=True,
        IPv6Network="fc00:5::/48",
        Backend=Backend(Type=kind, **backend),  # type: ignore[arg-type]
    )
    config = resolve(network)
    return backends.objects(
        "t.n1",
        config=config,
        own=own_lease(config, "10.5.17.0/24", ME, "fc00:5:0:57::/64"),
        peers=[peer],
        device="eth0",
        local="192.168.77.1",
        home=["192.168.77.0/24", "fd77::/64"],
        underlay_mtu=1500,
        underlay=["192.168.77.0/24", "fd77::/64"],
    )


def of_ipv6(things: list[Object]) -> list[Object]:
    return [one for one in things if ":" in str(one.key) or "v6.1" in str(one.key)]


def test_by_vxlan_ipv6_has_a_tunnel_of_its_own_over_ipv6() -> None:
    link = "flannel-v6.1"
    assert held_by_a_node(PEER)[-6:] == [
        Vxlan("t.n1", link, MAC6, 1, "fd77::1", "eth0", mtu=1430, port=0),
        Address("t.n1", link, "fc00:5:0:57::/128"),
        Sysctl("t.n1", "net.ipv6.conf.flannel-v6/1.accept_ra", "0"),
        Neighbor("t.n1", link, "fc00:5:0:2c::", "82:75:80:91:8e:b6"),
        FdbEntry("t.n1", link, "82:75:80:91:8e:b6", "fd77::2"),
        Route(
            "t.n1", "fc00:5:0:2c::/64", link, "fc00:5:0:2c::", onlink=True, protocol=3
        ),
    ]  # fmt: skip


def test_a_peer_without_ipv6_is_reached_by_ipv4() -> None:
    peer = Lease("10.5.80.0/24", "192.168.77.2", vtep_mac="82:75:80:91:8e:b1")
    found = held_by_a_node(peer)
    assert Route("t.n1", "10.5.80.0/24", "flannel.1", "10.5.80.0", onlink=True, protocol=3) in found
    assert not [one for one in found if isinstance(one, Route) and ":" in one.destination]


@pytest.mark.parametrize(("kind", "backend"), [("host-gw", {}), ("vxlan", {"DirectRouting": True})])
def test_a_peer_of_the_segment_is_the_next_hop_itself(kind: str, backend: dict[str, bool]) -> None:
    peer = PEER if kind == "vxlan" else own_lease(
        resolve(Network("10.5.0.0/16", Backend=Backend(Type=kind))),
        "10.5.80.0/24", Me("192.168.77.2", "", "fd77::2"), "fc00:5:0:2c::/64",
    )  # fmt: skip
    found = [one for one in held_by_a_node(peer, kind, **backend) if isinstance(one, Route)]
    assert found == [
        Route("t.n1", "10.5.80.0/24", "eth0", "192.168.77.2"),
        Route("t.n1", "fc00:5:0:2c::/64", "eth0", "fd77::2"),
    ]


def test_a_lease_over_the_nodes_own_ipv6_addresses_is_passed_over() -> None:
    bad = Lease(
        *("10.5.80.0/24", "192.168.77.2", "host-gw", 1, ""),
        *("fd77::/64", "fd77:1::2", ""),
    )
    found = [one for one in held_by_a_node(bad, "host-gw") if isinstance(one, Route)]
    assert found == [Route("t.n1", "10.5.80.0/24", "eth0", "192.168.77.2")]


def test_the_rules_are_those_of_ip6tables() -> None:
    found = rules.objects("t.n1", "fc00:5::/48", "fc00:5:0:57::/64")
    assert {one.family for one in found} == {"ip6"}  # type: ignore[attr-defined]
    (masquerade,) = (one for one in found if isinstance(one, IptablesChain) and one.table == "nat")
    comment = '-m comment --comment "flanneld masq"'
    assert masquerade.rules[4] == (
        f"-s fc00:5::/48 ! -d ff00::/8 {comment} -j MASQUERADE --random-fully"
    )


def seen(pods: list[dict[str, object]]) -> Cluster:
    own = lab()
    return cluster(
        own,
        [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "a", "namespace": "default", "uid": "1"},
                "spec": {"nodeName": "n1", "containers": []},
                "status": {"podIP": "10.244.1.2", "podIPs": pods, "phase": "Running"},
            }
        ],
        leases={"192.168.50.11": ("10.244.1.0/24", MAC, "fd00:10:244:1::/64", MAC6)},
    )


def test_a_pod_has_an_address_and_a_way_out_of_each_family() -> None:
    cluster = seen([{"ip": "10.244.1.2"}, {"ip": "fd00:10:244:1::2"}])
    (inside,) = desired.pods(cluster, cluster.nodes[0]).values()
    netns = "t.n1.default.a"
    assert Address(netns, "eth0", "fd00:10:244:1::2/64") in inside
    assert Route(netns, "::/0", "eth0", "fd00:10:244:1::1") in inside
    assert Route(netns, "default", "eth0", "10.244.1.1") in inside
    assert Sysctl(netns, "net.ipv6.conf.default.accept_dad", "0") in inside
    bridge = cni.bridge_objects(cluster.nodes[0], mtu=1450)
    assert Address("t.n1", "docker0", "fd00:10:244:1::1/64") in bridge


def test_a_pods_hosts_file_has_both_of_its_addresses() -> None:
    text = files.hosts("10.244.1.2", ["a.web", "a"], address6="fd00:10:244:1::2")
    assert text.endswith("10.244.1.2\ta.web\ta\nfd00:10:244:1::2\ta.web\ta\n")
    assert files.hosts("", [], address6="fd00::2") == files.hosts("", [])


def test_addresses_of_a_lease_as_wide_as_ipv6s_are_found_at_once() -> None:
    free = cni.free_addresses("fd00:10:244:1::/64", ["fd00:10:244:1::2", "fd00:10:244:1::7"])
    assert [next(free) for _ in range(2)] == ["fd00:10:244:1::8", "fd00:10:244:1::9"]
    last = cni.free_addresses("fd00::/126", ["fd00::2"])
    assert list(last) == []


def test_the_gateway_opens_the_published_ports_in_both_families() -> None:
    own = lab(DUAL + "gateway: {publish: [30000-32767/tcp]}\n")
    tables = {
        one.family: one.body for one in world.objects(own)["t.gateway"] if isinstance(one, NftTable)
    }
    nodes = "fd00:192:168:50::11, fd00:192:168:50::112"
    assert f"ip6 daddr {{ {nodes} }} tcp dport 30000-32767 accept" in tables["ip6"]
    assert (
        tables["ip6"].replace("ip6", "ip").replace(nodes, "192.168.50.11, 192.168.50.112")
        == (tables["ip"])
    )


def test_between_segments_the_underlay_routes_ipv6_too() -> None:
    own = lab(
        HEAD
        + "nodes: [{name: n1, address: 192.168.50.11}, {name: n2, address: 192.168.60.11}]\n"
        + "network: {EnableIPv6: true}\n"
        + "underlay: {segments: [{cidr: 192.168.50.0/24, router: 192.168.50.254},"
        + " {cidr: 192.168.60.0/24, router: 192.168.60.254}]}\n"
    )
    found = world.objects(own)["t.underlay"]
    assert Address("t.underlay", "br-lan1", "fd00:192:168:50::254/64") in found
    assert Sysctl("t.underlay", "net.ipv6.conf.all.forwarding", "1") in found
    n2 = world.machine_addressing(own, "t.n2", *own.nodes[1].addresses)
    assert Route("t.n2", "fd00:192:168:50::/64", "eth0", "fd00:192:168:60::254") in n2
    assert Route("t.n2", "::/0", "eth0", "fd00:192:168:60::254") in n2
