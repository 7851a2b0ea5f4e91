"""Every path that `netlab verify` knows: its id, what it is, what a pass proves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from netlab.errors import UsageError


class Path(msgspec.Struct, frozen=True):
    """A path. *needs*: what netlab does not do yet and the path depends on; "" when it does."""

    id: str
    title: str
    proves: str
    needs: str = ""


SERVICES = "Services: kept, no effect yet"

PATHS: tuple[Path, ...] = (
    Path(
        "same-pod-lo",
        "containers of one pod meet on 127.0.0.1",
        "one network stack per pod: the packet is on the pod's lo and on no other device",
    ),
    Path(
        "same-pod-ports",
        "containers of one pod share its ports, host name, IPC and processes",
        "a second bind is refused; UTS, IPC and PID views are equal, another pod's differ",
    ),
    Path(
        "pod-pod-same-node",
        "two pods of one node meet on its bridge",
        "eth0, veth, veth, eth0; never on flannel.1 or the node's eth0; TTL and addresses kept",
    ),
    Path(
        "pod-pod-cross-node",
        "pods of two nodes meet through the overlay",
        "equal at both ends but for TTL - 2 and MACs; on the underlay only inside VXLAN",
    ),
    Path(
        "unique-pod-ip",
        "every pod has an address of its own",
        "no address twice, each inside its node's lease, leases do not overlap",
    ),
    Path(
        "lease-in-etcd",
        "every node's subnet is a lease in etcd, and all others follow it",
        "flannel's key and value, a TTL that is renewed; route, neighbour and FDB on every peer",
    ),
    Path(
        "node-join",
        "a node that joins is reachable, one that leaves is forgotten",
        "within 2 s of its lease all hold its route and packets flow; then all is gone again",
    ),
    Path(
        "pod-node",
        "pods and nodes reach each other",
        "pod to its node and another, node to its pod and another; no masquerade towards pods",
    ),
    Path(
        "flat-no-nat",
        "all pods share one flat network",
        "every server saw the sender's own pod address",
    ),
    Path("pod-clusterip", "pod to ClusterIP", "DNAT at the sender, fair shares", SERVICES),
    Path("node-clusterip", "node to ClusterIP", "the same, from the OUTPUT hook", SERVICES),
    Path(
        "clusterip-outside",
        "cluster addresses mean nothing outside",
        "client to a pod's address: not delivered, and where it stopped",
    ),
    Path("no-endpoints", "a Service nobody serves", "refused at once, by a named rule", SERVICES),
    Path("nodeport", "client to a node's port", "works on every node", SERVICES),
    Path("loadbalancer", "client to a load balancer", "spreads over the nodes", SERVICES),
    Path("externalname", "a Service that is a name", "a CNAME, no rule", SERVICES),
    Path("dns-service", "names of Services", "answers through Service kube-dns", SERVICES),
    Path("headless", "stable names of pods", "one A record per pod", SERVICES),
    Path("endpoints-follow", "pods die and return", "no flow fails once settled", SERVICES),
    Path("selectors", "relabel a pod", "it leaves and joins the endpoints", SERVICES),
    Path(
        "replicas",
        "a pod that dies is replaced",
        "a new pod, a new uid, an address of the right lease, answering",
    ),
    Path(
        "node-lost",
        "the pods of a lost node come up elsewhere",
        "new uids, addresses of the other nodes' leases",
        "the node controller: not there yet",
    ),
    Path(
        "daemonset",
        "one pod on each node",
        "a node that joins has one, reachable",
        "DaemonSets: kept, no effect yet",
    ),
    Path(
        "egress-masquerade",
        "pods reach the internet behind their node's address",
        "the server saw the node; rewritten between docker0 and eth0 by the named rule",
    ),
    Path(
        "firewall",
        "the cluster is behind a firewall",
        "client to ports not published: stopped at the gateway by the named rule",
    ),
    Path("ingress", "host names over HTTP", "virtual hosts reach their Service", SERVICES),
    Path("affinity", "one client, one endpoint", "50 flows, one endpoint", SERVICES),
    Path("proxy-modes", "four ways to serve Services", "all hold in each mode", SERVICES),
    Path(
        "backends",
        "other ways between the nodes",
        "all pod paths hold",
        "backends other than vxlan: not there yet",
    ),
    Path(
        "kubectl-way",
        "from kubectl to a running pod",
        "each step seen in etcd, in order",
        "a kube-apiserver: not there yet",
    ),
    Path("namespaces", "names divided by namespace", "no name collides", SERVICES),
)
BY_ID = {path.id: path for path in PATHS}


def chosen(ids: Sequence[str] | None) -> list[Path]:
    """Return the paths called *ids*, in the catalogue's order; all of them for None or [].

    Raises UsageError for one that is unknown, naming the nearest.
    """
    if not ids:
        return list(PATHS)
    for name in ids:
        if name not in BY_ID:
            from difflib import get_close_matches

            near = get_close_matches(name, BY_ID, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else f"there is: {', '.join(BY_ID)}"
            raise UsageError(f"no path is called {name}", hint=hint)
    return [path for path in PATHS if path.id in ids]
