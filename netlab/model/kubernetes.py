"""Kubernetes' own objects, as far as netlab reads them.

These types are views: an object is kept in etcd whole, as the JSON document the user wrote plus
what the controllers filled in; `view()` decodes the fields below and ignores the others. Field
names are Kubernetes', so that `msgspec.json.encode` of a view is again Kubernetes JSON.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from netlab.model.kinds import BY_KIND, OTHER_VERSIONS
from netlab.model.kinds import KINDS as KINDS
from netlab.model.kinds import Kind as Kind
from netlab.model.kinds import kind_named as kind_named

Document = dict[str, Any]  # one Kubernetes object, whole, as JSON has it
ENDED = ("Succeeded", "Failed")  # phases that a pod never leaves


class View(msgspec.Struct, omit_defaults=True):
    """A typed reading of some fields of a document."""


class OwnerReference(View):
    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(View):
    name: str = ""
    namespace: str = ""
    generateName: str = ""
    uid: str = ""
    resourceVersion: str = ""
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    ownerReferences: list[OwnerReference] = []


class ContainerPort(View):
    containerPort: int
    name: str = ""
    protocol: str = "TCP"
    hostPort: int = 0
    hostIP: str = ""


class EnvVar(View):
    name: str
    value: str = ""


class Container(View):
    name: str
    image: str = ""
    command: list[str] = []
    args: list[str] = []
    workingDir: str = ""
    env: list[EnvVar] = []
    ports: list[ContainerPort] = []


class PodSpec(View):
    containers: list[Container] = []
    initContainers: list[Container] = []
    nodeName: str = ""
    nodeSelector: dict[str, str] = {}
    hostname: str = ""
    subdomain: str = ""
    hostNetwork: bool = False
    restartPolicy: str = "Always"


class PodIP(View):
    ip: str = ""


class PodStatus(View):
    phase: str = ""
    podIP: str = ""
    podIPs: list[PodIP] = []
    hostIP: str = ""
    message: str = ""
    reason: str = ""
    containerStatuses: list[dict[str, Any]] = []


class Pod(View):
    metadata: Meta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)
    apiVersion: str = "v1"
    kind: str = "Pod"

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class LabelSelector(View):
    matchLabels: dict[str, str] = {}
    matchExpressions: list[dict[str, Any]] = []


class PodTemplate(View):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)


class ReplicaSpec(View):
    replicas: int = 1
    selector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    template: PodTemplate = msgspec.field(default_factory=PodTemplate)


class Deployment(View):
    """A Deployment; a ReplicaSet has the same fields as far as netlab reads them."""

    metadata: Meta
    spec: ReplicaSpec = msgspec.field(default_factory=ReplicaSpec)
    apiVersion: str = "apps/v1"
    kind: str = "Deployment"


class NodeSpec(View):
    podCIDR: str = ""
    unschedulable: bool = False


class Node(View):
    metadata: Meta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: dict[str, Any] = {}
    apiVersion: str = "v1"
    kind: str = "Node"


V = TypeVar("V", bound=View)


def view(document: Document, kind: type[V]) -> V:
    """Return the fields of *document* that *kind* reads. Raises msgspec.ValidationError."""
    return msgspec.convert(document, kind)


def kind_of(document: Document) -> Kind | None:
    """Return the Kubernetes kind of *document*; None for a custom kind, of a group of its own."""
    kind = BY_KIND.get(document["kind"])
    if kind is None:
        return None
    version = document.get("apiVersion", kind.group)
    if version == kind.group or version in OTHER_VERSIONS.get(kind.kind, ()):
        return kind
    return None


def registry_key(document: Document) -> str:
    """Return the etcd key that keeps *document*: `/registry/pods/default/web`.

    Kinds netlab does not know go below /registry/<group>/<lower-case kind>s.
    Source: kube-apiserver's storage prefixes (pkg/registry, v1.30).
    """
    meta = document["metadata"]
    kind = kind_of(document)
    if kind is None:
        group = document["apiVersion"].rpartition("/")[0]
        prefix = "/".join(filter(None, (group, document["kind"].lower() + "s")))
        parts = [prefix, meta.get("namespace", ""), meta["name"]]
    else:
        parts = [
            kind.registry,
            meta.get("namespace", "default") if kind.namespaced else "",
            meta["name"],
        ]
    return "/registry/" + "/".join(filter(None, parts))


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Return whether *labels* carry every pair of *selector*."""
    return all(labels.get(key) == value for key, value in selector.items())


def selects(selector: LabelSelector, labels: dict[str, str]) -> bool:
    """Return whether *selector*, of a workload, matches *labels*; an empty one matches all.

    Source: k8s.io/apimachinery pkg/labels/selector.go, Requirement.Matches.
    """
    if not matches(selector.matchLabels, labels):
        return False
    for expression in selector.matchExpressions:
        value = labels.get(str(expression.get("key")))
        listed = value in list(expression.get("values") or ())
        right = {
            "In": value is not None and listed,
            "NotIn": value is None or not listed,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not right.get(str(expression.get("operator")), False):
            return False
    return True
