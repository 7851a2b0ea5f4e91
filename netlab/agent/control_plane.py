"""The loop of the master: declared objects, controllers, scheduler, all in etcd.

It lives in the master's namespace. Each pass lists what etcd holds, lets the controllers say what
must change, writes that, and publishes the result to the nodes once nothing is left to change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from netlab import controllers, world
from netlab.agent.liveness import Liveness
from netlab.agent.loop import Loop
from netlab.agent.reports import LAB, REPORTS, heard
from netlab.agent.state import State
from netlab.cluster import cluster
from netlab.controllers import Change, Clock, Health, Verb
from netlab.controllers.departure import Declared
from netlab.errors import StoreError
from netlab.flannel import lease
from netlab.flannel.config import CONFIG_KEY, SUBNETS, Config, resolve
from netlab.kernel import netns
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import Lab
from netlab.store import registry
from netlab.store.etcd import Etcd
from netlab.store.session import Drain, Session

ETCD_START = 0.5  # seconds
PORTION = 1000  # changes written at a time
PODS_PORTION = 250  # and new pods, which are published then
TOLD = 50  # changes told one by one in the log
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")  # declared; controllers count
MAX_ROUNDS = 50  # of changes in one pass; a fixed point is reached in a handful


Made = Callable[[Sequence[Change]], None]


class Declaration:
    """A request to make etcd hold these objects; `done` is set when it has been written."""

    def __init__(
        self,
        documents: Sequence[Document],
        *,
        nodes_only: bool = False,
        files: Sequence[str] = (),
    ) -> None:
        """*nodes_only*: what else is declared stays as it is; *files*: where it came from."""
        self.documents = documents
        self.files = files
        self.nodes_only = nodes_only
        self.done = threading.Event()
        self.changes: list[str] = []  # grows while they are made
        self.revision = 0

    def taking(self, wanted: Iterable[Change]) -> Made:
        """Return what takes those changes that are made to the objects of *wanted*."""
        keys = {registry_key(change.document) for change in wanted}

        def take(made: Sequence[Change]) -> None:
            self.changes += [described(one) for one in made if registry_key(one.document) in keys]

        return take


class ControlPlane(Loop):
    """Runs the controllers; `wake_node` is called for each node whose objects changed."""

    def __init__(self, state: State, *, wake_node: Callable[[str], None]) -> None:
        super().__init__("control-plane")
        self.state = state
        self.wake_node = wake_node
        self._home = (0, "")
        self._session = Session()
        self._declarations: list[Declaration] = []
        self._settled = Inventory()  # about which the controllers had nothing left to say
        self._settled_in: Lab | None = None
        self._settled_with = Health()
        self._liveness = Liveness()
        self._health = Health()
        self._due: float | None = None  # when to look though nothing changes, monotonic seconds

    def declare(self, declaration: Declaration) -> None:
        """Take a declaration, from any thread, to be written in the next pass."""
        self._declarations.append(declaration)
        self.wake()

    def once(self) -> None:
        lab = self.state.lab
        if lab is None:
            return
        if not self.state.etcd_ready.wait(timeout=ETCD_START):
            raise StoreError("etcd is not up yet")  # nothing would wake this loop when it is
        etcd = self._connected(lab)
        config = resolve(lab.network)
        self._write_config(etcd, config)
        if lab.spread:
            self._write_lab(etcd, lab)
        objects, revision = self._objects(etcd)
        self._health = self._heard(etcd, lab)
        while self._declarations:
            declaration = self._declarations[0]
            objects, revision = self._declared(etcd, lab, declaration, objects, revision)
            self._declarations.pop(0).done.set()
        objects, revision = self._controlled(etcd, lab, objects, revision)
        self._publish(etcd, lab, objects, revision, stable=True)

    def _publish(
        self, etcd: Etcd, lab: Lab, objects: Inventory, revision: int, *, stable: bool
    ) -> None:
        """Tell the nodes what etcd holds; *stable*: the controllers have nothing left to do."""
        listing = etcd.range(SUBNETS)
        leases, _ = lease.peers(listing.items)
        self.state.publish(
            cluster(
                lab,
                objects,
                leases={item.public_ip: item.held for item in leases},
                revision=revision,
                before=self.state.cluster,
            ),
            stable=stable,
            wake=self.wake_node,
        )

    def _heard(self, etcd: Etcd, lab: Lab) -> Health:
        """Return which nodes are heard from, and which are lost."""
        told = heard(etcd)
        self.state.hear(told)
        lifecycle = lab.nodeLifecycle
        health = self._liveness.health(
            [node.name for node in lab.nodes],
            told.alive,
            grace=lifecycle.gracePeriodSeconds,
            now=time.monotonic(),
        )
        return health._replace(toleration=lifecycle.tolerationSeconds)

    def pause(self) -> float:
        dues = [due for due in (self._due, self._liveness.due) if due is not None]
        return max(0.0, min([self.interval, *(due - time.monotonic() for due in dues)]))

    def _objects(self, etcd: Etcd) -> tuple[Inventory, int]:
        return registry.objects(etcd, watch=self._session.watch, warn=self.log.warning)

    def _connected(self, lab: Lab) -> Etcd:
        """Return the connection to etcd, made in the master's namespace as it is now."""
        name = lab.netns(world.MASTER)
        home = (netns.identity(name), lab.master.address)
        if home != self._home:
            self._session.close()
            netns.move(name)
            self._home = home
        return self._session.open(lambda: self.state.access.etcd(lab.master.address))

    def _failed(self, message: str) -> None:
        self._session.close()
        self._due = 0.0  # what was decided when its time had come may not have been written
        super()._failed(message)

    def _write_config(self, etcd: Etcd, config: Config) -> None:
        """Keep flannel's net-conf in etcd as declared."""
        held = etcd.get(CONFIG_KEY)
        wanted = config.json().encode()
        if held is None or held.value != wanted:
            etcd.put(CONFIG_KEY, wanted)

    def _write_lab(self, etcd: Etcd, lab: Lab) -> None:
        """Keep the Lab document in etcd, where the machines of the nodes read it."""
        place = self.state.place
        wanted = msgspec.json.encode(place.common(lab) if place is not None else lab)
        held = etcd.get(LAB)
        if held is None or held.value != wanted:
            etcd.put(LAB, wanted)
            held = etcd.get(LAB)
        if lab is self.state.lab:  # and not another by now
            self.state.lab_revision = held.mod_revision if held is not None else 0

    def _declared(
        self, etcd: Etcd, lab: Lab, declaration: Declaration, stored: Inventory, revision: int
    ) -> tuple[Inventory, int]:
        wanted = [
            *controllers.declared(lab, declaration.documents),
            *declaration.documents,
        ]
        for _ in range(MAX_ROUNDS):
            first = controllers.declaration_changes(wanted, stored)
            if declaration.nodes_only:
                first = [change for change in first if change.document["kind"] == "Node"]
            if not first:
                break
            for change in first:
                if change.verb is Verb.DELETE and change.document["kind"] == "Node":
                    self._drop_lease(etcd, change.document)
            self._write(
                etcd, lab, self._changes(lab, stored, first=first), made=declaration.taking(first)
            )
            # What was refused was changed by somebody else meanwhile: look again, decide again.
            stored, revision = self._objects(etcd)
        declaration.revision = revision
        if not declaration.nodes_only:
            self.state.declared = Declared.of(wanted, declaration.files)
        return stored, revision

    def _drop_lease(self, etcd: Etcd, node: Document) -> None:
        """Delete the subnet lease of a node that is no longer declared."""
        addresses = {item["address"] for item in node.get("status", {}).get("addresses", [])}
        leases, _ = lease.peers(etcd.range(SUBNETS).items)
        for item in leases:
            if item.public_ip in addresses:
                etcd.delete(item.key)
                etcd.delete(REPORTS + node["metadata"]["name"])
                self.log.info("node %s left: lease %s deleted", node["metadata"]["name"], item.key)

    def _controlled(
        self, etcd: Etcd, lab: Lab, objects: Inventory, revision: int
    ) -> tuple[Inventory, int]:
        for _ in range(MAX_ROUNDS):
            changes = self._changes(lab, objects)
            if not changes:
                self._settled, self._settled_with = objects, self._health
                break
            self._tell(changes)
            self._write(etcd, lab, changes)
            objects, revision = self._objects(etcd)
        return objects, revision

    def _changes(
        self, lab: Lab, objects: Inventory, *, first: Sequence[Change] = ()
    ) -> list[Change]:
        """Return what the controllers change about *objects* once *first* is made, with that."""
        if lab != self._settled_in:
            self._settled, self._settled_in = Inventory(), lab
        health = self._health
        came = self._due is not None and time.monotonic() >= self._due
        clock = Clock()
        room = {node.name: lab.network.pods_per_node for node in lab.nodes}
        changes = controllers.changes(
            objects,
            capacity=room,
            service_cidr=lab.serviceCIDR,
            service_cidr6=lab.serviceCIDR6,
            balancer=lab.balancer,
            settled=self._settled,
            first=first,
            health=health,
            clock=clock,
            stirred=controllers.TIMED if came or health != self._settled_with else (),
        )
        self._wait_for(clock, came=came)
        return changes

    def _wait_for(self, clock: Clock, *, came: bool) -> None:
        """Look again when *clock* says so; *came*: what was waited for before has come."""
        if came:
            self._due = None
        if clock.next is not None:
            due = time.monotonic() + clock.next - clock.now
            self._due = due if self._due is None else min(due, self._due)

    def _write(
        self, etcd: Etcd, lab: Lab, changes: Sequence[Change], *, made: Made = lambda _: None
    ) -> None:
        """Write *changes*, publishing while many pods are being written; tell *made* which were."""
        parts = list(portions(changes))
        for part in parts:
            refused = registry.write(etcd, part)
            made([change for change in part if change not in refused])
            objects, revision = self._objects(etcd)
            if new_pod(part[-1]) and part is not parts[-1]:
                self._publish(etcd, lab, objects, revision, stable=False)

    def _tell(self, changes: Sequence[Change]) -> None:
        changes = [change for change in changes if not _only_told(change)]
        for change in changes[:TOLD]:
            self.log.info("%s", described(change))
        if len(changes) > TOLD:
            self.log.info("and %d more changes", len(changes) - TOLD)

    def watched(self) -> Mapping[int, Drain]:
        return self._session.watched(self._drain)

    def _drain(self) -> bool:
        self.state.heard()
        return self._session.drain()

    def close(self) -> None:
        self._session.close()


def _only_told(change: Change) -> bool:
    """Return whether *change* only says what has happened: an Event, a workload's own status."""
    kind = change.document["kind"]
    return kind == "Event" or (change.verb is Verb.UPDATE and kind in WORKLOADS)


def new_pod(change: Change) -> bool:
    """Return whether *change* makes a pod."""
    return change.verb is Verb.CREATE and change.document["kind"] == "Pod"


def portions(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Yield *changes* in parts to be written one after another.

    New pods come last, node by node, so that in a large lab the first nodes are at work while the
    others' pods are still being written.
    """
    pods = [change for change in changes if new_pod(change)]
    pods.sort(key=lambda change: change.document["spec"].get("nodeName", ""))
    others = [change for change in changes if not new_pod(change)]
    for listed, size in ((others, PORTION), (pods, PODS_PORTION)):
        for first in range(0, len(listed), size):
            yield listed[first : first + size]


def described(change: Change) -> str:
    """Return a change as a line, `create pod default/web-7f-x2x1z`."""
    meta = change.document["metadata"]
    name = "/".join(filter(None, (meta.get("namespace"), meta["name"])))
    return f"{change.verb} {change.document['kind'].lower()} {name}"
