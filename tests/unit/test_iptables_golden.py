"""What a real kube-proxy wrote for a dozen Services, rule by rule; see tests/data/golden."""

from __future__ import annotations

from pathlib import Path

import yaml

from netlab.kernel import listing
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import DetectLocal, Options, iptables
from netlab.proxy.addresses import Family
from netlab.proxy.objects import Objects
from netlab.proxy.programme import Programme

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
DISPATCH = {  # in which kube-proxy's own order is random
    "KUBE-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-PROXY-FIREWALL",
}
Rules = dict[tuple[str, str], tuple[str, ...]]


def ours() -> Rules:
    documents = [one for one in yaml.safe_load_all((GOLDEN / "services.yaml").read_text()) if one]
    (node,) = [one for one in documents if one["metadata"]["name"] == "node-1"]
    options = Options(detect_local=DetectLocal.CLUSTER_CIDR, pod_cidrs=("10.244.0.0/16",))
    objects = Objects(view(node, ProxyNode), options)
    programme = Programme(iptables, objects.situations[Family.IPV4])
    programme.update(objects.take(documents))
    return {(one.table, one.name): one.lines for one in programme.blocks.values()}


def theirs() -> Rules:
    """Return the rules kube-proxy wrote; built-in chains without any are not its own."""
    found = listing.chains((GOLDEN / "iptables.txt").read_text().replace("\n  ", "\n"))
    return {key: lines for key, lines in found.items() if lines or key[1].startswith("KUBE-")}


def test_every_chain_is_kube_proxys() -> None:
    mine, golden = ours(), theirs()
    assert mine.keys() == golden.keys()
    for (table, name), lines in golden.items():
        if name in DISPATCH:
            assert sorted(mine[table, name]) == sorted(lines)
        else:
            assert mine[table, name] == lines, name


def test_node_ports_come_after_all_addresses() -> None:
    assert ours()["nat", "KUBE-SERVICES"][-1] == theirs()["nat", "KUBE-SERVICES"][-1]
