"""The leases in etcd, and what every other node's kernel holds because of them."""

from __future__ import annotations

import time

import msgspec

from netlab import patience
from netlab.cluster import NodeState
from netlab.encapsulation import control
from netlab.flannel import backends, lease, udp
from netlab.flannel.config import SUBNETS, UDP, VXLAN, resolve
from netlab.flannel.lease import Lease
from netlab.kernel.netns import entered
from netlab.kernel.real import RealKernel
from netlab.objects import Object, Sysctl
from netlab.store.etcd import Etcd, KeyValue, Listing
from netlab.verify.context import Checked, Context, Failure

SHORT = 1800  # seconds: less than flannel's margin before the end, so a key is renewed at once
RENEWED_WITHIN = patience.seconds(2.0)  # seconds
LOOK = 0.005  # seconds between two looks into etcd


def lease_in_etcd(context: Context) -> Checked:
    with context.etcd() as etcd:
        listing = etcd.range(SUBNETS)
        found = {state.name: _own_key(state, listing) for state in context.cluster.nodes}
        ttls = {name: etcd.time_to_live(item.lease) for name, (_, item) in found.items()}
    for name, (held, item) in found.items():
        _flannels_own_form(held, item)
        _of_this_overlay(context, held, item)
        if ttls[name] <= 0:
            raise Failure(
                f"{name}: its key has no TTL: it would outlive the node",
                last_seen=f"etcd {item.key}",
                expected_next="an etcd lease it is attached to",
            )
    leases = {name: held for name, (held, _) in found.items()}
    missing = [
        line
        for node in context.nodes
        if not node.declared.foreign_flannel
        for line in not_held(context, node, leases)
    ]
    if missing:
        raise Failure(
            *missing,
            last_seen=f"etcd {SUBNETS}",
            expected_next=f"what follows from it: {missing[0].replace(' lacks ', ' holds ', 1)}",
        )
    mine = {
        name: item
        for name, (_, item) in found.items()
        if context.is_here(name) and not context.cluster.node(name).declared.foreign_flannel
    }
    renewals = renewed(context, mine)
    checked = Checked()
    for name, (_, item) in found.items():
        if context.cluster.node(name).declared.foreign_flannel:
            checked.evidence.append(f"{name}: {item.value.decode()}, by a foreign flanneld")
        if name not in mine:
            continue
        took, ttl = renewals[name]
        checked.evidence.append(
            f"{name}: {item.key.rpartition('/')[2]} = {item.value.decode()}, TTL {ttls[name]} s; "
            f"left with {SHORT} s, it was renewed to {ttl} s after {took * 1000:.0f} ms"
        )
    others = max(0, len(leases) - 1)
    checked.evidence.append(
        f"each of {len(leases)} nodes has {_device_words(context)} for the {others} others"
    )
    return checked


def _device_words(context: Context) -> str:
    network = context.lab.network
    if not network.tunnel:
        return f"a route by {context.nodes[0].uplink}"
    if network.Backend.Type == UDP:
        return f"{network.tunnel}, the route of all there, and a process that knows where to send"
    near = ", or a route for those on its segment," if network.Backend.DirectRouting else ""
    return f"the tunnel device of its lease, and route, neighbour and FDB entry{near}"


def renewed(context: Context, keys: dict[str, KeyValue]) -> dict[str, tuple[float, int]]:
    """Give each node's key a TTL that is due for renewal, and watch its node renew it.

    Return the seconds that took and the new TTL, by node. Nobody else sees a change: the values
    stay. A key that is not renewed gets its old lease back; killed in between, it has `SHORT`
    seconds left, as long as a node needs that is there. Raises Failure.
    """
    began, waiting = time.monotonic(), dict(keys)
    done: dict[str, tuple[float, int]] = {}
    with context.etcd() as etcd:
        short = etcd.grant(SHORT)
        for item in keys.values():
            etcd.put_if_unchanged(item.key, item.value, mod_revision=item.mod_revision, lease=short)
    while waiting and time.monotonic() - began < RENEWED_WITHIN:
        with context.etcd() as etcd:
            now = {item.key: item for item in etcd.range(SUBNETS).items}
            for name, item in list(waiting.items()):
                found = now.get(item.key)
                if found and found.value == item.value and found.lease not in (0, short):
                    ttl = etcd.time_to_live(found.lease)
                    if ttl > SHORT:
                        done[name] = time.monotonic() - began, ttl
                        del waiting[name]
        if waiting:
            time.sleep(LOOK)
    with context.etcd() as etcd:
        _given_back(etcd, waiting, short)
    if waiting:
        name, item = next(iter(waiting.items()))
        raise Failure(
            *(f"{name}: its key was due for renewal, and was not renewed" for name in waiting),
            last_seen=f"etcd {item.key} with {SHORT} s to live",
            expected_next=f"renewed by {name} within {RENEWED_WITHIN:g} s",
        )
    return done


def _given_back(etcd: Etcd, keys: dict[str, KeyValue], short: int) -> None:
    """Attach *keys* to the leases they had; end *short* once no key is left in it."""
    now = {item.key: item for item in etcd.range(SUBNETS).items}
    for item in keys.values():
        found = now.get(item.key)
        if found and found.lease == short:
            etcd.put_if_unchanged(
                item.key, item.value, mod_revision=found.mod_revision, lease=item.lease
            )
    if all(item.lease != short for item in etcd.range(SUBNETS).items):
        etcd.revoke(short)


def _own_key(state: NodeState, listing: Listing) -> tuple[Lease, KeyValue]:
    for item in listing.items:
        try:
            held, wrong = lease.parse(item.key, item.value)
        except ValueError:
            continue
        if held.public_ip == state.address and not wrong:
            return held, item
    raise Failure(
        f"{state.name}: no readable key under {SUBNETS} has PublicIP {state.address}",
        last_seen=f"etcd {SUBNETS}",
        expected_next=f"a lease with PublicIP {state.address}",
    )


def _flannels_own_form(held: Lease, item: KeyValue) -> None:
    key = lease.key_of(held.subnet, held.subnet_v6)
    if held.found_at or item.key != key:
        raise Failure(
            f"key {item.key}, flannel would write {key}",
            last_seen=f"etcd {item.key}",
            expected_next=key,
        )
    if item.value != held.value():
        raise Failure(
            f"value {item.value!r}, flannel would write {held.value()!r}",
            last_seen=f"etcd {item.key}",
            expected_next=held.value().decode(),
        )


def _of_this_overlay(context: Context, held: Lease, item: KeyValue) -> None:
    """Check what the lease says against the net-conf. Raises Failure."""
    config = resolve(context.lab.network)
    if bool(held.subnet_v6) != (config.ipv6 is not None):
        raise Failure(
            f"{item.key} is of {'two stacks' if held.subnet_v6 else 'one stack'}, the net-conf not",
            last_seen=f"etcd {item.key}",
            expected_next=f"a subnet of each of {', '.join(config.networks)}",
        )
    vni = config.vni if config.backend == VXLAN else held.vni
    if (held.backend_type, held.vni) != (config.lease_type, vni):
        raise Failure(
            f"{item.key} says {held.backend_type} with VNI {held.vni}, the net-conf "
            f"{config.backend} with VNI {vni}",
            last_seen=f"etcd {item.key}",
            expected_next=f"BackendType {config.backend}, VNI {vni}",
        )


def way_to(context: Context, node: NodeState, peer: Lease) -> list[Object]:
    """Return what *node* holds for *peer*: a route, and what a tunnel needs beside it."""
    config, home = resolve(context.lab.network), context.lab.segment_of(node.address).prefixes
    return backends.way(node.netns, config, peer, device=node.uplink, home=home)


def observed(node: NodeState, wanted: list[Object]) -> set[Object]:
    """Return what the kernel of *node* holds, read back."""
    return set(RealKernel().observe(node.netns, wanted))


def held_by(context: Context, node: NodeState, wanted: list[Object]) -> set[Object]:
    """Return which of *wanted* the kernel of *node* holds, on whichever machine it is."""
    asked = [[type(one).__name__, msgspec.to_builtins(one)] for one in wanted]
    return {wanted[index] for index in context.read(node, "held", things=asked)}


def not_held(context: Context, node: NodeState, leases: dict[str, Lease]) -> list[str]:
    """Return what *node* lacks for its lease and the others, in words; [] when it holds all."""
    peers = [peer for name, peer in leases.items() if name != node.name]
    wanted = [
        thing
        for thing in backends.objects(
            node.netns,
            config=resolve(context.lab.network),
            own=leases[node.name],
            peers=peers,
            device=node.uplink,
            local=node.address,
            home=context.lab.segment_of(node.address).prefixes,
            underlay_mtu=context.lab.underlay.mtu,
        )
        if not isinstance(thing, Sysctl)
    ]
    here = observed(node, wanted)
    missing = [in_words(thing) for thing in wanted if thing not in here]
    if context.lab.network.Backend.Type == UDP:
        known = reached(node)
        missing += [entry_words(one) for one in peers if known.get(one.subnet) != one.public_ip]
    return [f"{node.name} lacks {words}" for words in missing]


def reached(node: NodeState) -> dict[str, str]:
    """Return what the process of flannel's udp back end on *node* knows: the node of each prefix.

    Raises Failure when there is no such process.
    """
    with entered(node.netns):
        known = control.reached()
    if known is None:
        raise Failure(
            f"{node.name} has no process that sends its pods' packets",
            last_seen=f"{node.netns} {udp.DEVICE} out",
            expected_next="a process behind it, on flannel's UDP port",
        )
    return known


def entry_words(peer: Lease) -> str:
    """Return what a process knows of a peer, in words."""
    return f"{peer.subnet} at {peer.public_ip} in its process"


def in_words(thing: Object) -> str:
    """Return `Route 10.244.2.0/24 via 10.244.2.0 dev flannel.1`-like words."""
    fields = [
        f"{name} {getattr(thing, name)}"
        for name in thing.__struct_fields__
        if name not in ("netns", "onlink", "protocol")
    ]
    return f"{type(thing).__name__} {', '.join(fields)}"
