"""All rules of one node in one family, kept as its Services change.

Every block of the node is here, whole, in the renderer's words. A change renders the Services it
concerns again, and puts together those shared blocks whose lines differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from netlab.proxy.claims import Owner
from netlab.proxy.frontend import Frontend
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Key, Part, Renderer, Shared, Step, same
from netlab.proxy.service import NOTHING, Served

# Endpoints in all from which rules carry no comments on them.
# Source: kubernetes pkg/proxy/iptables/proxier.go, largeClusterEndpointsThreshold (v1.34).
LARGE = 1000
NO_PART = Part()


class Programme:
    """The blocks *renderer* gives for a node in a *situation*; none before the first `update`."""

    def __init__(self, renderer: Renderer, situation: Situation) -> None:
        self.renderer = renderer
        self.situation = situation
        self.blocks: dict[Key, Block] = {}
        self._shared: dict[Key, Shared] = {}
        self._served: dict[Owner, Served] = {}
        self._pods: set[Owner] = set()  # those of them that are pods
        self._parts: dict[Owner, Part] = {}
        self._entries: dict[Key, dict[Owner, tuple[str, ...]]] = {}
        self._endpoints: dict[Owner, int] = {}
        self._total = 0

    @property
    def needed(self) -> bool:
        """Whether a node must be programmed in this family: it has an address, or Services do."""
        return bool(self.situation.address or self._served)

    @property
    def shared(self) -> tuple[Key, ...]:
        """The blocks that all owners may add lines to, in the renderer's order."""
        return tuple(self._shared)

    @property
    def parts(self) -> Mapping[Owner, Part]:
        """What each owner has: blocks of its own, and its lines in shared ones."""
        return self._parts

    def update(self, changed: Mapping[Owner, Served]) -> list[Step]:
        """Take what the *changed* owners have now; return what that changes about the blocks."""
        was_large = self._total > LARGE
        for owner, served in changed.items():
            self._take(owner, self._of_family(served))
        large = self._total > LARGE
        again = set(changed) | (set(self._served) if large != was_large else set())
        steps: dict[Key, Step] = {}
        dirty: set[Key] = set()
        for owner in again:
            dirty |= self._render(owner, steps, large)
        # Only now: what one owner has no more (an address and port), another may have.
        for owner in again:
            for block in self._parts.get(owner, NO_PART).blocks:
                self._put(block.key, block, steps)
        if self.needed:
            frame = self._frame()
            dirty |= {key for key in frame if frame[key] != self._shared.get(key)}
        else:
            frame = {}
        dirty |= self._shared.keys() - frame.keys()
        self._shared = frame
        for key in dirty:
            self._put(key, self._assembled(key), steps)
        return [step for step in steps.values() if step.new != step.old]

    def _of_family(self, served: Served) -> Served:
        family = self.situation.family
        frontends = [one for one in served.frontends if one.service.family is family]
        checks = [one for one in served.health_checks if one.family is family]
        return Served(frontends, checks) if frontends or checks else NOTHING

    def _take(self, owner: Owner, served: Served) -> None:
        self._total -= self._endpoints.pop(owner, 0)
        self._served.pop(owner, None)
        self._pods.discard(owner)
        if served is NOTHING:
            return
        self._served[owner] = served
        if owner.is_pod:
            self._pods.add(owner)
        count = _endpoints(served.frontends)
        if count:
            self._endpoints[owner] = count
            self._total += count

    def _render(self, owner: Owner, steps: dict[Key, Step], large: bool) -> set[Key]:
        """Render *owner* and take from it what it has no more; return the shared blocks in which
        its lines differ."""
        old = self._parts.pop(owner, NO_PART)
        new = NO_PART
        if owner in self._served:
            frontends, checks = self._served[owner]
            new = self.renderer.part(frontends, checks, self.situation, large=large)
            self._parts[owner] = new
        kept = {block.key for block in new.blocks}
        for block in old.blocks:
            if block.key not in kept:
                self._put(block.key, None, steps)
        before, after = dict(old.entries), dict(new.entries)
        dirty = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        for key in dirty:
            lines = after.get(key)
            if lines:
                self._entries.setdefault(key, {})[owner] = lines
            else:
                self._entries[key].pop(owner, None)
        return dirty

    def _frame(self) -> dict[Key, Shared]:
        used = {key for key, lines in self._entries.items() if lines}
        shared = self.renderer.frame(self.situation, used)
        if self._pods:
            shared = [*shared, *self.renderer.hostport_frame(self.situation)]
        return {one.block.key: one for one in shared}

    def _assembled(self, key: Key) -> Block | None:
        if key not in self._shared:
            return None
        block, tail = self._shared[key]
        entries = self._entries.get(key)
        if not entries and not tail:
            return block
        lines = [*block.lines, *_in_order(entries or {}), *tail]
        # Two Services may have one cluster IP, at different ports: a set has it once.
        return Block(
            *block.key, block.head, tuple(lines if block.ordered else dict.fromkeys(lines))
        )

    def _put(self, key: Key, new: Block | None, steps: dict[Key, Step]) -> None:
        old = self.blocks.get(key)
        if new is None:
            self.blocks.pop(key, None)
        elif old is not None and same(new, old):
            return
        else:
            self.blocks[key] = new
        first = steps.get(key)
        steps[key] = Step(new, first.old if first else old)


def _in_order(entries: Mapping[Owner, tuple[str, ...]]) -> Iterator[str]:
    for owner in sorted(entries):
        yield from entries[owner]


def _endpoints(frontends: list[Frontend]) -> int:
    """Return how many endpoints the Service of *frontends* has, each port counted once."""
    ports = {id(one.service): one.service for one in frontends}
    return sum(len(port.known) for port in ports.values())
