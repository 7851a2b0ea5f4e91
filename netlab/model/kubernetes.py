"""Kubernetes' own objects, as far as netlab reads them.

These types are views: an object is kept in etcd whole, as the JSON document the user wrote plus
what the controllers filled in; `view()` decodes the fields below and ignores the others. Field
names are Kubernetes', so that `msgspec.json.encode` of a view is again Kubernetes JSON.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

Document = dict[str, Any]  # one Kubernetes object, whole, as JSON has it


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


class PodStatus(View):
    phase: str = ""
    podIP: str = ""
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


class ReplicaSet(Deployment):
    kind: str = "ReplicaSet"


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


class Kind(msgspec.Struct, frozen=True):
    """How one kind is named, and where etcd keeps its objects, as the kube-apiserver does."""

    kind: str
    plural: str
    group: str  # API version: `v1`, `apps/v1`
    registry: str  # below /registry/
    namespaced: bool = True
    short: tuple[str, ...] = ()
    effective: bool = False  # False: kept and shown, without an effect yet


_RBAC = "rbac.authorization.k8s.io/v1"
_STORAGE = "storage.k8s.io/v1"
_ADMISSION = "admissionregistration.k8s.io/v1"
_FLOW_CONTROL = "flowcontrol.apiserver.k8s.io/v1"

# Every kind a Kubernetes v1.30 API server keeps at a stable version, with its storage prefix.
KINDS: tuple[Kind, ...] = (
    Kind("Namespace", "namespaces", "v1", "namespaces", False, ("ns",), True),
    Kind("Node", "nodes", "v1", "minions", False, ("no",), True),
    Kind("Pod", "pods", "v1", "pods", True, ("po",), True),
    Kind("Deployment", "deployments", "apps/v1", "deployments", True, ("deploy",), True),
    Kind("ReplicaSet", "replicasets", "apps/v1", "replicasets", True, ("rs",), True),
    Kind("Service", "services", "v1", "services/specs", True, ("svc",)),
    Kind("Endpoints", "endpoints", "v1", "services/endpoints", True, ("ep",)),
    Kind("EndpointSlice", "endpointslices", "discovery.k8s.io/v1", "endpointslices"),
    Kind("StatefulSet", "statefulsets", "apps/v1", "statefulsets", True, ("sts",)),
    Kind("DaemonSet", "daemonsets", "apps/v1", "daemonsets", True, ("ds",)),
    Kind("Job", "jobs", "batch/v1", "jobs"),
    Kind("CronJob", "cronjobs", "batch/v1", "cronjobs", True, ("cj",)),
    Kind("Ingress", "ingresses", "networking.k8s.io/v1", "ingress", True, ("ing",)),
    Kind("IngressClass", "ingressclasses", "networking.k8s.io/v1", "ingressclasses", False),
    Kind(
        "NetworkPolicy",
        "networkpolicies",
        "networking.k8s.io/v1",
        "networkpolicies",
        True,
        ("netpol",),
    ),
    Kind("ConfigMap", "configmaps", "v1", "configmaps", True, ("cm",)),
    Kind("Secret", "secrets", "v1", "secrets"),
    Kind("ServiceAccount", "serviceaccounts", "v1", "serviceaccounts", True, ("sa",)),
    Kind("Event", "events", "v1", "events", True, ("ev",)),
    Kind("LimitRange", "limitranges", "v1", "limitranges", True, ("limits",)),
    Kind("PersistentVolume", "persistentvolumes", "v1", "persistentvolumes", False, ("pv",)),
    Kind(
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        "v1",
        "persistentvolumeclaims",
        True,
        ("pvc",),
    ),
    Kind("PodTemplate", "podtemplates", "v1", "podtemplates"),
    Kind("ReplicationController", "replicationcontrollers", "v1", "controllers", True, ("rc",)),
    Kind("ResourceQuota", "resourcequotas", "v1", "resourcequotas", True, ("quota",)),
    Kind("ControllerRevision", "controllerrevisions", "apps/v1", "controllerrevisions"),
    Kind(
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "autoscaling/v2",
        "horizontalpodautoscalers",
        True,
        ("hpa",),
    ),
    Kind("Lease", "leases", "coordination.k8s.io/v1", "leases"),
    Kind(
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "policy/v1",
        "poddisruptionbudgets",
        True,
        ("pdb",),
    ),
    Kind("Role", "roles", _RBAC, "roles"),
    Kind("RoleBinding", "rolebindings", _RBAC, "rolebindings"),
    Kind("ClusterRole", "clusterroles", _RBAC, "clusterroles", False),
    Kind("ClusterRoleBinding", "clusterrolebindings", _RBAC, "clusterrolebindings", False),
    Kind(
        "PriorityClass",
        "priorityclasses",
        "scheduling.k8s.io/v1",
        "priorityclasses",
        False,
        ("pc",),
    ),
    Kind("RuntimeClass", "runtimeclasses", "node.k8s.io/v1", "runtimeclasses", False),
    Kind("StorageClass", "storageclasses", _STORAGE, "storageclasses", False, ("sc",)),
    Kind("CSIDriver", "csidrivers", _STORAGE, "csidrivers", False),
    Kind("CSINode", "csinodes", _STORAGE, "csinodes", False),
    Kind("CSIStorageCapacity", "csistoragecapacities", _STORAGE, "csistoragecapacities"),
    Kind("VolumeAttachment", "volumeattachments", _STORAGE, "volumeattachments", False),
    Kind(
        "CertificateSigningRequest",
        "certificatesigningrequests",
        "certificates.k8s.io/v1",
        "certificatesigningrequests",
        False,
        ("csr",),
    ),
    Kind(
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        _ADMISSION,
        "mutatingwebhookconfigurations",
        False,
    ),
    Kind(
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        _ADMISSION,
        "validatingwebhookconfigurations",
        False,
    ),
    Kind(
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        _ADMISSION,
        "validatingadmissionpolicies",
        False,
    ),
    Kind(
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        _ADMISSION,
        "validatingadmissionpolicybindings",
        False,
    ),
    Kind("FlowSchema", "flowschemas", _FLOW_CONTROL, "flowschemas", False),
    Kind(
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        _FLOW_CONTROL,
        "prioritylevelconfigurations",
        False,
    ),
    Kind(
        "CustomResourceDefinition",
        "customresourcedefinitions",
        "apiextensions.k8s.io/v1",
        "apiextensions.k8s.io/customresourcedefinitions",
        False,
        ("crd",),
    ),
    Kind(
        "APIService",
        "apiservices",
        "apiregistration.k8s.io/v1",
        "apiregistration.k8s.io/apiservices",
        False,
    ),
)

_BY_KIND = {kind.kind: kind for kind in KINDS}
OTHER_VERSIONS = {  # served in v1.30 as well
    "HorizontalPodAutoscaler": ("autoscaling/v1",),
    "Event": ("events.k8s.io/v1",),
}


def kind_named(word: str) -> Kind | None:
    """Return the kind that *word* names: kind, plural or short name, in any case."""
    if word in _BY_KIND:
        return _BY_KIND[word]
    low = word.lower()
    for kind in KINDS:
        if low in (kind.kind.lower(), kind.plural, *kind.short):
            return kind
    return None


def kind_of(document: Document) -> Kind | None:
    """Return the Kubernetes kind of *document*; None for a custom kind, of a group of its own."""
    kind = _BY_KIND.get(document["kind"])
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
        value = labels.get(expression.get("key", ""))
        listed = value in (expression.get("values") or ())
        right = {
            "In": value is not None and listed,
            "NotIn": value is None or not listed,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not right.get(expression.get("operator", ""), False):
            return False
    return True
