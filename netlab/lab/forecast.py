"""What `up` would do, found out without doing it: the same pure steps, then a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import repeat

import msgspec

from netlab import attachments, cni, controllers, desired, world
from netlab.agent.control_plane import described
from netlab.agent.rules import rewriting
from netlab.balancing import listeners
from netlab.cluster import Cluster, cluster
from netlab.controllers import Change
from netlab.errors import NetlabError
from netlab.faults import carried
from netlab.flannel import lease as leases
from netlab.flannel.config import Config, Range, resolve
from netlab.flannel.lease import Lease
from netlab.flannel.subnets import Me, own_lease
from netlab.kernel import real
from netlab.lab.live import Live
from netlab.lab.report import Report
from netlab.model.inventory import inventory
from netlab.model.kubernetes import Document, registry_key
from netlab.model.lab import Lab
from netlab.objects import Netns, Object
from netlab.plan import Op, difference, words
from netlab.topology import Declaration


def plan(declaration: Declaration) -> Report:
    """Return what `up` would do, doing nothing.

    For a lab that is not there, leases and pod addresses are stood in for by the first free ones:
    flannel chooses among the first hundred at random when the time comes.
    """
    lab = declaration.require_lab()
    config = resolve(lab.network)
    stored, held, known = _present(lab)
    lab = attachments.carried(carried(lab, known), known)
    declaration = msgspec.structs.replace(declaration, lab=lab)
    changes, seen, held = _forecast(declaration, stored, held, config)
    operations = _operations(seen, config, held)
    services = [rewriting(seen, state) for state in seen.nodes]
    relabelled = [] if known == lab else [f"lab {lab.name}"]
    return Report(
        changes=relabelled + [described(change) for change in changes],
        operations=len(operations) + sum(each.operations for each in services),
        words=[
            *(line for op in operations for line in words(op)),
            *(line for each in services for line in each.words),
        ],
    )


def foreseen(declaration: Declaration) -> Cluster:
    """Return the cluster that *declaration* would become where no lab of its name is.

    Leases and addresses are stood in for, as `plan` does. Raises InputError without a Lab.
    """
    config = resolve(declaration.require_lab().network)
    return _forecast(declaration, [], [], config)[1]


def _forecast(
    declaration: Declaration, stored: list[Document], held: list[Lease], config: Config
) -> tuple[list[Change], Cluster, list[Lease]]:
    """Return what changes in etcd, and the cluster and the leases there are then."""
    lab = declaration.require_lab()
    wanted = [
        *controllers.declared(lab, declaration.documents),
        *declaration.documents,
    ]
    changes = controllers.declaration_changes(wanted, stored)
    documents = _settled(_after(stored, changes), lab)
    held = _stand_in_leases(lab, config, held)
    documents = _settled(_stand_in_addresses(lab, documents, held), lab)
    leased = {item.public_ip: item.held for item in held}
    return changes, cluster(lab, tuple(documents), leases=leased), held


def _present(lab: Lab) -> tuple[list[Document], list[Lease], Lab | None]:
    """Return the stored objects, the leases and the declaration of the live lab, if it lives."""
    try:
        live = Live(lab.name)
        return live.documents(), leases.peers(live.leases().items)[0], live.lab
    except NetlabError:
        return [], [], None


def _after(documents: list[Document], changes: list[Change]) -> list[Document]:
    by_key = {registry_key(document): document for document in documents}
    for change in changes:
        if change.verb is controllers.Verb.DELETE:
            by_key.pop(registry_key(change.document), None)
        else:
            by_key[registry_key(change.document)] = change.document
    return list(by_key.values())


def _settled(documents: list[Document], lab: Lab) -> list[Document]:
    """Return the objects once the controllers have nothing left to change."""
    room = {node.name: lab.network.pods_per_node for node in lab.nodes}
    while True:
        changes = controllers.changes(
            inventory(documents),
            capacity=room,
            service_cidr=lab.serviceCIDR,
            service_cidr6=lab.serviceCIDR6,
            balancer=lab.balancer,
        )
        if not changes:
            return documents
        documents = _after(documents, changes)


def _stand_in_leases(lab: Lab, config: Config, held: list[Lease]) -> list[Lease]:
    """Return *held*, those of nodes as they will read, and for each node without one the first
    free subnet. A foreign flanneld's stay as they are: who knows what it will take."""
    nodes = {
        node.address: Me.of(lab.name, node, config)
        for node in lab.nodes
        if not node.foreign_flannel
    }
    free = _free(config.ipv4, [one.subnet for one in held])
    free_v6 = _free(config.ipv6, [one.subnet_v6 for one in held]) if config.ipv6 else repeat("")

    def mine(me: Me, has: Lease | None) -> Lease:
        subnet_v6 = has.subnet_v6 if has and config.ipv6 else ""
        return own_lease(config, has.subnet if has else next(free), me, subnet_v6 or next(free_v6))

    found = [mine(nodes[one.public_ip], one) if one.public_ip in nodes else one for one in held]
    known = {item.public_ip for item in held}
    return found + [mine(me, None) for address, me in nodes.items() if address not in known]


def _free(leases: Range, taken: list[str]) -> Iterator[str]:
    """Yield the free subnets of one family, from the first one on."""
    held = [ip_network(one) for one in taken if one]
    start, last = ip_address(leases.subnet_min), int(ip_address(leases.subnet_max))
    for first in range(int(start), last + 1, leases.size):
        subnet = ip_network(f"{type(start)(first)}/{leases.subnet_len}")
        if not any(subnet.overlaps(other) for other in held):
            yield str(subnet)


def _stand_in_addresses(lab: Lab, documents: list[Document], held: list[Lease]) -> list[Document]:
    """Return the objects with an address for each placed pod that has none."""
    subnets = {item.public_ip: [half.subnet for half in item.halves] for item in held}
    used = {ip["ip"] for d in documents for ip in d.get("status", {}).get("podIPs") or ()}
    found = []
    for document in documents:
        name = document.get("spec", {}).get("nodeName")
        waits = document["kind"] == "Pod" and not document.get("status", {}).get("podIP")
        if waits and name and (leased := subnets.get(lab.node(name).address)):
            own = []
            for subnet in leased:
                mine = [ip for ip in used if cni.in_subnet(ip, subnet)]
                own.append(next(cni.free_addresses(subnet, mine)))
            used |= set(own)
            ready = [{"type": "Ready", "status": "True"}]
            addresses = {"podIP": own[0], "podIPs": [{"ip": ip} for ip in own]}
            status = {**document.get("status", {}), **addresses, "conditions": ready}
            document = {**document, "status": status}
        found.append(document)
    return found


def _operations(seen: Cluster, config: Config, held: list[Lease]) -> list[Op]:
    lab = seen.lab
    by_address = {item.public_ip: item for item in held}
    wanted: dict[str, list[Object]] = {}
    for state in seen.nodes:
        own = by_address.get(state.address)
        peers = [item for item in held if item is not own]
        wanted[state.netns] = desired.node(seen, state, config=config, own=own, peers=peers)
        wanted.update(desired.pods(seen, state) if own else {})
    published = listeners.published(lab, seen.documents.of("Service"))
    for name, objects in world.objects(lab, published).items():
        wanted.setdefault(name, [])
        wanted[name] = [*dict.fromkeys([*objects, *wanted[name]])]
    kernel = real.RealKernel()
    found = [thing for name, objects in wanted.items() for thing in kernel.observe(name, objects)]
    observed = attachments.others(lab, found)
    gone = [Netns(name) for name in kernel.namespaces(lab.name) if name not in wanted]
    return difference(
        [thing for objects in wanted.values() for thing in objects], [*observed, *gone]
    )
