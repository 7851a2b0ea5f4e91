"""Which pods drain evicts, refuses, and passes over."""

from __future__ import annotations

from typing import Any

import pytest

from netlab import draining
from netlab.model.kubernetes import Document

DAEMON_SET: Document = {"kind": "DaemonSet", "metadata": {"name": "ds", "uid": "ds-uid"}}


def pod(name: str, *, owner: str = "", volumes: Any = None, phase: str = "Running") -> Document:
    owners = [{"kind": owner, "name": "o", "uid": "ds-uid", "controller": True}] if owner else []
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "ownerReferences": owners},
        "spec": {"volumes": volumes or []},
        "status": {"phase": phase},
    }


OWNED = pod("owned", owner="ReplicaSet")
NAKED = pod("naked")
DAEMON = pod("daemon", owner="DaemonSet")
LOCAL = pod("local", owner="ReplicaSet", volumes=[{"name": "d", "emptyDir": {}}])
DONE = pod("done", phase="Succeeded")

CASES = [
    (OWNED, {}, True, ""),
    (NAKED, {}, False, "cannot delete Pods that declare no controller (use --force to override)"),
    (NAKED, {"force": True}, True, "deleting Pods that declare no controller"),
    (
        DAEMON,
        {},
        False,
        "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)",
    ),
    (DAEMON, {"ignore_daemon_sets": True}, False, "ignoring DaemonSet-managed Pods"),
    (DAEMON, {"force": True}, False, "cannot delete DaemonSet-managed Pods"),
    (LOCAL, {}, False, "cannot delete Pods with local storage (use --delete-emptydir-data"),
    (LOCAL, {"delete_empty_dir_data": True}, True, "deleting Pods with local storage"),
    (DONE, {}, True, ""),
]


@pytest.mark.parametrize(
    ("one", "options", "evicted", "said"),
    CASES,
    ids=[f"{one['metadata']['name']}-{'-'.join(given)}" for one, given, _, _ in CASES],
)
def test_a_pod_is_evicted_or_not(
    one: Document, options: dict[str, bool], evicted: bool, said: str
) -> None:
    given = {"force": False, "ignore_daemon_sets": False, "delete_empty_dir_data": False}
    plan = draining.plan([one], daemon_sets=[DAEMON_SET], **(given | options))
    told = [*plan.errors, *plan.warnings]
    assert [text.startswith(said) for text in told] == ([True] if said else [])
    assert bool(plan.errors) == said.startswith("cannot")
    if not plan.errors:
        assert (one in plan.evicted) == evicted


def test_a_pod_of_a_daemon_set_that_is_gone_is_like_any_other() -> None:
    plan = draining.plan(
        [DAEMON], daemon_sets=[], force=False, ignore_daemon_sets=False, delete_empty_dir_data=False
    )
    assert plan == ((DAEMON,), (), ())


def test_pods_refused_for_the_same_reason_are_told_together() -> None:
    plan = draining.plan(
        [NAKED, pod("other")],
        daemon_sets=[],
        force=False,
        ignore_daemon_sets=True,
        delete_empty_dir_data=True,
    )
    [error] = plan.errors
    assert error.endswith(": default/naked, default/other")
