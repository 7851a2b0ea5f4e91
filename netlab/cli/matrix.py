"""verify --proxy-mode, --backend: the same paths in several modes or by several back ends, as one
table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from netlab.cli import tables
from netlab.cli.progress import Progress
from netlab.cli.prove import COLOURS, pieces, proven_words, summary
from netlab.errors import CapabilityError, UsageError
from netlab.model.backends import BACKENDS
from netlab.model.modes import PROXY_MODES
from netlab.packets import Outcome, Verdict

if TYPE_CHECKING:
    from netlab.lab.live import Live
    from netlab.verify.matrix import Column

ALL = "all"
MODE, BACKEND = "mode", "backend"  # kinds of columns
_WHOLE = {MODE: "{} mode", BACKEND: "{}"}  # a column in words
_ONE = {MODE: "{} in {}", BACKEND: "{} by {}"}  # a path in a column
_OUTCOME = re.compile(rf"(?<=  )({'|'.join(Outcome)})(?= |$)")


def lacking(modes: Sequence[str]) -> dict[str, str]:
    """Return which of *modes* this machine cannot have, each with the reason.

    Must be called while the process has one thread: what a mode needs is tried in a child.
    """
    from netlab.capabilities import require_mode

    found = {}
    for mode in modes:
        try:
            require_mode(mode)
        except CapabilityError as error:
            found[mode] = str(error)
    return found


def proven_in(live: Live, mode: str, *, ids: Sequence[str], output: str, whole: bool) -> int:
    """Verify *ids* in *mode*, or in all there are; print what was found; return the exit code."""
    from netlab.capabilities import require_mode
    from netlab.verify import matrix

    modes = list(PROXY_MODES) if mode == ALL else [mode]
    matrix.paths(ids)  # before anything is changed
    if mode == ALL:
        missing = lacking(modes)
    else:
        require_mode(mode)
        missing = {}
    with Progress("verify") as progress:
        done: list[Verdict] = []
        now = [mode]

        def on_mode(name: str) -> None:
            now[0] = name
            progress("sending packets", f"{name} mode")

        def on_result(verdict: Verdict) -> None:
            done.append(verdict)
            if progress.live:
                progress(f"{len(done)} done", f"{now[0]}: {verdict.path} {verdict.outcome}")

        columns = matrix.in_modes(
            *(live, modes, ids),
            lacking=missing,
            on_mode=on_mode,
            on_result=on_result,
            on_wait=progress,
        )
    return _printed(columns, MODE, output=output, whole=whole, one=mode != ALL)


def proven_by(live: Live, backend: str, *, ids: Sequence[str], output: str, whole: bool) -> int:
    """Verify *ids* by *backend*, or by all; print what was found; return the exit code."""
    from netlab.verify import backends, matrix

    names = list(BACKENDS) if backend == ALL else [backend]
    matrix.paths(ids)  # before anything is changed
    missing = backends.lacking(live, names)
    if backend in missing:
        raise UsageError(f"{live.lab.name} cannot have {backend}: {missing[backend]}")
    with Progress("verify") as progress:
        done: list[Verdict] = []

        def on_result(verdict: Verdict) -> None:
            done.append(verdict)
            if progress.live:
                progress(f"{len(done)} done", f"{verdict.path} {verdict.outcome}")

        columns = matrix.by_backends(
            *(live, names, ids),
            lacking=missing,
            on_name=lambda name: progress("sending packets", name),
            on_result=on_result,
            on_wait=progress,
        )
    return _printed(columns, BACKEND, output=output, whole=whole, one=backend != ALL)


def _printed(columns: Sequence[Column], kind: str, *, output: str, whole: bool, one: bool) -> int:
    """Print what was found, as a table only where it is not *one* column; return the exit code."""
    from netlab import verify as prover

    if output == "json":
        print(json.dumps(prover.columns_as_json(columns, kind), indent=2))
    elif output == "junit":
        print(prover.columns_as_junit(columns, kind))
    elif one:
        print("\n".join(proven_words(columns[0].verdicts, whole=whole)))
    else:
        print("\n".join(table(columns, kind, width=tables.width(), whole=whole)))
    found = [verdict for column in columns for verdict in column.verdicts]
    return 1 if any(verdict.outcome is Outcome.FAIL for verdict in found) else 0


def table(
    columns: Sequence[Column], kind: str = MODE, *, width: int, whole: bool = False
) -> list[str]:
    """Return paths by modes, or another *kind* of columns; below, what was seen of those that
    failed, and why others were not tried. *whole*: what was seen of those that passed, too."""
    tried = [column for column in columns if not column.lacking]
    by_path: dict[str, list[Verdict]] = {}
    for column in tried:
        for verdict in column.verdicts:
            by_path.setdefault(verdict.path, []).append(verdict)
    head = ["PATH", *(column.name.upper() for column in columns)]
    rows = []
    for path, verdicts in by_path.items():
        found = dict(zip((column.name for column in tried), verdicts, strict=True))
        rows.append([path, *(_cell(found.get(column.name)) for column in columns)])
    lines = [_OUTCOME.sub(_in_colour, line) for line in tables.aligned(head, rows, gap="  ")]
    for column in tried:
        for verdict in column.verdicts:
            lines += _told(column.name, verdict, width=width, whole=whole)
    lines += [*_skips(columns, kind, width=width), ""]
    return [*lines, summary([one for column in columns for one in column.verdicts])]


def _cell(verdict: Verdict | None) -> str:
    if verdict is None or verdict.outcome is Outcome.SKIP:
        return str(Outcome.SKIP)
    return f"{verdict.outcome} {tables.seconds(verdict.seconds):>7}"


def _in_colour(match: re.Match[str]) -> str:
    return tables.coloured(match[0], COLOURS[Outcome(match[0])])


def _told(mode: str, verdict: Verdict, *, width: int, whole: bool) -> list[str]:
    """Return what is to be said of a path in one mode: of a pass nothing, unless *whole*."""
    failed = verdict.outcome is Outcome.FAIL
    if verdict.outcome is Outcome.SKIP or not (failed or whole):
        return []
    colour = tables.RED if failed else tables.DIM
    below = [
        tables.coloured(line, colour)
        for piece in pieces(verdict, whole=whole)
        for line in tables.wrapped(piece, indent=4, width=width)
    ]
    return ["", f"{mode}: {verdict.path}: {verdict.outcome}", *below]


def _skips(columns: Sequence[Column], kind: str, *, width: int) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for column in columns:
        if column.lacking:
            reasons.setdefault(column.lacking, []).append(_WHOLE[kind].format(column.name))
        for verdict in column.verdicts:
            if verdict.outcome is Outcome.SKIP:
                reason = "; ".join(verdict.evidence) or verdict.title
                reasons.setdefault(reason, []).append(_ONE[kind].format(verdict.path, column.name))
    lines: list[str] = []
    for reason, what in reasons.items():
        wrapped = tables.wrapped(f"skip  {reason}: {', '.join(what)}", indent=6, width=width)
        wrapped[0] = wrapped[0].strip()
        lines += [tables.coloured(line, tables.YELLOW) for line in wrapped]
    return lines and ["", *lines]
