"""What must agree within a Lab document: prefixes apart, addresses inside, names once.

Works on the completed document and tolerates values of the wrong form: those are already noted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, NamedTuple

from netlab import world
from netlab.model.lab import BRIDGE_PORTS_MAX, Backend, address_range, subnet_length, subnets
from netlab.topology import values
from netlab.topology.tree import Path

Say = Callable[[Path, str], None]  # field, what is wrong
Net = IPv4Network | IPv6Network

UNUSABLE = {
    "0.0.0.0/8": "this host, RFC 1122",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}


class _Names(NamedTuple):
    """What flannel calls the fields of one family's leases; `check`: of the network's form."""

    check: Callable[[Any], str]
    network: str
    length: str
    low: str
    high: str


_PLAIN = ("Network", "SubnetLen", "SubnetMin", "SubnetMax")
LEASES: dict[type, _Names] = {
    IPv4Network: _Names(values.network, *_PLAIN),
    IPv6Network: _Names(values.network6, *(f"IPv6{name}" for name in _PLAIN)),
}
_VETH = re.compile(r"veth[0-9a-f]{8}")


def check(lab: dict[str, Any], say: Say, *, spread: bool = False) -> None:
    """Say everything in which the completed Lab document *lab* contradicts itself.

    *spread*: its nodes are machines of their own, of which one may be the master, too.
    """
    check_prefixes(list(prefixes(lab)), UNUSABLE, say, example="192.168.50.0/24")
    _check_segments(lab, say)
    _check_addresses(lab, say, spread=spread)
    _check_node_names(lab, say)
    _check_bridges(lab, say)
    _check_network(lab, say)
    _check_backend(lab, say)
    _check_service_cidr(lab, say)
    _check_pool(lab, say)
    if spread:
        _check_balancer_home(lab, say)
    _check_dns(lab, say)


def items(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the mappings of a list with their indices; anything else is already noted."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield index, item


def prefixes(lab: dict[str, Any]) -> Iterator[tuple[Path, IPv4Network]]:
    """Return every prefix of *lab* that has the right form, with its field."""
    for index, segment in items(lab["underlay"]["segments"]):
        if not values.network(segment.get("cidr")):
            yield ("underlay", "segments", index, "cidr"), IPv4Network(segment["cidr"])
    for path in (("network", "Network"), ("serviceCIDR",)):
        text = lab[path[0]] if len(path) == 1 else lab[path[0]][path[1]]
        if not values.network(text):
            yield path, IPv4Network(text)
    for member in ("internet", "client"):
        text = lab["outside"][member]
        if not values.interface(text):
            yield ("outside", member), IPv4Interface(text).network


def check_prefixes(
    found: list[tuple[Path, Net]], unusable: Mapping[str, str], say: Say, *, example: str
) -> None:
    """Say which prefixes, all of one family, overlap each other or one of the *unusable*."""
    for path, net in found:
        for prefix, what in unusable.items():
            if net.overlaps(ip_network(prefix)):
                say(path, f"{net} overlaps {prefix}, {what} (for example {example})")
    # Sorted by first address, a prefix overlaps one before it only if it overlaps the widest.
    widest: tuple[Path, Net] | None = None
    for path, net in sorted(found, key=lambda one: (int(one[1][0]), one[1].prefixlen)):
        if widest is not None and net.overlaps(widest[1]):
            later, earlier = _in_order(found, (path, net), widest)
            say(later[0], f"{later[1]} overlaps {_field(earlier[0])} {earlier[1]} (prefixes apart)")
        if widest is None or int(net.broadcast_address) > int(widest[1].broadcast_address):
            widest = (path, net)


def _in_order(
    found: list[tuple[Path, Net]], one: tuple[Path, Net], other: tuple[Path, Net]
) -> tuple[tuple[Path, Net], tuple[Path, Net]]:
    """Return the two, the one declared later first."""
    return (one, other) if found.index(one) > found.index(other) else (other, one)


def _field(path: Path) -> str:
    from netlab.topology.mistakes import path_text

    return path_text(path)


def _check_segments(lab: dict[str, Any], say: Say) -> None:
    found = list(items(lab["underlay"]["segments"]))
    first: dict[str, int] = {}
    for index, segment in found:
        path: Path = ("underlay", "segments", index)
        name = str(segment["name"])
        if first.setdefault(name, index) != index:
            say((*path, "name"), f"{name} is also underlay.segments[{first[name]}] (another name)")
        if len(found) > 1 and "router" not in segment:
            say((*path, "router"), "is missing (the underlay's own address here joins segments)")
        if values.network(segment.get("cidr")):
            continue
        net = IPv4Network(segment["cidr"])
        if net.prefixlen > 30:
            say((*path, "cidr"), f"{net} has no room for two machines (/30 or larger)")
        elif "router" in segment and not values.address(segment["router"]):
            router = IPv4Address(segment["router"])
            if router not in net:
                say((*path, "router"), f"{router} is outside its segment {net}")
            elif wrong := values.host_in(router, net):
                say((*path, "router"), wrong)


def machines(lab: dict[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    """Return field, name and address of all that is plugged into the underlay."""
    for index, segment in items(lab["underlay"]["segments"]):
        if "router" in segment:
            where: Path = ("underlay", "segments", index, "router")
            yield where, f"the router of segment {segment['name']}", segment["router"]
    for member in ("gateway", "master", "balancer"):
        if member in lab:
            yield (member, "address"), f"the {member}", lab[member].get("address")
    for index, node in items(lab["nodes"]):
        yield ("nodes", index, "address"), f"node {node.get('name')}", node.get("address")


def _check_addresses(lab: dict[str, Any], say: Say, *, spread: bool) -> None:
    nets = [(path[2], net) for path, net in prefixes(lab) if path[0] == "underlay"]
    owners: dict[str, str] = {}
    members = [0] * len(nets)
    for path, name, text in machines(lab):
        if text is None:
            if nets and nets[0][0] == 0 and nets[0][1].prefixlen <= 30:
                say(path, f"is missing, and {nets[0][1]} has no free address left (a larger one)")
            continue
        if values.address(text):
            continue
        if owners.setdefault(text, name) != name:
            one_machine = owners[text] == "the master" and path[0] == "nodes"
            if one_machine and spread:
                owners[text] = name
            else:
                own = "an address of its own" + ", or `up --master`" * one_machine
                say(path, f"{text} is also the address of {owners[text]} ({own})")
        if path[-1] == "router":
            continue
        here = next((index for index, one in enumerate(nets) if IPv4Address(text) in one[1]), None)
        if here is None:
            if nets:
                say(path, f"{text} is outside the underlay {_segments([net for _, net in nets])}")
            continue
        members[here] += 1
        if members[here] == BRIDGE_PORTS_MAX + 1:
            say(path, f"machine {members[here]} of its segment (a bridge: {BRIDGE_PORTS_MAX})")
        if wrong := values.host_in(IPv4Address(text), nets[here][1]):
            say(path, wrong)


def _segments(nets: list[IPv4Network]) -> str:
    return f"segment{'s' if len(nets) > 1 else ''} {', '.join(map(str, nets))}"


def _check_node_names(lab: dict[str, Any], say: Say) -> None:
    bridges = {f"br-{segment['name']}" for _, segment in items(lab["underlay"]["segments"])}
    first: dict[str, int] = {}
    for index, node in items(lab["nodes"]):
        name = node.get("name")
        path: Path = ("nodes", index, "name")
        if not isinstance(name, str):
            continue
        if first.setdefault(name, index) != index:
            say(path, f"{name} is also nodes[{first[name]}] (another name)")
        if name in world.MEMBERS:
            say(path, f"{name} is a part of every lab (another name)")
        if name in bridges:
            say(path, f"{name} is the device name of a segment's bridge (another name)")


def _check_bridges(lab: dict[str, Any], say: Say) -> None:
    vni = lab["network"]["Backend"].get("VNI", Backend().VNI)
    for index, node in items(lab["nodes"]):
        name = node.get("bridge")
        if name in ("lo", "eth0", f"flannel.{vni}", "flannel0"):
            say(("nodes", index, "bridge"), f"{name} is another device of the node (docker0)")
        elif isinstance(name, str) and _VETH.fullmatch(name):
            say(("nodes", index, "bridge"), f"{name} may be a pod's veth (docker0)")


def _check_network(lab: dict[str, Any], say: Say) -> None:
    """Check flannel's net-conf. Source: flannel v0.28 pkg/subnet/config.go."""
    raw = lab["network"]
    mtu, outer = raw["Backend"].get("MTU"), lab["underlay"]["mtu"]
    if isinstance(mtu, int) and isinstance(outer, int) and mtu > outer:
        say(("network", "Backend", "MTU"), f"{mtu} is more than the underlay's {outer}")
    check_leases(lab, IPv4Network, say)


def check_leases(lab: dict[str, Any], family: type[Net], say: Say) -> None:
    """Check the part of the net-conf that says which subnets there are, of one family."""
    raw, names = lab["network"], LEASES[family]
    if names.check(raw[names.network]):
        return
    net = family(raw[names.network])
    longest = net.max_prefixlen - 2  # a lease's length: its node and one pod
    if net.prefixlen > longest - 2:
        say(("network", names.network), f"{net} is too small for leases (/{longest - 2} or larger)")
        return
    length = raw.get(names.length, 0)
    if values.integer(length) or length > longest:
        return
    if length and length < net.prefixlen + 2:
        words = f"{length} is too short for {net} ({net.prefixlen + 2}..{longest})"
        say(("network", names.length), words)
        return
    length = subnet_length(net, length)
    if _check_limits(raw, net, length, say):
        _check_room(lab, net, length, say)


def _check_backend(lab: dict[str, Any], say: Say) -> None:
    """Check that the nodes' segments and the keys of the back end fit its kind."""
    backend = lab["network"]["Backend"]
    kind = backend["Type"]
    for key in ("VNI", "Port", "MTU", "DirectRouting"):
        if key in backend and kind in ("host-gw", "udp") and (kind, key) != ("udp", "Port"):
            say(("network", "Backend", key), f"means nothing to {kind} (leave it out)")
    if kind != "host-gw":
        return
    nets = [
        IPv4Network(segment["cidr"])
        for _, segment in items(lab["underlay"]["segments"])
        if not values.network(segment.get("cidr"))
    ]
    homes = [
        (index, net)
        for index, node in items(lab["nodes"])
        if not values.address(node.get("address"))
        for net in nets
        if IPv4Address(node["address"]) in net
    ]
    for index, net in homes:
        if net != homes[0][1]:
            address, home = lab["nodes"][index]["address"], homes[0][1]
            words = f"{address} is not in {home}: host-gw joins the nodes of one segment (vxlan)"
            say(("nodes", index, "address"), words)


def _check_limits(raw: dict[str, Any], net: Net, length: int, say: Say) -> bool:
    """Check the first and last subnet that may be leased, and return whether both are right."""
    right, names = True, LEASES[type(net)]
    for name in (names.low, names.high):
        text = raw.get(name)
        if text is None:
            continue
        wrong = values.address6(text) if net.version == 6 else values.address(text)
        right = right and not wrong
        if wrong:
            continue
        lease = ip_network(f"{text}/{length}", strict=False)
        if ip_address(text) not in net:
            say(("network", name), f"{text} is outside network.{names.network} {net}")
            right = False
        elif lease[0] != ip_address(text):
            say(("network", name), f"{text} is not the start of a /{length} ({lease[0]})")
            right = False
    return right


def _check_room(lab: dict[str, Any], net: Net, length: int, say: Say) -> None:
    raw, names = lab["network"], LEASES[type(net)]
    low, high = raw.get(names.low, ""), raw.get(names.high, "")
    leases = subnets(net, length, low, high)
    if leases == 0:
        first = low or str(net[1 << (net.max_prefixlen - length)])
        say(("network", names.high), f"{high} is before the first lease ({first} or later)")
        return
    nodes = len(lab["nodes"])
    if nodes > leases:
        room = f"{leases} lease{'s' if leases > 1 else ''} of /{length}"
        path: Path = ("nodes", leases)
        words = f"{nodes} nodes, but network.{names.network} {net} holds {room} (a larger network)"
        say(path, words)


def _check_service_cidr(lab: dict[str, Any], say: Say) -> None:
    text = lab["serviceCIDR"]
    if values.network(text):
        return
    low, high = 12, 28  # kube-apiserver refuses larger ones; kube-dns has the tenth address
    if not low <= IPv4Network(text).prefixlen <= high:
        say(("serviceCIDR",), f"{text} has a prefix length outside {low}..{high}")


def _check_pool(lab: dict[str, Any], say: Say) -> None:
    """Check that the balancer's addresses are nobody else's, and lie in one segment each."""
    balancer = lab.get("balancer") or {}
    entries = balancer.get("pool")
    nets = [net for path, net in prefixes(lab) if path[0] == "underlay"]
    taken = {
        int(IPv4Address(text)): name
        for _, name, text in machines(lab)
        if text is not None and not values.address(text)
    }
    before: list[tuple[int, range]] = []
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if values.pool_entry(entry):
            continue
        path: Path = ("balancer", "pool", index)
        mine = address_range(entry)
        first, last = IPv4Address(mine[0]), IPv4Address(mine[-1])
        home = next((net for net in nets if first in net and last in net), None)
        if home is None:
            if nets:
                say(path, f"{entry} is not inside the underlay {_segments(nets)}")
        elif wrong := values.host_in(first, home) or values.host_in(last, home):
            say(path, wrong)
        for number, name in taken.items():
            if number in mine:
                say(path, f"{entry} has {IPv4Address(number)}, the address of {name}")
        for other, known in before:
            if mine[0] <= known[-1] and known[0] <= mine[-1]:
                say(path, f"{entry} overlaps balancer.pool[{other}] (entries apart)")
        before.append((index, mine))


def _check_balancer_home(lab: dict[str, Any], say: Say) -> None:
    """Check that the balancer is on the segment of the machine that it hangs on."""
    text = (lab.get("balancer") or {}).get("address")
    home = next((node.get("address") for _, node in items(lab["nodes"])), None)
    if values.address(text) or values.address(home):
        return
    for path, net in prefixes(lab):
        if path[0] == "underlay" and IPv4Address(home) in net and IPv4Address(text) not in net:
            words = f"{text} is not in {net}, as is the first node, on whose machine it would be"
            say(("balancer", "address"), f"{words} (an address there)")


def _check_dns(lab: dict[str, Any], say: Say) -> None:
    """Check the addresses of the cluster's DNS and of the resolver on the internet."""
    dns, outside = lab.get("dns"), lab["outside"]
    text, cidr = dns.get("address") if isinstance(dns, dict) else None, lab["serviceCIDR"]
    if text is not None and not values.address(text) and not values.network(cidr):
        if IPv4Address(text) not in IPv4Network(cidr):
            say(("dns", "address"), f"{text} is outside serviceCIDR {cidr} (an address of it)")
        elif wrong := values.host_in(IPv4Address(text), IPv4Network(cidr)):
            say(("dns", "address"), wrong)
    text, interface = outside.get("resolver"), outside["internet"]
    if text is None or values.address(text) or values.interface(interface):
        return
    net = IPv4Interface(interface).network
    if IPv4Address(text) not in net:
        say(("outside", "resolver"), f"{text} is outside outside.internet {net} (an address of it)")
    elif text == str(world.gateway_side(interface).ip):
        say(("outside", "resolver"), f"{text} is the gateway's own (another one)")
    elif wrong := values.host_in(IPv4Address(text), net):
        say(("outside", "resolver"), wrong)
