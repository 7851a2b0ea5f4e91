"""The one door to `netlab.tracing`: a traced conversation, and its lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from netlab.journeys import Journey

if TYPE_CHECKING:
    from netlab.lab.live import Live


class Traced(msgspec.Struct, frozen=True):
    """A journey, what it was asked for by, and the hop list that `netlab trace` prints."""

    journey: Journey
    asked: str  # web:80
    lines: tuple[str, ...]


def traced(live: Live, source: str, destination: str, *, said: str, **asked: Any) -> Traced:
    """Trace one conversation: *asked* goes to `tracing.trace`, *said* is what the test calls the
    destination. Raises NotFoundError, UsageError.
    """
    from netlab import tracing
    from netlab.telling.text import lines

    journey = tracing.trace(live, source, destination, **asked)
    port = f":{asked['port']}" if asked["port"] else ""
    protocol = f"/{asked['protocol']}" if asked["protocol"] not in ("", "tcp") else ""
    return Traced(journey, f"{said}{port}{protocol}", tuple(lines(journey)))
