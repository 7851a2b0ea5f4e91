"""A conversation watched on several machines of a lab: on this one, from which it is sent, and by
the agents of the others (`tracing.lent`).

What others saw is asked for once the conversation has come to its end here. Their clocks are
brought to ours by the conversation itself: see `paths.clocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from netlab.cluster import Cluster
from netlab.errors import NetlabError
from netlab.journeys import NamedConnection, NamedEntry, NextHop
from netlab.packets import Direction, Entry, Flow, Passing, Protocol, RuleHit, VirtualConnection
from netlab.paths.clocks import ahead
from netlab.sensors.wide import Ask
from netlab.telling.naming import Names
from netlab.telling.selecting import Caught, Opening
from netlab.tracing import nexthops
from netlab.tracing.nexthops import Turn
from netlab.tracing.wires import Wires


class WideWires(Wires):
    """`Wires` that reach other machines. Raises NetlabError, too, when one does not answer."""

    distant = True

    def __init__(
        self,
        names_of: Sequence[str],
        opening: Opening,
        flow: Flow,
        ports: Collection[int],
        *,
        cluster: Cluster,
        machine: Callable[[str], str],
        asks: Mapping[str, Ask],
    ) -> None:
        """*machine*: where a namespace is, by the names in *asks*, "" for here."""
        super().__init__([one for one in names_of if not machine(one)], opening, flow, ports)
        self._machine, self._asks = machine, asks
        self._cards = {node.netns: node.declared.uplink for node in cluster.nodes}
        self._id = uuid4().hex
        self._on: dict[str, list[str]] = {}
        for name in names_of:
            if where := machine(name):
                self._on.setdefault(where, []).append(name)
        self._wanted = msgspec.to_builtins(
            {"opening": opening, "flow": flow, "ports": sorted(ports)}
        )
        self._caught: list[Caught] = []
        self._passings: list[Passing] = []
        self._lost = 0

    def _of_all(self, deed: str, more: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """Return the answer of each machine that watches for us, asked side by side."""

        def ask(where: str) -> dict[str, Any]:
            return self._asks[where]({"do": deed, "wires": self._id, **more(where)})

        with ThreadPoolExecutor(max(len(self._on), 1)) as pool:
            return dict(zip(self._on, pool.map(ask, self._on), strict=True))

    def __enter__(self) -> WideWires:
        try:
            begun = self._of_all("listen", lambda where: {"netns": self._on[where], **self._wanted})
            super().__enter__()
        except BaseException:
            self._hush()
            raise
        blind = (f"{where}: {one['blind']}" for where, one in begun.items() if one["blind"])
        self.blind = self.blind or next(blind, "")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._hush()

    def _hush(self) -> None:
        try:
            self._of_all("hush", lambda where: {})
        except NetlabError:
            pass  # it ends by itself there

    def gather(self) -> None:
        told = self._of_all("told", lambda where: {})
        self._caught, self._passings, self._lost = [], [], 0
        for one in told.values():
            self._caught += msgspec.convert(one["caught"], list[Caught])
            self._passings += msgspec.convert(one["passings"], list[Passing])
            self._lost += int(one["lost"])

    def caught(self) -> list[Caught]:
        seen = super().caught()
        if not self._caught:
            return seen
        every = [*seen, *self._caught]
        off = ahead(crossings(every, self._machine, self._cards))
        moved = [
            one._replace(sighting=replace(one.sighting, time=one.sighting.time - apart))
            if (apart := off.get(self._machine(one.sighting.netns), 0))
            else one
            for one in every
        ]
        return sorted(moved, key=lambda one: one.sighting.time)

    def passings(self) -> list[Passing]:
        return super().passings() + self._passings

    @property
    def lost(self) -> int:
        return super().lost + self._lost

    def listed(self, hit: RuleHit, chain: str) -> dict[int, str]:
        where = self._machine(hit.netns)
        if not where:
            return super().listed(hit, chain)
        told = {"hit": msgspec.to_builtins(hit), "chain": chain}
        answer = self._asks[where]({"do": "listed", "wires": self._id, **told})
        return {int(handle): text for handle, text in answer["rules"].items()}

    def kernels(self) -> nexthops.Kernels:
        return _WideKernels(self._machine, self._asks)

    def remembered(
        self,
        names: Names,
        netns_names: Collection[str],
        flows: Collection[Flow],
        protocol: Protocol,
        *,
        ids: Collection[int] = (),
    ) -> tuple[list[NamedEntry], list[NamedConnection]]:
        here = [one for one in netns_names if not self._machine(one)]
        entries, connections = super().remembered(names, here, flows, protocol, ids=ids)
        wanted = {"flows": list(flows), "protocol": protocol, "ids": sorted(ids)}
        for where in sorted({self._machine(one) for one in netns_names} - {""}):
            there = [one for one in netns_names if self._machine(one) == where]
            told = {**msgspec.to_builtins(wanted), "netns": there}
            answer = self._asks[where]({"do": "remembered", **told})
            for netns, entry in msgspec.convert(answer["entries"], list[tuple[str, Entry]]):
                entries.append(NamedEntry(names.place(netns), entry))
            told_of = msgspec.convert(answer["connections"], list[tuple[str, VirtualConnection]])
            connections += [NamedConnection(names.place(netns), one) for netns, one in told_of]
        return entries, connections


class _WideKernels(nexthops.Kernels):
    def __init__(self, machine: Callable[[str], str], asks: Mapping[str, Ask]) -> None:
        super().__init__()
        self._machine, self._asks = machine, asks

    def next_hop(self, turn: Turn) -> NextHop | None:
        where = self._machine(turn.after.place.netns)
        if not where:
            return super().next_hop(turn)
        asked = {"do": "next hops", "turns": msgspec.to_builtins([turn])}
        return msgspec.convert(self._asks[where](asked)["hops"], list[NextHop | None])[0]


def crossings(
    seen: Sequence[Caught], machine: Callable[[str], str], cards: Mapping[str, str]
) -> dict[tuple[str, str], list[int]]:
    """Return, for each two machines, how many ns after it left the one's card each packet came to
    the other's, by the clock of each. *cards*: of nodes, by namespace."""
    left: dict[tuple[object, ...], tuple[str, int]] = {}
    found: dict[tuple[str, str], list[int]] = {}
    for one in seen:
        sighting = one.sighting
        if cards.get(sighting.netns) == sighting.device and sighting.direction is Direction.OUT:
            left.setdefault(_known_by(one), (machine(sighting.netns), sighting.time))
    for one in seen:
        sighting = one.sighting
        if cards.get(sighting.netns) == sighting.device and sighting.direction is Direction.IN:
            where, time = left.get(_known_by(one), ("", 0))
            if time and where != machine(sighting.netns):
                ends = where, machine(sighting.netns)
                found.setdefault(ends, []).append(sighting.time - time)
    return found


def _known_by(one: Caught) -> tuple[object, ...]:
    """Return what a packet has on both sides of a wire."""
    return one.identity, one.sighting.flow, one.sighting.outer
