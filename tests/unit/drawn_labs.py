"""Labs to draw: as many nodes and pods as asked for, Services over them, names that do harm."""

from __future__ import annotations

from typing import Any

from netlab.cluster import Cluster, cluster
from netlab.model.kubernetes import Document, Meta
from netlab.model.lab import Backend, Gateway, Lab, LabNode, Master, Network, Segment, Underlay

HARMFUL = (
    "\"><script>alert('x')</script>",
    "</script><img src=http://example.com/x>",
    'say "hi" \\N \\" \\',
    "a&b &lt; &amp; #quot; #35;",
    "];end;subgraph x[",
    "line\nbreak\r\u2028\x00\x1b[31m\u202e",
    "`backticks` **bold** %%{init: {}}%% <br/>",
    "]]>-->",
    "{{braces}} ${x} :::bridge",
)


def slice_of(service: str, pods: list[Document], namespace: str = "default") -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-1",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [pod["status"]["podIP"]],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"]},
            }
            for pod in pods
        ],
    }


def service(name: str, address: str, namespace: str = "default", **spec: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "clusterIP": address,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            **spec,
        },
    }


def pod(name: str, node: str, address: str, owner: str = "") -> Document:
    owners = [{"kind": "ReplicaSet", "name": owner, "controller": True}] if owner else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "ownerReferences": owners},
        "spec": {"nodeName": node, "containers": []},
        "status": {"podIP": address, "phase": "Running"},
    }


def drawn_lab(
    nodes: int = 3,
    pods: int = 2,
    *,
    segments: int = 1,
    names: tuple[str, ...] = (),
    backend: str = "vxlan",
    services: int = 1,
) -> Cluster:
    """Return a lab of n1, n2, … with web-1-1, web-1-2, … on n1; *names*: more pods and Services."""
    placed = [(number - 1) % segments for number in range(1, nodes + 1)]
    lab = Lab(
        metadata=Meta(name="t"),
        underlay=Underlay(
            [
                Segment(
                    f"seg{n}",
                    f"192.168.{50 + n}.0/24",
                    f"192.168.{50 + n}.254" if segments > 1 else "",
                )
                for n in range(segments)
            ]
        ),
        master=Master("192.168.50.10"),
        nodes=[
            LabNode(f"n{n}", f"192.168.{50 + placed[n - 1]}.{100 + n}") for n in range(1, nodes + 1)
        ],
        network=Network("10.244.0.0/16", Backend=Backend(Type=backend)),
        gateway=Gateway("192.168.50.1"),
    )
    webs = [
        pod(f"web-{n}-{p}", f"n{n}", f"10.244.{n}.{p + 1}", owner="web-5d")
        for n in range(1, nodes + 1)
        for p in range(1, pods + 1)
    ]
    others = [pod(name, "n1", f"10.244.1.{100 + n}") for n, name in enumerate(names)]
    documents = [*webs, *others]
    documents.append(
        {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": "web-5d",
                "namespace": "default",
                "ownerReferences": [{"kind": "Deployment", "name": "web", "controller": True}],
            },
        }
    )
    for number in range(services):
        name = "web" if number == 0 else f"svc-{number}"
        documents += [service(name, f"10.96.{number}.10"), slice_of(name, webs)]
    for n, name in enumerate(names):
        documents += [service(name, f"10.97.0.{n}"), slice_of(name, [others[n]])]
    return cluster(
        lab,
        documents,
        leases={
            node.address: (f"10.244.{n}.0/24", f"02:00:00:00:00:{n:02x}")
            for n, node in enumerate(lab.nodes, 1)
        },
    )
