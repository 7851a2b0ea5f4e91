"""What kubectl shows of StatefulSets, DaemonSets, Jobs and ControllerRevisions: their statuses.

Source: kubernetes pkg/printers/internalversion/printers.go (v1.34): printStatefulSet,
printDaemonSet, printJob, printControllerRevision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from netlab.cli import tables
from netlab.controllers.clock import epoch
from netlab.model.kubernetes import Document
from netlab.model.loose import mapping, mappings, number

if TYPE_CHECKING:
    from netlab.cli.rows import Scene

Cell = Callable[["Document", "Scene"], str]


def count(field: str) -> Cell:
    """Return the cell that shows a number of the status."""
    return lambda document, scene: str(number(mapping(document, "status"), field))


def stateful_ready(document: Document, scene: Scene) -> str:
    wanted = number(mapping(document, "spec"), "replicas", 1)
    return f"{number(mapping(document, 'status'), 'readyReplicas')}/{wanted}"


def node_selector(document: Document, scene: Scene) -> str:
    pairs = mapping(document, "spec", "template", "spec", "nodeSelector")
    return ",".join(f"{key}={value}" for key, value in sorted(pairs.items()))


def job_status(document: Document, scene: Scene) -> str:
    """Return what a Job's conditions say of it."""
    for kind in ("Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"):
        for one in mappings(document, "status", "conditions"):
            if one.get("type") == kind and one.get("status") == "True":
                return kind
    if mapping(document, "spec").get("suspend"):
        return "Suspended"
    return "Terminating" if document["metadata"].get("deletionTimestamp") else "Running"


def job_completions(document: Document, scene: Scene) -> str:
    spec, done = mapping(document, "spec"), number(mapping(document, "status"), "succeeded")
    if "completions" in spec:
        return f"{done}/{spec['completions']}"
    parallelism = number(spec, "parallelism", 1)
    return f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"


def job_duration(document: Document, scene: Scene) -> str:
    status = mapping(document, "status")
    began, ended = epoch(status.get("startTime")), epoch(status.get("completionTime"))
    if began is None:
        return ""
    if ended is None:
        return tables.age(str(status["startTime"]))
    return tables.duration(ended - began)


def revision_controller(document: Document, scene: Scene) -> str:
    for one in mappings(document, "metadata", "ownerReferences"):
        if one.get("controller"):
            return f"{str(one.get('kind', '')).lower()}.apps/{one.get('name', '')}"
    return ""


def revision(document: Document, scene: Scene) -> str:
    return str(number(document, "revision"))
