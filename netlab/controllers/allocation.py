"""Cluster addresses and node ports: given to each Service that has none, once each.

What a Service has it keeps while it lives; with the Service it is free again. What was given in a
file comes before what is chosen here, and what is held before what is new. Each range has a lower
band for what users choose, which is used here only when the rest is full. The choice follows from
the Service's name, so that a lab brought up anew gets the same addresses.
Source: kubernetes pkg/registry/core/service (v1.34): storage/alloc.go, ipallocator and
portallocator, calculateRangeOffset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from netlab.controllers import defaults
from netlab.controllers.change import Change, Verb, now
from netlab.model.kubernetes import Document, view
from netlab.model.services import (
    EXTERNAL_NAME,
    NO_CLUSTER_IP,
    REFUSED,
    Service,
    ServiceSpec,
    canonical,
    refusal,
)

NODE_PORTS = range(30000, 32768)  # kube-apiserver --service-node-port-range


def addresses(cidr: str) -> range:
    """Return the addresses of *cidr*, as numbers, that a Service may have: all but the first and
    the last one."""
    network = IPv4Network(cidr)
    return range(int(network.network_address) + 1, int(network.broadcast_address))


def address_band(cidr: str) -> int:
    """Return how many of the lower addresses of *cidr* are left to users: a 16th, 16 to 256."""
    size = IPv4Network(cidr).num_addresses
    return 0 if size <= 16 else min(256, max(16, size // 16))


def port_band(ports: range = NODE_PORTS) -> int:
    """Return how many of the lower node ports are left to users: a 32nd, 16 to 128."""
    return 0 if len(ports) <= 16 else min(128, max(16, len(ports) // 32))


def services(
    services: Sequence[Document], cidr: str, *, settled: Iterable[Document] = ()
) -> list[Change]:
    """Return updates that give each of *services* its defaults, addresses of *cidr* and ports.

    A Service that asks for what cannot be given gets nothing, and a condition that says why.
    *settled*: further Services, about which there was nothing to say; they keep what they hold, and
    those that could not have it are looked at again.
    """
    pool = _Pool(cidr)
    claims = [_Claim(document) for document in services]
    for document in settled:
        if refusal(document):
            claims.append(_Claim(document))
        else:
            pool.hold(document)
    claims.sort(key=lambda claim: claim.order)
    for claim in claims:
        claim.problems += pool.reserved(claim)
    changes = []
    for claim in claims:
        document = claim.document
        if not claim.problems:
            document = _with_spec(document, pool.completed(claim))
        told = _with_problems(document, claim.problems)
        if told != claim.document:
            changes.append(Change(Verb.UPDATE, told))
    return changes


class _Claim:
    """What one Service asks for."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.title = _title(document)
        self.problems: list[str] = []
        self.filled: Document = document.get("spec") or {}
        self.spec = ServiceSpec()
        try:
            self.filled = defaults.filled(self.filled)
            self.spec = view({**document, "spec": self.filled}, Service).spec
        except (msgspec.ValidationError, AttributeError, TypeError) as error:
            self.problems.append(f"cannot be read: {error}")

    @property
    def order(self) -> tuple[bool, str, str]:
        """Those that hold what they ask for first, then the older ones."""
        spec = self.spec
        open_ends = (
            (spec.addressed and spec.clusterIPs != [spec.clusterIP])
            or (spec.node_ports and any(not port.nodePort for port in spec.ports or ()))
            or (spec.health_checked and not spec.healthCheckNodePort)
            or self.filled != self.document.get("spec")
        )
        meta = self.document["metadata"]
        waiting = bool(self.problems or open_ends or refusal(self.document))
        return waiting, str(meta.get("creationTimestamp") or ""), self.title


def _title(service: Document) -> str:
    meta = service["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"


class _Pool:
    """The addresses and node ports there are, and whose each of them is."""

    def __init__(self, cidr: str) -> None:
        self.cidr = cidr
        self.addresses = addresses(cidr)
        self._address_band = address_band(cidr)
        self._address_of: dict[str, Document] = {}
        self._port_of: dict[int, Document] = {}

    def hold(self, service: Document) -> None:
        """Reserve what *service* has, which was settled."""
        spec = service["spec"]
        if spec["type"] != EXTERNAL_NAME and spec["clusterIP"] != NO_CLUSTER_IP:
            self._address_of[canonical(spec["clusterIP"])] = service
        for port in spec.get("ports") or ():
            if port.get("nodePort"):
                self._port_of[port["nodePort"]] = service
        if spec["type"] == "LoadBalancer" and spec["externalTrafficPolicy"] == "Local":
            self._port_of[spec["healthCheckNodePort"]] = service

    def reserved(self, claim: _Claim) -> list[str]:
        """Reserve what *claim* names; return what it cannot have, each with the reason."""
        spec, problems = claim.spec, _family_problems(claim.spec)
        given = spec.clusterIP or next(iter(spec.clusterIPs or ()), "")
        if spec.addressed and given and (wrong := self._address_problem(given, claim.document)):
            problems.append(f"clusterIP {wrong}")
        for port in spec.ports or ():
            if port.nodePort and (wrong := self._port_problem(port.nodePort, claim.document)):
                problems.append(f"nodePort {wrong}")
        if spec.healthCheckNodePort and spec.health_checked:
            own = any(port.nodePort == spec.healthCheckNodePort for port in spec.ports or ())
            wrong = self._port_problem(spec.healthCheckNodePort, claim.document)
            if wrong or own:
                reason = wrong or f"{spec.healthCheckNodePort} is also one of its nodePorts"
                problems.append(f"healthCheckNodePort {reason}")
        return problems

    def _address_problem(self, text: str, service: Document) -> str:
        address = canonical(text)
        if not address or ":" in address:
            return f"{text} is not an IPv4 address"
        if int(IPv4Address(address)) not in self.addresses:
            return f"{text} is not a host's address of {self.cidr}"
        holder = self._address_of.setdefault(address, service)
        return "" if holder is service else f"{text} belongs to Service {_title(holder)}"

    def _port_problem(self, port: int, service: Document) -> str:
        if port not in NODE_PORTS:
            return f"{port} is not in {NODE_PORTS.start}-{NODE_PORTS[-1]}"
        holder = self._port_of.setdefault(port, service)
        return "" if holder is service else f"{port} belongs to Service {_title(holder)}"

    def completed(self, claim: _Claim) -> Document:
        """Return the spec of *claim* with all that it needs; notes what has run out."""
        spec, found = claim.spec, {**claim.filled}
        if spec.type == EXTERNAL_NAME:
            return found
        found |= _families(spec)
        if spec.headless:
            found["clusterIPs"] = [spec.clusterIP]
        else:
            given = spec.clusterIP or next(iter(spec.clusterIPs or ()), "")
            address = given or self._new_address(claim)
            found |= {"clusterIP": address, "clusterIPs": [address]}
        if spec.node_ports and spec.ports:
            found["ports"] = self._with_node_ports(claim)
        if spec.health_checked and not spec.healthCheckNodePort:
            found["healthCheckNodePort"] = self._new_port(claim, "health check")
        return claim.document.get("spec") or {} if claim.problems else found

    def _with_node_ports(self, claim: _Claim) -> list[Document]:
        """Return the ports of *claim*; one number over two protocols shares its node port."""
        known: dict[int, int] = {}
        ports = claim.spec.ports or []
        for port in ports:
            if port.nodePort:
                known.setdefault(port.port, port.nodePort)
        used = {(port.nodePort, port.protocol) for port in ports if port.nodePort}
        found: list[Document] = []
        for document, port in zip(claim.filled["ports"], ports, strict=True):
            number = port.nodePort or known.get(port.port, 0)
            if not port.nodePort and (not number or (number, port.protocol) in used):
                number = self._new_port(claim, f"{port.port}/{port.protocol}")
            known.setdefault(port.port, number)
            used.add((number, port.protocol))
            found.append({**document, "nodePort": number})
        return found

    def _new_address(self, claim: _Claim) -> str:
        for number in _candidates(self.addresses, self._address_band, claim.title):
            address = str(IPv4Address(number))
            if address not in self._address_of:
                self._address_of[address] = claim.document
                return address
        claim.problems.append(f"clusterIP: no address of {self.cidr} is free")
        return ""

    def _new_port(self, claim: _Claim, purpose: str) -> int:
        for number in _candidates(NODE_PORTS, port_band(), f"{claim.title}:{purpose}"):
            if number not in self._port_of:
                self._port_of[number] = claim.document
                return number
        text = f"nodePort: no port of {NODE_PORTS.start}-{NODE_PORTS[-1]} is free"
        claim.problems.append(text)
        return 0


def _candidates(numbers: range, band: int, seed: str) -> Iterator[int]:
    """Return *numbers* in the order of choice: those above *band*, from one that follows from
    *seed*, then those of the band."""
    upper = numbers[band:]
    if upper:
        start = int.from_bytes(sha256(seed.encode()).digest()[:8]) % len(upper)
        yield from upper[start:]
        yield from upper[:start]
    yield from numbers[:band]


def _families(spec: ServiceSpec) -> dict[str, Any]:
    """Return ipFamilies and ipFamilyPolicy in a cluster that has IPv4 only."""
    manual = spec.headless and not spec.selector
    policy = spec.ipFamilyPolicy or ("RequireDualStack" if manual else "SingleStack")
    families = list(spec.ipFamilies or ()) or ["IPv4"]
    if manual and policy != "SingleStack" and len(families) == 1:
        families += ["IPv6" if families == ["IPv4"] else "IPv4"]
    return {"ipFamilies": families, "ipFamilyPolicy": policy}


def _family_problems(spec: ServiceSpec) -> list[str]:
    """Return what a cluster with IPv4 only cannot give; manual headless Services may ask for it."""
    if spec.type == EXTERNAL_NAME or (spec.headless and not spec.selector):
        return []
    problems = []
    if spec.ipFamilyPolicy == "RequireDualStack":
        problems.append("ipFamilyPolicy RequireDualStack: the lab has IPv4 only")
    if "IPv6" in (spec.ipFamilies or ()):
        problems.append("ipFamilies IPv6: the lab has IPv4 only")
    return problems


def _with_spec(document: Document, spec: Document) -> Document:
    return document if document.get("spec") == spec else {**document, "spec": spec}


def _with_problems(document: Document, problems: Iterable[str]) -> Document:
    """Return *document* with the condition that tells *problems*, without it if there are none."""
    message = "; ".join(problems)
    if message == refusal(document):
        return document
    status = dict(document.get("status") or {})
    others = [one for one in status.pop("conditions", None) or () if one.get("type") != REFUSED]
    if message:
        others.append(
            {
                "type": REFUSED,
                "status": "False",
                "reason": "Refused",
                "message": message,
                "lastTransitionTime": now(),
            }
        )
    if others:
        status["conditions"] = others
    whole = {**document, "status": status}
    if not status:
        del whole["status"]
    return whole
