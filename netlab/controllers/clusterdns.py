"""The cluster's own DNS as Kubernetes objects: what kubeadm makes of CoreDNS's manifest.

A Service `kube-dns` with the address that every pod's resolv.conf names, and a Deployment
`coredns` of the image netlab/dns behind it. A lab whose files declare a Service of that name
brings its own DNS; one with `dns: {replicas: 0}` has none.
Source: kubernetes cmd/kubeadm/app/phases/addons/dns/manifests.go (v1.30).
"""

from __future__ import annotations

from collections.abc import Iterable

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab

NAMESPACE = "kube-system"
SERVICE, DEPLOYMENT = "kube-dns", "coredns"
IMAGE = "netlab/dns"
LABELS = {"k8s-app": "kube-dns"}
PORT, READY_PORT = 53, 8181
PORTS = (("dns", "UDP"), ("dns-tcp", "TCP"))


def is_service(document: Document) -> bool:
    """Return whether *document* is the Service of a cluster's DNS."""
    meta = document["metadata"]
    return document["kind"] == "Service" and document["apiVersion"] == "v1" and (
        (meta.get("namespace"), meta["name"]) == (NAMESPACE, SERVICE)
    )  # fmt: skip


def objects(lab: Lab, documents: Iterable[Document] = ()) -> list[Document]:
    """Return the objects of the DNS that *lab* itself brings; *documents*: its files'."""
    if not lab.dns.replicas or any(map(is_service, documents)):
        return []
    return [_service(lab), _deployment(lab)]


def address(lab: Lab, objects: Inventory) -> str:
    """Return the address of the cluster's DNS, "" where there is none; *objects*: the stored."""
    document = objects.named("Service", NAMESPACE, SERVICE)
    if document is not None:
        given = str((document.get("spec") or {}).get("clusterIP") or "")
        return "" if given == "None" else given
    return lab.dns_address if lab.dns.replicas else ""


def _service(lab: Lab) -> Document:
    labels = {"kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE, "labels": {**LABELS, **labels}},
        "spec": {
            "clusterIP": lab.dns_address,
            "selector": LABELS,
            "ports": [
                {"name": name, "port": PORT, "protocol": protocol, "targetPort": PORT}
                for name, protocol in PORTS
            ],
        },
    }


def _deployment(lab: Lab) -> Document:
    upstream = lab.dns.upstream or [lab.resolver]
    options = {
        "domain": lab.dns.domain,
        "ttl": lab.dns.ttl,
        "pods": lab.dns.pods,
        "upstream": ",".join(upstream),
    }
    container = {
        "name": DEPLOYMENT,
        "image": IMAGE,
        "args": [f"{name}={value}" for name, value in options.items()],
        "ports": [
            {"name": name, "containerPort": PORT, "protocol": protocol} for name, protocol in PORTS
        ],
        # kubeadm leaves the period at 10 s: a lab should not wait that long for its names.
        "readinessProbe": {"httpGet": {"path": "/ready", "port": READY_PORT}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT, "namespace": NAMESPACE, "labels": LABELS},
        "spec": {
            "replicas": lab.dns.replicas,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "selector": {"matchLabels": LABELS},
            "template": {
                "metadata": {"labels": LABELS},
                "spec": {
                    # Its own names come from its node: it cannot ask itself.
                    "dnsPolicy": "Default",
                    "priorityClassName": "system-cluster-critical",
                    "tolerations": [
                        {"key": "CriticalAddonsOnly", "operator": "Exists"},
                        {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
                    ],
                    "containers": [container],
                },
            },
        },
    }
