"""kube-proxy: makes one namespace serve the Services it is told of, pass after pass.

1. Level-triggered: a pass is given all objects there are. It costs what changed; only what somebody
   else may have altered (the kernel counts the commits) is read back and compared whole. Of virtual
   servers, sets and addresses nobody counts the changes: they are read now and then.
2. Rules first, then conntrack: a flow that begins between the two finds the new rules.
3. Of other modes nothing is left: their rules go once this one's are there, so that no connection
   finds neither. A process of userspace mode ends last, and the connections it carries with it.

The calling thread is in the namespace, in every call.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from netlab.agent.healthchecks import HealthChecks, proxy_health
from netlab.agent.leftovers import left_over, remove
from netlab.agent.userspace import Userspace
from netlab.kernel import (
    conntrack,
    generation,
    iptables,
    ipvs,
    ipvs_timeouts,
    nftables,
    settings,
    virtual_servers,
)
from netlab.kernel.addresses import local_addresses
from netlab.model.kubernetes import Document
from netlab.model.modes import Mode
from netlab.model.services import ProxyNode
from netlab.portals import control as portals
from netlab.portals.control import Home
from netlab.proxy import iptables as iptables_renderer
from netlab.proxy import iptables_text, ipvs_text, nft_text, staleness
from netlab.proxy import ipvs as ipvs_renderer
from netlab.proxy import nftables as nftables_renderer
from netlab.proxy import userspace as userspace_renderer
from netlab.proxy.addresses import Family
from netlab.proxy.claims import Owner
from netlab.proxy.frontend import Frontend, HealthCheck
from netlab.proxy.ipvs import not_spared
from netlab.proxy.objects import Changed, Objects
from netlab.proxy.options import Options
from netlab.proxy.portals import Portal, Portals
from netlab.proxy.programme import Programme
from netlab.proxy.ruleset import Block, Key, Renderer, Sort, Step, difference
from netlab.proxy.service import NOTHING, Served
from netlab.proxy.settings import LAX_ARP, after_cleanup, sysctls, without_guard


class RuleSets(Protocol):
    """How the kernel keeps the blocks of one mode, in the namespace of the calling thread."""

    def read(self, families: Iterable[Family]) -> dict[Key, Block]:
        """Return the blocks that are ours by name."""

    def write(self, steps: Sequence[Step]) -> None:
        """Make the steps true, all or none. Raises KernelError."""


KERNEL: Mapping[Mode, RuleSets] = {
    Mode.IPTABLES: iptables,
    Mode.NFTABLES: nftables,
    Mode.IPVS: virtual_servers,
    Mode.USERSPACE: iptables,
}
RENDERER: Mapping[Mode, Renderer] = {  # of userspace mode: one for each node
    Mode.IPTABLES: iptables_renderer,
    Mode.NFTABLES: nftables_renderer,
    Mode.IPVS: ipvs_renderer,
}
UDP = "UDP"
LOOK = 1.0  # seconds between two looks at what nobody counts the changes of, at least …
SHARE = 0.05  # … and so that they take no more of the time
RULES = (Sort.CHAIN, Sort.JUMPS)  # of iptables, whose commits are counted


def renderer(mode: Mode, table: Portals | None) -> Renderer:
    """Return the renderer of *mode*; that of userspace mode reads the ports in *table*."""
    if mode is Mode.USERSPACE and table is not None:
        return userspace_renderer.Userspace(table.port)
    return RENDERER[mode]


class Pass(NamedTuple):
    """What one pass did."""

    steps: list[Step]
    repaired: list[Step]  # those of them that undo what somebody else did
    forgotten: list[conntrack.Entry]  # UDP entries deleted
    settings: dict[str, str]  # those written
    problems: list[str]  # what does not work although it should, in words


class KubeProxy:
    """The proxy of one node with given options. `close` ends its health checks, no more."""

    def __init__(
        self,
        options: Options,
        *,
        answering: bool = True,
        healthz: bool = False,
        home: Home | None = None,
        former: KubeProxy | None = None,
    ) -> None:
        """*answering*: health checks are answered, by a thread of this process; *healthz*: so are
        questions about the proxy itself. *home*: whose the process of userspace mode is; None: it
        ends with this proxy. *former*: who served the namespace so far, and is closed now but for
        its health checks, whose answers a load balancer is not to miss."""
        self.options = options
        by_process = options.mode is Mode.USERSPACE
        self._userspace = Userspace(home or Home()) if by_process else None
        handed = former._handed_over() if former is not None else None
        self._health = handed or (HealthChecks() if answering else None)
        self._healthz = healthz
        self._objects: Objects | None = None
        self._programmes: dict[Family, Programme] = {}
        self._served: dict[Owner, Served] = {}
        self._seen: int | None = None  # the generation as of which the rules are known
        self._local: frozenset[str] | None = None  # the node's addresses, where they matter
        self._next_look = 0.0  # at what is not counted; monotonic seconds
        self._alone = False  # whether nothing is left of the other modes
        self._unswept: set[Owner] | None = None  # whose UDP entries to look at; None: everybody's
        self._former: list[Frontend] = []  # what those had before

    @property
    def warnings(self) -> list[str]:
        """What is left out of the objects, and why."""
        return self._objects.warnings if self._objects else []

    @property
    def health_checks(self) -> list[HealthCheck]:
        """The health-check node ports there are to answer."""
        return [check for served in self._served.values() for check in served.health_checks]

    @property
    def blocks(self) -> dict[Key, Block]:
        """The rules as they are wanted."""
        return {key: one for each in self._programmes.values() for key, one in each.blocks.items()}

    @property
    def portals(self) -> list[Portal]:
        """What a process of userspace mode is to serve."""
        return self._userspace.table.all() if self._userspace is not None else []

    @property
    def look_again(self) -> float | None:
        """In how many seconds a pass is due though nothing calls for one; None: never."""
        if self.options.mode is not Mode.IPVS:
            return None
        return max(0.0, self._next_look - time.monotonic())

    def wanted(self, documents: Iterable[Document], node: ProxyNode) -> list[Step]:
        """Take all *documents* of the node; return what that changes about the rules wanted.

        Nothing is done to the kernel. Raises UsageError: a wrong option.
        """
        return self._wanted(documents, node, live=False, local=None)

    def _wanted(
        self,
        documents: Iterable[Document],
        node: ProxyNode,
        *,
        live: bool,
        local: frozenset[str] | None,
    ) -> list[Step]:
        objects, before = self._objects, dict.fromkeys(self._served, NOTHING)
        if objects is None or objects.node != node or local != self._local:
            self._local = local
            objects = Objects(node, self.options, local=local)
            if self._userspace is not None:
                self._userspace.begin()
            self._programmes = {
                family: Programme(self._renderer(), situation)
                for family, situation in objects.situations.items()
            }
            self._seen = None
            self._unswept = None
        else:
            before = {}
        self._objects = None  # should this fail half-way, all is taken anew
        changed = objects.take(documents)
        self._note({**before, **changed})
        if self._userspace is not None:
            moved = self._userspace.take(changed, live=live)
            changed |= {owner: self._served[owner] for owner in moved}
        steps = [step for each in self._programmes.values() for step in each.update(changed)]
        self._objects = objects
        return steps

    def _renderer(self) -> Renderer:
        return renderer(self.options.mode, self._userspace.table if self._userspace else None)

    def _note(self, changed: Changed) -> None:
        """Remember what the *changed* had, until their UDP entries were looked at."""
        for owner, served in changed.items():
            old = self._served.pop(owner, NOTHING)
            if served.frontends or served.health_checks:
                self._served[owner] = served
            if staleness.may_mislead(_udp(old), _udp(served)):
                self._former += _udp(old)
                if self._unswept is not None:
                    self._unswept.add(owner)

    def texts(self, steps: Sequence[Step]) -> list[str]:
        """Return what the mode's tool is given to make *steps* true, in order."""
        return [text for _, text in given(self.options.mode, steps)]

    def agree(self, documents: Iterable[Document], node: ProxyNode) -> Pass:
        """Make the namespace serve *documents*; return what was done.

        Raises UsageError: a wrong option; KernelError, CapabilityError: the kernel refused.
        """
        mode = self.options.mode
        if mode is Mode.IPVS and self._objects is None:
            ipvs.require()
        look = mode is Mode.IPVS and time.monotonic() >= self._next_look
        local = ipvs.local_addresses() if look else self._local
        steps = self._wanted(documents, node, live=True, local=local)
        seen, self._seen = self._seen, None  # should this fail, who knows what is there
        kernel = KERNEL[mode]
        repaired: list[Step] = []
        if seen is None or not generation.here().unchanged(seen):
            first = seen is None
            seen = generation.generation()
            steps, repaired = self._compared(steps, kernel.read(Family))
            repaired = [] if first else repaired
            self._alone = False  # it may have been a proxy of another mode
        elif look:
            steps, repaired = self._looked(steps)
        closed = settings.make(without_guard(steps))
        if steps:
            kernel.write(steps)
        self._seen = seen
        if not self._alone:
            self._clear()
            self._alone = True
        written = closed | self._set_settings()
        forgotten = self._sweep()
        problems = [*self._serve_health(), *_hidden()]
        if self._userspace is not None:
            problems += self._userspace.problems
        return Pass(steps, repaired, forgotten, written, problems)

    def _looked(self, steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
        """Return the same as `_compared`, with iptables' rules taken for what they were."""
        begun = time.monotonic()
        there = self._rules_before(steps) | ipvs.read(Family)
        found = self._compared(steps, there)
        ended = time.monotonic()
        self._next_look = ended + max(LOOK, (ended - begun) / SHARE)
        return found

    def _rules_before(self, steps: Sequence[Step]) -> dict[Key, Block]:
        """Return iptables' rules as they were before *steps*, which are not done yet."""
        found = {key: block for key, block in self.blocks.items() if block.sort in RULES}
        for step in ipvs_text.others(steps):
            found.pop(step.block.key, None)
            if step.old is not None:
                found[step.block.key] = step.old
        return found

    def _compared(
        self, steps: Iterable[Step], there: Mapping[Key, Block]
    ) -> tuple[list[Step], list[Step]]:
        """Return the steps from what is *there* to what is wanted, and those of them that undo what
        others did: they are not about what *steps* are."""
        news = {step.block.key for step in steps}
        wanted = self.blocks
        found = list(difference(wanted, not_spared(there, wanted, self.options.exclude_cidrs)))
        return found, [one for one in found if one.block.key not in news and not _has_ended(one)]

    def _clear(self) -> None:
        """Remove what other modes have; what they needed set stays only if this one does."""
        assert self._objects is not None
        found = left_over(self.options.mode, self.options.exclude_cidrs)
        kept = sysctls(self._objects.situations)
        gone = [block for _, mine in found for block in mine]
        needless = after_cleanup(gone)
        if self.options.strict_arp is not None and any(one.sort is Sort.ADDRESSES for one in gone):
            needless |= LAX_ARP
        settings.make({name: value for name, value in needless.items() if name not in kept})
        remove(found)
        if self._userspace is None:
            portals.end()

    def _set_settings(self) -> dict[str, str]:
        assert self._objects is not None
        written = settings.make(sysctls(self._objects.situations))
        if self.options.mode is Mode.IPVS:
            written |= ipvs_timeouts.make(self.options.timeouts)
        return written

    def _sweep(self) -> list[conntrack.Entry]:
        """Delete the UDP entries that lead the *unswept* Services' clients astray."""
        assert self._objects is not None
        owners = self._served.keys() if self._unswept is None else self._unswept
        current = [one for owner in owners for one in _udp(self._served.get(owner, NOTHING))]
        deleted: list[conntrack.Entry] = []
        if current or self._former:
            for family, situation in self._objects.situations.items():
                is_stale = staleness.judge(
                    *(current, situation),
                    gone=self._former,
                    local=local_addresses(family),
                    portal=self._userspace.table.port if self._userspace else None,
                )
                ports = staleness.ports([*current, *self._former])
                deleted += conntrack.entries(family, UDP, ports=ports, only=is_stale)
            conntrack.delete(deleted)
        self._unswept, self._former = set(), []
        return deleted

    def _serve_health(self) -> list[str]:
        assert self._objects is not None
        if self._health is None:
            return []
        own = proxy_health() if self._healthz else None
        return self._health.set(self.health_checks, self._objects.situations, own=own)

    def watched(self) -> list[int]:
        """Return descriptors that become readable when something has to be repaired."""
        fd = self._userspace.fileno() if self._userspace is not None else None
        return [] if fd is None else [fd]

    def _handed_over(self) -> HealthChecks | None:
        health, self._health = self._health, None
        self.close()
        return health

    def close(self) -> None:
        """Stop answering health checks; the rules stay, and a process that has a home."""
        if self._userspace is not None:
            self._userspace.close()
        if self._health is not None:
            self._health.close()


def given(mode: Mode, steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Return the commands of *mode*'s tool that make *steps* true, each with its input."""
    if not steps:
        return []
    if mode is Mode.NFTABLES:
        return [("nft -f -", nft_text.transaction(steps))]
    own = ipvs_text.own(steps)
    rules = iptables_text.transactions(ipvs_text.others(steps))
    return [
        *ipvs_text.ahead(own),
        *((" ".join(one.argv), one.text) for one in rules),
        *ipvs_text.behind(own),
    ]


def _has_ended(step: Step) -> bool:
    """Return whether all that *step* does is to remove real servers whose connections are over."""
    new, old = step
    if new is None or old is None or new.sort is not Sort.SERVER or new.head != old.head:
        return False
    kept = frozenset(new.lines)
    return kept <= frozenset(old.lines) and all(
        line.endswith(" -w 0") for line in old.lines if line not in kept
    )


def _hidden() -> list[str]:
    """Return what is said of rules that the nft variant of iptables does not show."""
    tables = {table for family in Family for table in iptables.legacy_tables(family)}
    if not tables:
        return []
    names = ", ".join(sorted(tables))
    return [f"iptables-legacy has tables here ({names}), whose rules apply beside all others"]


def _udp(served: Served) -> list[Frontend]:
    return [one for one in served.frontends if one.service.protocol == UDP]
