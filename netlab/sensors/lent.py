"""Captures lent to another machine: begun, asked and ended by messages.

    {"do": "watch", "capture": ID, "netns": […]}      {}
    {"do": "seen", "capture": ID, "token": …}          {"sightings": […], "lost": n}
    {"do": "seen", "capture": ID, "number": …}         the same of a TCP connection's opening
    {"do": "unwatch", "capture": ID}                   {}

A capture that nobody asks for `KEPT` seconds has been forgotten by its borrower, and ends.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec

from netlab.packets import Sighting
from netlab.sensors.capture import Capture

KEPT = 60.0  # seconds
DEEDS = ("watch", "seen", "unwatch")


class Lender:
    """The captures that others have here. Close it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent: dict[str, Capture] = {}
        self._asked: dict[str, float] = {}

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a message says; return the answer.

        Raises KernelError for a namespace that is not here, LookupError for a capture that ended.
        """
        with self._lock:
            self._end_forgotten()
            name, deed = str(request["capture"]), request["do"]
            if deed == "watch":
                return self._watch(name, [str(one) for one in request["netns"]])
            if deed == "unwatch":
                self._end(name)
                return {}
            if name not in self._lent:
                raise LookupError(f"the capture {name} has ended")
            self._asked[name] = time.monotonic()
            return _seen(self._lent[name], request)

    def _watch(self, name: str, namespaces: list[str]) -> dict[str, Any]:
        if name not in self._lent:
            self._lent[name] = Capture([]).__enter__()
        self._asked[name] = time.monotonic()
        self._lent[name].add(namespaces)
        return {}

    def _end_forgotten(self) -> None:
        now = time.monotonic()
        for name in [one for one, asked in self._asked.items() if now - asked > KEPT]:
            self._end(name)

    def _end(self, name: str) -> None:
        self._asked.pop(name, None)
        if (capture := self._lent.pop(name, None)) is not None:
            capture.close()

    @property
    def lent(self) -> int:
        """How many captures there are."""
        return len(self._lent)

    def tidy(self) -> None:
        """End what was forgotten."""
        with self._lock:
            self._end_forgotten()

    def close(self) -> None:
        with self._lock:
            for name in list(self._lent):
                self._end(name)


def _seen(capture: Capture, request: dict[str, Any]) -> dict[str, Any]:
    capture.flush()
    if "token" in request:
        found = capture.sightings(str(request["token"]).encode())
    else:
        found = capture.opening(int(request["number"]))
    return {"sightings": msgspec.to_builtins(found), "lost": capture.lost}


def sightings(answer: dict[str, Any]) -> list[Sighting]:
    """Return the sightings that an answer to `seen` tells."""
    return msgspec.convert(answer["sightings"], list[Sighting])
