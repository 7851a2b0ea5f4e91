"""The agent of one lab: its loops, started and ended as nodes are declared and leave."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from netlab import __version__, attachments, patience, processes
from netlab.agent.balancer import Balancer
from netlab.agent.control_plane import ControlPlane, Declaration
from netlab.agent.heartbeat import Heartbeat
from netlab.agent.loop import Loop
from netlab.agent.node import Node
from netlab.agent.services import ServiceProxy
from netlab.agent.state import State, status
from netlab.agent.world import ETCD, World
from netlab.controllers.declaration import as_declared, last_declared
from netlab.controllers.departure import departures, missing
from netlab.controllers.scheduler import hopeless
from netlab.errors import NetlabError
from netlab.faults import carried
from netlab.kernel import Kernel, netns, real
from netlab.model.attachments import Attachment
from netlab.model.faults import Fault, Sort, with_faults
from netlab.model.inventory import Inventory
from netlab.model.lab import Backend, Lab
from netlab.plan import Op, words
from netlab.pods.containers import Containers
from netlab.pods.control import Servers
from netlab.proxy import ruleset
from netlab.proxy.ruleset import Step
from netlab.store.etcd import PORT, Etcd
from netlab.world import GATEWAY, MASTER

Say = Callable[[dict[str, Any]], None]
ETCD_ANSWER = 1.0  # seconds it may take while somebody waits for the status
LOOPS_END = 3.0  # seconds for the loops to finish what they are at
LONG_PASS = 1.0  # seconds
PATIENCE = patience.seconds(15.0)  # without progress: then a declaration's problems are told


class Agent:
    """All loops of one lab. `declare`, `status` and `stop` are called from the control socket."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.state = State(run)
        self.kernel: Kernel = real.RealKernel()
        self.servers = Servers(run)
        self.world = World(
            self.state,
            self.kernel,
            self.servers,
            ready=self._world_ready,
            wake_node=self._wake_node,
        )
        self.control_plane = ControlPlane(self.state, wake_node=self._wake_node)
        self.balancer = Balancer(self.state, self.kernel)
        self._nodes: dict[str, Node] = {}
        self._proxies: dict[str, ServiceProxy] = {}
        self._hearts: dict[str, Heartbeat] = {}
        self._dark: set[str] = set()  # nodes that are off
        self._ending: list[Loop] = []  # of nodes that are gone or off
        self._lock = threading.Lock()
        self._declaring = threading.Lock()
        self._restore()
        self.world.start()
        self.control_plane.start()
        self.balancer.start()

    def _restore(self) -> None:
        """Go on with the lab this run directory was last used for, after a crash."""
        path = self.run / "lab.json"
        if path.exists():
            self.state.lab = msgspec.json.decode(path.read_bytes(), type=Lab)

    # -- loops

    def _world_ready(self) -> None:
        """Start and end node loops as declared, once their namespaces and etcd are there."""
        lab = self.state.lab
        assert lab is not None
        declared = {node.name for node in lab.running}
        self._darken({node.name for node in lab.nodes} - declared)
        with self._lock:
            for name in [name for name in self._nodes if name not in declared]:
                self._ending.append(self._nodes[name])
                self._nodes.pop(name).switch_off()
                self._proxies.pop(name).end()
                self._hearts.pop(name).end()
                self.state.forget(name)
            for name in declared - set(self._nodes):
                self._start(name)
        for loop in self._within():
            loop.wake()

    def _darken(self, off: set[str]) -> None:
        """End what an agent before this one left running on nodes that are *off*."""
        known = {*self._nodes, *self._dark}
        for name in off - known:
            self.servers.declare([], node=name)
            containers = Containers(self.run)
            containers.cut()
            containers.close()
        self._dark = off

    def _within(self) -> list[Loop]:
        """Return the loops that live in the world's namespaces: all but the world's own."""
        with self._lock:
            loops = (self._nodes, self._proxies, self._hearts)
            each = (one for kind in loops for one in kind.values())
            return [self.control_plane, self.balancer, *each]

    def _start(self, name: str) -> None:
        """Start the loops of a node."""
        proxy = self._proxies[name] = ServiceProxy(self.state, name)
        node = self._nodes[name] = Node(
            self.state, name, self.kernel, self.servers, rules_changed=proxy.wake
        )
        if self.world.recorded is not None:
            node.recorded, proxy.steps = [], []
        heart = self._hearts[name] = Heartbeat(self.state, name)
        for loop in (node, proxy, heart):
            loop.start()

    def _wake_node(self, name: str) -> None:
        if name == GATEWAY:
            self.world.wake()
        with self._lock:
            loops = [loops[name] for loops in (self._nodes, self._proxies) if name in loops]
        for loop in loops:
            loop.wake()

    def stop(self) -> None:
        """End every loop and every process. For the main thread, at the very end.

        The children are left to the kernel to collect: a pod's first process does not end before
        those its namespace got from outside are gone entirely.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        loops = [self.world, *self._within()]
        for loop in loops:
            loop.end()
        deadline = time.monotonic() + LOOPS_END
        for loop in loops:
            loop.join(timeout=max(0.0, deadline - time.monotonic()))
        processes.end_all(self.run, grace=0.0, spare=("agent",))

    # -- requests

    def declare(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Make the lab be what *request* declares; return what was changed, and the problems left.

        *request*: `lab` and `documents` as JSON has them; `patience`: how many seconds may pass
        without progress.
        """
        with self._declaring:
            return self._declare(request, say)

    def _declare(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        lab = carried(msgspec.convert(request["lab"], Lab), self.state.lab)
        lab = attachments.carried(lab, self.state.lab)
        if stopped := lab.faulted(Sort.ETCD_STOP):
            raise NetlabError(stopped.words, hint=f"`{stopped.undo}` starts it again")
        patience = request.get("patience", PATIENCE)
        clock = _Clock()
        for loop in self._acting():
            loop.recorded = []
        for proxy in self._programming():
            proxy.steps = []
        changes = [] if self.state.lab == lab else [f"lab {lab.name}"]
        self._adopt(lab)
        say({"progress": "underlay and etcd"})
        self._wait(self.state.etcd_ready.is_set, patience)
        clock.lap("underlay and etcd")
        declaration = Declaration(request["documents"], files=request.get("files", ()))
        self.control_plane.declare(declaration)
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

    def _adopt(self, lab: Lab) -> None:
        """Take *lab* for the one to be made, now and after a crash."""
        path = self.run / "lab.json"
        path.with_suffix(".new").write_bytes(msgspec.json.encode(lab))
        path.with_suffix(".new").rename(path)
        self.state.lab = lab
        self.world.wake()

    def fault(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Add and remove faults; return what was there of those removed, once it is all made.

        *request*: `add`: faults; `remove`: pairs of sort and target, a target of null being any.
        """
        with self._declaring:
            lab = self._declared_lab()
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
            lab = self._declared_lab()
            kept = [one for one in lab.attached if one.netns != request.get("detach")]
            remaining = msgspec.structs.replace(lab, attached=tuple(kept))
            if "attachment" not in request:
                self._become(remaining, say)
                return {}
            new = msgspec.convert(request["attachment"], Attachment)
            attachments.require_room(remaining, new)
            self._become(msgspec.structs.replace(lab, attached=(*kept, new)), say)
            if trouble := self.world.attachments.troubles.get(new.netns):
                self._become(remaining, say)
                raise NetlabError(trouble)
            return {}

    def populate(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Have the nodes of *request*'s `lab`, as Lab documents have them, and its `faults`."""
        with self._declaring:
            lab = msgspec.convert(request["lab"], Lab)
            before = self._declared_lab()
            if before.faulted(Sort.ETCD_STOP):
                raise NetlabError("etcd is stopped, and nodes are objects in it")
            self._become(msgspec.structs.replace(before, nodes=lab.nodes, faults=lab.faults), say)
            declaration = Declaration((), nodes_only=True)
            self.control_plane.declare(declaration)
            self._wait(declaration.done.is_set, PATIENCE)
            return {"changes": declaration.changes, "revision": declaration.revision}

    def _declared_lab(self) -> Lab:
        if self.state.lab is None:
            raise NetlabError("no lab is declared yet")
        return self.state.lab

    def _become(self, lab: Lab, say: Say) -> None:
        """Take *lab* for the one to be made; return once the world around the nodes is so, what
        ran on nodes that are off has ended, and the nodes know."""
        self._adopt(lab)
        say({"progress": "the world around the nodes"})
        self._wait(lambda: self.world.whole == lab, PATIENCE)
        for loop in self._ending:
            loop.join(timeout=LOOPS_END)
        self._ending = []
        self._wait(lambda: self.state.followed(lab), PATIENCE)

    def serve_by(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Make the nodes serve Services by another proxy mode; return the problems left.

        *request*: `mode`; `patience` as of `declare`.
        """
        with self._declaring:
            if self.state.lab is None:
                raise NetlabError("no lab is declared yet")
            self._adopt(msgspec.structs.replace(self.state.lab, proxyMode=request["mode"]))
            self.control_plane.wake()
            problems = self._converged(0, request.get("patience", PATIENCE), say)
            return {"converged": not problems, "problems": problems}

    def carry_by(self, request: dict[str, Any], say: Say) -> dict[str, Any]:
        """Make the nodes reach each other by another back end; return the problems left.

        *request*: `backend`, as the Lab document has it; `patience` as of `declare`.
        """
        with self._declaring:
            lab = self._declared_lab()
            backend = msgspec.convert(request["backend"], Backend)
            network = msgspec.structs.replace(lab.network, Backend=backend)
            self._adopt(msgspec.structs.replace(lab, network=network))
            self.control_plane.wake()
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
                loops = [self.world, *self._within()]
                errors = [loop.error for loop in loops if loop.error]
                raise NetlabError(
                    errors[0] if errors else "the lab does not come up",
                    hint=f"see {self.run}/agent.log",
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
            problems = self._problems(revision, expected=False)
            if not problems or began > deadline:
                return self._problems(revision)
            if all(map(hopeless, problems)):  # it is Kubernetes' state of rest for such a pod
                return self._problems(revision)
            if not fewest or len(problems) < fewest or self._at_length():
                fewest, deadline = len(problems), began + patience
            first = problems[0] + (f" (and {len(problems) - 1} more)" if problems[1:] else "")
            if first != told:
                say({"progress": first})
                told = first
            time.sleep(2 * (time.monotonic() - began))  # leave the loops room in a large lab
            with self.state.changed:
                self.state.changed.wait(timeout=0.1)

    def _at_length(self) -> bool:
        """Return whether a loop is at something long: 10,000 Services take seconds, or more."""
        loops: list[Loop] = [self.control_plane, *self._programming()]
        return any(loop.at_work(seconds=LONG_PASS) for loop in loops)

    def _problems(self, revision: int, *, expected: bool = True) -> list[str]:
        lab = self.state.lab
        if lab and lab.faulted(Sort.ETCD_STOP):
            return self.state.problems()
        loops = (self.world, self.control_plane)
        behind = (self.world.whole, self.world.opened) != (self.state.lab, self.state.published)
        return [
            *(f"{loop.name}: {loop.error}" for loop in loops if loop.error),
            *(["underlay, gateway or outside: still changing"] if behind else []),
            *self.state.problems(revision=revision, expected=expected),
            *(self.world.attachments.problems(lab) if lab and expected else ()),
        ]

    def _recorded(self) -> tuple[list[Op], list[Step]]:
        """Return what the loops did since the declaration began, and stop recording."""
        operations: list[Op] = []
        steps: list[Step] = []
        for loop in self._acting():
            operations += loop.recorded or []
            loop.recorded = None
        for proxy in self._programming():
            steps += proxy.steps or []
            proxy.steps = None
        return operations, steps

    def _acting(self) -> list[World | Node]:
        with self._lock:
            return [self.world, *self._nodes.values()]

    def _programming(self) -> list[ServiceProxy]:
        with self._lock:
            return list(self._proxies.values())

    def known(self) -> dict[str, Any]:
        """Return the objects and leases that were last read from etcd, as of which revision."""
        cluster = self.state.cluster
        if cluster is None:
            raise NetlabError("nothing was read from etcd yet")
        leases = {node.address: (node.subnet, node.vtep_mac) for node in cluster.nodes}
        return {
            "documents": list(cluster.documents),
            "leases": {address: one for address, one in leases.items() if one[0]},
            "revision": cluster.revision,
        }

    def status(self, *, changes: bool = False) -> dict[str, Any]:
        """Return the lab's state, as `netlab status -o json` prints it; *changes*: with where the
        objects are otherwise than declared, which takes a look at each."""
        marked = processes.marked(self.run)
        found = status(
            self.state,
            agent={
                "pid": os.getpid(),
                "since": self.state.born,
                "version": __version__,
                "rss": _resident(os.getpid()),
            },
            etcd={
                "pid": next(iter(marked.get(ETCD, [])), 0),
                "address": self.state.lab.master.address if self.state.lab else "",
                "ready": self.state.etcd_ready.is_set(),
            },
            servers={"pid": next(iter(marked.get("pods", [])), 0)},
            attached=self.world.attachments.told(self.state.lab) if self.state.lab else [],
        )
        silent = found["etcd"]["ready"] and not self._etcd_answers()
        found["etcd"]["ready"] = found["etcd"]["ready"] and not silent
        found["problems"] = ["etcd does not answer"] * silent + self._problems(0)
        found["converged"] = not found["problems"]
        found["settled"] = not silent and not self._problems(0, expected=False)
        if changes:
            stored = self.state.cluster.documents if self.state.cluster else Inventory()
            departed = [
                one
                for document in stored
                if last_declared(document)
                for one in departures(as_declared(document), document)
            ]
            gone = missing(self.state.declared, stored) if self.state.cluster else []
            found["changes"] = [one._asdict() for one in (*departed, *gone)]
        return found

    def _etcd_answers(self) -> bool:
        """Ask etcd itself: the loops of a quiet lab have no reason to, and would not know."""
        assert self.state.lab is not None
        etcd = Etcd(self.state.lab.master.address, PORT, timeout=ETCD_ANSWER)
        try:
            with netns.entered(self.state.lab.netns(MASTER)):
                return etcd.healthy()
        except NetlabError:  # the namespace is gone
            return False
        finally:
            etcd.close()


class _Clock:
    """Where the seconds went."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 4)
        self._last = now


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
