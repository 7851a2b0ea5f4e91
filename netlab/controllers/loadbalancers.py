"""Addresses of load balancers: one of the Lab's pool to each Service of type LoadBalancer.

What a Service has it keeps while it is of that type and asks for no other; then the address is
free again. Who holds one comes before who names one in spec.loadBalancerIP, and that before who
takes the first that is free, the older first. Services of another loadBalancerClass are somebody
else's, their status too.

Where no balancer is declared they wait, as in a cluster without a cloud; then a status that the
user declared is theirs.
Source: cloud-provider v1.34 controllers/service/controller.go, syncLoadBalancerIfNeeded and the
events it tells; KEP-1860 (ipMode).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from netlab.balancing.listeners import (
    CLASS,
    MODE_ANNOTATION,
    PROXY,
    is_ours,
    mapping,
    mode,
)
from netlab.controllers.change import Change, Verb
from netlab.controllers.declaration import last_declared
from netlab.model.kubernetes import Document
from netlab.model.lab import IP_MODES, Balancer
from netlab.model.services import canonical, refusal

FAILED, ENSURED = "SyncLoadBalancerFailed", "EnsuredLoadBalancer"
NO_BALANCER = "no balancer is declared (`balancer:` with an address and a pool in the Lab document)"


class Notice(NamedTuple):
    """What is to be told of a Service as an event."""

    service: Document
    reason: str  # FAILED, a warning, or ENSURED
    message: str


class Given(NamedTuple):
    """What the Services' load balancers become."""

    changes: list[Change]
    notices: list[Notice]


def given(services: Iterable[Document], balancer: Balancer | None) -> Given:
    """Return the updates that give *services*, all there are, what they have from *balancer*."""
    found = Given([], [])
    waiting: list[Document] = []
    for document in services:
        if is_ours(document):
            waiting.append(document)
        elif balancer is not None and _released(document, balancer):
            found.changes.append(Change(Verb.UPDATE, _with_ingress(document, [])))
    if not waiting:
        return found
    if balancer is None:
        for document in waiting:
            _tell(found, document, _declared(document), NO_BALANCER)
        return found
    pool = _Pool(balancer)
    for document in sorted(waiting, key=pool.order):
        problem = _unusable(document, balancer)
        address = "" if problem else pool.taken(document)
        ingress = [{"ip": address, "ipMode": mode(balancer.ipMode, document)}] if address else []
        _tell(found, document, ingress, problem or pool.problem)
    return found


def _tell(found: Given, document: Document, ingress: list[Any], problem: str) -> None:
    """Note that *document* is to have *ingress*, and what is to be told of it."""
    news = ingress != _ingress(document)
    if news:
        document = _with_ingress(document, ingress)
        found.changes.append(Change(Verb.UPDATE, document))
    if problem and not ingress:
        message = f"Error syncing load balancer: {problem}"
        found.notices.append(Notice(document, FAILED, message))
    elif news:
        found.notices.append(Notice(document, ENSURED, "Ensured load balancer"))


class _Pool:
    """The balancer's addresses, and whose each of them is."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.problem = ""  # of the last one that got none
        self._holder: dict[str, str] = {}

    def order(self, service: Document) -> tuple[int, str, str]:
        """Those that hold what they ask for first, then those that ask; the older first."""
        asked = _asked(service)
        held = _held(service)
        keeps = self.balancer.holds(held) and asked in ("", held) if held else False
        meta = service["metadata"]
        rank = 0 if keeps else 1 if asked else 2
        return rank, str(meta.get("creationTimestamp") or ""), _title(service)

    def taken(self, service: Document) -> str:
        """Take an address for *service*; "" if there is none for it: then `problem` says why."""
        asked = _asked(service)
        held = _held(service)
        self.problem = ""
        if asked:
            self.problem = self._refusal(asked)
            address = "" if self.problem else asked
        elif held and self.balancer.holds(held) and held not in self._holder:
            address = held
        else:
            address = next(self._free(), "")
            if not address:
                self.problem = f"no address of {', '.join(self.balancer.pool)} is free"
        if address:
            self._holder[address] = _title(service)
        return address

    def _refusal(self, asked: str) -> str:
        if not canonical(asked) or ":" in asked or not self.balancer.holds(asked):
            return f"loadBalancerIP {asked} is not in {', '.join(self.balancer.pool)}"
        holder = self._holder.get(asked)
        return f"loadBalancerIP {asked} belongs to Service {holder}" if holder else ""

    def _free(self) -> Iterator[str]:
        numbers = (number for one in self.balancer.ranges for number in one)
        texts = (str(IPv4Address(number)) for number in numbers)
        return (text for text in texts if text not in self._holder)


def _unusable(service: Document, balancer: Balancer) -> str:
    """Return why *service* cannot be served whatever its address, "" if it can."""
    if why := refusal(service):
        return why
    wanted = mode(balancer.ipMode, service)
    if wanted not in IP_MODES:
        return f"annotation {MODE_ANNOTATION}: {wanted} is neither {' nor '.join(IP_MODES)}"
    spec = mapping(service, "spec")
    ports: Any = spec.get("ports") or ()
    unmapped = any(not port.get("nodePort") for port in ports if isinstance(port, dict))
    if wanted == PROXY and unmapped and spec.get("allocateLoadBalancerNodePorts") is False:
        return "allocateLoadBalancerNodePorts: false leaves ipMode Proxy nothing to send to (VIP)"
    return ""


def _asked(service: Document) -> str:
    """Return the address that *service* asks for, in canonical form where it is one."""
    text = str(mapping(service, "spec").get("loadBalancerIP") or "")
    return canonical(text) or text


def _ingress(service: Document) -> Sequence[Any]:
    listed: Any = mapping(mapping(service, "status"), "loadBalancer").get("ingress")
    return listed if isinstance(listed, list) else []


def _held(service: Document) -> str:
    """Return the IPv4 address that *service* has, "" if it has none."""
    listed = _ingress(service)
    first = listed[0] if listed and isinstance(listed[0], dict) else {}
    address = canonical(str(first.get("ip") or ""))
    return "" if ":" in address else address


def _released(service: Document, balancer: Balancer) -> bool:
    """Return whether *service*, which the balancer does not serve, still has an address of it."""
    spec = mapping(service, "spec")
    foreign = spec.get("type") == "LoadBalancer" and spec.get("loadBalancerClass") != CLASS
    held = _held(service)
    return not foreign and bool(held) and balancer.holds(held)


def _declared(service: Document) -> list[Any]:
    """Return the ingress that the user declared in the status of *service*."""
    try:
        return list(_ingress(json.loads(last_declared(service) or "{}")))
    except (ValueError, AttributeError, TypeError):
        return []


def _with_ingress(service: Document, ingress: list[Any]) -> Document:
    others = {key: it for key, it in mapping(service, "status").items() if key != "loadBalancer"}
    status = {**others, **({"loadBalancer": {"ingress": ingress}} if ingress else {})}
    whole = {**service, "status": status}
    if not status:
        del whole["status"]
    return whole


def _title(service: Document) -> str:
    meta = service["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"
