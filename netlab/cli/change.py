"""apply and delete: change the live lab, as kubectl does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netlab.cli import names, options
from netlab.cli.kinds import asked, in_namespace, not_found
from netlab.cli.lifecycle import told_notes
from netlab.cli.progress import Progress
from netlab.cli.rows import kind_of, resource
from netlab.errors import NotFoundError, UsageError
from netlab.model.kubernetes import Document, registry_key

if TYPE_CHECKING:
    from netlab.controllers import Change
    from netlab.lab.live import Live
    from netlab.topology import Declaration

SETTLE = 30.0  # seconds that --wait gives the lab to agree again
PAST = {"create": "created", "update": "configured", "delete": "deleted"}
FILES = click.option(
    "-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", type=click.Path()
)
WAIT = click.option("--wait/--no-wait", default=True, help="Wait until the lab has converged.")


@options.command(
    "apply",
    example="""
    netlab apply -f web.yaml
    netlab get deploy web -o yaml | sed 's/replicas: .*/replicas: 8/' | netlab apply -f -
    """,
)
@FILES
@WAIT
@click.pass_context
def apply(ctx: click.Context, files: tuple[str, ...], wait: bool) -> int:
    """Create or change Kubernetes objects of the live lab; what is not named stays as it is."""
    declared = manifests(files)
    live = options.live_lab(ctx)
    from netlab import topology

    told_notes(topology.check(declared, lab=live.lab, stored=live.documents()))
    changes = live.apply(declared.documents)
    told(changes, asked=declared.documents)
    return settled(live) if wait and changes else 0


@options.command(
    "delete",
    example="""
    netlab delete -f web.yaml
    netlab delete pod archive clock
    netlab delete deploy cart -n shop
    netlab delete pod db-0 --grace-period 5
    netlab delete pod db-1 --force
    """,
)
@click.argument("kind", metavar="[KIND", required=False, shell_complete=names.kinds)
@click.argument("name", metavar="NAME...]", nargs=-1, shell_complete=names.objects)
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@FILES
@WAIT
@click.option(
    "--grace-period",
    "grace",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Instead of what the pod asks for (terminationGracePeriodSeconds, 30).",
)
@click.option("--force", is_flag=True, help="Delete pods at once; what runs is killed.")
@click.pass_context
def delete(
    ctx: click.Context,
    kind: str | None,
    name: tuple[str, ...],
    namespace: str,
    files: tuple[str, ...],
    wait: bool,
    grace: int | None,
    force: bool,
) -> int:
    """Delete objects of the live lab: those in files, or those named.

    A pod that runs leaves its Services, is told to end, and goes once it has.
    """
    if bool(files) == bool(kind) or (kind and not name and "/" not in kind):
        raise UsageError("say which objects", hint="netlab delete -f FILE, or KIND NAME")
    asked = list(manifests(files).documents) if files else []
    live = options.live_lab(ctx)
    if kind:
        asked = named(live, kind, name, namespace)
    changes = live.delete(asked, grace=0 if force else grace)
    told(changes)
    gone = {registry_key(change.document) for change in changes}
    missing = [document for document in asked if registry_key(document) not in gone]
    for document in missing:
        print(f"error: {title(document)} not found", file=sys.stderr)
    code = settled(live) if wait and changes else 0
    return NotFoundError.exit_code if missing else code


def manifests(files: tuple[str, ...]) -> Declaration:
    """Return the Kubernetes objects in *files*, printing the loader's notes.

    Raises InputError with every mistake, UsageError without files or for a Lab document.
    """
    if not files:
        raise UsageError("no files given", hint="-f FILE, -f DIR or -f -")
    from netlab import topology

    declared = topology.load(files, stdin=sys.stdin)
    if declared.lab is not None:
        raise UsageError(
            f"the files hold the Lab document of {declared.lab.name}",
            hint="netlab up changes a whole lab; apply and delete take Kubernetes objects",
        )
    told_notes(declared.notes)
    return declared


def named(live: Live, kind: str, names: tuple[str, ...], namespace: str) -> list[Document]:
    """Return the live objects that `KIND NAME...` means. Raises NotFoundError for a missing one."""
    documents = live.documents()
    found: list[Document] = []
    for wanted, called in asked(kind, names, documents).items():
        there = {
            document["metadata"]["name"]: document
            for document in documents
            if document["kind"] == wanted.kind
            and (not wanted.namespaced or in_namespace(document, namespace))
        }
        for name in called:
            if name not in there:
                raise NotFoundError(not_found(wanted, name, namespace))
            found.append(there[name])
    return found


def told(changes: Sequence[Change], *, asked: Sequence[Document] = ()) -> None:
    """Print what became of each object, as kubectl does: `pod/web created`, `... unchanged`."""
    changed = {registry_key(change.document) for change in changes}
    for change in changes:
        print(f"{title(change.document)} {PAST[change.verb.value]}")
    for document in asked:
        if registry_key(document) not in changed:
            print(f"{title(document)} unchanged")


def title(document: Document) -> str:
    """Return what kubectl calls an object: `pod/web`, `deployment.apps/cart -n shop`."""
    meta = document["metadata"]
    namespace = meta.get("namespace", "default")
    where = f" -n {namespace}" if namespace != "default" else ""
    return f"{resource(kind_of(document))}/{meta['name']}{where}"


def settled(live: Live) -> int:
    """Wait until the lab agrees with what etcd holds now; return 1 when it does not in time."""
    with Progress("waiting") as progress:
        progress("until the lab has converged")
        problems = live.wait(revision=live.revision(), timeout=SETTLE)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0
