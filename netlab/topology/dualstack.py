"""Dual stack in a Lab document: what is left out of IPv6, and what must agree within it.

Every field of IPv6 stands beside the one of IPv4 and is called as it is with a 6, but for flannel's
own (`EnableIPv6`, `IPv6Network`, …), so that a document of one stack reads as it always did and
each field has one value of one form. All of them mean something with `EnableIPv6` only.

Works on the completed document and tolerates values of the wrong form: those are already noted.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

from netlab.flannel.vxlan import IPV6_MTU, VXLAN_OVERHEAD_V6
from netlab.model.lab import SERVICE_CIDR6
from netlab.topology import labrules, values
from netlab.topology.labrules import Say, items
from netlab.topology.tree import Path

NETWORK = "fd00:10:244::/56"
OUTSIDE = {"internet6": "2001:db8:1::10/64", "client6": "2001:db8:2::10/64"}  # RFC 3849
UNUSABLE = {
    "::/8": "loopback and what is reserved, RFC 4291",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
}
_NET_CONF = ("IPv6Network", "IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax")


def complete(lab: dict[str, Any]) -> None:
    """Fill in what the document *lab*, completed but for this, leaves out of IPv6."""
    lab["network"].setdefault("IPv6Network", NETWORK)
    lab.setdefault("serviceCIDR6", SERVICE_CIDR6)
    lab["outside"] = {**OUTSIDE, **lab["outside"]}
    segments = lab["underlay"]["segments"]
    lab["underlay"]["segments"] = [
        _segment(one) if isinstance(one, dict) else one for one in segments
    ]
    homes = list(_homes(lab))
    for machine in (lab["gateway"], lab["master"], *(node for _, node in items(lab["nodes"]))):
        if "address6" not in machine and (address := _numbered(homes, machine.get("address"))):
            machine["address6"] = address


def _segment(segment: dict[str, Any]) -> dict[str, Any]:
    """Return the segment with a prefix of its own, and its router with the router's number."""
    if "cidr6" not in segment and not values.network(segment.get("cidr")):
        net = IPv4Network(segment["cidr"])
        if net.prefixlen <= 24:  # else another may begin with the same three numbers
            numbers = ":".join(str(net.network_address).split(".")[:3])
            segment = {**segment, "cidr6": str(IPv6Network(f"fd00:{numbers}::/64"))}
    if "router" in segment and "router6" not in segment:
        home = _home(segment)
        address = _numbered([home] if home else [], segment["router"])
        return {**segment, "router6": address} if address else segment
    return segment


def _home(segment: dict[str, Any]) -> tuple[IPv4Network, IPv6Network] | None:
    if values.network(segment.get("cidr")) or values.network6(segment.get("cidr6")):
        return None
    return IPv4Network(segment["cidr"]), IPv6Network(segment["cidr6"])


def _homes(lab: dict[str, Any]) -> Iterator[tuple[IPv4Network, IPv6Network]]:
    """Return both prefixes of each segment that has both in the right form."""
    for _, segment in items(lab["underlay"]["segments"]):
        if home := _home(segment):
            yield home


def _numbered(homes: list[tuple[IPv4Network, IPv6Network]], text: Any) -> str:
    """Return the IPv6 address with the number that *text* has in its segment, "" for none.

    The number is read alike, not equal: 192.168.50.11 is ::11.
    """
    if values.address(text):
        return ""
    for net, net6 in homes:
        if IPv4Address(text) in net:
            number = int(str(int(IPv4Address(text)) - int(net[0])), 16)
            return str(net6[number]) if 0 < number < net6.num_addresses else ""
    return ""


def check(lab: dict[str, Any], say: Say, *, spread: bool = False) -> None:
    """Say everything in which the completed Lab document *lab* contradicts itself about IPv6.

    *spread*: its nodes are machines of their own, of which one may be the master, too.
    """
    enabled = lab["network"].get("EnableIPv6", False)
    if enabled is False:
        for path in _fields(lab):
            say(path, "means nothing without network.EnableIPv6: true (leave it out, or enable it)")
    if enabled is not True:
        return
    labrules.check_prefixes(list(_prefixes(lab)), UNUSABLE, say, example="fd00:50::/64")
    _check_segments(lab, say)
    _check_addresses(lab, say, spread=spread)
    _check_network(lab, say)
    cidr = lab["serviceCIDR6"]
    low, high = 108, 124  # kube-apiserver refuses larger ones; kube-dns has the tenth address
    if not values.network6(cidr) and not low <= IPv6Network(cidr).prefixlen <= high:
        say(("serviceCIDR6",), f"{cidr} has a prefix length outside {low}..{high}")


def _fields(lab: dict[str, Any]) -> Iterator[Path]:
    """Return the fields of IPv6 that are there."""
    yield from (("network", name) for name in _NET_CONF if name in lab["network"])
    yield from (("outside", name) for name in OUTSIDE if name in lab["outside"])
    if "serviceCIDR6" in lab:
        yield ("serviceCIDR6",)
    for index, segment in items(lab["underlay"]["segments"]):
        for name in ("cidr6", "router6"):
            if name in segment:
                yield ("underlay", "segments", index, name)
    for path, _, _, machine in _machines(lab):
        if "address6" in machine:
            yield path


def _machines(lab: dict[str, Any]) -> Iterator[tuple[Path, str, Any, dict[str, Any]]]:
    """Return field, name, IPv6 address and mapping of the machines that have one of each family."""
    for member in ("gateway", "master"):
        yield (member, "address6"), f"the {member}", lab[member].get("address6"), lab[member]
    for index, node in items(lab["nodes"]):
        path: Path = ("nodes", index, "address6")
        yield path, f"node {node.get('name')}", node.get("address6"), node


def _prefixes(lab: dict[str, Any]) -> Iterator[tuple[Path, IPv6Network]]:
    for index, segment in items(lab["underlay"]["segments"]):
        if not values.network6(segment.get("cidr6")):
            yield ("underlay", "segments", index, "cidr6"), IPv6Network(segment["cidr6"])
    for path, text in (
        (("network", "IPv6Network"), lab["network"]["IPv6Network"]),
        (("serviceCIDR6",), lab["serviceCIDR6"]),
    ):
        if not values.network6(text):
            yield path, IPv6Network(text)
    for name in OUTSIDE:
        if not values.interface6(lab["outside"][name]):
            yield ("outside", name), IPv6Interface(lab["outside"][name]).network


def _check_segments(lab: dict[str, Any], say: Say) -> None:
    found = list(items(lab["underlay"]["segments"]))
    for index, segment in found:
        path: Path = ("underlay", "segments", index)
        if "cidr6" not in segment:
            if not values.network(segment.get("cidr")):
                say((*path, "cidr6"), "is missing (a prefix such as fd00:50::/64)")
            continue
        if values.network6(segment["cidr6"]):
            continue
        net = IPv6Network(segment["cidr6"])
        if net.prefixlen > 126:
            say((*path, "cidr6"), f"{net} has no room for two machines (/126 or larger)")
        elif len(found) > 1 and "router6" not in segment and "router" in segment:
            say((*path, "router6"), f"is missing, and {segment['router']} has no number in {net}")
        elif "router6" in segment and not values.address6(segment["router6"]):
            router = IPv6Address(segment["router6"])
            if router not in net:
                say((*path, "router6"), f"{router} is outside its segment {net}")
            elif wrong := values.host_in(router, net):
                say((*path, "router6"), wrong)


def _check_addresses(lab: dict[str, Any], say: Say, *, spread: bool) -> None:
    homes = list(_homes(lab))
    owners: dict[str, str] = {
        str(segment["router6"]): f"the router of segment {segment['name']}"
        for _, segment in items(lab["underlay"]["segments"])
        if "router6" in segment
    }
    for path, name, text, machine in _machines(lab):
        address = machine.get("address")
        if values.address(address):
            continue
        home = next((one for one in homes if IPv4Address(address) in one[0]), None)
        if text is None:
            if home is not None:
                say(path, f"is missing, and {address} has no number in {home[1]} (an address)")
            continue
        if values.address6(text):
            continue
        if owners.setdefault(text, name) != name:
            if spread and owners[text] == "the master" and address == lab["master"].get("address"):
                owners[text] = name
            else:
                say(path, f"{text} is also the address of {owners[text]} (an address of its own)")
        if home is not None and IPv6Address(text) not in home[1]:
            say(path, f"{text} is not in {home[1]}, the segment of {address}")
        elif home is not None and (wrong := values.host_in(IPv6Address(text), home[1])):
            say(path, wrong)


def _check_network(lab: dict[str, Any], say: Say) -> None:
    """Check the IPv6 half of flannel's net-conf. Source: flannel v0.28 pkg/subnet/config.go."""
    raw = lab["network"]
    if raw["Backend"]["Type"] == "udp":
        say(("network", "EnableIPv6"), "flannel's udp carries IPv4 only (vxlan or host-gw)")
    if raw["Backend"]["Type"] == "vxlan":
        least = IPV6_MTU + VXLAN_OVERHEAD_V6
        fields: tuple[tuple[Path, Any], ...] = (
            (("underlay", "mtu"), lab["underlay"]["mtu"]),
            (("network", "Backend", "MTU"), raw["Backend"].get("MTU") or least),
        )
        for path, mtu in fields:
            if not values.integer(mtu) and mtu < least:
                say(path, f"{mtu} is too little for IPv6 in a tunnel over IPv6 ({least} or more)")
    labrules.check_leases(lab, IPv6Network, say)
