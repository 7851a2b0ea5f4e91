"""Why a flow does not arrive: the exact place, the cause, what shows it, and what would repair it.

1. A conversation is sent and followed as for a trace; nobody waits for a timeout.
2. A rule's verdict, an ICMP answer, a reset are proof by themselves.
3. Otherwise what should be on the packet's way is compared with what is, as the agent does it; and
   the kernel is asked, where the packet stopped, what it would do with it.
4. The first cause in this order counts; the others are told behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol as Interface

import msgspec

from netlab.cluster import Cluster
from netlab.errors import CapabilityError
from netlab.journeys import Cause, Diagnosis, Journey, Kind, Place
from netlab.packets import Direction
from netlab.sensors.drops import Drops
from netlab.store.etcd import Listing
from netlab.telling.naming import Names
from netlab.tracing import astray, part, shot, told
from netlab.tracing.asking import Asking, asking
from netlab.tracing.named import looked_up
from netlab.tracing.shot import Machines
from netlab.tracing.stages import stages
from netlab.tracing.stops import Stop, stop_of


class Live(Interface):
    """What this needs of a running lab."""

    def cluster(self) -> Cluster: ...
    def leases(self) -> Listing: ...


def why(
    live: Live,
    source: str,
    destination: str,
    *,
    protocol: str = "",
    port: int | str = 0,
    http: str = "",
    dns: str = "",
    size: int = 0,
    machines: Machines | None = None,
) -> Diagnosis:
    """Send one conversation through a lab and return what stopped it.

    The words are those of `asking`; *machines*: the other machines of the lab. Raises
    NotFoundError, UsageError, CapabilityError; NetlabError when another machine does not answer.
    """
    began = time.monotonic()
    cluster = (machines or live).cluster()
    asked = asking(
        *(cluster, source, destination),
        protocol=protocol,
        port=port,
        http=http,
        dns=dns,
        size=size,
        look_up=looked_up,
    )
    names = Names(cluster)
    watching = shot.watching(cluster, asked, names, machines)
    with watching as watch, _drops() as drops:
        fired = shot.fired(cluster, asked, watch, names, thinking=told.THINKING, remembering=False)
        journey = shot.journey(fired, names)
        dropped = _dropped(journey, drops)
    found: list[Cause] = []
    if not journey.answered:
        if machines is None:
            every = stages(live, cluster, asked, journey, dropped)
        else:
            every = part.joined(live, cluster, asked, journey, dropped, machines)
        found = list(_once(one for stage in every for one in stage))
        found = found or [_unknown(cluster, names, asked, journey, dropped)]
        proof = (*found[0].proof, *astray.rewrites(journey), *dropped)
        found[0] = msgspec.structs.replace(found[0], proof=proof)
    return Diagnosis(journey, tuple(found), time.monotonic() - began)


@contextmanager
def _drops() -> Iterator[Drops | None]:
    """Have the kernel's drop reasons noted; None where it does not tell them."""
    with ExitStack() as stack:
        try:
            noted: Drops | None = stack.enter_context(Drops())
        except CapabilityError:
            noted = None
        yield noted


def _dropped(journey: Journey, drops: Drops | None) -> tuple[str, ...]:
    """Return, as proof, the kernel's drop reason for the packet that did not arrive."""
    stop = stop_of(journey)
    if drops is None or stop is None:
        return ()
    since = stop.last.time if stop.last else 0
    told = drops.told(since=since)
    return (f"the kernel's drop reason: {told[0]}",) if told else ()


def _once(causes: Iterable[Cause]) -> Iterator[Cause]:
    seen: set[tuple[Kind, Place]] = set()
    for cause in causes:
        if (cause.kind, cause.place) not in seen:
            seen.add((cause.kind, cause.place))
            yield cause


def _unknown(
    cluster: Cluster, names: Names, asked: Asking, journey: Journey, dropped: Sequence[str]
) -> Cause:
    stop = stop_of(journey)
    place = stop.place if stop else names.place(asked.source.netns)
    where = stop.where if stop else "nowhere"
    words = dropped[0] if dropped else "nothing netlab looks at explains why it went no further"
    if not dropped and stop is not None and _is_between(cluster, stop):
        words = "no other machine has seen it come: look at what is between the machines"
    return Cause(
        Kind.UNKNOWN,
        place,
        f"it was last seen at {where}, and {words}",
        tuple(f"the sender was told: {one}" for one in (journey.refused,) if one),
        ("netlab capture there, `netlab trace --all-rules`",),
    )


def _is_between(cluster: Cluster, stop: Stop) -> bool:
    """Return whether a packet has left its machine for another one."""
    last = stop.last
    cards = {(node.netns, node.uplink) for node in cluster.nodes} if cluster.lab.spread else set()
    return (
        last is not None
        and last.direction is Direction.OUT
        and (last.place.netns, last.device) in cards
    )
