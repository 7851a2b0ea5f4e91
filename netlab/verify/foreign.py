"""What cannot be judged where nodes leave flannel, or the rules of Services, to somebody else.

netlab knows what its own nodes should hold, and judges the ways to and from the others' pods by
their leases. Whether a foreign kube-proxy serves, and how a foreign flanneld masquerades, it does
not know: paths that depend on every node's are skipped, and say why.
"""

from __future__ import annotations

from netlab.cluster import Cluster

BY_SERVICES = frozenset(
    (
        *("pod-clusterip", "node-clusterip", "no-endpoints", "nodeport", "loadbalancer"),
        *("dns-service", "endpoints-follow", "selectors", "headless", "ingress", "affinity"),
        *("namespaces", "node-lost", "proxy-modes", "externalname", "replicas"),
    )
)
BY_FLANNEL = frozenset(("egress-masquerade", "backends"))  # its rules; its configuration
BY_JOINING = frozenset(("node-join", "daemonset"))  # how the others follow a node that is new
BY_EVERY_LEASE = frozenset(("lease-in-etcd", "node-lost"))


def skipped(path: str, cluster: Cluster) -> str:
    """Return why the path called *path* cannot be judged in *cluster*, "" when it can."""
    nodes = [node for node in cluster.nodes if node.declared in cluster.lab.running]
    proxies = [node.name for node in nodes if node.declared.foreign_proxy]
    flannels = [node.name for node in nodes if node.declared.foreign_flannel]
    waiting = [node.name for node in nodes if node.name in flannels and not node.subnet]
    if proxies and path in BY_SERVICES:
        return f"a foreign kube-proxy makes the rules of {_listed(proxies)} (proxyMode: none)"
    if flannels and path in BY_FLANNEL:
        return f"a foreign flanneld makes the rules of {_listed(flannels)} (flannel: none)"
    if flannels and path in BY_JOINING:
        return f"a foreign flanneld follows a new node on {_listed(flannels)} (flannel: none)"
    if waiting and path in BY_EVERY_LEASE | BY_SERVICES:
        return f"no foreign flanneld has taken a lease for {_listed(waiting)} (flannel: none)"
    return ""


def _listed(names: list[str]) -> str:
    return ", ".join(names)
