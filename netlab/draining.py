"""Which pods `drain` takes from a node, and what it refuses: pure.

Source: kubernetes staging/src/k8s.io/kubectl/pkg/drain/filters.go, v1.30.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from netlab.controllers.change import controller
from netlab.model.kubernetes import ENDED, Document


class Plan(NamedTuple):
    """What to evict; `errors`: why nothing may be; `warnings`: what is passed over or lost."""

    evicted: tuple[Document, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def plan(
    pods: Iterable[Document],
    *,
    daemon_sets: Sequence[Document],
    force: bool,
    ignore_daemon_sets: bool,
    delete_empty_dir_data: bool,
) -> Plan:
    """Return what draining a node of *pods* does. *daemon_sets*: those there are: a pod of one
    that is gone is as good as nobody's."""
    evicted: list[Document] = []
    errors: dict[str, list[str]] = {}
    warnings: dict[str, list[str]] = {}
    alive = {one["metadata"]["uid"] for one in daemon_sets}
    for pod in pods:
        stays = False
        for refusal, warning, allowed, keeps in _objections(
            pod, alive, force, ignore_daemon_sets, delete_empty_dir_data
        ):
            group, text = (warnings, warning) if allowed else (errors, refusal)
            group.setdefault(text, []).append(_title(pod))
            stays = stays or keeps
        if not stays:
            evicted.append(pod)
    return Plan(tuple(evicted), _told(errors), _told(warnings))


def _objections(
    pod: Document, daemon_sets: set[str], force: bool, ignore: bool, delete_data: bool
) -> Iterator[tuple[str, str, bool, bool]]:
    """Yield refusal, warning, whether an option allows it, and whether the pod stays then."""
    owner = controller(pod)
    finished = pod.get("status", {}).get("phase") in ENDED
    by_daemon_set = owner is not None and owner.get("kind") == "DaemonSet"
    if by_daemon_set and owner is not None and owner.get("uid") in daemon_sets:
        yield (
            "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)",
            "ignoring DaemonSet-managed Pods",
            ignore,
            True,
        )
        return
    volumes = pod["spec"].get("volumes") or []
    if not finished and any("emptyDir" in volume for volume in volumes):
        yield (
            "cannot delete Pods with local storage (use --delete-emptydir-data to override)",
            "deleting Pods with local storage",
            delete_data,
            False,
        )
    if not finished and owner is None:
        yield (
            "cannot delete Pods that declare no controller (use --force to override)",
            "deleting Pods that declare no controller",
            force,
            False,
        )


def _title(pod: Document) -> str:
    return f"{pod['metadata'].get('namespace', 'default')}/{pod['metadata']['name']}"


def _told(groups: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(f"{text}: {', '.join(pods)}" for text, pods in groups.items())
