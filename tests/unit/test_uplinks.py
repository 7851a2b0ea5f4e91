"""Which card of a machine leads to the others: a table of machines."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest

from netlab import uplinks
from netlab.errors import UsageError
from netlab.model.kubernetes import Meta
from netlab.model.lab import Gateway, Lab, LabNode, Master, Network, Segment, Underlay

LAB = Lab(
    metadata=Meta(name="t"),
    underlay=Underlay(segments=[Segment(name="lan", cidr="192.168.56.0/24")]),
    master=Master(address="192.168.56.11"),
    nodes=[LabNode(name=f"node{i}", address=f"192.168.56.{10 + i}") for i in (1, 2)],
    network=Network(Network="10.244.0.0/16"),
    gateway=Gateway(address="192.168.56.1"),
)


class Card(NamedTuple):
    name: str
    mtu: int = 1500
    addresses: tuple[str, ...] = ()
    addresses6: tuple[str, ...] = ()


NAT = Card("eth0", addresses=("10.0.2.15/24",))
PRIVATE = Card("eth1", addresses=("192.168.56.12/24",))
BARE = Card("eth2")


@pytest.mark.parametrize(
    ("cards", "named", "card"),
    [
        ((NAT, PRIVATE), "", "eth1"),
        ((PRIVATE, NAT), "", "eth1"),
        ((NAT, PRIVATE), "eth1", "eth1"),
        ((NAT, Card("enp0s8", 9000, ("172.16.0.1/16", "192.168.56.12/24"))), "", "enp0s8"),
    ],
    ids=["Vagrant's", "the other way round", "named", "second address"],
)
def test_the_card_with_the_declared_address_is_the_one(
    cards: tuple[Card, ...], named: str, card: str
) -> None:
    choice = uplinks.chosen(LAB, "192.168.56.12", cards, named=named)
    assert choice.card == card
    assert ("--uplink" if named else "192.168.56.12") in choice.why


@pytest.mark.parametrize(
    ("cards", "named", "said", "hint"),
    [
        ((NAT,), "", "no card of this machine has 192.168.56.12", "there are: eth0 10.0.2.15"),
        (
            (NAT, Card("eth1", 1500, ("192.168.56.77/24",))),
            "",
            "no card of this machine has 192.168.56.12",
            "eth1 is in the segment 192.168.56.0/24 with 192.168.56.77",
        ),
        ((NAT, PRIVATE), "eth0", "--uplink eth0 has 10.0.2.15, not", "eth1 has it: --uplink eth1"),
        (
            (NAT, Card("eth1", 1500, ("192.168.56.77/24",)), BARE),
            "eth2",
            "--uplink eth2 has no IPv4 address, not",
            "`ip addr add 192.168.56.12/24 dev eth1`",
        ),
        ((NAT, PRIVATE), "eth7", "--uplink eth7: there is no such card here", "eth1 192.168.56.12"),
        (
            (Card("eth1", 1400, ("192.168.56.12/24",)),),
            "",
            "eth1 has an MTU of 1400, and underlay.mtu is 1500",
            "mtu: 1400",
        ),
        ((), "", "no card of this machine has 192.168.56.12", "there are: none"),
    ],
    ids=["only NAT's", "another address", "NAT's named", "bare", "no such", "MTU", "no card"],
)
def test_a_machine_without_that_card_is_told_what_to_do(
    cards: tuple[Card, ...], named: str, said: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        uplinks.chosen(LAB, "192.168.56.12", cards, named=named)
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")


def test_the_card_must_have_the_declared_ipv6_address_too() -> None:
    segments = [Segment(name="lan", cidr="192.168.56.0/24", cidr6="fd00:56::/64")]
    lab = msgspec.structs.replace(LAB, underlay=Underlay(segments=segments))
    other = Card("eth1", 1500, ("192.168.56.12/24",), ("fd00:56::77/64", "fe80::1/64"))
    with pytest.raises(UsageError) as caught:
        uplinks.chosen(lab, "192.168.56.12", (NAT, other), address6="fd00:56::12")
    assert "eth1 has 192.168.56.12, but not fd00:56::12" in caught.value.message
    assert "ip addr add fd00:56::12/64 dev eth1" in (caught.value.hint or "")
    assert "one it has (fd00:56::77)" in (caught.value.hint or "")
    right = other._replace(addresses6=("fd00:56::12/64",))
    assert uplinks.chosen(lab, "192.168.56.12", (right,), address6="fd00:56::12").card == "eth1"


def test_the_address_of_nat_is_never_one() -> None:
    segments = Underlay(segments=[Segment(name="lan", cidr="10.0.2.0/24")])
    nodes = [LabNode(name="node1", address="10.0.2.15")]
    lab = msgspec.structs.replace(LAB, underlay=segments, nodes=nodes)
    with pytest.raises(UsageError, match="NAT gives every virtual machine alike"):
        uplinks.chosen(lab, "10.0.2.15", (NAT,), named="eth0")
    with pytest.raises(UsageError, match="no node of lab t has an address of this machine"):
        uplinks.node_here(lab, (NAT,))


def test_a_machine_is_the_node_whose_address_it_has() -> None:
    assert uplinks.node_here(LAB, (NAT, PRIVATE)) == "node2"
    with pytest.raises(UsageError) as caught:
        uplinks.node_here(LAB, (NAT, BARE))
    assert "node1 192.168.56.11, node2 192.168.56.12" in (caught.value.hint or "")
