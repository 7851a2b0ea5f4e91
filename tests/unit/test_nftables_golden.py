"""What a real kube-proxy wrote for a dozen Services, rule by rule; see tests/data/golden.

The dump is of v1.30.5; the rules are v1.34's, and differ from those on purpose in two points. All
that differs is listed here, and nothing else may.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import DetectLocal, Mode, Options, nft_text, nftables
from netlab.proxy.objects import Objects
from netlab.proxy.programme import Programme
from netlab.proxy.ruleset import Block

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TABLES = {"IPv4": "ip", "IPv6": "ip6"}
Blocks = dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]]  # by table and name

# Chains that became others by v1.34: refused is only what was not translated.
FIREWALL = ("ct state new jump firewall-check",)
REFUSALS = ("ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check")
GONE = {"filter-prerouting", "filter-output-post-dnat"}
CHAINS = {
    "filter-prerouting-pre-dnat": ("filter hook prerouting priority dstnat - 10", FIREWALL),
    "filter-output-pre-dnat": ("filter hook output priority -110", FIREWALL),
    "filter-output": ("filter hook output priority filter", REFUSALS),
    "filter-forward": ("filter hook forward priority filter", REFUSALS),
    "filter-input": (
        "filter hook input priority filter",
        ("ct state new jump nodeport-endpoints-check", REFUSALS[0]),
    ),
}
# The node has no IPv6 address. By v1.34 this means no limit to where NodePorts are.
BY_PORT = "meta l4proto . th dport vmap"
SIX = {
    "services": (
        f"ip6 daddr . {BY_PORT} @service-ips",
        f"fib daddr type local ip6 daddr != ::1 {BY_PORT} @service-nodeports",
    ),
    "nodeport-endpoints-check": (f"ip6 daddr != ::1 {BY_PORT} @no-endpoint-nodeports",),
}
NO_PORT = (re.compile(r" (tcp|udp) dport \d+ (?=ip saddr != )"), " ")  # v1.34 does not say it twice
NO_COMMENT = (re.compile(r' comment "[^"]*"'), "")  # v1.34 has none in firewall-ips

# On purpose: what marks, refuses or translates counts how often it did.
COUNTED = (re.compile(r"(?=\b(jump mark-for-masquerade|dnat to|drop|reject)\b)"), "counter ")


def ours() -> Blocks:
    documents = [one for one in yaml.safe_load_all((GOLDEN / "services.yaml").read_text()) if one]
    (node,) = [one for one in documents if one["metadata"]["name"] == "node-1"]
    options = Options(Mode.NFTABLES, DetectLocal.CLUSTER_CIDR, ("10.244.0.0/16",))
    objects = Objects(view(node, ProxyNode), options)
    changed = objects.take(documents)
    found = {}
    for family, situation in objects.situations.items():
        programme = Programme(nftables, situation)
        programme.update(changed)
        # kube-proxy writes the frame of a family that the node does not have.
        frame = {one.block.key: one.block for one in nftables.frame(situation)}
        for block in {**frame, **programme.blocks}.values():
            found[TABLES[family], block.name] = content(block)
    return found


def content(block: Block) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return block.head, block.lines if block.ordered else tuple(sorted(block.lines))


def theirs() -> Blocks:
    """Return what kube-proxy wrote, with all that is to differ put in place of it."""
    found = {}
    for block in nft_text.blocks((GOLDEN / "nftables.txt").read_text()).values():
        table, name = TABLES[block.family], block.name
        head, lines = content(block)
        if name in GONE or (table, name) == ("ip6", "nodeport-ips"):
            continue
        if block.ordered:
            lines = tuple(rule for line in lines for rule in rules(line))
        if name == "firewall-ips":
            lines = tuple(NO_COMMENT[0].sub(NO_COMMENT[1], line) for line in lines)
        if table == "ip6":
            lines = SIX.get(name, lines)
        found[table, name] = head, lines
    for table in TABLES.values():
        for name, (hook, lines) in CHAINS.items():
            found[table, name] = (f"type {hook}; policy accept;",), lines
    return found


def rules(line: str) -> list[str]:
    """Return what stands for a rule of kube-proxy's.

    On purpose, and told in proxy/nftables.py: endpoints are chosen by rules, not by a map.
    """
    if line.startswith("numgen"):
        chosen = re.findall(r"goto [^ ,]+", line)
        last = len(chosen)
        return [
            f"numgen random mod {last - place} 0 {verdict}" if place < last - 1 else verdict
            for place, verdict in enumerate(chosen)
        ]
    for pattern, instead in (NO_PORT, COUNTED):
        line = pattern.sub(instead, line, count=1)
    return [line]


def test_every_chain_set_and_map_is_kube_proxys() -> None:
    mine, golden = ours(), theirs()
    assert mine.keys() == golden.keys()
    for key, expected in golden.items():
        assert mine[key] == expected, key
    assert len([key for key in golden if "/" in key[1]]) == 43
