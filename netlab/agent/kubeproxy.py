"""kube-proxy: makes one namespace serve the Services it is told of, pass after pass.

1. Level-triggered: a pass is given all objects there are. It costs what changed; only what somebody
   else may have altered (the kernel counts the commits) is read back and compared whole.
2. Rules first, then conntrack: a flow that begins between the two finds the new rules.
3. Of the other mode nothing is left: its rules go once this one's are there, so that no connection
   finds neither.

The calling thread is in the namespace, in every call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from netlab.agent.healthchecks import HealthChecks, proxy_health
from netlab.errors import KernelError
from netlab.kernel import conntrack, generation, iptables, nftables, settings
from netlab.kernel.addresses import local_addresses
from netlab.model.kubernetes import Document
from netlab.model.modes import Mode
from netlab.model.services import ProxyNode
from netlab.proxy import iptables as iptables_renderer
from netlab.proxy import iptables_text, nft_text, staleness
from netlab.proxy import nftables as nftables_renderer
from netlab.proxy.addresses import Family
from netlab.proxy.claims import Owner
from netlab.proxy.frontend import Frontend, HealthCheck
from netlab.proxy.objects import Changed, Objects
from netlab.proxy.options import Options
from netlab.proxy.programme import Programme
from netlab.proxy.ruleset import Block, Key, Renderer, Step, difference
from netlab.proxy.service import NOTHING, Served
from netlab.proxy.settings import after_cleanup, sysctls, without_guard


class RuleSets(Protocol):
    """How the kernel keeps the blocks of one mode, in the namespace of the calling thread."""

    def read(self, families: Iterable[Family]) -> dict[Key, Block]:
        """Return the blocks that are ours by name."""

    def write(self, steps: Sequence[Step]) -> None:
        """Make the steps true, all or none. Raises KernelError."""


KERNEL: Mapping[Mode, RuleSets] = {Mode.IPTABLES: iptables, Mode.NFTABLES: nftables}
RENDERER: Mapping[Mode, Renderer] = {
    Mode.IPTABLES: iptables_renderer,
    Mode.NFTABLES: nftables_renderer,
}
UDP = "UDP"


class Pass(NamedTuple):
    """What one pass did."""

    steps: list[Step]
    repaired: list[Step]  # those of them that undo what somebody else did
    forgotten: list[conntrack.Entry]  # UDP entries deleted
    settings: dict[str, str]  # those written
    problems: list[str]  # what does not work although it should, in words


class KubeProxy:
    """The proxy of one node with given options. `close` ends its health checks, no more."""

    def __init__(self, options: Options, *, answering: bool = True, healthz: bool = False) -> None:
        """*answering*: health checks are answered, by a thread of this process; *healthz*: so are
        questions about the proxy itself."""
        self.options = options
        self._health = HealthChecks() if answering else None
        self._healthz = healthz
        self._objects: Objects | None = None
        self._programmes: dict[Family, Programme] = {}
        self._served: dict[Owner, Served] = {}
        self._seen: int | None = None  # the generation as of which the rules are known
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

    def wanted(self, documents: Iterable[Document], node: ProxyNode) -> list[Step]:
        """Take all *documents* of the node; return what that changes about the rules wanted.

        Nothing is done to the kernel. Raises UsageError: a wrong option.
        """
        objects, before = self._objects, dict.fromkeys(self._served, NOTHING)
        if objects is None or objects.node != node:
            objects = Objects(node, self.options)
            self._programmes = {
                family: Programme(RENDERER[self.options.mode], situation)
                for family, situation in objects.situations.items()
            }
            self._seen = None
            self._unswept = None
        else:
            before = {}
        self._objects = None  # should this fail half-way, all is taken anew
        changed = objects.take(documents)
        self._note({**before, **changed})
        steps = [step for each in self._programmes.values() for step in each.update(changed)]
        self._objects = objects
        return steps

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
        steps = self.wanted(documents, node)
        seen, self._seen = self._seen, None  # should this fail, who knows what is there
        kernel = KERNEL[self.options.mode]
        repaired: list[Step] = []
        if seen is None or not generation.here().unchanged(seen):
            news, first = {step.block.key for step in steps}, seen is None
            seen = generation.generation()
            steps = list(difference(self.blocks, kernel.read(Family)))
            repaired = [] if first else [step for step in steps if step.block.key not in news]
            self._alone = False  # it may have been a proxy of another mode
        closed = _set(without_guard(steps))
        if steps:
            kernel.write(steps)
        self._seen = seen
        if not self._alone:
            self._clear([mode for mode in KERNEL if mode is not self.options.mode])
            self._alone = True
        written = closed | self._set_settings()
        forgotten = self._sweep()
        problems = [*self._serve_health(), *_hidden()]
        return Pass(steps, repaired, forgotten, written, problems)

    def _clear(self, modes: Iterable[Mode]) -> None:
        """Remove the rules of other *modes*; what they needed set stays only if this one does."""
        assert self._objects is not None
        found = _there(modes)
        kept = sysctls(self._objects.situations)
        needless = after_cleanup(block for mine in found.values() for block in mine)
        _set({name: value for name, value in needless.items() if name not in kept})
        _remove(found)

    def _set_settings(self) -> dict[str, str]:
        assert self._objects is not None
        return _set(sysctls(self._objects.situations))

    def _sweep(self) -> list[conntrack.Entry]:
        """Delete the UDP entries that lead the *unswept* Services' clients astray."""
        assert self._objects is not None
        owners = self._served.keys() if self._unswept is None else self._unswept
        current = [one for owner in owners for one in _udp(self._served.get(owner, NOTHING))]
        deleted: list[conntrack.Entry] = []
        if current or self._former:
            for family, situation in self._objects.situations.items():
                is_stale = staleness.judge(
                    current, situation, gone=self._former, local=local_addresses(family)
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

    def close(self) -> None:
        """Stop answering health checks; the rules stay."""
        if self._health is not None:
            self._health.close()


def given(mode: Mode, steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Return the commands of *mode*'s tool that make *steps* true, each with its input."""
    if not steps:
        return []
    if mode is Mode.NFTABLES:
        return [("nft -f -", nft_text.transaction(steps))]
    return [(" ".join(one.argv), one.text) for one in iptables_text.transactions(steps)]


def _hidden() -> list[str]:
    """Return what is said of rules that the nft variant of iptables does not show."""
    tables = {table for family in Family for table in iptables.legacy_tables(family)}
    if not tables:
        return []
    names = ", ".join(sorted(tables))
    return [f"iptables-legacy has tables here ({names}), whose rules apply beside all others"]


def _udp(served: Served) -> list[Frontend]:
    return [one for one in served.frontends if one.service.protocol == UDP]


def _set(wanted: Mapping[str, str]) -> dict[str, str]:
    """Give the settings the values *wanted*, where the kernel has them; return those written."""
    written = unlike(wanted)
    for name, value in written.items():
        try:
            settings.write(name, value)
        except OSError as error:
            raise KernelError(f"cannot set {name}={value}: {error.strerror}") from error
    return written


def unlike(wanted: Mapping[str, str]) -> dict[str, str]:
    """Return those of the settings *wanted* that the kernel has, with another value."""
    held = {name: settings.read(name) for name in wanted}
    return {name: value for name, value in wanted.items() if held[name] not in (None, value)}


def _there(modes: Iterable[Mode]) -> dict[Mode, list[Block]]:
    return {mode: list(KERNEL[mode].read(Family).values()) for mode in modes}


def _remove(found: Mapping[Mode, list[Block]]) -> list[Block]:
    """Remove the blocks *found* of each mode; return them all."""
    blocks = [block for mine in found.values() for block in mine]
    for mode, mine in found.items():
        if mine:
            KERNEL[mode].write([Step(None, block) for block in mine])
    return blocks


def cleanup() -> list[Block]:
    """Remove every rule of a kube-proxy from the namespace, of whichever mode; return which.

    Raises KernelError, CapabilityError.
    """
    found = _there(KERNEL)
    _set(after_cleanup(block for mine in found.values() for block in mine))
    return _remove(found)
