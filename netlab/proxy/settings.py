"""Settings of the node (sysctls) that a proxy makes.

1. `route_localnet` lets packets for 127.0.0.0/8 leave and enter by any link. A NodePort on
   127.0.0.1 needs it, when its endpoint is not on the loopback; but neighbours then reach what
   listens there only, were it not for the guard, the rule in KUBE-FIREWALL that drops them. So it
   is on only where localhost NodePorts are, never without the guard, and goes with it.
2. Packets that a bridge carries from pod to pod must meet the rules on their way back, or an answer
   keeps the endpoint's address. That is a switch per namespace, there once br_netfilter is.
3. Conntrack's timeouts hold in all modes and stay when a proxy goes: they are nobody's hole.
4. ip_vs has conntrack know its connections, or nobody could masquerade them; one whose real server
   is gone ends with its next packet, and so does a client's affinity to one that is ending. Ports
   that are used again (`conn_reuse_mode`) are right as they are since Linux 5.9. Strict ARP: a link
   answers for its own addresses alone, so that only one node has those of a load balancer.

Source: kubernetes cmd/kube-proxy/app/server_linux.go, pkg/proxy/apis/config/v1alpha1/defaults.go,
pkg/proxy/iptables/proxier.go and pkg/proxy/ipvs/proxier.go, v1.34. The bridge's switch is an
installer's there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from netlab.model.modes import Mode
from netlab.proxy.addresses import Family
from netlab.proxy.iptables_frame import GUARD
from netlab.proxy.iptables_words import FILTER
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Sort, Step

ROUTE_LOCALNET = "net.ipv4.conf.all.route_localnet"
GUARD_KEY = (Family.IPV4, Sort.CHAIN, FILTER, GUARD)
CONNTRACK = {
    "net.netfilter.nf_conntrack_tcp_timeout_established": "86400",  # seconds: 24 h
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "3600",
}
BRIDGE = {
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
}


VIRTUAL_SERVERS = {
    "net.ipv4.vs.conntrack": "1",
    "net.ipv4.vs.expire_nodest_conn": "1",
    "net.ipv4.vs.expire_quiescent_template": "1",
    "net.ipv4.ip_forward": "1",
}
STRICT_ARP = {
    "net.ipv4.conf.all.arp_ignore": "1",
    "net.ipv4.conf.all.arp_announce": "2",
}
LAX_ARP = dict.fromkeys(STRICT_ARP, "0")


def sysctls(situations: Mapping[Family, Situation]) -> dict[str, str]:
    """Return settings by name, with the values a proxy needs; those the kernel has are to be made.

    Rules come first: without the guard among them, `ROUTE_LOCALNET` is a hole.
    """
    found = {**CONNTRACK, **BRIDGE}
    if any(one.route_localnet for one in situations.values()):
        found[ROUTE_LOCALNET] = "1"
    if any(one.mode is Mode.IPVS for one in situations.values()):
        found.update(VIRTUAL_SERVERS)
        strict = next(one.strict_arp for one in situations.values())
        found.update({} if strict is None else STRICT_ARP if strict else LAX_ARP)
    return found


def after_cleanup(removed: Iterable[Block]) -> dict[str, str]:
    """Return the settings to make before the blocks *removed* go: none needs the guard any more.

    Of kubelet's guard, which is alike, nothing is left either; whoever wants `ROUTE_LOCALNET`
    after that must set it and guard it.
    """
    return without_guard(Step(None, block) for block in removed)


def without_guard(steps: Iterable[Step]) -> dict[str, str]:
    """Return the settings to make before *steps*: the hole is closed before its guard goes."""
    for new, old in steps:
        guarded = old is not None and old.key == GUARD_KEY and bool(old.lines)
        if guarded and not (new is not None and new.lines):
            return {ROUTE_LOCALNET: "0"}
    return {}
