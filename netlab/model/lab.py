"""What a `kind: Lab` document declares: nodes, underlay, flannel's net-conf, the world outside.

Field names are those of the file. Addresses and prefixes stay text; the loader has checked them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
    summarize_address_range,
)

import msgspec

from netlab.model.attachments import Attachment
from netlab.model.faults import Fault, Sort, targets
from netlab.model.kubernetes import Meta
from netlab.model.modes import SCHEDULERS

API_VERSION = "netlab/v1"
SERVICE_CIDR = "10.96.0.0/12"  # kubeadm's default --service-cidr
SERVICE_CIDR6 = "fd00:10:96::/112"  # kind's default in a dual-stack cluster
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
NONE = "none"  # of a node: its flannel, or its rules of Services, are not netlab's to make
IP_MODES = ("VIP", "Proxy")  # core/v1 LoadBalancerIPMode; unset is the first
FIRST_CARD = "eth0"  # a machine's card on the underlay, where netlab makes the machine
BRIDGE_PORTS_MAX = 1023  # br_private.h, BR_MAX_PORTS, less port 0


def both(ipv4: str, ipv6: str) -> tuple[str, ...]:
    """Return what there is of the two, IPv4 first: all of a thing's addresses, or prefixes."""
    return tuple(filter(None, (ipv4, ipv6)))


def like(address: str, several: Iterable[str]) -> str:
    """Return the one of *several* addresses or prefixes that has the family of *address*, or ""."""
    return next((one for one in several if (":" in one) == (":" in address)), "")


class Segment(msgspec.Struct, frozen=True, omit_defaults=True):
    """One Ethernet segment of the underlay; `router` joins segments when there are several.

    `cidr6`, `router6`: the same for IPv6, in a dual-stack lab.
    """

    name: str
    cidr: str
    router: str = ""  # address of the underlay's own router here; needed with two segments or more
    cidr6: str = ""
    router6: str = ""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Its prefixes, one of each family."""
        return both(self.cidr, self.cidr6)

    @property
    def routers(self) -> tuple[str, ...]:
        """The addresses of its router, one of each family; none if it has no router."""
        return both(self.router, self.router6)


class Underlay(msgspec.Struct, frozen=True, omit_defaults=True):
    """The physical network between the nodes."""

    segments: list[Segment]
    mtu: int = 1500


class Taint(msgspec.Struct, frozen=True, omit_defaults=True):
    """What keeps pods off a node that do not tolerate it."""

    key: str
    effect: str  # NoSchedule, PreferNoSchedule, NoExecute
    value: str = ""


class LabNode(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine of the cluster, on the segment its address belongs to."""

    name: str
    address: str
    labels: dict[str, str] = {}
    taints: list[Taint] = []
    bridge: str = "docker0"
    flannel: str = ""  # or `none`: a foreign flanneld runs there
    proxyMode: str = ""  # or `none`: a foreign kube-proxy does
    # Of the running lab, never of a file, and only where the node is the machine itself.
    uplink: str = FIRST_CARD
    address6: str = ""  # in a dual-stack lab
    host: str = ""  # of a guest in a lab of several machines: the node on whose machine it is

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses on the underlay, one of each family."""
        return both(self.address, self.address6)

    @property
    def foreign_flannel(self) -> bool:
        """Whether netlab leaves lease, tunnel and flannel's rules to somebody else."""
        return self.flannel == NONE

    @property
    def foreign_proxy(self) -> bool:
        """Whether netlab leaves the rules of Services to somebody else."""
        return self.proxyMode == NONE

    @property
    def all_labels(self) -> dict[str, str]:
        """The Node object's labels: the declared ones and those a kubelet adds."""
        own = {"hostname": self.name, "os": "linux", "arch": ARCHITECTURE}
        return {**{f"kubernetes.io/{key}": value for key, value in own.items()}, **self.labels}


class Master(msgspec.Struct, frozen=True, omit_defaults=True):
    """The control plane's machine: etcd listens on its address and nowhere else."""

    address: str
    address6: str = ""  # in a dual-stack lab

    @property
    def addresses(self) -> tuple[str, ...]:
        return both(self.address, self.address6)


class Backend(msgspec.Struct, frozen=True, omit_defaults=True):
    """flannel's Backend. Keys are flannel's own."""

    Type: str = "vxlan"
    VNI: int = 1
    Port: int = 0
    MTU: int = 0
    DirectRouting: bool = False


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """flannel's net-conf, with flannel's own keys, as it is stored in etcd."""

    Network: str
    SubnetLen: int = 0  # 0: flannel's default, 24 in a network of /22 or larger, else Network + 2
    SubnetMin: str = ""
    SubnetMax: str = ""
    Backend: Backend = Backend()
    EnableIPv6: bool = False
    IPv6Network: str = ""
    IPv6SubnetLen: int = 0  # 0: flannel's default, 64 in a network of /62 or larger, else + 2
    IPv6SubnetMin: str = ""
    IPv6SubnetMax: str = ""

    @property
    def tunnel(self) -> str:
        """The name of flannel's device on each node, "" for a back end that has none."""
        vxlan = f"flannel.{self.Backend.VNI}"
        return {"vxlan": vxlan, "udp": "flannel0"}.get(self.Backend.Type, "")

    @property
    def tunnels(self) -> tuple[str, ...]:
        """The names of flannel's devices on each node: vxlan has one for each family."""
        of_ipv6 = self.EnableIPv6 and self.Backend.Type == "vxlan"
        return both(self.tunnel, f"flannel-v6.{self.Backend.VNI}" if of_ipv6 else "")

    @property
    def tunnel_port(self) -> int:
        """The UDP port of the envelopes between nodes, 0 for a back end that has none."""
        default = {"vxlan": 8472, "udp": 8285}.get(self.Backend.Type, 0)
        return default and (self.Backend.Port or default)

    @property
    def subnet_length(self) -> int:
        """The prefix length of a node's lease."""
        return subnet_length(IPv4Network(self.Network), self.SubnetLen)

    @property
    def subnets(self) -> int:
        """How many leases the network holds: the most nodes there can be."""
        net = IPv4Network(self.Network)
        return subnets(net, self.subnet_length, self.SubnetMin, self.SubnetMax)

    @property
    def pods_per_node(self) -> int:
        """How many pods one lease holds: all but the network's, the bridge's and the last address.

        Never more than a bridge has ports.
        """
        return min((1 << (32 - self.subnet_length)) - 3, BRIDGE_PORTS_MAX)


def subnet_length(network: IPv4Network | IPv6Network, declared: int = 0) -> int:
    """Return the prefix length of a node's lease; *declared* 0: flannel's default.

    Source: flannel v0.28 pkg/subnet/config.go: /24 in a network of /22 or larger, of IPv6 /64 in
    one of /62 or larger, else two bits more than the network's.
    """
    usual = 24 if network.version == 4 else 64
    length = network.prefixlen
    return declared or (usual if length <= usual - 2 else length + 2)


def subnets(network: IPv4Network | IPv6Network, length: int, low: str = "", high: str = "") -> int:
    """Return how many leases of *length* there are in *network*, from *low* to *high*.

    These are the first addresses of subnets; flannel leaves the first subnet out.
    """
    size = 1 << (network.max_prefixlen - length)
    first = int(ip_address(low)) if low else int(network[0]) + size
    last = int(ip_address(high)) if high else int(network[-1]) - size + 1
    return max(0, (last - first) // size + 1)


class Outside(msgspec.Struct, frozen=True, omit_defaults=True):
    """The world beyond the gateway: a server on the internet and a client, each on its own link.

    `resolver`: the address on the internet that knows `names`, IPv4 addresses by name.
    """

    internet: str = "203.0.113.10/24"
    client: str = "198.51.100.10/24"
    resolver: str = ""
    names: dict[str, str] = {}
    internet6: str = ""  # in a dual-stack lab, as `client6`
    client6: str = ""

    def machine(self, name: str) -> tuple[str, ...]:
        """Return the addresses of `internet` or `client`, each with its prefix length."""
        if name == "internet":
            return both(self.internet, self.internet6)
        return both(self.client, self.client6)


class Gateway(msgspec.Struct, frozen=True, omit_defaults=True):
    """The firewall between underlay and outside. `publish`: ports open from the outside to nodes,
    each `PORT/PROTO` or `FIRST-LAST/PROTO`."""

    address: str
    publish: list[str] = []
    address6: str = ""  # in a dual-stack lab

    @property
    def addresses(self) -> tuple[str, ...]:
        return both(self.address, self.address6)


class Balancer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The L4 load balancer outside the nodes: a machine of the underlay, with addresses to give.

    `pool`: what Services of type LoadBalancer get, each entry an address, `FIRST-LAST`, or a
    prefix in CIDR notation, of which every address counts.
    """

    address: str
    pool: list[str]
    ipMode: str = IP_MODES[0]

    @property
    def ranges(self) -> list[range]:
        """The addresses of the pool as numbers, entry by entry."""
        return [address_range(entry) for entry in self.pool]

    @property
    def prefixes(self) -> list[str]:
        """The fewest prefixes that are just the pool, as routes to it name them."""
        ends = ((IPv4Address(one[0]), IPv4Address(one[-1])) for one in self.ranges)
        nets = (net for first, last in ends for net in summarize_address_range(first, last))
        return [str(net) for net in collapse_addresses(nets)]

    def holds(self, address: str) -> bool:
        """Return whether the canonical *address* is one of the pool's."""
        return any(int(IPv4Address(address)) in one for one in self.ranges)


def address_range(entry: str) -> range:
    """Return the addresses of a pool's *entry* as numbers. Raises ValueError."""
    if "-" in entry:
        first, _, last = entry.partition("-")
        return range(int(IPv4Address(first)), int(IPv4Address(last)) + 1)
    network = IPv4Network(entry)
    return range(int(network[0]), int(network[-1]) + 1)


class Dns(msgspec.Struct, frozen=True, omit_defaults=True):
    """The cluster's own DNS. `address`: of its Service; `upstream`: whom it asks for other names;
    `pods`: which pods' addresses have names, as CoreDNS has it."""

    replicas: int = 2
    address: str = ""
    domain: str = "cluster.local"
    ttl: int = 5  # seconds
    upstream: list[str] = []
    pods: str = "insecure"


class NodeLifecycle(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a node that is no longer heard from is lost, and its pods with it; in seconds."""

    gracePeriodSeconds: int = 5  # kube-controller-manager --node-monitor-grace-period: 50
    tolerationSeconds: int = 0  # kube-apiserver --default-unreachable-toleration-seconds: 300


class Ipvs(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of kube-proxies in ipvs mode, in the words of KubeProxyConfiguration."""

    scheduler: str = SCHEDULERS[0]
    # No link answers for addresses that are on another; None: where the lab has a balancer.
    strictARP: bool | None = None
    excludeCIDRs: tuple[str, ...] = ()
    tcpTimeout: str = "0s"  # this, and those below: the kernel's own
    tcpFinTimeout: str = "0s"
    udpTimeout: str = "0s"


class Lab(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole lab, as declared."""

    metadata: Meta
    underlay: Underlay
    master: Master
    nodes: list[LabNode]
    network: Network
    gateway: Gateway
    outside: Outside = Outside()
    serviceCIDR: str = SERVICE_CIDR
    serviceCIDR6: str = ""  # of a dual-stack lab
    proxyMode: str = "iptables"
    ipvs: Ipvs = Ipvs()
    nodeLifecycle: NodeLifecycle = NodeLifecycle()
    faults: tuple[Fault, ...] = ()  # of the running lab, never of a file
    attached: tuple[Attachment, ...] = ()  # the same of foreign namespaces
    spread: bool = False  # likewise: whether the nodes are machines of their own, as `up --master`
    balancer: Balancer | None = None
    dns: Dns = Dns()
    apiVersion: str = API_VERSION
    kind: str = "Lab"

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def dual(self) -> bool:
        """Whether pods have IPv6 addresses beside those of IPv4."""
        return self.network.EnableIPv6

    @property
    def running(self) -> list[LabNode]:
        """The nodes that are not switched off."""
        off = targets(self.faults, Sort.NODE_STOP)
        return [node for node in self.nodes if node.name not in off]

    def faulted(self, sort: Sort, target: str = "") -> Fault | None:
        """Return the fault of this kind at *target*, None when there is none."""
        return next((one for one in self.faults if one.key == (sort, target)), None)

    @property
    def dns_address(self) -> str:
        """The address of the cluster's DNS: by custom the tenth of `serviceCIDR`."""
        return self.dns.address or str(IPv4Network(self.serviceCIDR)[10])

    @property
    def resolver(self) -> str:
        """The address of the resolver on the internet: the 53rd of its network if that is free,
        else the server's own."""
        server = IPv4Interface(self.outside.internet)
        net = server.network
        free = net.num_addresses > 54 and net[53] != server.ip
        return self.outside.resolver or str(net[53] if free else server.ip)

    @property
    def outside_names(self) -> dict[str, str]:
        """The names the resolver on the internet knows."""
        server = str(IPv4Interface(self.outside.internet).ip)
        return self.outside.names or dict.fromkeys(("example.com", "www.example.com"), server)

    def segment_of(self, address: str) -> Segment:
        """Return the underlay segment that *address* lies in. Raises LookupError."""
        for segment in self.underlay.segments:
            if any(ip_address(address) in ip_network(prefix) for prefix in segment.prefixes):
                return segment
        raise LookupError(f"{address} is in no underlay segment")

    def node(self, name: str) -> LabNode:
        """Return the declared node called *name*. Raises LookupError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise LookupError(f"no node {name} in lab {self.name}")

    def uplink(self, member: str) -> str:
        """Return the card on the underlay of a node, or of another machine."""
        return next((one.uplink for one in self.nodes if one.name == member), FIRST_CARD)

    def netns(self, *parts: str) -> str:
        """Return the namespace name of a part of this lab: `notes.node1`, `notes.node1.ns.pod`."""
        return ".".join((self.name, *parts))
