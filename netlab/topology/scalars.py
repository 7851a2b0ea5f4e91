"""What an unquoted scalar of a YAML text means, as Kubernetes reads it.

Source: go-yaml v2.4 resolve.go, which kubectl uses.
"""

from __future__ import annotations

import re

WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE"), True),
    **dict.fromkeys(("on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE"), False),
    **dict.fromkeys(("off", "Off", "OFF"), False),
}
INTEGER = re.compile(r"[-+]?(0[bB][01]+|0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
DIGITS_MAX = 100  # longer numbers are text: int() is quadratic and refuses 4300 digits


def plain_scalar(text: str) -> bool | int | float | str | None:
    """Return what an unquoted scalar means: null, a boolean, a number or the text itself."""
    if text and text[0] in "+-.0123456789":
        return _number(text)
    return WORDS.get(text, text)


def _number(text: str) -> int | float | str:
    digits = text.replace("_", "")
    if len(digits) <= DIGITS_MAX and INTEGER.fullmatch(digits):
        bare = digits.lstrip("+-").lower()
        octal = len(bare) > 1 and bare[0] == "0" and bare[1].isdigit()
        size = int(bare, 8) if octal else int(bare, 0)
        return -size if digits[0] == "-" else size
    if len(digits) <= DIGITS_MAX and FLOAT.fullmatch(digits):
        value = float(digits)
        return text if value in (float("inf"), float("-inf")) else value
    return text


_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE
)


def joined_surrogates(text: str) -> str:
    """Return JSON *text* with its escaped surrogate pairs as characters: libyaml refuses them."""
    if "\\u" not in text or not text.lstrip().startswith(("{", "[")):
        return text
    return _PAIR.sub(lambda pair: pair[1] + _character(int(pair[2], 16), int(pair[3], 16)), text)


def _character(high: int, low: int) -> str:
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
