"""What a kubelet asks of a pod before it takes it up: whoever names its node asks no scheduler.

The first thing that does not fit is told, as upstream, and is the end of that pod: it never runs,
and nothing that changes later takes it up. Pods that the node has taken up stay, whatever changes.
Source: kubernetes pkg/kubelet/lifecycle/predicate.go, pkg/scheduler AdmissionCheck (v1.34), whose
words these are; kubelet.go, rejectPod.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from netlab.controllers import placement
from netlab.controllers.hostports import HostPorts, host_ports
from netlab.controllers.podstate import REJECTED, ended, status_of
from netlab.model.kubernetes import Document

NO_PORTS = "node(s) didn't have free ports for the requested pod ports"
NOT_CHOSEN = "node(s) didn't match Pod's node affinity/selector"
NOT_TOLERATED = "node(s) had taints that the pod didn't tolerate"
# Every pod tolerates these for a while (plugin/pkg/admission/defaulttolerationseconds), and the
# node that asks is there.
BY_NODE_CONTROLLER = (placement.NOT_READY, placement.UNREACHABLE)


class Rejection(NamedTuple):
    """Why a pod is not taken up: the reason in its status, and the message of its event."""

    reason: str  # NodePorts
    message: str

    def of(self, pod: Document) -> Document:
        """Return *pod* as one that has failed by this."""
        status = {"phase": "Failed", "reason": self.reason, "message": REJECTED + self.message}
        return {**pod, "status": {**status_of(pod), **status}}


def rejections(
    new: Iterable[Document],
    taken: Collection[Document],
    node: Document | None,
    *,
    addresses: int,
) -> dict[str, Rejection]:
    """Return which of the *new* pods a node does not take up, by uid: the oldest come first.

    *taken*: the pods it has taken up; *node*: its object, None when it is not known; *addresses*:
    how many pods can have one of their own.
    """
    ports = HostPorts()
    for pod in taken:
        if not ended(pod):
            ports.take(pod)
    used = sum(map(_needs_address, taken))  # also by those that have ended
    found: dict[str, Rejection] = {}
    for pod in sorted(new, key=_age):
        why = _full(pod, used, addresses) or _unfit(pod, node, ports)
        if why is not None:
            found[pod["metadata"]["uid"]] = why
            continue
        ports.take(pod)
        used += _needs_address(pod)
    return found


def _age(pod: Document) -> tuple[str, str, str]:
    meta = pod["metadata"]
    return str(meta.get("creationTimestamp", "")), meta.get("namespace", ""), meta["name"]


def _needs_address(pod: Document) -> bool:
    return not pod["spec"].get("hostNetwork")


def _full(pod: Document, used: int, addresses: int) -> Rejection | None:
    if not _needs_address(pod) or used < addresses:
        return None
    counted = f"pods, requested: 1, used: {used}, capacity: {addresses}"
    return Rejection("OutOfpods", f"Node didn't have enough resource: {counted}")


def _unfit(pod: Document, node: Document | None, ports: HostPorts) -> Rejection | None:
    if node is not None and not placement.chosen(pod["spec"], node):
        return _predicate("NodeAffinity", NOT_CHOSEN)
    if ports.conflict(host_ports(pod)):
        return _predicate("NodePorts", NO_PORTS)
    taints = [] if node is None else placement.taints(node)
    evicting = [one for one in taints if one.get("key") not in BY_NODE_CONTROLLER]
    if placement.untolerated(pod["spec"], evicting, (placement.NO_EXECUTE,)):
        return _predicate("TaintToleration", NOT_TOLERATED)
    return None


def _predicate(name: str, why: str) -> Rejection:
    return Rejection(name, f"Predicate {name} failed: {why}")
