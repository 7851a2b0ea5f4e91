"""What whoever starts a proxy chooses, and what that means on one node."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from netlab.errors import UsageError
from netlab.model.durations import seconds
from netlab.model.lab import Lab, both
from netlab.model.modes import SCHEDULERS, Mode
from netlab.model.services import ZONE_LABEL, ProxyNode
from netlab.proxy.addresses import (
    ANYWHERE,
    Family,
    address,
    contains,
    family,
    is_loopback,
    network,
)

PRIMARY = "primary"  # nodePortAddresses: the node's primary address of each family
IPV4_LOOPBACK = "127.0.0.0"
LINK_LOCAL = "fe80::/10"
LONGEST_INTERFACE = 15  # characters of an interface's name; IFNAMSIZ is 16 (linux/if.h)


class DetectLocal(StrEnum):
    """How traffic of the node's own pods is recognised. Source: kube-proxy's DetectLocalMode."""

    CLUSTER_CIDR = "cluster-cidr"
    NODE_CIDR = "node-cidr"
    BRIDGE = "bridge"
    INTERFACE_PREFIX = "interface-prefix"
    NONE = "none"


class Timeouts(msgspec.Struct, frozen=True):
    """How long ip_vs remembers a connection without a packet, in seconds; 0: as it is."""

    tcp: int = 0
    tcp_fin: int = 0
    udp: int = 0


# The kernel's own. Source: Linux net/netfilter/ipvs/ip_vs_proto_tcp.c, _udp.c, v6.12.
USUAL = Timeouts(tcp=900, tcp_fin=120, udp=300)


class Options(msgspec.Struct, frozen=True):
    """A proxy's options."""

    mode: Mode = Mode.IPTABLES
    detect_local: DetectLocal = DetectLocal.NONE
    pod_cidrs: tuple[str, ...] = ()  # at most one per family; of node-cidr: (): what the Node says
    interface: str = ""  # the bridge, or the prefix of the pods' interfaces
    masquerade_all: bool = False
    node_port_addresses: tuple[str, ...] = ()  # prefixes, or PRIMARY alone; (): the mode's default
    localhost_node_ports: bool = True
    tcp_liberal: bool = False  # net.netfilter.nf_conntrack_tcp_be_liberal is set on the node
    service_cidrs: tuple[str, ...] = ()  # where all cluster IPs are; (): that is not known
    scheduler: str = SCHEDULERS[0]  # of ipvs mode, as is what follows
    strict_arp: bool | None = None  # no link answers for addresses on another; None: as it is
    timeouts: Timeouts = Timeouts()
    exclude_cidrs: tuple[str, ...] = ()  # virtual servers in these prefixes are not removed


class PodTraffic(msgspec.Struct, frozen=True):
    """What packets of the node's own pods look like, in one family. All blank: nobody can tell."""

    cidr: str = ""  # their source
    interface: str = ""  # the interface they come in by
    prefix: str = ""  # how the name of that interface begins

    @property
    def known(self) -> bool:
        """Whether pods can be told from others."""
        return bool(self.cidr or self.interface or self.prefix)


class NodePorts(msgspec.Struct, frozen=True):
    """On which of the node's addresses NodePorts are, in one family."""

    networks: tuple[str, ...]  # one prefix of length 0: on all of them
    loopback: bool  # also on 127.0.0.0/8, as far as `networks` covers it

    @property
    def everywhere(self) -> bool:
        """Whether every local address has them (loopback addresses: see `loopback`)."""
        return self.networks[0].endswith("/0")

    def on(self, canonical: str) -> bool:
        """Return whether the *canonical* address, one of the node's, has NodePorts."""
        if not self.loopback and any(contains(own, canonical) for own in ("127.0.0.0/8", "::1")):
            return False
        return any(contains(one, canonical) for one in self.networks)


class Situation(msgspec.Struct, frozen=True):
    """One node, in one family, as a proxy with given options sees it."""

    family: Family
    node: str
    zone: str
    address: str  # the node's primary one, "" if it has none
    mode: Mode
    pods: PodTraffic
    masquerade_all: bool
    node_ports: NodePorts
    tcp_liberal: bool = False  # then what conntrack finds INVALID need not be dropped
    service_cidrs: tuple[str, ...] = ()
    scheduler: str = SCHEDULERS[0]
    strict_arp: bool | None = None
    local: tuple[str, ...] = ()  # the node's addresses, where they are needed one by one: ipvs mode

    @property
    def route_localnet(self) -> bool:
        """Whether 127.0.0.0/8 must be routable, and so be guarded against the neighbours."""
        opened = self.mode is Mode.IPTABLES and self.node_ports.loopback
        return opened and self.family is Family.IPV4


def situations(
    node: ProxyNode, options: Options, *, local: Iterable[str] | None = None
) -> dict[Family, Situation]:
    """Return *node* with *options*, per family. Raises UsageError when an option is wrong.

    *local*: the addresses its links have; None: not known, what its object says will do.
    """
    primary = _primary_addresses(node)
    theirs = node.pod_cidrs if options.detect_local is DetectLocal.NODE_CIDR else ()
    cidrs = _by_family(options.pod_cidrs or theirs, "pod CIDR")
    services = _by_family(options.service_cidrs, "service CIDR")
    ports = _node_port_networks(options, primary)
    own = _own_addresses(node, local) if options.mode is Mode.IPVS else {}
    found = {}
    for which in Family:
        networks = tuple(ports[which]) or (ANYWHERE[which],)
        if any(one.endswith("/0") for one in networks):
            networks = (ANYWHERE[which],)
        found[which] = Situation(
            family=which,
            node=node.metadata.name,
            zone=node.metadata.labels.get(ZONE_LABEL, ""),
            address=primary.get(which, ""),
            mode=options.mode,
            pods=_pod_traffic(options, cidrs[which]),
            masquerade_all=options.masquerade_all,
            node_ports=NodePorts(networks, _on_loopback(options, networks)),
            tcp_liberal=options.tcp_liberal,
            service_cidrs=tuple(services[which]),
            scheduler=options.scheduler,
            strict_arp=options.strict_arp,
            local=own.get(which, ()),
        )
    return found


def _own_addresses(node: ProxyNode, local: Iterable[str] | None) -> dict[Family, tuple[str, ...]]:
    """Return the node's addresses that others may know, sorted.

    Source: kubernetes pkg/proxy/ipvs/netlink_linux.go, isValidForSet, v1.33.
    """
    if local is None:
        local = [text for one in node.status.addresses or () if (text := address(one.address))]
    known = [one for one in local if not (is_loopback(one) or contains(LINK_LOCAL, one))]
    return {
        which: tuple(sorted({one for one in known if family(one) is which})) for which in Family
    }


def _primary_addresses(node: ProxyNode) -> dict[Family, str]:
    """Return the node's first address of each family, internal ones before external ones.

    Source: kubernetes pkg/util/node, GetNodeHostIPs.
    """
    found: dict[Family, str] = {}
    for kind in ("InternalIP", "ExternalIP"):
        for one in node.status.addresses or ():
            if one.type == kind and (text := address(one.address)):
                found.setdefault(family(text), text)
    return found


def _by_family(texts: tuple[str, ...] | list[str], what: str) -> dict[Family, list[str]]:
    found: dict[Family, list[str]] = {one: [] for one in Family}
    for text in texts:
        prefix = network(text)
        if not prefix:
            raise UsageError(f"{what} {text!r} is no prefix", hint="like 10.244.0.0/16")
        found[family(prefix)].append(prefix)
    return found


def _pod_traffic(options: Options, cidrs: list[str]) -> PodTraffic:
    how = options.detect_local
    if how in (DetectLocal.BRIDGE, DetectLocal.INTERFACE_PREFIX) and not options.interface:
        raise UsageError(f"detect-local {how} needs a name", hint=f"{how}=NAME")
    if options.interface and not _is_interface_name(options.interface):
        raise UsageError(f"detect-local: {options.interface!r} is no interface's name")
    if how is DetectLocal.BRIDGE:
        return PodTraffic(interface=options.interface)
    if how is DetectLocal.INTERFACE_PREFIX:
        return PodTraffic(prefix=options.interface)
    if how is DetectLocal.NONE or not cidrs:
        return PodTraffic()
    if len(cidrs) > 1:
        raise UsageError(f"two pod CIDRs of one family: {', '.join(cidrs)}", hint="give one")
    return PodTraffic(cidr=cidrs[0])


def _is_interface_name(text: str) -> bool:
    """Return whether an interface's name can be *text*, or begin so.

    One that cannot would make the kernel's tools refuse every rule, not this one's alone.
    Source: linux net/core/dev.c, dev_valid_name.
    """
    return len(text) <= LONGEST_INTERFACE and not re.search(r'[\s/:"*+\\]', text)


def _node_port_networks(options: Options, primary: dict[Family, str]) -> dict[Family, list[str]]:
    """Return the prefixes NodePorts are limited to; none in a family: no limit there.

    Source: kube-proxy's --nodeport-addresses; pkg/proxy/util/nodeport_addresses.go, v1.34.
    """
    given = options.node_port_addresses
    if options.mode is Mode.USERSPACE:
        given = ()  # that one knows no limit
    elif not given and options.mode is Mode.NFTABLES:
        given = (PRIMARY,)
    if PRIMARY not in given:
        return _by_family(given, "nodePortAddresses:")
    if len(given) > 1:
        raise UsageError(f"nodePortAddresses: {PRIMARY} beside prefixes", hint="one or the other")
    return {one: _only(primary.get(one, "")) for one in Family}


def _only(canonical: str) -> list[str]:
    return [network(f"{canonical}/{128 if ':' in canonical else 32}")] if canonical else []


def _on_loopback(options: Options, networks: tuple[str, ...]) -> bool:
    """Return whether 127.0.0.1 has NodePorts: in iptables mode, IPv4, if asked for and covered.

    In userspace mode, both families' have: what the node sends itself is sent on by its address.
    """
    return options.mode is Mode.USERSPACE or (
        options.mode is Mode.IPTABLES
        and options.localhost_node_ports
        and any(contains("127.0.0.0/8", one) or contains(one, IPV4_LOOPBACK) for one in networks)
    )


def options_of(lab: Lab) -> Options:
    """Return the options of every kube-proxy of *lab*."""
    return Options(
        mode=Mode(lab.proxyMode),
        detect_local=DetectLocal.CLUSTER_CIDR,
        pod_cidrs=both(lab.network.Network, lab.network.IPv6Network if lab.dual else ""),
        service_cidrs=both(lab.serviceCIDR, lab.serviceCIDR6),
        scheduler=lab.ipvs.scheduler,
        # Else every node answers for what the balancer has on the same segment.
        strict_arp=bool(lab.balancer) if lab.ipvs.strictARP is None else lab.ipvs.strictARP,
        # A lab's nodes have what its file says, whatever they had before.
        timeouts=Timeouts(
            tcp=seconds(lab.ipvs.tcpTimeout) or USUAL.tcp,
            tcp_fin=seconds(lab.ipvs.tcpFinTimeout) or USUAL.tcp_fin,
            udp=seconds(lab.ipvs.udpTimeout) or USUAL.udp,
        ),
        exclude_cidrs=lab.ipvs.excludeCIDRs,
    )
