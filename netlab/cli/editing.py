"""scale, label, annotate, taint, cordon, uncordon: one object of the live lab is changed, in
kubectl's words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from netlab.cli import names, options
from netlab.cli.change import WAIT, named, settled, title
from netlab.cli.kinds import asked_kind, in_namespace
from netlab.errors import UsageError
from netlab.model.kubernetes import Document

if TYPE_CHECKING:
    from netlab.edits import Pairs
    from netlab.lab.live import Live

Edit = Callable[[Document], Document]
NAMESPACE = click.option(
    "-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces
)
SELECTOR = click.option("-l", "--selector", metavar="SEL", default="", help="Those with labels.")
ALL = click.option("--all", "everything", is_flag=True, help="All of the kind, in the namespace.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a value that is there.")


@options.command(
    "scale",
    example="""
    netlab scale deployment/web --replicas 3
    netlab scale sts db --replicas 3 --current-replicas 2
    """,
)
@click.argument("kind", metavar="KIND[/NAME]", shell_complete=names.scaled)
@click.argument("name", metavar="[NAME]...", nargs=-1, shell_complete=names.objects)
@click.option("--replicas", type=click.IntRange(min=0), required=True, metavar="N")
@click.option("--current-replicas", type=click.IntRange(min=0), metavar="N", help="Only if so many")
@NAMESPACE
@WAIT
@click.pass_context
def scale(
    ctx: click.Context,
    kind: str,
    name: tuple[str, ...],
    replicas: int,
    current_replicas: int | None,
    namespace: str,
    wait: bool,
) -> int:
    """Give a Deployment, ReplicaSet or StatefulSet another number of replicas.

    `netlab up` with the lab's files gives it the number of the files again.
    """
    from netlab import edits

    live = options.live_lab(ctx)
    chosen = objects(live, kind, name, namespace)
    return written(
        live,
        chosen,
        lambda one: edits.scaled(one, replicas, current=current_replicas),
        lambda old, new: "scaled",
        wait=wait,
    )


def _labelling(field: str) -> Callable[..., int]:
    """Return what `label` and `annotate` do with their words."""

    def command(
        ctx: click.Context,
        words: tuple[str, ...],
        overwrite: bool,
        namespace: str,
        selector: str,
        everything: bool,
        wait: bool,
    ) -> int:
        from netlab import edits

        resources, changes = parted(words)
        if not changes:
            what = field.removesuffix("s")
            raise UsageError(f"at least one {what} update is required", hint="KEY=VALUE or KEY-")
        wanted = edits.pairs(changes, labels=field == "labels")
        live = options.live_lab(ctx)
        kind, *called = resources or ("",)
        chosen = objects(live, kind, called, namespace, selector=selector, everything=everything)

        def message(old: Document, new: Document) -> str:
            return labelled(old, new, wanted, overwrite) if field == "labels" else "annotated"

        return written(
            live,
            chosen,
            lambda one: edits.paired(one, field, wanted, overwrite=overwrite),
            message,
            wait=wait,
        )

    return command


def parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that name objects, and those that are pairs: the first pair ends the names.

    Source: kubectl pkg/cmd/util/kubectl_match_version.go, GetResourcesAndPairs.
    """
    for index, word in enumerate(words):
        if index and ("=" in word or word.endswith("-")):
            return list(words[:index]), list(words[index:])
    return list(words), []


def labelled(old: Document, new: Document, wanted: Pairs, overwrite: bool) -> str:
    """Return kubectl's word for what became of an object's labels."""
    held = old["metadata"].get("labels") or {}
    for key in wanted.remove:
        if key not in held:
            print(f'label "{key}" not found.')
    if new is old:
        return "not labeled"
    return "labeled" if wanted.set or overwrite else "unlabeled"


def _command(
    name: str, function: Callable[..., int], summary: str, example: str
) -> options.Command:
    """Return `label` or `annotate`: the same words and options."""
    function = click.pass_context(function)
    words = click.argument(
        "words",
        nargs=-1,
        metavar="KIND NAME... KEY=VALUE... KEY-...",
        shell_complete=names.labelled,
    )
    for decorate in (WAIT, ALL, SELECTOR, NAMESPACE, OVERWRITE, words):
        function = decorate(function)
    function.__doc__ = summary
    return options.command(name, example=example)(function)


label = _command(
    "label",
    _labelling("labels"),
    """Set or remove labels of objects.

    Services follow at once: what a selector no longer matches leaves their endpoints.
    """,
    """
    netlab label pod archive tier=cold
    netlab label pod archive app=other --overwrite
    netlab label node node1 disk-
    netlab label pods -l app=web canary=no
    """,
)
annotate = _command(
    "annotate",
    _labelling("annotations"),
    "Set or remove annotations of objects.",
    """
    netlab annotate deployment web kubernetes.io/change-cause='new image'
    netlab annotate pod archive owner-
    """,
)


@options.command(
    "taint",
    example="""
    netlab taint node node1 dedicated=db:NoSchedule
    netlab taint nodes node1 dedicated-
    netlab taint nodes -l disk=ssd slow:PreferNoSchedule
    """,
)
@click.argument(
    "words", nargs=-1, metavar="node NAME... KEY[=VALUE]:EFFECT...", shell_complete=names.tainted
)
@OVERWRITE
@SELECTOR
@ALL
@WAIT
@click.pass_context
def taint(
    ctx: click.Context,
    words: tuple[str, ...],
    overwrite: bool,
    selector: str,
    everything: bool,
    wait: bool,
) -> int:
    """Set or remove taints of nodes: who does not tolerate them is kept off, or thrown out."""
    from netlab import edits

    kind, *rest = words or ("",)
    first = next((i for i, word in enumerate(rest) if ":" in word or word.endswith("-")), len(rest))
    called, specs = rest[:first], rest[first:]
    if kind.partition("/")[0] not in ("node", "nodes", "no"):
        raise UsageError(
            "only nodes have taints", hint="netlab taint node node1 key=value:NoSchedule"
        )
    new, gone = edits.taints(specs)
    if not specs:
        raise UsageError("at least one taint update is required", hint="key=value:NoSchedule, key-")
    live = options.live_lab(ctx)
    chosen = objects(live, kind, called, "", selector=selector, everything=everything)
    return written(
        live,
        chosen,
        lambda one: edits.tainted(one, new, gone, overwrite=overwrite),
        lambda old, new_: "tainted" if new else "untainted",
        wait=wait,
    )


@options.command("cordon", example="netlab cordon node1")
@click.argument("name", metavar="NODE...", nargs=-1, shell_complete=names.nodes)
@SELECTOR
@WAIT
@click.pass_context
def cordon(ctx: click.Context, name: tuple[str, ...], selector: str, wait: bool) -> int:
    """Have a node take no new pods; those on it stay."""
    live = options.live_lab(ctx)
    chosen = objects(live, "node", [*map(node_name, name)], "", selector=selector)
    return cordoned(live, chosen, on=True, wait=wait)


@options.command("uncordon", example="netlab uncordon node1")
@click.argument("name", metavar="NODE...", nargs=-1, shell_complete=names.nodes)
@SELECTOR
@WAIT
@click.pass_context
def uncordon(ctx: click.Context, name: tuple[str, ...], selector: str, wait: bool) -> int:
    """Have a node take pods again."""
    live = options.live_lab(ctx)
    chosen = objects(live, "node", [*map(node_name, name)], "", selector=selector)
    return cordoned(live, chosen, on=False, wait=wait)


def node_name(word: str) -> str:
    """Return NAME of `NAME` or `node/NAME`."""
    return word.removeprefix("node/").removeprefix("nodes/")


def cordoned(live: Live, nodes: Sequence[Document], *, on: bool, wait: bool) -> int:
    """Cordon or uncordon *nodes*, saying so."""
    from netlab import edits

    word = "cordoned" if on else "uncordoned"
    return written(
        live,
        nodes,
        lambda one: edits.cordoned(one, on),
        lambda old, new: word if new is not old else f"already {word}",
        wait=wait,
    )


def objects(
    live: Live,
    kind: str,
    called: Sequence[str],
    namespace: str,
    *,
    selector: str = "",
    everything: bool = False,
) -> list[Document]:
    """Return the objects that `KIND NAME...`, `KIND/NAME...`, `KIND -l SEL` or `KIND --all` means.

    Raises UsageError, NotFoundError.
    """
    if not kind:
        raise UsageError("say which objects", hint="KIND NAME..., KIND -l SELECTOR, KIND --all")
    if called or "/" in kind:
        if selector or everything:
            raise UsageError("names as well as -l or --all", hint="one of them")
        return named(live, kind, tuple(called), namespace)
    if not (selector or everything):
        raise UsageError(f"which {kind}?", hint=f"{kind} NAME..., {kind} -l SELECTOR, {kind} --all")
    from netlab.cli.selectors import selector as read

    test, documents = read(selector), live.documents()
    wanted = asked_kind(kind, documents)
    found = [
        one
        for one in documents
        if one["kind"] == wanted.kind
        and (not wanted.namespaced or in_namespace(one, namespace))
        and test(one["metadata"].get("labels") or {})
    ]
    if not found:
        print("No resources found", file=sys.stderr)
    return found


def written(
    live: Live,
    chosen: Sequence[Document],
    edit: Edit,
    message: Callable[[Document, Document], str],
    *,
    wait: bool,
) -> int:
    """Write what *edit* makes of the *chosen* objects, say so, and wait for the lab to agree."""
    done = live.edit(chosen, edit)
    for old, new in done:
        print(f"{title(new)} {message(old, new)}")
    changed = any(new is not old for old, new in done)
    return settled(live) if wait and changed else 0
