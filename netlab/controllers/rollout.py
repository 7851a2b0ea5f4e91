"""How many pods may be too many or too few while a workload changes, and how it says how far it is.

Source: k8s.io/apimachinery pkg/util/intstr; kube-controller-manager pkg/controller/deployment
(v1.34): util/deployment_util.go, ResolveFenceposts; progress.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from typing import Any

from netlab.controllers import podstate
from netlab.controllers.clock import Clock, stamp
from netlab.model.kubernetes import Document

DEFAULT = "25%"  # maxSurge and maxUnavailable of a Deployment
PROGRESS = 600  # seconds: progressDeadlineSeconds
WHOLE, LATE = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"  # reasons of Progressing


def scaled(value: object, total: int, *, up: bool) -> int:
    """Return a number, or a percentage of *total* in whole pods, rounded *up* or down."""
    if isinstance(value, int):
        return max(0, value)
    text = str(value).removesuffix("%")
    share = int(text) * total / 100 if text.isdigit() else 0
    return ceil(share) if up else floor(share)


def both(rolling: Mapping[str, Any], replicas: int) -> tuple[int, int]:
    """Return maxSurge and maxUnavailable of *rolling* in pods; not both can be none."""
    surge = scaled(rolling.get("maxSurge", DEFAULT), replicas, up=True)
    unavailable = scaled(rolling.get("maxUnavailable", DEFAULT), replicas, up=False)
    if not surge and not unavailable:
        unavailable = 1
    return surge, min(unavailable, replicas)


def _moved(old: Mapping[str, Any], counts: Mapping[str, int]) -> bool:
    """Return whether there are more new, ready or available pods than before, or fewer old ones."""
    held = {key: old.get(key) for key in counts}
    before = {key: value if isinstance(value, int) else 0 for key, value in held.items()}
    grown = ("updatedReplicas", "readyReplicas", "availableReplicas")
    former, left = (one["replicas"] - one["updatedReplicas"] for one in (before, counts))
    return left < former or any(counts[key] > before[key] for key in grown)


def progress(
    deployment: Document, counts: Mapping[str, int], *, least: int, name: str, clock: Clock
) -> list[Document]:
    """Return the conditions of *deployment*, whose present ReplicaSet is called *name*.

    *counts*: its status so far; *least*: how many pods must be available.
    """
    spec, old = deployment["spec"], podstate.status_of(deployment)
    replicas = int(spec.get("replicas", 1))
    enough = counts["availableReplicas"] >= least
    words = "has minimum availability" if enough else "does not have minimum availability"
    available = (
        "True" if enough else "False",
        "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
        f"Deployment {words}.",
    )
    done = all(
        counts[key] == replicas for key in ("replicas", "updatedReplicas", "availableReplicas")
    )
    before = podstate.condition(deployment, "Progressing")
    # One that is whole stays so when it loses pods, until there is another template.
    whole = counts["replicas"] == counts["updatedReplicas"] and before.get("reason") == WHOLE
    moved = _moved(old, counts)
    updated = before.get("lastUpdateTime") or stamp(clock.now)
    deadline = int(spec.get("progressDeadlineSeconds") or PROGRESS)
    if spec.get("paused") and not done:
        told = ("Unknown", "DeploymentPaused", "Deployment is paused")
    elif done or whole:
        words = "has successfully progressed."
        told = ("True", WHOLE, f'ReplicaSet "{name}" {words}')
    elif not moved and before and (before.get("reason") == LATE or clock.after(updated, deadline)):
        told = (
            "False",
            LATE,
            f'ReplicaSet "{name}" has timed out progressing.',
        )
    else:
        told = ("True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.')
    found = podstate.conditions(deployment, {"Available": available, "Progressing": told}, clock)
    if moved or before.get("reason") != told[1]:
        updated = stamp(clock.now)
    found[-1]["lastUpdateTime"] = updated
    return found
