"""The leases in etcd, and what every other node's kernel holds because of them."""

from __future__ import annotations

import time

from netlab.cluster import NodeState
from netlab.flannel import lease, vxlan
from netlab.flannel.config import SUBNETS, resolve
from netlab.flannel.lease import Lease
from netlab.kernel.real import RealKernel
from netlab.objects import Object
from netlab.store.etcd import KeyValue, Listing
from netlab.verify.context import Checked, Context, Failure, Skip


def lease_in_etcd(context: Context) -> Checked:
    with context.etcd() as etcd:
        listing = etcd.range(SUBNETS)
        found = {state.name: _own_key(state, listing) for state in context.cluster.nodes}
        ttls = {name: etcd.time_to_live(item.lease) for name, (_, item) in found.items()}
    renewals = {node["name"]: node["renews"] for node in context.live.status()["nodes"]}
    checked = Checked()
    for name, (held, item) in found.items():
        _flannels_own_form(held, item)
        checked.evidence.append(
            f"{name}: {item.key.rpartition('/')[2]} = {item.value.decode()}, "
            + _kept_alive(name, ttls[name], renewals.get(name, 0.0))
        )
    leases = {name: held for name, (held, _) in found.items()}
    missing = [line for node in context.cluster.nodes for line in not_held(context, node, leases)]
    if missing:
        raise Failure(*missing)
    others = max(0, len(leases) - 1)
    checked.evidence.append(
        f"each of {len(leases)} nodes holds route, neighbour and FDB entry for the {others} others"
    )
    return checked


def _own_key(state: NodeState, listing: Listing) -> tuple[Lease, KeyValue]:
    for item in listing.items:
        try:
            held, wrong = lease.parse(item.key, item.value)
        except ValueError:
            continue
        if held.public_ip == state.address and not wrong:
            return held, item
    raise Failure(f"{state.name}: no key under {SUBNETS} has PublicIP {state.address}")


def _flannels_own_form(held: Lease, item: KeyValue) -> None:
    if held.found_at or item.key != lease.key_of(held.subnet):
        raise Failure(f"key {item.key}, flannel would write {lease.key_of(held.subnet)}")
    if item.value != held.value():
        raise Failure(f"value {item.value!r}, flannel would write {held.value()!r}")


def _kept_alive(name: str, ttl: int, renews: float) -> str:
    """What can be seen of the renewal at one moment: the TTL, and when the agent will renew."""
    if ttl <= 0:
        raise Failure(f"{name}: its key has no TTL: it would outlive the node")
    due = renews - time.time()
    if not due < ttl:
        raise Failure(f"{name}: expires in {ttl} s, but the agent renews only in {due:.0f} s")
    return f"TTL {ttl} s, due for renewal in {max(0, due):.0f} s, {ttl - due:.0f} s before its end"


def way_to(node: NodeState, device: str, peer: Lease) -> list[Object]:
    """Return the route, neighbour and FDB entry that *node* holds for *peer*."""
    return vxlan.way(node.netns, device, peer)


def observed(node: NodeState, wanted: list[Object]) -> set[Object]:
    """Return what the kernel of *node* holds, read back."""
    return set(RealKernel().observe(node.netns, wanted))


def not_held(context: Context, node: NodeState, leases: dict[str, Lease]) -> list[str]:
    """Return what *node* lacks for the other leases, in words; [] when it holds all."""
    device = vxlan.device_name(resolve(context.lab.network).vni)
    wanted = [
        thing
        for name, peer in leases.items()
        if name != node.name
        for thing in way_to(node, device, peer)
    ]
    here = observed(node, wanted)
    return [f"{node.name} lacks {in_words(thing)}" for thing in wanted if thing not in here]


def in_words(thing: Object) -> str:
    """Return `Route 10.244.2.0/24 via 10.244.2.0 dev flannel.1`-like words."""
    fields = [
        f"{name} {getattr(thing, name)}"
        for name in thing.__struct_fields__
        if name not in ("netns", "onlink", "protocol")
    ]
    return f"{type(thing).__name__} {', '.join(fields)}"


def only_vxlan(context: Context) -> None:
    """Raise Skip for a backend that has no tunnel."""
    backend = context.lab.network.Backend.Type
    if backend.lower() != "vxlan":
        raise Skip(f"needs the vxlan backend, the lab has {backend}")
