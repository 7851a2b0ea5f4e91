"""get: lists of objects, as kubectl prints them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import click
from click.core import ParameterSource

from netlab.cli import eventrows, names, options, tables
from netlab.cli.kinds import LEASE, asked, in_namespace, not_found, seen, with_time_left
from netlab.cli.rows import Scene, kind_of, resource, table
from netlab.errors import NotFoundError, UsageError
from netlab.model.kubernetes import Document, Kind

UNKNOWN = "<unknown>"
LEASE_HEADER = ("SUBNET", "NODE", "PUBLIC-IP", "VTEP-MAC", "BACKEND", "EXPIRES-IN")


class Query(NamedTuple):
    """What is asked for, and in which form."""

    wanted: dict[Kind, tuple[str, ...]]  # the kinds, each with the names asked for; none: all
    namespace: str  # "" is every namespace
    selector: str
    output: str
    headers: bool = True
    labels: bool = False  # a column with them


@options.command(
    "get",
    example="""
    netlab get pods -o wide
    netlab get deploy,pods -n shop -l app=cart
    netlab get pod pair -o yaml
    netlab get pod/pair deploy/web
    netlab get pods -A -w
    netlab get leases
    netlab get rules node1 --service web -o wide
    netlab get labs
    """,
)
@click.argument("kind", metavar="KIND[,KIND...]|KIND/NAME", shell_complete=names.kinds)
@click.argument("name", nargs=-1, metavar="[NAME]...", shell_complete=names.objects)
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="In every namespace.")
@click.option(
    "-l", "--selector", metavar="SEL", default="", help="Only these labels: app=web,tier!=db."
)
@options.output_option("wide", "json", "yaml", "name")
@click.option("-w", "--watch", is_flag=True, help="Go on printing rows that change, until ^C.")
@click.option("--show-labels", is_flag=True, help="With a column for them.")
@click.option("--no-headers", is_flag=True, help="Without the first line.")
@click.option(
    "--service", metavar="[NS/]NAME", default="", help="Of `rules`: only those of this Service."
)
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
    show_labels: bool,
    no_headers: bool,
    service: str,
) -> int:
    """List objects: any Kubernetes kind (plural, singular, short), `all`, `leases`, `labs`.

    `get rules [NODE...]` lists what the nodes' proxies have programmed, and how often it fired.
    -o json and yaml print Kubernetes objects, as a List when there are several.
    """
    if kind in ("rules", "rule"):
        from netlab.cli.rules import Which, print_rules

        if watch:
            raise UsageError("rules cannot be watched", hint="watch -n1 netlab get rules")
        chosen = ctx.get_parameter_source("namespace") == ParameterSource.COMMANDLINE
        which = Which(name, service, namespace if chosen and not everywhere else "", selector)
        return print_rules(
            options.live_lab(ctx, whole=True), which, output or "", headers=not no_headers
        )
    if service:
        raise UsageError("--service is for rules only", hint="netlab get rules --service web")
    if kind in ("labs", "lab"):
        from netlab.cli.labs import print_labs

        if watch:
            raise UsageError("labs cannot be watched", hint="netlab status shows one lab")
        return print_labs(name, output or "", headers=not no_headers)
    live = options.live_lab(ctx)
    scene = seen(live)
    query = Query(
        asked(kind, name, scene.documents),
        "" if everywhere else namespace,
        selector,
        output or "",
        headers=not no_headers,
        labels=show_labels,
    )
    if LEASE in query.wanted and not watch:  # a time that runs is no change to be watched
        scene = scene._replace(documents=with_time_left(live, scene.documents))
    code = 0
    if watch and output in ("json", "yaml"):
        scene = scene._replace(documents=())  # a stream: what there is comes as what is new
    else:
        code = print_query(query, scene)
    if watch:
        from netlab.cli.watch import watch as watched

        sys.stdout.flush()  # into a pipe too, the first rows come at once
        watched(query, live, shown=scene)
    return code


def selected(query: Query, kind: Kind, documents: Sequence[Document]) -> list[Document]:
    """Return the objects of *kind* that *query* asks for, by namespace and name; Events as seen."""
    from netlab.cli.selectors import selector

    test, names = selector(query.selector), query.wanted[kind]
    found = [
        document
        for document in documents
        if document["kind"] == kind.kind
        and (not names or document["metadata"]["name"] in names)
        and (not kind.namespaced or not query.namespace or in_namespace(document, query.namespace))
        and test(document["metadata"].get("labels") or {})
    ]
    found.sort(key=lambda d: (d["metadata"].get("namespace", ""), d["metadata"]["name"]))
    return eventrows.in_order(found) if kind.kind == "Event" else found


def print_query(query: Query, scene: Scene) -> int:
    """Print what *query* selects in its form, then what is not there; return the exit code."""
    groups = {kind: selected(query, kind, scene.documents) for kind in query.wanted}
    missing = [
        not_found(kind, name, query.namespace)
        for kind, names in query.wanted.items()
        for name in names
        if name not in {document["metadata"]["name"] for document in groups[kind]}
    ]
    if any(groups.values()) or not missing:
        print_groups(query, groups, scene)
    for words in missing:
        print(f"error: {words}", file=sys.stderr)
    return NotFoundError.exit_code if missing else 0


def print_groups(query: Query, groups: dict[Kind, list[Document]], scene: Scene) -> None:
    """Print objects, by kind, in the form that *query* wants."""
    found = [document for group in groups.values() for document in group]
    if query.output in ("json", "yaml"):
        print_objects(found, query)
    elif not found:
        spaced = query.namespace and any(kind.namespaced for kind in groups)
        where = f" in {query.namespace} namespace" if spaced else ""
        print(f"No resources found{where}.", file=sys.stderr)
    elif query.output == "name":
        for document in found:
            print(f"{resource(kind_of(document))}/{document['metadata']['name']}")
    else:
        found_tables = [lines(query, kind, group, scene) for kind, group in groups.items() if group]
        print("\n\n".join("\n".join(one) for one in found_tables))
        for kind, group in groups.items():
            if group and not kind.effective:
                note = f"note: {kind.plural} are kept and shown; they have no effect yet"
                print(note, file=sys.stderr)


def lines(query: Query, kind: Kind, group: Sequence[Document], scene: Scene) -> list[str]:
    """Return the table of one kind."""
    found = tables.aligned(*cells(query, kind, group, scene))
    return found if query.headers else found[1:]


def cells(
    query: Query, kind: Kind, group: Sequence[Document], scene: Scene
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of one kind as *query* wants them."""
    if kind is LEASE:
        return list(LEASE_HEADER), [lease_row(document["spec"]) for document in group]
    header, rows = table(
        kind,
        group,
        scene,
        wide=query.output == "wide",
        namespaces=not query.namespace,
        prefixed=len(query.wanted) > 1,
    )
    if query.labels:
        header = [*header, "LABELS"]
        rows = [[*row, labels(one)] for row, one in zip(rows, group, strict=True)]
    return header, rows


def lease_row(spec: Document) -> list[str]:
    """Return the cells of a subnet lease."""
    left = spec.get("ttl", UNKNOWN)
    words = {"node": spec["node"] or "<foreign>", "vtepMAC": spec["vtepMAC"] or "-"}
    fields = ("subnet", "node", "publicIP", "vtepMAC", "backend")
    expires = "never" if left is None else str(left) if left is UNKNOWN else tables.duration(left)
    return [*(words.get(field) or str(spec[field]) for field in fields), expires]


def labels(document: Document) -> str:
    """Return an object's labels as kubectl's --show-labels has them: `app=web,tier=front`."""
    found = document["metadata"].get("labels") or {}
    return ",".join(f"{key}={value}" for key, value in found.items())


def print_objects(found: Sequence[Document], query: Query) -> None:
    """Print objects as JSON or YAML: one asked for by name as itself, otherwise a List."""
    one = len(found) == 1 and [len(names) for names in query.wanted.values()] == [1]
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
