"""What a label may hold, and how much room it takes."""

from __future__ import annotations

import unicodedata

MONO_WIDTH = 0.61  # em; DejaVu Sans Mono has 0.602, the widest of the usual ones
# Widths in em of DejaVu Sans, which is wider than what most machines have for `sans-serif`.
_NARROW = frozenset("ijlI.,:;|!'")
_SLIM = frozenset('frt-/()[]{}" ')
_WIDE = frozenset("mwMW@%…")


def plain(text: str) -> str:
    """Return *text* without characters that no label can show: XML 1.0 forbids most of them.

    Control characters (line ends too), surrogates and unassigned code points become U+FFFD; so do
    marks that turn the direction of the text around them.
    """
    return "".join(
        "\ufffd" if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp") else one
        for one in text
    )


def width(text: str, size: float, *, mono: bool = False) -> float:
    """Return how wide *text* is at most, in the unit of *size*, its font size."""
    if mono:
        return len(text) * MONO_WIDTH * size
    return sum(map(_em, text)) * size


def _em(one: str) -> float:
    if one in _NARROW:
        return 0.33
    if one in _SLIM:
        return 0.42
    if one in _WIDE or unicodedata.east_asian_width(one) in ("W", "F"):
        return 1.0
    return 0.71 if one.isupper() else 0.635


def fitted(text: str, size: float, room: float, *, mono: bool = False) -> str:
    """Return *text*, or its beginning and end around `…` when it is wider than *room*.

    The end is kept since it tells the pods of one workload apart.
    """
    if width(text, size, mono=mono) <= room:
        return text
    for kept in range(len(text) - 1, 1, -1):
        end = min(5, kept // 2)
        short = f"{text[: kept - end]}…{text[len(text) - end :]}"
        if width(short, size, mono=mono) <= room:
            return short
    return "…"


def title(namespace: str, name: str) -> str:
    """Return `web` or `shop/web`: the namespace `default` goes without saying."""
    return plain(name if namespace == "default" else f"{namespace}/{name}")


def count(number: int, what: str) -> str:
    """Return `1 pod`, `2 pods`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
