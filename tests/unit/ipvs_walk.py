"""What ipvs mode's state does to one packet, told from its text: iptables' rules around ip_vs.

ip_vs takes what comes in to the node (after the filter's INPUT) and what the node sends (before
the filter's OUTPUT), if a virtual server has its address, port and protocol. What it sends on meets
OUTPUT and POSTROUTING.
Source: Linux net/netfilter/ipvs/ip_vs_core.c, ip_vs_ops4, v6.12.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from ipaddress import ip_address, ip_network

from iptables_walk import FIT, Match, State, Walk, match_of, rule_of

from netlab.proxy import Packet, Verdict
from netlab.proxy.ipvs import NUMBER
from netlab.proxy.ruleset import Block, Sort


class VirtualWalk(Walk):
    """The state of one node and family."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        given = list(blocks)
        self.sets = {one.name: one for one in given if one.sort is Sort.IPSET}
        self.servers = {one.name: one for one in given if one.sort is Sort.SERVER}
        self.bound = {
            line.partition("/")[0]
            for one in given
            if one.sort is Sort.ADDRESSES
            for line in one.lines
        }
        matching = {name: members(one) for name, one in self.sets.items()}
        self.chains = {
            (one.table, one.name): [
                rule_of(line, lambda option, words: matched(option, words, matching))
                for line in one.lines
            ]
            for one in given
            if one.sort in (Sort.CHAIN, Sort.JUMPS)
        }

    def paths(
        self, packet: Packet, local: Collection[str], remembered: Collection[str] = ()
    ) -> Iterator[tuple[Verdict, State, bool]]:
        yield from super().paths(packet, {*local, *self.bound}, remembered)

    def filtered(self, sent: State) -> Iterator[tuple[Verdict, State, bool]]:
        if sent.to:  # translated by iptables, for a hostPort
            yield from super().filtered(sent)
            return
        server = self.servers.get(f"{sent.protocol.upper()} {_at(sent)}")
        if not sent.is_local(sent.address):
            server = None
        accepted = False
        if sent.interface or server is None:
            hook = "INPUT" if sent.is_local(sent.address) else "FORWARD"
            for each in [hook] if sent.interface else ["OUTPUT", hook]:
                ((_, target),) = self.run("filter", each, sent)
                if target in ("DROP", "REJECT"):
                    yield FIT[target], sent, False
                    return
                accepted = accepted or target == "ACCEPT"
        if server is None:
            yield (Verdict.HOST if accepted else Verdict.NO_MATCH), sent, False
            return
        if not server.lines:
            yield Verdict.REJECTED, sent, False
            return
        for line in server.lines:
            to = line.split(" ")[1]
            # The filter's OUTPUT knows the virtual server it came for; the others the real one.
            ((_, target),) = self.run("filter", "OUTPUT", sent._replace(virtual=True))
            if target == "DROP":
                yield Verdict.DROPPED, sent, False
                return
            host, _, port = to.rpartition(":")
            state = sent._replace(
                address=host.strip("[]"),
                port=int(port),
                to=to,
                chance=sent.chance / len(server.lines),
            )
            ((_, target),) = self.run("nat", "POSTROUTING", state)
            yield Verdict.ENDPOINTS, state, target == "MASQUERADE"


def _at(state: State) -> str:
    host = f"[{state.address}]" if ":" in state.address else state.address
    return f"{host}:{state.port}"


@cache
def _network(text: str):  # type: ignore[no-untyped-def]
    return ip_network(text)


def members(block: Block) -> dict[str, list[str]]:
    """Return the elements of a set by all but what follows the second comma."""
    found: dict[str, list[str]] = {}
    for line in block.lines:
        parts = line.split(",")
        found.setdefault(",".join(parts[:2]), []).append(parts[2] if len(parts) > 2 else "")
    return found


def matched(option: str, words: Iterator[str], sets: dict[str, dict[str, list[str]]]) -> Match:
    """Return what *option* with the *words* after it matches."""
    value = next(words)
    match option:
        case "--match-set":
            elements, which = sets[value], next(words)
            return lambda state: _in(elements, which, state)
        case "--vaddr":
            return lambda state: state.virtual and state.address == value
        case "--vport":
            return lambda state: state.virtual and state.port == int(value)
        case "--vproto":
            return lambda state: state.virtual and NUMBER[state.protocol.upper()] == int(value)
    return match_of(option, value)


def _in(elements: dict[str, list[str]], which: str, state: State) -> bool:
    match which.split(","):
        case ["dst"]:
            return state.address in elements or str(state.port) in elements
        case [first, "dst", *rest]:
            address = state.source if first == "src" else state.address
            found = elements.get(f"{address},{state.protocol}:{state.port}")
            if found is None or not rest:
                return found is not None
            source = ip_address(state.source)
            return any(source in _network(one) for one in found)
    raise AssertionError(which)
