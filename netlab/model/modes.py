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

# Of ipvs mode, as ipvsadm(8) calls them. The first is kube-proxy's default.
SCHEDULERS = (
    *("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh"),
    *("dh", "sed", "nq", "fo", "ovf", "mh", "twos"),
)
