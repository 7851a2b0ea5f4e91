"""What nftables rules do to one packet, told from their text: the way through hooks and chains.

It knows the matches and statements the renderer uses and raises on any other. A rule that matches
by chance is tried both ways, each with its probability.
Source: nft(8); Linux net/netfilter/nf_tables_core.c (nft_do_chain) and nf_nat_core.c.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network, summarize_address_range
from typing import NamedTuple

from walking import Ways

from netlab.proxy import Packet, Verdict
from netlab.proxy.addresses import is_loopback
from netlab.proxy.ruleset import Block, Sort

Network = IPv4Network | IPv6Network

REFUSED = {"drop": Verdict.DROPPED, "reject": Verdict.REJECTED}
PRIORITIES = {"dstnat - 10": -110, "dstnat": -100, "filter": 0, "srcnat": 100}
BASE = re.compile(r"type (\w+) hook (\w+) priority (.+); policy accept;")


class State(NamedTuple):
    """A packet on its way."""

    source: str
    address: str
    port: int
    protocol: str
    interface: str
    local: Collection[str]  # the node's addresses
    remembered: Collection[str] = ()  # affinity sets its source is in
    mark: int = 0
    to: str = ""  # translated to
    chance: float = 1.0
    noted: tuple[str, ...] = ()  # affinity sets its source is put into

    def is_local(self, address: str) -> bool:
        return address in self.local or is_loopback(address)

    def field(self, words: str) -> str:
        """Return what `ip daddr`, `meta l4proto` or `th dport` is."""
        last = words.rpartition(" ")[2]
        known = {"saddr": self.source, "daddr": self.address, "l4proto": self.protocol}
        return known[last] if last in known else str(self.port)


End = tuple[State, str]  # and the verdict it came to; "": none


class Walk(Ways):
    """The rules of one node and family."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.chains: dict[tuple[str, str], tuple[str, ...]] = {}
        self.sets: dict[tuple[str, str], tuple[Network, ...]] = {}
        self.maps: dict[tuple[str, str], dict[str, str]] = {}
        hooks: dict[tuple[str, str], list[tuple[int, str, str]]] = {}
        for one in blocks:
            match one.sort:
                case Sort.CHAIN:
                    self.chains[one.table, one.name] = one.lines
                    if one.head and (base := BASE.fullmatch(one.head[0])):
                        kind, hook, priority = base.groups()
                        at = PRIORITIES[priority] if priority in PRIORITIES else int(priority)
                        hooks.setdefault((hook, kind), []).append((at, one.table, one.name))
                case Sort.SET:
                    elements = ",".join(one.lines)
                    self.sets[one.table, one.name] = networks(elements) if elements else ()
                case Sort.MAP:
                    self.maps[one.table, one.name] = dict(map(element, one.lines))
        self.hooks = {key: sorted(found) for key, found in hooks.items()}

    def paths(
        self, packet: Packet, local: Collection[str], remembered: Collection[str] = ()
    ) -> Iterator[tuple[Verdict, State, bool]]:
        """Yield each way *packet* may go: the verdict, its state, whether it is masqueraded."""
        protocol = packet.protocol.lower()
        sent = State(packet.source, packet.address, packet.port, protocol, packet.interface, local)
        sent = sent._replace(remembered=remembered)
        first = "prerouting" if packet.interface else "output"
        # filter chains may come before DNAT, in the order of their priorities, and after it.
        refused = self.refused(first, sent, range(-1000, -100))
        if refused:
            yield refused, sent, False
            return
        for state in self.translated(first, sent):
            yield self.delivered(first, state)

    def delivered(self, first: str, sent: State) -> tuple[Verdict, State, bool]:
        """Return what becomes of *sent* after DNAT."""
        inward = "input" if sent.is_local(sent.address) else "forward"
        hooks = [first, *([inward] if inward == "input" or sent.interface else [])]
        for hook in hooks:
            refused = self.refused(hook, sent, range(-99, 1000))
            if refused:
                return refused, sent._replace(to=""), False
        if not sent.to:
            return Verdict.NO_MATCH, sent, False
        masqueraded = False
        for _, table, name in self.hooks[("postrouting", "nat")]:
            ((sent, verdict),) = self.run(table, name, sent)
            masqueraded = masqueraded or verdict == "masquerade"
        return Verdict.ENDPOINTS, sent, masqueraded

    def refused(self, hook: str, state: State, priorities: range) -> Verdict | None:
        for priority, table, name in self.hooks.get((hook, "filter"), ()):
            if priority in priorities:
                ((_, verdict),) = self.run(table, name, state)
                if verdict:
                    return REFUSED[verdict]
        return None

    def translated(self, hook: str, state: State, place: int = 0) -> Iterator[State]:
        """Yield *state* as the nat chains of *hook* leave it; the first that translates counts."""
        chains = self.hooks[(hook, "nat")]
        if place == len(chains) or state.to:
            yield state
            return
        _, table, name = chains[place]
        for left, _ in self.run(table, name, state):
            yield from self.translated(hook, left, place + 1)

    def run(self, table: str, name: str, state: State, first: int = 0) -> Iterator[End]:
        """Yield how *state* leaves chain *name*, entered at its rule number *first*."""
        rules = self.chains[table, name]
        for index in range(first, len(rules)):
            done = Rule(self, table, rules[index]).on(state)
            for left, verdict in done.missed:
                yield from self.run(table, name, left, index + 1)
                assert not verdict
            for left, verdict in done.met:
                what, _, target = verdict.partition(" ")
                match what:
                    case "":
                        yield from self.run(table, name, left, index + 1)
                    case "return":
                        yield left, ""
                    case "goto":
                        yield from self.run(table, target, left)
                    case "jump":
                        for returned, end in self.run(table, target, left):
                            if end:
                                yield returned, end
                            else:
                                yield from self.run(table, name, returned, index + 1)
                    case _:
                        yield left, verdict
            return
        yield state, ""


class Done(NamedTuple):
    """What a rule made of a packet: those that did not match, those that did with the verdict."""

    missed: list[End]
    met: list[End]


class Rule:
    """One rule, applied to a packet word by word."""

    def __init__(self, walk: Walk, table: str, line: str) -> None:
        self.walk = walk
        self.table = table
        self.steps = parsed(line)

    def on(self, state: State) -> Done:
        done = Done([], [(state, "")])
        for step, words in self.steps:
            going, done = done.met, Done(done.missed, [])
            for left, verdict in going:
                assert not verdict
                for after, matched, found in step(self, left, *words):
                    (done.met if matched else done.missed).append((after, found))
        return done


# What a statement makes of a packet: the packet, whether the rule goes on, the verdict.
Result = Iterable[tuple[State, bool, str]]


def compared(rule: Rule, state: State, field: str, unequal: str, operand: str) -> Result:
    if operand.startswith("@affinity-"):
        found = operand[1:] in state.remembered
    else:
        named = operand.startswith("@")
        among = rule.walk.sets[rule.table, operand[1:]] if named else networks(operand)
        found = any(ip_address(state.field(field)) in one for one in among)
    return [(state, found is not bool(unequal), "")]


def dispatched(rule: Rule, state: State, fields: str, name: str) -> Result:
    key = " . ".join(state.field(one) for one in fields.split(" . "))
    verdict = rule.walk.maps[rule.table, name].get(key)
    return [(state, verdict is not None, verdict or "")]


def translated(_: Rule, state: State, to: str) -> Result:
    host, _, port = to.rpartition(":")
    return [(state._replace(address=host.strip("[]"), port=int(port), to=to), True, "dnat")]


def chosen(_: Rule, state: State, modulus: str, verdicts: str) -> Result:
    found = dict(one.split(" : ") for one in verdicts.split(", "))
    assert list(found) == [str(number) for number in range(int(modulus))]
    share = state._replace(chance=state.chance / int(modulus))
    return [(share, True, verdict) for verdict in found.values()]


def by_chance(_: Rule, state: State, modulus: str, number: str) -> Result:
    assert 0 <= int(number) < int(modulus)
    chance = 1 / int(modulus)
    return [
        (state._replace(chance=state.chance * chance), True, ""),
        (state._replace(chance=state.chance * (1 - chance)), False, ""),
    ]


def marked(_: Rule, state: State, how: str, mark: str) -> Result:
    change = {"|": operator.or_, "^": operator.xor}[how]
    return [(state._replace(mark=change(state.mark, int(mark, 16))), True, "")]


def noted(_: Rule, state: State, name: str) -> Result:
    return [(state._replace(noted=(*state.noted, name)), True, "")]


def arrived(_: Rule, state: State, unequal: str, name: str) -> Result:
    prefix = name.removesuffix("*")
    found = state.interface == name or (prefix != name and state.interface.startswith(prefix))
    return [(state, found is not bool(unequal), "")]


def holds(test: Callable[..., bool]) -> Callable[..., Result]:
    return lambda _, state, *words: [(state, test(state, *words), "")]


def verdict(_: Rule, state: State, words: str) -> Result:
    return [(state, True, words)]


FIELD = r"(?:ip6? [sd]addr|meta l4proto|th dport)"
STATEMENTS: Mapping[str, Callable[..., Result]] = {
    r"ct state new": holds(lambda state: True),
    r"counter": holds(lambda state: True),
    r"fib saddr type local": holds(lambda state: state.is_local(state.source)),
    r"fib daddr type local": holds(lambda state: state.is_local(state.address)),
    rf"({FIELD}(?: \. {FIELD})+) vmap @(\S+)": dispatched,
    r"(ip6? [sd]addr) (?:(!=) )?(\{ [^}]* \}|\S+)": compared,
    r"meta l4proto (\w+)": holds(lambda state, name: state.protocol == name),
    r"(tcp|udp|sctp) dport (\d+)": holds(
        lambda state, name, port: (state.protocol, state.port) == (name, int(port))
    ),
    r'iifname (?:(!=) )?"(\S+)"': arrived,
    r"meta mark & (\S+) == (\S+)": holds(
        lambda state, mask, value: state.mark & int(mask, 16) == int(value, 16)
    ),
    r"meta mark set meta mark ([|^]) (\S+)": marked,
    r"numgen random mod (\d+) vmap \{ (.*) \}": chosen,
    r"numgen random mod (\d+) (\d+)": by_chance,
    r"update @(\S+) \{ ip6? saddr \}": noted,
    r"dnat to (\S+)": translated,
    r"((?:jump|goto) \S+|drop|return|reject)": verdict,
    r"(masquerade)(?: fully-random)?": verdict,
}


@cache
def parsed(line: str) -> list[tuple[Callable[..., Result], tuple[str, ...]]]:
    """Return the statements of *line*. Raises AssertionError: words nobody knows."""
    rest = re.sub(r' comment "[^"]{0,128}"$', "", line)
    found = []
    while rest:
        for pattern, step in STATEMENTS.items():
            if words := re.match(rf"{pattern}(?: |$)", rest):
                found.append((step, tuple(one or "" for one in words.groups())))
                rest = rest[words.end() :]
                break
        else:
            raise AssertionError(f"unknown: {rest}")
    return found


@cache
def networks(operand: str) -> tuple[Network, ...]:
    """Return the networks in `10.0.0.0/8`, `{ 10.0.0.0/8, 10.9.0.1-10.9.0.3 }` or the like."""
    found: list[Network] = []
    for one in operand.strip("{} ").split(","):
        first, _, last = one.strip().partition("-")
        if last:
            found += summarize_address_range(ip_address(first), ip_address(last))
        else:
            found.append(ip_network(first))
    return tuple(found)


def element(line: str) -> tuple[str, str]:
    """Return key and verdict of a map's element."""
    key, _, found = line.partition(" : ")
    return re.sub(r' comment "[^"]{0,128}"$', "", key), found
