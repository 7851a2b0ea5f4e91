"""describe: one object in full, with what netlab knows beyond Kubernetes: where it lives here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from netlab import world
from netlab.cli import (
    eventrows,
    ingressrows,
    names,
    options,
    policyrows,
    rows,
    servicerows,
    tables,
)
from netlab.cli.kinds import LEASE, asked, in_namespace, not_found, seen
from netlab.cli.rows import Scene
from netlab.controllers.scheduler import why_waiting
from netlab.errors import NotFoundError
from netlab.model.kubernetes import Document, Kind
from netlab.model.loose import mappings
from netlab.paths import places

if TYPE_CHECKING:
    from netlab.cluster import Cluster, NodeState

Facts = list[tuple[str, Any]]  # a fact is text, a list of texts, or Facts again


@options.command(
    "describe",
    example="""
    netlab describe pod pair
    netlab describe node/node1 pod/pair
    netlab describe deploy cart -n shop
    netlab describe service web
    """,
)
@click.argument("kind", metavar="KIND|KIND/NAME", shell_complete=names.kinds)
@click.argument("name", metavar="[NAME]...", nargs=-1, shell_complete=names.objects)
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@click.pass_context
def describe(ctx: click.Context, kind: str, name: tuple[str, ...], namespace: str) -> None:
    """Show an object, and where it lives: namespace, cables, lease, routes that lead to it.

    Of a Service: which endpoints each node uses, and its rules there with how often they fired.

    Without NAME, every object of that kind in the namespace.
    """
    scene = seen(options.live_lab(ctx))
    wanted = asked(kind, name, scene.documents)
    found = [
        (one, each)
        for each, called in wanted.items()
        for one in named(each, called, namespace, scene.documents)
    ]
    print("\n\n\n".join("\n".join(printed(facts(d, each, scene))) for d, each in found))


def named(
    kind: Kind, wanted: Sequence[str], namespace: str, documents: Sequence[Document]
) -> list[Document]:
    """Return the objects of *kind* called *wanted*, all without a name. Raises NotFoundError."""
    there = {
        document["metadata"]["name"]: document
        for document in documents
        if document["kind"] == kind.kind
        and (not kind.namespaced or in_namespace(document, namespace))
    }
    for name in wanted:
        if name not in there:
            raise NotFoundError(not_found(kind, name, namespace))
    if not there:
        raise NotFoundError(f"no {kind.plural} in {namespace} namespace")
    return [there[name] for name in wanted or there]


def printed(facts: Facts, *, indent: int = 0) -> list[str]:
    """Return *facts* as lines: `Key:  value`, nested facts indented below their key."""
    pad = "  " * indent
    width = max((len(key) for key, value in facts if isinstance(value, str)), default=0) + 2
    lines: list[str] = []
    for key, value in facts:
        if isinstance(value, str):
            lines.append(f"{pad}{key + ':':{width}} {value or '<none>'}".rstrip())
        elif not value:
            lines.append(f"{pad}{key + ':':{width}} <none>")
        elif isinstance(value[0], str):
            lines.append(f"{pad}{key}:")
            lines += [f"{pad}  {item}" for item in value]
        else:
            lines.append(f"{pad}{key}:")
            lines += printed(value, indent=indent + 1)
    return lines


def facts(document: Document, kind: Kind, scene: Scene) -> Facts:
    """Return everything to say about *document*."""
    if kind is LEASE:
        return lease_facts(document, scene.cluster)
    meta = document["metadata"]
    common: Facts = [("Name", meta["name"])]
    if kind.namespaced:
        common.append(("Namespace", meta.get("namespace", "")))
    common += [
        ("Labels", pairs(meta.get("labels") or {})),
        ("Created", f"{meta.get('creationTimestamp', '')} ({rows.age(document, scene)} ago)"),
    ]
    owner_kind, owner_name = rows.owner(document)
    if owner_kind:
        common.append(("Controlled By", f"{owner_kind}/{owner_name}"))
    more = {
        "Pod": pod_facts,
        "Service": service_facts,
        "Node": node_facts,
        "Ingress": ingressrows.facts,
        "NetworkPolicy": policyrows.facts,
    }.get(kind.kind, other_facts)
    return [*common, *more(document, scene), ("Events", eventrows.lines(document, scene))]


def pairs(labels: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in labels.items()]


def pod_facts(document: Document, scene: Scene) -> Facts:
    """Return a pod's state, its containers, and its place: namespaces, cable, lease, way out."""
    node = rows.pod_node(document, scene)
    status = document.get("status") or {}
    known: Facts = [
        ("Node", node),
        ("Status", rows.pod_status(document, scene)),
        ("Message", str(status.get("message") or why_waiting(document))),
        ("IP", rows.pod_ip(document, scene)),
        (
            "Containers",
            [(c["name"], container_facts(c, status)) for c in rows.containers(document)],
        ),
    ]
    known = [fact for fact in known if fact != ("Message", "")]
    return [*known, ("Here", pod_place(document, scene.cluster))]


def container_facts(container: Document, status: Document) -> Facts:
    """Return a container's declaration and what is known of its run."""
    ports = [
        f"{port.get('containerPort')}/{port.get('protocol', 'TCP')}"
        for port in container.get("ports") or []
    ]
    found: Facts = [("Image", str(container.get("image", "")) + " (a label only)")]
    found.append(("Ports", ", ".join(ports)))
    if container.get("command"):
        words = [*container["command"], *(container.get("args") or [])]
        found.append(("Command", " ".join(map(str, words))))
    for state in status.get("containerStatuses") or []:
        if state.get("name") == container["name"]:
            found.append(("Ready", str(bool(state.get("ready")))))
            found.append(("Restarts", str(state.get("restartCount", 0))))
            found += [("State", state_words(state.get("state") or {}))]
    return found


def state_words(state: Document) -> str:
    """Return a containerStatuses[].state in one line: `waiting: CrashLoopBackOff, exit code 1`."""
    for name, details in state.items():
        words = [
            f"{key} {value}" if key not in ("reason", "message") else str(value)
            for key, value in (details or {}).items()
        ]
        return f"{name}: {', '.join(words)}" if words else name
    return ""


def service_facts(document: Document, scene: Scene) -> Facts:
    """Return a Service as kubectl has it, then what each node makes of it."""
    from netlab.cli import servingrows

    return [*servicerows.facts(document, scene), *servingrows.facts(document, scene)]


def pod_place(document: Document, cluster: Cluster) -> Facts:
    """Return where a placed pod lives on this machine."""
    meta = document["metadata"]
    try:
        pod = cluster.pod(meta["name"], meta.get("namespace", "default"))
        node = cluster.node(pod.node)
    except LookupError:
        return [("Place", "none yet: no node fits")]
    return [
        ("Network namespace", f"/run/netns/{pod.netns}"),
        ("Cable", f"eth0 = {pod.veth} in {node.netns}, a port of {node.declared.bridge}"),
        ("Lease", f"{_both(node.subnets)} of {node.name} ({_both(node.declared.addresses)})"),
        ("Default route", f"via {_both(node.bridge_addresses)} ({node.declared.bridge})"),
        ("From other nodes", routes_to(cluster, node.name)),
    ]


def _both(addresses: Iterable[str]) -> str:
    """Return addresses of one thing, one of each family."""
    return ", ".join(addresses)


def routes_to(cluster: Cluster, name: str) -> str | list[str]:
    """Return how the other nodes reach the pods of the node called *name*, each way once."""
    node = cluster.node(name)
    if not node.subnet:
        return "no way: the node has no lease"
    others = [other for other in cluster.nodes if other.name != name]
    ways = list(dict.fromkeys(way_words(cluster, other, node) for other in others))
    return ways if len(ways) != 1 else ways[0]


def way_words(cluster: Cluster, node: NodeState, peer: NodeState) -> str:
    """Return how *node* reaches the pods of *peer*: by a route, or by the tunnel."""
    if places.direct(cluster, node, peer):
        return f"{peer.subnet} via {peer.address} dev {world.UPLINK}"
    network = cluster.lab.network
    if network.Backend.Type == "udp":
        process = f"its process sends to {peer.address}:{network.tunnel_port}"
        return f"{network.Network} dev {network.tunnel}; {process}"
    return (
        f"{peer.subnet} via {peer.tunnel_address} dev {network.tunnel} onlink; "
        f"VTEP {peer.vtep_mac} at {peer.address}"
    )


def taint_words(taint: Document) -> str:
    """Return a taint as kubectl writes it: `gpu=yes:NoSchedule`."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"


def node_facts(document: Document, scene: Scene) -> Facts:
    """Return a node's lease, devices and pods."""
    cluster = scene.cluster
    try:
        node = cluster.node(document["metadata"]["name"])
    except LookupError:
        return other_facts(document, scene)
    peers = [
        way_words(cluster, node, other)
        for other in cluster.nodes
        if other.name != node.name and other.subnet
    ]
    here: Facts = [
        ("Network namespace", f"/run/netns/{node.netns}"),
        ("eth0", _both(node.declared.addresses)),
        (node.declared.bridge, _both(node.bridge_addresses)),
        ("Routes to others", peers),
    ]
    if tunnel := cluster.lab.network.tunnel:
        here.insert(-1, (tunnel, f"{node.tunnel_address} {node.vtep_mac}".strip()))
    pods = [f"{pod.title}  {_both(pod.ips)}  {pod.phase}" for pod in cluster.pods_on(node.name)]
    return [
        ("Status", rows.node_status(document, scene)),
        *condition_facts(document),
        ("Taints", [taint_words(one) for one in (document.get("spec") or {}).get("taints") or ()]),
        ("Lease", _both(node.subnets)),
        (f"Pods ({len(pods)})", pods),
        ("Here", here),
    ]


def lease_facts(document: Document, cluster: Cluster) -> Facts:
    """Return a lease: whose it is, and what follows from it on the other nodes."""
    spec = document["spec"]
    return [
        ("Subnet", spec["subnet"]),
        ("Node", spec["node"]),
        ("Public IP", spec["publicIP"]),
        ("VTEP MAC", spec["vtepMAC"]),
        ("Backend", spec["backend"]),
        ("From other nodes", routes_to(cluster, spec["node"])),
    ]


def condition_facts(document: Document) -> Facts:
    """Return the conditions in an object's status: each with its reason, and its message."""
    cells = [
        [str(one.get(name) or "") for name in ("type", "status", "reason", "message")]
        for one in mappings(document, "status", "conditions")
    ]
    if not cells:
        return []
    return [("Conditions", tables.aligned(("TYPE", "STATUS", "REASON", "MESSAGE"), cells))]


def heading_words(heading: str) -> str:
    """Return a heading of `get` as describe writes it: `Up-to-date`, `Cluster-IP`."""
    return heading.capitalize().replace("-ip", "-IP")


def other_facts(document: Document, scene: Scene) -> Facts:
    """Return the columns of `get -o wide` one under the other, then the pods behind the object."""
    kind = rows.kind_of(document)
    header, (cells,) = rows.table(kind, [document], scene, wide=True)
    shown = [
        (heading_words(h), c)
        for h, c in zip(header, cells, strict=True)
        if h not in ("NAME", "AGE")
    ]
    found: Facts = [*shown, *condition_facts(document)]
    pods = rows.owned_pods(document, scene)
    if pods:
        lines = [
            f"{rows.name(p, scene)}  {rows.pod_status(p, scene)}  {rows.pod_ip(p, scene)}"
            f"  {rows.pod_node(p, scene)}"
            for p in pods
        ]
        found.append((f"Pods ({len(pods)})", lines))
    if not kind.effective:
        found.append(("Note", f"{kind.plural} are kept and shown; they have no effect yet"))
    return found
