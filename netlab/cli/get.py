"""get: lists of objects, as kubectl prints them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from netlab.cli import names, options, tables
from netlab.cli.kinds import LEASE, asked_kinds, in_namespace, not_found, seen
from netlab.cli.rows import Scene, kind_of, resource, table
from netlab.errors import NotFoundError
from netlab.model.kubernetes import Document, Kind

if TYPE_CHECKING:
    from netlab.lab import Live

PERIOD = 0.3  # seconds between two looks of -w


class Query(NamedTuple):
    """What is asked for, and in which form."""

    kinds: tuple[Kind, ...]
    several: bool  # names carry their kind in the output
    names: tuple[str, ...]
    namespace: str
    everywhere: bool
    selector: str
    output: str


@options.command(
    "get",
    example="""
    netlab get pods -o wide
    netlab get deploy,pods -n shop -l app=cart
    netlab get pod web-1 -o yaml
    netlab get leases
    netlab get labs
    """,
)
@click.argument("kind", metavar="KIND[,KIND...]", shell_complete=names.kinds)
@click.argument("name", nargs=-1, metavar="[NAME]...", shell_complete=names.objects)
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="In every namespace.")
@click.option(
    "-l", "--selector", metavar="SEL", default="", help="Only these labels: app=web,tier!=db."
)
@options.output_option("wide", "json", "yaml", "name")
@click.option("-w", "--watch", is_flag=True, help="Go on printing rows that change, until ^C.")
@click.pass_context
def get(
    ctx: click.Context,
    kind: str,
    name: tuple[str, ...],
    namespace: str,
    everywhere: bool,
    selector: str,
    output: str | None,
    watch: bool,
) -> int:
    """List objects: any Kubernetes kind (plural, singular, short), `all`, `leases`, `labs`.

    -o json and yaml print Kubernetes objects, as a List when there are several.
    """
    if kind in ("labs", "lab"):
        return print_labs(output or "")
    if "/" in kind:
        kind, _, first = kind.partition("/")
        name = (first, *name)
    live = options.live_lab(ctx)
    scene = seen(live)
    kinds = asked_kinds(kind, scene.documents)
    query = Query(kinds, len(kinds) > 1, name, namespace, everywhere, selector, output or "")
    code = print_query(query, scene)
    if watch:
        sys.stdout.flush()  # into a pipe too, the first rows come at once
        watch_query(query, live, shown=scene)
    return code


def selected(query: Query, kind: Kind, documents: Sequence[Document]) -> list[Document]:
    """Return the objects of *kind* that *query* asks for, by namespace and name.

    Raises NotFoundError for a name that no object has.
    """
    from netlab.cli.selectors import selector

    test = selector(query.selector)
    found = [
        document
        for document in documents
        if document["kind"] == kind.kind
        and (not kind.namespaced or query.everywhere or in_namespace(document, query.namespace))
        and test(document["metadata"].get("labels") or {})
    ]
    found.sort(key=lambda d: (d["metadata"].get("namespace", ""), d["metadata"]["name"]))
    if query.names:
        there = {document["metadata"]["name"] for document in found}
        for name in query.names:
            if name not in there:
                raise NotFoundError(not_found(kind, name, query.namespace))
        found = [document for document in found if document["metadata"]["name"] in query.names]
    return found


def print_query(query: Query, scene: Scene) -> int:
    """Print what *query* selects in its form; return the exit code."""
    groups = [(kind, selected(query, kind, scene.documents)) for kind in query.kinds]
    found = [document for _, group in groups for document in group]
    if query.output in ("json", "yaml"):
        print_objects(found, query)
        return 0
    if not found:
        where = (
            ""
            if query.everywhere or not any(k.namespaced for k in query.kinds)
            else (f" in {query.namespace} namespace")
        )
        print(f"No resources found{where}.", file=sys.stderr)
        return 0
    if query.output == "name":
        for document in found:
            print(f"{resource(kind_of(document))}/{document['metadata']['name']}")
        return 0
    print(
        "\n\n".join("\n".join(lines(query, kind, group, scene)) for kind, group in groups if group)
    )
    for kind, group in groups:
        if group and not kind.effective:
            print(
                f"note: {kind.plural} are kept and shown; they have no effect yet", file=sys.stderr
            )
    return 0


def lines(query: Query, kind: Kind, group: Sequence[Document], scene: Scene) -> list[str]:
    """Return the table of one kind."""
    header, rows = cells(query, kind, group, scene)
    return tables.aligned(header, rows)


def cells(
    query: Query, kind: Kind, group: Sequence[Document], scene: Scene
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of one kind as *query* wants them."""
    if kind is LEASE:
        header = ["SUBNET", "NODE", "PUBLIC-IP", "VTEP-MAC", "BACKEND"]
        fields = ("subnet", "node", "publicIP", "vtepMAC", "backend")
        return header, [[document["spec"][field] for field in fields] for document in group]
    return table(
        kind,
        group,
        scene,
        wide=query.output == "wide",
        namespaces=query.everywhere,
        prefixed=query.several,
    )


def print_objects(found: Sequence[Document], query: Query) -> None:
    """Print objects as JSON or YAML: one asked for by name as itself, otherwise a List."""
    one = len(query.names) == 1 and len(query.kinds) == 1
    whole: Document = (
        found[0]
        if one
        else {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": list(found)}
    )
    print(text_of(whole, query.output), end="")


def text_of(document: Document, form: str) -> str:
    """Return *document* as text in *form*, `json` or `yaml`, with a newline at its end."""
    if form == "json":
        import json

        return json.dumps(document, indent=4, ensure_ascii=False) + "\n"
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True))


def watch_query(query: Query, live: Live, *, shown: Scene) -> None:
    """Print rows again as they change from what was *shown*, until interrupted.

    Polls, as `get` only reads: a few hundred milliseconds are soon enough for eyes. The age alone
    is no change.
    """
    before = rows_now(query, shown)
    while True:
        time.sleep(PERIOD)
        now = rows_now(query, seen(live))
        for key, row in now.items():
            if before.get(key) != row:
                print_row(query, row)
        for key, row in before.items():
            if key not in now:
                print_row(query, [*row[:-1], f"{row[-1]} (deleted)"])
        before = now


def rows_now(query: Query, scene: Scene) -> dict[str, list[str]]:
    """Return the rows of *query* in *scene*, by object, without their ages."""
    found: dict[str, list[str]] = {}
    for kind in query.kinds:
        group = selected(query._replace(names=()), kind, scene.documents)
        group = [d for d in group if not query.names or d["metadata"]["name"] in query.names]
        header, rows = cells(query, kind, group, scene)
        for document, row in zip(group, rows, strict=True):
            meta = document["metadata"]
            key = f"{kind.kind}/{meta.get('namespace', '')}/{meta['name']}/{meta.get('uid', '')}"
            found[key] = [c for heading, c in zip(header, row, strict=True) if heading != "AGE"]
    return found


def print_row(query: Query, row: Sequence[str]) -> None:
    """Print one changed row at once."""
    text = (
        f"{query.kinds[0].kind.lower()}/{row[0]}"
        if query.output == "name"
        else tables.GAP.join(row)
    )
    print(text, flush=True)


def print_labs(output: str) -> int:
    """Print every lab of this machine (without root: of this user)."""
    from netlab import lab
    from netlab.cli.lifecycle import every_lab

    states: list[dict[str, Any]] = []
    for name in every_lab():
        try:
            states.append(lab.connect(name).status())
        except Exception as error:  # a lab whose agent is gone is still a lab, and is listed
            states.append({"lab": name, "converged": False, "nodes": [], "problems": [str(error)]})
    if output in ("json", "yaml"):
        print(
            text_of({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": states}, output),
            end="",
        )
    elif not states:
        print("No labs found.", file=sys.stderr)
    elif output == "name":
        print("\n".join(f"lab/{state['lab']}" for state in states))
    else:
        rows = [lab_row(state) for state in states]
        print("\n".join(tables.aligned(["NAME", "NODES", "PODS", "CONVERGED", "PROBLEM"], rows)))
    return 0


def lab_row(state: dict[str, Any]) -> list[str]:
    """Return one lab's cells."""
    problems = state["problems"]
    return [
        state["lab"],
        str(len(state["nodes"])),
        str(sum(node["pods"] for node in state["nodes"])),
        "yes" if state["converged"] else "no",
        problems[0] if problems else "",
    ]
