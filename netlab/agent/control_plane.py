"""The loop of the master: declared objects, controllers, scheduler, all in etcd.

It lives in the master's namespace. Each pass lists what etcd holds, lets the controllers say what
must change, writes that, and publishes the result to the nodes once nothing is left to change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from netlab import controllers, world
from netlab.agent.loop import Loop
from netlab.agent.state import State
from netlab.cluster import cluster
from netlab.controllers import Change, Verb
from netlab.errors import StoreError
from netlab.flannel import lease
from netlab.flannel.config import CONFIG_KEY, SUBNETS, Config, resolve
from netlab.kernel import netns
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab
from netlab.store import registry
from netlab.store.etcd import PORT, Etcd
from netlab.store.watch import Watch

ETCD_START = 0.5  # seconds
PORTION = 250  # changes written and published at a time
TOLD = 50  # changes told one by one in the log
MAX_ROUNDS = 50  # of changes in one pass; a fixed point is reached in a handful


class Declaration:
    """A request to make etcd hold these objects; `done` is set when it has been written."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self.done = threading.Event()
        self.changes: list[str] = []
        self.revision = 0


class ControlPlane(Loop):
    """Runs the controllers; `wake_node` is called for each node whose objects changed."""

    def __init__(self, state: State, *, wake_node: Callable[[str], None]) -> None:
        super().__init__("control-plane")
        self.state = state
        self.wake_node = wake_node
        self._home = (0, "")
        self._etcd: Etcd | None = None
        self._watch: Watch | None = None
        self._declarations: list[Declaration] = []
        self._settled = Inventory()  # about which the controllers had nothing left to say
        self._settled_in: Lab | None = None

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
        objects, revision = self._objects(etcd)
        while self._declarations:
            objects, revision = self._declared(etcd, lab, self._declarations[0], objects)
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
                leases={item.public_ip: (item.subnet, item.vtep_mac) for item in leases},
                revision=revision,
                before=self.state.cluster,
            ),
            stable=stable,
            wake=self.wake_node,
        )

    def _objects(self, etcd: Etcd) -> tuple[Inventory, int]:
        return registry.objects(etcd, watch=self._watch, warn=self.log.warning)

    def _connected(self, lab: Lab) -> Etcd:
        """Return the connection to etcd, made in the master's namespace as it is now."""
        name = lab.netns(world.MASTER)
        home = (netns.identity(name), lab.master.address)
        if self._etcd is None or self._watch is None or home != self._home:
            self._disconnect()
            netns.move(name)
            self._etcd, self._home = Etcd(lab.master.address, PORT), home
            self._watch = self._etcd.watch()
        return self._etcd

    def _disconnect(self) -> None:
        for connection in (self._watch, self._etcd):
            if connection is not None:
                connection.close()
        self._watch = self._etcd = None

    def _failed(self, message: str) -> None:
        self._disconnect()
        super()._failed(message)

    def _write_config(self, etcd: Etcd, config: Config) -> None:
        """Keep flannel's net-conf in etcd as declared."""
        held = etcd.get(CONFIG_KEY)
        wanted = config.json().encode()
        if held is None or held.value != wanted:
            etcd.put(CONFIG_KEY, wanted)

    def _declared(
        self, etcd: Etcd, lab: Lab, declaration: Declaration, stored: Inventory
    ) -> tuple[Inventory, int]:
        wanted = [*controllers.declared(lab), *declaration.documents]
        for _ in range(MAX_ROUNDS):
            changes = controllers.declaration_changes(wanted, stored)
            if not changes:
                break
            for change in changes:
                if change.verb is Verb.DELETE and change.document["kind"] == "Node":
                    self._drop_lease(etcd, change.document)
            # What is refused was written by somebody else meanwhile: look again, decide again.
            for part in portions(changes):
                refused = registry.write(etcd, part)
                declaration.changes += [described(c) for c in part if c not in refused]
            stored, _ = self._objects(etcd)
        stored, declaration.revision = self._objects(etcd)
        return stored, declaration.revision

    def _drop_lease(self, etcd: Etcd, node: Document) -> None:
        """Delete the subnet lease of a node that is no longer declared."""
        addresses = {item["address"] for item in node.get("status", {}).get("addresses", [])}
        leases, _ = lease.peers(etcd.range(SUBNETS).items)
        for item in leases:
            if item.public_ip in addresses:
                etcd.delete(item.key)
                self.log.info("node %s left: lease %s deleted", node["metadata"]["name"], item.key)

    def _controlled(
        self, etcd: Etcd, lab: Lab, objects: Inventory, revision: int
    ) -> tuple[Inventory, int]:
        if lab != self._settled_in:
            self._settled, self._settled_in = Inventory(), lab
        room = {node.name: lab.network.pods_per_node for node in lab.nodes}
        for _ in range(MAX_ROUNDS):
            changes = controllers.changes(
                objects, capacity=room, service_cidr=lab.serviceCIDR, settled=self._settled
            )
            if not changes:
                self._settled = objects
                break
            self._tell(changes)
            for part in portions(changes):
                registry.write(etcd, part)
                objects, revision = self._objects(etcd)
                if len(part) == PORTION:
                    self._publish(etcd, lab, objects, revision, stable=False)
        return objects, revision

    def _tell(self, changes: Sequence[Change]) -> None:
        for change in changes[:TOLD]:
            self.log.info("%s", described(change))
        if len(changes) > TOLD:
            self.log.info("and %d more changes", len(changes) - TOLD)

    def watched(self) -> Mapping[int, Callable[[], None]]:
        return {} if self._watch is None else {self._watch.fileno(): self._drain}

    def _drain(self) -> None:
        assert self._watch is not None
        self._watch.drain()

    def close(self) -> None:
        self._disconnect()


def portions(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Yield *changes* in parts to be written and published one after another.

    New pods come last, node by node, so that in a large lab the first nodes are at work while the
    others' pods are still being written.
    """

    def place(change: Change) -> tuple[bool, str]:
        new = change.verb is Verb.CREATE and change.document["kind"] == "Pod"
        return new, change.document["spec"].get("nodeName", "") if new else ""

    ordered = sorted(changes, key=place)
    for first in range(0, len(ordered), PORTION):
        yield ordered[first : first + PORTION]


def described(change: Change) -> str:
    """Return a change as a line, `create pod default/web-7f-x2x1z`."""
    meta = change.document["metadata"]
    name = "/".join(filter(None, (meta.get("namespace"), meta["name"])))
    return f"{change.verb} {change.document['kind'].lower()} {name}"
