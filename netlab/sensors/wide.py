"""A capture and a rule trace on the namespaces of several machines: one's own, and those that
others lend.

Whoever uses it needs not know where a namespace is. What other machines saw is asked for when it is
wanted, not before: `frames`, which is called again and again while a probe is on its way, tells of
this machine alone. The times of other machines are by their own clocks; see `paths.clocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import msgspec

from netlab.errors import NetlabError
from netlab.packets import Expectation, Flow, RuleHit, Sighting
from netlab.paths.clocks import reconciled
from netlab.sensors.capture import Capture
from netlab.sensors.lent import hits, sightings
from netlab.sensors.ruletrace import RuleTrace, probes

TOGETHER = 16  # tokens in a question: the answer tells all frames, and etcd takes 1.5 MiB at once
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

    def ask_all(self, deed: str, *, of: Collection[str], **more: Any) -> dict[str, dict[str, Any]]:
        """Return the answers of the machines *of*, which are asked at once."""
        if not of:
            return {}
        with ThreadPoolExecutor(len(of)) as pool:
            answers = pool.map(lambda where: self.ask(where, deed, **more), of)
            return dict(zip(of, answers, strict=True))

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
            if wanted - known:  # all are said: what was lent before may have been forgotten there
                self.ask(where, "watch", **{what: sorted(known | wanted)}, ipv6=self.ipv6)
                known |= wanted
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
        if flow is None:
            return found
        on = self._borrowed.on
        where = [one for one, names in on.items() if not within or names & {*within}]
        told = {"flow": msgspec.to_builtins(flow), "token": token.decode()}
        for answer in self._borrowed.ask_all("hits", of=where, **told).values():
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
        self._gathered: dict[bytes, list[Sighting]] = {}  # of tokens, by other machines

    def add(self, netns_names: Iterable[str]) -> None:
        """As `Capture.add`. Raises NetlabError when another machine does not answer, too."""
        super().add(self._borrowed.add(netns_names, "netns"))

    def _elsewhere(self, count: int, **wanted: Any) -> list[list[Sighting]]:
        """Return what all other machines saw of each of *count* tokens or numbers *wanted*."""
        found: list[list[Sighting]] = [[] for _ in range(count)]
        answers = self._borrowed.ask_all("seen", of=list(self._borrowed.on), **wanted)
        for where, answer in answers.items():
            self._lost_there[where] = int(answer["lost"])
            for mine, more in zip(found, sightings(answer), strict=True):
                mine += more
        return found

    def gather(self, tokens: Sequence[bytes]) -> None:
        super().gather(tokens)
        for first in range(0, len(tokens), TOGETHER):
            some = tokens[first : first + TOGETHER]
            there = self._elsewhere(len(some), tokens=[one.decode() for one in some])
            self._gathered |= dict(zip(some, there, strict=True))

    def sightings(self, token: bytes) -> list[Sighting]:
        if token not in self._gathered:
            self.gather([token])
        return super().sightings(token) + self._gathered.pop(token)

    def handshake(self, flow: Flow, *, netns: str) -> list[Sighting]:
        if where := self._borrowed.machine(netns):
            self.flush()
            words = {"flow": msgspec.to_builtins(flow), "netns": netns}
            number = self._borrowed.ask(where, "number", **words)["number"]
        else:
            number = self.number(flow, netns=netns)
        if number is None:
            return []
        return self.opening(number) + self._elsewhere(1, numbers=[number])[0]

    def in_order(self, expectation: Expectation, sightings: list[Sighting]) -> list[Sighting]:
        """As `Capture.in_order`: by this machine's clock, on which the flow begins."""
        return reconciled(expectation, sightings, self._borrowed.machine)

    @property
    def lost(self) -> int:
        return super().lost + sum(self._lost_there.values())

    def close(self) -> None:
        super().close()
        self._borrowed.give_back()
