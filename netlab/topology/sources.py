"""The text of what `netlab up` and `apply` are given: files, directories, standard input."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

from netlab.topology.mistakes import Mistakes

SIZE_MAX = 16 << 20  # bytes of one file
ENDINGS = (".yaml", ".yml", ".json")
STDIN = "<stdin>"


class Text(NamedTuple):
    """One text and the name its mistakes carry."""

    source: str
    text: str


def texts(sources: Sequence[str], mistakes: Mistakes, *, stdin: TextIO | None) -> list[Text]:
    """Return the texts of *sources* in order, each file once; what cannot be read is a mistake."""
    found: list[Text] = []
    seen: set[str] = set()
    for source in sources:
        if source == "-":
            mistakes.expect(STDIN)
            found.extend(_stdin_text(stdin, mistakes) if "-" not in seen else ())
            seen.add("-")
            continue
        for file in _files(source, mistakes):
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                mistakes.expect(file)
                found.extend(_file_text(file, mistakes))
    return found


def _stdin_text(stdin: TextIO | None, mistakes: Mistakes) -> Iterator[Text]:
    if stdin is None:
        mistakes.add(STDIN, 0, (), "there is no standard input to read (name a file)")
        return
    try:
        text = stdin.read(SIZE_MAX + 1)
    except UnicodeDecodeError:
        mistakes.add(STDIN, 0, (), "not text (YAML or JSON in UTF-8)")
        return
    if len(text) > SIZE_MAX:
        mistakes.add(STDIN, 0, (), f"larger than {SIZE_MAX >> 20} MiB (a smaller input)")
        return
    yield Text(STDIN, text)


def _files(source: str, mistakes: Mistakes) -> list[str]:
    """Return *source*, or what it holds when it is a directory; hidden entries are left out."""
    if not os.path.isdir(source):
        return [source]
    found: list[str] = []

    def unreadable(error: OSError) -> None:
        mistakes.add(error.filename, 0, (), f"cannot be read: {_reason(error)}")

    for directory, below, names in os.walk(source, onerror=unreadable):
        below[:] = [name for name in below if not name.startswith(".")]
        paths = [os.path.join(directory, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.endswith(ENDINGS) and os.path.isfile(path)]
    if not found:
        mistakes.add(source, 0, (), f"holds no {', '.join('*' + end for end in ENDINGS)} file")
    return sorted(found)


def _file_text(path: str, mistakes: Mistakes) -> Iterator[Text]:
    try:
        with open(path, "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        mistakes.add(path, 0, (), "does not exist (a file, a directory, or - for standard input)")
        return
    except OSError as error:
        mistakes.add(path, 0, (), f"cannot be read: {_reason(error)}")
        return
    if len(data) > SIZE_MAX:
        what = "a smaller file" if regular else "a smaller input"
        mistakes.add(path, 0, (), f"larger than {SIZE_MAX >> 20} MiB ({what})")
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        mistakes.add(path, line, (), "not text (YAML or JSON in UTF-8)")
        return
    if "\0" in text:
        mistakes.add(path, 0, (), "a binary file (YAML or JSON in UTF-8)")
        return
    yield Text(path, text)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
