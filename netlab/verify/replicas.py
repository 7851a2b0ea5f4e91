"""A pod of a Deployment dies, and another takes its place."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network

from netlab.cluster import Cluster, PodState
from netlab.model.kubernetes import Document
from netlab.packets import Protocol
from netlab.paths.places import of_node, of_pod
from netlab.verify.context import (
    Checked,
    Context,
    Failure,
    Skip,
    listeners,
    required,
    usable,
)

WITHIN = 10.0  # seconds for the replacement to run
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
    before = context.refreshed()
    context.pods = usable(before)
    old = victim(context)
    known = {pod.uid for pod in before.pods}
    began = time.monotonic()
    context.live.delete([document_of(before, old)])
    after, new = _replacement(context, old, known)
    ran = time.monotonic() - began
    node = after.node(new.node)
    if IPv4Address(new.ip) not in IPv4Network(node.subnet):
        raise Failure(f"{new.title} has {new.ip}, outside {node.name}'s lease {node.subnet}")
    if any(pod.uid == old.uid for pod in after.pods):
        raise Failure(f"{old.title} was deleted, and is still in etcd")
    found = listeners(new)
    protocol, port = (found[0].protocol, found[0].port) if found else (Protocol.ICMP, 0)
    shot = required(
        context.shoot(
            of_node(node), of_pod(after, new), protocol=protocol, port=port, cluster=after
        )
    )
    says = shot.answer.says.get("pod") if shot.answer else None
    if found and says != new.name:
        raise Failure(f"{new.ip} was answered by {says}, not by {new.name}")
    return Checked(
        [
            f"deleted {old.title} (uid {old.uid[:8]}, {old.ip} on {old.node})",
            f"{new.title} (uid {new.uid[:8]}) runs {ran * 1000:.0f} ms later with {new.ip} of "
            f"{node.name}'s lease {node.subnet}, and answers",
        ],
        shot.verdict.passages,
    )


def _replacement(context: Context, old: PodState, known: set[str]) -> tuple[Cluster, PodState]:
    """Wait for a new pod of the same owner to run; return it and the cluster it is in."""
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        now = context.refreshed()
        for pod in usable(now):
            if pod.owner == old.owner and pod.uid not in known:
                return now, pod
        time.sleep(LOOK)
    raise Failure(
        f"deleted {old.title}; no new pod of {old.owner} runs after {WITHIN:.0f} s",
        last_seen=f"{old.owner} with {old.title} deleted",
        expected_next=f"a new pod of {old.owner}, running, with an address",
    )
