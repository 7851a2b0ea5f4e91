"""Foreign members of the overlay, and nodes that leave flannel or their rules to others."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from fake_lab import LAB, LEASES

from netlab import desired
from netlab.agent.ownlease import ANEW, AWAITED, GONE, OwnLease
from netlab.cluster import cluster
from netlab.flannel import members
from netlab.flannel.config import Config, resolve
from netlab.flannel.lease import Lease
from netlab.flannel.members import Member
from netlab.model.lab import Backend, Lab
from netlab.objects import Address, Bridge, IptablesChain, IptablesJump, Route, Sysctl, Veth, Vxlan
from netlab.store.etcd import Listing
from netlab.store.wire import KeyValue

MAC = "2a:88:25:c9:35:2a"
NODE2, BOX = "192.168.50.12", "192.168.50.77"


def lab(**node2: str) -> Lab:
    found = msgspec.convert(LAB, Lab)
    changed = msgspec.structs.replace(found.nodes[1], **node2)
    return msgspec.structs.replace(found, nodes=[found.nodes[0], changed])


def key(lease: Lease, etcd_lease: int = 7) -> KeyValue:
    return KeyValue(lease.key, lease.value(), lease=etcd_lease)


def test_a_lease_is_a_nodes_by_its_public_ip_alone_and_foreign_otherwise() -> None:
    ours, theirs = Lease("10.244.9.0/24", NODE2, vtep_mac=MAC), Lease("10.244.7.0/24", BOX, "udp")
    items = [key(ours), key(theirs, 8), KeyValue("/coreos.com/network/subnets/foo", b"{}")]
    assert members.lease_of(items, NODE2) == ours
    assert members.lease_of(items, "192.168.50.99") is None
    assert members.foreign(items, {NODE2}) == [Member(theirs, 8)]
    assert members.foreign(items, {NODE2, BOX}) == []


def test_whose_an_address_is_follows_from_the_leases() -> None:
    items = [key(Lease("10.244.9.0/24", NODE2, vtep_mac=MAC)), key(Lease("10.244.7.0/24", BOX, ""))]
    for address in ("10.244.7.9", BOX):
        found = members.holder(items, {NODE2}, address)
        assert found is not None and found.subnet == "10.244.7.0/24"
    for address in ("10.244.9.9", NODE2, "10.244.8.9"):
        assert members.holder(items, {NODE2}, address) is None


WHY = {
    "vxlan": (Lease("10.244.7.0/24", BOX, vtep_mac=MAC), Backend(), ""),
    "host-gw": (Lease("10.244.7.0/24", BOX, "host-gw"), Backend("host-gw"), ""),
    "udp": (Lease("10.244.7.0/24", BOX, ""), Backend("udp"), ""),
    "another": (
        Lease("10.244.7.0/24", BOX, "host-gw"),
        Backend(),
        "its back end is host-gw, the lab's is vxlan",
    ),
    "another VNI": (
        Lease("10.244.7.0/24", BOX, vni=5, vtep_mac=MAC),
        Backend(),
        "its VNI is 5, the lab's is 1",
    ),
    "no VNI": (Lease("10.244.7.0/24", BOX, vni=0, vtep_mac=MAC), Backend(VNI=7), ""),
    "16 bits": (Lease("10.244.7.0/24", BOX, vni=7, vtep_mac=MAC), Backend(VNI=0x10007), ""),
    "of none": (Lease("10.244.7.0/24", BOX, ""), Backend(), "its back end is udp, the lab's"),
    "no MAC": (Lease("10.244.7.0/24", BOX), Backend(), "it says no VTEP MAC"),
    "over the underlay": (
        Lease("192.168.0.0/16", "10.9.9.9", vtep_mac=MAC),
        Backend(),
        "the way to it would lead into itself, or over the underlay",
    ),
    "elsewhere": (
        Lease("10.244.7.0/24", "10.9.9.9", "host-gw"),
        Backend("host-gw"),
        "no node is on its segment",
    ),
}


@pytest.mark.parametrize(("lease", "backend", "words"), WHY.values(), ids=WHY)
def test_why_a_member_is_not_reached(lease: Lease, backend: Backend, words: str) -> None:
    from ipaddress import IPv4Network

    network = msgspec.structs.replace(lab().network, Backend=backend)
    segment = lab().underlay.segments[0].cidr
    found = members.why_not(
        lease, resolve(network), homes=[segment], outside=[IPv4Network(segment)]
    )
    assert found.startswith(words) and bool(found) == bool(words)


class Store:
    """An etcd that holds *items*, and fails the test when it is written to."""

    def __init__(self, *items: KeyValue) -> None:
        self.items = list(items)

    def range(self, prefix: str) -> Listing:
        return Listing(1, self.items)

    def __getattr__(self, name: str) -> Any:
        pytest.fail(f"{name} of etcd is called for a lease that is a foreign flanneld's")


def test_a_foreign_flannelds_lease_is_found_and_never_written() -> None:
    theirs = lab(flannel="none")
    config: Config = resolve(theirs.network)
    own, store = OwnLease("node2", logging.getLogger()), Store()
    own.keep(store, theirs, config)  # type: ignore[arg-type]
    assert (own.lease, own.subnet, own.awaits) == (None, "", AWAITED)
    for mac in (MAC, "2a:88:25:c9:35:2b"):  # it was restarted, with another device
        lease = Lease("10.244.9.0/24", NODE2, vtep_mac=mac)
        store.items = [key(lease)]
        own.keep(store, theirs, config)  # type: ignore[arg-type]
        assert (own.lease, own.awaits, own.renews) == (lease, "", 0.0)
    for stale, words in (
        (msgspec.structs.replace(lease, vni=5), "its VNI is 5, the lab's is 1"),
        (
            msgspec.structs.replace(lease, backend_type="host-gw"),
            "its back end is host-gw, the lab's is vxlan",
        ),
        (
            msgspec.structs.replace(
                lease, subnet_v6="fd00:10:244:9::/64", public_ipv6="fd00::11", vtep_mac_v6=MAC
            ),
            "its lease has an IPv6 subnet, the lab is of IPv4 alone",
        ),
    ):
        store.items = [key(stale)]
        own.keep(store, theirs, config)  # type: ignore[arg-type]
        assert own.awaits == f"{words}: {ANEW}"
    two = resolve(msgspec.structs.replace(theirs.network, EnableIPv6=True, IPv6Network="fd00::/56"))
    store.items = [key(lease)]
    own.keep(store, theirs, two)  # type: ignore[arg-type]
    assert own.awaits == f"its lease is of IPv4 alone, the lab has two stacks: {ANEW}"
    store.items = []
    own.keep(store, theirs, config)  # type: ignore[arg-type]
    assert (own.subnet, own.awaits) == ("10.244.9.0/24", GONE)  # its pods keep their addresses


@pytest.mark.parametrize(
    ("backend", "mtu"), [("vxlan", 1450), ("host-gw", 1500), ("", 1472)], ids=str
)
def test_of_a_node_with_a_foreign_flanneld_bridge_and_cables_are_made(
    backend: str, mtu: int
) -> None:
    from fake_lab import pod

    theirs = lab(flannel="none")
    pods = (pod("there", node="node2", ip="10.244.2.9"),)
    seen = cluster(theirs, pods, leases=LEASES)
    own = Lease("10.244.2.0/24", NODE2, backend, vtep_mac=MAC if backend == "vxlan" else "")
    peer = Lease("10.244.1.0/24", "192.168.50.11", vtep_mac=MAC)
    made = desired.node(seen, seen.nodes[1], config=resolve(theirs.network), own=own, peers=[peer])
    (bridge,) = (one for one in made if isinstance(one, Bridge))
    assert (bridge.name, bridge.mtu) == ("docker0", mtu)
    assert Address("notes.node2", "docker0", "10.244.2.1/24") in made
    assert [one.mtu for one in made if isinstance(one, Veth)] == [mtu]
    assert not [one for one in made if isinstance(one, Vxlan | IptablesChain | IptablesJump)]
    assert {one.destination for one in made if isinstance(one, Route)} == {"default"}
    assert not [one for one in made if isinstance(one, Sysctl) and "flannel" in one.name]


def test_a_node_says_what_is_left_to_others() -> None:
    assert [node.foreign_proxy for node in lab(proxyMode="none").nodes] == [False, True]
    assert [node.foreign_flannel for node in lab(flannel="none").nodes] == [False, True]
