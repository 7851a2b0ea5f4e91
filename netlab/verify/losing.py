"""A node is lost, really: its cable is pulled. Its pods come up elsewhere, and it comes back.

The node goes on as it was, cut off; it learns what has become of its pods when it is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

from netlab import patience
from netlab.cluster import Cluster, NodeState, PodState
from netlab.controllers import nodes
from netlab.controllers.change import now
from netlab.errors import NetlabError
from netlab.model.faults import Fault, Sort
from netlab.packets import Flow
from netlab.proxy import Frontend
from netlab.sensors.stream import Stream
from netlab.verify.context import Checked, Context, Failure, Skip, open_pods, somebody_acts
from netlab.verify.services import asking, balanced
from netlab.verify.serving import Decisions, most_served, pods_of

# Seconds beyond the grace period for pods, endpoints and rules to follow.
FOLLOWED = patience.seconds(10.0)
CUT = patience.seconds(7.0)  # seconds beyond the grace period for a machine to be cut off
BACK = patience.seconds(15.0)  # seconds for the node to be whole again
PACE = 100.0  # flows per second
ASKED = 1.0  # seconds of them
LOOK = 0.02  # seconds between two looks
SHOWN = 3


def node_lost(context: Context) -> Checked:
    """A node's cable is pulled: its pods are replaced elsewhere, their Services answer."""
    context.renew()
    lost, frontends = _victim(context)
    grace = context.lab.nodeLifecycle.gracePeriodSeconds
    gone = [pod for pod in context.pods if pod.node == lost.name and _replaced(pod)]
    before = {pod.uid for pod in context.cluster.pods}
    somebody_acts(context.live, f"{lost.name} was not cut off", last_seen=lost.netns)
    began = time.monotonic()
    with _cut_off(context, lost) as cable:
        marked = _until(
            context,
            lambda seen: _is_lost(seen, lost),
            within=grace + FOLLOWED,
            began=began,
            wanted=f"node {lost.name} not Ready",
        )
        elsewhere = _until(
            context,
            lambda seen: not _missing(seen, gone, before, lost),
            within=grace + FOLLOWED,
            began=began,
            wanted=f"{len(gone)} pods elsewhere in place of those of {lost.name}",
        )
        forgotten = _forgotten(context, lost, gone, began=began, within=grace + FOLLOWED)
        context.renew()
        lines = _in_place(context, gone, before, lost)
        asked = _asked(context, lost, frontends)
    restored = time.monotonic()
    back = _back(context, lost, gone, began=restored)
    context.renew()
    return Checked(
        [
            f"{lost.name} cut off ({cable}): NotReady after {marked:.1f} s "
            f"(grace {grace} s), its {len(gone)} pods replaced after {elsewhere:.1f} s, their "
            f"addresses gone from the other nodes' rules after {forgotten:.1f} s",
            *lines,
            asked,
            f"no more: {lost.name} Ready and whole after {back:.1f} s, the pods it went on with "
            "ended",
        ]
    )


@contextmanager
def _cut_off(context: Context, node: NodeState) -> Iterator[str]:
    """Have *node* cut off from all others meanwhile; yield how.

    A machine of its own, which nobody can tell anything then, was told for how long.
    """
    if context.here:
        seconds = context.lab.nodeLifecycle.gracePeriodSeconds + CUT
        began = time.monotonic()
        context.begin_away(node.name, "cut", {"seconds": seconds})
        try:
            yield "its rules drop what comes from, and goes to, the other machines"
        finally:
            time.sleep(max(0.0, began + seconds - time.monotonic()))
        return
    context.live.fault([Fault(Sort.LINK_DOWN, node.name, since=now())])
    try:
        yield "its cable pulled"
    finally:
        context.live.fault(remove=[(Sort.LINK_DOWN.value, node.name)])


def _replaced(pod: PodState) -> bool:
    return pod.owner.startswith(("ReplicaSet/", "StatefulSet/"))


def _victim(context: Context) -> tuple[NodeState, list[Frontend]]:
    """Return the node to lose, and the Services with endpoints there and elsewhere."""
    if len(context.cluster.nodes) < 2:
        raise Skip("needs two nodes")
    decisions = Decisions(context)
    losable = context.cluster.nodes
    if context.here:  # nobody can do without etcd, or without itself
        apart = (context.lab.master.address, context.lab.node(context.here).address)
        losable = tuple(one for one in losable if one.address not in apart)
        if not losable:
            raise Skip("needs a machine beside the one that looks and the one that has etcd")
    for node in reversed(losable):
        others = [one for one in context.cluster.nodes if one.name != node.name]
        if not any(pod.node == node.name and _replaced(pod) for pod in context.pods):
            continue
        served = [
            one
            for one in balanced(context, decisions.of(others[0]))
            if any(p.node == node.name and _replaced(p) for p in pods_of(context, one))
            and all(_replaced(p) for p in pods_of(context, one))
        ]
        if served:
            return node, list(most_served(served))
    where = " or ".join(one.name for one in losable) if context.here else "a node"
    raise Skip(f"needs a Service in front of a Deployment with a pod on {where}")


def _until(
    context: Context,
    true: Callable[[Cluster], bool],
    *,
    within: float,
    began: float,
    wanted: str,
) -> float:
    """Return the seconds since *began* until *true* of the lab. Raises Failure."""
    while True:
        if true(context.refreshed()):
            return time.monotonic() - began
        if time.monotonic() - began > within:
            raise Failure(
                f"after {within:.0f} s there is not yet: {wanted}",
                last_seen="etcd",
                expected_next=wanted,
            )
        time.sleep(LOOK)


def _is_lost(cluster: Cluster, node: NodeState) -> bool:
    found = [one for one in cluster.documents.of("Node") if one["metadata"]["name"] == node.name]
    return bool(found) and nodes.lost(found[0])


def _missing(
    cluster: Cluster, gone: Sequence[PodState], before: set[str], lost: NodeState
) -> list[str]:
    """Return the owners that have not as many pods yet as they had, none of them on *lost*."""
    owners = {(pod.namespace, pod.owner) for pod in gone}
    found = []
    for owner in owners:
        wanted = sum((pod.namespace, pod.owner) == owner for pod in gone)
        new = [
            pod
            for pod in open_pods(cluster)
            if (pod.namespace, pod.owner) == owner
            and pod.uid not in before
            and pod.node != lost.name
        ]
        if len(new) < wanted:
            found.append("/".join(owner))
    return found


def _forgotten(
    context: Context, lost: NodeState, gone: Sequence[PodState], *, began: float, within: float
) -> float:
    """Return the seconds since *began* until no rule of the other nodes names a lost address."""
    addresses, mode = [pod.ip for pod in gone], context.lab.proxyMode
    waiting = [node for node in context.cluster.nodes if node.name != lost.name]
    while waiting:
        still = []
        for node in waiting:
            reads = [context.read(node, "named", address=one, mode=mode) for one in addresses]
            if any(names for _, names in reads):
                still.append(node)
        waiting = still
        took = time.monotonic() - began
        if waiting and took > within:
            names = ", ".join(node.name for node in waiting)
            raise Failure(
                f"after {took:.1f} s the rules of {names} still name pods of {lost.name}",
                last_seen=f"{waiting[0].netns} rules of its proxy",
                expected_next=f"none of {', '.join(addresses)}",
            )
        if waiting:
            time.sleep(LOOK)
    return took


def _in_place(
    context: Context, gone: Sequence[PodState], before: set[str], lost: NodeState
) -> list[str]:
    """Return who came in place of whom, each with an address of its node's lease."""
    owners = {(pod.namespace, pod.owner) for pod in gone}
    lines = []
    for pod in context.pods:
        if (pod.namespace, pod.owner) not in owners or pod.uid in before:
            continue
        node = context.cluster.node(pod.node)
        if IPv4Address(pod.ip) not in IPv4Network(node.subnet):
            raise Failure(f"{pod.title} has {pod.ip}, outside {node.name}'s lease {node.subnet}")
        lines.append(
            f"{pod.title} (uid {pod.uid[:8]}) in place of one of {lost.name}: {pod.ip} of "
            f"{pod.node}'s lease {node.subnet}"
        )
    return lines


def _asked(context: Context, lost: NodeState, frontends: Sequence[Frontend]) -> str:
    """Ask the Services in the state that has settled; return what was answered. Raises Failure."""
    sender = next((pod for pod in context.senders if pod.node != lost.name), None)
    if sender is None:
        raise Skip("needs a running pod on another node")
    decisions = Decisions(context)
    flows = [asking(context, decisions, context.pod_place(sender), one).flow for one in frontends]
    flows = [Flow("", one.destination, one.protocol, 0, one.destination_port) for one in flows]
    with Stream(sender.netns, flows, pace=PACE) as stream:
        time.sleep(ASKED)
        told = stream.end()
    bad = [one for one in told if one.trouble]
    if bad:
        raise Failure(
            f"{len(bad)} of {len(told)} flows failed with {lost.name} lost and all settled",
            *(f"{one.flow}: {one.trouble}" for one in bad[:SHOWN]),
            last_seen=sender.netns,
            expected_next="an answer to each",
        )
    names = ", ".join(f"{one.destination}:{one.destination_port}/{one.protocol}" for one in flows)
    return f"{len(told)} flows from {sender.title} to {names} meanwhile: every one answered"


def _back(context: Context, lost: NodeState, gone: Sequence[PodState], *, began: float) -> float:
    """Return the seconds since *began* until the node is as the lab has it. Raises Failure."""

    def whole(seen: Cluster) -> bool:
        if _is_lost(seen, lost):
            return False
        try:
            if any(context.read(lost, "exists", name=pod.netns) for pod in gone):
                return False
        except NetlabError:
            return False  # its machine has not come back to the mailbox
        return bool(context.live.status()["converged"])

    return _until(context, whole, within=BACK, began=began, wanted=f"{lost.name} whole again")
