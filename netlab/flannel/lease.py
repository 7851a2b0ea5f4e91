"""A lease: which node has which subnet, and how to reach it; its key and value in etcd.

Written byte for byte as flannel does; read as flannel does, but nothing unreadable ever costs a
peer: it is left out, with one warning. (A flanneld that meets such a key drops all its peers.)

Source: flannel v0.28 pkg/subnet/subnet.go, pkg/subnet/etcd/registry.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Protocol

import msgspec

from netlab.flannel import golang
from netlab.flannel.config import SUBNETS, VXLAN

# Not anchored in front, dots as flannel has them: `subnets/x/10.5.8.0-24` is a lease.
KEY = re.compile(r"(\d+\.\d+.\d+.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?\Z", re.ASCII)
NOWHERE = "0.0.0.0"
# Every node of a lab reads the same keys, each time one of them changes.
REMEMBERED = 8192
# What no machine has for its own and no route may lead to: this network, loopback, multicast and
# what is reserved (RFC 6890). The kernel refuses a gateway there, and with it the whole batch.
NOT_UNICAST = {
    4: ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"),
    6: ("::/8", "fe80::/10", "ff00::/8"),  # link-local: of which link?
}


class KeyValue(Protocol):
    """What is read of a key in etcd."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> bytes: ...
    @property
    def mod_revision(self) -> int: ...
    @property
    def create_revision(self) -> int: ...
    @property
    def lease(self) -> int: ...


class Lease(msgspec.Struct, frozen=True):
    """A subnet and the node that has it. `vtep_mac` is empty when it is unknown."""

    subnet: str  # 10.244.1.0/24
    public_ip: str
    backend_type: str = VXLAN  # "" for flannel's udp
    vni: int = 1
    vtep_mac: str = ""
    subnet_v6: str = ""
    public_ipv6: str = ""
    vtep_mac_v6: str = ""
    found_at: str = ""  # the key, when it is not the one flannel would write

    @property
    def ipv6(self) -> bool:
        """Whether it is the half of another one that is of IPv6."""
        return ":" in self.subnet

    @property
    def halves(self) -> tuple[Lease, ...]:
        """What it says of each family, as a lease of that family alone; IPv4's is itself."""
        if not (self.subnet_v6 and self.public_ipv6):
            return (self,)
        own = (self.subnet_v6, self.public_ipv6, self.backend_type, self.vni, self.vtep_mac_v6)
        return (self, Lease(*own))

    @property
    def held(self) -> tuple[str, ...]:
        """What its node has by it: subnet and VTEP MAC, and those of IPv6 with two stacks."""
        of_ipv6 = (self.subnet_v6, self.vtep_mac_v6) if self.public_ipv6 else ()
        return (self.subnet, self.vtep_mac, *of_ipv6)

    @property
    def key(self) -> str:
        """The etcd key that keeps it."""
        return self.found_at or key_of(self.subnet, self.subnet_v6)

    def value(self) -> bytes:
        """Return the JSON flannel writes for it. Raises ValueError for what it could not read."""
        fields: dict[str, Any] = {
            "PublicIP": golang.ipv4(self.public_ip),
            "PublicIPv6": self.public_ipv6 or None,
        }
        if self.backend_type:
            fields["BackendType"] = self.backend_type
        if self.backend_type == VXLAN:
            fields["BackendData"] = {"VNI": self.vni, "VtepMAC": golang.mac(self.vtep_mac)}
            if self.subnet_v6:
                fields["BackendV6Data"] = {
                    "VNI": self.vni,
                    "VtepMAC": golang.mac(self.vtep_mac_v6),
                }
        return json.dumps(fields, separators=(",", ":")).encode()


def key_of(subnet: str, subnet_v6: str = "") -> str:
    """Return the etcd key of a subnet: `/coreos.com/network/subnets/10.244.1.0-24`."""
    both = "&".join(filter(None, (subnet, subnet_v6)))
    return f"{SUBNETS}/{both.replace('/', '-')}"


@lru_cache(REMEMBERED)
def subnets_of(key: str) -> tuple[str, str]:
    """Return the subnets a key stands for, IPv4 and IPv6 ("" without). Raises ValueError."""
    found = KEY.search(key)
    if found is None:
        raise ValueError("the key is no subnet")
    address, length, address_v6, length_v6 = found.groups()
    # Go: ParseUint(…, 10, 5): a /32 is none.
    if int(length) >= 32:
        raise ValueError(f"/{length} is no length of a subnet")
    if int(length) == 0:
        raise ValueError("it has no IPv4 subnet")
    subnet = str(IPv4Network(f"{golang.ipv4(address)}/{int(length)}"))
    if not address_v6:
        return subnet, ""
    if int(length_v6) >= 128:
        raise ValueError(f"/{length_v6} is no length of an IPv6 subnet")
    return subnet, str(IPv6Network(f"{address_v6}/{int(length_v6)}"))


@lru_cache(REMEMBERED)
def parse(key: str, value: bytes) -> tuple[Lease, str]:
    """Return the lease and what is wrong with its backend's data ("": nothing).

    Raises ValueError when key or value is not a lease.
    """
    subnet, subnet_v6 = subnets_of(key)
    fields = golang.folded(golang.loads(value), "the value")
    kind = fields.get("backendtype") or ""
    if not isinstance(kind, str):
        raise ValueError("BackendType must be a string")
    public_ip = golang.ipv4(fields["publicip"]) if "publicip" in fields else NOWHERE
    if public_ip == NOWHERE:
        raise ValueError("it has no PublicIP")
    if wrong := _unreachable(subnet, public_ip):
        raise ValueError(wrong)
    given = fields.get("publicipv6")
    public_ipv6 = golang.ipv6(given) if given is not None else ""
    if subnet_v6 and public_ipv6 and (wrong := _unreachable(subnet_v6, public_ipv6)):
        wrong, public_ipv6 = f"is of IPv4 only: {wrong}", ""
    lease = Lease(
        subnet,
        public_ip,
        kind,
        subnet_v6=subnet_v6,
        public_ipv6=public_ipv6,
        found_at="" if key == key_of(subnet, subnet_v6) else key,
    )
    if kind != VXLAN:
        return lease, wrong
    try:
        data = golang.folded(fields.get("backenddata"), "BackendData")
        vni = data.get("vni") or 0
        if not isinstance(vni, int):
            raise ValueError(f"VNI {vni!r} is not a number")
        mac = golang.mac(data.get("vtepmac"))
    except ValueError as error:
        return lease, f"its node cannot be reached: {error}"
    mac_v6 = golang.folded(fields.get("backendv6data"), "BackendV6Data").get("vtepmac") or ""
    return msgspec.structs.replace(lease, vni=vni, vtep_mac=mac, vtep_mac_v6=mac_v6), wrong


def _unreachable(subnet: str, public_ip: str) -> str:
    """Return why no way can lead to *subnet* by *public_ip*, both of one family, or ""."""
    for one in (subnet, public_ip):
        net = ip_network(one)
        if any(net.overlaps(ip_network(other)) for other in NOT_UNICAST[net.version]):
            return f"nobody can be reached at {one}"
    if ip_address(public_ip) in ip_network(subnet):
        return f"its node, {public_ip}, would be within its own tunnel"
    return ""


def peers(items: Iterable[KeyValue]) -> tuple[list[Lease], list[str]]:
    """Return the leases among *items*, in the order of their keys, and one warning for each key
    that is no lease, or whose node cannot be reached. The node's own lease is among them."""
    found: dict[str, Lease] = {}
    warnings: dict[str, str] = {}
    for item in items:
        try:
            lease, wrong = parse(item.key, item.value)
            # A key flannel would not write gives way to the one it would.
            other = found.get(lease.subnet)
            if other is not None and not other.found_at:
                raise ValueError(f"{other.key} is the lease of {lease.subnet}")
        except ValueError as error:
            warnings[item.key] = _warning(item.key, f"ignored: {error}")
            continue
        if other is not None:
            warnings[other.key] = _warning(other.key, f"ignored: {item.key} is the lease")
        if wrong:
            warnings[item.key] = _warning(item.key, wrong)
        found[lease.subnet] = lease
    return list(found.values()), list(warnings.values())


def _warning(key: str, what: str) -> str:
    # json.dumps shows bytes that are not text as escapes.
    return f"etcd key {json.dumps(key)} {what}"
