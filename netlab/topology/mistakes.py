"""Mistakes of the input, each with its file, line and field."""

from __future__ import annotations

import re
from typing import NamedTuple

from netlab.topology.tree import Node, Path

SHOWN_MAX = 600  # characters of one mistake
_PLAIN_KEY = re.compile(r"[A-Za-z_<][\w<-]*")


def path_text(path: Path) -> str:
    """Return `nodes[1].labels["example.org/rack"]` for ("nodes", 1, "labels", ...)."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN_KEY.fullmatch(step):
            parts.append(f".{step}")
        else:
            parts.append(f'["{step}"]')
    return "".join(parts).removeprefix(".")


def visible(text: str) -> str:
    """Return *text* as one line that a terminal shows and does not obey, cut in its middle.

    Input is quoted in it: a name may hold a line's end or an escape sequence, or be endless.
    """
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    half = SHOWN_MAX // 2
    return shown if len(shown) <= SHOWN_MAX else f"{shown[:half]} … {shown[-half:]}"


class Origin(NamedTuple):
    """Where an object was declared: a document of a source, or an item of a List in one."""

    source: str
    node: Node
    prefix: Path = ()  # of a List's item: ("items", 3)

    def line(self, path: Path = ()) -> int:
        """Return the line of the field at *path*, or of the nearest field around it."""
        node = self.node
        for step in path:
            value = node.value
            if isinstance(step, int):
                if not isinstance(value, list) or step >= len(value):
                    break
                node = value[step]
            else:
                if not isinstance(value, dict) or step not in value:
                    break
                node = value[step]
        return node.line


class Mistakes:
    """All mistakes found so far."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int, str]] = []
        self._sources: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def expect(self, source: str) -> None:
        """Give *source* its place in the order of sources, before those named later."""
        self._sources.setdefault(source, len(self._sources))

    def add(self, source: str, line: int, path: Path, text: str) -> None:
        """Note that *text* is wrong with the field *path* of *source*; line 0: the whole file."""
        place = f"{source}:{line}: " if line else f"{source}: "
        field = f"{path_text(path)}: " if path else ""
        self.expect(source)
        self._found.append((self._sources[source], line, visible(f"{place}{field}{text}")))

    def at(self, origin: Origin, path: Path, text: str) -> None:
        """Note that *text* is wrong with the field *path* of the object declared at *origin*."""
        self.add(origin.source, origin.line(path), origin.prefix + path, text)

    def lines(self) -> list[str]:
        """Return each mistake once, in the order of sources and lines."""
        ordered = sorted(self._found, key=lambda found: found[:2])
        return list(dict.fromkeys(text for _, _, text in ordered))
