"""rollout: how far a rollout has come, its history, and the way back, as kubectl has it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netlab.cli import names, options, tables
from netlab.cli.change import WAIT, title
from netlab.cli.editing import NAMESPACE, objects, written
from netlab.errors import NetlabError, UsageError
from netlab.model.kubernetes import Document

if TYPE_CHECKING:
    from netlab.lab.live import Live

ACTIONS = ("restart", "status", "history", "undo", "pause", "resume")
LOOK = 0.05  # seconds between two looks
TIMEOUT = 60.0  # seconds


@options.command(
    "rollout",
    example="""
    netlab rollout restart deployment/web
    netlab rollout status deployment/web
    netlab rollout history deployment/web
    netlab rollout undo deployment/web --to-revision 1
    netlab rollout pause deployment/web
    """,
)
@click.argument("action", metavar="|".join(ACTIONS), type=click.Choice(ACTIONS))
@click.argument("kind", metavar="KIND[/NAME]", shell_complete=names.rolled)
@click.argument("name", metavar="[NAME]...", nargs=-1, shell_complete=names.objects)
@click.option("--to-revision", type=click.IntRange(min=0), default=0, metavar="N", help="Of undo.")
@click.option("--revision", type=click.IntRange(min=0), default=0, metavar="N", help="Of history.")
@click.option("--timeout", type=float, default=TIMEOUT, metavar="S", help="Of status, seconds.")
@click.option("-w", "--watch/--no-watch", default=True, help="Of status: until it is over.")
@NAMESPACE
@WAIT
@click.pass_context
def rollout(
    ctx: click.Context,
    action: str,
    kind: str,
    name: tuple[str, ...],
    to_revision: int,
    revision: int,
    timeout: float,
    watch: bool,
    namespace: str,
    wait: bool,
) -> int:
    """Restart a Deployment, StatefulSet or DaemonSet, follow its rollout, or undo it.

    restart writes the time into the pod template, so that all pods are replaced as by any other
    change of it. undo takes the template of the revision before, or of --to-revision.
    """
    from netlab import edits
    from netlab.controllers.change import now

    live = options.live_lab(ctx)
    chosen = objects(live, kind, name, namespace)
    for one in chosen:
        edits.rolled(one)
    if action == "status":
        return max(followed(live, one, timeout=timeout, watch=watch) for one in chosen)
    if action == "history":
        for one in chosen:
            print("\n".join(history(live, one, revision)))
        return 0
    if action == "undo":
        return undo(live, chosen, to_revision, wait=wait)
    at = now()
    edit = {
        "restart": lambda one: edits.restarted(one, at=at),
        "pause": lambda one: edits.paused(one, True),
        "resume": lambda one: edits.paused(one, False),
    }[action]
    done = action + ("d" if action.endswith("e") else "ed")
    return written(live, chosen, edit, lambda old, new: done, wait=wait)


def followed(live: Live, document: Document, *, timeout: float, watch: bool) -> int:
    """Print how the rollout goes on until it is over; return 1 when it is not in *timeout* s."""
    from netlab import rollout as pure

    said, deadline = "", time.monotonic() + timeout
    while True:
        [now] = objects(
            live, document["kind"], [document["metadata"]["name"]], _namespace(document)
        )
        words, over = pure.progress(now)
        if words != said:
            print(words, flush=True)
            said = words
        if over or not watch:
            return 0
        if time.monotonic() > deadline:
            print(f"error: timed out after {timeout:g} s", file=sys.stderr)
            return 1
        time.sleep(LOOK)


def _namespace(document: Document) -> str:
    return str(document["metadata"].get("namespace", "default"))


def _only_deployments(document: Document, what: str) -> None:
    if document["kind"] != "Deployment":
        raise UsageError(
            f"{what} of a {document['kind']} is not there", hint="of deployments it is"
        )


def history(live: Live, document: Document, revision: int) -> list[str]:
    """Return the table of a Deployment's revisions, or the template of one."""
    from netlab import rollout as pure
    from netlab.cli.get import text_of

    _only_deployments(document, "the history")
    known = pure.revisions(document, [d for d in live.documents() if d["kind"] == "ReplicaSet"])
    if revision:
        if revision not in known:
            raise NetlabError("unable to find the specified revision")
        template = text_of(known[revision]["spec"]["template"], "yaml")
        return [f"{title(document)} with revision #{revision}", template.rstrip()]
    rows = [[str(number), pure.cause(one)] for number, one in known.items()]
    return [f"{title(document)} ", *tables.aligned(["REVISION", "CHANGE-CAUSE"], rows), ""]


def undo(live: Live, chosen: Sequence[Document], to: int, *, wait: bool) -> int:
    """Give Deployments the template of another revision."""
    from netlab import rollout as pure

    sets = [one for one in live.documents() if one["kind"] == "ReplicaSet"]
    for one in chosen:
        _only_deployments(one, "undo")
    number = {
        one["metadata"]["uid"]: to or ([0, 0, *pure.revisions(one, sets)])[-2] for one in chosen
    }

    def message(old: Document, new: Document) -> str:
        if new is not old:
            return "rolled back"
        had = number[old["metadata"]["uid"]]
        return f"skipped rollback (current template already matches revision {had})"

    return written(
        live,
        chosen,
        lambda one: pure.undone(one, pure.revisions(one, sets), to=to),
        message,
        wait=wait,
    )
