"""The mark that a probe carries in its payload, by which it is found on every device."""

from __future__ import annotations

import itertools
import re
import secrets

MARK = b"netlab:"  # what all tokens begin with: frames without it are not kept
TOKEN = re.compile(MARK + b"[0-9a-f]{16}")
DIGITS = 16
_EARLY = 5  # digits in the 12 bytes of a payload that a rule trace shows
_numbers = itertools.count(secrets.randbits(4 * _EARLY))


def token(mark: bytes = MARK) -> bytes:
    """Return a new token, `netlab:5f1c…`; it is text, so that servers can repeat it in JSON.

    Its first digits are no other's of this process, for who sees no more of it. With another
    *mark* the sensors pass over it.
    """
    early = next(_numbers) % 16**_EARLY
    rest = secrets.randbits(4 * (DIGITS - _EARLY))
    return mark + b"%0*x%0*x" % (_EARLY, early, DIGITS - _EARLY, rest)
