"""How far a rollout has come, which revisions there are, and the way back to one: pure.

Source: kubernetes staging/src/k8s.io/kubectl/pkg/polymorphichelpers/{rollout_status,history,
rollback}.go, v1.30.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from netlab.controllers.change import by_controller
from netlab.controllers.deployment import HASH_LABEL, REVISION
from netlab.errors import NetlabError
from netlab.model.kubernetes import Document

CAUSE = "kubernetes.io/change-cause"


def progress(document: Document) -> tuple[str, bool]:
    """Return what kubectl says of a rollout, and whether it is over.

    Raises NetlabError for one that has exceeded its deadline, or cannot be followed.
    """
    return _PROGRESS[document["kind"]](document)


def _unobserved(document: Document, status: dict[str, Any]) -> bool:
    generation = document["metadata"].get("generation", 0)
    return bool(generation > status.get("observedGeneration", 0))


def _deployment(document: Document) -> tuple[str, bool]:
    name, status = document["metadata"]["name"], document.get("status") or {}
    wanted = document["spec"].get("replicas", 1)
    if _unobserved(document, status):
        return "Waiting for deployment spec update to be observed...", False
    for condition in status.get("conditions", ()):
        if condition.get("reason") == "ProgressDeadlineExceeded":
            raise NetlabError(f'deployment "{name}" exceeded its progress deadline')
    waiting = f'Waiting for deployment "{name}" rollout to finish:'
    updated, there = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    if updated < wanted:
        return f"{waiting} {updated} out of {wanted} new replicas have been updated...", False
    if there > updated:
        return f"{waiting} {there - updated} old replicas are pending termination...", False
    if available < updated:
        return f"{waiting} {available} of {updated} updated replicas are available...", False
    return f'deployment "{name}" successfully rolled out', True


def _daemon_set(document: Document) -> tuple[str, bool]:
    name, status = document["metadata"]["name"], document.get("status") or {}
    if _strategy(document) != "RollingUpdate":
        raise NetlabError("rollout status is only available for RollingUpdate strategy type")
    if _unobserved(document, status):
        return "Waiting for daemon set spec update to be observed...", False
    wanted = status.get("desiredNumberScheduled", 0)
    waiting = f'Waiting for daemon set "{name}" rollout to finish:'
    updated = status.get("updatedNumberScheduled", 0)
    if updated < wanted:
        return f"{waiting} {updated} out of {wanted} new pods have been updated...", False
    available = status.get("numberAvailable", 0)
    if available < wanted:
        return f"{waiting} {available} of {wanted} updated pods are available...", False
    return f'daemon set "{name}" successfully rolled out', True


def _stateful_set(document: Document) -> tuple[str, bool]:
    status = document.get("status") or {}
    if _strategy(document) != "RollingUpdate":
        raise NetlabError("rollout status is only available for RollingUpdate strategy type")
    if _unobserved(document, status):
        return "Waiting for statefulset spec update to be observed...", False
    wanted, ready = document["spec"].get("replicas", 1), status.get("readyReplicas", 0)
    if ready < wanted:
        return f"Waiting for {wanted - ready} pods to be ready...", False
    updated = status.get("updatedReplicas", 0)
    rolling = document["spec"].get("updateStrategy", {}).get("rollingUpdate") or {}
    if partition := rolling.get("partition"):
        if updated < (new := max(0, wanted - partition)):
            return (
                f"Waiting for partitioned roll out to finish: {updated} out of {new} new pods "
                "have been updated..."
            ), False
        return f"partitioned roll out complete: {updated} new pods have been updated...", True
    if status.get("updateRevision") != status.get("currentRevision"):
        return (
            f"waiting for statefulset rolling update to complete {updated} pods at revision "
            f"{status.get('updateRevision')}..."
        ), False
    current, there = status.get("currentRevision"), status.get("currentReplicas", 0)
    return f"statefulset rolling update complete {there} pods at revision {current}...", True


def _strategy(document: Document) -> str:
    return str((document["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate"))


_PROGRESS = {
    "Deployment": _deployment,
    "DaemonSet": _daemon_set,
    "StatefulSet": _stateful_set,
}


def revisions(deployment: Document, replica_sets: Iterable[Document]) -> dict[int, Document]:
    """Return the ReplicaSets of *deployment* by the revision each stands for, the first first."""
    owned = by_controller(replica_sets).get(deployment["metadata"]["uid"], [])
    found = {
        int(number): one
        for one in owned
        if (number := (one["metadata"].get("annotations") or {}).get(REVISION, "")).isdecimal()
    }
    return dict(sorted(found.items()))


def cause(document: Document) -> str:
    """Return why a revision was made, if somebody said so."""
    return str((document["metadata"].get("annotations") or {}).get(CAUSE, "<none>"))


def undone(deployment: Document, known: dict[int, Document], *, to: int = 0) -> Document:
    """Return *deployment* with the template of revision *to*, 0 being the one before the last;
    the same object when it has it already. Raises NetlabError as kubectl does."""
    name = deployment["metadata"]["name"]
    if deployment["spec"].get("paused"):
        raise NetlabError(
            f'deployments.apps "{name}" cannot rollback a paused deployment; resume it first '
            "with 'kubectl rollout resume' and try again",
            hint=f"netlab rollout resume deployment/{name}",
        )
    if not to and len(known) < 2:
        raise NetlabError(f'no rollout history found for deployment "{name}"')
    number = to or list(known)[-2]
    if number not in known:
        raise NetlabError(f"unable to find specified revision {number} in history")
    template = known[number]["spec"]["template"]
    meta = template.get("metadata") or {}
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k != HASH_LABEL}
    template = {**template, "metadata": {**meta, "labels": labels}}
    if template == deployment["spec"]["template"]:
        return deployment
    return {**deployment, "spec": {**deployment["spec"], "template": template}}
