"""What is tried in several modes: objects of files, a node and another one, the addresses of all.

Two kinds of files will do. Objects as `kubectl get -o yaml` prints them are taken as they are, with
the endpoints their EndpointSlices have. A lab's files, as `netlab up` takes them, are brought to
where a lab would bring them: its controllers make the pods, addresses and EndpointSlices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, ip_network
from itertools import islice

import msgspec

from netlab import cni, controllers
from netlab.controllers import Verb
from netlab.errors import UsageError
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document, registry_key, view
from netlab.model.lab import Lab
from netlab.model.services import ProxyNode
from netlab.proxy import DetectLocal, Kind, Mode, Options
from netlab.proxy.addresses import address as canonical
from netlab.proxy.addresses import family, network
from netlab.proxy.options import options_of
from netlab.sensors.calls import spoken
from netlab.verify.modes import Given, decided
from netlab.verify.stage import Host, Stage

BRIDGE = "docker0"
USUAL = (Mode.IPTABLES, Mode.NFTABLES)  # what is compared unless one says otherwise
ROUNDS_MAX = 10
# For whoever the files give none: 192.0.2.0/24 and 2001:db8::/32 are for documentation.
NODE_ADDRESSES = {"here": ("192.0.2.11",), "there": ("192.0.2.12",)}
POD_NETWORKS = ("172.30.{}.0/24", "fd00:6e73:{}::/64")
OUTSIDE = ("198.51.100.0/24", "2001:db8:51::/64")
NUMBER = {"here": 1, "there": 2}


def settled(lab: Lab, documents: Sequence[Document]) -> list[Document]:
    """Return what a lab of *documents* has once it has converged, all of its pods ready."""
    objects: dict[str, Document] = {}
    wanted = [*controllers.declared(lab, documents), *documents]
    room = {node.name: lab.network.pods_per_node for node in lab.nodes}
    for _ in range(ROUNDS_MAX):
        changes = controllers.declaration_changes(wanted, list(objects.values()))
        changes = changes or controllers.changes(
            Inventory(objects),
            capacity=room,
            service_cidr=lab.serviceCIDR,
            service_cidr6=lab.serviceCIDR6,
            balancer=lab.balancer,
        )
        for change in changes:
            key = registry_key(change.document)
            if change.verb is Verb.DELETE:
                objects.pop(key, None)
            else:
                objects[key] = change.document
        if not _run(lab, objects) and not changes:
            break
    return list(objects.values())


def _run(lab: Lab, objects: dict[str, Document]) -> bool:
    """Give the pods that have a node an address and readiness; return whether there was one."""
    numbers = {node.name: number for number, node in enumerate(lab.nodes)}
    subnets = IPv4Network(lab.network.Network).subnets(new_prefix=lab.network.subnet_length)
    leases = list(islice(subnets, 1, len(lab.nodes) + 1))  # flannel leaves out the first, too
    used = [ip for one in objects.values() if (ip := (one.get("status") or {}).get("podIP"))]
    changed = False
    for key, one in objects.items():
        node = (one.get("spec") or {}).get("nodeName") if one["kind"] == "Pod" else None
        if node not in numbers or (one.get("status") or {}).get("podIP"):
            continue
        if one["spec"].get("hostNetwork"):
            ip = lab.nodes[numbers[node]].address
        else:
            ip = next(cni.free_addresses(str(leases[numbers[node]]), used))
            used.append(ip)
        ready = {"type": "Ready", "status": "True"}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        objects[key] = {**one, "status": status}
        changed = True
    return changed


def of_lab(
    lab: Lab,
    documents: Sequence[Document],
    *,
    node: str | None,
    prefix: str,
    modes: Sequence[Mode] = USUAL,
) -> Given:
    """Return what is tried for a lab's files. Raises UsageError."""
    chosen = options_of(lab)
    return given(settled(lab, documents), chosen, node=node, prefix=prefix, modes=modes)


def given(
    documents: Sequence[Document],
    chosen: Options,
    *,
    node: str | None,
    prefix: str,
    modes: Sequence[Mode] = USUAL,
) -> Given:
    """Return what is tried: *documents*, seen from *node*, by default the first that has pods.

    *prefix*: of the namespaces' names. Raises UsageError.
    """
    named = {one["metadata"]["name"]: one for one in documents if one["kind"] == "Node"}
    if node is not None and node not in named:
        raise UsageError(
            f"no Node {node} in the files",
            hint=f"nodes: {', '.join(named)}" if named else "without --node one is made up",
        )
    found = _busy(documents)
    busy = [name for name in named if name in found] if named else found
    here = node or next(iter([*busy, *named]), "node-1")
    there = next((name for name in [*busy, *named] if name != here), f"not-{here}")
    nodes = {
        place: _node(named.get(name), name, NODE_ADDRESSES[place])
        for place, name in (("here", here), ("there", there))
    }
    options = {mode: msgspec.structs.replace(chosen, mode=mode) for mode in modes}
    made = [
        (place, decided(documents, one, mine))
        for mine in options.values()
        for place, one in nodes.items()
    ]
    endpoints: dict[str, str] = {}
    for place, each in made:
        for port in {id(one.service): one.service for one in each.frontends}.values():
            for one in port.reachable:
                if place == "here" or one.address not in endpoints:
                    endpoints[one.address] = "here" if one.local and place == "here" else "there"
    served = {
        one.address
        for _, each in made
        for one in each.frontends
        if one.address and one.kind is not Kind.NODE_PORT
    }
    used = {*endpoints, *served, *(ip for one in nodes.values() for ip in _addresses(one))}
    hosts = {
        place: Host(
            one.metadata.name,
            tuple(_addresses(one)),
            tuple(_pod_addresses(one, chosen, place, used)),
            tuple(
                sorted(ip for ip, at in endpoints.items() if at == place and ip not in _own(nodes))
            ),
        )
        for place, one in nodes.items()
    }
    stage = Stage(
        prefix,
        hosts["here"],
        hosts["there"],
        served=tuple(sorted(served)),
        client=tuple(_last_free(prefix, used) for prefix in OUTSIDE),
        bridge=_bridge(chosen),
    )
    warnings = [warning for _, each in made for warning in each.warnings]
    for protocol in sorted({one.service.protocol for _, each in made for one in each.frontends}):
        if not spoken(protocol):
            warnings.append(f"ports of {protocol} are not tried: this kernel has no such sockets")
    notes = tuple(dict.fromkeys(warnings))
    return Given(documents, nodes["here"], nodes["there"], options, stage, notes)


def _own(nodes: Mapping[str, ProxyNode]) -> set[str]:
    return {ip for one in nodes.values() for ip in _addresses(one)}


def _busy(documents: Iterable[Document]) -> list[str]:
    """Return the nodes that have endpoints, in the order of the slices."""
    found = (
        endpoint.get("nodeName") or ""
        for one in documents
        if one["kind"] == "EndpointSlice"
        for endpoint in one.get("endpoints") or ()
    )
    return [name for name in dict.fromkeys(found) if name]


def _node(document: Document | None, name: str, addresses: Sequence[str]) -> ProxyNode:
    """Return a Node of the files, or one called *name*; without an address it gets *addresses*."""
    base: Document = document or {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    node = view(base, ProxyNode)
    if any(_addresses(node)):
        return node
    listed = [{"type": "InternalIP", "address": one} for one in addresses]
    status = {**(base.get("status") or {}), "addresses": listed}
    return view({**base, "status": status}, ProxyNode)


def _addresses(node: ProxyNode) -> Iterator[str]:
    seen: dict[str, None] = {}
    for one in node.status.addresses or ():
        if one.type in ("InternalIP", "ExternalIP") and (text := canonical(one.address)):
            seen[text] = None
    yield from seen


def _pod_addresses(node: ProxyNode, chosen: Options, place: str, used: set[str]) -> Iterator[str]:
    """Yield an address of each family for a pod that calls: where pods of the node have theirs."""
    for template in POD_NETWORKS:
        own = template.format(NUMBER[place])
        listed = [*node.pod_cidrs, *chosen.pod_cidrs, own]
        prefix = next(it for it in map(network, listed) if it and family(it) is family(own))
        ip = _last_free(prefix, used)
        used.add(ip)
        yield ip


def _last_free(prefix: str, used: set[str]) -> str:
    """Return an address of *prefix* near its end, where endpoints seldom are."""
    inside = ip_network(prefix)
    for number in range(inside.num_addresses - 2, 0, -1):
        if (ip := str(inside[number])) not in used:
            return ip
    raise UsageError(f"no address of {prefix} is left for a pod that calls")


def _bridge(chosen: Options) -> str:
    """Return the name of the nodes' bridge, by which local pods are told if they are by name."""
    if chosen.detect_local is DetectLocal.BRIDGE:
        return chosen.interface
    if chosen.detect_local is DetectLocal.INTERFACE_PREFIX:
        return f"{chosen.interface}0"[:15]
    return BRIDGE
