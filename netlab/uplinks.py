"""Which card of a machine leads to the other machines of its lab: pure.

1. It is the card that has the address the machine is declared with. Nothing else is guessed: the
   other nodes send to that address.
2. The address that VirtualBox's and QEMU's NAT gives every machine is never one: all have the same,
   and none reaches another by it. On Vagrant boxes it is on the first card.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple, Protocol

from netlab.errors import UsageError
from netlab.model.lab import Lab

NAT_ADDRESS = "10.0.2.15"  # VirtualBox, chapter 6.3 of its manual; QEMU's user networking likewise


class Card(Protocol):
    """A link of the machine; its addresses with prefix lengths, those of IPv6 apart."""

    @property
    def name(self) -> str: ...
    @property
    def mtu(self) -> int: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...
    @property
    def addresses6(self) -> tuple[str, ...]: ...


class Choice(NamedTuple):
    """A card, and why it is that one."""

    card: str
    why: str


def chosen(
    lab: Lab, address: str, cards: Sequence[Card], *, address6: str = "", named: str = ""
) -> Choice:
    """Return the card for the machine that is declared with *address*; *named*: it is to be that.

    *address6*: the IPv6 address that the card must have, too. Raises UsageError, which tells what
    cards there are and what to do.
    """
    holders = [card for card in cards if address in _bare(card)]
    if named:
        card = next((one for one in cards if one.name == named), None)
        if card is None:
            raise UsageError(
                f"--uplink {named}: there is no such card here", hint=f"there are: {_told(cards)}"
            )
        if card not in holders:
            raise UsageError(
                f"--uplink {named} has {_addresses(card)}, not the declared address {address}",
                hint=_remedy(lab, address, cards),
            )
        why = "as --uplink says"
    elif not holders:
        raise UsageError(
            f"no card of this machine has {address}, the address it is declared with",
            hint=_remedy(lab, address, cards),
        )
    else:
        card, why = holders[0], f"it has {address}, the declared address"
    if address == NAT_ADDRESS:
        raise UsageError(
            f"{address} on {card.name} is what NAT gives every virtual machine alike",
            hint="declare the address on a private network, which only this machine has",
        )
    if card.mtu < lab.underlay.mtu:
        raise UsageError(
            f"{card.name} has an MTU of {card.mtu}, and underlay.mtu is {lab.underlay.mtu}",
            hint=f"underlay: {{mtu: {card.mtu}}} in the Lab document, or a larger one on all cards",
        )
    if address6 and address6 not in _bare6(card):
        home = IPv6Network(lab.segment_of(address).cidr6)
        raise UsageError(
            f"{card.name} has {address}, but not {address6}, the IPv6 address declared with it",
            hint=f"ip addr add {address6}/{home.prefixlen} dev {card.name}, "
            f"or declare one it has ({', '.join(_bare6(card)) or 'none'}) as address6",
        )
    return Choice(card.name, why)


def node_here(lab: Lab, cards: Sequence[Card]) -> str:
    """Return the node of *lab* that a machine with *cards* is, by its address.

    Raises UsageError.
    """
    held = {address for card in cards for address in _bare(card)} - {NAT_ADDRESS}
    for node in lab.nodes:
        if node.address in held:
            return node.name
    declared = ", ".join(f"{node.name} {node.address}" for node in lab.nodes)
    raise UsageError(
        f"no node of lab {lab.name} has an address of this machine ({_told(cards)})",
        hint=f"declared are: {declared}",
    )


def _remedy(lab: Lab, address: str, cards: Sequence[Card]) -> str:
    """Return what to do about a machine without its declared *address*."""
    if holder := next((card for card in cards if address in _bare(card)), None):
        return f"{holder.name} has it: --uplink {holder.name}, or leave --uplink out"
    segment = IPv4Network(lab.segment_of(address).cidr)
    near = [card for card in cards if any(IPv4Address(one) in segment for one in _bare(card))]
    if near:
        own = next(one for one in _bare(near[0]) if IPv4Address(one) in segment)
        return (
            f"{near[0].name} is in the segment {segment} with {own}: declare that address, "
            f"or `ip addr add {address}/{segment.prefixlen} dev {near[0].name}`"
        )
    return f"there are: {_told(cards)}"


def _bare(card: Card) -> list[str]:
    return [one.partition("/")[0] for one in card.addresses]


def _bare6(card: Card) -> list[str]:
    held = [one.partition("/")[0] for one in card.addresses6]
    return [one for one in held if not IPv6Address(one).is_link_local]


def _addresses(card: Card) -> str:
    return ", ".join(_bare(card)) or "no IPv4 address"


def _told(cards: Sequence[Card]) -> str:
    return "; ".join(f"{card.name} {_addresses(card)}" for card in cards) or "none"
