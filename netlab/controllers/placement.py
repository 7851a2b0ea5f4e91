"""Whether one node may take a pod, whatever else runs there: labels, taints, cordons.

Source: k8s.io/component-helpers scheduling/corev1 (v0.34): nodeaffinity, helpers.go; k8s.io/api
core/v1 toleration.go, ToleratesTaint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from netlab.model.kubernetes import Document, matches
from netlab.model.loose import mapping, mappings, number, texts

NO_SCHEDULE, PREFER_NO, NO_EXECUTE = "NoSchedule", "PreferNoSchedule", "NoExecute"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

# What a DaemonSet's pods tolerate besides: pkg/controller/daemon/util/daemonset_util.go.
DAEMON_TOLERATIONS: tuple[dict[str, str], ...] = (
    {"key": NOT_READY, "operator": "Exists", "effect": NO_EXECUTE},
    {"key": UNREACHABLE, "operator": "Exists", "effect": NO_EXECUTE},
    {"key": "node.kubernetes.io/disk-pressure", "operator": "Exists", "effect": NO_SCHEDULE},
    {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": NO_SCHEDULE},
    {"key": "node.kubernetes.io/pid-pressure", "operator": "Exists", "effect": NO_SCHEDULE},
    {"key": UNSCHEDULABLE, "operator": "Exists", "effect": NO_SCHEDULE},
)

Taint = Mapping[str, Any]


def taints(node: Document) -> list[Taint]:
    """Return the taints of *node*, one that is cordoned has a further one."""
    found: list[Taint] = list(mappings(node, "spec", "taints"))
    cordoned = {"key": UNSCHEDULABLE, "effect": NO_SCHEDULE}
    known = any(one.get("key") == UNSCHEDULABLE for one in found)
    return [*found, cordoned] if cordon(node) and not known else found


def cordon(node: Document) -> bool:
    """Return whether *node* takes no new pods."""
    return bool(mapping(node, "spec").get("unschedulable"))


def tolerates(toleration: Mapping[str, Any], taint: Taint) -> bool:
    """Return whether *toleration* is for *taint*."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and toleration.get("value", "") == taint.get("value", "")


def untolerated(spec: Document, taints: Iterable[Taint], effects: Collection[str]) -> list[Taint]:
    """Return those of *taints* with one of *effects* that a pod of *spec* does not tolerate."""
    listed = [taint for taint in taints if taint.get("effect") in effects]
    if not listed:
        return []
    tolerations = list(mappings(spec, "tolerations"))
    return [one for one in listed if not any(tolerates(each, one) for each in tolerations)]


def chosen(spec: Document, node: Document) -> bool:
    """Return whether *node* has what nodeSelector and the required nodeAffinity ask for."""
    labels = mapping(node, "metadata", "labels")
    if not matches(mapping(spec, "nodeSelector"), labels):
        return False
    required = mapping(spec, "affinity", "nodeAffinity", REQUIRED)
    if not required:
        return True
    return any(_term(term, node) for term in mappings(required, "nodeSelectorTerms"))


def preference(spec: Document, node: Document) -> int:
    """Return the weight that the preferred nodeAffinity gives *node*."""
    terms = mappings(spec, "affinity", "nodeAffinity", PREFERRED)
    return sum(number(one, "weight") for one in terms if _term(mapping(one, "preference"), node))


def _term(term: Mapping[str, Any], node: Document) -> bool:
    """Return whether *node* matches all of *term*; an empty one matches none."""
    labels = mapping(node, "metadata", "labels")
    fields = {"metadata.name": node["metadata"]["name"]}
    expressions = [
        *((one, labels) for one in mappings(term, "matchExpressions")),
        *((one, fields) for one in mappings(term, "matchFields")),
    ]
    return bool(expressions) and all(_expression(one, values) for one, values in expressions)


def _expression(one: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    value, listed = values.get(str(one.get("key"))), texts(one, "values")
    match one.get("operator"):
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                here, there = int(value or ""), int(listed[0])
            except (ValueError, IndexError):
                return False
            return here > there if operator == "Gt" else here < there
    return False
