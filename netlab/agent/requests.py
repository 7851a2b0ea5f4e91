"""What the agent is asked to do to its lab, each request until it is done or cannot be.

One request at a time; what the loops do meanwhile is told as progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from netlab import attachments, patience
from netlab.agent.control_plane import Declaration
from netlab.agent.loop import Loop
from netlab.controllers.scheduler import hopeless
from netlab.errors import NetlabError
from netlab.faults import carried
from netlab.model.attachments import Attachment
from netlab.model.faults import Fault, Sort, with_faults
from netlab.model.lab import Backend, Lab, LabNode
from netlab.plan import Op, words
from netlab.proxy import ruleset
from netlab.proxy.ruleset import Step

if TYPE_CHECKING:
    from netlab.agent.agent import Agent

Say = Callable[[dict[str, Any]], None]
LOOPS_END = 3.0  # seconds for the loops to finish what they are at
LONG_PASS = 1.0  # seconds
PATIENCE = patience.seconds(15.0)  # without progress: then a declaration's problems are told


class Requests:
    """The requests to one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._declaring = threading.Lock()

    def declare(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Make the lab be what *request* declares; return what was changed, and the problems left.

        *request*: `lab` and `documents` as JSON has them; `patience`: how many seconds may pass
        without progress.
        """
        with self._declaring:
            return self._declare(request, say)

    def _declare(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        control = self._agent.master()
        lab = carried(msgspec.convert(request["lab"], Lab), self._agent.state.lab)
        lab = attachments.carried(lab, self._agent.state.lab)
        if self._agent.place is not None:
            lab = self._agent.place.fitted(lab)
        if stopped := lab.faulted(Sort.ETCD_STOP):
            raise NetlabError(stopped.words, hint=f"`{stopped.undo}` starts it again")
        patience = request.get("patience", PATIENCE)
        clock = _Clock()
        for loop in self._agent.acting():
            loop.recorded = []
        for proxy in self._agent.programming():
            proxy.steps = []
        changes = [] if self._agent.state.lab == lab else [f"lab {lab.name}"]
        self._agent.adopt(lab)
        say({"progress": "underlay and etcd"})
        self._wait(self._agent.state.etcd_ready.is_set, patience)
        clock.lap("underlay and etcd")
        declaration = Declaration(request["documents"], files=request.get("files", ()))
        control.declare(declaration)
        say({"progress": "objects"})
        self._wait(declaration.done.is_set, patience, progress=declaration.changes.__len__)
        clock.lap("objects")
        problems = self._converged(declaration.revision, patience, say)
        clock.lap("nodes and pods")
        operations, steps = self._recorded()
        return {
            "changes": changes + declaration.changes,
            "operations": len(operations) + len(steps),
            "words": [
                *(line for op in operations for line in words(op)),
                *(ruleset.words(step) for step in steps),
            ]
            if request.get("words")
            else [],
            "seconds": clock.laps,
            "converged": not problems,
            "problems": problems,
            "revision": declaration.revision,
        }

    def fault(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Add and remove faults; return what was there of those removed, once it is all made.

        *request*: `add`: faults; `remove`: pairs of sort and target, a target of null being any.
        """
        with self._declaring:
            self._require_all_here("a fault")
            lab = self._agent.declared_lab()
            new = msgspec.convert(request.get("add", []), tuple[Fault, ...])
            gone = [
                fault
                for fault in lab.faults
                for sort, target in request.get("remove", ())
                if fault.sort == sort and target in (None, fault.target)
            ]
            kept = [fault for fault in lab.faults if fault not in gone]
            self._become(msgspec.structs.replace(lab, faults=with_faults(kept, new)), say)
            return {"removed": msgspec.to_builtins(gone)}

    def attach(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Plug in the namespace that *request*'s `attachment` says, and take out the one called
        `detach`, if it has them; return once it is made, or raise NetlabError and leave nothing."""
        with self._declaring:
            self._require_all_here("a foreign namespace")
            lab = self._agent.declared_lab()
            kept = [one for one in lab.attached if one.netns != request.get("detach")]
            remaining = msgspec.structs.replace(lab, attached=tuple(kept))
            if "attachment" not in request:
                self._become(remaining, say)
                return {}
            new = msgspec.convert(request["attachment"], Attachment)
            attachments.require_room(remaining, new)
            self._become(msgspec.structs.replace(lab, attached=(*kept, new)), say)
            if trouble := self._agent.world.attachments.troubles.get(new.netns):
                self._become(remaining, say)
                raise NetlabError(trouble)
            return {}

    def populate(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Have the nodes of *request*'s `lab`, as Lab documents have them, and its `faults`."""
        with self._declaring:
            self._require_all_here("another number of nodes")
            lab = msgspec.convert(request["lab"], Lab)
            before = self._agent.declared_lab()
            if before.faulted(Sort.ETCD_STOP):
                raise NetlabError("etcd is stopped, and nodes are objects in it")
            self._become(msgspec.structs.replace(before, nodes=lab.nodes, faults=lab.faults), say)
            declaration = Declaration((), nodes_only=True)
            self._agent.master().declare(declaration)
            self._wait(declaration.done.is_set, PATIENCE)
            return {"changes": declaration.changes, "revision": declaration.revision}

    def guest(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Have *request*'s `node` in a lab of several machines, on its `host`'s, and none that
        was there so before; with `there` false, none at all."""
        with self._declaring:
            master = self._agent.master()
            before = self._agent.declared_lab()
            nodes = [one for one in before.nodes if not one.host]
            if request["there"]:
                nodes.append(msgspec.convert(request["node"], LabNode))
            self._become(msgspec.structs.replace(before, nodes=nodes), say)
            declaration = Declaration((), nodes_only=True)
            master.declare(declaration)
            self._wait(declaration.done.is_set, PATIENCE)
            return {"changes": declaration.changes}

    def _require_all_here(self, what: str) -> None:
        """Raise NetlabError where the nodes are machines of their own."""
        if self._agent.place is not None:
            raise NetlabError(
                f"{what} can be given to a lab on one machine only",
                hint="edit the lab's files and run `netlab up --master` again",
            )

    def _become(self, lab: Lab, say: Say) -> None:
        """Take *lab* for the one to be made; return once the world around the nodes is so, what
        ran on nodes that are off has ended, and the nodes know."""
        self._agent.adopt(lab)
        say({"progress": "the world around the nodes"})
        self._wait(lambda: self._agent.world.whole == lab, PATIENCE)
        for loop in self._agent.ending:
            loop.join(timeout=LOOPS_END)
        self._agent.ending = []
        self._wait(lambda: self._agent.state.followed(lab), PATIENCE)

    def serve_by(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Make the nodes serve Services by another proxy mode; return the problems left.

        *request*: `mode`; `patience` as of `declare`.
        """
        with self._declaring:
            control = self._agent.master()
            self._agent.adopt(
                msgspec.structs.replace(self._agent.declared_lab(), proxyMode=request["mode"])
            )
            control.wake()
            problems = self._converged(0, request.get("patience", PATIENCE), say)
            return {"converged": not problems, "problems": problems}

    def carry_by(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Make the nodes reach each other by another back end; return the problems left.

        *request*: `backend`, as the Lab document has it; `patience` as of `declare`.
        """
        with self._declaring:
            control = self._agent.master()
            lab = self._agent.declared_lab()
            backend = msgspec.convert(request["backend"], Backend)
            network = msgspec.structs.replace(lab.network, Backend=backend)
            self._agent.adopt(msgspec.structs.replace(lab, network=network))
            control.wake()
            problems = self._converged(0, request.get("patience", PATIENCE), say)
            return {"converged": not problems, "problems": problems}

    def _wait(
        self, true: Callable[[], bool], patience: float, *, progress: Callable[[], int] = int
    ) -> None:
        deadline, reached = time.monotonic() + patience, progress()
        while not true():
            if (now := progress()) != reached:
                deadline, reached = time.monotonic() + patience, now
            if time.monotonic() > deadline:
                loops = [self._agent.world, *self._agent.within()]
                errors = [loop.error for loop in loops if loop.error]
                raise NetlabError(
                    errors[0] if errors else "the lab does not come up",
                    hint=f"see {self._agent.run}/agent.log",
                )
            time.sleep(0.002)

    def _converged(self, revision: int, patience: float, say: Say) -> list[str]:
        """Wait until nothing is left to do; return the problems that remain when they have not
        become fewer for *patience* seconds, nor a loop was in the middle of something long."""
        told = ""
        fewest = 0
        deadline = time.monotonic() + patience
        while True:
            began = time.monotonic()
            problems = self._agent.problems(revision, expected=False)
            if not problems or began > deadline:
                return self._agent.problems(revision)
            if all(map(hopeless, problems)):  # it is Kubernetes' state of rest for such a pod
                return self._agent.problems(revision)
            if not fewest or len(problems) < fewest or self._at_length():
                fewest, deadline = len(problems), began + patience
            first = problems[0] + (f" (and {len(problems) - 1} more)" if problems[1:] else "")
            if first != told:
                say({"progress": first})
                told = first
            time.sleep(2 * (time.monotonic() - began))  # leave the loops room in a large lab
            with self._agent.state.changed:
                self._agent.state.changed.wait(timeout=0.1)

    def _at_length(self) -> bool:
        """Return whether a loop is at something long: 10,000 Services take seconds, or more."""
        loops: list[Loop] = [self._agent.control_plane, *self._agent.programming()]
        return any(loop.at_work(seconds=LONG_PASS) for loop in loops)

    def _recorded(self) -> tuple[list[Op], list[Step]]:
        """Return what the loops did since the declaration began, and stop recording."""
        operations: list[Op] = []
        steps: list[Step] = []
        for loop in self._agent.acting():
            operations += loop.recorded or []
            loop.recorded = None
        for proxy in self._agent.programming():
            steps += proxy.steps or []
            proxy.steps = None
        return operations, steps


class _Clock:
    """Where the seconds went."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 4)
        self._last = now
