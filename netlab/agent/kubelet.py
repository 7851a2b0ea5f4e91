"""What the kubelet does on a node: addresses for its pods, their containers, their status.

A pod's address is the one in its status in etcd, written together with the news that it runs. What
a crash left unwritten nobody has heard of, and the next comparison replaces it. A document is only
written over the version it was made from; who loses that race simply looks again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netlab import cni, images
from netlab.agent.admission import Admission
from netlab.agent.endings import Endings
from netlab.agent.health import Health
from netlab.agent.podstatus import pod_status
from netlab.cluster import Cluster, NodeState, PodState
from netlab.controllers.change import now
from netlab.controllers.events import Fact
from netlab.dns import views
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Container, Document
from netlab.model.lab import Lab, like
from netlab.pods.containers import Containers, Wanted
from netlab.pods.control import Port, Result, Served, Servers
from netlab.store.access import Access

States = dict[tuple[str, str, str], dict[str, Any]]  # by namespace, pod, container
BULK = 20  # pods that go at once whose containers are told of one by one


class Store(NamedTuple):
    """What the kubelet does to etcd. Nothing of it happens to a document changed meanwhile.

    *write*: writes documents over the versions they were made from; returns those that were
    written. *delete*: deletes documents. *tell*: makes Events.
    """

    write: Callable[[Sequence[Document]], list[Document]]
    delete: Callable[[Sequence[Document]], None]
    tell: Callable[[Sequence[Fact]], None]


class Kubelet:
    """The pods of one node, above their namespaces."""

    def __init__(
        self,
        run: Path,
        node: str,
        servers: Servers,
        *,
        log: logging.Logger,
        access: Access = Access(),  # noqa: B008  (a frozen value)
    ) -> None:
        """*access*: the way to etcd, for those programs in pods that ask it."""
        self.run_directory = run
        self._access = access
        self.node = node
        self.servers = servers
        self.containers = Containers(run)
        self.log = log
        self._documents: dict[str, Document] = {}  # by uid, the newest seen or written
        self._given: dict[str, Sequence[str]] = {}  # addresses by uid, also those not written yet
        self._served: dict[str, tuple[Served, int]] = {}  # with the namespace's identity
        self._results: dict[str, Result] = {}
        self._endings = Endings()
        self._pods: Sequence[PodState] = ()
        self._health = Health(run, node)
        self._restarts: dict[tuple[str, str], int] = {}  # of containers without a program
        self._admission = Admission(node)

    def cut(self) -> None:
        """End all that runs on the node at once, asking nobody, as when its power is cut."""
        self._health.close()
        self.servers.declare([], node=self.node)
        self.containers.cut()

    def moved(self) -> None:
        """Take note that the node's namespace is another one, or left."""
        self._health.close()

    def watched(self) -> dict[int, Callable[[], None]]:
        """Return what wakes the node's loop: a program that ends, a probe's answer."""
        return {self.containers.fileno(): lambda: None, **self._health.watched()}

    # -- addresses

    def addressed(
        self,
        documents: Sequence[Document],
        *,
        subnets: Sequence[str],
        host: Sequence[str],
        online: bool,
        node: Document | None = None,
        room: int = 0,
    ) -> list[Document]:
        """Return the node's pods, each with its addresses; `run` writes the new ones.

        *subnets*: of the node's lease, one of each family, [] without one; *host*: the node's own
        addresses; *node*: its object; *room*: for how many pods it has addresses. While etcd is
        away, pods that have no address yet are left out. So are those that have ended as they were
        to, and those that the node does not take up.
        """
        documents = self._endings.take(documents)
        current = {d["metadata"]["uid"]: self._newest(d) for d in documents}
        if subnets and online:
            self._admission.look(current, self._given.keys(), node, addresses=room)
        current = {uid: d for uid, d in current.items() if self._admission.takes(uid, d)}
        fitting = {uid: d for uid, d in current.items() if _fits(d, subnets, host)}
        self._given = {uid: a for uid, a in self._given.items() if uid in current}
        self._restarts = {one: n for one, n in self._restarts.items() if one[0] in current}
        if subnets and online:
            used = [ip for document in current.values() for ip in _ips(document)]
            used += [ip for given in self._given.values() for ip in given]
            free = {
                subnet: cni.free_addresses(subnet, [ip for ip in used if like(subnet, [ip])])
                for subnet in subnets
            }
            for uid, document in current.items():
                if uid not in fitting:
                    own = host if _on_host(document) else self._addresses(document, free)
                    self._given[uid] = own
                    fitting[uid] = _with_addresses(document, own, host)
        self._documents = fitting
        return list(fitting.values())

    def _addresses(self, document: Document, free: Mapping[str, Iterator[str]]) -> list[str]:
        """Return the addresses for a pod that lacks some: those it has, or was given before, if
        they fit. *free*: those of each subnet of the lease."""
        known = [*_ips(document), *self._given.get(document["metadata"]["uid"], ())]
        found = []
        for subnet, others in free.items():
            held = [ip for ip in known if like(subnet, [ip]) and cni.in_subnet(ip, subnet)]
            try:
                found.append(held[0] if held else next(others))
            except StopIteration:
                raise NetlabError(
                    f"lease {subnet} is full", hint="a smaller SubnetLen holds more pods"
                ) from None
        return found

    def _newest(self, document: Document) -> Document:
        held = self._documents.get(document["metadata"]["uid"])
        return held if held is not None and _version(held) > _version(document) else document

    # -- containers

    def run(
        self, seen: Cluster, node: NodeState, store: Store | None, *, objects: Inventory
    ) -> None:
        """Serve or run every container of the node's pods, then write what became of them.

        *store*: None while etcd is away; *objects*: all that are stored, for the pods to be told.
        """
        pods = self._pods = seen.pods_on(node.name)
        self._serve(pods)
        states = self._execute(pods, seen.lab, objects)
        if store is None:
            return
        if self._endings.gone:
            store.delete(self._endings.gone)
        running = [key for key, state in states.items() if "terminated" not in state["state"]]
        self._endings.look(pods, self._documents, running)
        found = {pod.uid: self._container_states(pod, states) for pod in pods}
        facts = self._probe(pods, found, netns=node.netns)
        self._write_states(pods, found, store)
        store.tell([*self._killing(), *facts, *self._admission.write(store.write)])

    def _probe(
        self, pods: Sequence[PodState], found: Mapping[str, list[Document]], *, netns: str
    ) -> list[Fact]:
        """Have what probes say added to what was *found* of the containers, by pod; return what is
        to be told. Containers whose probes have failed for good are started again."""
        running = {
            (uid, item["name"]): int(item.get("restartCount", 0))
            for uid, items in found.items()
            for item in items
            if not item["problem"] and "running" in item.get("state", {"running": {}})
        }
        self._health.look(pods, self._documents, running, netns=netns)
        for uid, items in found.items():
            for item in items:
                if (uid, item["name"]) in running:
                    past = self._documents[uid]["status"].get("containerStatuses", [])
                    item.update(self._health.of(uid, item["name"], past=past))
        facts = self._health.facts(self._documents)
        named = {pod.uid: pod for pod in pods}
        for probe in self._health.failed():
            pod = named[probe.uid]
            if pod.terminating:
                continue
            facts.append(self._health.killing(self._documents, probe))
            if any(one.name == probe.container and one.command for one in pod.containers):
                self.containers.restart((pod.namespace, pod.name, probe.container))
            else:
                self._restarts[probe.uid, probe.container] = probe.run + 1
        return facts

    def due(self) -> float | None:
        """Return the seconds until something is to be done though nothing happens; None: never."""
        dues = (self.containers.due(), self._endings.due(self._pods, self._documents))
        return min((due for due in dues if due is not None), default=None)

    def _killing(self) -> list[Fact]:
        """Return what is to be told of pods that have begun to go."""
        if len(self._endings.new) > BULK:
            return []
        return [
            Fact(
                pod,
                "Killing",
                f"Stopping container {container['name']}",
                "kubelet",
                host=self.node,
                field=f"spec.containers{{{container['name']}}}",
            )
            for pod in self._endings.new
            for container in pod["spec"]["containers"]
        ]

    def _write_states(
        self, pods: Sequence[PodState], found: Mapping[str, list[Document]], store: Store
    ) -> None:
        """Write what has become of the containers of *pods*."""
        changed = []
        for pod in pods:
            document = self._documents[pod.uid]
            status = pod_status(pod, document["status"], found[pod.uid])
            if status != document["status"]:
                changed.append({**document, "status": status})
        if changed:
            for document in store.write(changed):
                self._documents[document["metadata"]["uid"]] = document

    def _serve(self, pods: Sequence[PodState]) -> None:
        """Have the pod servers listen for every container that has no command of its own."""
        wanted: dict[str, tuple[Served, int]] = {}
        for pod in pods:
            identity = netns.identity(pod.netns)
            for container in pod.containers:
                if not container.command:
                    served = _served(pod, container)
                    wanted[served.key] = (served, identity)
        # What failed is asked for again: another pod may have held the port.
        new = [
            served
            for key, (served, identity) in wanted.items()
            if self._served.get(key) != (served, identity) or self._results[key].errors
        ]
        old = [key for key in self._served if key not in wanted]
        if new or old:
            self._results.update(self.servers.update(new, old))
            for key in old:
                self._results.pop(key, None)
            self._served = wanted

    def _past(self, pod: PodState, container: Container) -> Document:
        """Return the container's status as it was last written."""
        statuses = self._documents[pod.uid]["status"].get("containerStatuses", [])
        return next((s for s in statuses if s["name"] == container.name), {})

    def _execute(self, pods: Sequence[PodState], lab: Lab, objects: Inventory) -> States:
        """Run the containers that bring a command, or whose image does; return their states."""
        wanted = [
            Wanted(
                namespace=pod.namespace,
                pod=pod.name,
                container=container.name,
                netns=pod.netns,
                hostname=view.hostname,
                files=view.files,
                argv=[*container.command, *container.args],
                env={
                    **images.environment(
                        container,
                        etcd=self._access.environment(lab.master.address),
                        namespace=pod.namespace,
                        pod=pod.name,
                        address=pod.ip,
                        node=pod.node,
                    ),
                    **{variable.name: variable.value for variable in container.env},
                },
                cwd=container.workingDir,
                restart=pod.restart_policy,
                past=self._past(pod, container),
                ending=self._endings.told(self._documents[pod.uid], container.name),
            )
            for pod in pods
            if any(container.command for container in pod.containers)
            for view in (views.of_pod(lab, self._documents[pod.uid], objects),)
            for container in pod.containers
            if container.command
        ]
        return self.containers.reconcile(wanted)

    def _container_states(self, pod: PodState, states: States) -> list[Document]:
        found = []
        for container in pod.containers:
            result = self._results.get(_served(pod, container).key, Result())
            state = states.get((pod.namespace, pod.name, container.name), {})
            item = {"name": container.name, "problem": ", ".join(result.errors), **state}
            if not container.command:
                known = int(self._past(pod, container).get("restartCount", 0))
                item["restartCount"] = self._restarts.get((pod.uid, container.name), known)
            found.append(item)
        return found


def _served(pod: PodState, container: Container) -> Served:
    return Served(
        netns=pod.netns,
        node=pod.node,
        namespace=pod.namespace,
        pod=pod.name,
        container=container.name,
        ports=tuple(Port(port.containerPort, port.protocol) for port in container.ports),
        hostname=pod.hostname,
        ipv6=bool(pod.ip_v6),
    )


def _version(document: Document) -> int:
    return int(document["metadata"].get("resourceVersion") or 0)


def _on_host(document: Document) -> bool:
    return bool(document["spec"].get("hostNetwork"))


def _ips(document: Document) -> list[str]:
    """Return the addresses in a pod's status, [] without any."""
    status = document.get("status", {})
    listed = [str(one["ip"]) for one in status.get("podIPs") or () if one.get("ip")]
    return listed or [one for one in (status.get("podIP"),) if one]


def _fits(document: Document, subnets: Sequence[str], host: Sequence[str]) -> bool:
    """Return whether the pod has the addresses it should: of the node's lease, or the node's."""
    held = _ips(document)
    if not held or _on_host(document):
        return held == list(host)
    families = len(held) == len(subnets) or not subnets
    return families and all(
        like(ip, subnets) and cni.in_subnet(ip, like(ip, subnets)) for ip in held if subnets
    )


def _with_addresses(document: Document, own: Sequence[str], host: Sequence[str]) -> Document:
    hosts = {"hostIPs": [{"ip": one} for one in host]} if len(host) > 1 else {}
    status = {
        **document.get("status", {}),
        "phase": "Pending",
        "hostIP": host[0],
        **hosts,
        "podIP": own[0],
        "podIPs": [{"ip": one} for one in own],
        "startTime": document.get("status", {}).get("startTime") or now(),
    }
    return {**document, "status": status}
