"""Reading deep parts of documents that nobody has checked: what has the wrong form is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def mapping(value: Any, *names: str) -> dict[str, Any]:
    """Return the mapping at *names* inside *value*, empty if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def mappings(value: Any, *names: str) -> Iterator[dict[str, Any]]:
    """Yield the mappings of the list at *names* inside *value*."""
    *way, last = names or ("",)
    found = mapping(value, *way).get(last) if names else value
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            yield one


def texts(value: Any, name: str) -> list[str]:
    """Return the texts of the list called *name* in *value*."""
    found = mapping(value).get(name)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def number(value: Any, name: str, default: int = 0) -> int:
    """Return the integer called *name* in *value*."""
    found = mapping(value).get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) else default
