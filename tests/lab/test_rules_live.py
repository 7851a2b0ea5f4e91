"""The rules of a live lab, as `netlab get rules` and `describe service` show them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from labs import Cli, asked, eventually, inside, topology

pytestmark = pytest.mark.lab

MODES = ("iptables", "nftables")
SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {tier: web}, clusterIP: 10.96.0.50, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {tier: nobody}, clusterIP: 10.96.0.60, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {tier: web}}
spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 80}]}]}
"""


@pytest.fixture(scope="module", params=MODES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[tuple[Cli, str]]:
    """A lab with Services, in each mode."""
    mode = str(request.param)
    lab = f"r{worker_id.removeprefix('gw')}x{mode[:3]}"
    command = Cli(lab, tmp_path_factory.mktemp("lab"))
    first = topology(lab, pods=0).split("---\n")[0]
    command("up", command.file(f"{first}proxyMode: {mode}\n---\n{SERVICES}"))
    yield command, mode
    command("down")


def ends(items: list[Any]) -> list[Any]:
    """Return the rules that lead to the endpoint."""
    return [
        rule
        for one in items
        for rule in one["status"]["rules"]
        if "dnat to 10.244" in rule["text"] or "--to-destination" in rule["text"]
    ]


def test_every_rule_of_every_node_is_as_wanted(served: tuple[Cli, str]) -> None:
    cli, mode = served
    eventually(lambda: not cli("get", "rules").stderr, what="all as wanted")
    items = cli.get("rules")["items"]
    assert {one["spec"]["node"] for one in items} == {"n1", "n2"}
    assert {one["status"]["state"] for one in items} == {"ok"}
    tables = {one["spec"]["table"] for one in items}
    assert tables == ({"nat", "filter", "mangle"} if mode == "iptables" else {"kube-proxy"})


def test_a_connection_counts_once_where_it_was_translated(served: tuple[Cli, str]) -> None:
    cli, _ = served
    words = ("rules", "n2", "--service", "web")
    (before,) = ends(cli.get(*words)["items"])
    assert before["owners"] == ["default/web"]
    for _ in range(3):
        assert asked(cli.netns("n2"), "10.96.0.50")["pod"] == "web-1"
    (after,) = ends(cli.get(*words)["items"])
    assert after["packets"] - before["packets"] == 3
    assert all(one["spec"]["node"] == "n2" for one in cli.get(*words)["items"])
    described = cli("describe", "service", "web").stdout
    counted = f"{after['packets']}  "
    lines = [line.strip() for line in described.splitlines() if "10.244" in line]
    assert any(line.startswith(counted) and ":80" in line for line in lines), described


def test_a_spoilt_chain_is_marked_until_the_agent_repairs_it(served: tuple[Cli, str]) -> None:
    cli, mode = served
    node = cli.netns("n1")
    names = [one["metadata"]["name"] for one in cli.get("rules", "n1")["items"]]
    if mode == "iptables":
        chain = next(name for name in names if name.startswith("KUBE-SVC-"))
        spoil = ("iptables-nft", "-t", "nat", "-A", chain, "-j", "RETURN")
    else:
        chain = next(name for name in names if name.startswith("service-"))
        spoil = ("nft", "add", "rule", "ip", "kube-proxy", chain, "return")
    agent = cli.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    try:
        inside(node, *spoil)
        out = cli("get", "rules", "n1", "-o", "wide")
        (line,) = [one for one in out.stdout.splitlines() if one.endswith("DIFFERENT")]
        assert chain in line
        marked = [one.split()[-1] for one in out.stdout.splitlines() if one.startswith("+")]
        assert [one.lower() for one in marked] == ["return"]
        assert "+ is there and not wanted" in out.stderr
    finally:
        os.kill(agent, signal.SIGCONT)
    eventually(lambda: not cli("get", "rules", "n1").stderr, what="repaired")
