"""What kubectl says of a rollout, its revisions, and the way back."""

from __future__ import annotations

from typing import Any

import pytest

from netlab import rollout
from netlab.errors import NetlabError
from netlab.model.kubernetes import Document


def workload(kind: str, spec: dict[str, Any], **status: Any) -> Document:
    meta = {"name": "web", "uid": "u", "generation": 1}
    return {"kind": kind, "metadata": meta, "spec": spec, "status": status}


SEEN = {"observedGeneration": 1}
REPLICAS = {"replicas": 3}
PARTITIONED = {**REPLICAS, "updateStrategy": {"rollingUpdate": {"partition": 1}}}
PROGRESS = [
    (workload("Deployment", REPLICAS), "Waiting for deployment spec update to be observed...", 0),
    (
        workload("Deployment", REPLICAS, updatedReplicas=1, replicas=3, **SEEN),
        'Waiting for deployment "web" rollout to finish: 1 out of 3 new replicas have been '
        "updated...",
        0,
    ),
    (
        workload("Deployment", REPLICAS, updatedReplicas=3, replicas=4, **SEEN),
        'Waiting for deployment "web" rollout to finish: 1 old replicas are pending termination...',
        0,
    ),
    (
        workload(
            "Deployment", REPLICAS, updatedReplicas=3, replicas=3, availableReplicas=2, **SEEN
        ),
        'Waiting for deployment "web" rollout to finish: 2 of 3 updated replicas are available...',
        0,
    ),
    (
        workload(
            "Deployment", REPLICAS, updatedReplicas=3, replicas=3, availableReplicas=3, **SEEN
        ),
        'deployment "web" successfully rolled out',
        1,
    ),
    (
        workload("DaemonSet", {}, desiredNumberScheduled=2, updatedNumberScheduled=1, **SEEN),
        'Waiting for daemon set "web" rollout to finish: 1 out of 2 new pods have been updated...',
        0,
    ),
    (
        workload(
            "DaemonSet",
            {},
            desiredNumberScheduled=2,
            updatedNumberScheduled=2,
            numberAvailable=2,
            **SEEN,
        ),
        'daemon set "web" successfully rolled out',
        1,
    ),
    (
        workload("StatefulSet", REPLICAS, readyReplicas=1, **SEEN),
        "Waiting for 2 pods to be ready...",
        0,
    ),
    (
        workload("StatefulSet", REPLICAS, readyReplicas=3, currentReplicas=3, **SEEN),
        "statefulset rolling update complete 3 pods at revision None...",
        1,
    ),
    (
        workload(
            "StatefulSet",
            PARTITIONED,
            readyReplicas=3,
            updatedReplicas=1,
            updateRevision="b",
            currentRevision="a",
            **SEEN,
        ),
        "Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated...",
        0,
    ),
    (
        workload(
            "StatefulSet",
            PARTITIONED,
            readyReplicas=3,
            updatedReplicas=2,
            updateRevision="b",
            currentRevision="a",
            **SEEN,
        ),
        "partitioned roll out complete: 2 new pods have been updated...",
        1,
    ),
]


@pytest.mark.parametrize(("document", "words", "over"), PROGRESS, ids=[c[1][:60] for c in PROGRESS])
def test_progress_is_told_as_kubectl_does(document: Document, words: str, over: int) -> None:
    assert rollout.progress(document) == (words, bool(over))


def test_a_rollout_past_its_deadline_fails() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    with pytest.raises(NetlabError, match='"web" exceeded its progress deadline'):
        rollout.progress(workload("Deployment", REPLICAS, conditions=[late], **SEEN))


def replica_set(number: int, image: str, owner: str = "u") -> Document:
    labels = {"app": "web", "pod-template-hash": image}
    return {
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"web-{image}",
            "annotations": {rollout.REVISION: str(number), rollout.CAUSE: f"image {image}"},
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "spec": {"template": template(image, labels)},
    }


def template(image: str, labels: dict[str, str]) -> Document:
    return {"metadata": {"labels": labels}, "spec": {"containers": [{"image": image}]}}


SETS = [replica_set(10, "c"), replica_set(1, "a"), replica_set(2, "b"), replica_set(7, "x", "v")]
WEB: Document = {
    **workload("Deployment", {**REPLICAS, "template": template("c", {"app": "web"})}),
}


def test_revisions_are_the_deployments_own_in_order() -> None:
    known = rollout.revisions(WEB, SETS)
    assert list(known) == [1, 2, 10]
    assert rollout.cause(known[2]) == "image b"


@pytest.mark.parametrize(("to", "image"), [(0, "b"), (1, "a"), (10, "c")])
def test_undo_takes_the_template_without_the_hash(to: int, image: str) -> None:
    new = rollout.undone(WEB, rollout.revisions(WEB, SETS), to=to)
    assert new["spec"]["template"] == template(image, {"app": "web"})
    assert (new is WEB) == (image == "c")


@pytest.mark.parametrize(
    ("document", "sets", "to", "words"),
    [
        (WEB, SETS[:1], 0, "no rollout history found"),
        (WEB, SETS, 3, "unable to find specified revision 3"),
        ({**WEB, "spec": {**WEB["spec"], "paused": True}}, SETS, 0, "paused deployment"),
    ],
)
def test_undo_that_cannot_be_is_refused(
    document: Document, sets: list[Document], to: int, words: str
) -> None:
    with pytest.raises(NetlabError, match=words):
        rollout.undone(document, rollout.revisions(document, sets), to=to)
