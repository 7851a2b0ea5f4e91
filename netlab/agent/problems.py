"""What keeps one pod, or one node's proxy, from being as it should: in plain words."""

from __future__ import annotations

from netlab.cluster import PodState
from netlab.controllers.podstate import REJECTED
from netlab.model.kubernetes import ENDED
from netlab.proxy.options import Options


def other_options(had: Options | None, wanted: Options | None) -> str:
    """Return in words that a node's proxy is still one with the options it *had*; None: foreign."""
    if had is None:
        return "its rules are still a foreign kube-proxy's"
    if wanted is None or had.mode != wanted.mode:
        return f"its rules are still those of mode {had.mode}"
    return f"its proxy has not taken the lab's options of mode {had.mode} yet"


def pod_problem(pod: PodState) -> str:
    """Return what keeps a pod from running, an empty text when it does, or has come to its end.

    A container that waits, to be tried again, leaves its reason in the pod's message. One that its
    node did not take up is lost to who declared it; where a ReplicaSet or Job made it, these count.
    """
    if pod.terminating:
        return f"pod {pod.title}: still terminating"
    ended = pod.phase in ENDED
    if pod.message.startswith(REJECTED) and not pod.owner.startswith(("ReplicaSet/", "Job/")):
        ended = False
    if ended or (pod.phase == "Running" and not pod.message):
        return ""
    return f"pod {pod.title}: {pod.message or pod.phase or 'Pending'}"
