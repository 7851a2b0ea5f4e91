"""What the table of policies does to the first packet of a flow, told from its text.

It knows the words that the renderer uses and raises on any other.
Source: nft(8); Linux net/netfilter/nf_tables_core.c (nft_do_chain).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from nftables_walk import networks

from netlab.proxy.ruleset import Block, Sort


class Packet(NamedTuple):
    source: str
    destination: str
    protocol: str  # tcp
    port: int

    @property
    def ip(self) -> str:
        """How nft calls its family."""
        return "ip6" if ":" in self.source else "ip"

    def field(self, words: str) -> str:
        return {
            f"{self.ip} saddr": self.source,
            f"{self.ip} daddr": self.destination,
            "meta l4proto": self.protocol,
            "th dport": str(self.port),
        }[words]

    def key(self, words: str) -> str:
        return " . ".join(self.field(one) for one in words.split(" . "))


class Walk:
    """The rules in *blocks*, all of one table."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        found = list(blocks)
        self.chains = {one.name: one.lines for one in found if one.sort is Sort.CHAIN}
        self.sets = {one.name: set(one.lines) for one in found if one.sort is Sort.SET}
        self.maps = {
            one.name: dict(map(_element, one.lines)) for one in found if one.sort is Sort.MAP
        }
        base = [one for one in found if one.head and one.head[0].startswith("type filter hook")]
        self.entered = sorted(base, key=_priority)

    def passes(self, packet: Packet) -> bool:
        """Return whether every chain that the kernel calls lets *packet* go on."""
        return all(self.verdict(one.name, packet) != "drop" for one in self.entered)

    def verdict(self, chain: str, packet: Packet) -> str:
        """Return how *packet* leaves *chain*: accept, drop, or "" at its end."""
        for line in self.chains[chain]:
            what = self.done(line, packet)
            verb, _, target = what.partition(" ")
            if verb == "goto":
                return self.verdict(target, packet)
            if verb == "jump":
                what = self.verdict(target, packet)
            if what:
                return what
        return ""

    def done(self, line: str, packet: Packet) -> str:
        """Return the verdict of one rule, "" if it does not match."""
        rest = re.sub(r' comment "[^"]{0,128}"$', "", line)
        while rest not in ("accept", "drop") and not rest.startswith("jump "):
            for pattern, step in STATEMENTS:
                if words := re.match(rf"{pattern}(?: |$)", rest):
                    result = step(self, packet, *words.groups())
                    if result is False:
                        return ""
                    if isinstance(result, str):
                        return result
                    rest = rest[words.end() :]
                    break
            else:
                raise AssertionError(f"unknown: {rest}")
        return rest


def _priority(chain: Block) -> int:
    found = re.search(r"priority filter \+ (\d+);", chain.head[0])
    assert found, chain.head
    return int(found[1])


def _element(line: str) -> tuple[str, str]:
    key, _, verdict = line.partition(" : ")
    return re.sub(r' comment "[^"]{0,128}"$', "", key), verdict


def looked_up(walk: Walk, packet: Packet, fields: str, name: str) -> bool:
    return packet.key(fields) in walk.sets[name]


def dispatched(walk: Walk, packet: Packet, fields: str, name: str) -> str | bool:
    return walk.maps[name].get(packet.key(fields), False)


def within(_: Walk, packet: Packet, field: str, unequal: str | None, operand: str) -> bool:
    found = any(ip_address(packet.field(field)) in one for one in networks(operand))
    return found is not bool(unequal)


def at_port(_: Walk, packet: Packet, protocol: str, ports: str) -> bool:
    spans = [one.strip().partition("-") for one in ports.strip("{} ").split(",")]
    return packet.protocol == protocol and any(
        int(first) <= packet.port <= int(last or first) for first, _, last in spans
    )


FIELD = r"(?:ip6? [sd]addr|meta l4proto|th dport)"
STATEMENTS = (
    (r"ct state established,related accept", lambda *_: False),  # the first packet is neither
    (r"counter", lambda *_: True),
    (rf"({FIELD}(?: \. {FIELD})*) vmap @(\S+)", dispatched),
    (rf"({FIELD}(?: \. {FIELD})*) @(\S+)", looked_up),
    (r"(ip6? [sd]addr) (?:(!=) )?(\{ [^}]* \}|[\da-f]\S*)", within),
    (r"icmpv6 type \{ nd-neighbor-solicit, nd-neighbor-advert \} accept", lambda *_: False),
    (r"meta l4proto (\w+)", lambda _, packet, name: packet.protocol == name),
    (r"(tcp|udp|sctp) dport (\{ [^}]* \}|\S+)", at_port),
)
