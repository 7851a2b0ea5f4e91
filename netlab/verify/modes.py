"""Where two proxy modes behave differently with the same objects: real packets, in both.

1. Every way in to every Service port, from every kind of client, in throw-away namespaces where a
   node and another one are programmed in one mode, then in the other.
2. What is compared is what a client and an endpoint notice: who answers, which client it sees,
   whether one is refused or hears nothing.
3. The decision says for each mode what is to be seen. What is seen instead is an error of netlab
   (or of this kernel) and told as such; it is never hidden behind a comparison.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from netlab.agent.kubeproxy import KubeProxy
from netlab.kernel import netns
from netlab.model.kubernetes import Document, view
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.proxy import Decision, Mode, Options, decision
from netlab.sensors.calls import ICMP, QUIET, Calls, Came, Reply, spoken
from netlab.verify.foreseen import foreseen
from netlab.verify.stage import Stage, built
from netlab.verify.waysin import (
    LOOPBACK,
    PLACE,
    WORLD,
    Caller,
    Sight,
    Sights,
    Way,
    is_possible,
    source_of,
    ways_in,
)

CALLS = 2  # at first, for each endpoint
MOST = 20  # in all, for each endpoint: one of ten is then missed in 1 of 10 million rows
CERTAIN = 10  # endpoints; of more, those seen stand for all of the decision's
PATIENT = 1.3  # seconds of silence once something is not as expected: a SYN is sent again after one
BATCH = 1500  # calls at once


Pair = tuple[Way, Caller]


class Row(NamedTuple):
    """One way in from one client: what is seen in each mode, and what the decision expects."""

    way: Way
    caller: Caller
    seen: Mapping[Mode, Sights]
    expected: Mapping[Mode, Sights]

    @property
    def differs(self) -> bool:
        return len(set(self.seen.values())) > 1

    @property
    def surprises(self) -> list[Mode]:
        """The modes in which not what was expected is seen."""
        return [mode for mode in self.seen if self.seen[mode] != self.expected[mode]]


class Given(NamedTuple):
    """What is tried: objects, the two nodes, the options of their proxies but for the mode."""

    documents: Sequence[Document]
    here: ProxyNode
    there: ProxyNode
    options: Mapping[Mode, Options]
    stage: Stage
    notes: tuple[str, ...] = ()  # what is left out, and why


class _Ask(NamedTuple):
    """A row in one mode: whose rules see it, and what they are to do."""

    way: Way
    caller: Caller
    expected: Sights
    affine: bool


def compared(given: Given) -> list[Row]:
    """Return every way in from every client, as seen in each mode.

    Raises KernelError, CapabilityError.
    """
    decisions = {
        mode: {
            place: decided(given.documents, node, options, local=given.stage.own(place))
            for place, node in (("here", given.here), ("there", given.there))
        }
        for mode, options in given.options.items()
    }
    first, *_ = decisions.values()
    ways = [way for way in ways_in(first["here"], given.stage) if spoken(way.protocol)]
    if not ways:
        return []
    pairs = [(way, caller) for way in ways for caller in Caller if is_possible(way, caller)]
    expected: dict[Mode, dict[Pair, Sights]] = {}
    seen: dict[Mode, dict[Pair, Sights]] = {}
    for mode, options in given.options.items():
        asks = {pair: _Ask(*pair, *foreseen(given.stage, decisions[mode], *pair)) for pair in pairs}
        expected[mode] = {pair: ask.expected for pair, ask in asks.items()}
        seen[mode] = _tried(given, options, list(asks.values()), ways, decisions[mode])
    return [
        Row(
            way,
            caller,
            {mode: seen[mode][way, caller] for mode in seen},
            {mode: expected[mode][way, caller] for mode in seen},
        )
        for way, caller in pairs
    ]


def decided(
    documents: Iterable[Document],
    node: ProxyNode,
    options: Options,
    *,
    local: Iterable[str] | None = None,
) -> Decision:
    """Return what a proxy with *options* is to do on *node*, from stored *documents*.

    *local*: the addresses its links have; None: that is not known.
    """
    found: dict[str, list[Document]] = {"Service": [], "EndpointSlice": []}
    for document in documents:
        found.get(document["kind"], []).append(document)
    services = [view(one, Service) for one in found["Service"]]
    slices = [view(one, EndpointSlice) for one in found["EndpointSlice"]]
    return decision(services, slices, node, options, local=local)


def _tried(
    given: Given,
    options: Options,
    asks: Sequence[_Ask],
    ways: Sequence[Way],
    made: Mapping[str, Decision],
) -> dict[Pair, Sights]:
    """Return what is seen of all *asks* with the nodes programmed as *options* say."""
    stage = given.stage._replace(prefix=f"{given.stage.prefix}{options.mode[:3]}")
    with built(stage), ExitStack() as proxies:
        for place, node in (("here", given.here), ("there", given.there)):
            proxy = KubeProxy(options, answering=False)
            proxies.callback(proxy.close)
            with netns.entered(stage.netns(place)):
                proxy.agree(given.documents, node)
        calls = Calls()
        try:
            _serve(calls, stage, ways, made)
            return _seen(calls, stage, asks)
        finally:
            calls.close()


def _serve(calls: Calls, stage: Stage, ways: Sequence[Way], made: Mapping[str, Decision]) -> None:
    """Have all endpoints answer, and the world at every address of a Service."""
    own = {"here": stage.own("here"), "there": stage.own("there")}
    endpoints = {
        (one.text, service.protocol, one.address, one.port)
        for each in made.values()
        for service in {id(it.service): it.service for it in each.frontends}.values()
        for one in service.reachable
        if spoken(service.protocol)
    }
    for text, protocol, address, port in sorted(endpoints):
        place = next((it for it in own if address in own[it]), "")
        if not place:
            place = "here" if address in stage.here.endpoints else "there"
            place += "-endpoints"
        with netns.entered(stage.netns(place)):
            calls.serve(text, protocol, address, port)
    for address, port, protocol in dict.fromkeys(way[3:] for way in ways):
        if address in stage.outer and protocol != ICMP:
            with netns.entered(stage.netns(WORLD)):
                calls.serve(WORLD, protocol, address, port)


def _seen(calls: Calls, stage: Stage, asks: Sequence[_Ask]) -> dict[Pair, Sights]:
    """Call until everything expected is seen, or often enough."""
    found: dict[Pair, set[Sight]] = {(one.way, one.caller): set() for one in asks}
    begun = dict.fromkeys(found, 0)
    left, quiet = list(asks), QUIET
    while left:
        for ask in left:  # what was but slow is heard now, and silence comes again
            found[ask.way, ask.caller].discard(Sight(Came.SILENCE))
        for batch in _batches(left, begun):
            for ask, number in batch:
                begun[ask.way, ask.caller] += number
            for key, replies in _round(calls, stage, batch, quiet).items():
                found[key].update(_sight(stage, key, reply) for reply in replies)
        quiet = PATIENT
        left = [
            ask
            for ask in left
            if not _is_settled(ask, found[ask.way, ask.caller])
            and begun[ask.way, ask.caller] < MOST * max(1, len(ask.expected))
        ]
    return {(ask.way, ask.caller): _rounded(ask, found[ask.way, ask.caller]) for ask in asks}


def _is_settled(ask: _Ask, seen: Collection[Sight]) -> bool:
    """Return whether more calls would tell no more."""
    return frozenset(_rounded(ask, seen)) == ask.expected


def _rounded(ask: _Ask, seen: Collection[Sight]) -> Sights:
    """Return what was *seen*, or what is expected where that can but be seen in part."""
    in_part = ask.affine or len(ask.expected) > CERTAIN
    if in_part and seen and ask.expected.issuperset(seen):
        return ask.expected
    return frozenset(seen)


def _batches(asks: Sequence[_Ask], begun: Mapping[Pair, int]) -> Iterator[list[tuple[_Ask, int]]]:
    """Yield asks with how often to call; silence, which has to be waited for, together."""
    batch: list[tuple[_Ask, int]] = []
    size = 0
    for ask in sorted(asks, key=lambda one: Sight(Came.SILENCE) in one.expected):
        number = CALLS * min(len(ask.expected), CERTAIN)
        if begun[ask.way, ask.caller]:
            number *= 2
        batch.append((ask, number))
        size += number
        if size > BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _round(
    calls: Calls, stage: Stage, batch: Sequence[tuple[_Ask, int]], quiet: float
) -> dict[Pair, list[Reply]]:
    for caller in Caller:
        mine = [(ask, number) for ask, number in batch if ask.caller is caller]
        if not mine:
            continue
        with netns.entered(stage.netns(PLACE[caller])):
            for ask, number in mine:
                way = ask.way
                source = source_of(stage, way, caller) if caller is Caller.LOOPBACK else ""
                for _ in range(number):
                    key = (way, caller)
                    calls.call(key, way.protocol, way.address, way.port, source=source)
    return calls.replies(quiet=quiet)  # type: ignore[return-value]


def _sight(stage: Stage, key: Pair, reply: Reply) -> Sight:
    """Return what a *reply* says, without the addresses that mean nothing."""
    way, caller = key
    if reply.came is not Came.ANSWER:
        return Sight(reply.came)
    if reply.server in ("", WORLD):
        return Sight(Came.ANSWER, WORLD)
    if reply.client == source_of(stage, way, caller) and caller not in (
        Caller.NODE,
        Caller.LOOPBACK,
    ):
        return Sight(Came.ANSWER, reply.server, "client")
    nodes = stage.own("here") | stage.own("there") | set(LOOPBACK.values())
    return Sight(Came.ANSWER, reply.server, "node" if reply.client in nodes else reply.client)
