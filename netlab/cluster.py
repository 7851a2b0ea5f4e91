"""A lab as it is declared and leased at one moment, ready to be reasoned about.

Everything that asks "where is this pod, and how would a packet get there?" starts from a
`Cluster`: the paths' expectations, `netlab get`, name completion. It is built from the Lab
document, the Kubernetes documents and the leases in etcd; no kernel state is in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, ip_network
from typing import NamedTuple

import msgspec

from netlab import images, world
from netlab.dns import files
from netlab.model.inventory import Inventory, inventory
from netlab.model.kubernetes import Container, Document, Pod, view
from netlab.model.lab import Lab, LabNode, both, like


class NodeState(msgspec.Struct, frozen=True):
    """A node and the lease it holds; `subnet` is empty without one, `subnet_v6` with one stack."""

    declared: LabNode
    netns: str
    subnet: str = ""  # 10.244.1.0/24
    vtep_mac: str = ""
    subnet_v6: str = ""
    vtep_mac_v6: str = ""
    overlay: bool = True  # whether it has a device of flannel's

    @property
    def name(self) -> str:
        return self.declared.name

    @property
    def address(self) -> str:
        """The node's own address on the underlay."""
        return self.declared.address

    @property
    def uplink(self) -> str:
        """The node's card on the underlay."""
        return self.declared.uplink

    @property
    def subnets(self) -> tuple[str, ...]:
        """The subnets of its lease, one of each family."""
        return both(self.subnet, self.subnet_v6)

    @property
    def bridge_address(self) -> str:
        """The node's address on docker0, the default gateway of its pods, without prefix length."""
        return str(IPv4Network(self.subnet)[1]) if self.subnet else ""

    @property
    def bridge_addresses(self) -> tuple[str, ...]:
        """The node's addresses on docker0, one of each family."""
        return tuple(str(ip_network(one)[1]) for one in self.subnets)

    @property
    def tunnel_addresses(self) -> tuple[str, ...]:
        """The node's addresses on flannel's devices, one of each family."""
        return tuple(str(ip_network(one)[0]) for one in self.subnets if self.overlay)

    @property
    def vtep_macs(self) -> tuple[str, ...]:
        """The MACs of flannel's devices, one of each family."""
        return both(self.vtep_mac, self.vtep_mac_v6)

    @property
    def tunnel_address(self) -> str:
        """The node's address on flannel.1, the first of its lease; "" without such a device."""
        return str(IPv4Network(self.subnet)[0]) if self.subnet and self.overlay else ""


class PodState(msgspec.Struct, frozen=True):
    """A pod that has a node; `ip` is empty until the node gave it one."""

    namespace: str
    name: str
    node: str
    netns: str
    veth: str  # the node's end of its veth pair
    ip: str
    phase: str
    containers: tuple[Container, ...]
    labels: dict[str, str]
    hostname: str = ""
    host_network: bool = False
    restart_policy: str = "Always"
    owner: str = ""  # `ReplicaSet/web-5d8f`
    uid: str = ""
    message: str = ""
    version: str = ""  # resourceVersion of its document
    terminating: bool = False
    ip_v6: str = ""  # in a dual-stack lab

    @property
    def ips(self) -> tuple[str, ...]:
        """Its addresses, one of each family."""
        return both(self.ip, self.ip_v6)

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}"


class Cluster(msgspec.Struct, frozen=True):
    """The lab, its nodes in declared order, its placed pods in order of namespace and name."""

    lab: Lab
    nodes: tuple[NodeState, ...]
    pods: tuple[PodState, ...]
    documents: Inventory = msgspec.field(default_factory=Inventory)
    revision: int = 0

    def node(self, name: str) -> NodeState:
        """Return the node called *name*. Raises LookupError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LookupError(f"no node {name}")

    def pod(self, name: str, namespace: str = "default") -> PodState:
        """Return a pod by `name` or `namespace/name`. Raises LookupError."""
        if "/" in name:
            namespace, _, name = name.partition("/")
        for pod in self.pods:
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        raise LookupError(f"no pod {namespace}/{name}")

    def pods_on(self, node: str) -> list[PodState]:
        """Return the pods placed on the node called *node*."""
        return [pod for pod in self.pods if pod.node == node]


def pod_state(lab: Lab, document: Document) -> PodState | None:
    """Return the placed pod that *document* describes, None while it has no node."""
    spec = document.get("spec") or {}
    if not spec.get("nodeName"):
        return None
    pod = view(document, Pod)
    meta = pod.metadata
    owner = next((o for o in meta.ownerReferences if o.controller), None)
    return PodState(
        namespace=meta.namespace,
        name=meta.name,
        node=pod.spec.nodeName,
        netns=lab.netns(pod.spec.nodeName)
        if pod.spec.hostNetwork
        else lab.netns(pod.spec.nodeName, meta.namespace, meta.name),
        veth=world.veth_name(meta.namespace, meta.name),
        ip=pod.status.podIP,
        phase=pod.status.phase,
        containers=tuple(map(images.runnable, pod.spec.containers)),
        labels=meta.labels,
        hostname=pod.spec.nodeName if pod.spec.hostNetwork else files.hostname(spec, meta.name),
        host_network=pod.spec.hostNetwork,
        restart_policy=pod.spec.restartPolicy,
        owner=f"{owner.kind}/{owner.name}" if owner else "",
        uid=meta.uid,
        version=meta.resourceVersion,
        message=pod.status.message,
        terminating=bool(meta.deletionTimestamp),
        ip_v6=like("::", [one.ip for one in pod.status.podIPs]),
    )


def _identity(document: Document) -> tuple[str, str]:
    """Return what tells one state of one object from all others: uid and resourceVersion."""
    metadata = document["metadata"]
    return metadata.get("uid", ""), metadata.get("resourceVersion", "")


class _Held(NamedTuple):
    """What a node has by its lease."""

    subnet: str = ""
    vtep_mac: str = ""
    subnet_v6: str = ""
    vtep_mac_v6: str = ""


def cluster(
    lab: Lab,
    documents: Iterable[Document],
    *,
    leases: Mapping[str, Sequence[str]],
    revision: int = 0,
    before: Cluster | None = None,
) -> Cluster:
    """Return the cluster of *documents*.

    *leases*: public IP to (subnet, VTEP MAC), and with two stacks those of IPv6 behind them.
    *before*: an earlier cluster, from which the pods whose documents are the same are taken.
    """
    nodes = tuple(
        NodeState(
            node,
            lab.netns(node.name),
            *_Held(*leases.get(node.address, ())),
            overlay=bool(lab.network.tunnel),
        )
        for node in lab.nodes
    )
    objects = inventory(documents)
    known = before if before is not None and before.lab == lab else Cluster(lab, nodes, ())
    return Cluster(lab, nodes, _pods(lab, objects, known), objects, revision)


def _pods(lab: Lab, objects: Inventory, before: Cluster) -> tuple[PodState, ...]:
    """Return the placed pods, those of *before* whose documents are still the same."""
    listed = objects.of("Pod")
    if listed is before.documents.of("Pod"):
        return before.pods
    known = {(pod.uid, pod.version): pod for pod in before.pods}
    pods = [
        state
        for document in listed
        if (state := known.get(_identity(document)) or pod_state(lab, document))
    ]
    return tuple(sorted(pods, key=lambda pod: (pod.namespace, pod.name)))
