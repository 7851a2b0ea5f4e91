"""Text that is no YAML at all: where, in libyaml's words, and what would be right."""

from __future__ import annotations

import re
from typing import Any

DEPTH_MAX = 100  # nested lists and mappings
TOO_DEEP = f"nested deeper than {DEPTH_MAX} levels (a flatter document)"

_RIGHT = (
    ("mapping values are not allowed", "one `key: value` a line, text with `: ` in quotes"),
    ("could not find expected ':'", "key: value"),
    ("did not find expected key", "the keys of a mapping begin in one column"),
    ("did not find expected '-'", "the items of a list begin in one column"),
    ("did not find expected ',' or", "a bracket or a comma is missing"),
    ("unexpected end of stream", "a quote is not closed"),
    ("did not find expected node content", "a value is missing or a comma too many"),
    ("cannot start any token", "text that begins so in quotes"),
)


def syntax_mistake(text: str, error: Any) -> tuple[int, str]:
    """Return the line of the parser's *error* in *text*, and what is wrong with what is there."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = error.problem or error.context or "cannot be read"
    if "maximum nesting depth" in what:  # libyaml's own bound, which is higher than ours
        return line, TOO_DEEP
    lines = text.split("\n", line)
    indent = re.match(r"\s*", lines[line - 1]) if len(lines) >= line else None
    right = "indent with spaces, not with tabs" if indent and "\t" in indent[0] else _right(what)
    return line, f"not YAML: {what}" + (f" ({right})" if right else "")


def _right(what: str) -> str:
    """Return what would be right where libyaml finds *what*: its words name its own grammar."""
    return next((right for words, right in _RIGHT if words in what), "")
