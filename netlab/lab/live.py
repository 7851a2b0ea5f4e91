"""A running lab, read and written through its own etcd, from outside the agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from netlab import controllers, patience
from netlab.agent import control
from netlab.agent import place as places
from netlab.beyond import outside_home
from netlab.cluster import Cluster, cluster
from netlab.controllers import Change, podstate, scheduler
from netlab.controllers.change import generated
from netlab.errors import NetlabError, NotFoundError, StoreError, UsageError
from netlab.flannel import lease
from netlab.flannel.config import SUBNETS
from netlab.kernel import netns
from netlab.lab.directory import lock, run_directory
from netlab.model.attachments import Attachment
from netlab.model.faults import Fault, Sort
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import Backend, Lab
from netlab.store import registry
from netlab.store.access import Access
from netlab.store.etcd import Etcd, KeyValue, Listing
from netlab.store.mailbox import Correspondent
from netlab.world import MASTER, OUTSIDE, members

ANSWER = patience.seconds(1.5)  # seconds etcd may take to answer at all
CHANGE = 60.0  # seconds without a word from the agent while it changes the world around the nodes
LISTING = 10.0  # seconds etcd may take to list all of a large lab: 20,000 objects need one or two

Note = Callable[[str], None]


class Live:
    """A running lab, read and written through its own etcd."""

    def __init__(self, name: str, *, note: Note | None = None) -> None:
        """*note* is told when etcd is away and what the agent last knew has to do; None: that is
        an error."""
        self.name = name
        self.note = note
        self.run = run_directory(name)
        if not (self.run / "lab.json").exists():
            raise NotFoundError(f"lab {name} was never brought up", hint="netlab up FILE")
        self.place = places.read(self.run)
        self._access = self.place.access if self.place is not None else Access()
        self.lab: Lab
        self.reread()
        self.subnets: Sequence[KeyValue] = ()  # flannel's keys, as last read by `cluster`
        self._etcd: Etcd | None = None

    def etcd(self) -> Etcd:
        """Return a connection to the lab's etcd, made in the master's namespace, or in that of the
        machine we are on."""
        if self._etcd is None:
            home = self._home
            if not netns.exists(home):
                raise NotFoundError(
                    f"lab {self.name} is not running", hint="`netlab up` with its files repairs it"
                )
            with netns.entered(home):
                self._ask_whether_etcd_lives()
                self._etcd = self._access.etcd(self.lab.master.address, timeout=LISTING)
                self._etcd.get("\0")  # connects, while this thread is inside
        return self._etcd

    def connection(self) -> Etcd:
        """Return another connection to the lab's etcd, the caller's own. Raises StoreError."""
        with netns.entered(self._home):
            made = self._access.etcd(self.lab.master.address, timeout=LISTING)
            made.get("\0")  # connects, while this thread is inside
        return made

    @property
    def _home(self) -> str:
        return places.home(self.lab, self.place)

    def require_whole(self) -> Live:
        """Return this lab, if all of it is on this machine. Raises UsageError."""
        if self.place is not None:
            raise UsageError(
                f"lab {self.name} is on several machines, and this command looks at one",
                hint="netlab trace, why, probe, verify, capture, exec, logs look at any",
            )
        return self

    def machine_of(self, member: str) -> str:
        """Return whom to ask where *member*, a node or another machine, is: a node, or the master
        where that is no node; "" when it is on this machine.

        Raises NotFoundError for what a lab of several machines does not have.
        """
        if self.place is None or member in self.place.names:
            return ""
        if any(node.name == member for node in self.lab.nodes):
            return member
        if member == MASTER:
            return places.mailbox_of_master(self.lab)
        home = outside_home(self.lab)
        if member in OUTSIDE and member in members(self.lab) and home is not None:
            return self.machine_of(home.name)
        raise NotFoundError(
            f"lab {self.name} is on several machines: no {member} here; this machine is "
            f"{' and '.join(self.place.names)}"
        )

    def _ask_whether_etcd_lives(self) -> None:
        """Raise StoreError soon when etcd does not answer."""
        asked = self._access.etcd(self.lab.master.address, timeout=ANSWER)
        try:
            asked.get("\0")
        finally:
            asked.close()

    def documents(self) -> list[Document]:
        """Return every stored object."""
        with self._inside():
            return registry.documents(self.etcd())[0]

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Have the thread in the master's namespace, for a connection that must be made anew.

        An error of etcd's names the fault, if it was stopped on purpose.
        """
        try:
            self.etcd()
            with netns.entered(self._home):
                yield
        except StoreError as error:
            self.reread()
            stopped = self.lab.faulted(Sort.ETCD_STOP)
            if stopped is None:
                raise
            words = f"{stopped.words}, since {stopped.since}, by `{stopped.command}`"
            raise StoreError(words, hint=f"`{stopped.undo}` starts it again") from error

    def cluster(self) -> Cluster:
        """Return the lab as etcd has it now; with `note`, while etcd is away, as it was."""
        try:
            return self._stored()
        except StoreError as error:
            if self.note is None:
                raise
            try:
                known = self._asked({"do": "known"})
            except NetlabError:
                raise error from None  # an agent that is gone knows no more
            self.note(f"{error.message}: objects are as the agent last knew them")
        return cluster(
            self.lab, known["documents"], leases=known["leases"], revision=known["revision"]
        )

    def _stored(self) -> Cluster:
        with self._inside():
            objects, revision = registry.objects(self.etcd())
            self.subnets = self.etcd().range(SUBNETS).items
        leases, _ = lease.peers(self.subnets)
        return cluster(
            self.lab,
            objects,
            leases={item.public_ip: item.held for item in leases},
            revision=revision,
        )

    def leases(self) -> Listing:
        """Return the keys of flannel's subnet leases, as they are."""
        with self._inside():
            return self.etcd().range(SUBNETS)

    def time_left(self) -> dict[str, int | None]:
        """Return the seconds each subnet's lease has left; None for one that does not end."""
        found: dict[str, int | None] = {}
        with self._inside():
            for item in self.subnets:
                for one in lease.peers([item])[0]:
                    left = self.etcd().time_to_live(item.lease) if item.lease else None
                    found.setdefault(one.subnet, left)
        return found

    def status(self, *, timeout: float = 10.0, changes: bool = False) -> dict[str, Any]:
        """Return what the agent says of the lab; *changes*: with what is not as declared.

        Raises NetlabError when there is no agent, or none that answers within *timeout* seconds.
        """
        request = {"do": "status", "changes": changes}
        for message in control.ask(self.run / "agent.sock", request, timeout=timeout):
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

    def delete(self, documents: Sequence[Document], *, grace: int | None = None) -> list[Change]:
        """Delete the stored objects that *documents* name; return what was there.

        A pod that runs ends in its own time, or in *grace* seconds; 0: at once.
        """
        with lock(self.name), self._inside():
            stored = {registry_key(d): d for d in registry.documents(self.etcd())[0]}
            found = [stored[key] for d in documents if (key := registry_key(d)) in stored]
            changes = [Change(controllers.Verb.DELETE, document) for document in found]
            made = [
                podstate.deletion(change.document, grace=grace)
                if change.document["kind"] == "Pod"
                else change
                for change in changes
            ]
            registry.write(self.etcd(), made)
            return changes

    def edit(
        self, documents: Sequence[Document], edited: Callable[[Document], Document]
    ) -> list[tuple[Document, Document]]:
        """Write what *edited* makes of each stored object that *documents* name; return each as it
        was and as it is. One that is gone meanwhile is left out; one that somebody else changed is
        edited anew. *edited* returns the same object when there is nothing to change.
        """
        with lock(self.name), self._inside():
            done: dict[str, tuple[Document, Document]] = {}
            left = {registry_key(document) for document in documents}
            while left:
                held = {registry_key(d): d for d in registry.documents(self.etcd())[0]}
                now = {key: held[key] for key in left if key in held}
                pairs = {key: (old, generated(old, edited(old))) for key, old in now.items()}
                changes = [
                    Change(controllers.Verb.UPDATE, new)
                    for old, new in pairs.values()
                    if new is not old
                ]
                refused = {registry_key(c.document) for c in registry.write(self.etcd(), changes)}
                done |= {key: pair for key, pair in pairs.items() if key not in refused}
                left = refused
            return [done[key] for d in documents if (key := registry_key(d)) in done]

    def fault(
        self, add: Sequence[Fault] = (), *, remove: Sequence[tuple[str, str | None]] = ()
    ) -> list[Fault]:
        """Add faults, and remove those of these sorts and targets (None: of any target); return
        the removed ones. Returns once all of it is made."""
        request = {"do": "fault", "add": msgspec.to_builtins(list(add)), "remove": list(remove)}
        with lock(self.name):
            result = self._asked(request)
        self.reread()
        return msgspec.convert(result["removed"], list[Fault])

    def attach(self, attachment: Attachment) -> None:
        """Plug a foreign namespace into the underlay; see `lab.attaching`, which checks it."""
        with lock(self.name):
            self._asked({"do": "attach", "attachment": msgspec.to_builtins(attachment)})
        self.reread()

    def detach(self, netns: str) -> None:
        """Take the foreign namespace called *netns* out of the underlay."""
        with lock(self.name):
            self._asked({"do": "attach", "detach": netns})
        self.reread()

    def populate(self, lab: Lab) -> int:
        """Have the nodes of *lab*, and its faults; return etcd's revision after it."""
        with lock(self.name):
            result = self._asked({"do": "populate", "lab": msgspec.to_builtins(lab)})
        self.reread()
        return int(result["revision"])

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        for message in control.ask(self.run / "agent.sock", request, timeout=CHANGE):
            if "result" in message:
                return dict(message["result"])
        raise NetlabError("the agent gave no answer", hint=f"see {self.run}/agent.log")

    def reread(self) -> None:
        """Take the Lab document as the agent has it now, with its faults and nodes."""
        self.lab = msgspec.json.decode((self.run / "lab.json").read_bytes(), type=Lab)

    def serve_by(self, mode: str, *, timeout: float = 60.0) -> list[str]:
        """Have the nodes serve Services by proxy *mode* until told otherwise; return what is left
        to do. The lab's files do not know: the next `up` with them sets their own mode again."""
        problems = self._changed({"do": "serve", "mode": mode}, timeout)
        self.lab = msgspec.structs.replace(self.lab, proxyMode=mode)
        return problems

    def carry_by(self, backend: Backend, *, timeout: float = 60.0) -> list[str]:
        """Have the nodes reach each other by *backend* until told otherwise; return what is left
        to do. As with `serve_by`, the next `up` sets the files' own again."""
        request = {"do": "carry", "backend": msgspec.to_builtins(backend)}
        problems = self._changed(request, timeout)
        network = msgspec.structs.replace(self.lab.network, Backend=backend)
        self.lab = msgspec.structs.replace(self.lab, network=network)
        return problems

    def _changed(self, request: dict[str, Any], timeout: float) -> list[str]:
        """Have the agent of the control plane do *request*, on whichever machine it is; return what
        is left to do then."""
        if self.place is not None and not self.place.master:
            master = Correspondent(self.connection(), places.mailbox_of_master(self.lab))
            try:
                return list(master.ask(request, timeout=timeout)["problems"])
            finally:
                master.close()
        with lock(self.name):
            for message in control.ask(self.run / "agent.sock", request, timeout=timeout):
                if "result" in message:
                    return list(message["result"]["problems"])
        raise NetlabError("the agent gave no answer", hint=f"see {self.run}/agent.log")

    def wait(self, *, revision: int = 0, timeout: float = 30.0) -> list[str]:
        """Wait until the lab has converged on what etcd held at *revision*; return the problems
        that are left after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            open_ = list(status["problems"])
            if status["settled"] and status["revision"] >= revision:
                return []  # or all that is open is what faults do to the nodes they cut off
            known = bool(open_) and status["revision"] >= revision
            hopeless = known and all(map(scheduler.hopeless, open_))
            if hopeless or time.monotonic() > deadline:
                return open_ or ["the lab is still changing"]
            time.sleep(0.02)

    def revision(self) -> int:
        """Return etcd's present revision."""
        with self._inside():
            return self.etcd().range("\0").revision


def connect(name: str, *, note: Note | None = None) -> Live:
    """Return the live lab called *name*; *note* as of Live. Raises NotFoundError."""
    return Live(name, note=note)
