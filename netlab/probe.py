"""One flow sent and followed: its verdict, with every hop seen or not seen.

Nothing waits for a fixed time. A flow is over when its answer came and its last hop was seen;
when the kernel said no (an ICMP error, a reset, the counter of the rule that drops it); or when
nothing new was seen of it for `STALL` seconds; `PATIENCE` once it has reached its goal and only
the server's answer is missing, `SETTLED` once it has come to where it should be stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Protocol as Interface

import msgspec

from netlab import faults, paths, patience, world
from netlab.cluster import Cluster
from netlab.errors import UsageError
from netlab.flannel.lease import KeyValue
from netlab.flannel.members import holder
from netlab.packets import Expectation, Flow, Leg, Outcome, Protocol, RuleHit, Sighting, Verdict
from netlab.paths import Place
from netlab.sensors import counters
from netlab.sensors.capture import Capture
from netlab.sensors.sending import Answer, Sent, send
from netlab.sensors.token import token

# Seconds; hops take microseconds, but ARP asks again after 1 s (retrans_time_ms).
STALL = patience.seconds(1.1)
PATIENCE = patience.seconds(2.0)  # seconds
SETTLED = 0.1  # seconds to be refused in; ICMP errors are rationed (icmp_ratelimit), so not always
LOOK = 0.01  # seconds between two looks when nothing wakes us
AGAIN = 2.0  # seconds after which a probe is not sent again though the sensors lost frames
BATCH = 64  # probes of a series on their way at once
BYSTANDERS = 16  # nodes watched that should not see the flow, for packets that go astray


class Live(Interface):
    """What a probe needs of a running lab."""

    @property
    def subnets(self) -> Sequence[KeyValue]: ...
    def cluster(self) -> Cluster: ...


class Shot(msgspec.Struct, frozen=True):
    """One probe's way as expected, as seen, and what came back."""

    verdict: Verdict
    flow: Flow
    expectation: Expectation
    sightings: tuple[Sighting, ...]
    answer: Answer | None
    hits: tuple[RuleHit, ...] = ()  # the rules it fitted, where they were traced


def watched(cluster: Cluster, expectation: Expectation) -> list[str]:
    """Return the namespaces to watch for a flow: those of its way, and where it may go astray."""
    lab = cluster.lab
    names = [hop.netns for hop in (*expectation.request, *expectation.reply)]
    names += [netns for netns, _ in expectation.forbidden]
    names += world.between(lab)
    names += [lab.netns(node.name) for node in lab.running[:BYSTANDERS]]
    return list(dict.fromkeys(names))


def ends_of(cluster: Cluster, source: str, destination: str) -> tuple[Place, Place]:
    """Return the places that two words mean; 127.0.0.1 is the source's own.

    Raises NotFoundError, also for a source on a node that is off; UsageError for a source that is
    not in the lab, or for its router.
    """
    start = paths.place(cluster, source)
    if not start.netns:
        raise UsageError(f"{source} is nobody's address in this lab", hint="name a pod or a node")
    if start.node:
        faults.require_power(cluster.lab, start.node.name)
    goal = paths.place(cluster, destination)
    address = ip_address(goal.address)
    broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    if address.is_multicast or address.is_unspecified or broadcast:
        raise UsageError(f"{destination} is no single machine's address")
    if world.UNDERLAY in (start.member, goal.member):
        raise UsageError("the underlay only carries packets", hint="probe a machine on it")
    if address.is_loopback:
        goal = msgspec.structs.replace(start, address=goal.address)
    return paths.facing(cluster, start, goal.address), goal


def flow_between(
    cluster: Cluster, source: Place, destination: Place, *, protocol: Protocol, port: int
) -> Flow:
    """Return the flow from the address that *source* would choose by its routes."""
    address = paths.source_address(cluster, source, destination)
    return Flow(address, destination.address, protocol, 0, port)


def unbound(flow: Flow) -> Flow:
    """Return *flow* with its source left to the kernel: which address it takes is being tested."""
    return msgspec.structs.replace(flow, source="", source_port=0)


def shoot(
    cluster: Cluster,
    capture: Capture,
    source: Place,
    destination: Place,
    *,
    protocol: Protocol,
    port: int = 0,
    path: str = "probe",
    title: str = "",
) -> Shot:
    """Send one probe, follow it, and compare; *capture* is watching already.

    A probe that failed while the sensors lost frames proves nothing, and is sent again.
    """
    began = time.monotonic()
    while True:
        lost = capture.lost
        shot = _shot(
            cluster,
            capture,
            source,
            destination,
            protocol=protocol,
            port=port,
            path=path,
            title=title,
        )
        lost = capture.lost - lost
        if shot.verdict.outcome is Outcome.PASS or not lost:
            return shot
        if time.monotonic() - began > AGAIN:
            words = f"the sensors lost {lost} frames meanwhile: this may be one of them"
            evidence = (*shot.verdict.evidence, words)
            verdict = msgspec.structs.replace(shot.verdict, evidence=evidence)
            return msgspec.structs.replace(shot, verdict=verdict)


def _shot(
    cluster: Cluster,
    capture: Capture,
    source: Place,
    destination: Place,
    *,
    protocol: Protocol,
    port: int,
    path: str,
    title: str,
) -> Shot:
    began = time.monotonic()
    flow = flow_between(cluster, source, destination, protocol=protocol, port=port)
    filtering = filtered_at(cluster, paths.expected(cluster, source, destination, flow))
    fired = counters.dropped(filtering, of=flow.destination) if filtering else None
    mark = token()
    with send(source.netns, unbound(flow), mark) as sent:
        flow = msgspec.structs.replace(flow, source_port=sent.flow.source_port)
        expectation = paths.expected(cluster, source, destination, flow)
        answer = followed(
            capture, sent, expectation, over=lambda: _has_fired(filtering, flow, before=fired)
        )
    capture.gather([mark])
    answered = bool(answer and not answer.refused)
    sightings = seen(capture, sent.flow, mark, netns=source.netns, answered=answered)
    sightings = capture.in_order(expectation, sightings)
    verdict = judged(expectation, sightings, answer, path=path, title=title)
    verdict = msgspec.structs.replace(verdict, seconds=time.monotonic() - began)
    return Shot(verdict, flow, expectation, tuple(sightings), answer)


def judged(
    expectation: Expectation,
    sightings: list[Sighting],
    answer: Answer | None,
    *,
    path: str,
    title: str,
) -> Verdict:
    """Return the comparison of a probe's sightings and answer with what was expected."""
    return paths.compare(
        expectation,
        sightings,
        answered=bool(answer and not answer.refused),
        refused=answer.refused if answer else "",
        path=path,
        title=title,
    )


def seen(
    capture: Capture, flow: Flow, mark: bytes, *, netns: str, answered: bool
) -> list[Sighting]:
    """Return a probe's sightings; those of its handshake, of a TCP connection that never carried
    its mark, and of one whose server answered without repeating the mark (etcd, nginx)."""
    found = capture.sightings(mark)
    if flow.protocol is not Protocol.TCP:
        return found
    unmarked = answered and all(paths.leg_of(flow, one) is not Leg.REPLY for one in found)
    return capture.handshake(flow, netns=netns) if unmarked or not found else found


def filtered_at(cluster: Cluster, expectation: Expectation) -> str:
    """Return the gateway's namespace if its firewall is to stop the flow, "" otherwise."""
    stops = counters.NOT_PUBLISHED in expectation.ends
    return cluster.lab.netns(world.GATEWAY) if stops else ""


def _has_fired(filtering: str, flow: Flow, *, before: int | None) -> bool:
    """Return whether the firewall of namespace *filtering* has dropped a packet more than then."""
    if not filtering or before is None:
        return False
    return (counters.dropped(filtering, of=flow.destination) or 0) > before


def _seen_so_far(capture: Capture, sent: Sent, expectation: Expectation) -> int:
    """Return how often the flow was seen; a SYN that is to be stopped carries no token."""
    found = len(capture.frames(sent.token))
    if found or sent.flow.protocol is not Protocol.TCP:
        return found
    if not expectation.ends or not expectation.request:
        return found
    return len(capture.handshake(sent.flow, netns=expectation.request[0].netns))


def followed(
    capture: Capture, sent: Sent, expectation: Expectation, *, over: Callable[[], bool]
) -> Answer | None:
    """Wait until the flow is over, one way or another; return its answer if there is one.

    *over* says whether something is known to have dropped it.
    """
    began = last_news = time.monotonic()
    count = -1
    while True:
        answer = sent.answer()
        if answer is not None:
            return answer
        now = time.monotonic()
        found = _seen_so_far(capture, sent, expectation)
        if found != count:
            count, last_news = found, now
        patience = STALL
        if count >= len(expectation.request):  # it came as far as it should
            patience = SETTLED if expectation.ends else PATIENCE
        if now - last_news > patience or now - began > 2 * PATIENCE:
            return None
        if over():
            return None
        capture.wait(LOOK)


def probe(
    live: Live,
    source: str,
    destination: str,
    *,
    protocol: str = "",
    port: int | str = 0,
    count: int = 1,
    ipv6: bool = False,
    sensors: Callable[[Iterable[str]], Capture] = Capture,
) -> Verdict:
    """Return the verdict on *count* probes of one flow, with every hop of the first (or of the
    first that failed). *sensors* watch the namespaces that they are given.

    *source*, *destination*: `[NS/]POD`, `node/NAME`, `master`, `gateway`, `client`, `internet`,
    or an address. Without a port it is an ICMP echo, without a protocol TCP; *port* may be the
    name that a pod has for one. *ipv6*: by the addresses of IPv6 that both ends have.
    Raises NotFoundError for an end that is unknown or off, UsageError for a protocol that cannot
    be sent.
    """
    began = time.monotonic()
    cluster = live.cluster()
    start, goal = ends_of(cluster, source, destination)
    if ipv6:
        start, goal = (paths.facing(cluster, one, "::") for one in (start, goal))
    _require_known(cluster, goal, live.subnets)
    if isinstance(port, str):
        named = paths.named_port(goal, port, protocol=protocol)
        port, protocol = named.containerPort, named.protocol
    kind = protocol_of(protocol, port)
    if goal.node:
        faults.require_power(cluster.lab, goal.node.name)
    flow = flow_between(cluster, start, goal, protocol=kind, port=port)
    title = f"{start.title} to {goal.title}, {flow}"
    names = watched(cluster, paths.expected(cluster, start, goal, flow))
    with sensors([start.netns, *names]) as capture:
        first = shoot(
            cluster, capture, start, goal, protocol=kind, port=port, path="probe", title=title
        )
        verdict = first.verdict
        if count > 1 and verdict.outcome is Outcome.PASS:
            verdict = series(cluster, capture, start, goal, first=first, count=count)
    return msgspec.structs.replace(verdict, seconds=time.monotonic() - began)


def _require_known(cluster: Cluster, goal: Place, leases: Sequence[KeyValue]) -> None:
    """Raise UsageError for the address of a foreign member, or of an attached namespace."""
    nodes = {node.address for node in cluster.nodes}
    attached = {each for one in cluster.lab.attached for each in one.addresses}
    if not goal.netns and (goal.address in attached or holder(leases, nodes, goal.address)):
        raise UsageError(
            f"{goal.address} is a foreign machine's: its end of the way is not netlab's to judge",
            hint=f"`netlab trace` shows how far a packet to {goal.address} comes",
        )


def protocol_of(word: str, port: int) -> Protocol:
    """Return the protocol meant. Raises UsageError."""
    if not word:
        return Protocol.TCP if port else Protocol.ICMP
    try:
        kind = Protocol(word.lower())
    except ValueError:
        raise UsageError(f"unknown protocol {word}", hint="icmp, tcp or udp") from None
    if kind is Protocol.SCTP:
        raise UsageError("probes of SCTP are not possible yet", hint="icmp, tcp or udp")
    if bool(port) == (kind is Protocol.ICMP):
        raise UsageError(f"{kind} {'takes no' if port else 'needs a'} port")
    return kind


def series(
    cluster: Cluster, capture: Capture, start: Place, goal: Place, *, first: Shot, count: int
) -> Verdict:
    """Return the verdict on *count* - 1 further probes like *first*, sent in batches."""
    done = 1
    while done < count:
        size = min(BATCH, count - done)
        capture.forget()
        bad = _bad_of_batch(cluster, capture, start, goal, first=first, size=size)
        if bad is not None:
            line = f"one of probes {done + 1} to {done + size} of {count}; {done} before it passed"
            return msgspec.structs.replace(bad, evidence=(line, *bad.evidence))
        done += size
    line = f"{count} of {count} probes like this one, every hop of each seen"
    return msgspec.structs.replace(first.verdict, evidence=(*first.verdict.evidence, line))


def _bad_of_batch(
    cluster: Cluster, capture: Capture, start: Place, goal: Place, *, first: Shot, size: int
) -> Verdict | None:
    """Send *size* probes at once; return the verdict on one that failed.

    A probe seen at as many places as the first one, and answered, went the same way; only others
    are taken apart.
    """
    many = [send(start.netns, unbound(first.flow), token()) for _ in range(size)]
    try:
        _all_answered(capture, many)
        capture.gather([sent.token for sent in many])
        for sent in many:
            answer = sent.answer()
            complete = len(capture.frames(sent.token)) == len(first.sightings)
            if answer and not answer.refused and complete:
                continue
            flow = msgspec.structs.replace(first.flow, source_port=sent.flow.source_port)
            expectation = paths.expected(cluster, start, goal, flow)
            answered = bool(answer and not answer.refused)
            sightings = seen(capture, sent.flow, sent.token, netns=start.netns, answered=answered)
            sightings = capture.in_order(expectation, sightings)
            verdict = judged(
                expectation, sightings, answer, path="probe", title=first.verdict.title
            )
            if verdict.outcome is not Outcome.PASS:
                return verdict
        return None
    finally:
        for sent in many:
            sent.close()


def _all_answered(capture: Capture, many: Iterable[Sent]) -> None:
    """Wait until every probe has its answer, or none has come for `STALL` seconds."""
    missing = list(many)
    last_news = time.monotonic()
    while missing and time.monotonic() - last_news < STALL:
        still = [sent for sent in missing if sent.answer() is None]
        if len(still) < len(missing):
            missing, last_news = still, time.monotonic()
        if missing:
            capture.wait(LOOK)
