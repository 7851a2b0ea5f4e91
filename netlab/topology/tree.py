"""YAML and JSON text as trees that remember their lines.

1. Every value knows the line it is named on, so that a mistake can be pointed at.
2. Scalars are read as Kubernetes reads them (YAML 1.1, Go's reader): `yes`, `on` and `y` are
   booleans, `22:22` and `2024-01-01` are strings.
3. Hostile text ends quickly: depth, number of values (aliases counted as often as they are used)
   and self-reference are bounded while reading. The parser's events are put together here, by a
   loop and not by recursion, because libyaml's own composer recurses as deep as the text says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from netlab.topology.scalars import WORDS, joined_surrogates, plain_scalar
from netlab.topology.syntax import DEPTH_MAX, TOO_DEEP, syntax_mistake

VALUES_MAX = 1_000_000  # values of one file, aliases expanded

Path = tuple[str | int, ...]
Value = Any  # None, bool, int, float, str, list[Node] or dict[str, Node]


class Node:
    """A value and the line (from 1) of its key or list item."""

    __slots__ = ("line", "value")

    def __init__(self, value: Value, line: int) -> None:
        self.value = value
        self.line = line


class Slip(NamedTuple):
    """Something wrong with the text itself: where, at which field, what."""

    line: int
    path: Path
    text: str


class Composed(NamedTuple):
    """The documents of one file; `slips` in order of lines."""

    roots: list[Node]
    slips: list[Slip]


_TAGGED: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}
_COLLECTION_TAGS = ("!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def plain(node: Node) -> Any:
    """Return the value of *node* without lines; aliases become copies."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return value


class _Anchor(NamedTuple):
    node: Node
    size: int  # values in it, itself included
    height: int  # levels of lists and mappings in it


class _Frame:
    """A list or mapping whose end has not been read yet."""

    __slots__ = ("anchor", "deepest", "key", "key_line", "merges", "node", "start")

    def __init__(self, node: Node, anchor: str | None, start: int) -> None:
        self.node = node
        self.anchor = anchor
        self.start = start
        self.deepest = 0
        self.key: str | None = None
        self.key_line = 0
        self.merges: list[Node] = []


class _Stop(Exception):
    """The rest of the file is not worth reading."""


_DROPPED = "\0dropped"  # stands for the key of a value that is read and forgotten
_MERGE = "<<"


class _Composer:
    def __init__(self) -> None:
        self.roots: list[Node] = []
        self.slips: list[Slip] = []
        self.stack: list[_Frame] = []
        self.anchors: dict[str, _Anchor | None] = {}  # None: still open
        self.values = 0

    def slip(self, line: int, text: str, *keys: str) -> None:
        self.slips.append(Slip(line, (*self._path(), *keys), text))

    def stop(self, line: int, text: str) -> _Stop:
        """Note what makes the rest of the file not worth reading, without its endless path."""
        path = tuple(self._path())
        self.slips.append(Slip(line, path if len(path) <= 8 else (), text))
        return _Stop()

    def _path(self) -> Iterator[str | int]:
        for frame in self.stack:
            if isinstance(frame.node.value, list):
                yield len(frame.node.value)
            elif frame.key not in (None, _DROPPED):
                yield str(frame.key)

    def count(self, size: int, line: int) -> None:
        self.values += size
        if self.values > VALUES_MAX:
            raise self.stop(
                line, f"more than {VALUES_MAX} values, aliases expanded (a smaller file)"
            )

    def put(self, node: Node) -> None:
        """Give *node* to the list or mapping being read."""
        if not self.stack:
            self.roots.append(node)
            return
        frame = self.stack[-1]
        into = frame.node.value
        if isinstance(into, list):
            into.append(node)
            return
        if frame.key is None:
            self.slip(node.line, "a key must be text (not a list, a mapping or an alias)")
            frame.key = _DROPPED
            return
        node.line = frame.key_line
        if frame.key == _MERGE:
            frame.merges.append(node)
        elif frame.key != _DROPPED:
            into[frame.key] = node
        frame.key = None

    def begin(self, empty: Value, event: Any) -> None:
        line = event.start_mark.line + 1
        if len(self.stack) >= DEPTH_MAX:
            raise self.stop(line, TOO_DEEP)
        if event.tag and not event.implicit and event.tag not in _COLLECTION_TAGS:
            self.slip(line, f"unknown tag {event.tag} (leave it out)")
        if event.anchor:
            self.anchors[event.anchor] = None
        self.stack.append(_Frame(Node(empty, line), event.anchor, self.values))
        self.count(1, line)

    def end(self) -> None:
        frame = self.stack.pop()
        for merged in frame.merges:
            self.merge(frame.node, merged)
        height = frame.deepest + 1
        if self.stack:
            self.stack[-1].deepest = max(self.stack[-1].deepest, height)
        node = frame.node
        if frame.anchor:
            # A node of its own: put() moves the line of the first use only.
            kept = Node(node.value, node.line)
            self.anchors[frame.anchor] = _Anchor(kept, self.values - frame.start, height)
        self.put(node)

    def merge(self, into: Node, source: Node) -> None:
        """Add the entries of *source* that *into* lacks (YAML 1.1 merge key)."""
        sources = source.value if isinstance(source.value, list) else [source]
        for each in sources:
            if not isinstance(each.value, dict):
                self.slip(source.line, "must be a mapping or a list of mappings", _MERGE)
                return
            for key, node in each.value.items():
                into.value.setdefault(key, node)

    def alias(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if event.anchor not in self.anchors:
            raise self.stop(line, f"alias *{event.anchor} has no anchor &{event.anchor} before it")
        anchor = self.anchors[event.anchor]
        if anchor is None:
            raise self.stop(line, f"alias *{event.anchor} stands inside itself (a finite document)")
        self.count(anchor.size, line)
        if len(self.stack) + anchor.height > DEPTH_MAX:
            raise self.stop(line, TOO_DEEP)
        if self.stack:
            self.stack[-1].deepest = max(self.stack[-1].deepest, anchor.height)
        self.put(Node(anchor.node.value, line))

    def scalar(self, event: Any) -> None:
        frame = self.stack[-1] if self.stack else None
        line = event.start_mark.line + 1
        if frame is not None and frame.key is None and isinstance(frame.node.value, dict):
            self.key(frame, event, line)
            return
        node = Node(self.scalar_value(event, line), line)
        self.count(1, line)
        if event.anchor:
            self.anchors[event.anchor] = _Anchor(Node(node.value, line), 1, 0)
        self.put(node)

    def scalar_value(self, event: Any, line: int) -> Value:
        plain_style, quoted_style = event.implicit
        if plain_style:
            return plain_scalar(event.value)
        if quoted_style:
            return event.value
        return self.tagged(event.tag, event.value, line)

    def tagged(self, tag: str, text: str, line: int) -> Value:
        word = tag.removeprefix("tag:yaml.org,2002:")
        if word in ("str", "!"):
            return text
        value = plain_scalar(text)
        wanted = _TAGGED.get(word)
        if wanted is None:
            self.slip(line, f"unknown tag {tag} (leave it out)")
        elif not isinstance(value, wanted):
            self.slip(line, f"{text} is not of its tag !!{word}")
        return value

    def key(self, frame: _Frame, event: Any, line: int) -> None:
        name = event.value
        frame.key_line = line
        if event.implicit[0]:
            if name == _MERGE:
                frame.key = _MERGE
                return
            meaning = WORDS.get(name, name)
            if not isinstance(meaning, str):
                word = "nothing" if meaning is None else str(meaning).lower()
                self.slip(line, f"is read as {word}, not as text (put the key in quotes)", name)
        if name in frame.node.value:
            first = frame.node.value[name].line
            self.slip(line, f"given twice (first in line {first}; leave one)", name)
            name = _DROPPED
        self.count(1, line)
        frame.key = name


def compose(text: str) -> Composed:
    """Return the documents of *text*, YAML or JSON, and what is wrong with the text.

    After a syntax error, a self-reference or a bound the rest of the text is not read.
    """
    import yaml

    composer = _Composer()
    put: dict[type, Callable[[Any], None]] = {
        yaml.ScalarEvent: composer.scalar,
        yaml.MappingStartEvent: lambda event: composer.begin({}, event),
        yaml.SequenceStartEvent: lambda event: composer.begin([], event),
        yaml.MappingEndEvent: lambda event: composer.end(),
        yaml.SequenceEndEvent: lambda event: composer.end(),
        yaml.AliasEvent: composer.alias,
        yaml.DocumentStartEvent: lambda event: composer.anchors.clear(),
    }
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    events: Any = yaml.parse
    try:
        for event in events(joined_surrogates(text), Loader=loader):
            act = put.get(type(event))
            if act is not None:
                act(event)
    except _Stop:
        pass
    except yaml.MarkedYAMLError as error:
        line, what = syntax_mistake(text, error)
        composer.slips.append(Slip(line, (), what))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        composer.slips.append(Slip(line, (), f"not text: {error.reason} (YAML or JSON in UTF-8)"))
    return Composed(composer.roots, composer.slips)
