"""What `@pytest.mark.netlab("lab.yaml", proxy_mode=…, scope=…)` says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from netlab.errors import InputError, NetlabError, UsageError

NAME = "netlab"
SCOPES = ("function", "class", "module", "session")
KEYWORDS = ("proxy_mode", "scope")
EXAMPLE = '@pytest.mark.netlab("lab.yaml", proxy_mode=["iptables", "nftables"])'


@dataclass(frozen=True)
class Marked:
    """The lab a test asks for: files, the modes to run in ("": the file's own), how long it is
    shared."""

    sources: tuple[Path, ...]
    modes: tuple[str, ...]
    scope: str


def modes(mark: pytest.Mark) -> list[object]:
    """Return the modes a test is to be run in, as written; none when it does not name several."""
    given = mark.kwargs.get("proxy_mode")
    return list(given) if isinstance(given, (list, tuple)) else []


def marked(mark: pytest.Mark, folder: Path) -> Marked:
    """Return what *mark* says; its paths are below *folder*. Raises UsageError."""
    from netlab.testing.labs import known_mode

    if not mark.args:
        raise UsageError("no topology", hint=EXAMPLE)
    for source in mark.args:
        if not isinstance(source, (str, os.PathLike)):
            raise UsageError(f"{source!r} is no path", hint=EXAMPLE)
    if unknown := sorted(mark.kwargs.keys() - set(KEYWORDS)):
        raise UsageError(f"no keyword {unknown[0]}", hint=f"there are: {', '.join(KEYWORDS)}")
    scope = mark.kwargs.get("scope", "module")
    if scope not in SCOPES:
        raise UsageError(f"scope {scope!r}: not known", hint=", ".join(SCOPES))
    given = mark.kwargs.get("proxy_mode", "")
    if isinstance(given, (list, tuple)) and not given:
        raise UsageError("proxy_mode: an empty list", hint=EXAMPLE)
    wanted = modes(mark) or ([given] if given else [])
    known = tuple(known_mode(mode) for mode in wanted)
    if len(set(known)) < len(known):
        raise UsageError("proxy_mode: one of them twice")
    return Marked(tuple(folder / source for source in mark.args), known, scope)


def place(item: pytest.Item) -> str:
    """Return `tests/test_web.py:12`, where the test begins, its decorators included."""
    function = getattr(item, "function", None)
    path, line, _ = item.location
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    number = code.co_firstlineno if code else (line or 0) + 1
    return f"{path}:{number}"


def uses(item: pytest.Item) -> pytest.Mark | None:
    """Return the marker of a test that uses the fixture `lab`, None of any other."""
    mark = item.get_closest_marker(NAME)
    return mark if mark and "lab" in getattr(item, "fixturenames", ()) else None


def mistakes(items: Iterable[pytest.Item], load: Callable[[Marked, Path], object]) -> list[str]:
    """Return everything wrong with the markers of *items* and what they name, each once.

    *load*: reads what a marker names, raising InputError.
    """
    found: dict[str, None] = {}
    read: set[Marked] = set()
    for item in items:
        mark = uses(item)
        if mark is None:
            continue
        try:
            wanted = marked(mark, item.path.parent)
            if wanted not in read:
                read.add(wanted)
                load(wanted, item.path.parent)
        except InputError as error:
            found.update(dict.fromkeys(error.mistakes))
        except NetlabError as error:
            found[f"{place(item)}: netlab marker: {said(error)}"] = None
    return list(found)


def said(error: NetlabError) -> str:
    """Return an error as mistakes in files are written: what is wrong (what would be right)."""
    return f"{error.message} ({error.hint})" if error.hint else error.message
