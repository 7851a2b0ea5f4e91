"""What iptables rules do to one packet, told from their text: the way through chains and hooks.

It knows the matches and targets the renderer uses and raises on any other. A rule that matches by
chance is tried both ways, each with its probability.
Source: iptables-extensions(8); the order of hooks: Netfilter's packet flow, nf_tables 1.8.9.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from walking import Ways

from netlab.proxy import Packet, Verdict
from netlab.proxy.addresses import is_loopback
from netlab.proxy.ruleset import Block

WITH_ARGUMENT = ("-m", "--comment", "--mode", "--seconds", "--mask")
ALONE = ("--reap", "--rsource")
BRIDGED = ("cbr", "cali")  # how interfaces of pods begin, all ports of a bridge
FIT = {"ACCEPT": Verdict.HOST, "DROP": Verdict.DROPPED, "REJECT": Verdict.REJECTED}


class State(NamedTuple):
    """A packet on its way."""

    source: str
    address: str
    port: int
    protocol: str
    interface: str
    local: Collection[str]  # the node's addresses
    remembered: Collection[str] = ()  # lists of recent clients its source is in
    mark: int = 0
    to: str = ""  # translated to
    chance: float = 1.0
    noted: tuple[str, ...] = ()  # lists its source is put into
    virtual: bool = False  # ip_vs took it

    def is_local(self, address: str) -> bool:
        return address in self.local or is_loopback(address)


Match = Callable[[State], bool]


class Rule(NamedTuple):
    """One rule: what it matches, how often, and what it does."""

    matches: list[Match]
    probability: float
    target: list[str]
    notes: str  # the list it puts the client into


End = tuple[State, str]  # and the target it came to; "": none
_address = cache(ip_address)


class Walk(Ways):
    """The rules of one node and family."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.chains = {
            (one.table, one.name): [parsed(line) for line in one.lines] for one in blocks
        }

    def paths(
        self, packet: Packet, local: Collection[str], remembered: Collection[str] = ()
    ) -> Iterator[tuple[Verdict, State, bool]]:
        """Yield each way *packet* may go: the verdict, its state, whether it is masqueraded."""
        sent = State(
            packet.source,
            packet.address,
            packet.port,
            packet.protocol.lower(),
            packet.interface,
            local,
            remembered,
        )
        for state, _ in self.run("nat", "PREROUTING" if packet.interface else "OUTPUT", sent):
            yield from self.filtered(state)

    def filtered(self, sent: State) -> Iterator[tuple[Verdict, State, bool]]:
        hooks = ["INPUT"] if sent.is_local(sent.address) else ["FORWARD"]
        if not sent.interface:
            hooks = ["OUTPUT", *(one for one in hooks if one == "INPUT")]
        accepted = False
        for hook in hooks:
            ((_, target),) = self.run("filter", hook, sent)
            if target in ("DROP", "REJECT"):
                yield FIT[target], sent._replace(to=""), False
                return
            accepted = accepted or target == "ACCEPT"
        if sent.to:
            ((_, target),) = self.run("nat", "POSTROUTING", sent)
            yield Verdict.ENDPOINTS, sent, target == "MASQUERADE"
        else:
            yield (Verdict.HOST if accepted else Verdict.NO_MATCH), sent, False

    def run(self, table: str, chain: str, state: State, first: int = 0) -> Iterator[End]:
        """Yield how *state* leaves *chain*, entered at its rule number *first*."""
        rules = self.chains.get((table, chain), [])
        for index in range(first, len(rules)):
            rule = rules[index]
            if not all(match(state) for match in rule.matches):
                continue
            if rule.probability < 1:
                missed = state._replace(chance=state.chance * (1 - rule.probability))
                yield from self.run(table, chain, missed, index + 1)
                state = state._replace(chance=state.chance * rule.probability)
            if rule.notes:
                state = state._replace(noted=(*state.noted, rule.notes))
            match rule.target:
                case []:
                    pass
                case ["MARK", "--set-xmark", words]:
                    value, mask = (int(each, 16) for each in words.split("/"))
                    state = state._replace(mark=(state.mark & ~mask) ^ value)
                case ["RETURN"]:
                    yield state, ""
                    return
                case ["DNAT", "--to-destination", to]:
                    host, _, port = to.rpartition(":")
                    yield state._replace(address=host.strip("[]"), port=int(port), to=to), "DNAT"
                    return
                case [target, *_] if target in (*FIT, "MASQUERADE"):
                    yield state, target
                    return
                case [target]:
                    assert (table, target) in self.chains, f"no chain {target}"
                    for left, end in self.run(table, target, state):
                        if end:
                            yield left, end
                        else:
                            yield from self.run(table, chain, left, index + 1)
                    return
        yield state, ""


def _alone(option: str, words: Iterator[str]) -> Match:
    return match_of(option, next(words))


@cache
def parsed(line: str) -> Rule:
    """Return the rule that *line* is. Raises AssertionError: a word nobody knows."""
    return rule_of(line, _alone)


def rule_of(line: str, matching: Callable[[str, Iterator[str]], Match]) -> Rule:
    """Return the rule that *line* is; *matching* gives what an option, with its words, matches."""
    words = iter(shlex.split(line))
    matches: list[Match] = []
    probability, target, not_, name, checks, notes = 1.0, [], False, "", False, False
    for word in words:
        if word == "!":
            not_ = True
        elif word == "-j":
            target = list(words)
        elif word in WITH_ARGUMENT:
            next(words)
        elif word == "--probability":
            probability = float(next(words))
        elif word == "--name":
            name = next(words)
        elif word == "--rcheck":
            checks = True
        elif word == "--set":
            notes = True
        elif word == "--physdev-is-in":
            bridged: Match = lambda state: state.interface.startswith(BRIDGED)  # noqa: E731
            matches.append(_no(bridged) if not_ else bridged)
            not_ = False
        elif word not in ALONE:
            found = matching(word, words)
            matches.append(_no(found) if not_ else found)
            not_ = False
    if checks:
        matches.append(lambda state: name in state.remembered)
    return Rule(matches, probability, target, name if notes else "")


def _no(match: Match) -> Match:
    return lambda state: not match(state)


def match_of(option: str, value: str) -> Match:
    """Return what *option* with *value* matches."""
    match option:
        case "-s":
            network = ip_network(value)
            return lambda state: _address(state.source) in network
        case "-d":
            network = ip_network(value)
            return lambda state: _address(state.address) in network
        case "-i" if value.endswith("+"):
            return lambda state: state.interface.startswith(value[:-1])
        case "-i":
            return lambda state: state.interface == value
        case "-p":
            return lambda state: state.protocol == value
        case "--dport":
            return lambda state: state.port == int(value)
        case "--dports":
            return lambda state: str(state.port) in value.split(",")
        case "--dst-type" if value == "LOCAL":
            return lambda state: state.is_local(state.address)
        case "--src-type" if value == "LOCAL":
            return lambda state: state.is_local(state.source)
        case "--ctstate":
            of = value.split(",")
            return lambda state: "NEW" in of or ("DNAT" in of and bool(state.to))
        case "--mark":
            mark, mask = (int(each, 16) for each in value.split("/"))
            return lambda state: state.mark & mask == mark
    raise AssertionError(f"unknown match {option} {value}")
