"""The kinds that commands name, and the live lab as their objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netlab.cli.rows import Scene, kind_of
from netlab.errors import UsageError
from netlab.model.kubernetes import KINDS, Document, Kind, kind_named

if TYPE_CHECKING:
    from netlab.cluster import Cluster
    from netlab.lab.live import Live

# What kubectl means by `all`; kinds without objects leave no trace in the output.
ALL = ("Pod", "Service", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet", "Job", "CronJob")
COMMON = (
    "pods",
    "nodes",
    "leases",
    "deployments",
    "services",
    "namespaces",
    "rules",
    "labs",
    "all",
)
# flannel's, from etcd; Kubernetes' own kind of that name is `leases.coordination.k8s.io`.
LEASE = Kind("SubnetLease", "leases", "netlab/v1", "", False, ("lease",), True)


def asked_kinds(words: str, documents: Sequence[Document]) -> tuple[Kind, ...]:
    """Return the kinds of `pods`, `po,svc`, `all`, or of a kind only the documents know.

    Raises UsageError naming the nearest kind.
    """
    if words == "all":
        return tuple(kind for name in ALL if (kind := kind_named(name)))
    return tuple(asked_kind(word, documents) for word in words.split(","))


def asked(
    kind: str, names: Sequence[str], documents: Sequence[Document]
) -> dict[Kind, tuple[str, ...]]:
    """Return the kinds that `KIND NAME...` or `KIND/NAME...` mean, each with the names asked for.

    Raises UsageError for a kind there is not, or for both ways at once.
    """
    words = (kind, *names)
    if not any("/" in word for word in words):
        return {one: tuple(names) for one in asked_kinds(kind, documents)}
    found: dict[Kind, tuple[str, ...]] = {}
    for word in words:
        left, slash, name = word.partition("/")
        if not (left and slash and name):
            hint = "pod NAME NAME, or pod/NAME service/NAME"
            raise UsageError(f"{word!r} is not KIND/NAME, as the others are", hint=hint)
        one = asked_kind(left, documents)
        found[one] = (*found.get(one, ()), name)
    return found


def asked_kind(word: str, documents: Sequence[Document]) -> Kind:
    """Return the kind that *word* names. Raises UsageError naming the nearest one."""
    low, _, group = word.lower().partition(".")
    if low in ("lease", "leases") and not group:
        return LEASE
    if found := kind_named(low):
        return found
    for document in documents:
        other = kind_of(document)
        if low in (other.kind.lower(), other.plural):
            return other
    from difflib import get_close_matches

    known = [word for kind in KINDS for word in (kind.plural, kind.kind.lower(), *kind.short)]
    near = get_close_matches(low, [*known, "leases", "rules", "labs", "all"], n=1)
    raise UsageError(
        f"no kind {word!r}" + (f"; did you mean {near[0]}?" if near else ""),
        hint=f"kinds: {', '.join(COMMON)}, and any other kind of Kubernetes",
    )


def seen(live: Live) -> Scene:
    """Return the live lab at this moment: its cluster, its objects, its leases as objects."""
    cluster = live.cluster()
    return Scene(cluster, [*cluster.documents, *leases(cluster), *foreign(live)])


def leases(cluster: Cluster) -> list[Document]:
    """Return the nodes' leases as objects, so that they can be listed like any other."""
    kind = cluster.lab.network.Backend.Type
    return [
        _lease(
            (node.subnet, node.subnet_v6),
            (node.address, node.declared.address6),
            (node.vtep_mac, node.vtep_mac_v6),
            kind,
            node.name,
        )
        for node in cluster.nodes
        if node.subnet
    ]


def foreign(live: Live) -> list[Document]:
    """Return the leases that are no node's, as they were read with the cluster."""
    from netlab.flannel import members
    from netlab.flannel.config import UDP

    nodes = {node.address for node in live.lab.nodes}
    found = (one.lease for one in members.foreign(live.subnets, nodes))
    return [
        _lease(
            (one.subnet, one.subnet_v6),
            (one.public_ip, one.public_ipv6),
            (one.vtep_mac, one.vtep_mac_v6),
            one.backend_type or UDP,
            "",
        )
        for one in found
    ]


def _lease(
    subnets: tuple[str, str],
    addresses: tuple[str, str],
    macs: tuple[str, str],
    backend: str,
    node: str,
) -> Document:
    """Return a lease as an object; of each pair the second is IPv6's, "" without."""
    ipv6 = {"subnetV6": subnets[1], "publicIPv6": addresses[1], "vtepMACV6": macs[1]}
    return {
        "apiVersion": LEASE.group,
        "kind": LEASE.kind,
        "metadata": {"name": "&".join(filter(None, subnets)).replace("/", "-")},
        "spec": {
            "subnet": subnets[0],
            "publicIP": addresses[0],
            "vtepMAC": macs[0],
            **(ipv6 if subnets[1] else {}),
            "backend": backend,
            "node": node,
        },
    }


def with_time_left(live: Live, documents: Sequence[Document]) -> list[Document]:
    """Return *documents*, those of leases with the seconds that each has left in etcd.

    Raises StoreError: it is etcd that knows.
    """
    left = live.time_left()
    return [
        {**one, "spec": {**one["spec"], "ttl": left.get(one["spec"]["subnet"])}}
        if one["kind"] == LEASE.kind
        else one
        for one in documents
    ]


def in_namespace(document: Document, namespace: str) -> bool:
    return bool(document["metadata"].get("namespace", "default") == namespace)


def not_found(kind: Kind, name: str, namespace: str) -> str:
    """Return what kubectl says of an object that is not there, with where it was looked for.

    *namespace*: "" for all of them.
    """
    where = f" in namespace {namespace}" if namespace else " in any namespace"
    where = where if kind.namespaced else ""
    return f"{kind.plural} {name!r} not found{where}"
