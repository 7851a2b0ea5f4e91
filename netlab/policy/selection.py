"""Which pods a selector means. Asked often for few different answers: each is found once.

Pods of one Deployment have the same labels, and most selectors ask for a label's value; so what is
compared are the sets of labels there are, found by one of the pairs asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from netlab.model.kubernetes import LabelSelector, selects
from netlab.model.policies import Peer
from netlab.policy.facts import Facts, Labels, PodFact

Class = tuple[str, Labels]  # pods of one namespace with the same labels


class Selection:
    """The pods of *facts*, to be asked by selectors."""

    def __init__(self, facts: Facts) -> None:
        self.all = facts.pods
        self._namespaces = facts.namespaces
        self._classes: dict[Class, list[PodFact]] = {}
        self._of: dict[str, dict[Class, None]] = {}  # by namespace
        self._with: dict[tuple[str, str, str], dict[Class, None]] = {}  # and a label's value
        self._pods: dict[tuple[str, bytes], tuple[PodFact, ...]] = {}
        self._chosen: dict[bytes, list[str]] = {}
        for pod in facts.pods:
            found = pod.namespace, pod.labels
            self._classes.setdefault(found, []).append(pod)
            self._of.setdefault(pod.namespace, {})[found] = None
            for key, value in pod.labels:
                self._with.setdefault((pod.namespace, key, value), {})[found] = None

    def pods(self, namespace: str, selector: LabelSelector) -> tuple[PodFact, ...]:
        """Return the pods of *namespace* that *selector* means; an empty one means all."""
        asked = namespace, msgspec.json.encode(selector)
        found = self._pods.get(asked)
        if found is None:
            found = self._pods[asked] = tuple(
                pod
                for one in self._candidates(namespace, selector)
                if selects(selector, dict(one[1]))
                for pod in self._classes[one]
            )
        return found

    def peers(self, namespace: str, peers: Iterable[Peer]) -> tuple[PodFact, ...]:
        """Return the pods that any of *peers* means, in a policy of *namespace*.

        A namespaceSelector alone means all pods of the namespaces it chooses; a podSelector alone
        pods of the policy's own namespace. Addresses are not looked at.
        """
        found: dict[PodFact, None] = {}
        for peer in peers:
            if peer.ipBlock is None:
                for of in self._meant(namespace, peer.namespaceSelector):
                    found |= dict.fromkeys(self.pods(of, peer.podSelector or LabelSelector()))
        return tuple(found)

    def _meant(self, namespace: str, selector: LabelSelector | None) -> Collection[str]:
        if selector is None:
            return (namespace,)
        asked = msgspec.json.encode(selector)
        if asked not in self._chosen:
            self._chosen[asked] = [
                name for name, labels in self._namespaces.items() if selects(selector, dict(labels))
            ]
        return self._chosen[asked]

    def _candidates(self, namespace: str, selector: LabelSelector) -> Collection[Class]:
        """Return the classes of *namespace* that have the rarest of the labels asked for."""
        having = (
            self._with.get((namespace, key, value), {})
            for key, value in selector.matchLabels.items()
        )
        return min(having, key=len, default=self._of.get(namespace, {}))
