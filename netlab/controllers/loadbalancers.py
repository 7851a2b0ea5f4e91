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
from typing import Any

from netlab.balancing.listeners import (
    CLASS,
    MODE_ANNOTATION,
    PROXY,
    is_ours,
    mapping,
    mode,
)
from netlab.controllers.change import Change, Verb, now
from netlab.controllers.declaration import last_declared
from netlab.controllers.events import Fact
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import IP_MODES, Balancer
from netlab.model.services import UNBALANCED, canonical, pending, refusal

COMPONENT = "service-controller"
NO_BALANCER = "no balancer is declared (`balancer:` with an address and a pool in the Lab document)"


def given(services: Iterable[Document], balancer: Balancer | None) -> list[Change]:
    """Return the updates that give *services*, all there are, what they have from *balancer*.

    One that gets nothing has a condition that says why.
    """
    changes: list[Change] = []
    waiting: list[Document] = []
    for document in services:
        if is_ours(document):
            waiting.append(document)
        elif balancer is not None and _released(document, balancer):
            changes.append(Change(Verb.UPDATE, _with(document, [], "")))
        elif pending(document) and mapping(document, "spec").get("type") != "LoadBalancer":
            changes.append(Change(Verb.UPDATE, _with(document, _ingress(document), "")))
    if balancer is None:
        found = [
            (one, ingress, "" if ingress else NO_BALANCER)
            for one in waiting
            for ingress in [_declared(one)]
        ]
    else:
        pool = _Pool(balancer)
        found = [(one, *_share(one, pool)) for one in sorted(waiting, key=pool.order)]
    for document, ingress, why in found:
        if (ingress, why) != (_ingress(document), pending(document)):
            changes.append(Change(Verb.UPDATE, _with(document, ingress, why)))
    return changes


def _share(document: Document, pool: _Pool) -> tuple[list[Any], str]:
    """Return the ingress of *document*, and why there is none."""
    why = _unusable(document, pool.balancer)
    address = "" if why else pool.taken(document)
    if not address:
        return [], why or pool.problem
    return [{"ip": address, "ipMode": mode(pool.balancer.ipMode, document)}], ""


def told(changes: Iterable[Change], before: Inventory) -> Iterator[Fact]:
    """Yield what *changes* of Services say: that they got an address, lost it, or get none."""
    for change in changes:
        new = change.document
        if new["kind"] != "Service" or change.verb is Verb.DELETE:
            continue
        old = before.get(registry_key(new)) or {}
        had, has, why = _held(old), _held(new), pending(new)
        if has and has != had:
            yield Fact(new, "EnsuredLoadBalancer", "Ensured load balancer", COMPONENT)
        elif had and not has and not why:
            yield Fact(new, "DeletedLoadBalancer", "Deleted load balancer", COMPONENT)
        if why and why != pending(old):
            message = f"Error syncing load balancer: {why}"
            yield Fact(new, "SyncLoadBalancerFailed", message, COMPONENT, warning=True)


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


def _conditions(service: Document) -> list[Document]:
    listed: Any = mapping(service, "status").get("conditions")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _with(service: Document, ingress: Sequence[Any], why: str) -> Document:
    """Return *service* with *ingress*, and with the condition that tells *why* it has none."""
    status = dict(mapping(service, "status"))
    status.pop("loadBalancer", None)
    status.pop("conditions", None)
    conditions = [one for one in _conditions(service) if one.get("type") != UNBALANCED]
    if why:
        conditions.append(
            {
                "type": UNBALANCED,
                "status": "False",
                "reason": "SyncLoadBalancerFailed",
                "message": why,
                "lastTransitionTime": now(),
            }
        )
    if conditions:
        status["conditions"] = conditions
    if ingress:
        status["loadBalancer"] = {"ingress": list(ingress)}
    whole = {**service, "status": status}
    if not status:
        del whole["status"]
    return whole


def _title(service: Document) -> str:
    meta = service["metadata"]
    return f"{meta.get('namespace', '')}/{meta['name']}"
