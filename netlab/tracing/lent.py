"""A conversation watched for another machine of the lab, whose part of it is here.

    {"do": "listen", "wires": ID, "netns": […], "opening": …, "flow": …, "ports": […]}
                                        {"blind": …}: see `tracing.wires`
    {"do": "told", "wires": ID}         {"caught": […], "passings": […], "lost": n}
    {"do": "listed", "wires": ID, "hit": …, "chain": …}   {"rules": {handle: text}}
    {"do": "next hops", "turns": […]}   {"hops": […]}: see `tracing.nexthops`
    {"do": "remembered", "netns": […], "flows": […], "protocol": …, "ids": […]}
                                        {"entries": [[netns, …], …], "connections": […]}
    {"do": "hush", "wires": ID}         {}

What nobody asks for `loans.KEPT` seconds has been forgotten by its borrower, and ends.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from netlab.packets import Flow, Protocol, RuleHit
from netlab.store.loans import Loans
from netlab.telling.selecting import Opening
from netlab.tracing import nexthops, wires
from netlab.tracing.wires import Wires

DEEDS = ("listen", "told", "listed", "next hops", "remembered", "hush")
ROOM = 600_000  # bytes of an answer for frames, and as much for rules: etcd takes 1.5 MiB at once
T = TypeVar("T")


class Lender:
    """The conversations that are watched here for others. Close it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one question at a time, and none of what is being ended
        self._loans: Loans[Wires] = Loans(lambda watch: watch.__exit__(None, None, None))

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a message says; return the answer. Raises NetlabError, LookupError."""
        deed = request["do"]
        if deed == "next hops":
            turns = msgspec.convert(request["turns"], list[nexthops.Turn])
            asked = nexthops.Kernels()
            return {"hops": msgspec.to_builtins([asked.next_hop(turn) for turn in turns])}
        if deed == "remembered":
            return _remembered(request)
        name = str(request["wires"])
        with self._lock:
            self._loans.tidy()
            if deed == "listen":
                return self._listen(name, request)
            if deed == "hush":
                self._loans.end(name)
                return {}
            watch = self._loans.asked(name)
            if watch is None:
                raise LookupError("what was watched for it has ended")
            if deed == "listed":
                hit = msgspec.convert(request["hit"], RuleHit)
                listed = watch.listed(hit, str(request["chain"]))
                return {"rules": {str(handle): text for handle, text in listed.items()}}
            wires.drained(wires.ROUNDS)
            passings = watch.passings()
            watch.capture.flush()
            caught = watch.caught()
            frames, rules = fitting(caught), fitting(passings)
            left = len(caught) - len(frames) + len(passings) - len(rules)
            return {
                "caught": msgspec.to_builtins(frames),
                "passings": msgspec.to_builtins(rules),
                "lost": watch.lost + left,
            }

    def _listen(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        watch = Wires(
            [str(one) for one in request["netns"]],
            msgspec.convert(request["opening"], Opening),
            msgspec.convert(request["flow"], Flow),
            [int(port) for port in request["ports"]],
        )
        watch.__enter__()
        self._loans.lend(name, watch)
        return {"blind": watch.blind}

    def tidy(self) -> None:
        """End what was forgotten."""
        with self._lock:
            self._loans.tidy()

    def close(self) -> None:
        with self._lock:
            self._loans.close()


def fitting(things: Sequence[T], *, room: int = ROOM) -> list[T]:
    """Return the first of *things*, as many as take *room* bytes as JSON."""
    sizes = accumulate(len(msgspec.json.encode(one)) for one in things)
    return [one for one, size in zip(things, sizes, strict=True) if size <= room]


def _remembered(request: dict[str, Any]) -> dict[str, Any]:
    names = [str(one) for one in request["netns"]]
    flows = msgspec.convert(request["flows"], list[Flow])
    protocol = Protocol(request["protocol"])
    entries = wires.entries(names, flows, protocol, ids=[int(one) for one in request["ids"]])
    return {
        "entries": msgspec.to_builtins(entries),
        "connections": msgspec.to_builtins(wires.connected(names, flows)),
    }
