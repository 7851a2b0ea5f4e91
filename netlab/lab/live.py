"""A running lab, read and written through its own etcd, from outside the agent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from netlab import controllers, world
from netlab.agent import control
from netlab.cluster import Cluster, cluster
from netlab.controllers import Change
from netlab.errors import NetlabError, NotFoundError
from netlab.flannel import lease
from netlab.flannel.config import SUBNETS
from netlab.kernel import netns
from netlab.lab.directory import lock, run_directory
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import Lab
from netlab.store import registry
from netlab.store.etcd import PORT, Etcd, Listing

LISTING = 10.0  # seconds etcd may take to list all of a large lab: 20,000 objects need one or two


class Live:
    """A running lab, read and written through its own etcd."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run = run_directory(name)
        path = self.run / "lab.json"
        if not path.exists():
            raise NotFoundError(f"lab {name} was never brought up", hint="netlab up FILE")
        self.lab = msgspec.json.decode(path.read_bytes(), type=Lab)
        self._etcd: Etcd | None = None

    def etcd(self) -> Etcd:
        """Return a connection to the lab's etcd, made in the master's namespace."""
        if self._etcd is None:
            master = self.lab.netns(world.MASTER)
            if not netns.exists(master):
                raise NotFoundError(
                    f"lab {self.name} is not running", hint="`netlab up` with its files repairs it"
                )
            with netns.entered(master):
                self._etcd = Etcd(self.lab.master.address, PORT, timeout=LISTING)
                self._etcd.get("\0")  # connects, while this thread is inside
        return self._etcd

    def documents(self) -> list[Document]:
        """Return every stored object."""
        with self._inside():
            return registry.documents(self.etcd())[0]

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Have the thread in the master's namespace, for a connection that must be made anew."""
        self.etcd()
        with netns.entered(self.lab.netns(world.MASTER)):
            yield

    def cluster(self) -> Cluster:
        """Return the lab as etcd has it now."""
        with self._inside():
            objects, revision = registry.objects(self.etcd())
            leases, _ = lease.peers(self.etcd().range(SUBNETS).items)
        return cluster(
            self.lab,
            objects,
            leases={item.public_ip: (item.subnet, item.vtep_mac) for item in leases},
            revision=revision,
        )

    def leases(self) -> Listing:
        """Return the keys of flannel's subnet leases, as they are."""
        with self._inside():
            return self.etcd().range(SUBNETS)

    def status(self, *, timeout: float = 10.0) -> dict[str, Any]:
        """Return what the agent says of the lab. Raises NetlabError when there is no agent, or
        none that answers within *timeout* seconds."""
        for message in control.ask(self.run / "agent.sock", {"do": "status"}, timeout=timeout):
            return dict(message["result"])
        raise NetlabError("the agent gave no answer", hint=f"see {self.run}/agent.log")

    def apply(self, documents: Sequence[Document]) -> list[Change]:
        """Write *documents* as declared objects beside those there are; return what changed."""
        with lock(self.name), self._inside():
            named = {registry_key(document) for document in documents}
            done: list[Change] = []
            while changes := self._declared(documents, named):
                refused = registry.write(self.etcd(), changes)
                done += [change for change in changes if change not in refused]
            return done

    def _declared(self, documents: Sequence[Document], named: set[str]) -> list[Change]:
        """Return what *documents* change about the stored objects of the same names."""
        stored = registry.documents(self.etcd())[0]
        return [
            change
            for change in controllers.declaration_changes(documents, stored)
            if registry_key(change.document) in named
        ]

    def delete(self, documents: Sequence[Document]) -> list[Change]:
        """Delete the stored objects that *documents* name; return what was there."""
        with lock(self.name), self._inside():
            stored = {registry_key(d): d for d in registry.documents(self.etcd())[0]}
            found = [stored[key] for d in documents if (key := registry_key(d)) in stored]
            changes = [Change(controllers.Verb.DELETE, document) for document in found]
            registry.write(self.etcd(), changes)
            return changes

    def serve_by(self, mode: str, *, timeout: float = 60.0) -> list[str]:
        """Have the nodes serve Services by proxy *mode* until told otherwise; return what is left
        to do. The lab's files do not know: the next `up` with them sets their own mode again."""
        with lock(self.name):
            request = {"do": "serve", "mode": mode}
            for message in control.ask(self.run / "agent.sock", request, timeout=timeout):
                if "result" in message:
                    self.lab = msgspec.structs.replace(self.lab, proxyMode=mode)
                    return list(message["result"]["problems"])
        raise NetlabError("the agent gave no answer", hint=f"see {self.run}/agent.log")

    def wait(self, *, revision: int = 0, timeout: float = 30.0) -> list[str]:
        """Wait until the lab has converged on what etcd held at *revision*; return the problems
        that are left after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if status["converged"] and status["revision"] >= revision:
                return []
            if time.monotonic() > deadline:
                return list(status["problems"]) or ["the lab is still changing"]
            time.sleep(0.02)

    def revision(self) -> int:
        """Return etcd's present revision."""
        with self._inside():
            return self.etcd().range("\0").revision


def connect(name: str) -> Live:
    """Return the live lab called *name*. Raises NotFoundError."""
    return Live(name)
