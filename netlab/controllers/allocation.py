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
from ipaddress import ip_address, ip_network

import msgspec

from netlab.controllers import defaults
from netlab.controllers.change import Change, Verb, now
from netlab.model.kubernetes import Document, view
from netlab.model.services import (
    EXTERNAL_NAME,
    FAMILIES,
    NO_CLUSTER_IP,
    REFUSED,
    Service,
    ServiceSpec,
    address_type,
    canonical,
    refusal,
)

NODE_PORTS = range(30000, 32768)  # kube-apiserver --service-node-port-range


def addresses(cidr: str) -> range:
    """Return the addresses of *cidr*, as numbers, that a Service may have: all but the first and
    IPv4's last one."""
    network = ip_network(cidr)
    last = int(network.broadcast_address)
    return range(int(network.network_address) + 1, last + (network.version == 6))


def address_band(cidr: str) -> int:
    """Return how many of the lower addresses of *cidr* are left to users: a 16th, 16 to 256."""
    size = ip_network(cidr).num_addresses
    return 0 if size <= 16 else min(256, max(16, size // 16))


def port_band(ports: range = NODE_PORTS) -> int:
    """Return how many of the lower node ports are left to users: a 32nd, 16 to 128."""
    return 0 if len(ports) <= 16 else min(128, max(16, len(ports) // 32))


def services(
    services: Sequence[Document], *cidrs: str, settled: Iterable[Document] = ()
) -> list[Change]:
    """Return updates that give each of *services* its defaults, addresses and ports.

    *cidrs*: where addresses come from, one of each family the lab has; the first is that of who
    does not say. A Service that asks for what cannot be given gets nothing, and a condition that
    says why.
    *settled*: further Services, about which there was nothing to say; they keep what they hold, and
    those that could not have it are looked at again.
    """
    pool = _Pool(cidrs)
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
        families = max(1, len(spec.ipFamilies or ()))
        whole = (spec.clusterIPs or [""])[0] == spec.clusterIP != ""
        open_ends = (
            (spec.addressed and not (whole and len(spec.clusterIPs or ()) == families))
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

    def __init__(self, cidrs: Sequence[str]) -> None:
        self.cidrs = {address_type(cidr): cidr for cidr in cidrs}
        self._address_of: dict[str, Document] = {}
        self._port_of: dict[int, Document] = {}

    def hold(self, service: Document) -> None:
        """Reserve what *service* has, which was settled."""
        spec = service["spec"]
        if spec["type"] != EXTERNAL_NAME and spec["clusterIP"] != NO_CLUSTER_IP:
            for address in spec.get("clusterIPs") or [spec["clusterIP"]]:
                self._address_of[canonical(address)] = service
        for port in spec.get("ports") or ():
            if port.get("nodePort"):
                self._port_of[port["nodePort"]] = service
        if spec["type"] == "LoadBalancer" and spec["externalTrafficPolicy"] == "Local":
            self._port_of[spec["healthCheckNodePort"]] = service

    def reserved(self, claim: _Claim) -> list[str]:
        """Reserve what *claim* names; return what it cannot have, each with the reason."""
        spec, problems = claim.spec, self._family_problems(claim.spec)
        if spec.addressed:
            families = self._families(spec)
            for given, family in zip(_named(spec), families, strict=False):
                if wrong := self._address_problem(given, family, claim.document):
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

    def _address_problem(self, text: str, family: str, service: Document) -> str:
        address = canonical(text)
        if not address or address_type(address) != family or family not in self.cidrs:
            known = family if family in self.cidrs else next(iter(self.cidrs))
            return f"{text} is not an {known} address"
        if int(ip_address(address)) not in addresses(self.cidrs[family]):
            return f"{text} is not a host's address of {self.cidrs[family]}"
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
        families = self._families(spec)
        found |= {"ipFamilies": families, "ipFamilyPolicy": _policy(spec)}
        if spec.headless:
            found["clusterIPs"] = [spec.clusterIP]
        else:
            every = _named(spec)[: len(families)]
            every += [self._new_address(claim, one) for one in families[len(every) :]]
            found |= {"clusterIP": every[0], "clusterIPs": every}
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

    def _families(self, spec: ServiceSpec) -> list[str]:
        """Return the families that *spec* is of, or is to be.

        As it says, or as its addresses are, or the lab's first; one more where it may have both. A
        manual headless Service may have any: its endpoints are its user's.
        """
        manual = spec.headless and not spec.selector
        families = list(spec.ipFamilies or ())
        families += [address_type(one) for one in _named(spec)[len(families) :]]
        families = list(dict.fromkeys(families)) or [next(iter(self.cidrs))]
        policy = _policy(spec)
        if policy == "SingleStack":
            return families if manual else families[:1]
        if policy == "PreferDualStack" and not manual:
            families = [one for one in families if one in self.cidrs] or families
        if len(families) == 1 and (manual or len(self.cidrs) > 1):
            families += [one for one in FAMILIES if one not in families]
        return families

    def _family_problems(self, spec: ServiceSpec) -> list[str]:
        """Return which families *spec* asks for that the lab has not."""
        if spec.type == EXTERNAL_NAME or (spec.headless and not spec.selector):
            return []
        only = f"the lab has {next(iter(self.cidrs))} only"
        problems = []
        if spec.ipFamilyPolicy == "RequireDualStack" and len(self.cidrs) < 2:
            problems.append(f"ipFamilyPolicy RequireDualStack: {only}")
        for family in self._families(spec):
            if family not in self.cidrs and family in (spec.ipFamilies or ()):
                problems.append(f"ipFamilies {family}: {only}")
        return problems

    def _new_address(self, claim: _Claim, family: str) -> str:
        cidr = self.cidrs[family]
        first = ip_address(cidr.partition("/")[0])
        for number in _candidates(addresses(cidr), address_band(cidr), claim.title):
            address = str(type(first)(number))
            if address not in self._address_of:
                self._address_of[address] = claim.document
                return address
        claim.problems.append(f"clusterIP: no address of {cidr} is free")
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


def _named(spec: ServiceSpec) -> list[str]:
    """Return the addresses that *spec* names, the first of its first family."""
    if not spec.addressed:
        return []
    given = [one for one in spec.clusterIPs or () if one]
    return given if given[:1] == [spec.clusterIP] or not spec.clusterIP else [spec.clusterIP]


def _policy(spec: ServiceSpec) -> str:
    manual = spec.headless and not spec.selector
    return spec.ipFamilyPolicy or ("RequireDualStack" if manual else "SingleStack")


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
