"""flannel's iptables rules: let the pods' packets through, and masquerade what leaves the overlay.

As `iptables-save` prints them. Source: flannel v0.28 pkg/trafficmngr/iptables/iptables.go.
"""

from __future__ import annotations

from netlab.model.lab import like
from netlab.objects import IptablesChain, IptablesJump, Object

FORWARD_CHAIN, MASQUERADE_CHAIN = "FLANNEL-FWD", "FLANNEL-POSTRTG"
KUBE_PROXY_MARK = "0x4000/0x4000"  # kube-proxy masquerades these itself
MULTICAST = ("224.0.0.0/4", "ff00::/8")


def objects(netns: str, network: str, subnet: str) -> list[Object]:
    """Return the rules of a node whose pods have *subnet* of the overlay *network*.

    Of ip6tables when that is of IPv6.
    """
    family = "ip6" if ":" in network else "ip"
    multicast = like(network, MULTICAST)
    forward = '-m comment --comment "flanneld forward"'
    masq = '-m comment --comment "flanneld masq"'
    masquerade = f"{masq} -j MASQUERADE --random-fully"
    return [
        IptablesChain(
            netns,
            "filter",
            FORWARD_CHAIN,
            (f"-s {network} {forward} -j ACCEPT", f"-d {network} {forward} -j ACCEPT"),
            family,
        ),
        IptablesJump(netns, "filter", "FORWARD", f"{forward} -j {FORWARD_CHAIN}", family),
        IptablesChain(
            netns,
            "nat",
            MASQUERADE_CHAIN,
            (
                f"-m mark --mark {KUBE_PROXY_MARK} {masq} -j RETURN",
                f"-s {subnet} -d {network} {masq} -j RETURN",
                f"-s {network} -d {subnet} {masq} -j RETURN",
                f"! -s {network} -d {subnet} {masq} -j RETURN",
                f"-s {network} ! -d {multicast} {masquerade}",
                f"! -s {network} -d {network} {masquerade}",
            ),
            family,
        ),
        IptablesJump(netns, "nat", "POSTROUTING", f"{masq} -j {MASQUERADE_CHAIN}", family),
    ]
