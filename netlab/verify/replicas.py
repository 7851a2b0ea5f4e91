"""A pod of a Deployment dies, and another takes its place."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network

from netlab import patience
from netlab.agent.endings import LINGER
from netlab.cluster import Cluster, PodState
from netlab.model.kubernetes import Document
from netlab.packets import Protocol
from netlab.paths.places import of_node, of_pod
from netlab.verify.context import (
    Checked,
    Context,
    Death,
    Failure,
    Skip,
    listeners,
    open_pods,
    required,
    somebody_acts,
    usable,
)

WITHIN = patience.seconds(10.0)  # seconds for the replacement to run
LOOK = 0.01  # seconds between two looks into etcd


def victim(context: Context) -> PodState:
    """Return a running pod of a Deployment, one with a port if there is one."""
    owned = [pod for pod in context.pods if pod.owner.startswith("ReplicaSet/")]
    if not owned:
        raise Skip("needs a Deployment with a running pod")
    return next((pod for pod in owned if listeners(pod)), owned[0])


def document_of(cluster: Cluster, pod: PodState) -> Document:
    for document in cluster.documents:
        if document["kind"] == "Pod" and document["metadata"].get("uid") == pod.uid:
            return document
    raise Failure(f"etcd has no document of {pod.title}")


def replicas(context: Context) -> Checked:
    """A pod that died is replaced: the one that another check deleted already, or one of ours."""
    death = context.death or _brought_about(context)
    old, wanted = death.pod, replicas_of(death.before, death.pod)
    after, new = _replacement(context, death)
    node, milliseconds = after.node(new.node), death.seconds * 1000
    if IPv4Address(new.ip) not in IPv4Network(node.subnet):
        raise Failure(f"{new.title} has {new.ip}, outside {node.name}'s lease {node.subnet}")
    after = _without(context, old)
    found = listeners(new)
    protocol, port = (found[0].protocol, found[0].port) if found else (Protocol.ICMP, 0)
    asking = node if context.is_here(node.name) else context.nodes[0]
    shot = required(
        context.shoot(
            of_node(asking), of_pod(after, new), protocol=protocol, port=port, cluster=after
        )
    )
    says = shot.answer.says.get("pod") if shot.answer else None
    if found and says != new.name:
        raise Failure(
            f"{new.ip} was answered by {says}, not by {new.name}",
            last_seen=shot.expectation.request[-1].where,
            expected_next=f"an answer of {new.title}",
        )
    return Checked(
        [
            f"deleted {old.title} (uid {old.uid[:8]}, {old.ip} on {old.node})",
            f"{new.title} (uid {new.uid[:8]}) runs {milliseconds:.0f} ms later with {new.ip} of "
            f"{node.name}'s lease {node.subnet}, and answers",
            f"{old.owner} has {wanted} of {wanted} pods running again",
        ],
        shot.verdict.passages,
    )


def _without(context: Context, old: PodState) -> Cluster:
    """Return the lab once *old*, which was told to end, is gone. Raises Failure."""
    deadline = time.monotonic() + LINGER + WITHIN
    while True:
        now = context.refreshed()
        if all(pod.uid != old.uid for pod in now.pods):
            return now
        if time.monotonic() > deadline:
            raise Failure(f"{old.title} was deleted, and is still in etcd")
        time.sleep(LOOK)


def replicas_of(cluster: Cluster, pod: PodState) -> int:
    """Return how many pods the owner of *pod* is to have."""
    kind, _, name = pod.owner.partition("/")
    for document in cluster.documents:
        meta = document["metadata"]
        whose = document["kind"], meta["name"], meta.get("namespace", "default")
        if whose == (kind, name, pod.namespace):
            return int(document["spec"].get("replicas", 1))
    raise Failure(f"etcd has no {pod.owner}, which {pod.title} says it belongs to")


def somebody_replaces(context: Context, old: PodState) -> None:
    """Raise Failure when there is no agent to run the controllers: then nothing is deleted."""
    words = f"{old.title} was not deleted, as nobody would replace it"
    somebody_acts(context.live, words, last_seen=f"{old.owner} with {old.title}")


def _brought_about(context: Context) -> Death:
    """Delete a pod; return its death once another runs. Raises Failure, Skip."""
    before = context.refreshed()
    context.pods = open_pods(before)
    old = victim(context)
    somebody_replaces(context, old)
    began = time.monotonic()
    context.delete(document_of(before, old))
    _replacement(context, Death(before, old, 0))
    return Death(before, old, time.monotonic() - began)


def _replacement(context: Context, death: Death) -> tuple[Cluster, PodState]:
    """Wait until as many pods of the same owner run as there should, one of them new; return that
    one and the cluster it is in. Raises Failure."""
    old, wanted = death.pod, replicas_of(death.before, death.pod)
    known = {pod.uid for pod in death.before.pods}
    deadline, running = time.monotonic() + WITHIN, 0
    while time.monotonic() < deadline:
        now = context.refreshed()
        its = [p for p in usable(now) if (p.owner, p.namespace) == (old.owner, old.namespace)]
        new = next((pod for pod in its if pod.uid not in known), None)
        running = len(its)
        if new is not None and running == wanted:
            return now, new
        time.sleep(LOOK)
    raise Failure(
        f"deleted {old.title}; no new pod of {old.owner} runs after {WITHIN:.0f} s: "
        f"it has {running} of {wanted}",
        last_seen=f"{old.owner} with {old.title} deleted",
        expected_next=f"a new pod of {old.owner}, running, with an address",
    )
