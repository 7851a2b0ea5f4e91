"""The Lab document: its shape, what may be left out, and what must agree within it.

Left out, a field is: `underlay` one segment `lan` of 192.168.50.0/24 with MTU 1500; the addresses
of `gateway`, `master` and nodes the first free hosts of the first segment, in this order;
that of a declared `balancer` comes last, and none is of its pool; `network` 10.244.0.0/16 over
VXLAN; `outside` two documentation networks (RFC 5737); `serviceCIDR` 10.96.0.0/12; `proxyMode`
iptables; `dns` two replicas at the tenth address of `serviceCIDR`, which ask a resolver on the
internet for other names. Only `metadata.name` and `nodes` are required.

With `network.EnableIPv6` there are two of each: what is left out of IPv6 is `IPv6Network`
fd00:10:244::/56, `serviceCIDR6` fd00:10:96::/112, a /64 of fd00:192:168::/48 for each segment,
two documentation networks outside (RFC 3849), and for each machine the address in its segment's
`cidr6` that has the number its IPv4 address has in `cidr`: ::11 for 192.168.50.11.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Any

from netlab.dns.zone import PODS
from netlab.model.lab import (
    API_VERSION,
    IP_MODES,
    NONE,
    SERVICE_CIDR,
    Backend,
    Lab,
    Outside,
    address_range,
)
from netlab.model.modes import PROXY_MODES, SCHEDULERS, TIMEOUT_MAX
from netlab.topology import dualstack, values
from netlab.topology.shapes import ANNOTATIONS, LABELS, Each, Fields, Pairs

# An inner packet of 1280 bytes, the least IPv6 needs, and VXLAN's 50 around it (RFC 8200, 7348).
MTU_MIN = 1330
MTU_MAX = 65535  # a veth's; an IPv4 packet's total length has 16 bits
VNI_MAX = 9_999_999  # the protocol has 24 bits, but flannel.<VNI> must fit an interface name

TTL_MAX = 3600  # seconds; CoreDNS's plugin kubernetes takes no more
GRACE_MIN, GRACE_MAX = 2, 3600  # seconds; etcd grants no shorter lease (minLeaseTTL)

BACKENDS = ("vxlan", "host-gw", "udp")

_mtu = values.between(MTU_MIN, MTU_MAX)


def _backend_mtu(value: Any) -> str:
    return "" if value == 0 and values.integer(value) == "" else _mtu(value)


_BACKEND = Fields(
    {
        "Type": values.one_of(BACKENDS),
        "VNI": values.between(1, VNI_MAX, why="flannel.<VNI> must fit an interface name"),
        "Port": values.between(0, 65535),
        "MTU": _backend_mtu,
        "DirectRouting": values.boolean,
    },
    later=frozenset(("GBP", "Learning")),
)

_NETWORK = Fields(
    {
        "Network": values.network,
        "SubnetLen": values.between(1, 30),
        "SubnetMin": values.address,
        "SubnetMax": values.address,
        "Backend": _BACKEND,
        "EnableIPv6": values.boolean,
        "IPv6Network": values.network6,
        "IPv6SubnetLen": values.between(1, 126),
        "IPv6SubnetMin": values.address6,
        "IPv6SubnetMax": values.address6,
    },
    later=frozenset(("EnableIPv4", "EnableNFTables")),
)

_SEGMENT = Fields(
    {
        "name": values.label,
        "cidr": values.network,
        "router": values.address,
        "cidr6": values.network6,
        "router6": values.address6,
    },
    required=("cidr",),
)

_TAINT = Fields(
    {
        "key": values.label_key,
        "value": values.label_value,
        "effect": values.one_of(("NoSchedule", "PreferNoSchedule", "NoExecute")),
    },
    required=("key", "effect"),
)

_NODE = Fields(
    {
        "name": values.label,
        "address": values.address,
        "address6": values.address6,
        "labels": LABELS,
        "taints": Each(_TAINT),
        "bridge": values.interface_name,
        "flannel": values.one_of((NONE,)),
        "proxyMode": values.one_of((NONE,)),
    },
    required=("name",),
)

_BALANCER = Fields(
    {
        "address": values.address,
        "pool": Each(values.pool_entry, least=1),
        "ipMode": values.one_of(IP_MODES),
    },
    required=("pool",),
)


_timeout = values.duration(TIMEOUT_MAX)  # of what ip_vs remembers


def _name(value: str) -> str:
    """Return why *value* cannot be a name outside."""
    return values.subdomain(value.removesuffix("."))


_ADDRESSES = {"address": values.address, "address6": values.address6}

SHAPE = Fields(
    {
        "apiVersion": values.string,
        "kind": values.string,
        "metadata": Fields(
            {"name": values.label, "labels": LABELS, "annotations": ANNOTATIONS}, required=("name",)
        ),
        "underlay": Fields({"mtu": _mtu, "segments": Each(_SEGMENT, least=1)}),
        "master": Fields(_ADDRESSES),
        "gateway": Fields({**_ADDRESSES, "publish": Each(values.published)}),
        "nodes": Each(_NODE, least=1),
        "network": _NETWORK,
        "outside": Fields(
            {
                "internet": values.interface,
                "client": values.interface,
                "resolver": values.address,
                "names": Pairs(_name, values.address),
                "internet6": values.interface6,
                "client6": values.interface6,
            }
        ),
        "serviceCIDR": values.network,
        "serviceCIDR6": values.network6,
        "nodeLifecycle": Fields(
            {
                "gracePeriodSeconds": values.between(GRACE_MIN, GRACE_MAX),
                "tolerationSeconds": values.not_negative,
            }
        ),
        "proxyMode": values.one_of(PROXY_MODES),
        "ipvs": Fields(
            {
                "scheduler": values.one_of(SCHEDULERS),
                "strictARP": values.boolean,
                "excludeCIDRs": Each(values.network),
                "tcpTimeout": _timeout,
                "tcpFinTimeout": _timeout,
                "udpTimeout": _timeout,
            },
            later=frozenset(("syncPeriod", "minSyncPeriod")),
        ),
        "balancer": _BALANCER,
        "dns": Fields(
            {
                "replicas": values.not_negative,
                "address": values.address,
                "domain": values.subdomain,
                "ttl": values.between(0, TTL_MAX),
                "upstream": Each(values.address),
                "pods": values.one_of(PODS),
            }
        ),
    },
    required=("metadata", "nodes"),
)


def completed(value: dict[str, Any]) -> dict[str, Any]:
    """Return the Lab document *value* with everything filled in that was left out.

    Tolerates a document with mistakes: what has the wrong form is left as it is.
    """
    lab = dict(value)
    lab["apiVersion"] = API_VERSION
    lab["underlay"] = underlay = _mapping(lab, "underlay")
    underlay.setdefault("mtu", 1500)
    underlay.setdefault("segments", [{"cidr": "192.168.50.0/24"}])
    underlay["segments"] = _named_segments(underlay["segments"])
    lab["network"] = network = _mapping(lab, "network")
    network.setdefault("Network", "10.244.0.0/16")
    network["Backend"] = _mapping(network, "Backend")
    network["Backend"].setdefault("Type", Backend().Type)
    lab["outside"] = outside = _mapping(lab, "outside")
    outside.setdefault("internet", Outside().internet)
    outside.setdefault("client", Outside().client)
    lab.setdefault("serviceCIDR", SERVICE_CIDR)
    lab.setdefault("proxyMode", PROXY_MODES[0])
    lab["gateway"] = _mapping(lab, "gateway")
    lab["master"] = _mapping(lab, "master")
    if "balancer" in lab:
        lab["balancer"] = _mapping(lab, "balancer")
    lab["nodes"] = [dict(node) if isinstance(node, dict) else node for node in _list(lab, "nodes")]
    _give_addresses(lab)
    if network.get("EnableIPv6") is True:
        dualstack.complete(lab)
    return lab


def _mapping(value: dict[str, Any], name: str) -> dict[str, Any]:
    inner = value.get(name)
    return dict(inner) if isinstance(inner, dict) else {}


def _list(value: dict[str, Any], name: str) -> list[Any]:
    inner = value.get(name)
    return inner if isinstance(inner, list) else []


def _named_segments(segments: Any) -> list[Any]:
    """Return *segments* with names: `lan`, or `lan1`, `lan2`, … when there are several."""
    items = segments if isinstance(segments, list) else []
    several = len(items) > 1
    return [
        {"name": f"lan{index}" if several else "lan", **item} if isinstance(item, dict) else item
        for index, item in enumerate(items, start=1)
    ]


def _give_addresses(lab: dict[str, Any]) -> None:
    """Give gateway, master, nodes and balancer without an address the first free one, in order."""
    segments = [item for item in lab["underlay"]["segments"] if isinstance(item, dict)]
    nodes = [node for node in lab["nodes"] if isinstance(node, dict)]
    balancer = lab.get("balancer", {})
    machines = [lab["gateway"], lab["master"], *nodes, *([balancer] if balancer else [])]
    pool = [one for one in _list(balancer, "pool") if not values.pool_entry(one)]
    taken = {str(machine.get("address")) for machine in machines}
    taken |= {str(segment.get("router")) for segment in segments}
    if not segments or values.network(segments[0].get("cidr")):
        return
    net = IPv4Network(segments[0]["cidr"])
    free = iter(()) if net.prefixlen > 30 else _free_hosts(net, taken, pool)
    for machine in machines:
        if "address" not in machine and (address := next(free, "")):
            machine["address"] = address


def _free_hosts(net: IPv4Network, taken: set[str], pool: list[str]) -> Iterator[str]:
    given = [address_range(entry) for entry in pool]
    return (
        str(host)
        for host in net.hosts()
        if str(host) not in taken and not any(int(host) in one for one in given)
    )


def lab_from(value: dict[str, Any]) -> Lab:
    """Return the Lab that the checked document *value* declares."""
    import msgspec

    return msgspec.convert(completed(value), Lab)
