"""A conversation that is followed: its ends in each namespace, and what was seen of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from netlab.errors import NetlabError
from netlab.kernel import conntrack
from netlab.kernel.netns import entered
from netlab.packets import Entry, Flow, Identity, Protocol
from netlab.proxy.addresses import Family
from netlab.telling.selecting import ECHOES, Caught, ends, quoted

LAST = 50_000_000  # ns for a last packet to come to its end
EARLIER = 500  # sightings that are kept of what came before `since`
TRANSIT = 5_000_000  # ns that a packet may take from its first device to its last
ROUNDS = 4  # rewrites, one behind the other, that ends are followed through
_Key = tuple[Identity, int]  # what a packet is known by, and its length in bytes
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10


def flags(one: Caught) -> int:
    """Return the TCP flags of a packet, 0 of another protocol."""
    behind = one.transport
    is_tcp = one.sighting.flow.protocol is Protocol.TCP and len(behind) > 13
    return behind[13] if is_tcp else 0


def opens(one: Caught) -> bool:
    """Return whether a packet begins a TCP connection."""
    return flags(one) & (_SYN | _ACK) == _SYN


def ending(one: Caught) -> bool:
    """Return whether a packet belongs to the end of a TCP connection."""
    return bool(flags(one) & (_FIN | _RST))


class Conversation:
    """One conversation. *first*: the packet it was found by; *entries*: by namespace, what its
    kernel remembers of it.

    `requests` are the flows that some namespace sees its asking side as, `asked` the one that the
    asker sees. `since`: packets that were seen before are not told (ns since the epoch).
    """

    def __init__(self, first: Caught, entries: dict[str, list[Entry]]) -> None:
        self.protocol = first.sighting.flow.protocol
        self.opened = opens(first)
        self.entries = entries
        self.requests = _requests(first, entries)
        self.asked = _asked(first, self.requests, entries)
        self.flows = self.requests | {one.reply for one in self.requests}  # … both ways
        self.since = 0
        self.whole_since = 0  # from then on (ns) packets are seen wherever they go
        self.caught: list[Caught] = []
        self.ended_at = 0  # ns; 0: it goes on
        self.closed = False  # by those who had it
        self.done = False  # all there is to tell has been seen
        self.muted = False  # not watched until it is traced
        self.late = 0  # how often it was to be told from a moment on that was over by then
        self._packets: dict[tuple[_Key, int], None] = {}
        self._met: dict[tuple[_Key, str], int] = {}  # how many that look alike, by where
        self._earlier: dict[_Key, int] = {}
        self._finished: set[bool] = set()  # who has sent its FIN: whether it is the asking side

    def has(self, one: Caught) -> bool:
        """Return whether a packet is of this conversation, or an error about it."""
        sighting = one.sighting
        if sighting.flow in self.flows:
            return True
        if sighting.flow.protocol is not Protocol.ICMP or sighting.icmp in ECHOES:
            return False
        return ends(quoted(one)) in self.flows

    def take(self, one: Caught, *, most: int) -> None:
        """Take note of a packet of it, unless it is a new one beyond the first *most*."""
        seen = one.sighting
        key = one.identity, seen.length
        if seen.time < self.since:
            self._earlier[key] = seen.time
            if len(self.caught) > EARLIER:
                return
        elif seen.time - self._earlier.get(key, seen.time - TRANSIT) < TRANSIT:
            return  # the rest of its way: it was on it when the others began to be told
        else:
            # Datagrams may look alike: the second of them at one place is the second at another.
            before = self._met.get((key, seen.where), 0)
            self._met[key, seen.where] = before + 1
            if (key, before) not in self._packets and len(self._packets) >= most:
                return
            self._packets[key, before] = None
        self.caught.append(one)
        if self.protocol is Protocol.TCP and one.sighting.flow in self.flows:
            if flags(one) & _FIN:
                self._finished.add(one.sighting.flow in self.requests)
            if flags(one) & _RST or len(self._finished) == 2:
                self.ended_at, self.closed = one.sighting.time, True
        if len(self._packets) >= most:
            self.ended_at = one.sighting.time

    def past(self, time: int) -> bool:
        """Return whether nothing is to be expected of what is seen at *time* (ns)."""
        return self.muted or bool(self.ended_at and time > self.ended_at + LAST)

    def told(self) -> list[Caught]:
        """Return what is to be told: from `since` on, or all when nothing has come since."""
        found = [one for one in self.caught if one.sighting.time >= self.since]
        return found or self.caught

    def seen_in(self, netns: str) -> set[Flow]:
        """Return its ends, both ways, as one namespace sees them before it rewrites any."""
        seen = {one.sighting.flow for one in self.caught if one.sighting.netns == netns}
        found = seen & self.flows
        for entry in self.entries.get(netns, ()):
            found |= {entry.original, entry.reply}
        return found | {one.reply for one in found}


def remembered(places: Iterable[str], flow: Flow) -> dict[str, list[Entry]]:
    """Return what the kernels of *places* remember of the conversation that has somewhere the
    ends *flow*, by namespace; what one has rewritten is looked for in the others."""
    known = {flow}
    found: dict[str, dict[bytes, Entry]] = {}
    names = list(places)
    for _ in range(ROUNDS):
        before = len(known)
        for name in names:
            for entry in _entries(name, known):
                found.setdefault(name, {})[entry.key] = entry
                known |= {entry.original, entry.reply.reply}
        if len(known) == before:
            break
    return {name: list(entries.values()) for name, entries in found.items()}


def _entries(netns: str, known: Collection[Flow]) -> list[Entry]:
    protocol = next(iter(known)).protocol
    try:
        with entered(netns):
            if protocol is not Protocol.ICMP:
                return conntrack.entries_of(list(known))
            listed = conntrack.entries(Family.IPV4, protocol)
    except NetlabError:
        return []
    both = set(known) | {one.reply for one in known}
    return [one for one in listed if one.original in both or one.reply in both]


def _requests(first: Caught, entries: dict[str, list[Entry]]) -> set[Flow]:
    listed = [entry for some in entries.values() for entry in some]
    requests = {_request(first, listed)}
    for _ in range(ROUNDS):
        for entry in listed:
            pair = {entry.original, entry.reply.reply}
            if pair & requests:
                requests |= pair
    return requests


def _request(first: Caught, entries: Sequence[Entry]) -> Flow:
    """Return the flow of a packet, turned round when it is an answer."""
    flow = first.sighting.flow
    if flow.protocol is Protocol.ICMP:
        return flow.reply if first.sighting.icmp == "echo-reply" else flow
    tcp = flags(first)
    if tcp & _SYN:
        return flow.reply if tcp & _ACK else flow
    for entry in entries:
        if flow in (entry.original, entry.reply.reply):
            return flow
        if flow in (entry.reply, entry.original.reply):
            return flow.reply
    return flow if flow.source_port >= flow.destination_port else flow.reply  # servers' are low


def _asked(first: Caught, requests: set[Flow], entries: dict[str, list[Entry]]) -> Flow:
    """Return the flow that nobody's rewrite gives: as it was asked."""
    pairs = [(one.original, one.reply.reply) for some in entries.values() for one in some]
    made = {after for before, after in pairs if before != after and before in requests}
    own = _request(first, [one for some in entries.values() for one in some])
    left = requests - made
    return own if own in left or not left else min(left, key=str)
