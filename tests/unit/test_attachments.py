"""Foreign namespaces in the underlay: what they are called, where they may be, what they make."""

from __future__ import annotations

import io

import msgspec
import pytest
from test_faults import lab

from netlab import attachments, topology, world
from netlab.errors import InputError, UsageError
from netlab.model.attachments import Attachment
from netlab.model.lab import Balancer, Lab, Segment, Underlay
from netlab.objects import Address, Neighbor, Route, Veth
from netlab.topology import growth

BOX = Attachment("box", "192.168.50.60")


def attached(*held: Attachment, **fields: object) -> Lab:
    return msgspec.structs.replace(lab(), attached=held, **fields)


@pytest.mark.parametrize(
    ("word", "name", "port"),
    [
        ("box", "box", "ext_box"),
        ("/run/netns/box", "box", "ext_box"),
        ("/var/run/netns/box", "box", "ext_box"),
        ("/run/netns/./box", "box", "ext_box"),
        ("/proc/4242/ns/net", "/proc/4242/ns/net", "ext_4242"),
        ("/proc/4242/task/4243/ns/net", "/proc/4242/task/4243/ns/net", "ext_4242"),
        ("/run/docker/netns/3f1a", "/run/docker/netns/3f1a", "ext_3f1a"),
        ("a-long-name-of-a-box", "a-long-name-of-a-box", "ext_3cca6442"),
    ],
)
def test_a_namespace_is_called_by_its_name_and_so_is_its_port(
    word: str, name: str, port: str
) -> None:
    assert attachments.named(word) == name
    assert attachments.port_name(name) == port and len(port) <= world.IFNAME_MAX


REFUSED = {
    "no address": (Attachment("x", "n1"), "n1 is not an IPv4 address"),
    "with a length": (Attachment("x", "192.168.50.9/24"), "192.168.50.9/24 is not an IPv4"),
    "outside": (Attachment("x", "10.0.0.9"), "10.0.0.9 is outside the underlay segment 192.168"),
    "the network's": (Attachment("x", "192.168.50.0"), "is the network address of"),
    "everybody's": (Attachment("x", "192.168.50.255"), "is the broadcast address of"),
    "a node's": (Attachment("x", "192.168.50.11"), "is used: it is that of node node1"),
    "the gateway's": (Attachment("x", "192.168.50.1"), "is used: it is the gateway's"),
    "the master's": (Attachment("x", "192.168.50.10"), "is used: it is the master's"),
    "the balancer's": (Attachment("x", "192.168.50.9"), "is used: it is the balancer's"),
    "of the pool": (Attachment("x", "192.168.50.200"), "is in the balancer's pool"),
    "another's": (Attachment("x", "192.168.50.60"), "is used: it is that of namespace box"),
    "attached": (Attachment("box", "192.168.50.61"), "namespace box is attached as"),
    "no device": (Attachment("x", "192.168.50.61", "e th"), "cannot be an interface's name"),
    "a long device": (Attachment("x", "192.168.50.61", "e" * 16), "is 16 bytes long"),
}


@pytest.mark.parametrize(("new", "words"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_place_is_refused(new: Attachment, words: str) -> None:
    balancer = Balancer("192.168.50.9", ["192.168.50.200-192.168.50.210"])
    with pytest.raises(UsageError) as refused:
        attachments.require_room(attached(BOX, balancer=balancer), new)
    assert words in refused.value.message


def test_a_free_address_is_offered() -> None:
    with pytest.raises(UsageError) as refused:
        attachments.require_room(lab(), Attachment("x", "192.168.50.11"))
    assert refused.value.hint == "192.168.50.2 is free"


def test_it_is_plugged_into_the_bridge_of_its_segment_and_has_a_machines_routes() -> None:
    segments = [
        Segment("one", "192.168.50.0/24", "192.168.50.254"),
        Segment("two", "192.168.60.0/24", "192.168.60.254"),
    ]
    two = msgspec.structs.replace(lab(), underlay=Underlay(segments, mtu=1400))
    made = attachments.objects(two, Attachment("box", "192.168.60.7", "lan0"))
    cable = made[0]
    assert isinstance(cable, Veth)
    assert (cable.netns, cable.name, cable.bridge) == ("notes.underlay", "ext_box", "br-two")
    assert (cable.peer_netns, cable.peer_name, cable.mtu) == ("box", "lan0", 1400)
    assert made[1:] == [
        Address("box", "lan0", "192.168.60.7/24"),
        Route("box", "192.168.50.0/24", "lan0", "192.168.60.254"),
        Route("box", "default", "lan0", "192.168.60.254"),
    ]
    without = attachments.objects(two, Attachment("box", "192.168.60.7", default_route=False))
    assert [one.destination for one in without if isinstance(one, Route)] == ["192.168.50.0/24"]


SIX = "fd00:192:168:50::60"
BOTH = Attachment("box", "192.168.50.60", address6=SIX)


def dual(*held: Attachment) -> Lab:
    nodes = "nodes: [{name: node1, address: 192.168.50.11}]\nnetwork: {EnableIPv6: true}\n"
    text = f"apiVersion: netlab/v1\nkind: Lab\nmetadata: {{name: notes}}\n{nodes}"
    found = topology.load(["-"], stdin=io.StringIO(text)).require_lab()
    return msgspec.structs.replace(found, attached=held)


def test_in_a_lab_of_two_stacks_it_has_an_address_and_a_default_route_of_each() -> None:
    made = attachments.objects(dual(), BOTH)[1:]
    assert [one for one in made if ":" in str(one)] == [
        Address("box", "eth0", f"{SIX}/64"),
        Route("box", "::/0", "eth0", "fd00:192:168:50::1"),
    ]
    without = attachments.objects(dual(), msgspec.structs.replace(BOTH, default_route=False))
    assert not [one for one in without if isinstance(one, Route)]
    places = world.machine_addressing(dual(BOTH), "notes.node1", "fd00:192:168:50::11")
    assert Neighbor("notes.node1", "eth0", SIX) in places
    assert BOTH.words == f"namespace box is attached as 192.168.50.60 and {SIX}, by eth0"
    assert BOTH.command == f"netlab attach box --address 192.168.50.60 --address6 {SIX}"


@pytest.mark.parametrize(
    ("address6", "words"),
    {
        "192.168.50.61": "--address6: 192.168.50.61 is not an IPv6 address",
        "fd00:1::61": "fd00:1::61 is outside fd00:192:168:50::/64, the segment of 192.168.50.61",
        "fd00:192:168:50::": "is the network address of",
        "fd00:192:168:50::11": "is used: it is that of node node1",
        SIX: "is used: it is that of namespace box",
    }.items(),
)
def test_an_ipv6_address_without_a_place_is_refused(address6: str, words: str) -> None:
    new = Attachment("x", "192.168.50.61", address6=address6)
    with pytest.raises(UsageError) as refused:
        attachments.require_room(dual(BOTH), new)
    assert words in refused.value.message


def test_a_lab_of_one_stack_has_no_place_for_an_ipv6_address() -> None:
    with pytest.raises(UsageError, match="lab notes has no IPv6 underlay"):
        attachments.require_room(lab(), BOTH)
    with pytest.raises(UsageError, match="which the files leave no room for"):
        attachments.carried(lab(), dual(BOTH))


def test_the_nodes_keep_a_place_for_it_as_their_neighbour() -> None:
    made = world.machine_addressing(attached(BOX), "notes.node1", "192.168.50.11")
    assert Neighbor("notes.node1", "eth0", BOX.address) in made


def test_its_port_is_not_the_worlds_business() -> None:
    ours, its = (Veth("notes.underlay", name, "", "", "", "") for name in ("node1", "ext_box"))
    elsewhere = Veth("notes.node1", "ext_box", "", "", "", "")
    assert attachments.others(attached(BOX), [ours, its, elsewhere]) == [ours, elsewhere]
    assert attachments.others(lab(), [ours, its]) == [ours, its]


def test_up_keeps_what_is_attached_and_refuses_files_without_room() -> None:
    assert attachments.carried(lab(), attached(BOX)).attached == (BOX,)
    assert attachments.carried(lab(), None) == lab()
    node = msgspec.structs.replace(lab().nodes[0], address=BOX.address)
    with pytest.raises(UsageError) as refused:
        attachments.carried(msgspec.structs.replace(lab(), nodes=[node]), attached(BOX))
    assert "namespace box is attached as 192.168.50.60" in refused.value.message
    assert "is used: it is that of node node1" in refused.value.message
    assert refused.value.hint == "netlab detach box, or another address"


def test_a_node_that_is_added_gets_an_address_that_nothing_attached_has() -> None:
    held = attached(Attachment("box", "192.168.50.2"))
    grown = growth.with_node(held, "node3", labels={})
    assert grown.node("node3").address == "192.168.50.3" and grown.attached == held.attached
    with pytest.raises(InputError, match="is used: it is that of node node3"):
        growth.with_node(held, "node3", address="192.168.50.2", labels={})


def test_the_command_that_made_it_is_told_whole() -> None:
    odd = Attachment("/proc/7/ns/net", "192.168.50.60", "lan0", default_route=False)
    assert odd.command == (
        "netlab attach /proc/7/ns/net --address 192.168.50.60 --device lan0 --no-default-route"
    )
    assert odd.undo == "netlab detach /proc/7/ns/net"
    held = attached(odd, BOX)
    assert msgspec.json.decode(msgspec.json.encode(held), type=Lab) == held
