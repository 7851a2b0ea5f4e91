"""The mark that a probe carries in its payload, by which it is found on every device."""

from __future__ import annotations

import re
import secrets

MARK = b"netlab:"  # what all tokens begin with: frames without it are not kept
TOKEN = re.compile(MARK + b"[0-9a-f]{16}")
DIGITS = 16


def token() -> bytes:
    """Return a new token, `netlab:5f1c…`; it is text, so that servers can repeat it in JSON."""
    return MARK + secrets.token_hex(DIGITS // 2).encode()
