"""What the rules of NetworkPolicies are for: known from the policies there are, by their chains.

`netlab.policy.naming` calls the chains after policies, so which policies a packet met is known by
the names that the present ones give.
"""

from __future__ import annotations

from collections.abc import Iterable

from netlab.model.inventory import Inventory
from netlab.model.policies import Direction
from netlab.packets import RuleHit
from netlab.policy import Facts, Reader
from netlab.policy.naming import TABLE, isolation_chain, policy_chain
from netlab.policy.rules import ESTABLISHED, NEIGHBORS, isolations
from netlab.policy.selection import Selection
from netlab.proxy.nftables_words import IP


class PolicyMeanings:
    """The meanings of the chains that the policies among *objects* have on *nodes*."""

    def __init__(self, objects: Inventory | None = None, nodes: Iterable[str] = ()) -> None:
        facts = Reader().facts(objects) if objects is not None else Facts()
        selection = Selection(facts)
        self._policies: dict[str, str] = {}
        self._isolations: dict[str, tuple[str, ...]] = {}
        for policy in facts.policies:
            for direction in policy.directions:
                self._policies[policy_chain(direction, policy.name)] = policy.name
        for node in nodes:
            for direction, pods in isolations(facts, selection, node).items():
                for policies in pods.values():
                    names = tuple(policy.name for policy in policies)
                    self._isolations[isolation_chain(direction, names)] = names

    def of(self, hit: RuleHit) -> str:
        """Return what a rule of TABLE is for, "" when that is not known."""
        if hit.rule == ESTABLISHED:
            return "no first packet: policies are asked when a connection begins"
        if hit.rule == NEIGHBORS:
            return "neighbour discovery: no policy's business"
        how, _, target = hit.verdict.partition(" ")
        if how == "goto" and target in self._isolations:
            return f"isolated by NetworkPolicy {_listed(self._isolations[target])}"
        if how == "jump" and target in self._policies:
            return f"NetworkPolicy {self._policies[target]}"
        if how == "accept" and hit.chain in self._policies:
            return f"NetworkPolicy {self._policies[hit.chain]} allows it"
        if how == "accept" and hit.chain in self._isolations:
            return "a pod reaches itself"
        if how == "drop" and hit.chain in self._isolations:
            return f"NetworkPolicy {_listed(self._isolations[hit.chain])}: none allows it"
        return ""


def is_of_policies(hit: RuleHit) -> bool:
    """Return whether the rule of *hit* is one of NetworkPolicies."""
    return hit.family in IP.values() and hit.table == TABLE


def direction_of(hit: RuleHit) -> Direction:
    """Return which way the chain of a rule of policies is about."""
    return next(one for one in Direction if hit.chain.startswith(one.lower()))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
