"""The scheduler gives each pod without a node the one that suits it best.

A node takes a pod if its labels, taints and other pods allow it, and it has an address left. Of
those, the one that the pod prefers; then the one with the fewest pods of the same owner, then with
the fewest pods, then the first declared: the same objects always give the same places.
Source: kubernetes pkg/scheduler/framework/plugins (v1.34), whose words the refusals are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from netlab.controllers import placement
from netlab.controllers.change import Change, Verb, controller, now
from netlab.controllers.company import Company
from netlab.controllers.hostports import HostPorts, host_ports
from netlab.controllers.podstate import REJECTED, ended, status_of
from netlab.model.kubernetes import Document

SCHEDULED = "PodScheduled"
UNSCHEDULABLE = "Unschedulable"
NO_REASON: Mapping[str, str] = {}
HARD = (placement.NO_SCHEDULE, placement.NO_EXECUTE)


def bindings(
    pods: Sequence[Document], nodes: Sequence[Document], capacity: Mapping[str, int]
) -> list[Change]:
    """Return updates that give *pods* without a node theirs, or say why none takes them.

    *capacity*: how many pods each node has addresses for; a node that is not in it takes none.
    """
    waiting = [pod for pod in pods if _waits(pod)]
    if not waiting:
        return []
    load = _Load(pods)
    company = Company(pods, nodes)
    templates: dict[int, _Template] = {}
    changes = []
    for pod in waiting:
        template = templates.get(id(pod["spec"]))
        if template is None:
            template = templates[id(pod["spec"])] = _Template(pod, nodes)
        refusals = {
            name: why or _full(template, name, load, capacity)
            for name, why in template.refusals.items()
        }
        open_to_it = [node for node in nodes if not refusals[_name(node)]]
        company.refuse(pod, open_to_it, refusals)
        names = [name for node in open_to_it if not refusals[name := _name(node)]]
        if names:
            place = _best(pod, names, template, load, company)
            load.add(place, pod)
            bound = _bound(pod, place)
            company.add(bound)
            changes.append(Change(Verb.UPDATE, bound))
        elif (told := _waiting(pod, list(refusals.values()))) != pod:
            changes.append(Change(Verb.UPDATE, told))
    return changes


def _waits(pod: Document) -> bool:
    meta, spec = pod["metadata"], pod["spec"]
    return not (
        spec.get("nodeName") or spec.get("schedulingGates") or meta.get("deletionTimestamp")
    )


def _name(node: Document) -> str:
    return str(node["metadata"]["name"])


class _Load:
    """How many pods there are on each node, how many of each owner, and the host ports taken.

    One that has ended has no ports any more, and an address if it ever had one.
    """

    def __init__(self, pods: Iterable[Document]) -> None:
        self.addresses: Counter[str] = Counter()
        self.ports: defaultdict[str, HostPorts] = defaultdict(HostPorts)
        self._pods: Counter[str] = Counter()
        self._owned: Counter[tuple[str, str]] = Counter()
        for pod in pods:
            if node := pod["spec"].get("nodeName"):
                self.add(node, pod)

    def add(self, node: str, pod: Document) -> None:
        self._pods[node] += 1
        self._owned[node, _owner(pod)] += 1
        if not ended(pod):
            self.ports[node].take(pod)
        elif not status_of(pod).get("podIP"):
            return
        if not pod["spec"].get("hostNetwork"):
            self.addresses[node] += 1

    def of(self, node: str, owner: str) -> tuple[int, int]:
        """Return what makes *node* less attractive for a pod of *owner*."""
        return self._owned[node, owner], self._pods[node]


def _owner(pod: Document) -> str:
    """Return what *pod* is spread with: its controller's other pods, or its namespace's own."""
    reference = controller(pod)
    return str(reference["uid"]) if reference else f"/{pod['metadata'].get('namespace', '')}"


def _refusal(spec: Document, node: Document) -> str:
    """Return why *node* does not take any pod of *spec*, "" if it does."""
    taints = placement.taints(node)
    missing = placement.untolerated(spec, taints, HARD)
    if placement.cordon(node) and any(t.get("key") == placement.UNSCHEDULABLE for t in missing):
        return "node(s) were unschedulable"
    for taint in missing:
        return f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value', '')}}}"
    if not placement.chosen(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


class _Template:
    """What the nodes are for all pods of one spec, whatever else runs there."""

    def __init__(self, pod: Document, nodes: Sequence[Document]) -> None:
        spec = pod["spec"]
        soft = (placement.PREFER_NO,)
        self.refusals = {_name(node): _refusal(spec, node) for node in nodes}
        self.wish = {
            _name(node): (
                len(placement.untolerated(spec, placement.taints(node), soft)),
                -placement.preference(spec, node),
            )
            for node in nodes
        }
        self.ports = host_ports(pod)
        self.on_host = bool(spec.get("hostNetwork"))
        self.alone = not (spec.get("affinity") or spec.get("topologySpreadConstraints"))


def _full(template: _Template, node: str, load: _Load, capacity: Mapping[str, int]) -> str:
    """Return what *node* has run out of, "" if it has all that a pod of *template* needs."""
    if not template.on_host and load.addresses[node] >= capacity.get(node, 0):
        return "Too many pods"
    if template.ports and load.ports[node].conflict(template.ports):
        return "node(s) didn't have free ports for the requested pod ports"
    return ""


def _best(
    pod: Document, names: Sequence[str], template: _Template, load: _Load, company: Company
) -> str:
    """Return the node that *pod* prefers among *names*, the first of equals."""
    owner = _owner(pod)
    liked: Counter[str] = Counter()
    crowds: Counter[str] = Counter()
    if not template.alone:
        liked, crowds = company.preferences(pod, names), company.crowds(pod, names)

    def rank(name: str) -> tuple[int, ...]:
        soft, wish = template.wish[name]
        return soft, wish - liked[name], crowds[name], *load.of(name, owner)

    return min(names, key=rank)


def _bound(pod: Document, node: str) -> Document:
    status = {**pod.get("status", {}), "conditions": _conditions(pod, "True")}
    return {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status}


def _waiting(pod: Document, refusals: Sequence[str]) -> Document:
    """Return *pod* with the reason why it waits: `0/3 nodes are available: 1 Too many pods, …`."""
    counted = ", ".join(sorted(f"{count} {why}" for why, count in Counter(refusals).items()))
    text = f"0/{len(refusals)} nodes are available: {counted}."
    if not refusals:
        text = "no nodes available to schedule pods"
    told = {"reason": UNSCHEDULABLE, "message": text}
    status = {**pod.get("status", {}), "conditions": _conditions(pod, "False", told)}
    return {**pod, "status": status}


def _conditions(pod: Document, status: str, told: Mapping[str, str] = NO_REASON) -> list[Document]:
    """Return the conditions of *pod* with PodScheduled as it is now."""
    held = (pod.get("status") or {}).get("conditions") or ()
    others = [one for one in held if one.get("type") != SCHEDULED]
    old: Document = next((one for one in held if one.get("type") == SCHEDULED), {})
    same = old.get("status") == status
    since = old.get("lastTransitionTime") if same else now()
    return [*others, {"type": SCHEDULED, "status": status, "lastTransitionTime": since, **told}]


def why_waiting(pod: Document) -> str:
    """Return why no node takes *pod*, "" if the scheduler has not said so."""
    for one in (pod.get("status") or {}).get("conditions") or ():
        if one.get("type") == SCHEDULED and one.get("reason") == UNSCHEDULABLE:
            return str(one.get("message", ""))
    return ""


def hopeless(problem: str) -> bool:
    """Return whether *problem* is that of a pod no node takes: waiting alone does not help."""
    return " nodes are available: " in problem or f": {REJECTED}" in problem
