"""The loop of a machine that answers what other machines of its lab ask: see `store.mailbox`.

    {"do": "place"}                    {"node": …, "uplink": …, "time": ns since the epoch, here}
    {"do": "watch" | "seen" | …}       captures that are lent: see `sensors.lent`
    {"do": "read", "netns": …, "what": …, "words": {…}}   {"read": …}: see `readings`
    {"do": "serve" | "carry", …}       {"problems": […]}, by the master's machine: see `requests`
    {"do": "hold" | "release", "what": …, "words": {…}}   {}, for a while: see `verify.away`
    {"do": "verify", "paths": […]}     {"verdicts": […]}, of what this machine can prove
    {"do": "listen" | "told" | …}      conversations that are watched for others: see `tracing.lent`
    {"do": "look", "case": {…}}        {"stages": […]}, why a flow does not arrive: `tracing.part`
    {"do": "begin" | "more" | …}       commands that run here for others: see `agent.errands`

A question that takes long is answered by a thread of its own; the loop goes on.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from netlab import patience, processes
from netlab.agent import errands
from netlab.agent.loop import Loop
from netlab.agent.place import Place
from netlab.agent.readings import read
from netlab.agent.state import State
from netlab.errors import NetlabError
from netlab.sensors import lent
from netlab.store import loans
from netlab.store.mailbox import Mailbox
from netlab.store.session import Drain
from netlab.tracing import lent as conversations

CHANGES = ("serve", "carry")
HELD = ("guest", "cut", "silence", "declared", "machine")
AWAY = "away/"  # roles of processes that do something for another machine's check
BEGUN_WITHIN = patience.seconds(8.0)  # seconds
GRACE = patience.seconds(6.0)  # for what was made to go
LOOK = 0.02  # seconds between two looks
VERIFIED_WITHIN = patience.seconds(240.0)  # seconds


class Answering(Loop):
    """Answers for what this machine is: for its node, or for the master where it is no node."""

    rest = 0.0  # who asks waits
    interval = loans.KEPT / 2  # seconds: what is forgotten ends then

    def __init__(
        self, state: State, place: Place, change: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        """*change*: does what changes the whole lab, on the master's machine."""
        super().__init__("answering")
        self.change = change
        self.state = state
        self.place = place
        self._lender = lent.Lender()
        self._errands = errands.Errands(state.run)
        self._conversations = conversations.Lender()
        self._mailbox: Mailbox | None = None

    def once(self) -> None:
        self._lender.tidy()
        self._errands.tidy()
        self._conversations.tidy()
        lab = self.state.lab
        if lab is None or not self.state.etcd_ready.is_set():
            return
        if self._mailbox is None:
            self._mailbox = Mailbox(self.place.access.etcd(lab.master.address), self.place.home)
        for question in self._mailbox.asked():
            words = (self._mailbox, question)
            threading.Thread(target=self._answer, args=words, daemon=True).start()

    def _answer(self, mailbox: Mailbox, question: dict[str, Any]) -> None:
        mailbox.answer(question, lambda: self._done(question))

    def _done(self, question: dict[str, Any]) -> dict[str, Any]:
        deed = question.get("do")
        if deed == "place":
            told = {"node": self.place.node, "uplink": self.place.uplink}
            return {**told, "time": time.time_ns()}
        if deed in lent.DEEDS:
            return self._lender.do(question)
        if deed == "read":
            words = dict(question.get("words", {}))
            return {"read": read(str(question["netns"]), str(question["what"]), **words)}
        if deed in errands.DEEDS:
            return self._errands.do(question)
        if deed in ("hold", "release") and (what := question["what"]) in HELD:
            words = dict(question.get("words", {}))
            return self._held(what, words) if deed == "hold" else self._released(what)
        if deed in CHANGES:
            return self.change(question)
        if deed in conversations.DEEDS:
            return self._conversations.do(question)
        if deed == "look":
            case = msgspec.json.encode(question["case"]).decode()
            return {"stages": self._said("netlab.tracing.part", fed=case)}
        if deed == "verify":
            paths = [str(one) for one in question["paths"]]
            return {"verdicts": self._said("netlab.verify.part", *paths)}
        raise NetlabError(f"this version of netlab does not know how to {deed}")

    def _said(self, module: str, *words: str, fed: str = "") -> Any:
        """Return what a module of netlab says, in a process whose memory goes with it."""
        argv = [sys.executable, "-m", module, self.state.run.name, *words]
        done = processes.run(argv, check=False, timeout=VERIFIED_WITHIN, input=fed)
        if done.returncode:
            raise NetlabError(done.stderr.strip().rpartition("\n")[2] or "it could not be told")
        return msgspec.json.decode(done.stdout)

    def _held(self, what: str, words: dict[str, Any]) -> dict[str, Any]:
        """Have *what* done until it is told to end, or its seconds are over."""
        self._released(what)
        run, log = self.state.run, self.state.run / f"{what}.log"
        log.write_bytes(b"")
        text = msgspec.json.encode(words).decode()
        argv = [sys.executable, "-m", "netlab.verify.away", run.name, what, text]
        pid = processes.spawn(run, AWAY + what, argv, stdout=log)
        deadline = time.monotonic() + BEGUN_WITHIN
        while "begun\n" not in (said := log.read_text()):
            if processes.wait(pid, seconds=LOOK) or time.monotonic() > deadline:
                self._released(what)
                raise NetlabError(said.strip() or f"no {what} has begun")
        return {}

    def _released(self, what: str) -> dict[str, Any]:
        for pid in processes.marked(self.state.run).get(AWAY + what, []):
            processes.end(pid, grace=GRACE)
        return {}

    def watched(self) -> Mapping[int, Drain]:
        asked = self._mailbox.fileno() if self._mailbox is not None else None
        return {} if asked is None else {asked: lambda: None}  # the next pass drains it

    def close(self) -> None:
        if self._mailbox is not None:
            self._mailbox.close()
        self._lender.close()
        self._errands.close()
        self._conversations.close()
