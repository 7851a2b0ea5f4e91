"""The balancer's rules: one nftables table, whole, from listeners and the nodes that are well.

1. VIP. A packet is sent on unchanged: it gets its node's mark, by which it is routed. The node
   answers the client itself, so the balancer sees one direction only, which connection tracking
   takes for invalid from the second packet on; so these flows are not tracked, and a map of the
   table remembers each one's node. A mark that is of no node that is well any more is forgotten,
   and the flow gets another node there and then. The node it comes to knows nothing of it, so a
   TCP client gets a reset and can begin again, and a UDP flow just goes on.
2. Proxy. The kernel's NAT does the same with connection tracking; what it remembers of a lost node
   is deleted by whoever writes this table.
3. Both choose by chance: each node that is well has the same share of the new flows. With session
   affinity a client's address decides, else the nodes' own affinity would be in vain.

A flow's key has four fields and its protocol a map of its own: five fields and a value are more
than nft 1.0.6 finds registers for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from netlab.balancing.listeners import VIP, Listener
from netlab.world import mark_of

TABLE = "balancer"
# How long a flow without packets is remembered. Source: Linux net/netfilter/ipvs, tcp_timeouts
# and udp_timeouts of ip_vs_proto_*.c.
FLOW_TIMEOUT = {"tcp": "15m", "udp": "5m", "sctp": "15m"}
FLOWS_MAX = 262144  # of each protocol
COMMENT_MAX = 127  # bytes; NFTNL_UDATA_COMMENT_MAXLEN less the closing zero
KNOWN = "known flow, stays at its node"
NO_NODE = "no healthy node"
NOT_IN_RANGES = "not in loadBalancerSourceRanges"
NO_SERVICE = "no Service"

Healthy = Mapping[Listener, Sequence[str]]  # the addresses of the nodes that are well


def flow_maps() -> list[str]:
    """Return the declarations of the maps of VIP flows, which outlive every change of rules."""
    return [
        f"map flows-{protocol} {{ type ipv4_addr . inet_service . ipv4_addr . inet_service : mark; "
        f"flags dynamic,timeout; timeout {timeout}; size {FLOWS_MAX}; }}"
        for protocol, timeout in FLOW_TIMEOUT.items()
    ]


def chains(healthy: Healthy) -> dict[str, list[str]]:
    """Return the rules of each chain, base chains with their hook as the first line."""
    vip = [one for one in healthy if one.mode == VIP]
    proxy = [one for one in healthy if one.mode != VIP]
    return {
        **{one.chain: _vip(one, healthy[one]) for one in vip},
        **{one.chain: _proxy(one, healthy[one]) for one in proxy},
        "vip": ["type filter hook prerouting priority raw; policy accept;", *_entry(vip)],
        "proxy": ["type nat hook prerouting priority dstnat; policy accept;", *_entry(proxy)],
        "forward": [
            "type filter hook forward priority filter; policy drop;",
            "meta mark != 0x00000000 accept",
            "ct status dnat accept",
            f'counter drop comment "{NO_SERVICE}"',
        ],
        "source": [
            "type nat hook postrouting priority srcnat; policy accept;",
            "ct status dnat masquerade fully-random",
        ],
    }


def transaction(healthy: Healthy, present: Iterable[str]) -> str:
    """Return what `nft -f` makes the table of, whichever chains are *present*; its flows stay."""
    wanted = chains(healthy)
    lines = [f"add table ip {TABLE}", f"flush table ip {TABLE}"]
    lines += [f"delete chain ip {TABLE} {name}" for name in present if name not in wanted]
    lines += [f"table ip {TABLE} {{", *(f"\t{one}" for one in flow_maps())]
    for name, rules in wanted.items():
        lines += [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]
    return "\n".join([*lines, "}"]) + "\n"


def _entry(listeners: Sequence[Listener]) -> list[str]:
    if not listeners:
        return []
    ways = ", ".join(
        f"{one.address} . {one.protocol} . {one.port} : goto {one.chain}" for one in listeners
    )
    return [f"ip daddr . meta l4proto . th dport vmap {{ {ways} }}"]


def _vip(listener: Listener, nodes: Sequence[str]) -> list[str]:
    if not nodes:
        return [_drop(listener, NO_NODE)]
    marks = [f"{mark_of(node):#010x}" for node in nodes]
    choice = ", ".join(f"{index} : {mark}" for index, mark in enumerate(marks))
    protocol = listener.protocol
    key = f"ip saddr . {protocol} sport . ip daddr . {protocol} dport"
    flows = f"@flows-{protocol}"
    entry = f"{flows} {{ {key} : meta mark }}"
    return [
        "notrack",
        f"meta mark set {key} map {flows}",
        f"meta mark {{ {', '.join(marks)} }} update {entry} counter accept "
        f"{_comment(listener, KNOWN)}",
        f"delete {entry}",
        f"meta mark set {_chance(listener, nodes)} map {{ {choice} }} add {entry} counter accept "
        f"{_comment(listener, new_flow(nodes))}",
    ]


def _proxy(listener: Listener, nodes: Sequence[str]) -> list[str]:
    found = []
    if listener.sources:
        ranges = ", ".join(listener.sources)
        found.append(f"ip saddr != {{ {ranges} }} {_drop(listener, NOT_IN_RANGES)}")
    if not nodes:
        return [*found, _drop(listener, NO_NODE)]
    choice = ", ".join(
        f"{index} : {node} . {listener.node_port}" for index, node in enumerate(nodes)
    )
    return [
        *found,
        f"counter meta l4proto {listener.protocol} "
        f"dnat ip addr . port to {_chance(listener, nodes)} map {{ {choice} }} "
        f"{_comment(listener, new_flow(nodes))}",
    ]


def _chance(listener: Listener, nodes: Sequence[str]) -> str:
    return f"{'jhash ip saddr' if listener.sticky else 'numgen random'} mod {len(nodes)}"


def _drop(listener: Listener, why: str) -> str:
    return f"counter drop {_comment(listener, why)}"


def new_flow(nodes: Sequence[str]) -> str:
    """Return what is said of the choice of a node for a new flow."""
    return f"new flow, to one of {len(nodes)} node{'s' if len(nodes) > 1 else ''}"


def service_of(chain: str) -> str:
    """Return the Service that a chain serves: `default/web` of `vip-default/web/tcp/80`."""
    return chain.partition("-")[2].rsplit("/", 2)[0]


def said(rule: str) -> str:
    """Return what a rule says of itself, without its Service; "" if it says nothing."""
    return rule.partition('comment "')[2].partition('"')[0].rpartition(": ")[0]


def _comment(listener: Listener, what: str) -> str:
    return f'comment "{what}: {listener.service}"'[: COMMENT_MAX + 9].removesuffix('"') + '"'
