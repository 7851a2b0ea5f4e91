"""What NetworkPolicies are about, read from documents: pods, the labels of namespaces, policies.

1. Two `Facts` that are equal give the same rules: what else changes in a document (a pod's
   conditions) makes no new ones.
2. A document that cannot be read is left out with a warning, and never undoes the others' rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

import msgspec

from netlab.model.inventory import Inventory
from netlab.model.kubernetes import ENDED, Document, Pod, view
from netlab.model.policies import NetworkPolicy
from netlab.proxy.addresses import Family, family

NAME_LABEL = "kubernetes.io/metadata.name"  # that an API server gives each namespace
PROTOCOLS = ("TCP", "UDP", "SCTP")
_NAME = re.compile(r"[a-z0-9-]+/[a-z0-9.-]+")  # what may stand in a chain's name

Labels = tuple[tuple[str, str], ...]
T = TypeVar("T")


class NamedPort(NamedTuple):
    """A port of a container that has a name."""

    name: str
    protocol: str
    number: int


class PodFact(NamedTuple):
    """A pod with addresses of its own."""

    namespace: str
    name: str
    addresses: tuple[str, ...]  # one of a family
    node: str
    labels: Labels = ()
    ports: tuple[NamedPort, ...] = ()

    @property
    def title(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def address(self) -> str:
        """Its first address; among the facts of one family, its only one."""
        return self.addresses[0]

    def numbers(self, name: str, protocol: str) -> list[int]:
        """Return the numbers of its ports that are called *name*."""
        return [one.number for one in self.ports if (one.name, one.protocol) == (name, protocol)]


class Facts(msgspec.Struct, frozen=True):
    """All there is to decide by; policies in the order of their names."""

    policies: tuple[NetworkPolicy, ...] = ()
    pods: tuple[PodFact, ...] = ()
    namespaces: Mapping[str, Labels] = {}

    def of(self, wanted: Family) -> Facts:
        """Return these facts as they are to who knows of one family only."""
        pods = (
            pod._replace(addresses=(address,))
            for pod in self.pods
            for address in pod.addresses
            if family(address) is wanted
        )
        return Facts(self.policies, tuple(pods), self.namespaces)


class Reader:
    """Reads documents into Facts, those that are known already not again."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self._known: dict[int, tuple[Document, object]] = {}
        self._lists: tuple[object, ...] = ()
        self._facts = Facts()

    def facts(self, objects: Inventory) -> Facts:
        """Return the facts in *objects*; none but the policies where there is no policy."""
        policies = objects.of("NetworkPolicy")
        kinds = (policies, objects.of("Pod"), objects.of("Namespace")) if policies else ()
        if len(kinds) == len(self._lists) and all(map(_is, kinds, self._lists)):
            return self._facts
        self._lists = kinds
        before, self._known, self.warnings = self._known, {}, []
        if policies:
            self._facts = Facts(
                tuple(self._read(policies, before, _policy)),
                tuple(self._read(objects.of("Pod"), before, pod_fact)),
                dict(self._read(objects.of("Namespace"), before, _namespace)),
            )
        else:
            self._facts = Facts()
        return self._facts

    def _read(
        self,
        documents: Iterable[Document],
        before: Mapping[int, tuple[Document, object]],
        read: Callable[[Document], T | None],
    ) -> Iterable[T]:
        for document in documents:
            # The document is kept beside what was read, so that its id is nobody else's.
            held = before.get(id(document)) or (document, self._once(document, read))
            self._known[id(document)] = held
            if held[1] is not None:
                yield held[1]  # type: ignore[misc]

    def _once(self, document: Document, read: Callable[[Document], T | None]) -> T | None:
        try:
            return read(document)
        except (msgspec.ValidationError, ValueError) as error:
            meta = document["metadata"]
            title = f"{document['kind']} {meta.get('namespace', '')}/{meta['name']}"
            self.warnings.append(f"{title}: {error}")
            return None


def _is(one: object, other: object) -> bool:
    return one is other


def pod_fact(document: Document) -> PodFact | None:
    """Return what policies know of a pod; None for one that has no address of its own.

    A pod with hostNetwork has its node's, and is no pod to any policy.
    """
    pod = view(document, Pod)
    if pod.spec.hostNetwork or not pod.status.podIP or pod.status.phase in ENDED:
        return None
    ports = (
        NamedPort(port.name, port.protocol, port.containerPort)
        for container in pod.spec.containers
        for port in container.ports
        if port.name
    )
    meta = pod.metadata
    labels = tuple(sorted(meta.labels.items()))
    held = [one.ip for one in pod.status.podIPs] or [pod.status.podIP]
    addresses = tuple(str(ip_address(one)) for one in held)
    if not _NAME.fullmatch(pod.name):
        raise ValueError("no API server accepts such a name")
    return PodFact(meta.namespace, meta.name, addresses, pod.spec.nodeName, labels, tuple(ports))


def _policy(document: Document) -> NetworkPolicy:
    policy = view(document, NetworkPolicy)
    if not _NAME.fullmatch(policy.name):
        raise ValueError("no API server accepts such a name")
    for rule in (*policy.spec.ingress, *policy.spec.egress):
        for block in (peer.ipBlock for peer in rule.peers if peer.ipBlock):
            _ = block.network, block.exceptions  # whether they can be read
        if strange := {port.protocol for port in rule.ports} - set(PROTOCOLS):
            raise ValueError(f"unknown protocol {strange.pop()}")
    return policy


def _namespace(document: Document) -> tuple[str, Labels]:
    meta = document["metadata"]
    labels = {**(meta.get("labels") or {}), NAME_LABEL: meta["name"]}
    return meta["name"], tuple(sorted(labels.items()))
