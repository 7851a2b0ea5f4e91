"""flannel's net-conf: what is declared, with flannel's defaults filled in.

Source: flannel v0.28 pkg/subnet/config.go, pkg/backend/vxlan/vxlan.go.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from netlab.errors import NetlabError
from netlab.flannel import golang
from netlab.model import lab

PREFIX = "/coreos.com/network"  # flanneld's default --etcd-prefix
CONFIG_KEY = f"{PREFIX}/config"
# Without a slash at the end, as flannel asks: it reads `subnetsX/10.5.8.0-24` as a lease too.
SUBNETS = f"{PREFIX}/subnets"
LONGEST_NETWORK = 28  # prefix lengths
LONGEST_SUBNET = 30
VXLAN, HOST_GW, UDP = "vxlan", "host-gw", "udp"


class Config(msgspec.Struct, frozen=True):
    """A net-conf with every default filled in. Subnets are given by their first address."""

    network: str  # 10.244.0.0/16
    subnet_len: int
    subnet_min: str
    subnet_max: str  # the last subnet that may be leased, included
    backend: str = VXLAN
    vni: int = 1
    port: int = 0  # 0: the backend's own
    mtu: int = 0  # of the underlay; 0: that of the uplink
    direct_routing: bool = False

    def fits(self, subnet: str) -> bool:
        """Return whether *subnet* may be a lease here: right length, aligned, within bounds."""
        address, _, length = subnet.partition("/")
        first = int(IPv4Address(address))
        return (
            int(length) == self.subnet_len
            and first % self.size == 0
            and int(IPv4Address(self.subnet_min)) <= first <= int(IPv4Address(self.subnet_max))
        )

    @property
    def lease_type(self) -> str:
        """The BackendType of a node's lease: udp leases name none."""
        return "" if self.backend == UDP else self.backend

    @property
    def size(self) -> int:
        """How many addresses a subnet has."""
        return 1 << (32 - self.subnet_len)

    def json(self) -> str:
        """Return the text for CONFIG_KEY."""
        backend: dict[str, Any] = {"Type": self.backend}
        if self.backend == VXLAN:
            backend["VNI"] = self.vni
        optional = {"Port": self.port, "MTU": self.mtu, "DirectRouting": self.direct_routing}
        backend |= {key: value for key, value in optional.items() if value}
        return json.dumps(
            {
                "Network": self.network,
                "SubnetLen": self.subnet_len,
                "SubnetMin": self.subnet_min,
                "SubnetMax": self.subnet_max,
                "Backend": backend,
            },
            separators=(",", ":"),
        )


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
            )
        )
    except ValueError as error:
        raise NetlabError(f"etcd key {CONFIG_KEY}: {error}") from error


def _backend(value: object) -> lab.Backend:
    fields = golang.folded(value, "Backend")
    name = _string(fields, "Type")
    if not name:
        raise ValueError("Backend.Type is missing")
    direct = fields.get("directrouting") or False
    if not isinstance(direct, bool):
        raise ValueError("Backend.DirectRouting must be true or false")
    vxlan = name.lower() == VXLAN
    return lab.Backend(
        Type=name,
        # The key may be there with 0, which flannel takes at its word and the kernel refuses.
        VNI=_number(fields, "VNI") if vxlan and fields.get("vni") is not None else 1,
        Port=_number(fields, "Port"),
        MTU=_number(fields, "MTU"),
        DirectRouting=direct,
    )


def _string(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key.lower())
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be a string, not {value!r}")
    return value or ""


def _number(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key.lower())
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} must be a whole number, not {value!r}")
    return value


def _resolved(declared: lab.Network) -> Config:
    if not declared.Network:
        raise ValueError("Network is missing")
    network = IPv4Network(declared.Network, strict=False)
    if network.prefixlen > LONGEST_NETWORK:
        raise ValueError(f"Network {network} is too small: /{LONGEST_NETWORK} or larger")
    length = declared.SubnetLen or (24 if network.prefixlen <= 22 else network.prefixlen + 2)
    if not network.prefixlen + 2 <= length <= LONGEST_SUBNET:
        raise ValueError(
            f"SubnetLen {length} must be from {network.prefixlen + 2} to {LONGEST_SUBNET}"
        )
    size = 1 << (32 - length)
    # flannel leaves the first subnet out.
    first = _bound("SubnetMin", declared.SubnetMin, network, size, int(network[0]) + size)
    last = _bound("SubnetMax", declared.SubnetMax, network, size, int(network[-1]) + 1 - size)
    if first > last:
        raise ValueError(f"SubnetMin {first} lies behind SubnetMax {last}")
    if not 0 < declared.Backend.VNI < 1 << 24:
        raise ValueError(f"Backend.VNI {declared.Backend.VNI} must be from 1 to {(1 << 24) - 1}")
    return Config(
        network=str(network),
        subnet_len=length,
        subnet_min=str(first),
        subnet_max=str(last),
        backend=declared.Backend.Type.lower(),
        vni=declared.Backend.VNI,
        port=declared.Backend.Port,
        mtu=declared.Backend.MTU,
        direct_routing=declared.Backend.DirectRouting,
    )


def _bound(name: str, text: str, network: IPv4Network, size: int, default: int) -> IPv4Address:
    address = IPv4Address(text or default)
    if address not in network:
        raise ValueError(f"{name} {address} is not in Network {network}")
    if int(address) % size:
        raise ValueError(f"{name} {address} is not the first address of a subnet")
    return address
