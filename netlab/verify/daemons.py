"""A node joins the lab, gets a pod of each DaemonSet, and leaves again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from netlab import patience
from netlab.agent.place import mailbox_of_master
from netlab.cluster import Cluster, PodState
from netlab.controllers.change import now
from netlab.errors import InputError
from netlab.flannel import lease
from netlab.flannel.config import SUBNETS
from netlab.kernel import netns as namespaces
from netlab.model.faults import Fault, Sort, with_faults
from netlab.model.lab import LabNode
from netlab.packets import Protocol
from netlab.topology import growth
from netlab.verify import joining
from netlab.verify.context import (
    Checked,
    Context,
    Failure,
    Skip,
    listeners,
    open_pods,
    required,
    somebody_acts,
)

NAME = "joined"
WITHIN = patience.seconds(15.0)  # seconds for the node to have its pods, and for it to be gone
TTL = 2 * WITHIN  # seconds a machine that is played lives at most
LOOK = 0.02  # seconds between two looks
T = TypeVar("T")


def daemonset(context: Context) -> Checked:
    """Every node has one pod of a DaemonSet; a node that joins has one, too, and it answers."""
    context.renew()
    owner, namespace = _daemon_set(context)
    _one_each(context.cluster, owner, namespace)
    if not context.senders:
        raise Skip("needs a running pod to ask from")
    sender = next((pod for pod in context.senders if pod.owner != owner), context.senders[0])
    somebody_acts(context.live, "no node was added", last_seen=f"DaemonSet {owner}")
    began = time.monotonic()
    with _joined(context) as node:
        pod = _until(
            context,
            lambda seen: _on(seen, node, owner, namespace),
            began=began,
            wanted=f"a pod of {owner} on {node}, running",
        )
        took = time.monotonic() - began
        context.renew()
        found = listeners(pod)
        protocol, port = (found[0].protocol, found[0].port) if found else (Protocol.ICMP, 0)
        shot = required(
            context.shoot(
                context.pod_place(sender),
                context.pod_place(pod),
                protocol=protocol,
                port=port,
                cluster=context.cluster,
            )
        )
        says = shot.answer.says.get("pod") if shot.answer else None
        if found and says != pod.name:
            raise Failure(
                f"{pod.ip} was answered by {says}, not by {pod.name}",
                last_seen=shot.expectation.request[-1].where,
                expected_next=f"an answer of {pod.title}",
            )
    context.renew()
    _one_each(context.cluster, owner, namespace)
    return Checked(
        [
            f"node {node} joined: {pod.title} of {owner} runs there {took:.1f} s later with "
            f"{pod.ip}, and answers {sender.title}",
            f"{node} left: one pod on each of {len(context.cluster.nodes)} nodes, as before",
        ],
        shot.verdict.passages,
    )


def _daemon_set(context: Context) -> tuple[str, str]:
    """Return the owner's name, and the namespace, of the pods of a DaemonSet for all nodes."""
    nodes = len(context.cluster.nodes)
    for one in context.cluster.documents.of("DaemonSet"):
        if (one.get("status") or {}).get("desiredNumberScheduled") == nodes:
            return f"DaemonSet/{one['metadata']['name']}", one["metadata"]["namespace"]
    raise Skip("needs a DaemonSet that every node suits")


def _one_each(cluster: Cluster, owner: str, namespace: str) -> None:
    for node in cluster.nodes:
        if _on(cluster, node.name, owner, namespace) is None:
            raise Failure(
                f"{node.name} has no running pod of {owner}",
                last_seen="etcd",
                expected_next="one pod on each node",
            )


def _on(cluster: Cluster, node: str, owner: str, namespace: str) -> PodState | None:
    """Return the only pod of *owner* on *node*, None while it does not run, or is not alone."""
    mine = [p for p in open_pods(cluster) if (p.namespace, p.owner) == (namespace, owner)]
    here = [pod for pod in mine if pod.node == node]
    return here[0] if len(here) == 1 else None


@contextmanager
def _joined(context: Context) -> Iterator[str]:
    """Have one more node in the lab for the duration; yield its name."""
    lab = context.live.lab
    names = {node.name for node in lab.nodes}
    name = next(f"{NAME}{n}" for n in range(1, len(names) + 2) if f"{NAME}{n}" not in names)
    if context.here:
        try:
            with _machine(context, name):
                yield name
        finally:  # what is proven next goes by who is a node
            _until_gone(context, name)
        return
    try:
        grown = growth.with_node(lab, name, labels={})
    except InputError as error:
        raise Skip(f"needs room for one more node: {error}") from error
    fault = Fault(Sort.NODE_ADD, name, since=now())
    context.live.populate(msgspec.structs.replace(grown, faults=with_faults(grown.faults, [fault])))
    try:
        yield name
    finally:
        after = context.live.lab
        nodes = [node for node in after.nodes if node.name != name]
        faults = tuple(one for one in after.faults if one.target != name)
        context.live.populate(msgspec.structs.replace(after, nodes=nodes, faults=faults))
        _until_gone(context, name)


def _until_gone(context: Context, name: str) -> None:
    gone = context.live.lab.netns(name)

    def without_a_trace(seen: Cluster) -> bool | None:
        left = any(name in (pod.node, *(one.name for one in seen.nodes)) for pod in seen.pods)
        if left or namespaces.exists(gone):
            return None
        return bool(context.live.status()["converged"]) or None

    began = time.monotonic()
    _until(context, without_a_trace, began=began, wanted=f"{name} gone without a trace")


@contextmanager
def _machine(context: Context, name: str) -> Iterator[None]:
    """Have one machine more in a lab of several: the next one plays it, and the master declares it.

    What both were told to do ends by itself after some time.
    """
    if context.lab.dual:
        raise Skip("needs one stack: a machine behind another is reached by IPv4 alone")
    with context.etcd() as etcd:
        leases, _ = lease.peers(etcd.range(SUBNETS).items)
    host, address = joining.place_behind(context, {held.public_ip for held in leases})
    node = msgspec.to_builtins(LabNode(name, address, host=host))
    words = {"node": node, "seconds": TTL}
    with (
        context.away(mailbox_of_master(context.lab), "declared", words),
        context.away(host, "machine", words),
        context.joined(name),
    ):
        yield


def _until(
    context: Context, found: Callable[[Cluster], T | None], *, began: float, wanted: str
) -> T:
    """Return what *found* finds in the lab, once it does. Raises Failure."""
    while True:
        context.live.reread()
        answer = found(context.refreshed())
        if answer is not None:
            return answer
        if time.monotonic() - began > WITHIN:
            raise Failure(
                f"after {WITHIN:.0f} s there is not yet: {wanted}",
                last_seen="etcd",
                expected_next=wanted,
            )
        time.sleep(LOOK)
