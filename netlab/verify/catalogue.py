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
        "equal at both ends but for TTL and MACs; on the underlay only in the back end's envelope",
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
    Path(
        "pod-clusterip",
        "pods reach a Service by its cluster IP",
        "sent to an endpoint by named rules at the sender's node; same node, other node, itself; "
        "in fair shares",
    ),
    Path(
        "node-clusterip",
        "nodes reach a Service by its cluster IP",
        "the same from the OUTPUT hook, masqueraded",
    ),
    Path(
        "clusterip-outside",
        "cluster addresses mean nothing outside",
        "client to a pod's address and to a cluster IP: not delivered, and where it stopped",
    ),
    Path(
        "no-endpoints",
        "a Service that nobody serves",
        "refused at once, by a named rule, for pods and nodes",
    ),
    Path(
        "nodeport",
        "clients outside reach a Service by a port of every node",
        "endpoints here and there, masqueraded; policy Local: the client's own address, or a drop",
    ),
    Path(
        "loadbalancer",
        "clients outside reach a Service by a load balancer's address",
        "by the balancer to a node in fair shares, in each ipMode; others than the source ranges' "
        "refused; a node out of health gets none",
    ),
    Path(
        "externalname",
        "a Service that is a name",
        "a CNAME and what it leads to; no cluster IP, and no rule on any node",
    ),
    Path(
        "dns-service",
        "names of Services",
        "asked through Service kube-dns, over UDP and TCP, by named rules; A, SRV and PTR right",
    ),
    Path(
        "headless",
        "stable names of pods",
        "one address for each pod; a pod deleted comes back, and its name leads to it",
    ),
    Path(
        "endpoints-follow",
        "a Service goes on while its pods die and return",
        "100 flows/s: none fails once settled; the old address and its UDP entries are gone",
    ),
    Path(
        "selectors",
        "a Service's pods are those with its labels",
        "a pod relabelled leaves the endpoints and every node's rules, and joins them again",
    ),
    Path(
        "replicas",
        "a pod that dies is replaced",
        "a new pod, a new uid, an address of the right lease, answering",
    ),
    Path(
        "node-lost",
        "the pods of a lost node come up elsewhere",
        "its cable pulled: new uids, addresses of other nodes' leases, no rule names the old ones, "
        "every flow answered; and back",
    ),
    Path(
        "daemonset",
        "one pod on each node",
        "a real node that joins has one within moments, reachable; gone with it again",
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
    Path(
        "network-policy",
        "a NetworkPolicy lets in whom it allows",
        "a pod that it allows is answered, by its rule; another is dropped on its node, by one",
    ),
    Path(
        "ingress",
        "host names over HTTP and HTTPS, at one address",
        "hosts and paths reach their Service, TLS ends at the ingress, pods see who asked; both "
        "connections on their whole way",
    ),
    Path(
        "affinity",
        "one client stays at one endpoint",
        "50 flows each over TCP and UDP, one endpoint, by named rules",
    ),
    Path(
        "proxy-modes",
        "every proxy mode serves Services",
        "the Services' paths in iptables and nftables mode; the lab changes its mode, and back",
    ),
    Path(
        "backends",
        "other ways between the nodes",
        "the pods' paths by vxlan, with DirectRouting, host-gw and udp; the lab changes, and back",
    ),
    Path(
        "kubectl-way",
        "from kubectl to a running pod",
        "each step seen in etcd, in order",
        "a kube-apiserver: not there yet",
    ),
    Path(
        "namespaces",
        "two Services of one name in two namespaces",
        "each its own endpoints and first in its namespace's names; no rule serves both",
    ),
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
