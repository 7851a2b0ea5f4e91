"""What is kept of a failing test: in its report what a person reads first, all else in files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from netlab.errors import NetlabError
from netlab.testing.lab import Lab, Verification
from netlab.testing.ways import Trace

NAME_MAX = 120  # characters of a test's directory


def explain(error: BaseException, labs: Iterable[Lab]) -> set[str]:
    """Put the lines of each trace that a failed assertion shows in one line below its message;
    return those traces' reprs."""
    if not isinstance(error, AssertionError):
        return set()
    told = str(error)
    shown = [one for lab in labs for one in lab.shown if repr(one) in told]
    lines = [line for one in shown for line in ("", *one.lines())]
    if lines:
        error.args = ("\n".join([told, *lines]), *error.args[1:])
    return {repr(one) for one in shown}


def attach(
    report: pytest.TestReport, directory: Path, labs: Sequence[Lab], *, told: set[str]
) -> None:
    """Write what there is of *labs* below *directory* and add it to *report*.

    *told*: reprs of the traces that the report has already; without any, it gets the last one.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for lab in labs:
        below = directory / lab.name if len(labs) > 1 else directory
        below.mkdir(exist_ok=True)
        try:
            section(report, lab, below, told=told)
        except (NetlabError, OSError) as error:
            report.sections.append((f"lab {lab.name}", f"no evidence: {error}"))


def section(report: pytest.TestReport, lab: Lab, directory: Path, *, told: set[str]) -> None:
    """Add what there is of *lab*."""
    kept = lab.texts()
    files = {**kept.texts, **{_file(one): "\n".join(one.lines()) + "\n" for one in lab.shown}}
    for name, text in files.items():
        (directory / name).write_text(text)
    if kept.capture:
        (directory / "capture.pcapng").write_bytes(kept.capture)
    if lab.shown and not told:
        last = lab.shown[-1]
        report.sections.append((f"lab {lab.name}: {_title(last)}", "\n".join(last.lines())))
    lines = [f"{_file(one)}: {one!r}" for one in lab.shown]
    lines += [*kept.status, *kept.notes, "", f"kept in {directory}:"]
    lines.append(f"  {' '.join(sorted(os.listdir(directory)))}")
    report.sections.append((f"lab {lab.name} ({lab.proxy_mode})", "\n".join(lines)))


def _file(one: Trace | Verification) -> str:
    return f"trace-{one.number}.txt" if isinstance(one, Trace) else "verify.txt"


def _title(one: Trace | Verification) -> str:
    return repr(one).strip("<>").partition(",")[0] if isinstance(one, Trace) else "verify"


def directory(config: pytest.Config, nodeid: str) -> Path:
    """Return where the files of a test go: below `--netlab-dir`, else in pytest's cache."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", nodeid).strip("-")[-NAME_MAX:]
    if given := config.getoption("netlab_dir"):
        return Path(given).absolute() / name
    cache = getattr(config, "cache", None)
    below = cache.mkdir("netlab") if cache else config.rootpath / ".netlab"
    return Path(below) / name
