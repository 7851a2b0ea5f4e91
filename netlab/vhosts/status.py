"""What a controller writes back: where its Ingresses and Gateways can be reached, conditions.

Every replica comes to the same, and writes only what differs: none has to lead.
Source: ingress-nginx internal/ingress/status/status.go, statusAddressFromService; Gateway API v1,
RouteParentStatus: entries of other controllers are theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from netlab.controllers.change import Change, Verb, now
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, view
from netlab.model.services import EXTERNAL_NAME, Service
from netlab.vhosts.listeners import ROUTE
from netlab.vhosts.model import Attached, Routing, Settings

Address = dict[str, str]  # ip or hostname


def addresses(objects: Inventory, settings: Settings) -> list[Address]:
    """Return where clients reach the controller: what its publishing Service is reached by.

    Without one, or as long as a Service of type LoadBalancer has no address: nowhere.
    """
    namespace, _, name = settings.publish_service.partition("/")
    document = objects.named("Service", namespace, name) if name else None
    try:
        service = None if document is None else view(document, Service)
    except msgspec.ValidationError:
        service = None
    if service is None:
        return []
    spec = service.spec
    if spec.type == EXTERNAL_NAME:
        return [{"hostname": spec.externalName}]
    outside = [{"ip": ip} for ip in spec.externalIPs or ()]
    if spec.type == "LoadBalancer":
        given = service.status.loadBalancer.ingress or ()
        found = [{"ip": one.ip} if one.ip else {"hostname": one.hostname} for one in given]
        return [*found, *outside]
    if spec.type == "NodePort" and outside:
        return outside
    return [{"ip": ip} for ip in service.cluster_ips]


def changes(routing: Routing, objects: Inventory, settings: Settings) -> list[Change]:
    """Return the writes after which every object of ours has the status it is to have."""
    reached = addresses(objects, settings)
    wanted = [
        *((one, _of_ingress(one, reached)) for one in routing.taken),
        *((one.document, _of_attached(one, reached, settings)) for one in routing.attached),
        *_left(routing.attached, objects, settings),
    ]
    return [
        Change(Verb.UPDATE, {**document, "status": status})
        for document, status in wanted
        if status != (document.get("status") or {})
    ]


def _of_ingress(document: Document, reached: list[Address]) -> Document:
    old = document.get("status") or {}
    return {**old, "loadBalancer": {"ingress": reached} if reached else {}}


def _of_attached(one: Attached, reached: list[Address], settings: Settings) -> Document:
    """Return the status of a Gateway API object, with the times of what has not changed."""
    old = one.document.get("status") or {}
    if one.document["kind"] == ROUTE:
        return {**old, "parents": _parents(one, old, settings)}
    found = {**old, **one.status}
    found["conditions"] = _timed(one.status["conditions"], old)
    if one.document["kind"] == "Gateway":
        before = {each.get("name"): each for each in old.get("listeners") or ()}
        found["listeners"] = [
            {**each, "conditions": _timed(each["conditions"], before.get(each["name"]) or {})}
            for each in one.status["listeners"]
        ]
        found["addresses"] = [
            {"type": "IPAddress", "value": each["ip"]}
            if "ip" in each
            else {"type": "Hostname", "value": each["hostname"]}
            for each in reached
        ]
    return found


def _parents(one: Attached, old: Document, settings: Settings) -> list[Document]:
    held = list(old.get("parents") or ())
    others = [each for each in held if each.get("controllerName") != settings.controller_class]
    mine = [
        {
            **each,
            "conditions": _timed(
                each["conditions"],
                next((was for was in held if was.get("parentRef") == each["parentRef"]), {}),
            ),
        }
        for each in one.status["parents"]
    ]
    return [*others, *mine]


def _timed(conditions: Iterable[Document], old: Mapping[str, object]) -> list[Document]:
    listed = old.get("conditions")
    before = {each.get("type"): each for each in listed} if isinstance(listed, list) else {}
    found = []
    for condition in conditions:
        was = before.get(condition["type"]) or {}
        same = was.get("status") == condition["status"]
        time = was.get("lastTransitionTime") if same else None
        found.append({**condition, "lastTransitionTime": time or now()})
    return found


def _left(
    attached: Iterable[Attached], objects: Inventory, settings: Settings
) -> Iterator[tuple[Document, Document]]:
    """Yield the routes that name none of our Gateways any more, without our part of the status."""
    ours = {id(one.document) for one in attached}
    for document in objects.of(ROUTE):
        status = document.get("status") or {}
        parents = [
            each
            for each in status.get("parents") or ()
            if each.get("controllerName") != settings.controller_class
        ]
        if id(document) not in ours and len(parents) != len(status.get("parents") or ()):
            yield document, {**status, "parents": parents}
