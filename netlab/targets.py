"""What to watch: words of a command line to network namespaces, and what their devices are.

`[NS/]POD`, `node/NAME`, `svc/[NS/]NAME` (its pods and all nodes), `master`, `gateway`, `client`,
`internet`, `underlay`; each may end with `:DEVICE`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from netlab import beyond, world
from netlab.annotation.names import services_of
from netlab.cluster import Cluster, NodeState, PodState
from netlab.errors import NotFoundError
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab
from netlab.model.services import SERVICE_NAME_LABEL

DOMAIN = ("svc", "cluster", "local")  # behind a Service's namespace in its name


class Target(msgspec.Struct, frozen=True):
    """A network namespace to watch. `label` names it in a capture, `title` in a sentence.

    `devices`: the only ones to watch, all of them when empty. `described`: what devices are.
    """

    netns: str
    label: str  # node1/default/pair, gateway
    title: str  # pod default/pair on node1
    devices: frozenset[str] = frozenset()
    described: dict[str, str] = {}
    pod: bool = False
    node: str = ""  # whose power it needs

    def wants(self, device: str) -> bool:
        """Return whether a device is to be watched."""
        return not self.devices or device in self.devices

    def name(self, device: str) -> str:
        """Return what a capture calls a device: `node1/default/pair:eth0`."""
        return f"{self.label}:{device}"

    def description(self, device: str) -> str:
        """Return what a device is, in words."""
        what = self.described.get(device, "")
        return f"{device} of {self.title}" + (f": {what}" if what else "")


def every(cluster: Cluster) -> list[Target]:
    """Return all there is in the lab, the world around first."""
    members = [_member(cluster, member) for member in world.members(cluster.lab)]
    nodes = [_node(cluster, node) for node in cluster.nodes]
    return [*members, *nodes, *(_pod(pod) for pod in cluster.pods if not pod.host_network)]


def targets(cluster: Cluster, words: Sequence[str], *, namespace: str = "default") -> list[Target]:
    """Return what *words* mean, each namespace once. Raises NotFoundError with a hint."""
    found: dict[str, Target] = {}
    for word in words:
        name, _, device = word.partition(":")
        for one in _meant(cluster, name, namespace):
            only = frozenset((device,)) if device else frozenset[str]()
            known = found.get(one.netns)
            if known is not None:
                both = known.devices | only if known.devices and only else frozenset[str]()
            else:
                both = only
            found[one.netns] = msgspec.structs.replace(one, devices=both)
    return list(found.values())


def _meant(cluster: Cluster, word: str, namespace: str) -> list[Target]:
    kind, slash, name = word.partition("/")
    if word in world.members(cluster.lab):
        return [_member(cluster, word)]
    if slash and kind in ("node", "nodes", "no"):
        try:
            return [_node(cluster, cluster.node(name))]
        except LookupError:
            known = ", ".join(node.name for node in cluster.nodes)
            raise NotFoundError(f"no node {name}", hint=f"there are: {known}") from None
    if slash and kind in ("svc", "service", "services"):
        pods = served(cluster, name, namespace)
        nodes = [_node(cluster, node) for node in cluster.nodes]
        return [*nodes, *(_pod(pod) for pod in pods if not pod.host_network)]
    pod = pod_meant(cluster, name if slash and kind in ("pod", "pods", "po") else word, namespace)
    return [_node(cluster, cluster.node(pod.node)) if pod.host_network else _pod(pod)]


def pod_meant(cluster: Cluster, word: str, namespace: str) -> PodState:
    """Return the pod `[NS/]POD`. Raises NotFoundError, naming what may have been meant."""
    try:
        return cluster.pod(word, namespace)
    except LookupError as missing:
        raise NotFoundError(str(missing), hint=_nearest(cluster, word)) from None


def served(cluster: Cluster, word: str, namespace: str) -> list[PodState]:
    """Return the pods that the Service `[NS/]NAME` leads to. Raises NotFoundError."""
    where, _, name = word.rpartition("/")
    where = where or namespace
    if cluster.documents.named("Service", where, name) is None:
        known = sorted(
            f"{one.metadata.namespace}/{one.metadata.name}" for one in services_of(cluster)
        )
        raise NotFoundError(
            f"no Service {where}/{name}", hint=_close(f"{where}/{name}", known) or "netlab get svc"
        )
    addresses = set(endpoint_addresses(cluster, where, name))
    return [pod for pod in cluster.pods if pod.ip and pod.ip in addresses]


def service_called(cluster: Cluster, word: str, *, namespace: str = "default") -> Document | None:
    """Return the Service that *word* names: `web`, `shop/web`, `web.shop[.svc[.cluster.local]]`;
    None if it names none."""
    space, slash, name = word.rpartition("/")
    if not slash:
        name, *labels = word.rstrip(".").split(".")
        if tuple(labels[1:]) != DOMAIN[: len(labels[1:])]:
            return None
        space = labels[0] if labels else namespace
    return cluster.documents.named("Service", space or namespace, name)


def endpoint_addresses(cluster: Cluster, namespace: str, name: str) -> list[str]:
    """Return the addresses in the slices of a Service."""
    return [
        address
        for document in endpoint_slices(cluster, namespace, name)
        for endpoint in document.get("endpoints") or ()
        for address in endpoint.get("addresses") or ()
    ]


def endpoint_slices(cluster: Cluster, namespace: str, name: str) -> list[Document]:
    """Return the slices of a Service, by their label."""
    return [
        document
        for document in cluster.documents.of("EndpointSlice")
        if document["metadata"].get("namespace") == namespace
        and (document["metadata"].get("labels") or {}).get(SERVICE_NAME_LABEL) == name
    ]


def _member(cluster: Cluster, member: str) -> Target:
    lab = cluster.lab
    described = {world.UPLINK: "cable to the underlay"}
    if member == world.UNDERLAY:
        described = {world.port_name(name): f"cable of {name}" for name, _ in world.machines(lab)}
        for segment in lab.underlay.segments:
            described[world.bridge_name(segment)] = f"segment {segment.name}, {segment.cidr}"
    elif member == world.GATEWAY:
        if home := beyond.outside_home(lab):
            described = {world.UPLINK: f"cable to {home.name}"}
            described |= _to_each_other(lab, world.BALANCER)
        described |= {one: f"cable of {one}" for one in (world.INTERNET, world.CLIENT)}
    elif member == world.BALANCER and (home := beyond.outside_home(lab)):
        described = {world.UPLINK: f"cable to {home.name}", **_to_each_other(lab, world.GATEWAY)}
    elif member in (world.INTERNET, world.CLIENT):
        described = {world.UPLINK: "cable to the gateway"}
    return Target(lab.netns(member), member, member, described=described)


def _to_each_other(lab: Lab, other: str) -> dict[str, str]:
    """Return the cable between the gateway and the balancer, where both hang on a machine."""
    return {other: f"cable to the {other}"} if lab.balancer is not None else {}


def _node(cluster: Cluster, node: NodeState) -> Target:
    described = {
        pod.veth: f"cable of pod {pod.title}"
        for pod in cluster.pods_on(node.name)
        if not pod.host_network
    }
    if (home := beyond.outside_home(cluster.lab)) and home.name == node.name:
        described[beyond.OUTWARDS] = f"cable of {world.GATEWAY}"
        if cluster.lab.balancer is not None:
            described[beyond.BALANCED] = f"cable of {world.BALANCER}"
    described[world.UPLINK] = f"cable to the underlay, {node.address}"
    if node.subnet:
        described[node.declared.bridge] = f"bridge of the pods, {node.bridge_address}"
        if tunnel := cluster.lab.network.tunnel:
            described[tunnel] = f"tunnel, {node.tunnel_address}"
    return Target(node.netns, node.name, node.name, described=described, node=node.name)


def _pod(pod: PodState) -> Target:
    described = {world.UPLINK: f"cable to {pod.node}" + (f", {pod.ip}" if pod.ip else "")}
    label = f"{pod.node}/{pod.title}"
    title = f"pod {pod.title} on {pod.node}"
    return Target(pod.netns, label, title, described=described, pod=True, node=pod.node)


def _nearest(cluster: Cluster, word: str) -> str:
    known = [pod.title for pod in cluster.pods] + [f"node/{node.name}" for node in cluster.nodes]
    known += [pod.name for pod in cluster.pods if pod.namespace == "default"]
    return _close(word, [*known, *world.members(cluster.lab)]) or "netlab get pods -A"


def _close(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else ""
