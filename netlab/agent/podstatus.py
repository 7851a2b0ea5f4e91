"""A pod's status, as a kubelet writes it: pure, from what has become of its containers."""

from __future__ import annotations

from collections.abc import Sequence

from netlab.cluster import PodState
from netlab.controllers.change import now
from netlab.model.kubernetes import Document


def pod_status(pod: PodState, old: Document, containers: Sequence[Document]) -> Document:
    """Return a pod's status, as the kubelet writes it, from what became of its containers.

    *containers*: `name`, `problem` of its server ("" when it listens), and for one that runs a
    command `state` ({running|waiting|terminated: …}) and `restartCount`; where probes decide,
    `ready`, `started`, and `unready`: why it is not.
    """
    began = old.get("startTime") or now()
    images = {container.name: container.image for container in pod.containers}
    statuses = [_container_status(item, images, began) for item in containers]
    waiting = [status["state"]["waiting"] for status in statuses if "waiting" in status["state"]]
    unready = next((item["unready"] for item in containers if "unready" in item), "")
    problem = next((state.get("message", state["reason"]) for state in waiting), unready)
    ready = all(status["ready"] for status in statuses)
    ended = [s["state"].get("terminated") for s in statuses]
    phase = "Running"
    if statuses and all(ended) and pod.restart_policy != "Always":
        phase = "Succeeded" if all(end and not end["exitCode"] for end in ended) else "Failed"
    elif any("waiting" in s["state"] and not s["restartCount"] for s in statuses):
        phase = "Pending"
    status = {key: value for key, value in old.items() if key not in ("message", "reason")}
    status |= {
        "phase": phase,
        "startTime": began,
        "conditions": _conditions(old.get("conditions", []), ready=ready),
        "containerStatuses": statuses,
    }
    return status | ({"message": problem} if problem else {})


def _container_status(item: Document, images: dict[str, str], began: str) -> Document:
    state = item.get("state")
    if state is None:
        state = (
            {"waiting": {"reason": "BindError", "message": f"{item['name']}: {item['problem']}"}}
            if item["problem"]
            else {"running": {"startedAt": began}}
        )
    return {
        "name": item["name"],
        "image": images.get(item["name"], ""),
        "imageID": "",
        "ready": "running" in state and item.get("ready", True),
        "started": "running" in state and item.get("started", True),
        "restartCount": item.get("restartCount", 0),
        "state": state,
    } | ({"lastState": item["lastState"]} if "lastState" in item else {})


def _conditions(old: Sequence[Document], *, ready: bool) -> list[Document]:
    """Return the pod's conditions; one that keeps its status keeps its time."""
    before = {condition["type"]: condition for condition in old}
    conditions = []
    for kind, true in (
        ("PodScheduled", True),
        ("Initialized", True),
        ("ContainersReady", ready),
        ("Ready", ready),
    ):
        status = "True" if true else "False"
        held = before.get(kind)
        if held is not None and held["status"] == status:
            conditions.append(held)
        else:
            conditions.append({"type": kind, "status": status, "lastTransitionTime": now()})
    return conditions
