"""The ipsets of ipvs mode: what each holds, as kube-proxy names and describes them.

Source: kubernetes pkg/proxy/ipvs/ipset.go and proxier.go (ipsetInfo), v1.33.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Key, Sort

PLACE = "ipset"  # the `table` of their blocks
LONGEST_NAME = 31  # characters; IPSET_MAXNAMELEN is 32
MOST = 65536  # elements of a hash; ipset's default
INET = {Family.IPV4: "inet", Family.IPV6: "inet6"}

LOOP_BACK = "KUBE-LOOP-BACK"
CLUSTER_IP = "KUBE-CLUSTER-IP"
EXTERNAL_IP = "KUBE-EXTERNAL-IP"
EXTERNAL_IP_LOCAL = "KUBE-EXTERNAL-IP-LOCAL"
LOAD_BALANCER = "KUBE-LOAD-BALANCER"
LOAD_BALANCER_LOCAL = "KUBE-LOAD-BALANCER-LOCAL"
LOAD_BALANCER_FW = "KUBE-LOAD-BALANCER-FW"
SOURCE_IP = "KUBE-LOAD-BALANCER-SOURCE-IP"
SOURCE_CIDR = "KUBE-LOAD-BALANCER-SOURCE-CIDR"
HEALTH_CHECK = "KUBE-HEALTH-CHECK-NODE-PORT"
IPVS_IPS = "KUBE-IPVS-IPS"
NODE_PORT = {
    "TCP": "KUBE-NODE-PORT-TCP",
    "UDP": "KUBE-NODE-PORT-UDP",
    "SCTP": "KUBE-NODE-PORT-SCTP-HASH",
}
NODE_PORT_LOCAL = {
    "TCP": "KUBE-NODE-PORT-LOCAL-TCP",
    "UDP": "KUBE-NODE-PORT-LOCAL-UDP",
    "SCTP": "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
}


class Set(NamedTuple):
    """An ipset's type, and what rules that match it say it is for."""

    type: str
    comment: str


SETS: Mapping[str, Set] = MappingProxyType(
    {
        LOOP_BACK: Set(
            "hash:ip,port,ip",
            "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose",
        ),
        CLUSTER_IP: Set(
            "hash:ip,port", "Kubernetes service cluster ip + port for masquerade purpose"
        ),
        EXTERNAL_IP: Set(
            "hash:ip,port",
            "Kubernetes service external ip + port for masquerade and filter purpose",
        ),
        EXTERNAL_IP_LOCAL: Set(
            "hash:ip,port",
            "Kubernetes service external ip + port with externalTrafficPolicy=local",
        ),
        LOAD_BALANCER: Set("hash:ip,port", "Kubernetes service lb portal"),
        LOAD_BALANCER_FW: Set(
            "hash:ip,port",
            "Kubernetes service load balancer ip + port for load balancer with sourceRange",
        ),
        LOAD_BALANCER_LOCAL: Set(
            "hash:ip,port",
            "Kubernetes service load balancer ip + port with externalTrafficPolicy=local",
        ),
        SOURCE_IP: Set(
            "hash:ip,port,ip",
            "Kubernetes service load balancer ip + port + source IP for packet filter purpose",
        ),
        SOURCE_CIDR: Set(
            "hash:ip,port,net",
            "Kubernetes service load balancer ip + port + source cidr for packet filter purpose",
        ),
        NODE_PORT["TCP"]: Set("bitmap:port", "Kubernetes nodeport TCP port for masquerade purpose"),
        NODE_PORT_LOCAL["TCP"]: Set(
            "bitmap:port", "Kubernetes nodeport TCP port with externalTrafficPolicy=local"
        ),
        NODE_PORT["UDP"]: Set("bitmap:port", "Kubernetes nodeport UDP port for masquerade purpose"),
        NODE_PORT_LOCAL["UDP"]: Set(
            "bitmap:port", "Kubernetes nodeport UDP port with externalTrafficPolicy=local"
        ),
        NODE_PORT["SCTP"]: Set(
            "hash:ip,port",
            "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'",
        ),
        NODE_PORT_LOCAL["SCTP"]: Set(
            "hash:ip,port",
            "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type "
            "'hash ip:port'",
        ),
        HEALTH_CHECK: Set("bitmap:port", "Kubernetes health check node port"),
        IPVS_IPS: Set("hash:ip", "Addresses on the ipvs interface"),
    }
)


def set_name(name: str, family: Family) -> str:
    """Return what the set *name* is called in *family*: in IPv6 `KUBE-6-…`, cut if too long."""
    if family is Family.IPV4:
        return name
    return name.replace("KUBE-", "KUBE-6-", 1)[:LONGEST_NAME]


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {set_name(name, family): family for name in SETS for family in Family}
)


def set_key(family: Family, name: str) -> Key:
    """Return the key of the block of a set."""
    return family, Sort.IPSET, PLACE, set_name(name, family)


def empty_set(family: Family, name: str) -> Block:
    """Return a set without elements; its head are the words `ipset create` takes."""
    kind = SETS[name].type
    words = f"family {INET[family]} maxelem {MOST}"
    if kind == "bitmap:port":
        words = "range 0-65535"
    return Block(*set_key(family, name), head=(f"{kind} {words}",))
