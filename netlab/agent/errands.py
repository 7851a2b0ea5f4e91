"""Commands of netlab that run here for another machine of the lab: begun, followed, ended.

    {"do": "begin", "errand": ID, "words": ["exec", …], "fed": …}  {}
    {"do": "more", "errand": ID}        {"out": …, "err": …, "code": n or null}; waits for some
    {"do": "feed", "errand": ID, "data": …, "last": …}             {"taken": n}, see `Errand.feed`
    {"do": "stop", "errand": ID}        {}, and it is asked to end; its output can be fetched
    {"do": "end", "errand": ID}         {}, and it has ended

Bytes are in base64. A command that nobody asks for `loans.KEPT` seconds has been forgotten, and
ends; so does one that wrote more than `LIMIT`: all of it goes through etcd, which keeps it for
long.
"""

from __future__ import annotations

import logging
import os
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any
from uuid import uuid4

from netlab import processes
from netlab.errors import NetlabError, UsageError
from netlab.processes import MARK, START
from netlab.processes.errand import GRACE, Errand
from netlab.store.loans import Loans

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
        self._running: Loans[Errand] = Loans(Errand.close)

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a message says; return the answer. Raises NetlabError, LookupError."""
        name, deed = str(request["errand"]), request["do"]
        if deed == "begin":
            return self._begin(name, [str(word) for word in request["words"]], bool(request["fed"]))
        errand = self._running.asked(name)
        if errand is None:
            raise LookupError("the command has ended")
        if deed == "feed":
            data = b64decode(request["data"])
            return {"taken": errand.feed(data, last=bool(request["last"]))}
        if deed == "stop":
            errand.stop()
            return {}
        if deed == "end":
            self._running.end(name)
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
        self._running.lend(name, errand)
        return {}

    def _more(self, name: str, errand: Errand) -> dict[str, Any]:
        piece = errand.more(WAITED)
        if piece.code is not None:
            self._running.end(name)
        elif errand.written > LIMIT:
            self._running.end(name)
            raise NetlabError(
                f"more than {LIMIT >> 20} MiB of output, which all goes through etcd; it is ended",
                hint="run it there",
            )
        return {
            "out": b64encode(piece.out).decode(),
            "err": b64encode(piece.err).decode(),
            "code": piece.code,
        }

    @property
    def running(self) -> int:
        """How many there are."""
        return len(self._running)

    def tidy(self) -> None:
        """End what was forgotten."""
        self._running.tidy()

    def close(self) -> None:
        self._running.close()
