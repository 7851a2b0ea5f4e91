"""Commands of netlab that run here for another machine of the lab: begun, followed, ended.

    {"do": "begin", "errand": ID, "words": ["exec", …], "fed": …}  {}
    {"do": "more", "errand": ID}        {"out": …, "err": …, "code": n or null}; waits for some
    {"do": "feed", "errand": ID, "data": …, "last": …}             {"taken": n}, see `Errand.feed`
    {"do": "stop", "errand": ID}        {}, and it is asked to end; its output can be fetched
    {"do": "end", "errand": ID}         {}, and it has ended

Bytes are in base64. A command that nobody asks for `KEPT` seconds has been forgotten, and ends; so
does one that wrote more than `LIMIT`: all of it goes through etcd, which keeps it for long.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any
from uuid import uuid4

from netlab import processes
from netlab.errors import NetlabError, UsageError
from netlab.processes import MARK, START
from netlab.processes.errand import GRACE, Errand

KEPT = 60.0  # seconds
DEEDS = ("begin", "more", "feed", "stop", "end")
COMMANDS = ("exec", "logs", "capture", "probe", "trace", "why")  # what others may have run here
WAITED = 5.0  # seconds for output: as long as an answer may take
LIMIT = 16 << 20  # bytes
ROLE = "errand"
log = logging.getLogger("netlab.agent.errands")


class Errands:
    """What runs here for others. Close it."""

    def __init__(self, run: Path) -> None:
        """What an agent before this one left running here is ended: nobody can fetch it."""
        self._run = run
        for role, pids in processes.marked(run).items():
            if role.startswith(f"{ROLE}/"):
                for pid in pids:
                    processes.end(pid, grace=GRACE)
                for pid in processes.strays(run, role):  # what it had started
                    processes.end(pid, grace=GRACE)
        self._lock = threading.Lock()
        self._running: dict[str, Errand] = {}
        self._asked: dict[str, float] = {}
        self._written: dict[str, int] = {}

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a message says; return the answer. Raises NetlabError, LookupError."""
        name, deed = str(request["errand"]), request["do"]
        if deed == "begin":
            return self._begin(name, [str(word) for word in request["words"]], bool(request["fed"]))
        with self._lock:
            if name not in self._running:
                raise LookupError("the command has ended")
            self._asked[name] = time.monotonic()
            errand = self._running[name]
        if deed == "feed":
            data = b64decode(request["data"])
            return {"taken": errand.feed(data, last=bool(request["last"]))}
        if deed == "stop":
            errand.stop()
            return {}
        if deed == "end":
            self._end(name)
            return {}
        return self._more(name, errand)

    def _begin(self, name: str, words: list[str], fed: bool) -> dict[str, Any]:
        if not words or words[0] not in COMMANDS:
            raise UsageError(f"`netlab {' '.join(words)}` does not run for another machine")
        log.info("runs for another machine: netlab %s", " ".join(words))
        argv = [sys.executable, "-m", "netlab", "-L", self._run.name, *words]
        role = f"{ROLE}/{uuid4().hex}"
        kept = {key: value for key, value in os.environ.items() if key not in (MARK, START)}
        errand = Errand(argv, env=processes.marked_environment(self._run, role, kept), fed=fed)
        with self._lock:
            self._running[name], self._asked[name] = errand, time.monotonic()
            self._written[name] = 0
        return {}

    def _more(self, name: str, errand: Errand) -> dict[str, Any]:
        piece = errand.more(WAITED)
        with self._lock:
            self._written[name] = written = self._written.get(name, 0) + len(piece.out + piece.err)
        if piece.code is not None:
            self._end(name)
        elif written > LIMIT:
            self._end(name)
            raise NetlabError(
                f"more than {LIMIT >> 20} MiB of output, which all goes through etcd; it is ended",
                hint="run it there",
            )
        return {
            "out": b64encode(piece.out).decode(),
            "err": b64encode(piece.err).decode(),
            "code": piece.code,
        }

    def _end(self, name: str) -> None:
        with self._lock:
            errand = self._running.pop(name, None)
            self._asked.pop(name, None)
            self._written.pop(name, None)
        if errand is not None:
            errand.close()

    @property
    def running(self) -> int:
        """How many there are."""
        return len(self._running)

    def tidy(self) -> None:
        """End what was forgotten."""
        now = time.monotonic()
        with self._lock:
            forgotten = [one for one, asked in self._asked.items() if now - asked > KEPT]
        for name in forgotten:
            self._end(name)

    def close(self) -> None:
        for name in list(self._running):
            self._end(name)
