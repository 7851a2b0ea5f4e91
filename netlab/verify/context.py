"""What the checks of one verification share: the lab as it is, one capture, one trace of rules,
one way to etcd."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import msgspec

from netlab import paths, patience, probe, world
from netlab.agent import readings
from netlab.agent.place import Place
from netlab.cluster import Cluster, NodeState, PodState
from netlab.errors import NetlabError
from netlab.kernel.netns import entered
from netlab.model.faults import Fault
from netlab.model.kubernetes import Document
from netlab.model.lab import Backend, Lab
from netlab.packets import Outcome, Passage, Protocol, RuleHit, Verdict
from netlab.paths.places import of_pod
from netlab.policy import Reader
from netlab.policy.selection import Selection
from netlab.proxy.addresses import ANYWHERE, Family
from netlab.sensors.capture import Capture
from netlab.sensors.ruletrace import RuleTrace
from netlab.store.etcd import Etcd, Listing
from netlab.store.wire import KeyValue
from netlab.verify.across import Across

WATCHED_PODS = 32  # in smaller labs every pod is watched from the start
ANSWERS = patience.seconds(2.0)  # seconds for the agent to say that it is there


class Live(Interface):
    """What a verification needs of a running lab."""

    run: Path
    lab: Lab
    place: Place | None  # what this machine is, in a lab of several

    @property
    def subnets(self) -> Sequence[KeyValue]: ...
    def connection(self) -> Etcd: ...
    def reread(self) -> None: ...
    def cluster(self) -> Cluster: ...
    def etcd(self) -> Etcd: ...
    def leases(self) -> Listing: ...
    def status(self, *, timeout: float = ...) -> dict[str, Any]: ...
    def delete(self, documents: Sequence[Document]) -> Any: ...
    def serve_by(self, mode: str) -> list[str]: ...
    def carry_by(self, backend: Backend) -> list[str]: ...
    def fault(
        self, add: Sequence[Fault] = ..., *, remove: Sequence[tuple[str, str | None]] = ...
    ) -> list[Fault]: ...
    def populate(self, lab: Lab) -> int: ...


class Skip(Exception):
    """The lab lacks what a path needs; the message names it."""


class Failure(Exception):
    """A check failed other than by a packet's way: what was seen, and what should have been."""

    def __init__(self, *evidence: str, last_seen: str = "", expected_next: str = "") -> None:
        super().__init__(*evidence)
        self.evidence = evidence
        self.last_seen = last_seen
        self.expected_next = expected_next


def somebody_acts(
    live: Live,
    words: str,
    *,
    last_seen: str = "",
    needs: str = "an agent that runs the controllers",
) -> dict[str, Any]:
    """Return the agent's status. Raises Failure when none answers soon.

    *words*: what was not done then; *needs*: who would have had to be there.
    """
    try:
        return live.status(timeout=ANSWERS)
    except NetlabError as silent:
        raise Failure(f"{words}: {silent}", last_seen=last_seen, expected_next=needs) from silent


class Listener(msgspec.Struct, frozen=True):
    """A port that a container of a pod answers on."""

    pod: PodState
    container: str
    port: int
    protocol: Protocol


def usable(cluster: Cluster) -> list[PodState]:
    """Return the running pods that have an address of their own, and are to stay.

    Not those of nodes that are switched off, whatever the API still says of them.
    """
    on = {node.name for node in cluster.lab.running}
    return [
        pod
        for pod in cluster.pods
        if pod.ip and pod.phase == "Running" and not pod.host_network and not pod.terminating
        if pod.node in on
    ]


def open_pods(cluster: Cluster) -> list[PodState]:
    """Return those of the `usable` pods that no NetworkPolicy isolates: with them anybody talks."""
    facts = Reader().facts(cluster.documents)
    selection = Selection(facts)
    isolated = {
        pod.title
        for policy in facts.policies
        for pod in selection.pods(policy.metadata.namespace, policy.spec.podSelector)
    }
    return [pod for pod in usable(cluster) if pod.title not in isolated]


def listeners(pod: PodState) -> list[Listener]:
    """Return the TCP and UDP ports of the containers that netlab's own server answers for."""
    return [
        Listener(pod, container.name, port.containerPort, Protocol(port.protocol.lower()))
        for container in pod.containers
        if not container.command
        for port in container.ports
        if port.protocol.upper() in ("TCP", "UDP")
    ]


class Death(msgspec.Struct, frozen=True):
    """A pod of a Deployment that was deleted; the cluster before; seconds until another ran."""

    before: Cluster
    pod: PodState
    seconds: float


class Context:
    """Shared by the checks, which run in several threads."""

    def __init__(
        self,
        live: Live,
        cluster: Cluster,
        capture: Capture,
        trace: RuleTrace,
        *,
        machines: Across | None = None,
    ) -> None:
        """*machines*: those of a lab of several; None: all nodes are here."""
        self.live = live
        self.cluster = cluster
        self.capture = capture
        self.trace = trace
        self.pods = open_pods(cluster)
        self.here = machines.here if machines else ""  # the node that this machine is; "": all
        self.machines = machines
        self.asked: frozenset[str] = frozenset()  # the ids of all paths this verification proves
        self.turn: Future[None] = Future()  # done when a check may change the lab
        self.calm = threading.Event()  # set by a check that has changed it, and goes on
        self.death: Death | None = None  # which it has brought about
        self._etcd = threading.Lock()
        self.counting = threading.Lock()  # for flows that are masqueraded: rules count them all
        self._watching = threading.Lock()

    @property
    def lab(self) -> Lab:
        return self.cluster.lab

    @property
    def senders(self) -> list[PodState]:
        """Those of the pods that something can be sent from: they are on this machine."""
        return [pod for pod in self.pods if self.is_here(pod.node)]

    @property
    def nodes(self) -> list[NodeState]:
        """The nodes that something can be sent from."""
        return [node for node in self.cluster.nodes if self.is_here(node.name)]

    def is_here(self, node: str) -> bool:
        return self.here in ("", node)

    def read(self, node: NodeState, what: str, **words: Any) -> Any:
        """Return one of `agent.readings` of *node*, on whichever machine that is.

        Raises NetlabError when another machine does not answer.
        """
        if self.machines is None or self.is_here(node.name):
            return readings.read(node.netns, what, **words)
        asked = {"do": "read", "netns": node.netns, "what": what, "words": words}
        return self.machines.asks[node.name](asked)["read"]

    def hosted(self, guest: str, node: str) -> None:
        """Take note that the namespace of *guest*, a stranger, is on the machine of *node*."""
        if self.machines is not None:
            self.machines.guests[guest] = node

    def joined(self, node: str) -> AbstractContextManager[None]:
        """Have the sensors of the machine of *node* meanwhile, which has just joined."""
        assert self.machines is not None
        return self.machines.joined(node)

    @contextmanager
    def away(self, machine: str, what: str, words: dict[str, Any]) -> Iterator[None]:
        """Have *machine*, a node or what the master's is asked by, do *what* meanwhile: see `away`.

        Raises NetlabError when it does not answer, or could not.
        """
        assert self.machines is not None
        ask = self.machines.ask(machine)
        ask({"do": "hold", "what": what, "words": words})
        try:
            yield
        finally:
            ask({"do": "release", "what": what})

    def begin_away(self, machine: str, what: str, words: dict[str, Any]) -> None:
        """Begin the same, which ends by itself."""
        assert self.machines is not None
        self.machines.ask(machine)({"do": "hold", "what": what, "words": words})

    def own(self) -> Context:
        """Return a context for a check that changes the lab while others run.

        It shares all but the cluster as it is known, `turn`, `calm` and `death`.
        """
        made = copy(self)
        made.turn, made.calm = Future(), threading.Event()
        return made

    @contextmanager
    def etcd(self) -> Iterator[Etcd]:
        """Have the lab's etcd to oneself: a client serves one thread at a time."""
        home = self.lab.netns(self.here or world.MASTER)
        with self._etcd, entered(home):
            yield self.live.etcd()

    def refreshed(self) -> Cluster:
        """Return the cluster as etcd has it now."""
        with self._etcd:
            return (self.machines or self.live).cluster()

    def delete(self, document: Document) -> None:
        """Delete a stored object, as `netlab delete` does."""
        with self._etcd:
            self.live.delete([document])

    def leases(self) -> Listing:
        """Return the keys of flannel's subnet leases as etcd has them now."""
        with self._etcd:
            return self.live.leases()

    def renew(self) -> None:
        """Take the cluster as etcd has it now, for checks that come after a change."""
        self.cluster = self.refreshed()
        self.pods = open_pods(self.cluster)

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of addresses that pods have."""
        return (Family.IPV4, Family.IPV6) if self.lab.dual else (Family.IPV4,)

    def pod_place(self, pod: PodState, family: Family = Family.IPV4) -> paths.Place:
        return paths.facing(self.cluster, of_pod(self.cluster, pod), ANYWHERE[family])

    def watch(self, netns_names: Iterable[str], traced: Iterable[str] = ()) -> None:
        """Have the capture see these namespaces, too, and the rules *traced* in those."""
        with self._watching:
            self.capture.add(netns_names)
        self.trace.add(traced)

    def shoot(
        self,
        source: paths.Place,
        destination: paths.Place,
        *,
        protocol: Protocol,
        port: int = 0,
        cluster: Cluster | None = None,
    ) -> probe.Shot:
        """Send one probe and follow it, and the rules it fits; *cluster* stands in for the lab's
        own."""
        seen = cluster or self.cluster
        flow = probe.flow_between(seen, source, destination, protocol=protocol, port=port)
        names = probe.watched(seen, paths.expected(seen, source, destination, flow))
        ruled = {*(node.netns for node in seen.nodes), self.lab.netns(world.GATEWAY)}
        self.watch([source.netns, *names], [name for name in names if name in ruled])
        shot = probe.shoot(seen, self.capture, source, destination, protocol=protocol, port=port)
        return msgspec.structs.replace(shot, hits=tuple(self.trace.hits(shot.flow)))


def all_listeners(context: Context) -> list[Listener]:
    """Return the ports that the cluster's pods answer on."""
    return [each for pod in context.pods for each in listeners(pod)]


def watched_from_the_start(cluster: Cluster) -> list[str]:
    """Return the namespaces nearly every check looks at."""
    members = [world.UNDERLAY, world.GATEWAY, world.INTERNET, world.CLIENT]
    names = [cluster.lab.netns(member) for member in members]
    on = cluster.lab.running[: probe.BYSTANDERS]
    names += [cluster.lab.netns(node.name) for node in on]
    pods = usable(cluster)
    return names + ([pod.netns for pod in pods] if len(pods) <= WATCHED_PODS else [])


class Checked(msgspec.Struct):
    """What a check that passed has to show: evidence, and the hops of its flows."""

    evidence: list[str] = []
    passages: tuple[Passage, ...] = ()

    def took(self, shot: probe.Shot) -> None:
        """Take the hops of a flow, and the rules that said what became of it."""
        self.passages += shot.verdict.passages
        way = [hop.netns for hop in shot.expectation.request]
        there = [hit for hit in shot.hits if hit.netns in way]
        self.evidence += rules_words(sorted(there, key=lambda hit: way.index(hit.netns)))


def rules_words(hits: Iterable[RuleHit]) -> list[str]:
    """Return, as evidence, the rules that let a flow pass, stopped or rewrote it."""
    deciding = [hit for hit in hits if hit.rule and hit.verdict in ("accept", "drop")]
    lines = [f"  {hit.where.partition('.')[2]} at {hit.hook}: {hit.rule}" for hit in deciding]
    return list(dict.fromkeys(lines))


def required(shot: probe.Shot) -> probe.Shot:
    """Return *shot* if its verdict is a pass. Raises Refuted with the verdict otherwise."""
    if shot.verdict.outcome is not Outcome.PASS:
        raise Refuted(shot.verdict)
    return shot


class Refuted(Exception):
    """A probe did not take its way; `verdict` says where it stopped."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.path)
        self.verdict = verdict
