"""The chains of iptables mode that are there without any Service, and the jumps to them.

Source: kubernetes pkg/proxy/iptables/proxier.go, iptablesJumpChains and syncProxyRules, v1.34.
What it does only where the kernel counts by name (`-m nfacct`, which changes no packet) is left
out.
"""

from __future__ import annotations

from collections.abc import Collection

from netlab.proxy.addresses import Family, contains
from netlab.proxy.iptables_words import FILTER, MANGLE, NAT, chain, comment, host, jumps
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Key, Shared

MARK = "0x4000"  # bit 14: to be masqueraded

SERVICES = "KUBE-SERVICES"
EXTERNAL_SERVICES = "KUBE-EXTERNAL-SERVICES"
NODE_PORTS = "KUBE-NODEPORTS"
FIREWALL = "KUBE-PROXY-FIREWALL"
MARK_MASQ = "KUBE-MARK-MASQ"
POSTROUTING = "KUBE-POSTROUTING"
FORWARD = "KUBE-FORWARD"
GUARD = "KUBE-FIREWALL"  # kubelet's and kube-proxy's both, alike
CANARY = "KUBE-PROXY-CANARY"  # empty: that it is gone tells that somebody flushed the table

LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}

_NEW = "-m conntrack --ctstate NEW "
_TO_FIREWALL = f"{_NEW}{comment('kubernetes load balancer firewall')} -j {FIREWALL}"
_TO_PORTALS = f"{comment('kubernetes service portals')} -j {SERVICES}"
_TO_EXTERNAL = (
    f"{_NEW}{comment('kubernetes externally-visible service portals')} -j {EXTERNAL_SERVICES}"
)
_TO_NODE_PORTS = comment(
    "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
)


def frame(situation: Situation, used: Collection[Key] = ()) -> list[Shared]:
    """Return the blocks that are there without any Service, in the node's *situation*.

    Whether they are *used* makes no difference.
    """
    family = situation.family
    blocks = [
        chain(family, MANGLE, CANARY),
        *_filter(situation),
        chain(family, NAT, CANARY),
        chain(family, NAT, NODE_PORTS),
        chain(family, NAT, MARK_MASQ, (f"-j MARK --set-xmark {MARK}/{MARK}",)),
        chain(family, NAT, POSTROUTING, postrouting()),
        jumps(family, NAT, "PREROUTING", _TO_PORTALS),
        jumps(family, NAT, "OUTPUT", _TO_PORTALS),
        jumps(
            family,
            NAT,
            "POSTROUTING",
            f"{comment('kubernetes postrouting rules')} -j {POSTROUTING}",
        ),
    ]
    services = Shared(chain(family, NAT, SERVICES), _to_node_ports(situation))
    return [services, *map(Shared, blocks)]


def _filter(situation: Situation) -> list[Block]:
    """Return the filter table's; kube-proxy puts each jump before all others, so the last leads."""
    family = situation.family
    health_checks = comment("kubernetes health check service ports")
    return [
        *(chain(family, FILTER, one) for one in (CANARY, SERVICES, EXTERNAL_SERVICES, NODE_PORTS)),
        chain(family, FILTER, FIREWALL),
        chain(family, FILTER, FORWARD, _forward(situation)),
        chain(family, FILTER, GUARD, _guard() if situation.route_localnet else ()),
        jumps(
            family,
            FILTER,
            "INPUT",
            f"-j {GUARD}",
            _TO_FIREWALL,
            f"{health_checks} -j {NODE_PORTS}",
            _TO_EXTERNAL,
        ),
        jumps(
            family,
            FILTER,
            "FORWARD",
            _TO_FIREWALL,
            f"{comment('kubernetes forwarding rules')} -j {FORWARD}",
            f"{_NEW}{_TO_PORTALS}",
            _TO_EXTERNAL,
        ),
        jumps(family, FILTER, "OUTPUT", f"-j {GUARD}", _TO_FIREWALL, f"{_NEW}{_TO_PORTALS}"),
    ]


def _forward(situation: Situation) -> tuple[str, ...]:
    """Return what lets connections of Services pass whatever FORWARD's policy is.

    A packet that conntrack finds invalid would reach the client untranslated, and a reset from it
    end the connection, unless conntrack is told to be liberal.
    """
    invalid = () if situation.tcp_liberal else ("-m conntrack --ctstate INVALID -j DROP",)
    established = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    return (
        *invalid,
        f"{comment('kubernetes forwarding rules')} -m mark --mark {MARK}/{MARK} -j ACCEPT",
        f"{comment('kubernetes forwarding conntrack rule')} {established}",
    )


def _guard() -> tuple[str, ...]:
    """Return what keeps neighbours from the node's loopback, which route_localnet opens."""
    blocked = comment("block incoming localnet connections")
    state = "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT"
    return (f"! -s 127.0.0.0/8 -d 127.0.0.0/8 {blocked} {state} -j DROP",)


def postrouting() -> tuple[str, ...]:
    """Return what masquerades; the mark goes first, lest it count again on another way through."""
    return (
        f"-m mark ! --mark {MARK}/{MARK} -j RETURN",
        f"-j MARK --set-xmark {MARK}/0x0",
        f"{comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
    )


def _to_node_ports(situation: Situation) -> tuple[str, ...]:
    """Return the last rules of nat KUBE-SERVICES: which addresses have NodePorts.

    kube-proxy looks up which of the node's addresses are in given prefixes, and writes a rule for
    each; here the rule says `the node's, and in the prefix`, so it needs no look when they change.
    The node's primary address alone reads as upstream's.
    """
    family, ports = situation.family, situation.node_ports
    local = f"{_TO_NODE_PORTS} -m addrtype --dst-type LOCAL -j {NODE_PORTS}"
    loopback = LOOPBACK[family]
    if ports.everywhere:
        return (local if ports.loopback else f"! -d {loopback} {local}",)
    lines = []
    for prefix in dict.fromkeys(ports.networks):
        if contains(loopback, prefix) and not ports.loopback:
            continue
        if contains(prefix, loopback) and not ports.loopback:
            lines.append(f"-d {loopback} {comment('no NodePorts on loopback addresses')} -j RETURN")
        if situation.address and prefix == host(situation.address):
            lines.append(f"-d {prefix} {_TO_NODE_PORTS} -j {NODE_PORTS}")
        else:
            lines.append(f"-d {prefix} {local}")
    return tuple(lines)
