"""flannel's net-conf: what is declared, with flannel's defaults filled in.

Source: flannel v0.28 pkg/subnet/config.go, pkg/backend/vxlan/vxlan.go.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import msgspec

from netlab.errors import NetlabError
from netlab.flannel import golang
from netlab.model import lab

PREFIX = "/coreos.com/network"  # flanneld's default --etcd-prefix
CONFIG_KEY = f"{PREFIX}/config"
# Without a slash at the end, as flannel asks: it reads `subnetsX/10.5.8.0-24` as a lease too.
SUBNETS = f"{PREFIX}/subnets"
HOST_BITS = 2  # the fewest of a lease: its node and one pod
VXLAN, HOST_GW, UDP = "vxlan", "host-gw", "udp"


class Range(msgspec.Struct, frozen=True):
    """Which subnets of one family may be leased. They are given by their first address."""

    network: str  # 10.244.0.0/16
    subnet_len: int
    subnet_min: str
    subnet_max: str  # the last subnet that may be leased, included

    @property
    def size(self) -> int:
        """How many addresses a subnet has."""
        return 1 << (ip_network(self.network).max_prefixlen - self.subnet_len)

    def fits(self, subnet: str) -> bool:
        """Return whether *subnet* may be a lease here: right length, aligned, within bounds."""
        address, _, length = subnet.partition("/")
        if not address or (":" in address) != (":" in self.network):
            return False
        first = int(ip_address(address))
        return (
            int(length) == self.subnet_len
            and first % self.size == 0
            and int(ip_address(self.subnet_min)) <= first <= int(ip_address(self.subnet_max))
        )


class Config(msgspec.Struct, frozen=True):
    """A net-conf with every default filled in. `ipv6`: of the second stack, None without one."""

    network: str  # 10.244.0.0/16
    subnet_len: int
    subnet_min: str
    subnet_max: str
    backend: str = VXLAN
    vni: int = 1
    port: int = 0  # 0: the backend's own
    mtu: int = 0  # of the underlay; 0: that of the uplink
    direct_routing: bool = False
    ipv6: Range | None = None

    @property
    def ipv4(self) -> Range:
        return Range(self.network, self.subnet_len, self.subnet_min, self.subnet_max)

    @property
    def networks(self) -> tuple[str, ...]:
        """The overlay's networks, one of each family."""
        return (self.network,) if self.ipv6 is None else (self.network, self.ipv6.network)

    def fits(self, subnet: str, subnet_v6: str = "") -> bool:
        """Return whether a node may have these subnets: one of each family there is."""
        if self.ipv6 is None:
            return not subnet_v6 and self.ipv4.fits(subnet)
        return self.ipv4.fits(subnet) and self.ipv6.fits(subnet_v6)

    @property
    def lease_type(self) -> str:
        """The BackendType of a node's lease: udp leases name none."""
        return "" if self.backend == UDP else self.backend

    def json(self) -> str:
        """Return the text for CONFIG_KEY."""
        backend: dict[str, Any] = {"Type": self.backend}
        if self.backend == VXLAN:
            backend["VNI"] = self.vni
        optional = {"Port": self.port, "MTU": self.mtu, "DirectRouting": self.direct_routing}
        backend |= {key: value for key, value in optional.items() if value}
        fields: dict[str, Any] = {
            "Network": self.network,
            "SubnetLen": self.subnet_len,
            "SubnetMin": self.subnet_min,
            "SubnetMax": self.subnet_max,
        }
        if self.ipv6 is not None:
            fields |= {
                "EnableIPv6": True,
                "IPv6Network": self.ipv6.network,
                "IPv6SubnetLen": self.ipv6.subnet_len,
                "IPv6SubnetMin": self.ipv6.subnet_min,
                "IPv6SubnetMax": self.ipv6.subnet_max,
            }
        return json.dumps({**fields, "Backend": backend}, separators=(",", ":"))


def resolve(network: lab.Network) -> Config:
    """Return the declared *network* with flannel's defaults. Raises NetlabError."""
    try:
        return _resolved(network)
    except ValueError as error:
        raise NetlabError(f"network: {error}") from error


def parse(text: str | bytes) -> Config:
    """Return the net-conf kept under CONFIG_KEY, read as flannel reads it. Raises NetlabError.

    Keys in any case; unknown ones are ignored; without a Backend it is "udp".
    """
    try:
        fields = golang.folded(golang.loads(text), "the net-conf")
        if fields.get("enableipv4") is False:
            raise ValueError("EnableIPv4 is false: an overlay without IPv4 is not supported")
        backend = fields.get("backend")
        return _resolved(
            lab.Network(
                Network=_string(fields, "Network"),
                SubnetLen=_number(fields, "SubnetLen"),
                SubnetMin=_string(fields, "SubnetMin"),
                SubnetMax=_string(fields, "SubnetMax"),
                Backend=lab.Backend(Type=UDP) if backend is None else _backend(backend),
                EnableIPv6=_boolean(fields, "EnableIPv6"),
                IPv6Network=_string(fields, "IPv6Network"),
                IPv6SubnetLen=_number(fields, "IPv6SubnetLen"),
                IPv6SubnetMin=_string(fields, "IPv6SubnetMin"),
                IPv6SubnetMax=_string(fields, "IPv6SubnetMax"),
            )
        )
    except ValueError as error:
        raise NetlabError(f"etcd key {CONFIG_KEY}: {error}") from error


def _backend(value: object) -> lab.Backend:
    fields = golang.folded(value, "Backend")
    name = _string(fields, "Type")
    if not name:
        raise ValueError("Backend.Type is missing")
    vxlan = name.lower() == VXLAN
    return lab.Backend(
        Type=name,
        # The key may be there with 0, which flannel takes at its word and the kernel refuses.
        VNI=_number(fields, "VNI") if vxlan and fields.get("vni") is not None else 1,
        Port=_number(fields, "Port"),
        MTU=_number(fields, "MTU"),
        DirectRouting=_boolean(fields, "DirectRouting"),
    )


def _string(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key.lower())
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be a string, not {value!r}")
    return value or ""


def _boolean(fields: dict[str, Any], key: str) -> bool:
    value = fields.get(key.lower()) or False
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false")
    return value


def _number(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key.lower())
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} must be a whole number, not {value!r}")
    return value


def _resolved(declared: lab.Network) -> Config:
    ipv4 = _range(
        IPv4Network, declared.Network, declared.SubnetLen, declared.SubnetMin, declared.SubnetMax
    )
    ipv6 = None
    if declared.EnableIPv6:
        ipv6 = _range(
            IPv6Network,
            declared.IPv6Network,
            declared.IPv6SubnetLen,
            declared.IPv6SubnetMin,
            declared.IPv6SubnetMax,
        )
    if not 0 < declared.Backend.VNI < 1 << 24:
        raise ValueError(f"Backend.VNI {declared.Backend.VNI} must be from 1 to {(1 << 24) - 1}")
    return Config(
        network=ipv4.network,
        subnet_len=ipv4.subnet_len,
        subnet_min=ipv4.subnet_min,
        subnet_max=ipv4.subnet_max,
        backend=declared.Backend.Type.lower(),
        vni=declared.Backend.VNI,
        port=declared.Backend.Port,
        mtu=declared.Backend.MTU,
        direct_routing=declared.Backend.DirectRouting,
        ipv6=ipv6,
    )


def _range(
    family: type[IPv4Network] | type[IPv6Network], net: str, length: int, low: str, high: str
) -> Range:
    """Return the subnets of one family, with flannel's defaults. Raises ValueError.

    Its fields have the names of IPv4's, with `IPv6` before them where they are of IPv6.
    """
    mark = "IPv6" if family is IPv6Network else ""
    if not net:
        raise ValueError(f"{mark}Network is missing")
    network = family(net, strict=False)
    longest = network.max_prefixlen - HOST_BITS
    if network.prefixlen > longest - 2:
        raise ValueError(f"{mark}Network {network} is too small: /{longest - 2} or larger")
    length = lab.subnet_length(network, length)
    if not network.prefixlen + 2 <= length <= longest:
        raise ValueError(
            f"{mark}SubnetLen {length} must be from {network.prefixlen + 2} to {longest}"
        )
    size = 1 << (network.max_prefixlen - length)
    # flannel leaves the first subnet out.
    first = ip_address(low) if low else network[size]
    last = ip_address(high) if high else network[-size]
    for name, address in (("SubnetMin", first), ("SubnetMax", last)):
        if address not in network:
            raise ValueError(f"{mark}{name} {address} is not in {mark}Network {network}")
        if int(address) % size:
            raise ValueError(f"{mark}{name} {address} is not the first address of a subnet")
    if int(first) > int(last):
        raise ValueError(f"{mark}SubnetMin {first} lies behind {mark}SubnetMax {last}")
    return Range(str(network), length, str(first), str(last))
