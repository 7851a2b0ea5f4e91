"""The rules of the nodes' proxies: what should be there, against what is, and how often it fired.

1. What is there comes from the kernel, by the tools' own listings; nothing is remembered.
2. What should be there comes from the objects in etcd, by the same renderers that the agent uses;
   so whose a rule is, is known from who asks for it, and no rule is parsed.
3. Rules of modes that the lab does not have would be shown, as not wanted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from netlab.agent import policies
from netlab.agent.kubeproxy import KERNEL, given, renderer
from netlab.agent.leftovers import left_over
from netlab.cluster import Cluster, NodeState
from netlab.errors import NotFoundError
from netlab.kernel import iptables, ipvs, ipvs_timeouts, netns, nftables, settings
from netlab.model.kubernetes import Document, view
from netlab.model.services import ProxyNode
from netlab.portals import control
from netlab.proxy import Frontend, HealthCheck, Mode, Options
from netlab.proxy.addresses import Family
from netlab.proxy.claims import Owner
from netlab.proxy.ipvs import not_spared
from netlab.proxy.objects import Objects
from netlab.proxy.options import USUAL, Timeouts, options_of
from netlab.proxy.portals import Portals
from netlab.proxy.programme import Programme
from netlab.proxy.ruleset import Block, Blocks, Key, Sort, Step, difference, same
from netlab.proxy.settings import sysctls

Counts = Mapping[tuple[Key, int], tuple[int, int]]  # packets and bytes by block and place in it

_KINDS = ("Service", "EndpointSlice", "Pod")
_TABLES = ("nat", "filter", "mangle")  # as packets of Services meet what is done to them
_SORTS = (
    *(Sort.JUMPS, Sort.CHAIN, Sort.MAP, Sort.SET),
    *(Sort.IPSET, Sort.ADDRESSES, Sort.SERVER),
)


class State(StrEnum):
    """How what is there compares with what should be."""

    OK = "ok"
    MISSING = "missing"
    DIFFERENT = "different"
    UNWANTED = "unwanted"


class Rule(NamedTuple):
    """A rule, or an element of a set or map, as the mode's tool lists it."""

    text: str
    state: State = State.OK  # not DIFFERENT
    owners: tuple[Owner, ...] = ()  # who asks for it; (): nobody in particular
    packets: int | None = None  # that it fired for since it was written; None: it has no counter
    bytes: int | None = None


class Programmed(NamedTuple):
    """A chain, set or map of a node's proxy."""

    node: str
    block: Block  # as it is there; MISSING: as it should be
    state: State
    owner: Owner | None  # None: all share it
    rules: tuple[Rule, ...]  # there, then those that are missing

    @property
    def packets(self) -> int | None:
        """How often its rules fired, None if none of them has a counter."""
        counted = [rule.packets for rule in self.rules if rule.packets is not None]
        return sum(counted) if counted else None

    @property
    def owners(self) -> set[Owner]:
        """Whose rules are in it."""
        found = {owner for rule in self.rules for owner in rule.owners}
        return found | ({self.owner} if self.owner else set())


class Desired:
    """What the proxy of *node* is to programme for *documents*. Raises UsageError.

    *ports*: those of the portals that a process of userspace mode has, by key; *local*: the
    addresses the node's links have, None: that is not known.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        node: ProxyNode,
        chosen: Options,
        ports: Mapping[str, int] | None = None,
        *,
        local: Iterable[str] | None = None,
    ) -> None:
        objects = Objects(node, chosen, local=local)
        changed = objects.take(documents)
        self.situations = objects.situations
        self.frontends: dict[Owner, list[Frontend]] = {}
        self.health_checks: dict[Owner, list[HealthCheck]] = {}
        for owner, served in changed.items():
            self.frontends[owner] = served.frontends
            self.health_checks[owner] = served.health_checks
        self.blocks: dict[Key, Block] = {}
        self.owner: dict[Key, Owner] = {}
        self.owners: dict[tuple[Key, str], tuple[Owner, ...]] = {}  # of lines in shared blocks
        self._order: dict[Key, int] = {}
        portals = Portals(ports)
        portals.take(changed)
        for situation in objects.situations.values():
            programme = Programme(renderer(chosen.mode, portals), situation)
            programme.update(changed)
            self._take(programme)

    def _take(self, programme: Programme) -> None:
        self.blocks.update(programme.blocks)
        keys = list(programme.shared)
        for owner in sorted(programme.parts):
            part = programme.parts[owner]
            for block in part.blocks:
                self.owner[block.key] = owner
                keys.append(block.key)
            for key, lines in part.entries:
                for line in lines:
                    self.owners[key, line] = (*self.owners.get((key, line), ()), owner)
        for key in keys:
            self._order.setdefault(key, len(self._order))

    def place(self, key: Key, block: Block) -> tuple[object, ...]:
        """Return where a block comes in a listing: who reads down follows a packet.

        What all share first, in each table what the kernel calls first; then Service by Service,
        from the chains of its frontends to those of its endpoints; then what nobody wants.
        """
        family, sort, table, name = key
        where = self._order.get(key, len(self._order))
        if key in self.owner:
            return family, 1, where, name
        if key not in self.blocks:
            return family, 2, table, name
        entered = sort is Sort.JUMPS or any(" hook " in line for line in block.head)
        rank = _TABLES.index(table) if table in _TABLES else 0
        return family, 0, rank, not entered, _SORTS.index(sort), where, name


def node_of(documents: Iterable[Document], name: str) -> ProxyNode:
    """Return the Node object called *name*. Raises NotFoundError."""
    for document in documents:
        if document["kind"] == "Node" and document["metadata"]["name"] == name:
            return view(document, ProxyNode)
    raise NotFoundError(f"nodes {name!r} not found")


def desired(cluster: Cluster, node: str) -> Desired:
    """Return what the proxy of the *node* of a lab is to programme. Raises NotFoundError."""
    documents = [one for one in cluster.documents if one["kind"] in _KINDS]
    chosen, name = options_of(cluster.lab), cluster.lab.netns(node)
    ports: Mapping[str, int] = {}
    local = None
    if netns.exists(name):
        with netns.entered(name):
            if chosen.mode is Mode.USERSPACE:
                ports = control.ports()
            if chosen.mode is Mode.IPVS:
                local = ipvs.local_addresses()
    return Desired(documents, node_of(cluster.documents, node), chosen, ports, local=local)


def observed() -> tuple[Blocks, Counts]:
    """Return a proxy's blocks, of any mode, in the calling thread's namespace, and their counts.

    Raises KernelError.
    """
    blocks: dict[Key, Block] = {}
    counts: dict[tuple[Key, int], tuple[int, int]] = {}
    for kernel in (iptables, nftables):
        blocks.update(kernel.read(Family))
        counts.update(kernel.counters(Family))
    blocks.update(ipvs.left(Family))
    return blocks, counts


def programmed(
    cluster: Cluster,
    node: str,
    *,
    only: Collection[Owner] | None = None,
    wanted: Desired | None = None,
) -> list[Programmed]:
    """Return the chains, sets and maps of the proxy of *node*, in the order packets meet them.

    *only*: with no rules but those of these owners; *wanted*: what is desired, if it is known
    already. Of a node with a foreign kube-proxy there are none. Raises NotFoundError, KernelError.
    """
    name = cluster.lab.netns(node)
    if cluster.node(node).declared.foreign_proxy:
        return []
    wanted = wanted or desired(cluster, node)
    if not netns.exists(name):
        raise NotFoundError(f"node {node} is not up", hint="`netlab up` with its files repairs it")
    with netns.entered(name):
        there, counts = observed()
    there = not_spared(there, wanted.blocks, options_of(cluster.lab).exclude_cidrs)
    found = compared(node, wanted, there, counts)
    return found if only is None else list(_only(found, only))


def compared(node: str, wanted: Desired, there: Blocks, counts: Counts) -> list[Programmed]:
    """Return what is *there* and what is *wanted*, block by block, with what was counted."""
    every = {**wanted.blocks, **there}
    return [
        _compared(node, wanted, block, there.get(key), counts)
        for key, block in sorted(every.items(), key=lambda pair: wanted.place(*pair))
    ]


def _compared(
    node: str, wanted: Desired, block: Block, found: Block | None, counts: Counts
) -> Programmed:
    key = block.key
    goal = wanted.blocks.get(key)
    owner = wanted.owner.get(key)
    left = Counter(goal.lines if goal else ())
    rules = []
    for number, line in enumerate(found.lines if found else ()):
        packets, size = counts.get((key, number), (None, None))
        state = State.OK if left[line] > 0 else State.UNWANTED
        left[line] -= 1
        rules.append(Rule(line, state, _owners(wanted, key, line), packets, size))
    rules += [Rule(line, State.MISSING, _owners(wanted, key, line)) for line in (+left).elements()]
    return Programmed(node, block, _state(goal, found), owner, tuple(rules))


def _owners(wanted: Desired, key: Key, line: str) -> tuple[Owner, ...]:
    owner = wanted.owner.get(key)
    return (owner,) if owner else wanted.owners.get((key, line), ())


def _state(wanted: Block | None, found: Block | None) -> State:
    if wanted is None:
        return State.UNWANTED
    if found is None:
        return State.MISSING
    return State.OK if same(wanted, found) else State.DIFFERENT


def _only(found: Sequence[Programmed], owners: Collection[Owner]) -> Iterator[Programmed]:
    """Yield what of the blocks *found* is of *owners*: whole, or the lines they have in it."""
    for one in found:
        if one.owner in owners:
            yield one
        elif rules := tuple(rule for rule in one.rules if set(rule.owners) & set(owners)):
            states = {rule.state for rule in rules} - {State.OK}
            state = one.state if states else State.OK
            yield one._replace(rules=rules, state=state)


class Rewriting(NamedTuple):
    """What a node's proxy would do: how many operations, and the shell's words for them."""

    operations: int
    words: list[str]


def rewriting(cluster: Cluster, node: NodeState) -> Rewriting:
    """Return what the proxy of *node* would do to the rules and settings that are there now,
    and what would be done to its policies' table. A foreign kube-proxy's rules stay as they are."""
    todo = Todo({}, [], None) if node.declared.foreign_proxy else _proxys(cluster, node)
    sets, steps, timed = todo
    words = [f"ip netns exec {node.netns} sysctl -qew {name}={to}" for name, to in sets.items()]
    if timed is not None:
        to = f"{timed.tcp} {timed.tcp_fin} {timed.udp}"
        words.append(f"ip netns exec {node.netns} ipvsadm --set {to}")
    scripts = [one for each, some in steps for one in given(each, some)]
    held = policies.rewriting(cluster, node)
    scripts += given(Mode.NFTABLES, held)
    for argv, text in scripts:
        words += [f"ip netns exec {node.netns} {argv} <<'END'", *text.splitlines(), "END"]
    count = len(sets) + bool(timed) + len(held) + sum(len(some) for _, some in steps)
    return Rewriting(count, words)


class Todo(NamedTuple):
    """What is left to a proxy: settings, steps by mode, ip_vs's timeouts (None: they are right)."""

    sets: Mapping[str, str]
    steps: list[tuple[Mode, list[Step]]]
    timeouts: Timeouts | None


def _proxys(cluster: Cluster, node: NodeState) -> Todo:
    """Return what is left to netlab's own proxy of *node*."""
    wanted, chosen = desired(cluster, node.name), options_of(cluster.lab)
    mode, spared, kept = chosen.mode, chosen.exclude_cidrs, chosen.timeouts
    settled = sysctls(wanted.situations)
    if not netns.exists(node.netns):
        timed = mode is Mode.IPVS and kept != USUAL
        steps = [(mode, list(difference(wanted.blocks, {})))]
        return Todo(settled, steps, kept if timed else None)
    with netns.entered(node.netns):
        there = not_spared(KERNEL[mode].read(Family), wanted.blocks, spared)
        steps = [(mode, list(difference(wanted.blocks, there)))]
        for part, blocks in left_over(mode, spared):
            steps.append((part.mode, [Step(None, block) for block in blocks]))
        timed = mode is Mode.IPVS and bool(ipvs_timeouts.unlike(kept))
        return Todo(settings.unlike(settled), steps, kept if timed else None)
