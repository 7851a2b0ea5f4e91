"""Which rules a packet fitted, in namespace after namespace: the kernel's own account of it.

    with RuleTrace(["notes.node1", "notes.node2"], [Selector(flow)]) as trace:
        ...  # send it
        hits = trace.hits(flow)

1. Exactly the packets asked for are traced, and nothing outlives the `with` (`traceswitch`).
2. What a packet did is told by the kernel while it does it: once its answer is there, so are all
   of its traces, and nothing has to be waited for.
3. A packet is known again by what no rewrite changes (`traces.Traced.fingerprint`): trace numbers
   are used again, and differ between bridge and IP for one and the same packet.
4. Rules read as the tool that wrote them prints them (`ruletext`), looked up when asked for.
5. One trace serves many probes: whoever listens in a namespace hears of every packet traced there,
   so that several traces would each decode all, and opening and closing one changes the rule set,
   which makes the kernel wait for every CPU and an agent look.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import msgspec

from netlab.errors import CapabilityError, KernelError
from netlab.kernel import netlink
from netlab.kernel.netns import entered
from netlab.packets import Flow, Passing, Protocol, RuleHit
from netlab.sensors import traces
from netlab.sensors.ports import SINGLE
from netlab.sensors.ruletext import RuleTexts
from netlab.sensors.token import MARK
from netlab.sensors.traces import Event, Traced
from netlab.sensors.traceswitch import PREFIX, Selector, Switch, has_bridge_tables

BUFFER = (
    4 << 20
)  # bytes of unread messages, as far as the kernel allows; a packet's take some 20 KiB
# The probes of `sending`, and next to nothing else.
PROBES = (
    Selector(Flow("", "", Protocol.TCP), source_ports=(SINGLE.start, SINGLE.stop - 1)),
    Selector(Flow("", "", Protocol.UDP), MARK),
    Selector(Flow("", "", Protocol.ICMP), MARK),
)
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def probes(*, ipv6: bool) -> Sequence[Selector]:
    """Return what selects probes by IPv4; by IPv6, too, if that is wanted."""
    by_ipv6 = [msgspec.structs.replace(one, any_ipv6=True) for one in PROBES]
    return (*PROBES, *by_ipv6) if ipv6 else PROBES


class Run(NamedTuple):
    """What a packet did in one base chain and those it was led to from there."""

    family: str
    table: str
    base: str
    packet: Traced
    events: list[Event]


class RuleTrace:
    """A context manager: from its start to its end, the packets that *selectors* fit are traced.

    Several threads may use it. *pace*: see `traceswitch.Switch`. Raises KernelError for a namespace
    that does not exist, CapabilityError where the kernel does not let us trace.
    """

    def __init__(
        self,
        netns_names: Iterable[str],
        selectors: Sequence[Selector] = PROBES,
        *,
        pace: int = 0,
    ) -> None:
        self._selectors = tuple(selectors)
        self._pace = pace
        self._names = list(dict.fromkeys(netns_names))
        self._places: dict[str, _Place] = {}
        self._adding = threading.Lock()

    def __enter__(self) -> RuleTrace:
        try:
            self.add(self._names)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, netns_names: Iterable[str]) -> None:
        """Trace in further namespaces too, from now on."""
        with self._adding:
            for name in netns_names:
                if name not in self._places:
                    with entered(name):
                        place = _Place(self._selectors, self._pace)
                    # Replaced, never changed: other threads walk over it meanwhile.
                    self._places = {**self._places, name: place}

    def close(self) -> None:
        """Stop tracing; what was traced can still be asked for, as long as its rules are there."""
        places = list(self._places.values())
        if places:  # the kernel waits for every CPU, for each namespace some 12 ms
            with ThreadPoolExecutor(len(places)) as pool:
                for _ in pool.map(_Place.close, places):
                    pass

    @property
    def lost(self) -> bool:
        """Whether the kernel had more to tell than there was room for."""
        return any(place.lost for place in self._places.values())

    def hits(
        self, flow: Flow | None = None, token: bytes = b"", *, within: Collection[str] = ()
    ) -> list[RuleHit]:
        """Return the rules that one probe fitted, by namespace, in the order it met them.

        *flow* and *token* tell the probe from others that the selectors fit as well; its source
        port, say, which nobody knew before it was sent. It is looked for by them in every
        namespace, and by its fingerprint in those that see it rewritten. *within*: only what it
        met in these namespaces, when it is not to be told of all. A namespace that is gone has
        nothing to tell: its rules went with it.
        """
        found: list[RuleHit] = []
        for name, runs in self._runs(flow, token).items():
            if not runs or (within and name not in within):
                continue
            try:
                with entered(name):
                    found += self._places[name].hits(name, runs)
            except KernelError:
                continue
        return found

    def dropped(self, flow: Flow, token: bytes) -> bool:
        """Return whether a rule, or a chain's policy, has ended a probe's way by now."""
        return any(
            event.verdict in ("drop", "policy drop")
            for runs in self._runs(flow, token).values()
            for run in runs
            for event in run.events
        )

    def _runs(self, flow: Flow | None, token: bytes) -> dict[str, list[Run]]:
        """Return what one probe did so far, by namespace."""
        wanted = [_narrowed(one, flow, token) for one in self._selectors]
        places = self._places
        known = {
            run.packet.fingerprint
            for place in places.values()
            for run in place.seen(flow)
            if any(one.fits(run.packet) for one in wanted if one is not None)
        }
        return {name: place.of(known) for name, place in places.items()}

    def passes(self, wanted: Callable[[Traced], bool]) -> list[Passing]:
        """Return what was traced of the packets that *wanted* chooses: by namespace, in order.

        A namespace that is gone has nothing to tell: its rules went with it.
        """
        found: list[Passing] = []
        for name, place in self._places.items():
            mine = [run for run in place.seen() if wanted(run.packet)]
            if not mine:
                continue
            try:
                with entered(name):
                    found += place.passes(name, mine)
            except KernelError:
                continue
        return found

    def follow(self, selectors: Mapping[str, Sequence[Selector]]) -> None:
        """Trace what these fit, too, by namespace. Raises KernelError."""
        adding = [(self._places[name], some) for name, some in selectors.items() if some]
        if adding:  # as in `close`
            with ThreadPoolExecutor(len(adding)) as pool:
                for _ in pool.map(lambda pair: pair[0].follow(pair[1]), adding):
                    pass

    @property
    def heard(self) -> int:
        """How many passes through a base chain were told of and not forgotten."""
        return sum(len(place.seen()) for place in self._places.values())

    def forget(self, unless: Callable[[Traced], bool]) -> None:
        """Forget the packets heard of so far but for those *unless* is true of."""
        for place in self._places.values():
            place.forget(unless)

    def ended(self) -> bool:
        """Return whether a rule or a policy has dropped one of the packets."""
        return any(
            event.verdict.endswith("drop")
            for place in self._places.values()
            for run in place.seen()
            for event in run.events
        )

    def listed(self, hit: RuleHit, chain: str) -> dict[int, str]:
        """Return the rules of a chain of the table that *hit* is in: handle to text, in order."""
        with entered(hit.netns):
            return self._places[hit.netns].listed(hit.family, hit.table, chain)

    def taken(self) -> Iterator[tuple[Traced, list[RuleHit]]]:
        """Yield what each packet met in each base chain, by namespace and in order, and forget it.

        What is still being heard when this is called comes with the next call. A namespace that
        is gone has nothing to tell.
        """
        for name, place in self._places.items():
            runs = place.ended()
            if not runs:
                continue
            try:
                with entered(name):
                    yield from [(run.packet, place.hits(name, [run])) for run in runs]
            except KernelError:
                continue


def _narrowed(selector: Selector, flow: Flow | None, token: bytes) -> Selector | None:
    """Return *selector* for nothing but the probe; None when it is for another protocol."""
    if flow is None:
        return msgspec.structs.replace(selector, token=token or selector.token)
    if flow.protocol is not selector.flow.protocol:
        return None
    return msgspec.structs.replace(selector, flow=flow, token=token or selector.token)


class _Place:
    """One namespace: the switch, the socket that hears, what was heard."""

    def __init__(self, selectors: Collection[Selector], pace: int = 0) -> None:
        self.lost = False
        self._runs: list[Run] = []
        self._heard = 0  # runs there were when `ended` was last asked
        self._by_flow: dict[Flow, list[Run]] = {}
        self._by_fingerprint: dict[tuple[Protocol, bytes], list[Run]] = {}
        self._current: dict[int, Run] = {}
        self._reading = threading.Lock()
        self._looking_up = threading.Lock()
        self._texts = RuleTexts()
        self._devices: dict[int, str] = {}
        self._buffer = bytearray(netlink.RECEIVE)
        self._listener: netlink.Socket | None = _listener()
        try:
            self._switch = Switch(tuple(selectors), pace=pace, bridged=has_bridge_tables())
        except BaseException:
            self._listener.close()
            raise

    def close(self) -> None:
        if self._listener is not None:
            self._switch.close()
            with self._reading:
                self._read()
                self._listener.close()
                self._listener = None

    def follow(self, selectors: Sequence[Selector]) -> None:
        if self._listener is not None:
            self._switch.add(selectors)

    def forget(self, unless: Callable[[Traced], bool]) -> None:
        with self._reading:
            self._read()
            left = [run for run in self._runs if unless(run.packet)]
            kept = {id(run.events) for run in left}
            self._current = {
                number: run for number, run in self._current.items() if id(run.events) in kept
            }
            self._runs, self._by_flow, self._by_fingerprint = [], {}, {}
            self._heard = 0
            for run in left:
                self._remember(run)

    def seen(self, flow: Flow | None = None) -> list[Run]:
        """Return what was heard so far of packets that look like *flow*, if that is a whole one.

        Our own table is among it: it sees every packet unaltered.
        """
        with self._reading:
            self._read()
            if flow is None or not (flow.source and flow.destination):
                return list(self._runs)
            ports = bool(flow.source_port and flow.destination_port)
            whole = ports or flow.protocol is Protocol.ICMP
            return list(self._by_flow.get(flow, ()) if whole else self._runs)

    def of(self, fingerprints: Collection[tuple[Protocol, bytes]]) -> list[Run]:
        """Return what was heard so far of packets with one of these *fingerprints*."""
        with self._reading:
            return [run for one in fingerprints for run in self._by_fingerprint.get(one, ())]

    def ended(self) -> list[Run]:
        """Return the runs that there were at the last call already, and forget them."""
        with self._reading:
            self._read()
            ended, left = self._runs[: self._heard], self._runs[self._heard :]
            self._heard = len(left)
            gone = {id(run.events) for run in ended}
            self._current = {
                number: run for number, run in self._current.items() if id(run.events) not in gone
            }
            self._runs, self._by_flow, self._by_fingerprint = [], {}, {}
            for run in left:
                self._remember(run)
        return ended

    def _read(self) -> None:
        while self._listener is not None:
            try:
                size = self._listener.socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost = True
                continue
            for event in traces.events(bytes(memoryview(self._buffer)[:size])):
                self._take(event)

    def _take(self, event: Event) -> None:
        packet = event.packet
        if packet is not None:
            run = Run(event.family, event.table, event.chain, packet, [])
            self._current[event.number] = run
            self._remember(run)
        if event.tells and event.number in self._current:
            self._current[event.number].events.append(event)

    def _remember(self, run: Run) -> None:
        self._runs.append(run)
        self._by_flow.setdefault(run.packet.flow, []).append(run)
        self._by_fingerprint.setdefault(run.packet.fingerprint, []).append(run)

    def hits(self, netns: str, runs: Iterable[Run]) -> list[RuleHit]:
        """Return the hits of *runs*. The calling thread is in the namespace, called *netns*."""
        return [hit for one in self.passes(netns, runs) for hit in one.hits]

    def passes(self, netns: str, runs: Iterable[Run]) -> list[Passing]:
        """Return *runs* but for those through our own table, the rules in words. The calling thread
        is in the namespace, called *netns*."""
        with self._looking_up:
            self._texts.look_again()
            return list(self._passes(netns, runs))

    def _passes(self, netns: str, runs: Iterable[Run]) -> Iterator[Passing]:
        for family, table, base, packet, events in runs:
            if table.startswith(PREFIX):
                continue
            hook = self._texts.hook(family, table, base)
            incoming, outgoing = self._device(packet.incoming), self._device(packet.outgoing)
            hits = tuple(
                RuleHit(
                    netns=netns,
                    family=event.family,
                    table=event.table,
                    hook=hook,
                    base=base,
                    chain=event.chain,
                    rule=self._text(event),
                    verdict=event.verdict,
                    flow=packet.flow,
                    mark=event.mark,
                    incoming=incoming,
                    outgoing=outgoing,
                    state=packet.state,
                    handle=event.handle,
                )
                for event in list(events)
            )
            yield Passing(
                *(netns, hook, table, packet.flow, packet.fingerprint, incoming, outgoing, hits),
                conntrack=packet.conntrack,
                opens=packet.opens,
                icmp_error=packet.icmp_error,
            )

    def _text(self, event: Event) -> str:
        if not event.handle:
            return ""
        return self._texts.text(event.family, event.table, event.chain, event.handle)

    def listed(self, family: str, table: str, chain: str) -> dict[int, str]:
        """Return the rules of a chain. The calling thread is in the namespace."""
        return self._texts.chain(family, table, chain)

    def _device(self, index: int) -> str:
        if index and index not in self._devices:
            self._devices = dict(socket.if_nameindex())
        return self._devices.get(index, f"if{index}") if index else ""


def _listener() -> netlink.Socket:
    """Return a socket that hears the traces of the calling thread's namespace."""
    opened = netlink.Socket(netlink.NETFILTER)
    try:
        try:
            opened.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        except OSError:
            opened.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        opened.socket.bind((0, 0))
        opened.socket.setsockopt(netlink.SOL_NETLINK, netlink.ADD_MEMBERSHIP, traces.GROUP)
    except OSError as error:
        opened.close()
        raise CapabilityError(
            f"cannot hear of rule traces: {(error.strerror or str(error)).lower()}",
            hint="see `netlab doctor`",
        ) from error
    return opened
