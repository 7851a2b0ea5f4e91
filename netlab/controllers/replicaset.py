"""A ReplicaSet keeps its number of pods alive: makes missing ones, gives surplus ones up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from netlab.controllers import podstate
from netlab.controllers.change import Change, Verb, by_controller
from netlab.controllers.clock import Clock
from netlab.model.kubernetes import Document


def pods(
    replica_sets: Iterable[Document], pods: Sequence[Document], *, clock: Clock | None = None
) -> list[Change]:
    """Return what must happen so that each of *replica_sets* has its number of *pods*, and says in
    its status how many there are."""
    clock = clock or Clock()
    owned = by_controller(pods)
    taken: set[str] | None = None
    changes: list[Change] = []
    for replica_set in replica_sets:
        mine = owned.get(replica_set["metadata"]["uid"], [])
        active = [pod for pod in mine if podstate.active(pod)]
        missing = int(replica_set["spec"].get("replicas", 1)) - len(active)
        if missing > 0 and podstate.rested(mine, clock):
            taken = {pod["metadata"]["name"] for pod in pods} if taken is None else taken
            for _ in range(missing):
                pod = _pod(replica_set, taken)
                taken.add(pod["metadata"]["name"])
                changes.append(Change(Verb.CREATE, pod))
        elif missing < 0:
            changes += podstate.given_up(_expendable_first(active)[:-missing], clock)
        changes += podstate.with_status(replica_set, _status(replica_set, active, clock))
    return changes


def _status(replica_set: Document, active: Sequence[Document], clock: Clock) -> dict[str, int]:
    """Return how many of the *active* pods there are, of its template, serving, and for long."""
    seconds = int(replica_set["spec"].get("minReadySeconds") or 0)
    return {
        "replicas": len(active),
        "fullyLabeledReplicas": len(active),
        "readyReplicas": sum(map(podstate.ready, active)),
        "availableReplicas": sum(podstate.available(pod, seconds, clock) for pod in active),
    }


def _expendable_first(pods: Sequence[Document]) -> list[Document]:
    """Return *pods*, the least useful first: unplaced, not running, not ready, then on a node with
    more of them, then the youngest.

    Source: kube-controller-manager pkg/controller/controller_utils.go, ActivePodsWithRanks.
    """
    youngest = sorted(pods, key=lambda pod: pod["metadata"]["name"])
    youngest.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True)
    neighbours = Counter(pod["spec"].get("nodeName") for pod in pods)

    def usefulness(pod: Document) -> tuple[bool, bool, bool, int]:
        node = pod["spec"].get("nodeName")
        running = podstate.status_of(pod).get("phase") == "Running"
        return bool(node), running, podstate.ready(pod), -neighbours[node]

    return sorted(youngest, key=usefulness)


def _pod(replica_set: Document, taken: set[str]) -> Document:
    """Return one more pod of *replica_set*, under a name that is not *taken*."""
    prefix = f"{replica_set['metadata']['name']}-"
    template = replica_set["spec"]["template"]
    pod = podstate.of_template(replica_set, template, podstate.suffixed(prefix, taken))
    pod["metadata"]["generateName"] = prefix
    return pod
