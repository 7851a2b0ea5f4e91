"""A capture and a rule trace on the namespaces of several machines: one's own, and those that
others lend.

Whoever uses it needs not know where a namespace is. What other machines saw is asked for when it is
wanted, not before: `frames`, which is called again and again while a probe is on its way, tells of
this machine alone. The times of other machines are by their own clocks; see `paths.clocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Any
from uuid import uuid4

import msgspec

from netlab.errors import NetlabError
from netlab.packets import Expectation, Flow, RuleHit, Sighting
from netlab.paths.clocks import reconciled
from netlab.sensors.capture import Capture
from netlab.sensors.lent import hits, sightings
from netlab.sensors.ruletrace import RuleTrace

Ask = Callable[[dict[str, Any]], dict[str, Any]]


class WideTrace(RuleTrace):
    """A `RuleTrace` that reaches other machines. What ends a probe's way there it does not know."""

    def __init__(
        self,
        netns_names: Iterable[str],
        *,
        machine: Callable[[str], str],
        others: Mapping[str, Ask],
    ) -> None:
        """As of `WideCapture`."""
        super().__init__(netns_names)
        self._machine = machine
        self._others = others
        self._id = uuid4().hex
        self._traced: dict[str, set[str]] = {}  # by machine

    def add(self, netns_names: Iterable[str]) -> None:
        """As `RuleTrace.add`. Raises NetlabError when another machine does not answer, too."""
        here, there = _apart(netns_names, self._machine)
        super().add(here)
        for where, names in there.items():
            known = self._traced.setdefault(where, set())
            if names - known:
                more = {"capture": self._id, "traced": sorted(names - known)}
                self._others[where]({"do": "watch", **more})
                known |= names

    def hits(
        self, flow: Flow | None = None, token: bytes = b"", *, within: Collection[str] = ()
    ) -> list[RuleHit]:
        found = super().hits(flow, token, within=within)
        for where, names in self._traced.items():
            if flow is None or (within and not names & {*within}):
                continue
            told = {"flow": msgspec.to_builtins(flow), "token": token.decode()}
            answer = self._others[where]({"do": "hits", "capture": self._id, **told})
            found += [hit for hit in hits(answer) if not within or hit.netns in within]
        return found

    def close(self) -> None:
        super().close()
        _given_back(self._id, [self._others[where] for where in self._traced])


def _apart(
    names: Iterable[str], machine: Callable[[str], str]
) -> tuple[list[str], dict[str, set[str]]]:
    """Return which namespaces are here, and which on each other machine."""
    here, there = [], dict[str, set[str]]()
    for name in names:
        if where := machine(name):
            there.setdefault(where, set()).add(name)
        else:
            here.append(name)
    return here, there


def _given_back(name: str, others: Iterable[Ask]) -> None:
    for ask in others:
        try:
            ask({"do": "unwatch", "capture": name})
        except NetlabError:
            continue  # it ends by itself there


class WideCapture(Capture):
    """A `Capture` that reaches other machines."""

    def __init__(
        self,
        netns_names: Iterable[str],
        *,
        machine: Callable[[str], str],
        others: Mapping[str, Ask],
    ) -> None:
        """*machine*: where a namespace is, by the names in *others*, "" for here. *others*: how
        each is asked; raises NetlabError."""
        super().__init__(netns_names)
        self._machine = machine
        self._others = others
        self._id = uuid4().hex
        self._watched: dict[str, set[str]] = {}  # by machine
        self._lost_there: dict[str, int] = {}

    def add(self, netns_names: Iterable[str]) -> None:
        """As `Capture.add`. Raises NetlabError when another machine does not answer, too."""
        here, there = _apart(netns_names, self._machine)
        super().add(here)
        for where, names in there.items():
            known = self._watched.setdefault(where, set())
            if names - known:
                self._ask(where, "watch", netns=sorted(names - known))
                known |= names

    def _ask(self, where: str, deed: str, **more: Any) -> dict[str, Any]:
        return self._others[where]({"do": deed, "capture": self._id, **more})

    def _elsewhere(self, **wanted: Any) -> list[Sighting]:
        found: list[Sighting] = []
        for where in self._watched:
            answer = self._ask(where, "seen", **wanted)
            self._lost_there[where] = int(answer["lost"])
            found += sightings(answer)
        return found

    def sightings(self, token: bytes) -> list[Sighting]:
        return super().sightings(token) + self._elsewhere(token=token.decode())

    def handshake(self, flow: Flow, *, netns: str) -> list[Sighting]:
        """As `Capture.handshake`; *netns* is one of this machine."""
        number = self.number(flow, netns=netns)
        if number is None:
            return []
        return self.opening(number) + self._elsewhere(number=number)

    def in_order(self, expectation: Expectation, sightings: list[Sighting]) -> list[Sighting]:
        """As `Capture.in_order`: by this machine's clock, on which the flow begins."""
        return reconciled(expectation, sightings, self._machine)

    @property
    def lost(self) -> int:
        return super().lost + sum(self._lost_there.values())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        _given_back(self._id, [self._others[where] for where in self._watched])
