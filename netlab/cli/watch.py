"""get -w: what changes, as rows below the first ones and in their columns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from netlab.cli import tables
from netlab.cli.get import Query, cells, selected, text_of
from netlab.cli.kinds import seen
from netlab.cli.rows import Scene, kind_of, resource
from netlab.model.kubernetes import Document

if TYPE_CHECKING:
    from netlab.lab.live import Live

PERIOD = 0.3  # seconds between two looks


class Row(NamedTuple):
    """One object as it is shown. `same`: what must be equal for there to be nothing to say."""

    document: Document
    header: Sequence[str]
    cells: Sequence[str]
    same: object


def watch(query: Query, live: Live, *, shown: Scene) -> None:
    """Print rows again as they change from what was *shown*, until interrupted.

    Polls, as `get` only reads: a few hundred milliseconds are soon enough for eyes. The age alone
    is no change.
    """
    before = rows_now(query, shown)
    widths = {
        row.document["kind"]: tables.widths(
            [row.header, *(one.cells for one in before.values() if one.header == row.header)]
        )
        for row in before.values()
    }
    while True:
        time.sleep(PERIOD)
        now = rows_now(query, seen(live))
        for key, row in now.items():
            if key not in before or before[key].same != row.same:
                print_row(query, row, widths)
        for key, row in before.items():
            if key not in now:
                print_row(query, row, widths, mark=" (deleted)")
        before = now


def rows_now(query: Query, scene: Scene) -> dict[str, Row]:
    """Return the rows of *query* in *scene*, by object."""
    found: dict[str, Row] = {}
    for kind in query.wanted:
        group = selected(query, kind, scene.documents)
        header, rows = cells(query, kind, group, scene)
        for document, row in zip(group, rows, strict=True):
            meta = document["metadata"]
            key = f"{kind.kind}/{meta.get('namespace', '')}/{meta['name']}/{meta.get('uid', '')}"
            ageless = [cell for name, cell in zip(header, row, strict=True) if name != "AGE"]
            same = document if query.output in ("json", "yaml") else ageless
            found[key] = Row(document, header, row, same)
    return found


def print_row(query: Query, row: Row, widths: dict[str, list[int]], *, mark: str = "") -> None:
    """Print one changed row at once; *widths*: the columns of the kinds that have their header.

    JSON and YAML are a stream of objects, in which one that is gone has no place.
    """
    kind = row.document["kind"]
    if query.output in ("json", "yaml"):
        if not mark:
            separator = "---\n" if query.output == "yaml" else ""
            print(separator + text_of(row.document, query.output), end="", flush=True)
        return
    if query.output == "name":
        title = f"{resource(kind_of(row.document))}/{row.document['metadata']['name']}"
        print(title + mark, flush=True)
        return
    if kind not in widths:
        widths[kind] = tables.widths([row.header, row.cells])
        if query.headers:
            print(tables.line(row.header, widths[kind]), flush=True)
    print(tables.line(row.cells, widths[kind]) + mark, flush=True)
