"""What the loops say of themselves: to each other, and from machine to machine through etcd.

In a lab of several machines each node's agent keeps what it says under `REPORTS`, a key of its own
that wakes the others when it changes and only then: nothing that moves by itself is in it. Whether
the agent lives is not said there, but by its sign of life (`heartbeat`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document
from netlab.proxy.options import Options
from netlab.store.etcd import Etcd, KeyValue

OWN = "/netlab/"  # the keys that are netlab's alone
ALIVE = f"{OWN}alive/"
REPORTS = f"{OWN}reports/"
LAB = f"{OWN}lab"  # the Lab document, for machines that have no files


class NodeReport(msgspec.Struct, frozen=True):
    """What a node's loop last made true."""

    settled: int = -1  # the version of the node's snapshot that the kernel agrees with
    subnet: str = ""
    peers: int = 0  # leases that are followed, those of no node of the lab among them
    online: bool = False  # whether etcd answered in the last pass
    renews: float = 0.0  # seconds since the epoch
    written: int = 0  # the revision at which it last wrote how its pods are
    error: str = ""
    nodes: tuple[str, ...] = ()  # whose leases are followed, as far as they are nodes
    awaits: str = ""  # what a foreign flanneld has yet to do there, in words
    # For agents on other machines, who have other versions: of which pods that snapshot was, see
    # `pods_fingerprint`, and of which Lab, as etcd's revision.
    pods: tuple[int, int] = (0, 0)
    lab: int = 0


class ServicesReport(msgspec.Struct, frozen=True):
    """Which Services, slices and policies a node's rules follow, see `fingerprint`, and how."""

    count: int = -1
    versions: int = 0
    options: Options | None = Options()  # None: they are a foreign kube-proxy's
    error: str = ""
    policies: tuple[int, int] = (0, 0)  # the same of NetworkPolicies and what these select


class BalancerReport(msgspec.Struct, frozen=True):
    """What the balancer's rules follow, see `fingerprint`, and which nodes are well."""

    count: int = -1
    versions: int = 0
    known: bool = False  # whether every node was heard, or given up, once
    nodes: dict[str, bool] = {}  # by name: whether every listener uses it that may
    listeners: dict[str, list[str]] = {}  # 192.168.50.200:80/tcp: the addresses of its nodes
    error: str = ""


class Told(msgspec.Struct, frozen=True):
    """What the agent on a node's machine says of it."""

    version: str = ""  # netlab's
    uplink: str = ""  # the machine's card on the underlay
    node: NodeReport = NodeReport()
    services: ServicesReport = ServicesReport()
    balancer: BalancerReport = BalancerReport()  # by the machine that has it


class Heard(msgspec.Struct, frozen=True):
    """What is netlab's own in etcd: who is alive, what each says of itself, the Lab document."""

    alive: frozenset[str] = frozenset()
    reports: Mapping[str, Told] = {}
    lab: KeyValue | None = None


def heard(etcd: Etcd) -> Heard:
    """Return what all agents have said. What cannot be read was not said. Raises StoreError."""
    return heard_of(etcd.range(OWN).items)


def heard_of(items: Iterable[KeyValue]) -> Heard:
    """Return what the keys *items* below OWN say."""
    alive: set[str] = set()
    reports: dict[str, Told] = {}
    lab = None
    for item in items:
        if item.key.startswith(ALIVE):
            alive.add(item.key.removeprefix(ALIVE))
        elif item.key.startswith(REPORTS):
            try:
                told = msgspec.json.decode(item.value, type=Told)
            except msgspec.DecodeError:
                continue  # of another version of netlab
            reports[item.key.removeprefix(REPORTS)] = told
        elif item.key == LAB:
            lab = item
    return Heard(frozenset(alive), reports, lab)


def fingerprint(objects: Inventory) -> tuple[int, int]:
    """Return how many Services and slices there are, and the sum of their resourceVersions.

    Any change of stored objects changes the pair.
    """
    return _fingerprint(objects, ("Service", "EndpointSlice"))


def policies_fingerprint(objects: Inventory) -> tuple[int, int]:
    """Return the same of NetworkPolicies and what they may select; (0, 0) while there is none."""
    if not objects.of("NetworkPolicy"):
        return 0, 0
    return _fingerprint(objects, ("NetworkPolicy", "Pod", "Namespace"))


def _fingerprint(objects: Inventory, kinds: Sequence[str]) -> tuple[int, int]:
    return sum(len(objects.of(kind)) for kind in kinds), sum(map(objects.versions, kinds))


def pods_fingerprint(documents: Sequence[Document]) -> tuple[int, int]:
    """Return how many pods there are, and the sum of their resourceVersions."""
    versions = (int(one["metadata"].get("resourceVersion") or 0) for one in documents)
    return len(documents), sum(versions)
