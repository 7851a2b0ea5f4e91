"""graph: the lab as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netlab.cli import names, options
from netlab.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from netlab.cluster import Cluster

BY_ENDING = {".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg"}


@options.command(
    "graph",
    example="""
    netlab graph
    netlab graph -w lab.svg
    netlab graph -o dot -n shop --no-services | dot -Tpng > shop.png
    netlab graph -f topologies/two-segments.yaml -o svg > rooms.svg
    """,
)
@options.output_option("mermaid", "dot", "svg")
@click.option(
    "-w",
    "--write",
    "file",
    metavar="FILE",
    type=click.Path(),
    help="Write it there, not to stdout.",
)
@click.option(
    "-f",
    "--filename",
    "sources",
    metavar="FILE|DIR|-",
    multiple=True,
    type=click.Path(),
    help="Draw what `up` would make of these files; needs no lab.",
)
@click.option(
    "-n",
    "--namespace",
    metavar="NS",
    default="",
    shell_complete=names.namespaces,
    help="Only its pods and Services.",
)
@click.option("--services/--no-services", default=True, help="With or without Services.")
@click.option("--full", is_flag=True, help="Every pod and Service by itself, however many.")
@click.pass_context
def graph(
    ctx: click.Context,
    output: str | None,
    file: str | None,
    sources: tuple[str, ...],
    namespace: str,
    services: bool,
    full: bool,
) -> None:
    """Draw the lab: segments, nodes with their leases, pods, VTEPs, Services with endpoints.

    A large lab is drawn by workload: `web × 12`. Without -o the name of FILE says the form, and
    mermaid is the one for stdout. An SVG is one file, readable on light and on dark.
    """
    form = output or form_of(file)
    cluster = foreseen(ctx, sources) if sources else options.live_lab(ctx, looking=True).cluster()
    known = [one["metadata"]["name"] for one in cluster.documents.of("Namespace")]
    if namespace and namespace not in known:
        hint = f"namespaces: {', '.join(known)}"
        raise NotFoundError(f"namespace {namespace!r} not found", hint=hint)
    from netlab.picture.dot import dot
    from netlab.picture.mermaid import mermaid
    from netlab.picture.model import picture
    from netlab.picture.svg import svg

    drawn = picture(cluster, namespace=namespace, services=services, full=full)
    forms = {"mermaid": mermaid, "dot": dot, "svg": svg}
    written(forms[form](drawn), file)


def form_of(file: str | None) -> str:
    """Return the form that the name of *file* asks for; mermaid without one. Raises UsageError."""
    ending = Path(file).suffix.lower() if file and file != "-" else ""
    if not ending:
        return "mermaid"
    if ending not in BY_ENDING:
        hint = f"a name that ends in {', '.join(BY_ENDING)}, or -o"
        raise UsageError(f"{file}: its ending says no form", hint=hint)
    return BY_ENDING[ending]


def foreseen(ctx: click.Context, sources: tuple[str, ...]) -> Cluster:
    """Return the lab that `up` would make of *sources*. Raises InputError, UsageError."""
    from netlab.cli.lifecycle import declaration

    declared, _ = declaration(ctx, sources)
    from netlab.lab import forecast

    return forecast.foreseen(declared)


def written(text: str, file: str | None) -> None:
    """Print *text*, or write it to *file*. Raises UsageError."""
    if file is None or file == "-":
        sys.stdout.write(text)
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
