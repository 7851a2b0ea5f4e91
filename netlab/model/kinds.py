"""The kinds of a Kubernetes cluster: names, API versions, and where etcd keeps their objects."""

from __future__ import annotations

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """How one kind is named, and where etcd keeps its objects, as the kube-apiserver does."""

    kind: str
    plural: str
    group: str  # API version: `v1`, `apps/v1`
    registry: str  # below /registry/
    namespaced: bool = True
    short: tuple[str, ...] = ()
    effective: bool = False  # False: kept and shown, without effect yet


_GATEWAY = "gateway.networking.k8s.io"
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
    Kind("Service", "services", "v1", "services/specs", True, ("svc",), True),
    Kind("Endpoints", "endpoints", "v1", "services/endpoints", True, ("ep",), True),
    Kind(
        "EndpointSlice",
        "endpointslices",
        "discovery.k8s.io/v1",
        "endpointslices",
        effective=True,
    ),
    Kind("StatefulSet", "statefulsets", "apps/v1", "statefulsets", True, ("sts",), True),
    Kind("DaemonSet", "daemonsets", "apps/v1", "daemonsets", True, ("ds",), True),
    Kind("Job", "jobs", "batch/v1", "jobs", effective=True),
    Kind("CronJob", "cronjobs", "batch/v1", "cronjobs", True, ("cj",)),
    Kind("Ingress", "ingresses", "networking.k8s.io/v1", "ingress", True, ("ing",), True),
    Kind(
        "IngressClass",
        "ingressclasses",
        "networking.k8s.io/v1",
        "ingressclasses",
        False,
        effective=True,
    ),
    # Custom kinds in a real cluster, where their definitions are installed first.
    *(
        Kind(
            kind, kind.lower() + end, version, f"{_GATEWAY}/{kind.lower()}{end}", space, short, True
        )
        for kind, end, version, space, short in (
            ("GatewayClass", "es", f"{_GATEWAY}/v1", False, ("gc",)),
            ("Gateway", "s", f"{_GATEWAY}/v1", True, ("gtw",)),
            ("HTTPRoute", "s", f"{_GATEWAY}/v1", True, ()),
            ("ReferenceGrant", "s", f"{_GATEWAY}/v1beta1", True, ("refgrant",)),
        )
    ),
    Kind(
        "NetworkPolicy",
        "networkpolicies",
        "networking.k8s.io/v1",
        "networkpolicies",
        True,
        ("netpol",),
        True,
    ),
    Kind("ConfigMap", "configmaps", "v1", "configmaps", True, ("cm",)),
    Kind("Secret", "secrets", "v1", "secrets", effective=True),
    Kind("ServiceAccount", "serviceaccounts", "v1", "serviceaccounts", True, ("sa",)),
    Kind("Event", "events", "v1", "events", True, ("ev",), True),
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
    Kind(
        "ControllerRevision",
        "controllerrevisions",
        "apps/v1",
        "controllerrevisions",
        effective=True,
    ),
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

BY_KIND = {kind.kind: kind for kind in KINDS}
OTHER_VERSIONS: dict[str, tuple[str, ...]] = {  # served in v1.30 as well
    "HorizontalPodAutoscaler": ("autoscaling/v1",),
    "Event": ("events.k8s.io/v1",),
    **dict.fromkeys(("GatewayClass", "Gateway", "HTTPRoute"), (f"{_GATEWAY}/v1beta1",)),
}


def kind_named(word: str) -> Kind | None:
    """Return the kind that *word* names: kind, plural or short name, in any case."""
    if word in BY_KIND:
        return BY_KIND[word]
    low = word.lower()
    for kind in KINDS:
        if low in (kind.kind.lower(), kind.plural, *kind.short):
            return kind
    return None
