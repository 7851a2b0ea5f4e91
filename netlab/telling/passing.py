"""A request that did not end where its packets did: a proxy took it, and asked somebody itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netlab.journeys import Track
from netlab.packets import Leg


def passed_on(tracks: Sequence[Track], says: Mapping[str, Any]) -> str:
    """Return, in words, whom the server that was reached has asked; "" if it answered itself.

    *says*: what the answer says of who gave it, and whom that one saw.
    """
    seen = [one for track in tracks if track.leg is Leg.REQUEST for one in track.sightings]
    server, client = str(says.get("server", "")), str(says.get("client", ""))
    if not seen or not server or server == seen[-1].flow.destination:
        return ""
    proxy = seen[-1].place.name
    ends = f"{client}:{says.get('clientPort')} -> {server}:{says.get('serverPort')}"
    who = f"{says.get('namespace')}/{says.get('pod')}" if says.get("pod") else server
    return (
        f"{proxy} passed it on by a connection of its own, {ends} {says.get('protocol', 'tcp')}, "
        f"to {who}; the way there: netlab trace {proxy} {server}:{says.get('serverPort')}"
    )
