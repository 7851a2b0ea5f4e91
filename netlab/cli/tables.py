"""Plain text for terminals: aligned columns, ages, wrapped evidence, colour when it is wanted."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

WIDTH = 100  # columns: what a projector still shows readably
GAP = "   "  # between columns, as kubectl has it
NONE = "<none>"  # in an empty cell

GREEN, RED, YELLOW, DIM = "32", "31", "33", "2"  # ECMA-48 SGR


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, gap: str = GAP) -> list[str]:
    """Return the lines of a table: columns as wide as their widest cell, nothing trailing."""
    table = [list(header), *([cell or NONE for cell in row] for row in rows)]
    columns = widths(table)
    return [line(row, columns, gap=gap) for row in table]


def widths(table: Sequence[Sequence[str]]) -> list[int]:
    """Return how wide each column of *table* is, its header among the rows."""
    return [max(len(cell or NONE) for cell in column) for column in zip(*table, strict=True)]


def line(row: Sequence[str], widths: Sequence[int], *, gap: str = GAP) -> str:
    """Return one row in columns of *widths*; a cell that is too wide pushes the others on."""
    cells = [(cell or NONE).ljust(width) for cell, width in zip(row, widths, strict=True)]
    return gap.join(cells).rstrip()


def wrapped(text: str, *, indent: int, width: int = WIDTH) -> list[str]:
    """Return *text* in lines of at most *width* columns, each behind *indent* spaces.

    A word longer than a line (a chain of hops, a JSON value) is left whole, not cut.
    """
    pad = " " * indent
    return textwrap.wrap(
        text,
        width=max(width, indent + 20),
        initial_indent=pad,
        subsequent_indent=pad,
        break_long_words=False,
        break_on_hyphens=False,
    )


def width() -> int:
    """Return the columns to use: the terminal's, at most WIDTH; WIDTH when it is no terminal."""
    if sys.stdout.isatty():
        return min(WIDTH, shutil.get_terminal_size().columns)
    return WIDTH


def coloured(text: str, colour: str) -> str:
    """Return *text* in *colour* on a terminal, else as it is (also with NO_COLOR set)."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        return f"\x1b[{colour}m{text}\x1b[0m"
    return text


def age(timestamp: str | None, *, now: datetime | None = None) -> str:
    """Return how long ago *timestamp* (RFC 3339, UTC) was, as kubectl writes it.

    Source: k8s.io/apimachinery/pkg/util/duration, HumanDuration, v0.30.
    """
    if not timestamp:
        return "<unknown>"
    try:
        born = datetime.fromisoformat(timestamp)
    except ValueError:
        return "<unknown>"
    return duration(((now or datetime.now(UTC)) - born.astimezone(UTC)).total_seconds())


def duration(length: float) -> str:
    """Return *length* in seconds in kubectl's words: `45s`, `5m30s`, `3h5m`, `2d3h`, `12d`."""
    seconds = max(0, int(length))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    if days < 8 * 365:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}" + (f"{small}{small_unit}" if small else "")


def seconds(length: float) -> str:
    """Return a short *length* in seconds with two digits behind the point: `0.42 s`."""
    return f"{length:.2f} s"


def size(count: float) -> str:
    """Return *count* bytes with a binary unit: `37 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
