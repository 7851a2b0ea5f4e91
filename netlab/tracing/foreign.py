"""What a foreign flanneld or kube-proxy has not done on a packet's way, as the kernel answers.

Of what they should hold netlab knows only what must follow from leases and Services: a way to the
other pods, and that an address of a Service is rewritten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netlab.cluster import Cluster, NodeState
from netlab.flannel.config import resolve
from netlab.flannel.lease import Lease
from netlab.flannel.members import device
from netlab.journeys import Cause, Journey, Kind, Rewrite, RewriteKind
from netlab.kernel import lookup
from netlab.kernel.netns import entered, exists
from netlab.paths import places
from netlab.telling.naming import Names
from netlab.tracing.asking import Asking
from netlab.tracing.drift import Way, inside


def causes(
    cluster: Cluster,
    names: Names,
    asked: Asking,
    journey: Journey,
    way: Way,
    leases: Iterable[Lease],
) -> Iterator[Cause]:
    """Yield what is missing on the nodes of *way* that leave flannel or their rules to others."""
    held = {one.public_ip for one in leases}
    for node in way.nodes:
        if node.declared.foreign_flannel and exists(node.netns):
            if node.address in held:
                yield from _ways(cluster, names, node, way)
            else:
                yield _no_lease(names, node)
    if asked.source.node is not None and asked.source.node.declared.foreign_proxy:
        yield from _unserved(cluster, names, asked.source.node, journey)


def beyond(names: Names, asked: Asking, member: Lease) -> Iterator[Cause]:
    """Yield that the packet was for a foreign *member*, of which netlab sees the outside only."""
    to = asked.flow.destination
    yield Cause(
        Kind.ADDRESS,
        names.place(asked.source.netns),
        f"{to} is of the foreign member {member.public_ip}, which has {member.subnet}: what it does"
        " with the packet is not seen here",
        (f"etcd key {member.key}",),
        ("look there, or whether its envelopes come back: `netlab trace`",),
    )


def _no_lease(names: Names, node: NodeState) -> Cause:
    return Cause(
        Kind.LEASE,
        names.place(node.netns),
        f"{node.name} waits for a foreign flanneld (flannel: none), and none has taken a lease",
        (f"no key below /coreos.com/network/subnets has PublicIP {node.address}",),
        (f"netlab exec node/{node.name} -- flanneld … (docs/foreign.md)",),
    )


def _ways(cluster: Cluster, names: Names, node: NodeState, way: Way) -> Iterator[Cause]:
    """Yield that *node* has no device of flannel's, or no route to a pod of another node."""
    wanted = device(resolve(cluster.lab.network))
    with entered(node.netns):
        there = lookup.interfaces()
        found = {one: lookup.route(one) for one in _far(cluster, node, way)}
    repair = (f"is flanneld running? netlab exec node/{node.name} -- ps -C flanneld",)
    place = names.place(node.netns)
    if wanted and wanted not in there:
        what = f"{node.name} has no {wanted}: that is its foreign flanneld's to make"
        proof = (f"its devices: {', '.join(sorted(there))}",)
        yield Cause(Kind.TUNNEL, place, what, proof, repair)
        return
    for address, route in found.items():
        if route.refused or route.prefix == "default":
            what = f"{node.name} has no route to {address}: that is its foreign flanneld's to make"
            proof = (f"the kernel's look-up: {route.prefix or 'network is unreachable'}",)
            yield Cause(Kind.ROUTE, place, what, proof, repair)
            return


def _far(cluster: Cluster, node: NodeState, way: Way) -> list[str]:
    """Return the pods' addresses of IPv4 on *way* that are on other nodes than *node*."""
    own = {pod.ip for pod in cluster.pods_on(node.name)}
    theirs = (one for one in way.addresses - own if ":" not in one)
    return sorted(one for one in theirs if places.in_network(cluster, one))


def _unserved(cluster: Cluster, names: Names, node: NodeState, journey: Journey) -> Iterator[Cause]:
    """Yield that nothing has rewritten a packet to a Service on its sender's node."""
    to = journey.flow.destination
    steps = (one for track in journey.tracks for one in track.steps)
    rewritten = any(isinstance(one, Rewrite) and one.kind is RewriteKind.DNAT for one in steps)
    if rewritten or places.in_network(cluster, to) or not inside(cluster, to):
        return
    yield Cause(
        Kind.RULE_GONE,
        names.place(node.netns),
        f"no rule of {node.name} leads {to} anywhere: they are a foreign kube-proxy's to make"
        " (proxyMode: none)",
        ("nothing rewrote the packet",),
        (f"is it running? netlab exec node/{node.name} -- ps -C kube-proxy",),
    )
