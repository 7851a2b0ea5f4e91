"""What an API server fills in where a Service says nothing, apart from addresses and node ports.

Source: kubernetes pkg/apis/core/v1/defaults.go, SetDefaults_Service (v1.34).
"""

from __future__ import annotations

from typing import Any

from netlab.model.kubernetes import Document
from netlab.model.services import EXTERNAL_NAME, EXTERNAL_TYPES

AFFINITY_TIMEOUT = 10800  # seconds, of ClientIP
AFFINITY_NONE = "None"


def filled(spec: Document) -> Document:
    """Return *spec*, of a Service, with its defaults; what is given stays as it is."""
    kind = spec.get("type") or "ClusterIP"
    found: dict[str, Any] = {**spec, "type": kind}
    if ports := spec.get("ports"):
        found["ports"] = [_port(port) for port in ports]
    found["sessionAffinity"] = spec.get("sessionAffinity") or AFFINITY_NONE
    if found["sessionAffinity"] == AFFINITY_NONE:
        found.pop("sessionAffinityConfig", None)
    else:
        given = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        timeout = given.get("timeoutSeconds") or AFFINITY_TIMEOUT
        found["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": timeout}}
    if kind != EXTERNAL_NAME:
        found["internalTrafficPolicy"] = spec.get("internalTrafficPolicy") or "Cluster"
    if kind in EXTERNAL_TYPES or (kind == "ClusterIP" and spec.get("externalIPs")):
        found["externalTrafficPolicy"] = spec.get("externalTrafficPolicy") or "Cluster"
    if kind == "LoadBalancer":
        found.setdefault("allocateLoadBalancerNodePorts", True)
    return found


def _port(port: Document) -> Document:
    target = port.get("targetPort") or port.get("port")
    return {**port, "protocol": port.get("protocol") or "TCP", "targetPort": target}
