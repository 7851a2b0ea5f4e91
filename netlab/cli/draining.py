"""drain: a node is emptied, as kubectl does it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netlab.cli import names, options
from netlab.cli.change import SETTLE, settled
from netlab.cli.editing import SELECTOR, cordoned, node_name, objects
from netlab.model.kubernetes import Document

if TYPE_CHECKING:
    from netlab.draining import Plan
    from netlab.lab.live import Live

LOOK = 0.05  # seconds between two looks whether the pods have gone


@options.command(
    "drain",
    example="""
    netlab drain node1 --ignore-daemonsets
    netlab drain node1 --ignore-daemonsets --force --delete-emptydir-data
    netlab uncordon node1
    """,
)
@click.argument("name", metavar="NODE...", nargs=-1, shell_complete=names.nodes)
@click.option("--ignore-daemonsets", is_flag=True, help="Leave the pods of DaemonSets there.")
@click.option("--force", is_flag=True, help="Delete pods that nobody replaces, too.")
@click.option(
    "--delete-emptydir-data", is_flag=True, help="Delete pods with emptyDir volumes, too."
)
@click.option("--pod-selector", metavar="SEL", default="", help="Only the pods with these labels.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@SELECTOR
@click.pass_context
def drain(
    ctx: click.Context,
    name: tuple[str, ...],
    ignore_daemonsets: bool,
    force: bool,
    delete_emptydir_data: bool,
    pod_selector: str,
    dry_run: bool,
    selector: str,
) -> int:
    """Cordon a node and evict its pods, which their controllers replace elsewhere.

    Refuses, before any pod is touched, when there are pods that nobody would replace, or that would
    come back, or whose data would be lost, as kubectl does. `netlab uncordon` undoes the cordon.
    """
    from netlab import draining
    from netlab.cli.selectors import selector as read

    live = options.live_lab(ctx)
    nodes = objects(live, "node", [*map(node_name, name)], "", selector=selector)
    if not dry_run:
        cordoned(live, nodes, on=True, wait=False)
    fits, failed = read(pod_selector), []
    for node in nodes:
        called = node["metadata"]["name"]
        documents = live.documents()
        plan = draining.plan(
            [
                pod
                for pod in documents
                if pod["kind"] == "Pod"
                and pod["spec"].get("nodeName") == called
                and fits(pod["metadata"].get("labels") or {})
            ],
            daemon_sets=[one for one in documents if one["kind"] == "DaemonSet"],
            force=force,
            ignore_daemon_sets=ignore_daemonsets,
            delete_empty_dir_data=delete_emptydir_data,
        )
        if plan.errors:
            failed.append(called)
            refused(called, plan)
        elif dry_run:
            print(
                "\n".join(
                    f"pod/{pod['metadata']['name']} evicted (dry run)" for pod in plan.evicted
                )
            )
        else:
            emptied(live, called, plan)
    if failed:
        print("There are pending nodes to be drained:", file=sys.stderr)
        print("\n".join(f" {called}" for called in failed), file=sys.stderr)
        return 1
    return 0 if dry_run else settled(live)


def refused(node: str, plan: Plan) -> None:
    """Say why *node* is not drained."""
    why = ", ".join(plan.errors)
    print(
        f'error: unable to drain node "{node}" due to error: [{why}], continuing command...',
        file=sys.stderr,
    )


def emptied(live: Live, node: str, plan: Plan) -> None:
    """Evict what *plan* says, and say so as the pods go."""
    if plan.warnings:
        print(f"Warning: {'; '.join(plan.warnings)}", file=sys.stderr)
    for pod in plan.evicted:
        meta = pod["metadata"]
        print(f"evicting pod {meta.get('namespace', 'default')}/{meta['name']}", file=sys.stderr)
    live.delete(plan.evicted)
    awaited(live, plan.evicted)
    for pod in plan.evicted:
        print(f"pod/{pod['metadata']['name']} evicted")
    print(f"node/{node} drained")


def awaited(live: Live, pods: Sequence[Document]) -> None:
    """Return when none of *pods* is there any more, told by its uid, or it has taken too long."""
    uids = {pod["metadata"]["uid"] for pod in pods}
    deadline = time.monotonic() + SETTLE
    while time.monotonic() < deadline:
        there = {one["metadata"].get("uid") for one in live.documents() if one["kind"] == "Pod"}
        if not uids & there:
            return
        time.sleep(LOOK)
