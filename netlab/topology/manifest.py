"""The fields of the Kubernetes kinds netlab reads, complete as of Kubernetes v1.30.

What has no effect here and is deep (volumes, affinity, probes, security contexts) is accepted
without being read. Source: k8s.io/api v0.30 core/v1/types.go, apps/v1/types.go; fields added up
to v1.34 are known too, so that a newer manifest passes.
"""

from __future__ import annotations

from functools import cache

from netlab.topology import ingressfields, values
from netlab.topology.dnsfields import DNS_CONFIG, HOST_ALIASES
from netlab.topology.policies import POLICY_SPEC
from netlab.topology.servicefields import ENDPOINTS, SERVICE_SPEC, SLICE, target_port
from netlab.topology.shapes import (
    ANNOTATIONS,
    ANY_LIST,
    ANY_MAPPING,
    LABELS,
    STRINGS,
    Each,
    Fields,
    Shape,
)

_META: dict[str, Shape] = {
    "name": values.anything,  # the right form depends on the kind: see object_shape()
    "namespace": values.label,
    "generateName": values.string,
    "labels": LABELS,
    "annotations": ANNOTATIONS,
    "finalizers": STRINGS,
    "ownerReferences": ANY_LIST,
    "managedFields": ANY_LIST,
    "creationTimestamp": values.string,
    "deletionTimestamp": values.string,
    "deletionGracePeriodSeconds": values.integer,
    "generation": values.integer,
    "resourceVersion": values.string,
    "selfLink": values.string,
    "uid": values.string,
}

_CONTAINER_PORT = Fields(
    {
        "containerPort": values.port,
        "name": values.port_name,
        "protocol": values.one_of(values.PROTOCOLS),
        "hostPort": values.between(0, 65535),
        "hostIP": values.string,
    },
    required=("containerPort",),
)

_ENV = Fields(
    {"name": values.string, "value": values.string, "valueFrom": ANY_MAPPING}, required=("name",)
)

_HTTP_GET = Fields(
    {
        "host": values.string,
        "httpHeaders": Each(
            Fields({"name": values.string, "value": values.string}, required=("name", "value"))
        ),
        "path": values.string,
        "port": target_port,
        "scheme": values.one_of(("HTTP",), later=("HTTPS",)),
    },
    required=("port",),
)

_PROBE = Fields(
    {
        "exec": Fields({"command": STRINGS}),
        "grpc": Fields({"port": values.port, "service": values.string}, required=("port",)),
        "httpGet": _HTTP_GET,
        "tcpSocket": Fields({"host": values.string, "port": target_port}, required=("port",)),
        "initialDelaySeconds": values.not_negative,
        "periodSeconds": values.not_negative,
        "timeoutSeconds": values.not_negative,
        "successThreshold": values.not_negative,
        "failureThreshold": values.not_negative,
        "terminationGracePeriodSeconds": values.not_negative,
    },
)

_CONTAINER: dict[str, Shape] = {
    "name": values.label,
    "image": values.string,
    "command": STRINGS,
    "args": STRINGS,
    "workingDir": values.string,
    "ports": Each(_CONTAINER_PORT),
    "env": Each(_ENV),
    "envFrom": ANY_LIST,
    "imagePullPolicy": values.one_of(("Always", "IfNotPresent", "Never")),
    "lifecycle": ANY_MAPPING,
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "startupProbe": _PROBE,
    "resizePolicy": ANY_LIST,
    "resources": ANY_MAPPING,
    "restartPolicy": values.one_of(("Always", "OnFailure", "Never")),
    "restartPolicyRules": ANY_LIST,
    "securityContext": ANY_MAPPING,
    "stdin": values.boolean,
    "stdinOnce": values.boolean,
    "terminationMessagePath": values.string,
    "terminationMessagePolicy": values.one_of(("File", "FallbackToLogsOnError")),
    "tty": values.boolean,
    "volumeDevices": ANY_LIST,
    "volumeMounts": ANY_LIST,
}
_CONTAINER_FIELDS = Fields(_CONTAINER, required=("name",))
_EPHEMERAL = Fields({**_CONTAINER, "targetContainerName": values.string}, required=("name",))

POD_SPEC = Fields(
    {
        "containers": Each(_CONTAINER_FIELDS, least=1),
        "initContainers": Each(_CONTAINER_FIELDS),
        "ephemeralContainers": Each(_EPHEMERAL),
        "activeDeadlineSeconds": values.not_negative,
        "affinity": ANY_MAPPING,
        "automountServiceAccountToken": values.boolean,
        "dnsConfig": DNS_CONFIG,
        "dnsPolicy": values.one_of(("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")),
        "enableServiceLinks": values.boolean,
        "hostAliases": HOST_ALIASES,
        "hostIPC": values.boolean,
        "hostNetwork": values.boolean,
        "hostPID": values.boolean,
        "hostUsers": values.boolean,
        "hostname": values.label,
        "hostnameOverride": values.string,
        "imagePullSecrets": ANY_LIST,
        "nodeName": values.string,
        "nodeSelector": LABELS,
        "os": ANY_MAPPING,
        "overhead": ANY_MAPPING,
        "preemptionPolicy": values.string,
        "priority": values.integer,
        "priorityClassName": values.string,
        "readinessGates": ANY_LIST,
        "resourceClaims": ANY_LIST,
        "resources": ANY_MAPPING,
        "restartPolicy": values.one_of(("Always", "OnFailure", "Never")),
        "runtimeClassName": values.string,
        "schedulerName": values.string,
        "schedulingGates": ANY_LIST,
        "securityContext": ANY_MAPPING,
        "serviceAccount": values.string,
        "serviceAccountName": values.string,
        "setHostnameAsFQDN": values.boolean,
        "shareProcessNamespace": values.boolean,
        "subdomain": values.label,
        "terminationGracePeriodSeconds": values.not_negative,
        "tolerations": ANY_LIST,
        "topologySpreadConstraints": ANY_LIST,
        "volumes": ANY_LIST,
    },
    required=("containers",),
)

_TEMPLATE = Fields(
    {"metadata": Fields({**_META, "name": values.string}), "spec": POD_SPEC}, required=("spec",)
)

_SELECTOR = Fields(
    {
        "matchLabels": LABELS,
        "matchExpressions": Each(
            Fields(
                {
                    "key": values.string,
                    "operator": values.one_of(values.SELECTOR_OPERATORS),
                    "values": STRINGS,
                },
                required=("key", "operator"),
            )
        ),
    }
)

_REPLICA_SET: dict[str, Shape] = {
    "replicas": values.not_negative,
    "selector": _SELECTOR,
    "template": _TEMPLATE,
    "minReadySeconds": values.not_negative,
}

_DEPLOYMENT: dict[str, Shape] = {
    **_REPLICA_SET,
    "strategy": Fields(
        {
            "type": values.one_of(("RollingUpdate", "Recreate")),
            "rollingUpdate": Fields({"maxSurge": values.amount, "maxUnavailable": values.amount}),
        }
    ),
    "revisionHistoryLimit": values.not_negative,
    "paused": values.boolean,
    "progressDeadlineSeconds": values.not_negative,
}

_UPDATES = ("RollingUpdate", "OnDelete")

_STATEFUL_SET: dict[str, Shape] = {
    **_REPLICA_SET,
    "serviceName": values.string,
    "podManagementPolicy": values.one_of(("OrderedReady", "Parallel")),
    "updateStrategy": Fields(
        {
            "type": values.one_of(_UPDATES),
            "rollingUpdate": Fields(
                {"partition": values.not_negative, "maxUnavailable": values.amount}
            ),
        }
    ),
    "revisionHistoryLimit": values.not_negative,
    "volumeClaimTemplates": ANY_LIST,
    "persistentVolumeClaimRetentionPolicy": ANY_MAPPING,
    "ordinals": Fields({"start": values.not_negative}),
}

_DAEMON_SET: dict[str, Shape] = {
    "selector": _SELECTOR,
    "template": _TEMPLATE,
    "minReadySeconds": values.not_negative,
    "updateStrategy": Fields(
        {
            "type": values.one_of(_UPDATES),
            "rollingUpdate": Fields(
                {"maxUnavailable": values.amount}, later=frozenset(("maxSurge",))
            ),
        }
    ),
    "revisionHistoryLimit": values.not_negative,
}

_JOB: dict[str, Shape] = {
    "parallelism": values.not_negative,
    "completions": values.not_negative,
    "completionMode": values.one_of(("NonIndexed",), later=("Indexed",)),
    "activeDeadlineSeconds": values.not_negative,
    "backoffLimit": values.not_negative,
    "ttlSecondsAfterFinished": values.not_negative,
    "suspend": values.boolean,
    "selector": _SELECTOR,
    "manualSelector": values.boolean,
    "template": _TEMPLATE,
    "podReplacementPolicy": values.string,
    "managedBy": values.string,
}
_JOB_LATER = frozenset(
    ("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "maxFailedIndexes")
)

SPECS: dict[str, Shape] = {
    "Namespace": Fields({"finalizers": STRINGS}),
    "Pod": POD_SPEC,
    "Deployment": Fields(_DEPLOYMENT, required=("selector", "template")),
    "ReplicaSet": Fields(_REPLICA_SET, required=("selector", "template")),
    "StatefulSet": Fields(_STATEFUL_SET, required=("selector", "template")),
    "DaemonSet": Fields(_DAEMON_SET, required=("selector", "template")),
    "Job": Fields(_JOB, required=("template",), later=_JOB_LATER),
    "Service": SERVICE_SPEC,
    "NetworkPolicy": POLICY_SPEC,
    **ingressfields.SPECS,
}

# Kinds without a spec: their fields, and those that must be there.
BODIES: dict[str, tuple[dict[str, Shape], tuple[str, ...]]] = {
    "EndpointSlice": (SLICE, ("addressType",)),
    "Endpoints": (ENDPOINTS, ()),
    "Secret": (ingressfields.SECRET, ()),
}

_WITHOUT_SPEC = ("Namespace", "NetworkPolicy")  # which may be left out

# Kinds whose names go into names of pods, devices or DNS; others may have any path segment.
_NAMES = {
    "Namespace": values.label,
    "Service": values.label,
    "Pod": values.subdomain,
    "Deployment": values.subdomain,
    "ReplicaSet": values.subdomain,
    "StatefulSet": values.subdomain,
    "DaemonSet": values.subdomain,
    "Job": values.subdomain,
    "EndpointSlice": values.subdomain,
    "Endpoints": values.subdomain,
    "NetworkPolicy": values.subdomain,
    "Secret": values.subdomain,
    **dict.fromkeys(ingressfields.SPECS, values.subdomain),
}


@cache
def object_shape(kind: str) -> Fields | None:
    """Return the shape of a whole object of *kind*, None for a kind netlab keeps without reading.

    A kind without effect still needs sound metadata: see metadata_shape().
    """
    known: dict[str, Shape]
    if kind in BODIES:
        known, required = BODIES[kind]
    elif kind in SPECS:
        known = {"spec": SPECS[kind], "status": ANY_MAPPING}
        required = ("spec",) if kind not in _WITHOUT_SPEC else ()
    else:
        return None
    return Fields(
        {
            "apiVersion": values.string,
            "kind": values.string,
            "metadata": metadata_shape(kind),
            **known,
        },
        required=("metadata", *required),
    )


@cache
def metadata_shape(kind: str) -> Fields:
    """Return the shape of the metadata of an object of *kind*."""
    name = _NAMES.get(kind, values.path_segment)
    return Fields({**_META, "name": name}, required=("name",))
