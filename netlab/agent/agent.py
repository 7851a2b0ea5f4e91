"""The agent of one lab: its loops, started and ended as nodes are declared and leave."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from netlab import __version__, processes
from netlab.agent import leaving
from netlab.agent import place as places
from netlab.agent.answering import Answering
from netlab.agent.balancer import Balancer
from netlab.agent.control_plane import ControlPlane
from netlab.agent.etcd import ROLE as ETCD
from netlab.agent.following import Following
from netlab.agent.heartbeat import Heartbeat
from netlab.agent.loop import Loop
from netlab.agent.machine import Machine
from netlab.agent.members import Members
from netlab.agent.node import Node
from netlab.agent.requests import LOOPS_END, Requests
from netlab.agent.services import ServiceProxy
from netlab.agent.state import State
from netlab.agent.summary import status
from netlab.agent.world import World
from netlab.controllers.declaration import as_declared, last_declared
from netlab.controllers.departure import departures, missing
from netlab.errors import NetlabError
from netlab.kernel import Kernel, netns, real
from netlab.model.faults import Sort
from netlab.model.inventory import Inventory
from netlab.model.lab import Lab
from netlab.pods.containers import Containers
from netlab.pods.control import Servers
from netlab.world import BALANCER, GATEWAY

ETCD_ANSWER = 1.0  # seconds it may take while somebody waits for the status


class Agent:
    """All loops of one lab. `declare`, `status` and `stop` are called from the control socket."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.place = places.read(run)
        self.state = State(run, self.place)
        self.kernel: Kernel = real.RealKernel()
        self.servers = Servers(run)
        self.world = self._around()
        self.control_plane = self._control()
        self.balancer = Balancer(self.state, self.kernel)  # sleeps where there is none
        self.members = Members()
        self.answering = self._others()
        self._nodes: dict[str, Node] = {}
        self._proxies: dict[str, ServiceProxy] = {}
        self._hearts: dict[str, Heartbeat] = {}
        self._dark: set[str] = set()  # nodes that are off
        self.ending: list[Loop] = []  # of nodes that are gone or off
        self._lock = threading.Lock()
        self.requests = Requests(self)
        self._restore()
        self.world.start()
        self.control_plane.start()
        self.balancer.start()
        if self.answering is not None:
            self.answering.start()
        self.state.on_report = self._tell_of

    def _around(self) -> World | Machine:
        """Return the loop of what is around the nodes that live here."""
        if self.place is not None:
            return Machine(
                self.state, self.place, self.kernel, self.servers, ready=self._world_ready
            )
        return World(
            self.state,
            self.kernel,
            self.servers,
            ready=self._world_ready,
            wake_node=self._wake_node,
        )

    def _control(self) -> ControlPlane | Following:
        """Return the loop that knows what is declared: the control plane's, or a follower's."""
        if self.place is None or self.place.master:
            return ControlPlane(self.state, wake_node=self._wake_node)
        return Following(self.state, self.place, adopt=self.adopt, wake_node=self._wake_node)

    def _others(self) -> Answering | None:
        """Return the loop that answers other machines, where there may be any."""
        place = self.place
        return Answering(self.state, place, self._change) if place is not None else None

    def _change(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what another machine asks for, to the whole lab. Raises NetlabError."""
        serve, carry = self.requests.serve_by, self.requests.carry_by
        return (serve if request["do"] == "serve" else carry)(request, lambda _: None)

    def master(self) -> ControlPlane:
        """Return the control plane. Raises NetlabError where it is on another machine."""
        if isinstance(self.control_plane, ControlPlane):
            return self.control_plane
        lab = self.declared_lab()
        raise NetlabError(
            f"the control plane of lab {lab.name} is on another machine, {lab.master.address}",
            hint="run the command there",
        )

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
        declared = {node.name for node in lab.running if self.state.is_here(node.name)}
        self._darken({node.name for node in lab.nodes} - {node.name for node in lab.running})
        with self._lock:
            for name in [name for name in self._nodes if name not in declared]:
                self.ending.append(self._nodes[name])
                self._nodes.pop(name).switch_off()
                self._proxies.pop(name).end()
                self._hearts.pop(name).end()
                self.state.forget(name)
            for name in declared - set(self._nodes):
                self._start(name)
        if self.place is not None and not self.place.declared_in(lab):
            for ended in self.ending:
                ended.join(timeout=LOOPS_END)
            leaving.cleared(self.run, lab, self.place, self.kernel)
            etcd = self.state.access.etcd(lab.master.address)
            try:
                leaving.forgotten(etcd, self.place)  # its lease may have been taken again at last
            finally:
                etcd.close()
        for loop in self.within():
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

    def within(self) -> list[Loop]:
        """Return the loops that live in the world's namespaces: all but the world's own."""
        with self._lock:
            loops = (self._nodes, self._proxies, self._hearts)
            each = (one for kind in loops for one in kind.values())
            around = [self.answering] if self.answering is not None else []
            return [self.control_plane, self.balancer, *around, *each]

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

    def _tell_of(self, node: str) -> None:
        """Have other machines told what is new of a node that lives here."""
        if self.place is not None and (heart := self._hearts.get(node)) is not None:
            heart.wake()

    def _wake_node(self, name: str) -> None:
        if name == GATEWAY:
            self.world.wake()
        if name == BALANCER:
            self.balancer.wake()
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
        loops = [self.world, *self.within()]
        for loop in loops:
            loop.end()
        deadline = time.monotonic() + LOOPS_END
        for loop in loops:
            loop.join(timeout=max(0.0, deadline - time.monotonic()))
        processes.end_all(self.run, grace=0.0, spare=("agent",))

    # -- requests

    def adopt(self, lab: Lab) -> None:
        """Take *lab* for the one to be made, now and after a crash."""
        path = self.run / "lab.json"
        path.with_suffix(".new").write_bytes(msgspec.json.encode(lab))
        path.with_suffix(".new").rename(path)
        if self.place is not None and self.place.data:
            kept = Path(self.place.data) / "lab.json"  # for after a reboot
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.with_suffix(".new").write_bytes(msgspec.json.encode(lab))
            kept.with_suffix(".new").rename(kept)
        if self.place is not None and self.place.master and lab != self.state.lab:
            self.state.lab_revision = 0  # no machine has followed what is not written yet
        self.state.lab = lab
        self.world.wake()

    def declared_lab(self) -> Lab:
        if self.state.lab is None:
            raise NetlabError("no lab is declared yet")
        return self.state.lab

    def problems(self, revision: int, *, expected: bool = True) -> list[str]:
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

    def acting(self) -> list[World | Machine | Node]:
        with self._lock:
            return [self.world, *self._nodes.values()]

    def programming(self) -> list[ServiceProxy]:
        with self._lock:
            return list(self._proxies.values())

    def known(self) -> dict[str, Any]:
        """Return the objects and leases that were last read from etcd, as of which revision."""
        cluster = self.state.cluster
        if cluster is None:
            raise NetlabError("nothing was read from etcd yet")
        leases = {
            node.address: (node.subnet, node.vtep_mac, node.subnet_v6, node.vtep_mac_v6)
            for node in cluster.nodes
        }
        return {
            "documents": list(cluster.documents),
            "leases": {address: one for address, one in leases.items() if one[0]},
            "revision": cluster.revision,
        }

    def status(self, *, changes: bool = False) -> dict[str, Any]:
        """Return the lab's state, as `netlab status -o json` prints it; *changes*: with where the
        objects are otherwise than declared, which takes a look at each."""
        marked = processes.marked(self.run)
        silent = self.state.etcd_ready.is_set() and not self._etcd_answers()
        elsewhere = self.place is not None and not self.place.master
        found = status(
            self.state,
            agent={
                "pid": os.getpid(),
                "since": self.state.born,
                "version": __version__,
                "rss": _resident(os.getpid()),
            },
            etcd={
                **({} if elsewhere else {"pid": next(iter(marked.get(ETCD, [])), 0)}),
                "address": self._etcd_address(),
                "ready": self.state.etcd_ready.is_set(),
            },
            servers={"pid": next(iter(marked.get("pods", [])), 0)},
            foreign=self.members.told(self.state.lab) if self.state.lab else [],
            attached=self.world.attachments.told(self.state.lab) if self.state.lab else [],
        )
        if self.place is not None:
            found["machine"] = {
                "node": self.place.node,
                "uplink": self.place.uplink,
                "master": self.place.master,
            }
        found["etcd"]["ready"] = found["etcd"]["ready"] and not silent
        found["problems"] = ["etcd does not answer"] * silent + self.problems(0)
        found["converged"] = not found["problems"]
        found["settled"] = not silent and not self.problems(0, expected=False)
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

    def _etcd_address(self) -> str:
        urls = self.state.access.urls
        return ",".join(urls) or (self.state.lab.master.address if self.state.lab else "")

    def _etcd_answers(self) -> bool:
        """Ask etcd itself: the loops of a quiet lab have no reason to, and would not know."""
        lab = self.state.lab
        if lab is None:
            return False
        etcd = self.state.access.etcd(lab.master.address, timeout=ETCD_ANSWER)
        try:
            with netns.entered(places.home(lab, self.place)):
                if not etcd.healthy():
                    return False
                self.members.look(etcd, lab)
                return True
        except NetlabError:  # the namespace is gone, or etcd does not answer any more
            return False
        finally:
            etcd.close()


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
