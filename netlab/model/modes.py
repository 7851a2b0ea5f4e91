"""kube-proxy's modes, and the schedulers of one: the lists for files, commands and proxies."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """How a node serves Services. The first is the default."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"
    IPVS = "ipvs"
    USERSPACE = "userspace"  # as history: up to kube-proxy v1.25


PROXY_MODES = tuple(map(str, Mode))

# Seconds that ip_vs can remember a connection, where the kernel counts 1000 ticks in each.
# Source: Linux net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_set_timeout, v6.12.
TIMEOUT_MAX = (2**31 - 1) // 1000
# Of ipvs mode, as ipvsadm(8) calls them. The first is kube-proxy's default.
SCHEDULERS = (
    *("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh"),
    *("dh", "sed", "nq", "fo", "ovf", "mh", "twos"),
)
