"""What there is to draw of a lab: its machines, pods, and Services with their endpoints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from netlab import beyond, world
from netlab.cluster import Cluster, NodeState, PodState
from netlab.model.kubernetes import Pod as PodDocument
from netlab.model.kubernetes import view
from netlab.picture.services import Service, by_namespace, services_of, serving_of
from netlab.picture.text import count, plain, title

NODES_MAX = 6  # more nodes than these are drawn small
PODS_MAX = 12  # when a node has more of them, pods are drawn by workload
SMALL_PODS_MAX = 4  # lines for pods in a small node
FEW_PODS = 3  # others in the node of those that matter
SERVICES_MAX = 24  # more of them are drawn by namespace


class Pods(msgspec.Struct, frozen=True):
    """One pod, or *number* of one workload on one node; `name` is what to call them.

    `address` and `veth` are those of a single one. `services`: the numbers of those they serve.
    """

    name: str
    number: int = 1
    address: str = ""
    netns: str = ""
    veth: str = ""
    phase: str = ""
    services: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """`web-1`, `shop/cart × 3`."""
        return self.name if self.number == 1 else f"{self.name} × {self.number}"


class Node(msgspec.Struct, frozen=True):
    """A node; `lease`, `bridge_address`, `tunnel_address` are empty while it has no lease."""

    name: str
    netns: str
    address: str
    segment: str
    lease: str = ""
    bridge: str = ""
    bridge_address: str = ""  # with prefix length
    tunnel: str = ""  # name of its VTEP's device, "" without an overlay
    tunnel_address: str = ""
    pods: tuple[Pods, ...] = ()

    @property
    def number_of_pods(self) -> int:
        return sum(one.number for one in self.pods)


class Member(msgspec.Struct, frozen=True):
    """A machine that is no node; `segment` is empty outside.

    `behind`: the namespace of the node that it hangs on by a cable, in that node's segment; `port`:
    the end of the cable there.
    """

    name: str
    netns: str
    addresses: tuple[str, ...]
    segment: str = ""
    behind: str = ""
    port: str = ""


class Segment(msgspec.Struct, frozen=True):
    name: str
    cidr: str
    device: str  # the bridge in the underlay
    router: str = ""


class Picture(msgspec.Struct, frozen=True):
    """All of it; `small`: nodes are drawn small. `absent`: nodes that are left out."""

    lab: str
    facts: tuple[str, ...]  # what holds for the whole lab, in words
    segments: tuple[Segment, ...]
    members: dict[str, Member]
    nodes: tuple[Node, ...]
    services: tuple[Service, ...] = ()
    rules: str = ""  # the proxy mode
    small: bool = False
    absent: int = 0


def picture(
    cluster: Cluster,
    *,
    namespace: str = "",
    services: bool = True,
    full: bool = False,
) -> Picture:
    """Return what to draw of *cluster*.

    *namespace*: only its pods and Services. *full*: every pod and Service by itself, however many.
    """
    lab = cluster.lab
    pods = [pod for pod in cluster.pods if namespace in ("", pod.namespace)]
    found = services_of(cluster, namespace) if services else ()
    listed = found if full or len(found) <= SERVICES_MAX else by_namespace(found)
    serving = serving_of(listed)
    small = len(cluster.nodes) > NODES_MAX and not full
    by_node: dict[str, list[PodState]] = {}
    for pod in pods:
        by_node.setdefault(pod.node, []).append(pod)
    most = max(map(len, by_node.values()), default=0)
    grouped = (small or most > PODS_MAX) and not full
    limit = SMALL_PODS_MAX if small else PODS_MAX
    segments = {
        name: plain(lab.segment_of(address).name)
        for name, address in world.machines(lab)
        if name in (world.GATEWAY, world.MASTER, world.BALANCER)
    }
    behind: dict[str, tuple[str, str]] = {}
    if home := beyond.outside_home(lab):
        for name in (world.GATEWAY, world.BALANCER):
            segments[name] = plain(lab.segment_of(home.address).name)
            if hung := beyond.behind(lab, name):
                behind[name] = lab.netns(home.name), hung[1]
    return Picture(
        lab=plain(lab.name),
        facts=_facts(cluster, pods, found),
        segments=tuple(
            Segment(plain(one.name), one.cidr, world.bridge_name(one), one.router)
            for one in lab.underlay.segments
        ),
        members={
            name: Member(
                *(name, lab.netns(name), tuple(addresses)),
                *(segments.get(name, ""), *behind.get(name, ("", ""))),
            )
            for name, addresses in world.member_addresses(lab).items()
            if name != world.UNDERLAY and not (name == world.MASTER and _holds_master(cluster))
        },
        nodes=tuple(
            _node(
                cluster,
                state,
                by_node.get(state.name, []),
                serving=serving,
                limit=limit if grouped else 0,
            )
            for state in cluster.nodes
        ),
        services=listed,
        rules=lab.proxyMode,
        small=small,
    )


def focused(cluster: Cluster, *, netns: Collection[str], service: str = "") -> Picture:
    """Return a picture of what has the namespaces *netns*, and of what joins it.

    Other nodes are counted, and so are the other pods of a node that has many. *service*: the
    `namespace/name` of the one to draw.
    """
    whole = picture(cluster, full=True)
    nodes = [
        msgspec.structs.replace(node, pods=_singled_out(node.pods, netns))
        for node in whole.nodes
        if node.netns in netns or any(pods.netns in netns for pods in node.pods)
    ]
    seen = {name for name, member in whole.members.items() if member.netns in netns}
    if seen & {world.INTERNET, world.CLIENT}:
        seen.add(world.GATEWAY)
    members = {name: member for name, member in whole.members.items() if name in seen}
    used = {node.segment for node in nodes} | {member.segment for member in members.values()}
    wanted = title(*service.split("/", 1)) if "/" in service else ""
    services = tuple(one for one in whole.services if one.name == wanted)
    marks = {one.number for one in services}
    return msgspec.structs.replace(
        whole,
        segments=tuple(one for one in whole.segments if one.name in used) or whole.segments[:1],
        members=members,
        nodes=tuple(_marked(node, marks) for node in nodes),
        services=services,
        absent=len(whole.nodes) - len(nodes),
    )


def _marked(node: Node, numbers: Collection[int]) -> Node:
    """Return *node* with no marks on its pods but those of the Services *numbers*."""
    pods = (
        msgspec.structs.replace(one, services=tuple(n for n in one.services if n in numbers))
        for one in node.pods
    )
    return msgspec.structs.replace(node, pods=tuple(pods))


def _singled_out(pods: Sequence[Pods], netns: Collection[str]) -> tuple[Pods, ...]:
    """Return *pods* of which those with a namespace in *netns* come first, and many as a number."""
    first = [one for one in pods if one.netns in netns]
    others = [one for one in pods if one.netns not in netns]
    if len(others) > FEW_PODS:
        others = [Pods("more pods" if first else "pods", sum(one.number for one in others))]
    return (*first, *others)


def _facts(
    cluster: Cluster, pods: Sequence[PodState], services: Sequence[Service]
) -> tuple[str, ...]:
    lab = cluster.lab
    backend = lab.network.Backend
    over = f"VXLAN {backend.VNI}" if backend.Type == "vxlan" else backend.Type
    there = [count(len(cluster.nodes), "node"), count(len(pods), "pod")]
    if services:
        there.append(count(len(services), "Service"))
    return (
        ", ".join(there),
        f"pods {lab.network.Network} over {over}",
        f"Services {lab.serviceCIDR} by {lab.proxyMode}",
    )


def _node(
    cluster: Cluster,
    state: NodeState,
    pods: Sequence[PodState],
    *,
    serving: dict[str, tuple[int, ...]],
    limit: int,
) -> Node:
    """Return a node; *limit*: its pods are put together into at most so many, 0: they are not."""
    length = state.subnet.partition("/")[2]
    master = ", master" if state.name == _holds_master(cluster) else ""
    return Node(
        name=plain(state.name) + master,
        netns=state.netns,
        address=state.address,
        segment=plain(cluster.lab.segment_of(state.address).name),
        lease=state.subnet,
        bridge=plain(state.declared.bridge),
        bridge_address=f"{state.bridge_address}/{length}" if state.subnet else "",
        tunnel=cluster.lab.network.tunnel,
        tunnel_address=state.tunnel_address,
        pods=_together(cluster, pods, serving, limit)
        if limit
        else tuple(_pod(pod, serving) for pod in pods),
    )


def _holds_master(cluster: Cluster) -> str:
    """Return the node whose machine is the master's, too; "" where that is one of its own."""
    address = cluster.lab.master.address
    return next((node.name for node in cluster.nodes if node.address == address), "")


def _pod(pod: PodState, serving: dict[str, tuple[int, ...]]) -> Pods:
    return Pods(
        name=title(pod.namespace, pod.name),
        address=pod.ip,
        netns=pod.netns,
        veth="" if pod.host_network else pod.veth,
        phase=plain(pod.phase),
        services=serving.get(pod.title, ()),
    )


def _together(
    cluster: Cluster, pods: Sequence[PodState], serving: dict[str, tuple[int, ...]], limit: int
) -> tuple[Pods, ...]:
    """Return *pods* by workload, those with most pods first; what is over *limit* as one."""
    groups: dict[tuple[str, str], list[PodState]] = {}
    for pod in pods:
        groups.setdefault((pod.namespace, _workload(cluster, pod)), []).append(pod)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    kept = ordered if len(ordered) <= limit else ordered[: limit - 1]
    found = [
        _pod(group[0], serving)
        if len(group) == 1
        else Pods(title(*key), len(group), services=_numbers(group, serving))
        for key, group in kept
    ]
    rest = [pod for _, group in ordered[len(kept) :] for pod in group]
    if rest:
        words = "more pods" if kept else "pods"
        found.append(Pods(words, len(rest), services=_numbers(rest, serving)))
    return tuple(found)


def _numbers(pods: Iterable[PodState], serving: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({number for pod in pods for number in serving.get(pod.title, ())}))


def _workload(cluster: Cluster, pod: PodState) -> str:
    """Return the name of what made *pod*: its Deployment rather than that one's ReplicaSet."""
    kind, _, name = pod.owner.partition("/")
    if kind == "ReplicaSet":
        document = cluster.documents.named(kind, pod.namespace, name)
        if document is not None:
            owners = view(document, PodDocument).metadata.ownerReferences
            return next((one.name for one in owners if one.controller), name)
    return name or pod.name
