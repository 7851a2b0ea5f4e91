"""Label selectors as kubectl's -l reads them."""

from __future__ import annotations

import re
from collections.abc import Callable

from netlab.errors import UsageError

Test = Callable[[dict[str, str]], bool]

# `key`, `!key`, `key=v`, `key==v`, `key!=v`, `key in (a,b)`, `key notin (a,b)`
KEY = r"(?P<key>[A-Za-z0-9][A-Za-z0-9._/-]*)"
EQUALITY = re.compile(rf"{KEY}\s*(?P<op>==|=|!=)\s*(?P<value>[A-Za-z0-9._-]*)")
MEMBERSHIP = re.compile(rf"{KEY}\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
EXISTENCE = re.compile(rf"(?P<op>!?)\s*{KEY}")


def selector(text: str) -> Test:
    """Return the test that *text* states: whether labels carry all it asks for.

    Source: k8s.io/apimachinery/pkg/labels, v0.30. Raises UsageError.
    """
    # A comma separates requirements except inside parentheses.
    parts = re.split(r",(?![^()]*\))", text) if text.strip() else []
    tests = [requirement(part.strip()) for part in parts]
    return lambda labels: all(test(labels) for test in tests)


def requirement(text: str) -> Test:
    """Return the test of one requirement of a selector. Raises UsageError."""
    if match := EQUALITY.fullmatch(text):
        key, value = match["key"], match["value"]
        if match["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if match := MEMBERSHIP.fullmatch(text):
        key, values = match["key"], {value.strip() for value in match["values"].split(",")}
        if match["op"] == "notin":
            return lambda labels: labels.get(key) not in values
        return lambda labels: labels.get(key) in values
    if match := EXISTENCE.fullmatch(text):
        key, absent = match["key"], match["op"] == "!"
        return lambda labels: (key in labels) != absent
    raise UsageError(
        f"cannot read the label selector {text!r}",
        hint="app=web, tier!=db, 'env in (a,b)', key, '!key', joined by commas",
    )
