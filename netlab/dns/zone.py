"""What is known of a name of the cluster, from its Services, slices and Namespaces.

Below `svc` and `pod` of the cluster's domain, and for the addresses of Services and endpoints:
nothing is written down beforehand, only indexed, so that a change of one Service among thousands
costs an index, and a question what it asks for.

As CoreDNS's plugin kubernetes answers, with `pods insecure` (kubeadm's setting): endpoints have
names below every Service, `SRV` is there for a Service's own name too, an address record below a
port's name. Other than there, what has names below it exists without records (RFC 8020):
`_tcp.web.default.svc` where `_http._tcp.web…` is.
Source: coredns plugin/kubernetes/kubernetes.go, reverse.go, ns.go, object/endpoint.go;
plugin/backend_lookup.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from ipaddress import ip_address
from typing import NamedTuple

import msgspec

from netlab.dns import wire
from netlab.dns.wire import Malformed, Name, Record, name_of
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, view
from netlab.model.services import (
    EXTERNAL_NAME,
    SERVICE_NAME_LABEL,
    EndpointSlice,
    Service,
    canonical,
)

SCHEMA = b"1.1.0"  # of the specification
SCHEMA_TTL = 28800  # seconds; the specification's example
TTL = 5  # seconds; CoreDNS's default, kubeadm and kube-dns have 30
PODS = ("insecure", "verified", "disabled")  # what `a-b-c-d.ns.pod` answers for
DOMAIN = "cluster.local"
WEIGHT = 100  # of all SRV records of an answer together
REVERSE: tuple[Name, ...] = ((b"in-addr", b"arpa"), (b"ip6", b"arpa"))


class Settings(msgspec.Struct, frozen=True):
    """How a cluster's names are answered. *own*: the address of who answers."""

    domain: str = DOMAIN
    ttl: int = TTL
    pods: str = "insecure"
    own: str = ""


class Port(NamedTuple):
    """A port of an endpoint or Service; number 0 for endpoints that have none."""

    name: str
    protocol: str  # tcp
    number: int


class Site(NamedTuple):
    """Somewhere a name leads: an address, its port, and the name that means this one alone."""

    address: str
    port: Port
    name: Name


class Found(NamedTuple):
    """What a name has. Nothing in it: the name exists, without records."""

    sites: Sequence[Site] = ()
    alias: Name = ()  # of an ExternalName
    text: bytes = b""


class Zone:
    """The names of one cluster at one moment."""

    def __init__(self, objects: Inventory, settings: Settings, *, revision: int = 0) -> None:
        self.settings = settings
        self.domain = name_of(settings.domain)
        self.serial = revision & 0xFFFFFFFF
        self._objects = objects
        self._namespaces = {one["metadata"]["name"] for one in objects.of("Namespace")}
        self._slices: dict[tuple[str, str], list[Document]] = {}
        for one in objects.of("EndpointSlice"):
            meta = one["metadata"]
            owner = (meta.get("labels") or {}).get(SERVICE_NAME_LABEL)
            if owner:
                self._slices.setdefault((meta["namespace"], owner), []).append(one)

    # -- forward

    def within(self, name: Name) -> bool:
        """Return whether *name* is the cluster's domain or below it."""
        return name[len(name) - len(self.domain) :] == self.domain

    def found(self, name: Name) -> Found | None:
        """Return what *name*, within the domain, has; None: there is no such name."""
        base = name[: len(name) - len(self.domain)]
        if base in ((), (b"svc",), (b"pod",), (b"dns",)):
            return Found()
        if base == (b"dns-version",):
            return Found(text=SCHEMA)
        if base == (b"ns", b"dns"):
            return Found([site._replace(name=name) for site in self.nameservers()])
        labels = [label.decode("latin-1") for label in base]
        if labels[-1] not in ("svc", "pod") or labels[-2] not in self._namespaces:
            return None
        if len(labels) == 2:
            return Found()
        if labels[-1] == "pod":
            return self._pod(labels[0], labels[1], name) if len(labels) == 3 else None
        return self._service(labels)

    def _pod(self, dashed: str, namespace: str, name: Name) -> Found | None:
        short = dashed.count("-") == 3 and "--" not in dashed
        address = canonical(dashed.replace("-", "." if short else ":"))
        if not address or self.settings.pods == "disabled":
            return None
        if self.settings.pods == "verified" and (namespace, address) not in self._pods:
            return None
        return Found([Site(address, Port("", "", 0), name)])

    @cached_property
    def _pods(self) -> set[tuple[str, str]]:
        """The namespaces and addresses of the pods there are, for `verified`."""
        return {
            (one["metadata"]["namespace"], address)
            for one in self._objects.of("Pod")
            if (address := canonical(str((one.get("status") or {}).get("podIP") or "")))
        }

    def _named(self, namespace: str, name: str) -> Service | None:
        document = self._objects.named("Service", namespace, name)
        try:
            return None if document is None else view(document, Service)
        except msgspec.ValidationError:  # its condition tells why: see controllers/allocation
            return None

    def _service(self, labels: list[str]) -> Found | None:
        """Return what `[[PORT.]PROTOCOL.|ENDPOINT.]SERVICE.NAMESPACE.svc` has."""
        *rest, name, namespace, _ = labels
        service = self._named(namespace, name)
        if service is None or len(rest) > 2:
            return None
        if service.spec.type == EXTERNAL_NAME:
            alias = _alias(service)
            return Found(alias=alias) if alias and not rest else None
        own = self._name(name, namespace)
        if not rest:
            sites = self._endpoints(service) if service.spec.headless else _virtual(service, own)
        elif len(rest) == 1:
            mine = self._name(rest[0], name, namespace)
            sites = [site for site in self._endpoints(service) if site.name == mine]
        else:
            every = self._endpoints(service) if service.spec.headless else _virtual(service, own)
            asked = tuple(label.removeprefix("_") for label in rest)
            sites = [one for one in every if one.port.name and one.port[:2] == asked]
        if sites:
            return Found(sites)
        return Found() if len(rest) == 1 and self._has_protocol(service, rest[0]) else None

    def _has_protocol(self, service: Service, label: str) -> bool:
        """Return whether there are ports named below *label*, `_tcp`."""
        own = self._name(service.metadata.name, service.metadata.namespace)
        sites = self._endpoints(service) if service.spec.headless else _virtual(service, own)
        return any(one.port.name and f"_{one.port.protocol}" == label for one in sites)

    def _name(self, *labels: str) -> Name:
        return (*(label.encode("latin-1") for label in labels), b"svc", *self.domain)

    def _endpoints(self, service: Service) -> list[Site]:
        """Return the ready endpoints of *service*, once for each of their ports."""
        meta = service.metadata
        return [
            Site(address, port, self._name(hostname, meta.name, meta.namespace))
            for document in self._slices.get((meta.namespace, meta.name), ())
            for address, hostname, ports in _ready(document)
            for port in ports
        ]

    # -- reverse

    def names(self, reverse: Name) -> list[Name]:
        """Return the names of the address that *reverse*, below arpa, stands for.

        A Service's own name, or those of the endpoints; empty when it is nobody's.
        """
        address = _address_of(reverse)
        if not address:
            return []
        service = self._virtual_names.get(address)
        return [service] if service else self._endpoint_names.get(address, [])

    @cached_property
    def _virtual_names(self) -> dict[str, Name]:
        found: dict[str, Name] = {}
        for document in self._objects.of("Service"):
            meta, spec = document["metadata"], document.get("spec") or {}
            given = spec.get("clusterIPs") or [spec.get("clusterIP")]
            if isinstance(given, list) and spec.get("type") != EXTERNAL_NAME:
                for address in filter(None, map(canonical, map(str, given))):
                    found.setdefault(address, self._name(meta["name"], meta["namespace"]))
        return found

    @cached_property
    def _endpoint_names(self) -> dict[str, list[Name]]:
        found: dict[str, list[Name]] = {}
        for (namespace, service), slices in self._slices.items():
            for document in slices:
                for address, hostname, _ in _ready(document):
                    name = self._name(hostname, service, namespace)
                    listed = found.setdefault(address, [])
                    if name not in listed:
                        listed.append(name)
        return found

    # -- who answers

    def nameservers(self) -> list[Site]:
        """Return where the servers of this zone are: the Services that lead to who answers.

        Without one, who answers itself, as `ns.dns` of the domain.
        """
        own = canonical(self.settings.own)
        found: list[Site] = []
        for (namespace, name), slices in self._slices.items():
            if any(own == address for one in slices for address, _, _ in _ready(one)):
                service = self._named(namespace, name)
                if service is not None and service.spec.type != EXTERNAL_NAME:
                    headless = service.spec.headless
                    here = self._name(name, namespace)
                    found += self._endpoints(service) if headless else _virtual(service, here)
        if not found and own:
            found = [Site(own, Port("", "", 0), (b"ns", b"dns", *self.domain))]
        return list({(site.address, site.name): site for site in found}.values())

    def authority(self) -> Record:
        """Return the SOA record."""
        ttl = self.settings.ttl
        times = (self.serial, 7200, 1800, 86400, ttl)  # refresh, retry, expire, minimum: CoreDNS's
        numbers = b"".join(number.to_bytes(4, "big") for number in times)
        servers, mailbox = (b"ns", b"dns", *self.domain), (b"hostmaster", *self.domain)
        return Record(self.domain, wire.SOA, min(ttl, 300), (servers, mailbox, numbers))


def _virtual(service: Service, name: Name) -> list[Site]:
    """Return the cluster IPs of *service*, once for each of its ports."""
    ports = [Port(p.name, p.protocol.lower(), p.port) for p in service.spec.ports or ()]
    addresses = list(filter(None, map(canonical, service.cluster_ips)))
    return [Site(one, port, name) for port in ports or [Port("", "", 0)] for one in addresses]


def _alias(service: Service) -> Name:
    """Return the name an ExternalName stands for; () for an address, which DNS cannot say."""
    text = service.spec.externalName
    try:
        return () if canonical(text) else name_of(text)
    except Malformed:
        return ()


def _ready(document: Document) -> Iterator[tuple[str, str, list[Port]]]:
    """Return address, host name and ports of each ready endpoint in a slice."""
    try:
        held = view(document, EndpointSlice)
    except msgspec.ValidationError:
        return
    ports = [
        Port(p.name or "", (p.protocol or "TCP").lower(), p.port or 0) for p in held.ports or ()
    ]
    for endpoint in held.endpoints or ():
        # Unknown is ready: discovery/v1, EndpointConditions.
        if endpoint.conditions is not None and endpoint.conditions.ready is False:
            continue
        for address in filter(None, map(canonical, endpoint.addresses or ())):
            yield address, endpoint.hostname or dashed(address), ports or [Port("", "", 0)]


def dashed(address: str) -> str:
    """Return the name of an endpoint that has none: `10-244-1-5`, `2001-db8--1`."""
    text = address.replace(".", "-").replace(":", "-")
    return text + "0" if text.endswith("-") else text


def _address_of(reverse: Name) -> str:
    """Return the address a name below arpa stands for, in its usual form; "" for a part of one."""
    digits = [label.decode("latin-1") for label in reversed(reverse[:-2])]
    if reverse[-2:] == REVERSE[0] and len(digits) == 4:
        return canonical(".".join(digits))
    if reverse[-2:] == REVERSE[1] and len(digits) == 32 and all(len(one) == 1 for one in digits):
        groups = ("".join(digits[at : at + 4]) for at in range(0, 32, 4))
        return canonical(":".join(groups))
    return ""


def addresses(name: Name, kind: int, sites: Iterable[Site], ttl: int) -> list[Record]:
    """Return the address records of *kind* that *name* has for *sites*, each address once."""
    found = dict.fromkeys(ip_address(site.address).packed for site in sites)
    return [Record(name, kind, ttl, one) for one in found if wire.ADDRESSES[len(one)] == kind]
