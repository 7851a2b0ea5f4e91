"""The sensors of all machines of a lab, as the one uses them that we are on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Protocol as Interface

from msgspec.structs import replace

from netlab import beyond, patience, world
from netlab.agent.place import Place
from netlab.cluster import Cluster
from netlab.errors import UsageError
from netlab.model.lab import Lab
from netlab.sensors.wide import Ask, Borrowed, WideCapture, WideTrace
from netlab.store.etcd import Etcd
from netlab.store.mailbox import Correspondent
from netlab.store.wire import KeyValue

ANSWER = patience.seconds(10.0)  # seconds another machine may take to say what it saw


class Live(Interface):
    """What is needed of a lab of several machines."""

    lab: Lab
    place: Place | None

    @property
    def subnets(self) -> Sequence[KeyValue]: ...
    def cluster(self) -> Cluster: ...
    def connection(self) -> Etcd: ...


class Across:
    """The lab, and sensors that reach all of its machines."""

    def __init__(
        self,
        live: Live,
        here: str,
        cards: Mapping[str, str],
        asks: dict[str, Ask],
        stack: ExitStack,
    ) -> None:
        """*stack*: closes what is opened later."""
        self.here = here
        self._live = live
        self._cards = cards
        self.asks = asks
        self.guests: dict[str, str] = {}  # the nodes on whose machines strangers are
        self._stack = stack
        self._lent: list[Borrowed] = []

    @property
    def subnets(self) -> Sequence[KeyValue]:
        return self._live.subnets

    def cluster(self) -> Cluster:
        """Return the cluster, with each node's card called as on its machine."""
        found = self._live.cluster()
        lab = found.lab
        nodes = [replace(one, uplink=self._cards.get(one.name, one.uplink)) for one in lab.nodes]
        lab = replace(lab, nodes=nodes)
        states = tuple(replace(one, declared=lab.node(one.name)) for one in found.nodes)
        return replace(found, lab=lab, nodes=states)

    def ask(self, name: str) -> Ask:
        """Return whom to ask what *name* is to do, whichever machine that is, also this one."""
        if name in self.asks:
            return self.asks[name]
        return _ask(
            self._stack.enter_context(closing(Correspondent(self._live.connection(), name)))
        )

    @contextmanager
    def joined(self, node: str) -> Iterator[None]:
        """Have the sensors of *node*'s machine meanwhile, which was not there at first."""
        self.asks[node] = self.ask(node)
        try:
            yield
        finally:
            for one in self._lent:
                one.give_back(node)
            del self.asks[node]

    def capture(self, netns_names: Iterable[str] = ()) -> WideCapture:
        return WideCapture(netns_names, self._borrowed())

    def trace(self) -> WideTrace:
        return WideTrace(self._borrowed())

    def _borrowed(self) -> Borrowed:
        self._lent.append(Borrowed(self.machine, self.asks, ipv6=self._live.lab.dual))
        return self._lent[-1]

    def machine(self, netns: str) -> str:
        """Return on which other machine *netns* is, "" for this one."""
        member, home = netns.split(".")[1], beyond.outside_home(self._live.lab)
        if member in world.OUTSIDE and home is not None:
            member = home.name
        member = self.guests.get(member, member)
        return member if member in self.asks else ""


@contextmanager
def asking(live: Live, nodes: Sequence[str]) -> Iterator[dict[str, Correspondent]]:
    """Have somebody to ask each of *nodes*, other machines of the lab."""
    with ExitStack() as stack:
        found = {}
        for node in nodes:
            found[node] = Correspondent(live.connection(), node)
            stack.callback(found[node].close)
        yield found


@contextmanager
def across(live: Live) -> Iterator[Across]:
    """Have the sensors of all machines. Raises NetlabError when one does not answer; UsageError
    where this one is no node."""
    if live.place is None or not live.place.node:
        raise UsageError(
            f"this machine is no node of lab {live.lab.name}", hint="run it on one that is"
        )
    here = live.place.node
    others = [node.name for node in live.lab.running if node.name != here]
    with ExitStack() as stack, asking(live, others) as machines:
        asks = {name: _ask(one) for name, one in machines.items()}
        cards = {name: str(ask({"do": "place"})["uplink"]) for name, ask in asks.items()}
        yield Across(live, here, {**cards, here: live.place.uplink}, asks, stack)


def _ask(one: Correspondent) -> Ask:
    return lambda request: one.ask(request, timeout=ANSWER)
