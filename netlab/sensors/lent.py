"""Captures and rule traces lent to another machine: begun, asked and ended by messages.

    {"do": "watch", "capture": ID, "netns": […], "traced": […], "ipv6": …}   {}
    {"do": "seen", "capture": ID, "tokens": […]}       {"seen": [[…], …], "lost": n}
    {"do": "seen", "capture": ID, "numbers": […]}      the same of TCP connections' openings
    {"do": "number", "capture": ID, "flow": …, "netns": …}   {"number": n or null}, of that opening
    {"do": "hits", "capture": ID, "flow": …, "token": …}   {"hits": […]}, of the rules traced
    {"do": "unwatch", "capture": ID}                   {}

A capture that nobody asks for `loans.KEPT` seconds has been forgotten by its borrower, and ends.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import msgspec

from netlab.packets import Flow, RuleHit, Sighting
from netlab.sensors.capture import Capture
from netlab.sensors.ruletrace import RuleTrace, probes
from netlab.store.loans import Loans

DEEDS = ("watch", "seen", "number", "hits", "unwatch")


class Lent(NamedTuple):
    """What one borrower has, under one name."""

    capture: Capture
    trace: RuleTrace


class Lender:
    """The captures that others have here. Close it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one question at a time, and none of what is being ended
        self._loans: Loans[Lent] = Loans(_ended)

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a message says; return the answer.

        Raises KernelError for a namespace that is not here, LookupError for a capture that ended.
        """
        with self._lock:
            self._loans.tidy()
            name, deed = str(request["capture"]), request["do"]
            if deed == "watch":
                return self._watch(name, request)
            if deed == "unwatch":
                self._loans.end(name)
                return {}
            lent = self._loans.asked(name)
            if lent is None:
                raise LookupError(f"the capture {name} has ended")
            if deed == "number":
                return _number(lent.capture, request)
            return _hits(lent.trace, request) if deed == "hits" else _seen(lent.capture, request)

    def _watch(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        lent = self._loans.asked(name)
        if lent is None:
            selectors = probes(ipv6=bool(request.get("ipv6")))
            lent = Lent(Capture([]), RuleTrace([], selectors))
            self._loans.lend(name, lent)
        lent.capture.add(map(str, request.get("netns", ())))
        lent.trace.add(map(str, request.get("traced", ())))
        return {}

    @property
    def lent(self) -> int:
        """How many captures there are."""
        return len(self._loans)

    def tidy(self) -> None:
        """End what was forgotten."""
        with self._lock:
            self._loans.tidy()

    def close(self) -> None:
        with self._lock:
            self._loans.close()


def _ended(lent: Lent) -> None:
    lent.capture.close()
    lent.trace.close()


def _seen(capture: Capture, request: dict[str, Any]) -> dict[str, Any]:
    capture.flush()
    found = [capture.sightings(str(one).encode()) for one in request.get("tokens", ())]
    found += [capture.opening(int(one)) for one in request.get("numbers", ())]
    return {"seen": msgspec.to_builtins(found), "lost": capture.lost}


def _number(capture: Capture, request: dict[str, Any]) -> dict[str, Any]:
    capture.flush()
    flow = msgspec.convert(request["flow"], Flow)
    return {"number": capture.number(flow, netns=str(request["netns"]))}


def _hits(trace: RuleTrace, request: dict[str, Any]) -> dict[str, Any]:
    flow = msgspec.convert(request["flow"], Flow)
    return {"hits": msgspec.to_builtins(trace.hits(flow, str(request["token"]).encode()))}


def hits(answer: dict[str, Any]) -> list[RuleHit]:
    """Return the rules that an answer to `hits` tells."""
    return msgspec.convert(answer["hits"], list[RuleHit])


def sightings(answer: dict[str, Any]) -> list[list[Sighting]]:
    """Return the sightings that an answer to `seen` tells, of each token or number asked for."""
    return msgspec.convert(answer["seen"], list[list[Sighting]])
