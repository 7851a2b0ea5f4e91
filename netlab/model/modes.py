"""kube-proxy's modes: the one list of them, for files, commands and proxies."""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """How a node serves Services. The first is the default."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"
    USERSPACE = "userspace"  # as history: up to kube-proxy v1.25


PROXY_MODES = tuple(map(str, Mode))
LATER_PROXY_MODES = ("ipvs",)  # kube-proxy's, not there yet
