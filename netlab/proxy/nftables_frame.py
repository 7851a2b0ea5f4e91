"""The chains, sets and maps of nftables mode that are there without any Service.

    before DNAT  filter-prerouting-pre-dnat, filter-output-pre-dnat: who may use a load balancer
    DNAT         nat-prerouting, nat-output: services, the dispatch by address and port
    after it     filter-input, filter-forward, filter-output: what is refused
    SNAT         nat-postrouting: what was marked

Refused is what was not translated; so a packet that has a way is not looked up there by the
address it came for.
Source: kubernetes pkg/proxy/nftables/proxier.go, setupNFTables, v1.34. It differs in three points:

1. Rules that refuse count how often they did.
2. kube-proxy looks up which of the node's addresses are in given nodePortAddresses; here the rule
   says `the node's, and in one of these prefixes`, so it needs no look when they change. The
   node's primary address, the default, reads as upstream's.
3. A single service CIDR has no braces: nft takes them off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from netlab.proxy.addresses import Family
from netlab.proxy.nftables_words import (
    ADDRESS,
    IP,
    LOOPBACK,
    any_of,
    base_chain,
    chain,
    comment,
    plain,
)
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Key, Shared, Sort

TABLE = "kube-proxy"
MARK = "0x00004000"  # bit 14: to be masqueraded

CLUSTER_IPS = "cluster-ips"
NODE_PORT_IPS = "nodeport-ips"
SERVICE_IPS = "service-ips"
SERVICE_NODE_PORTS = "service-nodeports"
NO_ENDPOINT_SERVICES = "no-endpoint-services"
NO_ENDPOINT_NODE_PORTS = "no-endpoint-nodeports"
FIREWALL_IPS = "firewall-ips"

MARK_MASQ = "mark-for-masquerade"
REJECT = "reject-chain"

# Source: proxier.go, nftablesBaseChains and nftablesJumpChains. nft knows -100 and its like by
# name only before routing.
_TO_FIREWALL = "ct state new jump firewall-check"
_TO_ENDPOINTS = "ct state new jump service-endpoints-check"
_TO_NODE_PORTS = "ct state new jump nodeport-endpoints-check"
_TO_CLUSTER_IPS = "ct state new jump cluster-ips-check"
_BASE = (
    ("filter-prerouting-pre-dnat", "filter hook prerouting priority dstnat - 10", (_TO_FIREWALL,)),
    ("filter-output-pre-dnat", "filter hook output priority -110", (_TO_FIREWALL,)),
    ("filter-input", "filter hook input priority filter", (_TO_NODE_PORTS, _TO_ENDPOINTS)),
    ("filter-forward", "filter hook forward priority filter", (_TO_ENDPOINTS, _TO_CLUSTER_IPS)),
    ("filter-output", "filter hook output priority filter", (_TO_ENDPOINTS, _TO_CLUSTER_IPS)),
    ("nat-prerouting", "nat hook prerouting priority dstnat", ("jump services",)),
    ("nat-output", "nat hook output priority -100", ("jump services",)),
    ("nat-postrouting", "nat hook postrouting priority srcnat", ("jump masquerading",)),
)
_PORT = "inet_proto . inet_service : verdict"
_NO_ENDPOINTS = "vmap to drop or reject packets to services with no endpoints"
_NO_NODE_PORTS = "vmap to drop or reject packets to service nodeports with no endpoints"


def set_key(family: Family, name: str) -> Key:
    """Return the key of one of the sets here."""
    return family, Sort.SET, TABLE, name


def map_key(family: Family, name: str) -> Key:
    """Return the key of one of the maps here."""
    return family, Sort.MAP, TABLE, name


def frame(situation: Situation, used: Collection[Key] = ()) -> list[Shared]:
    """Return the blocks that are there without any Service, in the node's *situation*.

    Whether they are *used* makes no difference.
    """
    family = situation.family
    base = (base_chain(family, TABLE, name, hook, lines) for name, hook, lines in _BASE)
    return [Shared(one) for one in (*_sets(situation), *_maps(family), *base, *_chains(situation))]


def _sets(situation: Situation) -> Iterator[Block]:
    family = situation.family
    kind = f"type {ADDRESS[family]}"
    yield Block(*set_key(family, CLUSTER_IPS), (kind, comment("Active ClusterIPs")))
    if situation.node_ports.everywhere:
        return
    said = comment("IPs that accept NodePort traffic")
    key = set_key(family, NODE_PORT_IPS)
    if _only_primary(situation):
        yield Block(*key, (kind, said), (situation.address,))
    else:
        networks = _disjoint(situation.node_ports.networks)
        yield Block(*key, (kind, "flags interval", said), tuple(map(plain, networks)))


def _disjoint(prefixes: Iterable[str]) -> Iterator[str]:
    """Yield what covers *prefixes* and nothing twice, which such a set refuses."""
    networks = [ip_network(one) for one in prefixes]
    four = collapse_addresses(one for one in networks if isinstance(one, IPv4Network))
    six = collapse_addresses(one for one in networks if isinstance(one, IPv6Network))
    yield from map(str, (*four, *six))


def _only_primary(situation: Situation) -> bool:
    return [plain(one) for one in situation.node_ports.networks] == [situation.address]


def _maps(family: Family) -> Iterator[Block]:
    at = f"type {ADDRESS[family]} . {_PORT}"
    for name, kind, said in (
        (NO_ENDPOINT_SERVICES, at, _NO_ENDPOINTS),
        (NO_ENDPOINT_NODE_PORTS, f"type {_PORT}", _NO_NODE_PORTS),
        (FIREWALL_IPS, at, "destinations that are subject to LoadBalancerSourceRanges"),
        (SERVICE_IPS, at, "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
        (SERVICE_NODE_PORTS, f"type {_PORT}", "NodePort traffic"),
    ):
        yield Block(*map_key(family, name), (kind, comment(said)))


def _chains(situation: Situation) -> Iterator[Block]:
    family = situation.family
    at = f"{IP[family]} daddr . meta l4proto . th dport vmap"
    own, incoming = _node_port_addresses(situation)
    by_port = "meta l4proto . th dport vmap"
    for name, lines in {
        "nodeport-endpoints-check": (f"{incoming} {by_port} @{NO_ENDPOINT_NODE_PORTS}",),
        "service-endpoints-check": (f"{at} @{NO_ENDPOINT_SERVICES}",),
        "firewall-check": (f"{at} @{FIREWALL_IPS}",),
        "services": (f"{at} @{SERVICE_IPS}", f"{own} {by_port} @{SERVICE_NODE_PORTS}"),
        "masquerading": (
            f"meta mark & {MARK} == 0x00000000 return",
            # The mark goes first, lest the packet be marked again inside a tunnel.
            f"meta mark set meta mark ^ {MARK}",
            "masquerade fully-random",
        ),
        "cluster-ips-check": tuple(_cluster_ips_check(situation)),
        MARK_MASQ: (f"meta mark set meta mark | {MARK}",),
    }.items():
        yield chain(family, TABLE, name, lines)
    said = comment("helper for @no-endpoint-services / @no-endpoint-nodeports")
    yield chain(family, TABLE, REJECT, ("counter reject",), (said,))


def _node_port_addresses(situation: Situation) -> tuple[str, str]:
    """Return what matches packets to an address with NodePorts, and those on their way in.

    Never to a loopback address: the endpoint's answer could not find back.
    """
    daddr = f"{IP[situation.family]} daddr"
    no_loopback = f"{daddr} != {LOOPBACK[situation.family]}"
    listed = f"{daddr} @{NODE_PORT_IPS}"
    if situation.node_ports.everywhere:
        return f"fib daddr type local {no_loopback}", no_loopback
    if _only_primary(situation):
        return listed, listed
    return f"{listed} fib daddr type local {no_loopback}", f"{listed} {no_loopback}"


def _cluster_ips_check(situation: Situation) -> Iterator[str]:
    """Yield what becomes of packets that came for a cluster IP and were not translated."""
    daddr = f"{IP[situation.family]} daddr"
    said = comment("Reject traffic to invalid ports of ClusterIPs")
    yield f"{daddr} @{CLUSTER_IPS} counter reject {said}"
    if situation.service_cidrs:
        said = comment("Drop traffic to unallocated ClusterIPs")
        yield f"{daddr} {any_of(situation.service_cidrs)} counter drop {said}"
