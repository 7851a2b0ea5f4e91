"""A capture and a rule trace on the namespaces of several machines: one's own, and those that
others lend.

Whoever uses it needs not know where a namespace is. What other machines saw is asked for when it is
wanted, not before: `frames`, which is called again and again while a probe is on its way, tells of
this machine alone. The times of other machines are by their own clocks; see `paths.clocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from uuid import uuid4

import msgspec

from netlab.errors import NetlabError
from netlab.packets import Expectation, Flow, RuleHit, Sighting
from netlab.paths.clocks import reconciled
from netlab.sensors.capture import Capture
from netlab.sensors.lent import hits, sightings
from netlab.sensors.ruletrace import RuleTrace, probes

Ask = Callable[[dict[str, Any]], dict[str, Any]]


class Borrowed:
    """What is lent to us under one name: of which machines, and on which of their namespaces."""

    def __init__(
        self, machine: Callable[[str], str], others: Mapping[str, Ask], *, ipv6: bool = False
    ) -> None:
        """*machine*: where a namespace is, by the names in *others*, "" for here. *others*: how
        each is asked; raises NetlabError. *ipv6*: whether probes by IPv6 are traced, too."""
        self.machine = machine
        self.ipv6 = ipv6
        self.on: dict[str, set[str]] = {}  # by machine
        self._others = others
        self._id = uuid4().hex

    def ask(self, where: str, deed: str, **more: Any) -> dict[str, Any]:
        """Return the answer of one of the machines."""
        return self._others[where]({"do": deed, "capture": self._id, **more})

    def add(self, names: Iterable[str], what: str) -> list[str]:
        """Borrow *what*, `netns` or `traced`, on those of the namespaces *names* that are
        elsewhere; return those that are here."""
        here, there = [], dict[str, set[str]]()
        for name in names:
            if where := self.machine(name):
                there.setdefault(where, set()).add(name)
            else:
                here.append(name)
        for where, wanted in there.items():
            known = self.on.setdefault(where, set())
            if new := wanted - known:
                self.ask(where, "watch", **{what: sorted(new)}, ipv6=self.ipv6)
                known |= new
        return here

    def give_back(self, where: str = "") -> None:
        """Have no more of the machine *where*, "" for any."""
        for one in [each for each in self.on if where in ("", each)]:
            del self.on[one]
            try:
                self.ask(one, "unwatch")
            except NetlabError:
                continue  # it ends by itself there


class WideTrace(RuleTrace):
    """A `RuleTrace` that reaches other machines. What ends a probe's way there it does not know."""

    def __init__(self, borrowed: Borrowed) -> None:
        super().__init__([], probes(ipv6=borrowed.ipv6))
        self._borrowed = borrowed

    def add(self, netns_names: Iterable[str]) -> None:
        """As `RuleTrace.add`. Raises NetlabError when another machine does not answer, too."""
        super().add(self._borrowed.add(netns_names, "traced"))

    def hits(
        self, flow: Flow | None = None, token: bytes = b"", *, within: Collection[str] = ()
    ) -> list[RuleHit]:
        found = super().hits(flow, token, within=within)
        for where, names in self._borrowed.on.items():
            if flow is None or (within and not names & {*within}):
                continue
            told = {"flow": msgspec.to_builtins(flow), "token": token.decode()}
            answer = self._borrowed.ask(where, "hits", **told)
            found += [hit for hit in hits(answer) if not within or hit.netns in within]
        return found

    def close(self) -> None:
        super().close()
        self._borrowed.give_back()


class WideCapture(Capture):
    """A `Capture` that reaches other machines."""

    def __init__(self, netns_names: Iterable[str], borrowed: Borrowed) -> None:
        super().__init__(netns_names)
        self._borrowed = borrowed
        self._lost_there: dict[str, int] = {}

    def add(self, netns_names: Iterable[str]) -> None:
        """As `Capture.add`. Raises NetlabError when another machine does not answer, too."""
        super().add(self._borrowed.add(netns_names, "netns"))

    def _elsewhere(self, **wanted: Any) -> list[Sighting]:
        found: list[Sighting] = []
        for where in self._borrowed.on:
            answer = self._borrowed.ask(where, "seen", **wanted)
            self._lost_there[where] = int(answer["lost"])
            found += sightings(answer)
        return found

    def sightings(self, token: bytes) -> list[Sighting]:
        return super().sightings(token) + self._elsewhere(token=token.decode())

    def handshake(self, flow: Flow, *, netns: str) -> list[Sighting]:
        if where := self._borrowed.machine(netns):
            self.flush()
            words = {"flow": msgspec.to_builtins(flow), "netns": netns}
            number = self._borrowed.ask(where, "number", **words)["number"]
        else:
            number = self.number(flow, netns=netns)
        if number is None:
            return []
        return self.opening(number) + self._elsewhere(number=number)

    def in_order(self, expectation: Expectation, sightings: list[Sighting]) -> list[Sighting]:
        """As `Capture.in_order`: by this machine's clock, on which the flow begins."""
        return reconciled(expectation, sightings, self._borrowed.machine)

    @property
    def lost(self) -> int:
        return super().lost + sum(self._lost_there.values())

    def close(self) -> None:
        super().close()
        self._borrowed.give_back()
