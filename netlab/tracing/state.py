"""The kernel asked why a packet was not seen again: by its own look-ups, where it stopped.

Each look-up is of one thing that the kernel does with a packet at such a place, in the order in
which it does it; the first that cannot work is the cause.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import msgspec

from netlab import world
from netlab.cluster import Cluster
from netlab.encapsulation import control
from netlab.flannel import udp
from netlab.journeys import Cause, Journey, Kind, Place, Seen
from netlab.kernel import links, lookup
from netlab.kernel.netns import entered, exists
from netlab.kernel.observed import VXLAN_PORT
from netlab.packets import BARE, Direction
from netlab.telling.naming import Names
from netlab.tracing.stops import Stop

RESTART = "the agent starts it: `netlab status`, `netlab up` when there is none"
_CONNTRACK = Path("/proc/sys/net/netfilter")
_IPV4 = Path("/proc/sys/net/ipv4")


def causes(cluster: Cluster, names: Names, journey: Journey, stop: Stop) -> Iterator[Cause]:
    """Yield what the kernel's look-ups say of the place where a packet stopped."""
    netns = stop.place.netns
    if not exists(netns):
        return
    last = stop.last
    if last is not None and last.direction is Direction.OUT and not _is_tunnel(last):
        yield from _far_end(cluster, names, stop, last)
    with entered(netns):
        for look in (_conntrack, _process, _tunnel_in, _tunnel_out, _switched, _routed):
            yield from look(cluster, names, journey, stop)


def target(stop: Stop) -> str:
    """Return what `netlab exec` calls the place of a stop."""
    return exec_target(stop.place)


def exec_target(place: Place) -> str:
    """Return what `netlab exec` calls a place."""
    return f"node/{place.name}" if place.kind == "node" else place.name


def _is_tunnel(last: Seen) -> bool:
    return last.device.startswith(("flannel.", udp.DEVICE))


# -- the other end of a cable


def _far_end(cluster: Cluster, names: Names, stop: Stop, last: Seen) -> Iterator[Cause]:
    far = far_end(cluster, last.place.netns, last.device)
    if far is None:
        return
    netns, device = far
    place = names.place(netns)
    if not exists(netns):
        yield Cause(Kind.INTERFACE_GONE, place, f"{place} is not there: no namespace {netns}")
        return
    with entered(netns):
        found = lookup.interfaces()
    link = found.get(device)
    if link is None:
        words = f"{place} has no interface {device}, where the cable from {last.device} should end"
        yield Cause(Kind.INTERFACE_GONE, place, words, (_seen_words(last),))
        return
    if not link.up:
        yield Cause(
            Kind.INTERFACE_DOWN,
            place,
            f"interface {device} of {place} is down",
            (_seen_words(last), f"the kernel says of {device}: not up"),
            (f"ip -n {netns} link set dev {device} up",),
        )
    elif link.mtu < last.length:
        yield from _too_long(place.netns, names, device, link.mtu, last)


def far_end(cluster: Cluster, netns: str, device: str) -> tuple[str, str] | None:
    """Return the namespace and device at the other end of a cable, None where there is none."""
    lab = cluster.lab
    for pod in cluster.pods:
        node = lab.netns(pod.node)
        if netns == pod.netns and device == world.UPLINK and not pod.host_network:
            return node, pod.veth
        if (netns, device) == (node, pod.veth):
            return pod.netns, world.UPLINK
    underlay = lab.netns(world.UNDERLAY)
    for member, _ in [] if lab.spread else world.machines(lab):
        port = world.port_name(member)
        if (netns, device) == (lab.netns(member), world.UPLINK):
            return underlay, port
        if (netns, device) == (underlay, port):
            return lab.netns(member), world.UPLINK
    gateway = lab.netns(world.GATEWAY)
    for member in (world.CLIENT, world.INTERNET):
        if (netns, device) == (lab.netns(member), world.UPLINK):
            return gateway, member
        if (netns, device) == (gateway, member):
            return lab.netns(member), world.UPLINK
    return None


def _seen_words(last: Seen) -> str:
    return f"seen on {last.device} {last.direction} of {last.place}, and nowhere after it"


def _too_long(netns: str, names: Names, device: str, mtu: int, last: Seen) -> Iterator[Cause]:
    place = names.place(netns)
    yield Cause(
        Kind.MTU,
        place,
        f"{device} of {place} takes {mtu} bytes, the packet has {last.length}",
        (_seen_words(last),),
        (f"ip -n {netns} link set dev {device} mtu {max(last.mtu, last.length)}",),
    )


# -- what a namespace does with a packet


def _conntrack(cluster: Cluster, names: Names, journey: Journey, stop: Stop) -> Iterator[Cause]:
    """The table of connections is full: what would be a new one is dropped before any rule."""
    try:
        count, most = (
            int((_CONNTRACK / name).read_text())
            for name in ("nf_conntrack_count", "nf_conntrack_max")
        )
    except (OSError, ValueError):
        return
    if most and count >= most:
        yield Cause(
            Kind.CONNTRACK_FULL,
            stop.place,
            f"the connection table of {stop.place} is full: {count} of {most} entries",
            (stop.where, f"dropped for it so far: {_full_drops()}"),
            ("sysctl -w net.netfilter.nf_conntrack_max=… on the machine, or fewer flows",),
        )


def _full_drops() -> int:
    """Return how many packets the table had no room for. linux/netfilter/nf_conntrack_common.h."""
    try:
        told = Path("/proc/thread-self/net/stat/nf_conntrack").read_text()
        names, *rows = (line.split() for line in told.splitlines())
    except (OSError, ValueError):
        return 0
    column = names.index("drop")
    return sum(int(row[column], 16) for row in rows)


def _process(cluster: Cluster, names: Names, journey: Journey, stop: Stop) -> Iterator[Cause]:
    """A packet, or the datagram it is in, came to where a process of flannel's udp back end should
    take it, and went no further. Without a process the device has no carrier, and shows nothing."""
    last, device = stop.last, cluster.lab.network.tunnel
    if last is None or device != udp.DEVICE or stop.place.kind != "node":
        return
    taken = last.outer is not None and last.outer.vni == BARE
    link = lookup.interfaces().get(device)
    way = lookup.route(stop.flow.destination)
    given = not taken and link is not None and way.device == link.ifindex
    if not (given or taken):
        return
    known = control.reached()
    if known is None:
        words = f"no process takes the packets of {device} of {stop.place}"
        port = cluster.lab.network.tunnel_port
        proof = f"nobody in {stop.place} answers for {device}, or has UDP port {port} for it"
        yield Cause(Kind.TUNNEL, stop.place, words, (_seen_words(last), proof), (RESTART,))
    elif given and not any(
        IPv4Address(last.flow.destination) in IPv4Network(prefix) for prefix in known
    ):
        words = f"the process behind {device} of {stop.place} knows no node for "
        told = ", ".join(known) or "none"
        yield Cause(
            Kind.TUNNEL,
            stop.place,
            words + last.flow.destination,
            (_seen_words(last), f"it knows {told}"),
            ("netlab get leases",),
        )


def _tunnel_in(cluster: Cluster, names: Names, journey: Journey, stop: Stop) -> Iterator[Cause]:
    """An envelope came in, and nothing came out of the tunnel."""
    last = stop.last
    if last is None or last.outer is None or last.direction is not Direction.IN:
        return
    outer, place = last.outer, stop.place
    if place.kind != "node" or outer.vni == BARE:
        return
    tunnels = {n: one for n, one in lookup.interfaces().items() if one.kind == "vxlan"}
    fitting = [n for n, one in tunnels.items() if links.tunnel(one.data).vni == outer.vni]
    if not fitting:
        known = ", ".join(f"{n} VNI {links.tunnel(one.data).vni}" for n, one in tunnels.items())
        yield Cause(
            Kind.TUNNEL,
            place,
            f"{place} has no tunnel of VNI {outer.vni}: {known or 'no VXLAN interface at all'}",
            (_seen_words(last),),
            ("the same VNI on all nodes: `network.Backend.VNI` of the lab's file",),
        )
        return
    device = fitting[0]
    link, tunnel = tunnels[device], links.tunnel(tunnels[device].data)
    if not link.up:
        repair = (f"ip -n {place.netns} link set dev {device} up",)
        what = f"interface {device} of {place} is down"
        yield Cause(Kind.INTERFACE_DOWN, place, what, (_seen_words(last),), repair)
    elif (tunnel.port or VXLAN_PORT) != outer.destination_port:
        yield Cause(
            Kind.TUNNEL,
            place,
            f"{device} of {place} listens on UDP {tunnel.port or VXLAN_PORT}, "
            f"the envelope came to {outer.destination_port}",
            (_seen_words(last),),
            ("the same port on all nodes: `network.Backend.Port` of the lab's file",),
        )
    elif last.destination_mac != link.mac:
        yield Cause(
            Kind.NEIGHBOUR,
            place,
            f"the packet in the envelope is for MAC {last.destination_mac}, "
            f"{device} of {place} has {link.mac}",
            (_seen_words(last),),
            ("the neighbour entry of the sending node: `ip neigh show dev flannel.…` there",),
        )


def _tunnel_out(cluster: Cluster, names: Names, journey: Journey, stop: Stop) -> Iterator[Cause]:
    """The tunnel took a packet, and no envelope left."""
    last = stop.last
    if last is None or last.direction is not Direction.OUT or not _is_tunnel(last):
        return
    if last.device == udp.DEVICE:
        return
    link = lookup.interfaces().get(last.device)
    if link is None:
        return
    entries = {one.mac: one.destination for one in lookup.forwarding(link.ifindex)}
    if last.destination_mac not in entries:
        yield Cause(
            Kind.FDB,
            stop.place,
            f"{last.device} of {stop.place} does not know where MAC {last.destination_mac} is: "
            "no FDB entry",
            (_seen_words(last),),
            (f"bridge -n {stop.place.netns} fdb append {last.destination_mac} "
             f"dev {last.device} dst NODE-ADDRESS",),
        )  # fmt: skip
        return
    to = entries[last.destination_mac]
    found = lookup.route(to)
    if found.refused:
        words = f"{stop.place} has no route to {to}, the other end of the tunnel"
        yield Cause(Kind.ROUTE, stop.place, words, (_seen_words(last), _answer(found.refused)))
        return
    outer = msgspec.structs.replace(stop.flow, source="0.0.0.0", destination=to)
    yield from _next_hop(names, stop._replace(flow=outer, last=None), found, lookup.interfaces())


def _switched(cluster: Cluster, names: Names, journey: Journey, stop: Stop) -> Iterator[Cause]:
    """A frame came in by what should be a bridge's port, or goes out by one."""
    last = stop.last
    if last is None or (last.outer is not None and stop.place.kind == "node"):
        return
    found = lookup.interfaces()
    link = found.get(last.device)
    if link is None or link.kind != "veth":
        return
    bridge = names.bridge(stop.place.netns) or ""
    is_port = last.device.startswith("veth") or stop.place.name == world.UNDERLAY
    if last.direction is Direction.IN and is_port and not link.master:
        what = f"{last.device} of {stop.place} is a port of no bridge"
        to = bridge or segment_bridge(cluster, last.device)
        repair = (f"ip -n {stop.place.netns} link set dev {last.device} master {to}",)
        yield Cause(Kind.BRIDGE_PORT, stop.place, what, (_seen_words(last),), repair)
        return
    master = next((one for one in found.values() if one.ifindex == link.master), None)
    if master is not None and not master.up:
        repair = (f"ip -n {stop.place.netns} link set dev {master.name} up",)
        what = f"bridge {master.name} of {stop.place} is down"
        yield Cause(Kind.INTERFACE_DOWN, stop.place, what, (_seen_words(last),), repair)
        return
    for one in found.values():
        small = last.outer is None and one.mtu < last.length
        big = last.outer is not None and one.mtu < last.length + 50
        if master is not None and one.master == link.master and one.kind == "veth":
            leads = far_end(cluster, stop.place.netns, one.name)
            if leads is None or names.home(_wanted_end(last)) != leads[0]:
                continue
            if not one.up:
                repair = (f"ip -n {stop.place.netns} link set dev {one.name} up",)
                what = f"port {one.name} of {stop.place} is down"
                yield Cause(Kind.INTERFACE_DOWN, stop.place, what, (_seen_words(last),), repair)
            elif small or big:
                yield from _too_long(stop.place.netns, names, one.name, one.mtu, last)


def segment_bridge(cluster: Cluster, port: str) -> str:
    """Return the bridge of the underlay that a machine's *port* belongs to."""
    lab = cluster.lab
    ports = {world.port_name(name): address for name, address in world.machines(lab)}
    segment = lab.segment_of(ports[port]) if port in ports else lab.underlay.segments[0]
    return world.bridge_name(segment)


def _wanted_end(last: Seen) -> str:
    return last.outer.destination if last.outer else last.flow.destination


def _routed(cluster: Cluster, names: Names, journey: Journey, stop: Stop) -> Iterator[Cause]:
    """IP had the packet: its route, its reverse path, the neighbour behind it, the device."""
    last, place, flow = stop.last, stop.place, stop.flow
    found = lookup.interfaces()
    arriving = 0
    device = ""
    if last is not None and last.direction is Direction.IN and last.device != "lo":
        if last.outer is not None and place.kind == "node":
            return
        device = last.device
        port = found.get(device)
        if port is not None and port.master:
            device = next((n for n, one in found.items() if one.ifindex == port.master), "")
        if device not in found or last.frame[:6].hex(":") != found[device].mac:
            return  # it was only to be switched
        arriving = found[device].ifindex
    elif last is not None and last.direction is Direction.OUT:
        return
    way = lookup.route(flow.destination, source=flow.source if arriving else "", arriving=arriving)
    if way.refused or way.kind not in ("unicast", "local", ""):
        yield _no_way(names, stop, way, device)
        return
    if way.kind == "local":
        return
    if arriving and place.kind != "pod" and not _forwards(device):
        yield Cause(
            Kind.FORWARDING,
            place,
            f"{place} does not forward what comes in by {device}: net.ipv4.ip_forward is off",
            (stop.where,),
            (f"netlab exec {target(stop)} -- sysctl -w net.ipv4.ip_forward=1",),
        )
        return
    yield from _next_hop(names, stop, way, found)


def _no_way(names: Names, stop: Stop, way: lookup.Route, device: str) -> Cause:
    place, flow = stop.place, stop.flow
    answer = _answer(way.refused) if way.refused else f"the kernel's answer: {way.kind}"
    leaves = _way_back(flow.source) if device else ""
    if _is_refused_by_rp_filter(way, device, leaves):
        return Cause(
            Kind.RP_FILTER,
            place,
            f"{place} takes nothing from {flow.source} by {device}, as its own way there is "
            f"{leaves or 'unknown'} (rp_filter {_rp_filter(device)})",
            (stop.where, answer),
            (
                f"netlab exec {target(stop)} -- sysctl -w net/ipv4/conf/{device}/rp_filter=2",
                f"or the route back to {flow.source} by {device}",
            ),
        )
    if way.kind in ("blackhole", "unreachable", "prohibit"):
        return Cause(
            Kind.ROUTE,
            place,
            f"{place} has a {way.kind} route to {way.prefix}",
            (stop.where, answer),
            (f"netlab exec {target(stop)} -- ip route del {way.kind} {way.prefix}",),
        )
    if way.refused and device and lookup.route(flow.source).kind == "local":
        return Cause(
            Kind.ADDRESS,
            place,
            f"{place} takes nothing from {flow.source}: it has that address itself",
            (stop.where, answer),
            (f"ip -n {place.netns} addr, which device has {flow.source}",),
        )
    policy = policy_of(stop)
    if way.refused and policy is not None and policy.kind != "lookup":
        return Cause(
            Kind.ROUTE,
            place,
            f"{place} has a rule of policy routing that refuses it: {policy}",
            (stop.where, answer),
            (f"netlab exec {target(stop)} -- ip rule del prio {policy.priority}",),
        )
    if way.kind == "broadcast":
        return Cause(
            Kind.ADDRESS,
            place,
            f"{flow.destination} is a network's broadcast address: nobody has it, and {place} "
            "forwards to none",
            (stop.where, answer),
            ("the address of one machine",),
        )
    if way.refused == errno.EHOSTUNREACH and device and not _forwards(device):
        return Cause(
            Kind.FORWARDING,
            place,
            f"{place} does not forward: net.ipv4.ip_forward is off",
            (stop.where, answer),
            (f"netlab exec {target(stop)} -- sysctl -w net.ipv4.ip_forward=1",),
        )
    return Cause(
        Kind.ROUTE,
        place,
        f"{place} has no route to {flow.destination}{_whose(names, flow.destination)}",
        (stop.where, answer),
        (no_route_words(names, stop),),
    )


def policy_of(stop: Stop) -> lookup.Policy | None:
    """Return the first rule of policy routing that somebody added and that is about the packet."""
    flow = stop.flow
    rules = lookup.policies()
    return next((one for one in rules if one.fits(flow.source, flow.destination)), None)


def _way_back(source: str) -> str:
    """Return the device by which packets to *source* leave, "" if there is none."""
    back = lookup.route(source)
    found = lookup.interfaces().items()
    return next((name for name, one in found if one.ifindex == back.device), "")


def _is_refused_by_rp_filter(way: lookup.Route, device: str, leaves: str) -> bool:
    """Return whether it is the reverse-path filter (ip-sysctl.rst) that refuses what comes in by
    *device*: 1 wants the same device for the way back, 2 any. Kernels differ in the error."""
    if way.kind or way.refused not in (errno.EXDEV, errno.EINVAL) or not device:
        return False
    mode = _rp_filter(device)
    return (mode == "1" and leaves != device) or (mode == "2" and not leaves)


def no_route_words(names: Names, stop: Stop) -> str:
    """Return what may be done about a missing route."""
    if stop.place.name == world.GATEWAY:
        to = stop.flow.destination
        if not (names.home(to) or names.served_at(to)):
            return "nobody in the lab has that address: outside there are client and internet"
        return "addresses of pods and Services mean nothing outside: use a NodePort"
    return f"netlab exec {target(stop)} -- ip route, and compare with `netlab get leases`"


def _next_hop(
    names: Names, stop: Stop, way: lookup.Route, found: dict[str, links.Link]
) -> Iterator[Cause]:
    place = stop.place
    name = next((n for n, one in found.items() if one.ifindex == way.device), "")
    link = found.get(name)
    if link is None:
        return
    if not link.up:
        repair = (f"ip -n {place.netns} link set dev {name} up",)
        what = f"interface {name} of {place} is down"
        yield Cause(Kind.INTERFACE_DOWN, place, what, (stop.where,), repair)
        return
    if stop.last is not None and stop.last.length > link.mtu:
        yield from _too_long(place.netns, names, name, link.mtu, stop.last)
        return
    hop = way.gateway or stop.flow.destination
    known = {one.address: one for one in lookup.neighbours(link.ifindex)}
    state = known[hop].state if hop in known else "none"
    policy = policy_of(stop)
    sent_by = (f"ip rule: {policy}",) if policy is not None else ()
    if state in ("none", "failed", "incomplete"):
        yield Cause(
            Kind.NEIGHBOUR,
            place,
            f"{place} does not know the MAC of {hop}{_whose(names, hop)} on {name}: "
            f"neighbour {state if state != 'none' else 'unknown'}",
            (stop.where, f"ip neigh: {hop} dev {name} {state.upper()}", *sent_by),
            (
                f"is {hop} up and does it answer ARP? "
                f"netlab exec {target(stop)} -- ip neigh show dev {name}",
            ),
        )


def _whose(names: Names, address: str) -> str:
    who = names.who(address)
    return f" ({who})" if who else ""


def _answer(number: int) -> str:
    return f"the kernel's answer to a route look-up: {os.strerror(number).lower()}"


def _forwards(device: str) -> bool:
    return _setting("forwarding", device) != "0"


def _rp_filter(device: str) -> str:
    """Return what counts: the larger of the device's and of all's (ip-sysctl.rst)."""
    return max(_setting("rp_filter", "all"), _setting("rp_filter", device))


def _setting(name: str, device: str) -> str:
    try:
        return (_IPV4 / "conf" / device / name).read_text().strip()
    except OSError:
        return ""
