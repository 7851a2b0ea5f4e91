"""`$(NAME)` in a container's command, arguments and variables."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\$|\$\(([^()]*)\)")


def expanded(text: str, env: Mapping[str, str]) -> str:
    """Return *text* with each `$(NAME)` replaced; `$$` is a dollar, an unknown name stays.

    Source: Kubernetes third_party/forked/golang/expansion/expand.go.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return _REFERENCE.sub(value, text)
