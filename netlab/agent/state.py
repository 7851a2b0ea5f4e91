"""What the loops of one agent tell each other: a snapshot in, a report out, under one lock.

The control plane publishes a `Cluster`; each publication that changes something for a node raises
that node's version and wakes its loop. A node's loop reports the version it has made true. The lab
has converged when nothing is left to say in `problems()`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from netlab import __version__
from netlab.agent.pace import Pace
from netlab.agent.place import Place
from netlab.agent.problems import other_options, pod_problem
from netlab.agent.reports import (
    BalancerReport,
    Heard,
    NodeReport,
    ServicesReport,
    Told,
    fingerprint,
    pods_fingerprint,
    policies_fingerprint,
)
from netlab.balancing.listeners import published
from netlab.beyond import outside_home
from netlab.cluster import Cluster
from netlab.controllers.departure import Declared
from netlab.controllers.scheduler import why_waiting
from netlab.firewall import Published
from netlab.model.faults import Sort, told
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab
from netlab.model.services import refusal
from netlab.proxy.options import Options, options_of
from netlab.store.access import Access
from netlab.world import BALANCER, GATEWAY, MASTER

CUTTING = (Sort.LINK_DOWN, Sort.LINK_LOSS, Sort.ETCD_PARTITION)  # a node from etcd
WAITING = "waiting"
TURNS = 2  # nodes that compare and apply at once


class Snapshot(msgspec.Struct, frozen=True):
    """What a node's loop works from: the cluster, its own pods' documents, their version."""

    cluster: Cluster
    documents: tuple[Document, ...]
    version: int


class State:
    """The blackboard of one lab's agent."""

    def __init__(self, run: Path, place: Place | None = None) -> None:
        """*place*: what this machine is in a lab of several; None: all of the lab is here."""
        self.run = run
        self.place = place
        self.access = place.access if place is not None else Access()
        self.lab_revision = 0  # of the Lab document in etcd that `lab` was read from
        self.on_report: Callable[[str], None] = lambda node: None
        self._heard = Heard()
        self.born = time.time()
        self.lab: Lab | None = None
        self.cluster: Cluster | None = None
        self.declared = Declared()  # by the last `up`
        self.stable = False  # whether the controllers had nothing left to change
        self.etcd_ready = threading.Event()
        # Python runs one thread at a time and the kernel changes links one at a time: nodes that
        # take turns are several times quicker than nodes that interrupt each other.
        self.turn = threading.Semaphore(TURNS)
        self.changed = threading.Condition()
        self._versions: dict[str, int] = {}
        self._documents: dict[str, tuple[Document, ...]] = {}
        self._reports: dict[str, NodeReport] = {}
        self._services: dict[str, ServicesReport] = {}
        self._followed: dict[str, Lab] = {}
        self._fingerprint = (0, 0)  # of the Services and slices published
        self.pace = Pace()
        self._policies = (0, 0)  # the same of policies, and of what these select
        self._balancer = BalancerReport()
        self.published: tuple[Published, ...] = ()  # what the gateway lets through to the balancer

    def publish(self, cluster: Cluster, *, stable: bool, wake: Callable[[str], None]) -> None:
        """Make *cluster* the current one and wake the nodes for which it differs.

        The part `world.GATEWAY` is woken, too, when other ports of the balancer are published, and
        where that does not listen to etcd itself, BALANCER whenever anything is new.
        """
        objects = cluster.documents
        by_node: dict[str, list[Document]] = {node.name: [] for node in cluster.lab.running}
        for document in objects.of("Pod"):
            by_node.get(document.get("spec", {}).get("nodeName", ""), []).append(document)
        services, policies = fingerprint(objects), policies_fingerprint(objects)
        opened = published(cluster.lab, objects.of("Service"))
        reopened = opened != self.published
        with self.changed:
            moved = (services, policies) != (self._fingerprint, self._policies)
            self._fingerprint, self._policies, self.published = services, policies, opened
            renewed = self.cluster is None or self.cluster.lab != cluster.lab
            newer = self.cluster is None or self.cluster.revision != cluster.revision
            told = self.place is not None and (renewed or newer)
            self.cluster, self.stable = cluster, stable
            touched = [
                name
                for name, documents in by_node.items()
                if renewed or not _same(documents, self._documents.get(name, ()))
            ]
            for name in touched:
                self._documents[name] = tuple(by_node[name])
                self._versions[name] = self._versions.get(name, 0) + 1
            self.pace.published(moves=moved or bool(touched))
            self._notice_agreement()
            self.changed.notify_all()
        for name in [*touched, *([GATEWAY] if reopened else []), *([BALANCER] if told else [])]:
            wake(name)

    # -- machines of their own

    def is_here(self, node: str) -> bool:
        """Return whether *node* lives where this agent does."""
        return self.place is None or self.place.node == node

    def hear(self, heard: Heard) -> None:
        """Take what the agents of other machines have said."""
        with self.changed:
            if heard != self._heard:
                self._heard = heard
                self._notice_agreement()
                self.changed.notify_all()

    def told(self, node: str) -> Told:
        """Return what there is to tell other machines of a node that lives here."""
        with self.changed:
            return Told(
                version=__version__,
                uplink=self.place.uplink if self.place is not None else "",
                node=self._reports.get(node, NodeReport()),
                services=self._services.get(node, ServicesReport()),
                balancer=self._balancer,
            )

    def told_by(self, node: str) -> Told:
        """Return what the agent on another machine says of its node."""
        return self._heard.reports.get(node, Told())

    def absent(self, node: str) -> str:
        """Return why nothing can be expected of a node that is a machine of its own, "" if it can.

        What begins with WAITING is mended by its machine alone.
        """
        if self.is_here(node) or node in self._heard.alive or self.lab is None:
            return ""
        if node not in self._heard.reports:
            return f"{WAITING} for its machine: run `netlab join {self.lab.master.address}` there"
        return f"{WAITING}: its machine, or the agent on it, is not heard from"

    def _report_of(self, node: str) -> NodeReport:
        if self.is_here(node):
            return self._reports.get(node, NodeReport())
        return self.told_by(node).node

    def _services_of(self, node: str) -> ServicesReport:
        if self.is_here(node):
            return self._services.get(node, ServicesReport())
        return self.told_by(node).services

    def _has_settled(self, node: str, report: NodeReport) -> bool:
        if self.is_here(node):
            return report.settled == self._versions.get(node, 0)
        there = pods_fingerprint(self._documents.get(node, ()))
        return (report.pods, report.lab) == (there, self.lab_revision)

    # -- what the loops report

    def snapshot(self, node: str) -> Snapshot | None:
        """Return what *node* should be made of, None before the first publication."""
        with self.changed:
            if self.cluster is None or node not in self._versions:
                return None
            return Snapshot(self.cluster, self._documents[node], self._versions[node])

    def report(self, node: str, report: NodeReport) -> None:
        """Take what a node's loop says of itself."""
        with self.changed:
            if self._reports.get(node) == report:
                return
            self._reports[node] = report
            self._notice_agreement()
            self.changed.notify_all()
        self.on_report(node)

    def reports(self) -> dict[str, NodeReport]:
        """Return the latest report of each declared node."""
        with self.changed:
            names = [node.name for node in self.lab.running] if self.lab else []
            return {name: self._report_of(name) for name in names}

    def report_services(self, node: str, report: ServicesReport) -> None:
        """Take what a node's proxy says of itself."""
        with self.changed:
            if self._services.get(node) == report:
                return
            self._services[node] = report
            self._notice_agreement()
            self.changed.notify_all()
        self.on_report(node)

    def heard(self) -> None:
        """Take note that etcd told of something."""
        with self.changed:
            self.pace.heard()

    def _notice_agreement(self) -> None:
        if self.pace.moving and next(self._problems(expected=False), None) is None:
            self.pace.agreed()

    def services_report(self, node: str) -> ServicesReport:
        """Return the latest report of a node's proxy."""
        with self.changed:
            return self._services.get(node, ServicesReport())

    def follow(self, node: str, lab: Lab) -> None:
        """Note that a node has made true what *lab* says of it and its pods."""
        self._followed[node] = lab

    def followed(self, lab: Lab) -> bool:
        """Return whether the nodes of the pods that *lab* has faults for have made them true."""
        pods = {fault.target for fault in lab.faults if "/" in fault.target}
        placed = self.cluster.pods if self.cluster is not None else ()
        hosts = {pod.node for pod in placed if pod.title in pods}
        return all(self._followed.get(n.name) == lab for n in lab.running if n.name in hosts)

    def objects(self) -> Inventory | None:
        """Return the objects in etcd as last published, None before that."""
        cluster = self.cluster
        return cluster.documents if cluster is not None else None

    def report_balancer(self, report: BalancerReport) -> None:
        """Take what the balancer says of itself."""
        with self.changed:
            if self._balancer == report:
                return
            self._balancer = report
            self._notice_agreement()
            self.changed.notify_all()
        if self.place is not None:
            self.on_report(self.place.node)

    def balancer_report(self) -> BalancerReport:
        """Return the latest report of the balancer."""
        with self.changed:
            home = outside_home(self.lab) if self.lab is not None else None
            if home is None or self.is_here(home.name):
                return self._balancer
            return self.told_by(home.name).balancer

    def calm(self) -> bool:
        """Return whether every node has made its newest snapshot true."""
        with self.changed:
            return all(
                (report := self._reports.get(name)) is not None and report.settled == version
                for name, version in self._versions.items()
                if self.is_here(name)
            )

    def forget(self, node: str) -> None:
        """Drop everything known of a node that is no longer declared."""
        with self.changed:
            for table in (self._versions, self._documents, self._reports, self._services):
                table.pop(node, None)

    def problems(self, *, revision: int = 0, expected: bool = True) -> list[str]:
        """Return what still keeps the lab from agreeing with its declaration, in plain words.

        *revision*: the etcd revision that must have been seen; *expected*: also what faults make
        of the nodes they cut off, which no waiting mends, and that machines have not joined.
        """
        with self.changed:
            return list(self._problems(revision, expected=expected))

    def _problems(self, revision: int = 0, *, expected: bool) -> Iterator[str]:
        """Yield the same, what is cheap to find first: every report asks whether there is any."""
        if self.lab is None:
            yield "no lab is declared yet"
        elif stopped := self.lab.faulted(Sort.ETCD_STOP):
            yield told(stopped)
        elif self.cluster is None or self.cluster.lab != self.lab:
            yield "etcd holds no objects yet"
        elif self.cluster.revision < revision or not self.stable:
            yield "the controllers are still at work"
        else:
            yield from self._problems_of(self.lab, self.cluster, expected=expected)

    def _problems_of(self, lab: Lab, cluster: Cluster, *, expected: bool) -> Iterator[str]:
        objects = cluster.documents
        stored = {one["metadata"]["name"] for one in objects.of("Node")}
        if lost := [node.name for node in lab.nodes if node.name not in stored]:
            yield (
                f"etcd has lost node {lost[0]}, and maybe more: `netlab up` with the lab's "
                "files declares all of it again"
            )
            return
        cut = () if expected else self._cut() | self._awaiting()
        absent = {one.name: why for one in lab.running if (why := self.absent(one.name))}
        if expected:
            yield from (f"node {name}: {why}" for name, why in absent.items())
        reports = {
            node.name: self._report_of(node.name)
            for node in lab.running
            if node.name not in cut and node.name not in absent
        }
        for name, report in reports.items():
            yield from self._node_problems(name, report)
            if report.written > cluster.revision:
                yield f"node {name}: the controllers have not read yet how its pods are"
        for pod in cluster.pods:
            if pod.node in reports and (problem := pod_problem(pod)):
                yield problem
        home = outside_home(lab)
        if lab.balancer is not None and (home is None or home.name in reports):
            yield from self._balancer_problems()
        for one in objects.of("Pod") if expected or not self._short_of_nodes() else ():
            if not one.get("spec", {}).get("nodeName"):
                title = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
                yield f"pod {title}: {why_waiting(one) or 'no node fits'}"
        for one in objects.of("Service"):
            if why := refusal(one):
                title = f"{one['metadata'].get('namespace', '')}/{one['metadata']['name']}"
                yield f"service {title}: {why}"

    def _node_problems(self, name: str, report: NodeReport) -> list[str]:
        assert self.lab is not None
        wanted = self._leased() - {name}
        problems = []
        if report.error:
            problems.append(f"node {name}: {report.error}{self._because(name)}")
        elif report.awaits:
            problems.append(f"node {name}: {report.awaits}")
        elif not report.subnet:
            problems.append(f"node {name}: no subnet lease yet")
        elif missing := wanted.difference(report.nodes):
            known = len(wanted) - len(missing)
            problems.append(f"node {name}: knows {known} of {len(wanted)} other leases")
        elif not self._has_settled(name, report):
            problems.append(f"node {name}: still changing")
        services = self._services_of(name)
        if problems:
            return problems
        if services.error:
            problems.append(f"node {name}: services: {services.error}")
        elif (services.count, services.versions) != self._fingerprint:
            problems.append(f"node {name}: its rules do not follow the Services yet")
        elif services.options != self._options_of(name):
            why = other_options(services.options, self._options_of(name))
            problems.append(f"node {name}: {why}")
        elif services.policies != self._policies:
            problems.append(f"node {name}: its rules do not follow the NetworkPolicies yet")
        return problems

    def _leased(self) -> set[str]:
        """Return the nodes whose leases all others should know."""
        assert self.lab is not None
        present = {node.name for node in self.lab.running if not self.absent(node.name)}
        return present - self._awaiting()

    def _awaiting(self) -> set[str]:
        """Return the nodes that wait for the lease of a foreign flanneld."""
        assert self.lab is not None
        return {one.name for one in self.lab.running if self._report_of(one.name).awaits}

    def _options_of(self, node: str) -> Options | None:
        """Return the options that the proxy of *node* should have, None for a foreign one's."""
        assert self.lab is not None
        return None if self.lab.node(node).foreign_proxy else options_of(self.lab)

    def _because(self, node: str) -> str:
        """Return which fault keeps *node* from etcd, to be put behind its error."""
        assert self.lab is not None
        for fault in self.lab.faults:
            if fault.sort in CUTTING and fault.target in (node, MASTER):
                return f" ({fault.words}, by `{fault.command}`)"
        return ""

    def _short_of_nodes(self) -> bool:
        """Return whether nodes are away that pods may be waiting for: by faults, or as machines
        that have not joined."""
        assert self.lab is not None
        away = any(self.absent(node.name) for node in self.lab.running)
        return away or bool(self._cut()) or len(self.lab.running) < len(self.lab.nodes)

    def _cut(self) -> set[str]:
        """Return the nodes that faults keep from etcd."""
        return {n.name for n in (self.lab.running if self.lab else ()) if self._because(n.name)}

    def _balancer_problems(self) -> list[str]:
        report = self.balancer_report()
        if report.error:
            return [f"{BALANCER}: {report.error}"]
        if (report.count, report.versions) != self._fingerprint:
            return [f"{BALANCER}: its rules do not follow the Services yet"]
        return [] if report.known else [f"{BALANCER}: it has not heard from every node yet"]


def _same(these: Sequence[Document], those: Sequence[Document]) -> bool:
    """Return whether both are the same objects in the same versions."""
    return len(these) == len(those) and all(
        one is other
        or (one["metadata"]["uid"], one["metadata"].get("resourceVersion"))
        == (other["metadata"]["uid"], other["metadata"].get("resourceVersion"))
        for one, other in zip(these, those, strict=True)
    )
