"""The columns of each kind: what `netlab get` shows of an object, with kubectl's own headings.

Pure: from documents and the cluster they came from to cells of text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from netlab.cli import eventrows, ingressrows, policyrows, servicerows, tables, workloadrows
from netlab.cluster import Cluster
from netlab.model.kubernetes import Document, Kind, kind_named


class Scene(NamedTuple):
    """What a cell may look at besides its own object."""

    cluster: Cluster
    documents: Sequence[Document]


Cell = Callable[[Document, Scene], str]


class Column(NamedTuple):
    """A heading, what stands under it, and whether only `-o wide` shows it."""

    heading: str
    cell: Cell
    wide: bool = False


def name(document: Document, scene: Scene) -> str:
    return str(document["metadata"]["name"])


def namespace(document: Document, scene: Scene) -> str:
    return str(document["metadata"].get("namespace", ""))


def age(document: Document, scene: Scene) -> str:
    return tables.age(document["metadata"].get("creationTimestamp"))


def containers(document: Document) -> list[Document]:
    """Return the containers of a pod, or of the pod template of whatever makes pods."""
    spec = document.get("spec") or {}
    if "template" in spec:
        spec = spec["template"].get("spec") or {}
    return list(spec.get("containers") or [])


def joined(field: str) -> Cell:
    """Return the cell that lists *field* of every container."""
    return lambda document, scene: ",".join(str(c.get(field, "")) for c in containers(document))


def ready_containers(document: Document, scene: Scene) -> str:
    statuses = (document.get("status") or {}).get("containerStatuses") or []
    ready = sum(bool(status.get("ready")) for status in statuses)
    return f"{ready}/{len(containers(document))}"


def restarts(document: Document, scene: Scene) -> str:
    statuses = (document.get("status") or {}).get("containerStatuses") or []
    return str(sum(int(status.get("restartCount") or 0) for status in statuses))


def pod_status(document: Document, scene: Scene) -> str:
    """Return a pod's phase, or the more telling reason that a container gives (as kubectl does)."""
    status = document.get("status") or {}
    if document["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason"):
            return str(waiting["reason"])
    ends = [
        (container.get("state") or {}).get("terminated") or {}
        for container in status.get("containerStatuses") or []
    ]
    if ends and all(ends):
        return str(ends[0].get("reason") or status.get("phase"))
    return str(status.get("reason") or status.get("phase") or "Pending")


def pod_ip(document: Document, scene: Scene) -> str:
    """Return the pod's addresses, one of each family."""
    status = document.get("status") or {}
    listed = [str(one.get("ip", "")) for one in status.get("podIPs") or ()]
    return ",".join(listed) or str(status.get("podIP") or "")


def pod_node(document: Document, scene: Scene) -> str:
    return str((document.get("spec") or {}).get("nodeName") or "")


def pod_netns(document: Document, scene: Scene) -> str:
    node = pod_node(document, scene)
    if not node:
        return ""
    return scene.cluster.lab.netns(node, namespace(document, scene), name(document, scene))


def is_ready(document: Document) -> bool:
    """Return whether all containers of a pod are ready."""
    statuses = (document.get("status") or {}).get("containerStatuses") or []
    return bool(statuses) and all(status.get("ready") for status in statuses)


def owner(document: Document) -> tuple[str, str]:
    """Return (kind, name) of what controls an object; two empty texts when nothing does."""
    for reference in document["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return reference.get("kind", ""), reference.get("name", "")
    return "", ""


def owned(document: Document, scene: Scene, kind: str) -> list[Document]:
    """Return the objects of *kind* that *document* controls."""
    key = (document["kind"], name(document, scene))
    return [
        other
        for other in scene.documents
        if other["kind"] == kind
        and owner(other) == key
        and namespace(other, scene) == namespace(document, scene)
    ]


def owned_pods(document: Document, scene: Scene) -> list[Document]:
    """Return the pods of a ReplicaSet, or of all ReplicaSets of a Deployment."""
    direct = owned(document, scene, "Pod")
    below = [p for rs in owned(document, scene, "ReplicaSet") for p in owned(rs, scene, "Pod")]
    return direct + below


def wanted(document: Document, scene: Scene) -> str:
    replicas = (document.get("spec") or {}).get("replicas")
    return "1" if replicas is None else str(replicas)


def current(document: Document, scene: Scene) -> str:
    return str(len(owned_pods(document, scene)))


def ready_pods(document: Document, scene: Scene) -> str:
    return str(sum(map(is_ready, owned_pods(document, scene))))


def ready_of_wanted(document: Document, scene: Scene) -> str:
    return f"{ready_pods(document, scene)}/{wanted(document, scene)}"


def available(document: Document, scene: Scene) -> str:
    """Return how many pods have been ready for long enough, as its controller counts them."""
    told = (document.get("status") or {}).get("availableReplicas")
    return ready_pods(document, scene) if told is None else str(told)


def up_to_date(document: Document, scene: Scene) -> str:
    """Return how many pods of a Deployment come from its present template."""
    told = (document.get("status") or {}).get("updatedReplicas")
    if told is not None:
        return str(told)
    template = (document.get("spec") or {}).get("template") or {}
    sets = [
        rs
        for rs in owned(document, scene, "ReplicaSet")
        if containers(rs) == list((template.get("spec") or {}).get("containers") or [])
    ]
    return str(sum(len(owned(rs, scene, "Pod")) for rs in sets))


def match_labels(document: Document, scene: Scene) -> str:
    selector = (document.get("spec") or {}).get("selector") or {}
    labels = selector.get("matchLabels", selector)
    return ",".join(f"{key}={value}" for key, value in labels.items() if isinstance(value, str))


def node_field(field: str) -> Cell:
    """Return the cell that shows *field* of the cluster's `NodeState`."""

    def cell(document: Document, scene: Scene) -> str:
        try:
            return str(getattr(scene.cluster.node(name(document, scene)), field))
        except LookupError:
            return ""

    return cell


def node_status(document: Document, scene: Scene) -> str:
    """Return Ready as the Node's conditions say it; before there are any, a lease is a join."""
    cordoned = ",SchedulingDisabled" * bool((document.get("spec") or {}).get("unschedulable"))
    conditions = (document.get("status") or {}).get("conditions") or []
    for condition in conditions:
        if condition.get("type") == "Ready":
            ready = condition.get("status") == "True"
            return ("Ready" if ready else "NotReady") + cordoned
    return ("Ready" if node_field("subnet")(document, scene) else "NotReady") + cordoned


def node_bridge(document: Document, scene: Scene) -> str:
    try:
        state = scene.cluster.node(name(document, scene))
    except LookupError:
        return ""
    return f"{state.declared.bridge} {state.bridge_address}".strip()


def node_pods(document: Document, scene: Scene) -> str:
    return str(len(scene.cluster.pods_on(name(document, scene))))


def service_ports(document: Document, scene: Scene) -> str:
    ports = (document.get("spec") or {}).get("ports") or []
    words = []
    for port in ports:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        words.append(f"{port.get('port', '')}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(words)


def spec_field(*fields: str, default: str = "") -> Cell:
    """Return the cell that shows the first of *fields* that the spec has."""

    def cell(document: Document, scene: Scene) -> str:
        spec = document.get("spec") or {}
        value = next((spec[field] for field in fields if spec.get(field)), default)
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return cell


def phase(document: Document, scene: Scene) -> str:
    return str((document.get("status") or {}).get("phase") or "Active")


PLAIN = (Column("NAME", name), Column("AGE", age))
COLUMNS: dict[str, tuple[Column, ...]] = {
    "Pod": (
        Column("NAME", name),
        Column("READY", ready_containers),
        Column("STATUS", pod_status),
        Column("RESTARTS", restarts),
        Column("AGE", age),
        Column("IP", pod_ip, True),
        Column("NODE", pod_node, True),
        Column("NETNS", pod_netns, True),
    ),
    "Node": (
        Column("NAME", name),
        Column("STATUS", node_status),
        Column("AGE", age),
        Column("INTERNAL-IP", node_field("address")),
        Column("POD-CIDR", node_field("subnet")),
        Column("PODS", node_pods),
        Column("BRIDGE", node_bridge, True),
        Column("VTEP-MAC", node_field("vtep_mac"), True),
        Column("NETNS", node_field("netns"), True),
    ),
    "Namespace": (Column("NAME", name), Column("STATUS", phase), Column("AGE", age)),
    "Deployment": (
        Column("NAME", name),
        Column("READY", ready_of_wanted),
        Column("UP-TO-DATE", up_to_date),
        Column("AVAILABLE", available),
        Column("AGE", age),
        Column("CONTAINERS", joined("name"), True),
        Column("IMAGES", joined("image"), True),
        Column("SELECTOR", match_labels, True),
    ),
    "ReplicaSet": (
        Column("NAME", name),
        Column("DESIRED", wanted),
        Column("CURRENT", current),
        Column("READY", ready_pods),
        Column("AGE", age),
        Column("CONTAINERS", joined("name"), True),
        Column("IMAGES", joined("image"), True),
        Column("SELECTOR", match_labels, True),
    ),
    "StatefulSet": (
        Column("NAME", name),
        Column("READY", workloadrows.stateful_ready),
        Column("AGE", age),
        Column("CONTAINERS", joined("name"), True),
        Column("IMAGES", joined("image"), True),
    ),
    "DaemonSet": (
        Column("NAME", name),
        Column("DESIRED", workloadrows.count("desiredNumberScheduled")),
        Column("CURRENT", workloadrows.count("currentNumberScheduled")),
        Column("READY", workloadrows.count("numberReady")),
        Column("UP-TO-DATE", workloadrows.count("updatedNumberScheduled")),
        Column("AVAILABLE", workloadrows.count("numberAvailable")),
        Column("NODE SELECTOR", workloadrows.node_selector),
        Column("AGE", age),
        Column("CONTAINERS", joined("name"), True),
        Column("IMAGES", joined("image"), True),
        Column("SELECTOR", match_labels, True),
    ),
    "Job": (
        Column("NAME", name),
        Column("STATUS", workloadrows.job_status),
        Column("COMPLETIONS", workloadrows.job_completions),
        Column("DURATION", workloadrows.job_duration),
        Column("AGE", age),
        Column("CONTAINERS", joined("name"), True),
        Column("IMAGES", joined("image"), True),
    ),
    "ControllerRevision": (
        Column("NAME", name),
        Column("CONTROLLER", workloadrows.revision_controller),
        Column("REVISION", workloadrows.revision),
        Column("AGE", age),
    ),
    "Service": (
        Column("NAME", name),
        Column("TYPE", spec_field("type", default="ClusterIP")),
        Column("CLUSTER-IP", spec_field("clusterIP")),
        Column("EXTERNAL-IP", servicerows.external),
        Column("PORT(S)", service_ports),
        Column("AGE", age),
        Column("SELECTOR", servicerows.selector, True),
    ),
    "EndpointSlice": (
        Column("NAME", name),
        Column("ADDRESSTYPE", servicerows.slice_type),
        Column("PORTS", servicerows.slice_ports),
        Column("ENDPOINTS", servicerows.slice_endpoints),
        Column("AGE", age),
    ),
    "Event": (
        Column("LAST SEEN", eventrows.last_seen),
        Column("TYPE", eventrows.field("type")),
        Column("REASON", eventrows.field("reason")),
        Column("OBJECT", eventrows.about),
        Column("SUBOBJECT", eventrows.subobject, True),
        Column("SOURCE", eventrows.source, True),
        Column("MESSAGE", eventrows.field("message")),
        Column("FIRST SEEN", eventrows.first_seen, True),
        Column("COUNT", eventrows.field("count"), True),
        Column("NAME", name, True),
    ),
    "Ingress": (
        Column("NAME", name),
        Column("CLASS", ingressrows.ingress_class),
        Column("HOSTS", ingressrows.hosts),
        Column("ADDRESS", ingressrows.address),
        Column("PORTS", ingressrows.ports),
        Column("AGE", age),
    ),
    "IngressClass": (
        Column("NAME", name),
        Column("CONTROLLER", spec_field("controller")),
        Column("PARAMETERS", ingressrows.parameters),
        Column("AGE", age),
    ),
    "Secret": (
        Column("NAME", name),
        Column("TYPE", ingressrows.secret_type),
        Column("DATA", ingressrows.secret_data),
        Column("AGE", age),
    ),
    "GatewayClass": (
        Column("NAME", name),
        Column("CONTROLLER", spec_field("controllerName")),
        Column("ACCEPTED", ingressrows.condition("Accepted")),
        Column("AGE", age),
    ),
    "Gateway": (
        Column("NAME", name),
        Column("CLASS", spec_field("gatewayClassName")),
        Column("ADDRESS", ingressrows.gateway_address),
        Column("PROGRAMMED", ingressrows.condition("Programmed")),
        Column("AGE", age),
    ),
    "HTTPRoute": (
        Column("NAME", name),
        Column("HOSTNAMES", ingressrows.hostnames),
        Column("AGE", age),
    ),
    "NetworkPolicy": (
        Column("NAME", name),
        Column("POD-SELECTOR", policyrows.selector),
        Column("AGE", age),
    ),
    "Endpoints": (
        Column("NAME", name),
        Column("ENDPOINTS", servicerows.endpoints),
        Column("AGE", age),
    ),
}


def kind_of(document: Document) -> Kind:
    """Return how the kind of *document* is named; for a kind netlab does not know, from itself."""
    kind = document["kind"]
    return kind_named(kind) or Kind(
        kind,
        kind.lower() + "s",
        document.get("apiVersion", ""),
        kind.lower() + "s",
        bool(document["metadata"].get("namespace")),
    )


def resource(kind: Kind) -> str:
    """Return the name kubectl gives a kind in output: `pod`, `deployment.apps`."""
    group = kind.group.rpartition("/")[0]
    return f"{kind.kind.lower()}.{group}" if group else kind.kind.lower()


def table(
    kind: Kind,
    documents: Sequence[Document],
    scene: Scene,
    *,
    wide: bool = False,
    namespaces: bool = False,
    prefixed: bool = False,
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of objects of one kind.

    *namespaces* adds the column NAMESPACE; *prefixed* writes `pod/web` instead of `web`, as
    kubectl does when several kinds follow each other.
    """
    columns = [c for c in COLUMNS.get(kind.kind, PLAIN) if wide or not c.wide]
    header = [column.heading for column in columns]
    rows = [[column.cell(document, scene) for column in columns] for document in documents]
    if prefixed:
        for row in rows:
            row[0] = f"{resource(kind)}/{row[0]}"
    if namespaces and kind.namespaced:
        header.insert(0, "NAMESPACE")
        for row, document in zip(rows, documents, strict=True):
            row.insert(0, namespace(document, scene))
    return header, rows
