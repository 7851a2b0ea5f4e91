"""The loop of one node's kube-proxy: Services and their endpoints from etcd into rules.

NetworkPolicies too, in a table of their own, right after: they read the same objects from the same
connection, and are to hold in the same namespace.

1. A loop of its own, as kube-proxy is a process of its own: a change of Services waits for no pod,
   and a change of pods for no rules.
2. It lives in the node's namespace and asks etcd from there, so a node that is cut off keeps the
   rules it has. They are still repaired then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from socket import socket

import msgspec

from netlab.agent.kubeproxy import KubeProxy, Pass
from netlab.agent.leftovers import cleanup
from netlab.agent.loop import Loop
from netlab.agent.policies import Held, PolicyRules
from netlab.agent.reading import Reading
from netlab.agent.reports import ServicesReport, fingerprint, policies_fingerprint
from netlab.agent.state import State
from netlab.kernel import netns, turns
from netlab.model.kubernetes import Document, view
from netlab.model.lab import Lab
from netlab.model.services import ProxyNode
from netlab.portals.control import Home
from netlab.proxy.options import Options, options_of
from netlab.proxy.ruleset import Step, words
from netlab.store.session import Drain

TOLD = 20  # changes told one by one in the log
NOTHING = Pass([], [], [], {}, [])


def with_host_ports(pods: Iterable[Document]) -> list[Document]:
    """Return those of *pods* that want a port of their node."""
    return [
        pod
        for pod in pods
        if any(
            port.get("hostPort")
            for container in pod["spec"].get("containers", ())
            for port in container.get("ports") or ()
        )
    ]


def _changed(before: Options, now: Options) -> str:
    """Return in words which options a proxy has *now*."""
    if before.mode is not now.mode:
        return f"mode {now.mode} instead of {before.mode}"
    return f"other options of mode {now.mode}"


class ServiceProxy(Loop):
    """Keeps the rules of the node called *node*."""

    def __init__(self, state: State, node: str) -> None:
        super().__init__(f"{node}.proxy")
        self.state = state
        self.node = node
        self.steps: list[Step] | None = None  # what was done, while somebody wants to know
        self._post: socket | None = None  # by which other proxies know of this one
        self._reading = Reading(node, state.etcd_ready, self.log.warning, access=state.access)
        self._read: list[Document] = []  # its Node object, if there is one
        self._own: ProxyNode | None = None  # the same, as a proxy reads it
        self._proxy: KubeProxy | None = None
        self._policies = PolicyRules(node)
        self._warned: set[str] = set()

    def once(self) -> None:
        lab = self.state.lab
        if lab is None or not netns.exists(lab.netns(self.node)):
            return
        if not self._reading.is_at_home(lab):
            self.close()
            self._reading.enter(lab)
            self._policies = PolicyRules(self.node)
        away = self._reading.learn(lab)
        self._take_node()
        snapshot = self.state.snapshot(self.node)
        if self._own is None or snapshot is None:
            if away is not None:
                raise away
            return  # not stored, or not published yet; that will wake this loop
        objects = self._reading.objects
        own = next((node for node in lab.nodes if node.name == self.node), None)
        if own is None:
            return  # it has left; this loop is about to be ended
        if own.foreign_proxy:
            self._withdraw()
            options, done, warnings = None, NOTHING, []
        else:
            self._post = self._post or turns.taken_post()
            proxy = self._proxied(lab)
            pods = with_host_ports(snapshot.documents)
            documents = [*objects.of("Service"), *objects.of("EndpointSlice"), *pods]
            options, done = proxy.options, proxy.agree(documents, self._own)
            warnings = [*proxy.warnings, *done.problems]
        held = self._policies.agree(objects)
        self._tell(done, held, [*warnings, *self._policies.warnings])
        followed = ServicesReport(
            *fingerprint(objects), options, policies=policies_fingerprint(objects)
        )
        self.state.report_services(self.node, followed)
        if away is not None:
            raise away

    def _withdraw(self) -> None:
        """Remove what this loop has made, once: from then on a foreign kube-proxy makes the rules.

        They bear the same names, so what is there after a start is taken for its.
        """
        if self._proxy is not None:
            removed = cleanup(self._proxy.options.exclude_cidrs)
            self.log.info("mode none: %d chains, sets and maps removed", len(removed))
            self._proxy.close()
            self._proxy = None
        self._leave_post()

    def _leave_post(self) -> None:
        if self._post is not None:
            self._post.close()
            self._post = None

    def _take_node(self) -> None:
        """Read this node's Node object, if it is another one than before."""
        nodes = self._reading.objects.of("Node")
        mine = [one for one in nodes if one["metadata"]["name"] == self.node]
        if self._read == mine:
            return
        self._read = mine
        try:
            self._own = view(mine[0], ProxyNode) if mine else None
        except msgspec.ValidationError as error:
            self.log.warning("Node %s: %s: what it said before holds", self.node, error)

    def _proxied(self, lab: Lab) -> KubeProxy:
        """Return the proxy with the lab's options, another one when they changed."""
        wanted = options_of(lab)
        if self._proxy is None or self._proxy.options != wanted:
            if self._proxy is not None:
                self.log.info("%s", _changed(self._proxy.options, wanted))
            self._proxy = KubeProxy(wanted, healthz=True, home=self._home(lab), former=self._proxy)
        return self._proxy

    def _home(self, lab: Lab) -> Home:
        """Return whose a process of userspace mode is: the node's, and gone with its namespace."""
        run, role = self.state.run, f"portals/{self.node}"
        path = netns.path(lab.netns(self.node))
        return Home(run, role, path, attached=False, log=run / "portals.log")

    def _tell(self, done: Pass, held: Held, warnings: list[str]) -> None:
        repaired, steps = [*done.repaired, *held.repaired], [*done.steps, *held.steps]
        for step in repaired[:TOLD]:
            self.log.info("repaired: %s", words(step))
        if len(steps) > len(repaired):
            self.log.info("%d chains, sets and maps changed", len(steps) - len(repaired))
        if done.forgotten:
            self.log.info("%d UDP flows forgotten", len(done.forgotten))
        for warning in warnings:
            if warning not in self._warned:
                self.log.warning("%s", warning)
        self._warned = set(warnings)
        if self.steps is not None:
            self.steps += steps

    # -- sleeping

    def pause(self) -> float:
        again = self._proxy.look_again if self._proxy is not None else None
        return self.interval if again is None else min(self.interval, again)

    def watched(self) -> Mapping[int, Drain]:
        watched = dict(self._reading.watched())
        if self._proxy is not None:
            watched |= {fd: lambda: None for fd in self._proxy.watched()}
        return watched

    def _failed(self, message: str) -> None:
        super()._failed(message)
        reported = self.state.services_report(self.node)
        self.state.report_services(self.node, msgspec.structs.replace(reported, error=message))

    def close(self) -> None:
        self._reading.close()
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None
        self._leave_post()
