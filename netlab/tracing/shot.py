"""A conversation sent, followed to its end, and put together as a journey.

Nothing waits for a fixed time. A packet between namespaces moves while the system call that sent
is still at work, or soon after in the kernel's queues: when sentinels sent behind it have come
through the queue of every CPU `wires.ROUNDS` times and nothing new was seen of it, it has come to
its end. Only a server that has been reached is given time to think.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol as Interface

from msgspec.structs import replace

from netlab import paths, patience, proxy
from netlab.cluster import Cluster
from netlab.errors import UsageError
from netlab.journeys import Journey, NamedConnection, NamedEntry, Rewrite, Track
from netlab.model.kubernetes import view
from netlab.model.modes import Mode
from netlab.model.services import SERVICE_NAME_LABEL, EndpointSlice, ProxyNode, Service
from netlab.packets import Direction, Flow, Leg, Protocol, RuleHit
from netlab.proxy.options import options_of
from netlab.sensors.sending import Answer, Sent, send
from netlab.sensors.wide import Ask
from netlab.telling import assembly, selecting
from netlab.telling.meaning import Meanings
from netlab.telling.naming import Names
from netlab.telling.passing import passed_on
from netlab.telling.policies import PolicyMeanings, is_of_policies
from netlab.tracing import nexthops, relayed, wires
from netlab.tracing.asking import Asking, asking
from netlab.tracing.named import looked_up
from netlab.tracing.wide import WideWires
from netlab.tracing.wires import Wires

LOOK = 0.002  # seconds between two looks
QUIET = 0.01  # seconds without news, after which sentinels are sent
THINKING = patience.seconds(2.0)  # seconds for a server that was reached
NEVER_QUIET = 1.0  # seconds more, where others' packets look like the conversation's own
UNBOUND = "0.0.0.0"  # of a socket whose connect(2) was refused


class Live(Interface):
    """What a trace needs of a running lab."""

    def cluster(self) -> Cluster: ...


class Machines(Interface):
    """The other machines of a lab."""

    asks: dict[str, Ask]

    def cluster(self) -> Cluster: ...
    def machine(self, netns: str) -> str: ...


class Shot:
    """What came of a conversation: all that was seen of it, not yet put together."""

    def __init__(self, cluster: Cluster, asked: Asking, watch: Wires, sent: Sent) -> None:
        self.cluster, self.asked, self.watch = cluster, asked, watch
        self.flow = sent.flow
        self.answer: Answer | None = None
        self.seconds = 0.0
        self.chosen = selecting.Chosen([], [], set())
        self.onward: list[relayed.Onward] = []
        self.portals: dict[int, str] = {}
        self.entries: tuple[NamedEntry, ...] = ()
        self.virtual: tuple[NamedConnection, ...] = ()  # in ipvs mode


def trace(
    live: Live,
    source: str,
    destination: str,
    *,
    protocol: str = "",
    port: int | str = 0,
    http: str = "",
    dns: str = "",
    size: int = 0,
    all_rules: bool = False,
    machines: Machines | None = None,
) -> Journey:
    """Send one conversation through a lab and return its journey.

    The words are those of `asking`. *all_rules*: rules that were met and did not fit, too.
    *machines*: the other machines of the lab. Raises NotFoundError, UsageError, CapabilityError;
    NetlabError when another machine does not answer.
    """
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
    with watching(cluster, asked, names, machines) as watch:
        shot = fired(cluster, asked, watch, names)
        return journey(shot, names, all_rules=all_rules)


def watching(
    cluster: Cluster, asked: Asking, names: Names, machines: Machines | None = None
) -> Wires:
    """Return what is to watch a conversation, on all *machines*, not yet watching."""
    if machines is not None:
        return _across(cluster, asked, names, machines)
    return Wires(
        wires.watched(cluster, asked, names),
        asked.opening,
        asked.flow,
        wires.server_ports(cluster, names, asked),
        relayed.selectors(cluster, wires.service_of(names, asked.flow), asked.flow.protocol),
    )


def _across(cluster: Cluster, asked: Asking, names: Names, machines: Machines) -> Wires:
    """Return what is to watch a conversation on several machines, not yet watching.

    Raises UsageError in userspace mode: what a process makes of it is asked of the process.
    """
    if cluster.lab.proxyMode == Mode.USERSPACE:
        raise UsageError(
            "in userspace mode a conversation is followed on one machine only",
            hint="netlab probe SRC DST shows its way over several",
        )
    return WideWires(
        wires.watched(cluster, asked, names, elsewhere=machines.machine),
        asked.opening,
        asked.flow,
        wires.server_ports(cluster, names, asked),
        cluster=cluster,
        machine=machines.machine,
        asks=machines.asks,
    )


def fired(
    cluster: Cluster,
    asked: Asking,
    watch: Wires,
    names: Names,
    *,
    thinking: float = THINKING,
    remembering: bool = True,
) -> Shot:
    """Send the conversation that *watch* is watching for, and follow it to its end.

    *remembering*: ask for the kernel's entries of it, too, for which it walks its whole table.
    """
    address = paths.source_address(cluster, asked.source, asked.destination.place)
    began = time.monotonic()
    with send(asked.source.netns, asked.flow, asked.token, asked.question) as sent:
        shot = Shot(cluster, asked, watch, sent)
        own = sent.flow.source if sent.flow.source != UNBOUND else ""
        shot.flow = replace(sent.flow, source=own or address)
        shot.answer = followed(shot, sent, names, thinking)
        shot.seconds = time.monotonic() - began
        until = time.time_ns()
        wires.drained(wires.ROUNDS)  # what was sent before that comes to its end
        watch.gather()
        passings = watch.passings()
        watch.capture.flush()
        port = cluster.lab.network.tunnel_port
        caught = watch.caught()
        shot.chosen = selecting.chosen(
            *(asked.opening, [shot.flow], caught, passings),
            tunnel_port=port,
            until=until if shot.answer else 0,
        )
        shot.portals = relayed.portals(cluster, shot.chosen)
        shot.onward = relayed.onward(
            *(cluster, shot.chosen, caught, passings, names), tunnel_port=port
        )
        if not shot.onward:
            shot.answer = relayed.heard(shot.answer, shot.chosen, shot.portals, names)
        shot.chosen = relayed.without(shot.chosen, shot.onward)
        nodes = sorted({one.netns for one in shot.chosen.passings}) if remembering else []
        ids = {one.conntrack for one in shot.chosen.passings} - {0}
        protocol = shot.flow.protocol
        entries, virtual = watch.remembered(names, nodes, shot.chosen.flows, protocol, ids=ids)
        shot.entries = tuple(entries)
        if cluster.lab.proxyMode == Mode.IPVS:
            shot.virtual = tuple(virtual)
    return shot


def followed(shot: Shot, sent: Sent, names: Names, thinking: float) -> Answer | None:
    """Return the answer once it is there, None when none is to be expected any more."""
    capture = shot.watch.capture
    began = news = time.monotonic()
    count, still = -1, False
    while True:
        answer = sent.answer()
        if answer is not None:
            return answer
        found = capture.kept()
        now = time.monotonic()
        if now - began > thinking + NEVER_QUIET:
            return None
        if found != count:
            count, news, still = found, now, False
        elif not still and (now - news > QUIET or shot.watch.dropped()):
            wires.drained(wires.ROUNDS)
            capture.flush()
            still = capture.kept() == count
            continue
        elif still and (now - began > thinking or not _may_come(shot, names)):
            return sent.answer()
        capture.wait(LOOK)


def _may_come(shot: Shot, names: Names) -> bool:
    """Return whether an answer may still come: of another machine nothing is known before it."""
    return shot.watch.distant or _thinks(shot, names)


def _thinks(shot: Shot, names: Names) -> bool:
    """Return whether the request has come to a process that may still answer."""
    found = selecting.chosen(shot.asked.opening, [shot.flow], shot.watch.caught(), [])
    asking_side = [one.sighting for one in found.caught if one.sighting.flow in found.flows]
    if not asking_side:
        return False
    last = asking_side[-1]
    arrived = last.direction is Direction.IN and names.home(last.flow.destination) == last.netns
    if shot.flow.protocol is not Protocol.TCP:
        return arrived and shot.flow.protocol is Protocol.UDP
    # Of a connection the kernel answers at once; only behind its handshake somebody may think.
    handshaken = any(one.sighting.flow not in found.flows for one in found.caught)
    return arrived and handshaken


def journey(shot: Shot, names: Names, *, all_rules: bool = False) -> Journey:
    """Return what *shot* saw, put together."""
    asked, watch = shot.asked, shot.watch
    hits = [hit for one in shot.chosen.passings for hit in one.hits]
    meanings = meanings_of(shot.cluster, hits, shot.flow, names, shot.portals)
    kernels = watch.kernels()
    listing = watch.listed if all_rules else None
    tracks = assembly.tracks(shot.chosen, names, meanings.of, listing=listing)
    made = nexthops.told(tracks, kernels)
    answer = shot.answer
    notes = list(asked.notes)
    if watch.blind:
        notes.append(f"no rules: {watch.blind}")
    second = nexthops.told(relayed.tracks(shot.onward, names, meanings.of), kernels)
    if answer and not second and (further := passed_on(made, answer.says)):
        notes.append(further)
    behind = [
        replace(one, same_as=one.same_as + len(made)) if one.same_as >= 0 else one for one in second
    ]
    asked_of = names.service(shot.flow.destination, shot.flow.destination_port, shot.flow.protocol)
    served = meanings.service_of(hits) or asked_of
    title = asked.destination.title
    return Journey(
        source=asked.source.title,
        destination=f"Service {served}" if served else title,
        flow=shot.flow,
        tracks=(*made, *behind),
        service=served,
        endpoint=_sent_to(shot, names, made) if served else "",
        answered=bool(answer and not answer.refused),
        refused=answer.refused if answer else _refused(made, asked.source.netns),
        says=dict(answer.says) if answer else {},
        seconds=_answered_after(made) or shot.seconds,
        entries=shot.entries,
        virtual=shot.virtual,
        lost=watch.lost,
        notes=tuple(notes),
    )


def _sent_to(shot: Shot, names: Names, made: tuple[Track, ...]) -> str:
    return relayed.endpoint(shot.onward, names) if shot.portals else endpoint(made)


def _refused(tracks: tuple[Track, ...], netns: str) -> str:
    """Return what an ICMP error told the sender that its socket kept to itself: TCP only takes note
    of one that comes while connect(2) is at work (net/ipv4/tcp_ipv4.c, tcp_v4_err)."""
    for track in tracks:
        first, last = track.sightings[:1], track.sightings[-1:]
        if first and first[0].icmp.endswith("unreachable") and last[0].place.netns == netns:
            return f"{first[0].icmp.replace('-', ' ')} from {first[0].flow.source}"
    return ""


def _answered_after(tracks: tuple[Track, ...]) -> float:
    """Return the seconds from the first sighting to the last one of the last answer, by the
    kernel's time stamps; 0 without an answer."""
    replies = [track for track in tracks if track.leg is Leg.REPLY and track.sightings]
    began = min((one.time for track in tracks for one in track.sightings), default=0)
    return (max(one.time for one in replies[-1].sightings) - began) / 1e9 if replies else 0.0


def endpoint(tracks: tuple[Track, ...]) -> str:
    """Return the endpoint that the request was sent to: where its destination was rewritten to."""
    for track in tracks:
        if track.leg is Leg.REQUEST:
            for step in track.steps:
                if isinstance(step, Rewrite) and step.kind == "dnat":
                    return f"{step.means} {_end_words(step.after)}".strip()
    return ""


def _end_words(flow: Flow) -> str:
    return f"{flow.destination}:{flow.destination_port}"


def meanings_of(
    cluster: Cluster,
    hits: Sequence[RuleHit],
    flow: Flow,
    names: Names,
    portals: Mapping[int, str] | None = None,
) -> Meanings:
    """Return the meanings of the chains that a conversation met, which began as *flow*.

    *portals*: as of `Meanings`.
    """
    policies = PolicyMeanings()
    if any(map(is_of_policies, hits)):
        policies = PolicyMeanings(cluster.documents, [node.name for node in cluster.nodes])
    netns = next((hit.netns for hit in hits if _leads_to_service(hit)), None)
    node = next((one for one in cluster.nodes if one.netns == netns), None)
    if node is None:
        return Meanings((), names, policies, portals)
    only = wires.service_of(names, flow)
    made = Meanings(service_ports(cluster, node.name, only), names, policies)
    if only and not made.service_of(hits):
        return Meanings(service_ports(cluster, node.name, ""), names, policies)
    return made


def _leads_to_service(hit: RuleHit) -> bool:
    """Return whether *hit* leads to a chain that may be called after a Service."""
    return ("KUBE-S" in hit.verdict or "/" in hit.verdict) and not is_of_policies(hit)


def service_ports(cluster: Cluster, node: str, only: str) -> list[proxy.ServicePort]:
    """Return the ports of Services as the proxy of *node* has them; *only*: of this one."""
    documents = cluster.documents
    mine = next((one for one in documents.of("Node") if one["metadata"]["name"] == node), None)
    if mine is None:
        return []
    made = proxy.decision(
        [view(one, Service) for one in documents.of("Service") if not only or _title(one) == only],
        [
            view(one, EndpointSlice)
            for one in documents.of("EndpointSlice")
            if not only or _title(one, of_service=True) == only
        ],
        view(mine, ProxyNode),
        options_of(cluster.lab),
    )
    return list({id(one.service): one.service for one in made.frontends}.values())


def _title(document: dict[str, object], *, of_service: bool = False) -> str:
    meta = document["metadata"]
    assert isinstance(meta, dict)
    name = meta["name"]
    if of_service:
        name = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL)
    return f"{meta['namespace']}/{name}"
