"""describe service: what each node makes of it, and the rules it has there.

Which endpoints are used, and why the others are not; who goes where from each address; every rule
with how often it fired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netlab.cli import tables
from netlab.cli.rules import listed
from netlab.errors import NotFoundError
from netlab.model.kubernetes import Document

if TYPE_CHECKING:
    from netlab.agent.rules import Desired
    from netlab.cli.rows import Scene
    from netlab.proxy import Endpoint, Frontend, ServicePort
    from netlab.proxy.claims import Owner
    from netlab.proxy.frontend import Way

Facts = list[tuple[str, Any]]


def facts(document: Document, scene: Scene) -> Facts:
    """Return, for each node, the Service's endpoints, frontends and rules there."""
    from netlab.agent import rules
    from netlab.proxy.claims import Owner

    meta = document["metadata"]
    owner = Owner(False, meta.get("namespace", "default"), meta["name"])
    found: Facts = []
    for node in scene.cluster.nodes:
        try:
            wanted = rules.desired(scene.cluster, node.name)
        except NotFoundError:
            continue  # its Node object is not there yet
        frontends = wanted.frontends.get(owner, [])
        mine: Facts = [
            ("Endpoints", endpoint_lines(frontends)),
            ("Frontends", frontend_lines(frontends)),
        ]
        if checks := wanted.health_checks.get(owner):
            one = checks[0]
            mine.append(("Health check", f"port {one.port} answers {one.status}"))
        mine.append(("Rules", rule_lines(scene, node.name, owner, wanted)))
        found.append((f"On {node.name}", mine))
    return found


def endpoint_lines(frontends: Sequence[Frontend]) -> list[str]:
    """Return each endpoint with the sets it is in, or why it is passed over."""
    ports = {id(one.service): one.service for one in frontends}.values()
    named = any(port.port_name for port in ports)
    rows = []
    for port in ports:
        for one in port.known:
            sets = [
                word
                for word, held in (("cluster", port.cluster), ("local", port.local))
                if one in held
            ]
            use = f"used: {', '.join(sets)}" if sets else f"passed over: {why_not(one, port)}"
            row = [f"{one.text}/{port.protocol}", use]
            rows.append([*row[:1], port.port_name or "-", *row[1:]] if named else row)
    return _aligned(rows)


def why_not(one: Endpoint, port: ServicePort) -> str:
    """Return why the endpoint *one* of *port* is not used on a node."""
    if one.terminating and one.serving:
        return "terminating, and others are ready"
    if one.terminating:
        return "terminating, and serves no more"
    if not one.ready:
        return "not ready"
    if one.nodes and not one.local and port.cluster:
        return f"its hint is for node {', '.join(one.nodes)}"
    if one.zones and port.cluster:
        return f"its hint is for zone {', '.join(one.zones)}"
    return "on another node"


def frontend_lines(frontends: Sequence[Frontend]) -> list[str]:
    """Return each address and port, with who goes where from it, and what the others get."""
    rows = []
    for one in frontends:
        host = one.address or "node"
        at = f"[{host}]:{one.port}" if ":" in host else f"{host}:{one.port}"
        said = [way_words(way) for way in one.ways]
        if one.sources:
            said.insert(0, f"only from {', '.join(one.sources)}")
        if one.refusal:
            said.append(f"{'others' if one.ways else 'all'}: {one.refusal}")
        rows.append([f"{at}/{one.service.protocol}", str(one.kind), "; ".join(said)])
    return _aligned(rows)


def way_words(way: Way) -> str:
    """Return `all -> cluster, masqueraded: not pods`."""
    words = f"{way.clients} -> {way.policy.lower()}"
    match way.masquerade:
        case "none":
            return words
        case way.clients | "all":
            return f"{words}, masqueraded"
    return f"{words}, masqueraded: {way.masquerade}"


def rule_lines(scene: Scene, node: str, owner: Owner, wanted: Desired) -> list[str]:
    """Return every rule of *owner* on *node* behind the packets it fired for, chain by chain."""
    from netlab.agent import rules

    if scene.cluster.node(node).declared.foreign_proxy:
        return ["those of a foreign kube-proxy (proxyMode: none)"]
    try:
        found = rules.programmed(scene.cluster, node, only=[owner], wanted=wanted)
    except NotFoundError as error:
        return [f"unknown: {error}"]
    indent = " "  # of what heads a chain; `describe` puts its own before it
    return [line for one in found for line in listed(one, indent=indent, width=tables.WIDTH - 5)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    columns = tables.widths(rows)
    return [tables.line(row, columns, gap="  ") for row in rows]
