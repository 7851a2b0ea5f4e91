"""NetworkPolicies: makes one namespace hold those it is told of, pass after pass.

As `kubeproxy` does it: a pass is given all objects there are and costs what changed; only what
somebody else may have altered is read back and compared whole. Where no policy selects a pod of the
node there is no table, and a pass asks the kernel nothing.

The calling thread is in the namespace, in every call.
"""

from __future__ import annotations

from typing import NamedTuple

from netlab.cluster import Cluster, NodeState
from netlab.kernel import generation, netns, nftables
from netlab.model.inventory import Inventory
from netlab.policy import Facts, Reader
from netlab.policy.naming import TABLE
from netlab.policy.rules import blocks
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Key, Step, difference


class Held(NamedTuple):
    """What one pass did."""

    steps: list[Step]
    repaired: list[Step]  # those of them that undo what somebody else did


class PolicyRules:
    """The policies of one node's pods."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.blocks: dict[Key, Block] = {}  # the table as it is wanted
        self._reader = Reader()
        self._facts = Facts()
        self._seen: int | None = None  # the generation as of which the table is known

    @property
    def warnings(self) -> list[str]:
        """What is left out of the objects, and why."""
        return self._reader.warnings

    def agree(self, objects: Inventory) -> Held:
        """Make the namespace hold the policies in *objects*; return what was done.

        Raises KernelError, CapabilityError: the kernel refused.
        """
        steps = self._wanted(objects)
        if self._seen is not None and not steps and not self.blocks:
            return Held([], [])  # there is no table of ours, so nobody else can have changed it
        seen, self._seen = self._seen, None  # should this fail, who knows what is there
        repaired: list[Step] = []
        if seen is None or not generation.here().unchanged(seen):
            news, first = {step.block.key for step in steps}, seen is None
            seen = generation.generation()
            steps = list(difference(self.blocks, observed()))
            repaired = [] if first else [step for step in steps if step.block.key not in news]
        if steps:
            nftables.write(steps)
        self._seen = seen
        return Held(steps, repaired)

    def _wanted(self, objects: Inventory) -> list[Step]:
        facts = self._reader.facts(objects)
        if facts is self._facts or facts == self._facts:
            return []
        before, self.blocks = self.blocks, blocks(facts, self.node)
        self._facts = facts
        return list(difference(self.blocks, before))


def rewriting(cluster: Cluster, node: NodeState) -> list[Step]:
    """Return what would be done to the table of *node* that is there now."""
    wanted = blocks(Reader().facts(cluster.documents), node.name)
    if not netns.exists(node.netns):
        return list(difference(wanted, {}))
    with netns.entered(node.netns):
        return list(difference(wanted, observed()))


def observed() -> dict[Key, Block]:
    """Return the tables of policies in the calling thread's namespace. Raises KernelError."""
    return nftables.read(Family, names=[TABLE])
