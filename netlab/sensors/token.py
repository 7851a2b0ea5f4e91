"""The mark that a probe carries in its payload, by which it is found on every device."""

from __future__ import annotations

import secrets

MARK = b"netlab:"  # what all tokens begin with: frames without it are not kept
DIGITS = 16


def token() -> bytes:
    """Return a new token, `netlab:5f1c…`; it is text, so that servers can repeat it in JSON."""
    return MARK + secrets.token_hex(DIGITS // 2).encode()
