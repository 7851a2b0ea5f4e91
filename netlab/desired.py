"""Everything a node should hold, from the cluster and the leases: pure, by namespace.

The agent's node loop compares this with the kernel; `netlab plan` prints the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from netlab import cni, faults, world
from netlab.cluster import Cluster, NodeState, PodState
from netlab.flannel import backends, rules
from netlab.flannel.config import Config
from netlab.flannel.lease import Lease
from netlab.flannel.members import written_by
from netlab.model.faults import Fault, Sort
from netlab.objects import Netem, Object
from netlab.plan import Op, Verb


def node(
    cluster: Cluster,
    state: NodeState,
    *,
    config: Config,
    own: Lease | None,
    peers: Sequence[Lease],
) -> list[Object]:
    """Return what belongs into the node's own namespace; without a lease only its uplink.

    The cables of its pods are part of it, as their near ends are ports of docker0. Where a foreign
    flanneld runs, the bridge and they are all that follows from the lease.
    """
    objects = cni.node_objects(cluster.lab, state)
    if own is None:
        return objects
    lab = cluster.lab
    foreign = state.declared.foreign_flannel
    mtu = backends.mtu(written_by(own, config) if foreign else config, lab.underlay.mtu)
    objects += cni.bridge_objects(state, mtu=mtu)
    pods = with_address(cluster, state)
    objects += [cni.cable(state, pod, mtu=mtu, up=world.plugged_in(lab, pod.title)) for pod in pods]
    objects += [place for pod in pods for place in cni.near(state, pod)]
    if not foreign:
        objects += _overlay(cluster, state, config=config, own=own, peers=peers)
    if cluster.lab.faults:
        lossy = _faulted(cluster, pods, Sort.LINK_LOSS)
        objects += faults.rules(state.netns, lossy, {})
        objects += faults.queues(state.netns, _faulted(cluster, pods, Sort.LINK_DELAY), lossy)
    return objects


def _overlay(
    cluster: Cluster, state: NodeState, *, config: Config, own: Lease, peers: Sequence[Lease]
) -> list[Object]:
    """Return what flannel has on a node: its back end, and its rules."""
    lab = cluster.lab
    objects = backends.objects(
        state.netns,
        config=config,
        own=own,
        peers=peers,
        device=state.uplink,
        local=state.address,
        home=lab.segment_of(state.address).prefixes,
        underlay_mtu=lab.underlay.mtu,
        underlay=[one for segment in lab.underlay.segments for one in segment.prefixes],
    )
    for half, network in zip(own.halves, config.networks, strict=False):
        objects += rules.objects(state.netns, network=network, subnet=half.subnet)
    return objects


def joining(operations: Sequence[Op]) -> list[Op]:
    """Return which of *operations* let a node that knows nothing yet reach etcd: what adds.

    And what lets its card send again all that it lost: etcd cannot tell of that.
    """
    return [
        op
        for op in operations
        if op.verb is not Verb.DELETE
        or (isinstance(op.object, Netem) and op.object.link == world.UPLINK)
    ]


def _faulted(cluster: Cluster, pods: Sequence[PodState], sort: Sort) -> dict[str, Fault]:
    """Return the faults of this sort of the cables of *pods*, by the node's end."""
    found = {pod.veth: cluster.lab.faulted(sort, pod.title) for pod in pods}
    return {veth: fault for veth, fault in found.items() if fault is not None}


def with_address(cluster: Cluster, state: NodeState) -> list[PodState]:
    """Return the node's pods that have an address of their own."""
    return [pod for pod in cluster.pods_on(state.name) if pod.ip and not pod.host_network]


def pods(cluster: Cluster, state: NodeState) -> dict[str, list[Object]]:
    """Return the objects inside the namespaces of the node's pods, by namespace."""
    lab = cluster.lab
    return {
        pod.netns: [
            *cni.pod_objects(lab, state, pod),
            *faults.far_queues(lab, pod.title, pod.netns, world.UPLINK),
        ]
        for pod in with_address(cluster, state)
    }
