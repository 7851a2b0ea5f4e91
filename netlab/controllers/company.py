"""What the pods that are there mean for another one: spread, affinity, anti-affinity.

Source: kubernetes pkg/scheduler/framework/plugins (v1.34): podtopologyspread/filtering.go,
interpodaffinity/filtering.go. Asked only for pods that say something of the kind, and for those
that others keep away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from netlab.controllers import placement, podstate
from netlab.controllers.placement import PREFERRED, REQUIRED
from netlab.model.kubernetes import Document, LabelSelector, selects
from netlab.model.loose import mapping, mappings, number, texts

Term = Mapping[str, Any]
SPREAD = "node(s) didn't match pod topology spread constraints"
LABEL = f"{SPREAD} (missing required label)"
AFFINITY = "node(s) didn't match pod affinity rules"
ANTI = "node(s) didn't match pod anti-affinity rules"
KEPT_AWAY = "node(s) didn't satisfy existing pods anti-affinity rules"


class Company:
    """The placed pods, by what their nodes' labels say."""

    def __init__(self, pods: Iterable[Document], nodes: Sequence[Document]) -> None:
        self._nodes = nodes
        self._labels = {n["metadata"]["name"]: mapping(n, "metadata", "labels") for n in nodes}
        self._given = pods
        self._added: list[Document] = []

    @cached_property
    def _pods(self) -> list[Document]:
        placed = [pod for pod in self._given if pod["spec"].get("nodeName")]
        return [pod for pod in placed if podstate.active(pod)] + self._added

    @cached_property
    def _guarded(self) -> list[Document]:
        """The pods that keep others away."""
        return [pod for pod in self._pods if any(_terms(pod, "podAntiAffinity"))]

    def add(self, pod: Document) -> None:
        """Take a pod that was just placed."""
        if "_pods" not in self.__dict__:
            self._added.append(pod)
            return
        self._pods.append(pod)
        if "_guarded" in self.__dict__ and any(_terms(pod, "podAntiAffinity")):
            self._guarded.append(pod)

    def refuse(self, pod: Document, nodes: Sequence[Document], refusals: dict[str, str]) -> None:
        """Note in *refusals* why those of *nodes* that do not suit *pod* do not."""
        spec = pod["spec"]
        if not nodes:
            return
        if spec.get("topologySpreadConstraints"):
            self._spread(pod, nodes, refusals)
        if mapping(spec, "affinity", "podAffinity") or mapping(spec, "affinity", "podAntiAffinity"):
            self._affine(pod, nodes, refusals)
        self._kept_away(pod, nodes, refusals)

    def _spread(self, pod: Document, nodes: Sequence[Document], refusals: dict[str, str]) -> None:
        for one in mappings(pod["spec"], "topologySpreadConstraints"):
            if one.get("whenUnsatisfiable", "DoNotSchedule") != "DoNotSchedule":
                continue
            key = str(one.get("topologyKey"))
            counts = self._counts(one, pod)
            least = min(counts.values(), default=0)
            if len(counts) < number(one, "minDomains", 1):
                least = 0
            own = _selected(one.get("labelSelector"), pod)
            for node in nodes:
                value = self._labels[node["metadata"]["name"]].get(key)
                if value is None:
                    refusals[node["metadata"]["name"]] = LABEL
                elif counts[value] + own - least > number(one, "maxSkew", 1):
                    refusals[node["metadata"]["name"]] = SPREAD

    def _counts(self, constraint: Term, pod: Document) -> Counter[str]:
        """Return how many pods like *pod* each domain has, of the nodes that *pod* may choose."""
        key, space = str(constraint.get("topologyKey")), pod["metadata"].get("namespace")
        eligible = {
            node["metadata"]["name"]: str(self._labels[node["metadata"]["name"]][key])
            for node in self._nodes
            if key in self._labels[node["metadata"]["name"]] and placement.chosen(pod["spec"], node)
        }
        counts = Counter(dict.fromkeys(eligible.values(), 0))
        for other in self._pods:
            domain = eligible.get(other["spec"]["nodeName"])
            if domain is not None and other["metadata"].get("namespace") == space:
                counts[domain] += _selected(constraint.get("labelSelector"), other)
        return counts

    def _affine(self, pod: Document, nodes: Sequence[Document], refusals: dict[str, str]) -> None:
        for term in _terms(pod, "podAntiAffinity"):
            taken = self._domains(term, pod)
            for node in nodes:
                if self._labels[node["metadata"]["name"]].get(_key(term)) in taken:
                    refusals[node["metadata"]["name"]] = ANTI
        for term in _terms(pod, "podAffinity"):
            wanted = self._domains(term, pod)
            first = not wanted and _meant(term, pod, pod)  # it may begin a group of its own
            for node in nodes:
                value = self._labels[node["metadata"]["name"]].get(_key(term))
                if value is None or (value not in wanted and not first):
                    refusals[node["metadata"]["name"]] = AFFINITY

    def _kept_away(
        self, pod: Document, nodes: Sequence[Document], refusals: dict[str, str]
    ) -> None:
        for other in self._guarded:
            for term in _terms(other, "podAntiAffinity"):
                if not _meant(term, other, pod):
                    continue
                domain = self._domain(other, term)
                for node in nodes:
                    here = self._labels[node["metadata"]["name"]].get(_key(term))
                    if domain is not None and here == domain:
                        refusals[node["metadata"]["name"]] = KEPT_AWAY

    def _domain(self, pod: Document, term: Term) -> str | None:
        return self._labels.get(pod["spec"]["nodeName"], {}).get(_key(term))

    def _domains(self, term: Term, pod: Document) -> set[str | None]:
        """Return the domains in which a pod runs that *term* of *pod* means."""
        found = {self._domain(other, term) for other in self._pods if _meant(term, pod, other)}
        return found - {None}

    def preferences(self, pod: Document, nodes: Sequence[str]) -> Counter[str]:
        """Return the weight that the preferred affinity to other pods gives each of *nodes*."""
        affinity = mapping(pod["spec"], "affinity")
        found: Counter[str] = Counter()
        for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
            for one in mappings(affinity, kind, PREFERRED):
                term = mapping(one, "podAffinityTerm")
                domains = self._domains(term, pod)
                for node in nodes:
                    if self._labels[node].get(_key(term)) in domains:
                        found[node] += sign * number(one, "weight")
        return found

    def crowds(self, pod: Document, nodes: Sequence[str]) -> Counter[str]:
        """Return how many pods like *pod* there are where each of *nodes* is, for constraints that
        only wish for a spread."""
        found: Counter[str] = Counter()
        for one in mappings(pod["spec"], "topologySpreadConstraints"):
            counts, key = self._counts(one, pod), str(one.get("topologyKey"))
            for node in nodes:
                found[node] += counts[str(self._labels[node].get(key))]
        return found


def _terms(pod: Document, kind: str) -> Iterator[Term]:
    affinity = pod["spec"].get("affinity")
    return mappings(affinity, kind, REQUIRED) if affinity else iter(())


def _key(term: Term) -> str:
    return str(term.get("topologyKey"))


def _meant(term: Term, owner: Document, other: Document) -> bool:
    """Return whether *term* of the pod *owner* is about the pod *other*."""
    spaces = texts(term, "namespaces") or [owner["metadata"].get("namespace")]
    anywhere = isinstance(term.get("namespaceSelector"), dict)
    here = anywhere or other["metadata"].get("namespace") in spaces
    return here and bool(_selected(term.get("labelSelector"), other))


def _selected(selector: object, pod: Document) -> int:
    """Return 1 if *selector* selects *pod*; none selects nothing."""
    if not isinstance(selector, dict):
        return 0
    try:
        wanted = msgspec.convert(selector, LabelSelector)
    except msgspec.ValidationError:
        return 0
    return int(selects(wanted, mapping(pod, "metadata", "labels")))
