"""The loop of one node: what flanneld, the CNI plugin and the kubelet do on a real one.

1. The thread lives in the node's own network namespace: its connection to etcd crosses the
   underlay, so a cut network is a real cut, and rules and settings land where they belong.
2. A pass: keep the lease, give addresses to new pods, compare the node's namespace and the pods
   whose wish changed (all of them after a hint of drift), apply, serve, write the pods' status.
3. While etcd is away the last known peers and pods stand: forwarding is left alone, and drift is
   still repaired. A loop that knows nothing yet touches nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from netlab import cni, desired
from netlab.agent import place as places
from netlab.agent.kubelet import Kubelet, Store
from netlab.agent.loop import Loop, applied
from netlab.agent.ownlease import OwnLease
from netlab.agent.reports import NodeReport, pods_fingerprint
from netlab.agent.state import Snapshot, State
from netlab.cluster import Cluster, NodeState, cluster
from netlab.controllers import Change, events
from netlab.controllers import Verb as Deed
from netlab.controllers.events import Fact
from netlab.encapsulation import control as encapsulation
from netlab.errors import StoreError
from netlab.flannel import backends, udp
from netlab.flannel.config import SUBNETS, UDP, Config, resolve
from netlab.kernel import Kernel, generation, netns
from netlab.kernel import Watch as KernelWatch
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab
from netlab.objects import Netns, Object
from netlab.plan import Op, difference
from netlab.pods.control import Servers
from netlab.store import registry
from netlab.store.etcd import Etcd
from netlab.store.session import Drain, Session

BULK = 100  # changes at once
PATIENCE = 3.0  # seconds a full comparison may be put off while the lab is changing
ETCD_SILENCE = 1.0  # seconds; drift waits for it, and is to be repaired within two
ECHO = 1.0  # seconds after a change of ours in which everything is compared once more


class Node(Loop):
    """Keeps the node called *node* of the state's lab."""

    def __init__(
        self,
        state: State,
        node: str,
        kernel: Kernel,
        servers: Servers,
        *,
        rules_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """*rules_changed* is called when somebody else may have altered the node's rules."""
        super().__init__(node)
        self._rules_changed = rules_changed
        self._rules_seen = 0  # their generation
        self._lab_revision = 0
        self.state = state
        self.node = node
        self.kubelet = Kubelet(state.run, node, servers, log=self.log, access=state.access)
        self.kernel = kernel
        self.off = False  # whether the machine is to be gone when this loop has ended
        self._home = (0, "")
        self._session = Session([SUBNETS])
        self._events: KernelWatch | None = None
        self._carrier: encapsulation.Process | None = None  # of flannel's udp back end
        self._own = OwnLease(node, self.log)
        self._written = 0  # the revision of what it last wrote of its pods
        self._snapshot: Snapshot | None = None
        self._agreed: dict[str, tuple[Object, ...]] = {}
        self._suspect: set[str] = set()  # of "self", "pods", "rules": what may have drifted
        self._changed = 0.0  # when something was last applied, monotonic seconds
        self._full = 0.0  # when everything is to be compared again, monotonic seconds

    # -- one pass

    def once(self) -> None:
        self._lab_revision = self.state.lab_revision  # before the Lab, which may be newer
        lab = self.state.lab
        if lab is None or not netns.exists(lab.netns(self.node)):
            return
        if self.off or all(node.name != self.node for node in lab.running):
            return  # it has left, or is off; this loop is about to be ended
        self._enter()
        config = resolve(lab.network)
        if self._own.lease is None:
            self._join_underlay(lab)
        away = self._learn(lab, config)
        snapshot = self._snapshot
        if away is not None and (snapshot is None or self._own.lease is None):
            raise away
        if snapshot is None:
            return  # the control plane has published nothing yet; it will wake this loop
        if self._own.lease is None:
            self.state.follow(self.node, lab)
            self._report(lab, config, snapshot, away)
            return  # to whoever runs flannel here it is left; the watch tells of the lease
        store = Store(self._write, self._take_away, self._tell) if away is None else None
        seen = self._as_leased(snapshot, lab, online=away is None)
        state = seen.node(self.node)
        with self.state.turn:
            self._converge(seen, state, config)
        self._carry(lab, state, config)
        self.state.follow(self.node, lab)
        self.kubelet.run(seen, state, store, objects=snapshot.cluster.documents)
        if store is not None and self.state.place is not None:
            self._introduce(snapshot.cluster)
        self._report(lab, config, snapshot, away)
        if away is not None:
            raise away

    def _enter(self) -> None:
        """Move into the node's namespace as it is now, and open what lives in it."""
        lab = self.state.lab
        assert lab is not None
        name = lab.netns(self.node)
        home = (netns.identity(name), lab.master.address)
        if home == self._home:
            return
        self._leave()
        netns.move(name)
        self._agreed.clear()
        self._full = 0.0
        self._home = home

    def _join_underlay(self, lab: Lab) -> None:
        """Give the node its address on the underlay, which etcd is asked through."""
        name = lab.netns(self.node)
        if lab.spread:
            return  # it is the machine's, and the machine has it
        wanted = cni.node_objects(lab, NodeState(lab.node(self.node), name))
        operations = desired.joining(difference(wanted, self.kernel.observe(name, wanted)))
        self.note(operations, agreed=())
        applied(self.kernel, operations)

    def _learn(self, lab: Lab, config: Config) -> StoreError | None:
        """Ask etcd for leases and take the newest snapshot; return why etcd is away, if it is."""
        if not self.state.etcd_ready.is_set():
            return StoreError("etcd is not up yet")
        try:
            self._own.keep(self._connected(lab.master.address), lab, config)
        except StoreError as error:
            self._disconnect()
            return error
        self._snapshot = self.state.snapshot(self.node) or self._snapshot
        return None

    def _connected(self, host: str) -> Etcd:
        access = self.state.access
        return self._session.open(lambda: access.etcd(host, timeout=ETCD_SILENCE))

    def _disconnect(self) -> None:
        self._session.close()
        self._written = 0  # the next etcd may be another, and count anew

    def _as_leased(self, snapshot: Snapshot, lab: Lab, *, online: bool) -> Cluster:
        """Return the lab as this node itself sees it: its leases, its pods, all with addresses.

        *lab* may be newer than the snapshot: the underlay is what etcd is asked through, so a
        node's new address cannot wait for what etcd says.
        """
        address = lab.node(self.node).address
        leases = {item.public_ip: item.held for item in self._own.peers}
        if self._own.lease is not None:
            leases[address] = self._own.lease.held
        pods = self.kubelet.addressed(
            snapshot.documents,
            subnets=self._own.subnets,
            host=lab.node(self.node).addresses,
            online=online,
            node=self._own_object(snapshot.cluster),
            room=lab.network.pods_per_node,
        )
        return cluster(lab, tuple(pods), leases=leases, revision=snapshot.cluster.revision)

    def _own_object(self, seen: Cluster) -> Document | None:
        nodes = seen.documents.of("Node")
        return next((one for one in nodes if one["metadata"]["name"] == self.node), None)

    def _introduce(self, seen: Cluster) -> None:
        """Have the Node object say what a kubelet says of itself and its machine."""
        own = self._own_object(seen)
        if own is not None and (introduced := places.introduced(own)) != own:
            self._write([introduced])

    def _write(self, documents: Sequence[Document]) -> list[Document]:
        assert self._session.etcd is not None
        written = registry.replaced(self._session.etcd, documents)
        versions = [int(one["metadata"]["resourceVersion"]) for one in written]
        self._written = max([self._written, *versions])
        return written

    def _take_away(self, documents: Sequence[Document]) -> None:
        assert self._session.etcd is not None
        registry.write(self._session.etcd, [Change(Deed.DELETE, one) for one in documents])

    def _tell(self, facts: Sequence[Fact]) -> None:
        etcd = self._session.etcd
        if facts and self._snapshot is not None and etcd is not None:
            known = self._snapshot.cluster.documents
            registry.write(etcd, events.recorded(facts, known))

    # -- the kernel

    def _converge(self, seen: Cluster, state: NodeState, config: Config) -> None:
        own = self._own.lease
        wanted: dict[str, tuple[Object, ...]] = {
            state.netns: tuple(
                desired.node(seen, state, config=config, own=own, peers=self._own.peers)
            )
        }
        if own is not None:
            wanted.update({n: tuple(o) for n, o in desired.pods(seen, state).items()})
        if "pods" in self._suspect:
            self._full = min(self._full, max(time.monotonic(), self._changed + ECHO))
        full = self._full_look_due()
        if full:
            self._rules_changed()
        if full and self._events is None and self._agreed:
            self._events = self.kernel.watch(state.netns)  # before looking, so nothing is missed
        suspects = {
            name
            for name, objects in wanted.items()
            if full or name == state.netns or self._agreed.get(name) != objects
        }
        self._suspect.clear()
        agreed = {thing for name in suspects for thing in self._agreed.get(name, ())}
        for name in suspects:
            self._agreed.pop(name, None)
        operations = self.agree(
            self.kernel, lambda: self._missing(state, wanted, suspects), agreed=agreed
        )
        self._agreed = {name: objects for name, objects in self._agreed.items() if name in wanted}
        self._agreed.update({name: wanted[name] for name in suspects})
        if operations:
            # Nearly all of what is heard now is our own echo; a full look soon finds the rest.
            self._mute(len(operations))
            self._changed = time.monotonic()
            self._full = self._changed + ECHO
        elif full:
            heard = self._events is not None
            self._full = time.monotonic() + (self.interval if heard else 0.0)

    def _carry(self, lab: Lab, state: NodeState, config: Config) -> None:
        """Have the process of flannel's udp back end run and know whom it reaches, or not run."""
        own = self._own.lease
        if config.backend != UDP or own is None or state.declared.foreign_flannel:
            if self._carrier is not None or not self._agreed:
                encapsulation.end()
            self._put_down()
            return
        if self._carrier is None:
            path = Path(netns.path(state.netns))
            self._carrier = encapsulation.Process(
                self.state.run, self.node, netns=path, device=udp.DEVICE
            )
        segments = [segment.cidr for segment in lab.underlay.segments]
        outside = backends.uncovered(state.address, segments, self._own.peers)
        reached = udp.reached(config, own, self._own.peers, outside)
        self._carrier.keep(
            encapsulation.Told(
                local=state.address,
                port=config.port or udp.PORT,
                own=state.bridge_address,
                peers=encapsulation.peers_of(reached),
            )
        )

    def _put_down(self) -> None:
        """Forget the process; it goes on."""
        if self._carrier is not None:
            self._carrier.forget()
            self._carrier = None

    def _missing(
        self, state: NodeState, wanted: Mapping[str, Sequence[Object]], suspects: Collection[str]
    ) -> list[Op]:
        """Return what the kernel lacks of *wanted* in the namespaces *suspects*."""
        observed = [thing for name in suspects for thing in self.kernel.observe(name, wanted[name])]
        gone = [Netns(name) for name in self.kernel.namespaces(state.netns) if name not in wanted]
        return difference(
            [thing for name in suspects for thing in wanted[name]], [*observed, *gone]
        )

    def _full_look_due(self) -> bool:
        """Return whether to compare everything: not while other nodes are still being made."""
        late = time.monotonic() - self._full
        return late >= 0 and (not self._agreed or self.state.calm() or late >= PATIENCE)

    def _mute(self, changes: int) -> None:
        """Forget what was heard while this loop itself made *changes*.

        Many at once are not listened to at all: the kernel asks every listener of every node about
        every event of every pod.
        """
        if self._events is None:
            return
        if changes > BULK:
            self._events.close()
            self._events = None
        else:
            self._events.drain()

    def pause(self) -> float:
        restart = self.kubelet.due()
        full = self._full - time.monotonic()
        return max(0.2 if full < 0 else 0.05, full if restart is None else min(full, restart))

    # -- sleeping

    def watched(self) -> Mapping[int, Drain]:
        watched = self._session.watched(self._drain_etcd)
        if self._events is not None:
            watched[self._events.fileno()] = self._drain_kernel
        watched.update(self.kubelet.watched())
        if self._carrier is not None and (fileno := self._carrier.fileno()) is not None:
            watched[fileno] = lambda: None  # readable when the process has ended
        return watched

    def _drain_etcd(self) -> None:
        try:
            self._session.drain()
        except StoreError:
            self._disconnect()

    def _drain_kernel(self) -> None:
        assert self._events is not None
        heard = self._events.drain()
        if "rules" in heard:
            commits, since = generation.here(), self._rules_seen
            self._rules_seen = generation.generation()
            if commits.unchanged(since):
                heard.discard("rules")  # all of it was our own: this loop's, or the proxy's
            else:
                self._rules_changed()
        self._suspect |= heard

    def _report(self, lab: Lab, config: Config, of: Snapshot, away: StoreError | None) -> None:
        apart = self.state.place is not None
        known = {peer.public_ip for peer in backends.followed(config, self._own.peers)}
        self.state.report(
            self.node,
            NodeReport(
                settled=of.version,
                subnet=self._own.subnet,
                peers=len(known),
                nodes=tuple(n.name for n in lab.running if n.address in known),
                awaits=self._own.awaits,
                online=away is None,
                renews=self._own.renews,
                written=self._written,
                error=str(away) if away else "",
                pods=pods_fingerprint(of.documents) if apart else (0, 0),
                lab=self._lab_revision if apart else 0,
            ),
        )

    def _failed(self, message: str) -> None:
        super()._failed(message)
        reports = self.state.reports()
        if self.node in reports:
            report = reports[self.node]
            self.state.report(self.node, msgspec.structs.replace(report, error=message))

    def _leave(self) -> None:
        self._disconnect()
        self._put_down()
        self.kubelet.moved()
        if self._events is not None:
            self._events.close()
            self._events = None

    def switch_off(self) -> None:
        """End the loop, and all that runs on the node with it: its power is cut."""
        self.off = True
        self.end()

    def close(self) -> None:
        self._leave()
        if self.off:
            self.kubelet.cut()
        self.kubelet.containers.close()
