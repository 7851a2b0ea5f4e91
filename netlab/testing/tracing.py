"""The one door to `netlab.tracing`: a traced conversation, and its lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from netlab.journeys import Journey

if TYPE_CHECKING:
    from netlab.lab import Live


class Traced(msgspec.Struct, frozen=True):
    """A journey, what it was asked for by, and the hop list that `netlab trace` prints."""

    journey: Journey
    asked: str  # web:80
    lines: tuple[str, ...]


def traced(
    live: Live,
    source: str,
    destination: str,
    *,
    port: int,
    protocol: str,
    http: str,
    width: int,
    said: str = "",
) -> Traced:
    """Trace one conversation. Raises NotFoundError, UsageError."""
    from netlab import tracing
    from netlab.telling.text import lines

    journey = tracing.trace(live, source, destination, protocol=protocol, port=port, http=http)
    name = said or destination
    ending = f"/{protocol}" if protocol and protocol != "tcp" else ""
    return Traced(
        journey, f"{name}:{port}{ending}" if port else name, tuple(lines(journey, width=width))
    )
