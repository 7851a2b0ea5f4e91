"""Behind a process that answers for Services (userspace mode): the flow it makes for another.

Nothing ties the two together in the kernel: a sequence number, a payload's beginning, both are new.
The process says which flow it made for which; then the second is told like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from netlab.cluster import Cluster
from netlab.journeys import Cause, Journey, Kind, Rewrite, Track
from netlab.kernel.netns import entered
from netlab.model.modes import Mode
from netlab.packets import Flow, Passing, Protocol
from netlab.portals import control
from netlab.sensors.sending import Answer
from netlab.sensors.traceswitch import Selector
from netlab.targets import endpoint_addresses, endpoint_slices
from netlab.telling import assembly, selecting
from netlab.telling.naming import Names
from netlab.telling.selecting import Caught, Chosen, Opening

CLOSED = "connection closed without a word"
MOST = 32  # endpoints whose flows are watched for


class Onward(NamedTuple):
    """A flow that a process made. *by*: which process, and what it did, in words."""

    flow: Flow
    by: str
    chosen: Chosen


def selectors(cluster: Cluster, service: str, protocol: Protocol) -> list[Selector]:
    """Return what traces the flows that processes make to the endpoints of *service*, if any do."""
    if cluster.lab.proxyMode != Mode.USERSPACE or not service:
        return []
    namespace, _, name = service.partition("/")
    ends = [
        Flow("", address, protocol, 0, port)
        for address in endpoint_addresses(cluster, namespace, name)
        for port in ports(cluster, service, protocol)
    ]
    return [Selector(one) for one in ends[:MOST]]


def ports(cluster: Cluster, service: str, protocol: Protocol) -> list[int]:
    """Return the ports of the endpoints of *service*."""
    namespace, _, name = service.partition("/")
    return sorted(
        {
            port["port"]
            for one in endpoint_slices(cluster, namespace, name)
            for port in one.get("ports") or ()
            if port.get("port") and port.get("protocol", "TCP").lower() == protocol
        }
    )


def portals(cluster: Cluster, chosen: Chosen) -> dict[int, str]:
    """Return the ports that lead to Services where *chosen* was seen, each with the Service's."""
    if cluster.lab.proxyMode != Mode.USERSPACE:
        return {}
    found: dict[int, str] = {}
    for netns in {one.netns for one in chosen.passings}:
        with entered(netns):
            found.update({one.port: one.key.rpartition("/")[0] for one in control.portals()})
    return found


def onward(
    cluster: Cluster,
    chosen: Chosen,
    caught: Sequence[Caught],
    passings: Sequence[Passing],
    names: Names,
    *,
    tunnel_port: int,
) -> list[Onward]:
    """Return the flows that processes made for the one that *chosen* is of, the first one first.

    There are several where endpoints did not answer.
    """
    if cluster.lab.proxyMode != Mode.USERSPACE:
        return []
    found: list[Onward] = []
    seen = {one.netns for one in chosen.passings}
    seen |= {one.sighting.netns for one in chosen.caught}
    asked = {((one.source, one.source_port), one.protocol) for one in chosen.flows}
    clients = {client for client, _ in asked}
    for node in cluster.nodes:
        if node.netns not in seen:
            continue
        with entered(node.netns):
            made = [one for each in sorted(asked) for one in control.flows_of(*each)]
        for one in reversed(list(dict.fromkeys(it for it in made if it.client in clients))):
            protocol = Protocol(one.key.split("/")[2])
            flow = Flow(*(one.source[0], one.endpoint[0], protocol), one.source[1], one.endpoint[1])
            part = selecting.chosen(
                Opening(protocol), [flow], caught, passings, tunnel_port=tunnel_port
            )
            found.append(Onward(flow, _words(node.name, flow, names), part))
    return found


def heard(
    answer: Answer | None, chosen: Chosen, ports: Collection[int], names: Names
) -> Answer | None:
    """Return *answer*; of a connection into one of the *ports* that made no other, that it was
    closed.

    A process that has nowhere to send a client lets it in and out again. That resets who has said
    a word by then; to one who is slower its end looks as that of a server that answers nothing.
    """
    if answer is None or answer.says or answer.refused:
        return answer
    flows = {one.flow for one in chosen.passings} | {one.sighting.flow for one in chosen.caught}
    led = any(
        one.protocol is Protocol.TCP
        and one.destination_port in ports
        and names.is_node(one.destination)
        for one in flows
    )
    return replace(answer, refused=CLOSED) if led else answer


def without(chosen: Chosen, parts: Sequence[Onward]) -> Chosen:
    """Return *chosen* without these flows: a datagram is passed on as it is, and so looks alike."""
    ends = {end for part in parts for end in (part.flow, part.flow.reply)}
    return Chosen(
        [one for one in chosen.caught if one.sighting.flow not in ends],
        [one for one in chosen.passings if one.flow not in ends],
        chosen.flows - ends,
    )


def _words(node: str, flow: Flow, names: Names) -> str:
    who = _end(flow, names)
    return f"the userspace proxy of {node} took it and chose {who}: a flow of its own"


def _end(flow: Flow, names: Names) -> str:
    to, port = flow.destination, flow.destination_port
    return f"{names.who(to, port, flow.protocol)} {to}:{port}".strip()


def endpoint(parts: Sequence[Onward], names: Names) -> str:
    """Return the endpoint that was chosen last, "" if none was."""
    return _end(parts[-1].flow, names) if parts else ""


def tracks(parts: Sequence[Onward], names: Names, means: assembly.Means) -> list[Track]:
    """Return the packets of these flows; `same_as` counts from the first of them."""
    found: list[Track] = []
    for part in parts:
        made = assembly.tracks(part.chosen, names, means)
        first = len(found)
        found += [
            replace(one, by=part.by, same_as=one.same_as + first if one.same_as >= 0 else -1)
            for one in made
        ]
    return found


def causes(cluster: Cluster, names: Names, journey: Journey) -> Iterator[Cause]:
    """Yield why the process that a flow was led to made none for it: it has no endpoint, or is not
    there."""
    if cluster.lab.proxyMode != Mode.USERSPACE or any(track.by for track in journey.tracks):
        return
    for track in journey.tracks[:1]:
        for step in track.steps:
            if isinstance(step, Rewrite) and names.is_node(step.after.destination):
                yield from _unmade(step, journey)
                return


def _unmade(step: Rewrite, journey: Journey) -> Iterator[Cause]:
    place, port = step.place, step.after.destination_port
    with entered(place.netns):
        there = control.portals()
    led = f"rules of {place} led it to port {port}"
    mine = [one for one in there if (one.port, one.protocol) == (port, step.after.protocol)]
    service = journey.service.partition(":")[0]
    if mine and not mine[0].endpoints:
        yield Cause(
            Kind.NO_ENDPOINTS,
            place,
            f"Service {journey.service} has no ready endpoint: the userspace proxy of {place} "
            "lets its clients in and out again",
            (led,),
            (f"netlab describe service {service}",),
        )
    elif not mine:
        what = f"the userspace proxy of {place} has no port {port}" if there else ""
        yield Cause(
            Kind.NO_LISTENER,
            place,
            what or f"the userspace proxy of {place} does not run",
            (led,),
            ("the agent starts it again, and tells it its ports: netlab status",),
        )
