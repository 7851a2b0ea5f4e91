"""Spans of time as Kubernetes' configuration writes them: Go's, `15m0s`."""

from __future__ import annotations

import re

_UNITS = {"h": 3600, "m": 60, "s": 1}
_WHOLE = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds(text: str) -> int:
    """Return the seconds of *text*, `1h`, `15m0s`, `90s`, `0`.

    Raises ValueError: it is none, or not of whole hours, minutes and seconds in this order.
    Source: Go's time.ParseDuration, which takes fractions and smaller units, too.
    """
    if text == "0":
        return 0
    match = _WHOLE.fullmatch(text) if text.isascii() else None
    if match is None or not text:
        raise ValueError(f"{text!r} is no duration")
    return sum(int(match[n] or 0) * of for n, of in enumerate(_UNITS.values(), 1))
