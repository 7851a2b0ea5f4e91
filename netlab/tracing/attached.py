"""Conversations that others have, found by a filter and told as journeys.

1. Nothing is sent, and nothing changes for the traffic: devices are watched with the filter as the
   kernel's program, rules by a table of our own that goes with us.
2. A filter's words fit one packet at one place. What is watched is wider (`filters.conversations`):
   both ways, and as it looks behind a rewrite, so that a conversation shows whole from its first
   packet. What does not belong to one that fits is put aside.
3. The rules that a connection's first packet meets are told only if it is traced before it comes.
   So the filter's own ends are traced from the start, so many packets a second and no more. Once a
   conversation is known, its very ends are, in each namespace as they are there (conntrack says
   what NAT makes of them), from one moment on in all of them.
4. A conversation that is told to its end is no longer watched, so that a fast one does not use the
   sensors up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from types import TracebackType

from msgspec.structs import replace

from netlab import filters, world
from netlab.cluster import Cluster
from netlab.errors import CapabilityError
from netlab.filters import conversations
from netlab.filters import names as filter_names
from netlab.filters.conversations import FLOWS
from netlab.filters.flows import flows as flows_of
from netlab.filters.grammar import All, Condition, End, Kind, Not, OneOf
from netlab.filters.kernel import ICMP_ERROR
from netlab.journeys import End as Ended
from netlab.journeys import Fate, Journey, NamedEntry, Rule, Track
from netlab.kernel.netns import exists
from netlab.packets import Flow, Leg, Protocol
from netlab.sensors.capture import FLUSH_PORT, Capture, Kept
from netlab.sensors.ring import FRAME
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.traces import Traced
from netlab.sensors.traceswitch import Selector
from netlab.telling import assembly, selecting
from netlab.telling.naming import Names
from netlab.telling.selecting import Caught, Opening
from netlab.tracing import nexthops, shot, wires
from netlab.tracing.followed import LAST, Conversation, ending, opens, remembered

NODES, PODS = 64, 64  # that are watched at most from the start
MEMORY = 64 << 20  # bytes for all rings together …
FRAMES = (2000, 8000)  # … of which each has room for at least and at most so many short frames
SNAPLEN = 1600  # bytes of a frame: an IP packet of an Ethernet's length, in an envelope
HEADERS = 192  # bytes of a frame when there are many: all headers, in an envelope too
BUSY = 1000  # frames between two looks that are many
LOOK = 0.01  # seconds between two looks
SETTLED = 10_000_000  # ns until every ring has handed over what it saw
ARMING = 500_000_000  # ns until a fast conversation is traced in every namespace …
WAKING = 40_000_000  # … and before that, until every ring takes its packets again
TRIES = 3  # moments that may have passed before all was ready for them
NEVER = 1 << 63  # ns
OPENINGS, PACE = 50, 100  # packets a second of each of the filter's ends: first ones, others
RECENT = 500_000_000  # ns that packets are kept which are nobody's yet …
MOST_RECENT = 5000  # … and how many
MOST_HEARD = 20_000  # passes through base chains that are remembered
CLOSED = ("TIME_WAIT", "CLOSE", "LAST_ACK")

_FLUSH = End("dst", ip_network("127.0.0.1"), "udp", FLUSH_PORT, FLUSH_PORT)


def attached(
    live: shot.Live,
    words: str,
    *,
    count: int,
    seconds: float,
    most: int = 1,
    all_rules: bool = False,
) -> list[Journey]:
    """Return the journeys of conversations that fit the filter *words*, oldest first.

    At most *most* conversations, of each the first *count* packets, for *seconds* at most, or until
    KeyboardInterrupt. A connection that opens meanwhile is told from its first packet, another one
    from the moment on when it is known. Raises UsageError, CapabilityError.
    """
    cluster = live.cluster()
    tree = filters.parsed(words, filter_names.names(cluster))
    with Watch(cluster, tree, count=count, most=most) as watch:
        deadline = time.monotonic() + seconds
        try:
            while not watch.finished and (left := deadline - time.monotonic()) > 0:
                watch.look(left)
        except KeyboardInterrupt:
            pass
        watch.rest()
        return watch.journeys(all_rules=all_rules)


class Watch:
    """A context manager: what is watched for a filter, and the conversations found by it."""

    def __init__(self, cluster: Cluster, tree: Condition, *, count: int, most: int) -> None:
        self.cluster, self.tree = cluster, tree
        self.names = Names(cluster)
        self.conversations: list[Conversation] = []
        self.blind = ""  # why no rules are told
        self._count, self._most = count, most
        self._wide = conversations.widened(tree, cluster)
        self.places = places(cluster, self._wide)
        self._traced = [name for name in self.places if wires.has_rules(name)]
        self._busy = False
        self._now = self._program()
        room = MEMORY // (FRAME * max(len(self.places), 1))
        frames = min(max(room, FRAMES[0]), FRAMES[1])
        self._capture = Capture(self.places, frames=frames, program=self._now)
        self._trace = RuleTrace(self._traced, selectors(tree, cluster))
        self._ready = 0  # ns; what was seen before was not yet seen everywhere
        self._mtus: dict[tuple[str, int], int] = {}
        self._pending: list[Kept] = []
        self._recent: deque[Caught] = deque(maxlen=MOST_RECENT)
        self._passed: set[Flow] = set()  # that are not told: they were ending when they were met

    def __enter__(self) -> Watch:
        try:
            self._trace.__enter__()
        except CapabilityError as error:
            self.blind = str(error)
        try:
            self._capture.__enter__()
        except BaseException:
            self._trace.close()
            raise
        self._ready = time.time_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._trace.close()
        finally:
            self._capture.close()

    @property
    def looking(self) -> bool:
        """Whether there is room for another conversation."""
        return len(self.conversations) < self._most

    @property
    def finished(self) -> bool:
        """Whether all that was asked for has been seen."""
        return not self.looking and all(one.done for one in self.conversations)

    def look(self, seconds: float) -> None:
        """Wait a moment, at most *seconds*, and take what has come."""
        if not self.looking and all(one.muted for one in self.conversations):
            # What a fast one had left in the rings, so that there is room: it takes a while, so it
            # is done before the sleep, and not when its packets are about to be traced.
            self._capture.taken()
            self._pending = []
            time.sleep(min([seconds, *self._waking()]))
        else:
            self._capture.wait(min([seconds, LOOK, *self._waking()]))
            self._take(self._capture.taken(), time.time_ns() - SETTLED)
        self._turn(time.time_ns())
        if self._trace.heard > MOST_HEARD:
            self._trace.forget(self._is_told)

    def _waking(self) -> list[float]:
        """Return in how many seconds each that is not watched yet is to be."""
        now = time.time_ns()
        return [max(one.since - WAKING - now, 0) / 1e9 for one in self.conversations if one.muted]

    def _turn(self, now: int) -> None:
        """Watch the conversations whose time has come, and no longer those that are told."""
        woken = [one for one in self.conversations if one.muted and now >= one.since - WAKING]
        told = [
            one
            for one in self.conversations
            if not one.done and one.ended_at and now > one.ended_at + LAST + SETTLED
        ]
        for one in woken:
            one.muted = False
        for one in told:
            one.done = True
        if woken or told:
            self._narrow()
        for one in woken:
            late = time.time_ns() > one.since
            if late and one.late < TRIES:
                one.late, one.muted = one.late + 1, True
                self._arm(one)
                self._narrow()
            one.since = one.whole_since = max(one.since, time.time_ns())

    def rest(self) -> None:
        """Take all that has been seen until now."""
        self._capture.flush()
        self._take(self._capture.taken(), time.time_ns())

    def _is_told(self, packet: Traced) -> bool:
        return any(packet.flow in one.flows for one in self.conversations)

    def _take(self, frames: Iterable[Kept], until: int) -> None:
        """Take what was seen before *until* (ns), in the order of time."""
        self._pending += (one for one in frames if one.frame.time >= self._ready)
        self._busy = self._busy or len(self._pending) > BUSY
        self._pending.sort(key=lambda kept: kept.frame.time)
        ready = [one for one in self._pending if one.frame.time <= until]
        self._pending = self._pending[len(ready) :]
        begun: list[Conversation] = []
        for kept in ready:
            if not self.looking and all(one.past(kept.frame.time) for one in self.conversations):
                break  # what a fast one leaves in the rings concerns nobody
            for one in wires.taken_apart(self._capture, [kept], self._mtus):
                made = self._taken(one)
                begun += [made] if made else []
        for each in begun:
            self._arm(each)
        if begun:
            self._narrow()

    def _taken(self, one: Caught) -> Conversation | None:
        """Take a packet; return the conversation that is met by it."""
        owner = next((each for each in self.conversations if each.has(one)), None)
        if owner is not None:
            owner.take(one, most=self._count)
            return None
        self._recent.append(one)
        return self._begun(one) if self.looking and self._is_meant(one) else None

    def _is_meant(self, one: Caught) -> bool:
        """Return whether a conversation that is to be told may be met by this packet."""
        flow, outer = one.sighting.flow, one.sighting.outer
        if flow.protocol is Protocol.ICMP and one.sighting.icmp not in selecting.ECHOES:
            return False
        if not (
            conversations.fits(self.tree, flow, outer)
            or conversations.fits(self.tree, flow.reply, outer)
        ):
            return False
        if opens(one):
            self._passed -= {flow, flow.reply}
        elif ending(one):
            self._passed |= {flow, flow.reply}
        return flow not in self._passed

    def _begun(self, first: Caught) -> Conversation | None:
        """Return the conversation of a packet, followed from now on, with what was seen of it
        before; None for one that is over."""
        entries = remembered(self._traced, first.sighting.flow)
        made = Conversation(first, entries)
        states = {one.state for some in entries.values() for one in some}
        if not made.opened and states & set(CLOSED):
            self._passed |= made.flows
            return None
        if self._busy and not made.opened:
            made.since, made.muted = NEVER, True
        self.conversations.append(made)
        recent, self._recent = list(self._recent), deque(maxlen=MOST_RECENT)
        earliest = first.sighting.time - RECENT
        for one in recent:
            if not made.has(one):
                self._recent.append(one)
            elif one.sighting.time >= earliest:
                made.take(one, most=self._count)
        return made

    def _arm(self, one: Conversation) -> None:
        """Have the very packets of a conversation traced; one that had begun, from a moment on that
        is the same everywhere."""
        if one.closed:
            return
        since = time.time_ns() + (ARMING << one.late) if one.muted else 0
        if not self.blind:
            self._trace.follow(
                {
                    netns: [
                        Selector(flow, whole=True, since=since, pace=2 * self._count, wrapped=True)
                        for flow in one.seen_in(netns)
                    ]
                    for netns in self._traced
                }
            )
        homes = (self.names.home(flow.source) for flow in one.flows)
        self._capture.add(name for name in homes if name and exists(name))
        whole = all(conversations.fits(self._wide, flow) for flow in one.flows)
        one.since = since
        one.whole_since = 0 if whole and not since else since or time.time_ns()

    def _narrow(self) -> None:
        program = self._program()
        if program != self._now:
            self._now = program
            self._capture.narrow(program)

    def _program(self) -> bytes:
        """Return the filter of all devices: what may be told, and nothing that was told."""
        parts: list[Condition] = [_FLUSH, Kind(ICMP_ERROR)]
        watched = [one for one in self.conversations if not (one.done or one.muted)]
        flows = [flow for one in watched for flow in one.requests]
        if self.looking:
            parts.append(self._wide)
            flows = [flow for flow in flows if not conversations.fits(self._wide, flow)]
        if flows:
            parts.append(conversations.exact(flows))
        tree: Condition = OneOf(tuple(parts))
        going = [one for one in self.conversations if one.muted or (one.done and not one.closed)]
        others = [flow for one in going for flow in one.requests]
        if others:
            tree = All((Not(conversations.exact(others)), tree))
        return filters.program(tree, HEADERS if self._busy else SNAPLEN)

    # -- telling

    def journeys(self, *, all_rules: bool) -> list[Journey]:
        """Return what was seen, conversation by conversation. Call it while all is still open."""
        found = [self._journey(one, all_rules=all_rules) for one in self.conversations]
        return sorted(found, key=_began)

    def _journey(self, one: Conversation, *, all_rules: bool) -> Journey:
        caught = one.told()
        chosen = self._chosen(one, caught)
        hits = [hit for passing in chosen.passings for hit in passing.hits]
        meanings = shot.meanings_of(self.cluster, hits, one.asked, self.names)
        listing = self._trace.listed if all_rules else None
        tracks = nexthops.told(assembly.tracks(chosen, self.names, meanings.of, listing=listing))
        lost = self._capture.lost + bool(self._trace.lost)
        tracks, unsure = _without_guesses(tracks, one.whole_since, lossy=bool(lost))
        asked = one.asked
        service = meanings.service_of(hits) or self.names.service(
            asked.destination, asked.destination_port, asked.protocol
        )
        times = [seen.time for track in tracks for seen in track.sightings]
        refused = _refused(tracks)
        replies = [track for track in tracks if track.leg is Leg.REPLY and not _error(track)]
        entries = [
            NamedEntry(self.names.place(netns), entry)
            for netns, some in one.entries.items()
            for entry in some
        ]
        return Journey(
            source=self.names.who(asked.source) or asked.source,
            destination=f"Service {service}" if service else self.names.destination(asked),
            flow=asked,
            tracks=tracks,
            service=service,
            endpoint=shot.endpoint(tracks) if service else "",
            answered=bool(replies) and not refused,
            refused=refused,
            seconds=(max(times) - min(times)) / 1e9 if times else 0.0,
            entries=tuple(entries),
            lost=lost if _has_gaps(tracks) else 0,
            notes=tuple(self._notes(one, tracks, unsure)),
            attached=True,
        )

    def _chosen(self, one: Conversation, caught: Sequence[Caught]) -> selecting.Chosen:
        port = self.cluster.lab.network.tunnel_port
        known = {each.identity for each in caught}

        def wanted(packet: Traced) -> bool:
            enveloped = (packet.flow.protocol, packet.flow.destination_port) == (Protocol.UDP, port)
            return packet.fingerprint in known or enveloped

        passings = [] if self.blind else self._trace.passes(wanted)
        opening = Opening(one.protocol)
        return selecting.chosen(opening, one.requests, caught, passings, tunnel_port=port)

    def _notes(self, one: Conversation, tracks: Sequence[Track], unsure: int) -> Iterable[str]:
        if not one.opened and one.protocol is Protocol.TCP:
            yield "it flowed already: its first packet, which NAT's rules see, is not among these"
        if unsure:
            yield f"{_packets(unsure)} came before all of the way was watched: told as far as seen"
        if self.blind:
            yield f"no rules: {self.blind}"
        else:
            untold = sum(self._lacks_rules(track) for track in tracks)
            if untold:
                yield f"{_packets(untold)} met rules that are not told: they came too early or fast"

    def _lacks_rules(self, track: Track) -> bool:
        """Return whether a packet was in a namespace that has rules, and none is told there."""
        told = {step.place.netns for step in track.steps if isinstance(step, Rule)}
        seen = {step.place.netns for step in track.sightings if not step.foreign}
        return bool(seen & set(self._traced) - told)


def places(cluster: Cluster, tree: Condition) -> list[str]:
    """Return the namespaces in which conversations that fit *tree* may show: the nodes, the world
    around, and pods, those first that *tree* names."""
    named = {
        one for flow in flows_of(tree, most=FLOWS) for one in (flow.source, flow.destination) if one
    }
    pods = [pod for pod in cluster.pods if not pod.host_network]
    pods.sort(key=lambda pod: pod.ip not in named)
    found = [cluster.lab.netns(member) for member in world.members(cluster.lab)]
    found += [node.netns for node in cluster.nodes[:NODES]]
    found += [pod.netns for pod in pods[:PODS]]
    return [name for name in dict.fromkeys(found) if exists(name)]


def selectors(tree: Condition, cluster: Cluster) -> list[Selector]:
    """Return what is traced from the start: connections that open, and all that has the ends which
    the filter names."""
    ends = conversations.endpoints(tree, cluster)
    asked = dict.fromkeys(flow for one in (tree, *ends) for flow in flows_of(one, most=FLOWS))
    answers = flows_of(conversations.mirrored(tree), most=FLOWS)
    found = [Selector(one, pace=OPENINGS) for one in asked if one.protocol is Protocol.TCP]
    for one in dict.fromkeys([*asked, *answers]):
        if one.source or one.destination or one.source_port or one.destination_port:
            found.append(Selector(one, whole=True, pace=PACE))
    return found


def _without_guesses(
    tracks: Sequence[Track], whole_since: int, *, lossy: bool
) -> tuple[tuple[Track, ...], int]:
    """Return the tracks without ends that nobody saw, and of how many there are none: what came
    before all of its way was watched, or while frames were lost, may have gone on."""
    found, unsure = [], 0
    for track in tracks:
        last = track.steps[-1] if track.steps else None
        if isinstance(last, Ended) and last.fate is Fate.LOST:
            early = bool(track.sightings) and track.sightings[0].time < whole_since
            if early or lossy:
                track = replace(track, steps=track.steps[:-1])
                unsure += early
        found.append(track)
    return tuple(found), unsure


def _has_gaps(tracks: Sequence[Track]) -> bool:
    """Return whether something is missing that may have been lost: where a packet ended."""
    ends = [track.steps[-1] if track.steps else None for track in tracks]
    return not all(isinstance(one, Ended) and one.fate is not Fate.LOST for one in ends)


def _refused(tracks: Sequence[Track]) -> str:
    """Return what the asking side was told instead of an answer, "" when nothing was."""
    replies = [track.name for track in tracks if track.leg is Leg.REPLY]
    if replies and replies[0].startswith("RST"):
        return "connection refused"
    errors = (_error(track) for track in tracks)
    return next((one for one in errors if one and one not in selecting.PASSED_ON), "")


def _error(track: Track) -> str:
    """Return which ICMP error or redirect a packet is, "" for others."""
    icmp = next((seen.icmp for seen in track.sightings), "")
    return "" if icmp in selecting.ECHOES else icmp


def _began(journey: Journey) -> int:
    return min((seen.time for track in journey.tracks for seen in track.sightings), default=0)


def _packets(number: int) -> str:
    return "1 packet" if number == 1 else f"{number} packets"
