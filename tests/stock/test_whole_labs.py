"""Whole labs on a stock kernel: what a development machine without modules cannot show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Cli, eventually, inside, namespaces

pytestmark = pytest.mark.lab
DELAY = 500.0  # ms; an emulated machine's own round trip takes up to a few tens
# What a development kernel may lack, and a distribution's must have.
MODULES = {
    "dummy",
    "ip_vs",
    "ip_set",
    "netem",
    "vxlan",
    "br_netfilter",
    "SCTP",
    "nft trace",
    "conntrack",
}


LAB = """
apiVersion: netlab/v1
kind: Lab
metadata: {name: stock}
nodes:
  - {name: node1, address: 192.168.50.11}
  - {name: node2, address: 192.168.50.12}
gateway: {publish: ["30000-32767/tcp"]}
dns: {replicas: 0}
nodeLifecycle: {gracePeriodSeconds: 300}  # an emulated node is slow, not lost
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}]}
"""
# Those of the paths that go through what kernels differ in: tunnels, NAT, marks, rule traces.
PATHS = ("pod-pod-cross-node", "pod-clusterip", "node-clusterip", "nodeport", "egress-masquerade")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Two nodes with a pod each, behind a Service."""
    command = Cli("stock", tmp_path_factory.mktemp("lab"))
    try:
        command("up", command.file(LAB))
        yield command
    finally:
        command("down", code=None)
        assert namespaces("stock") == []


def round_trip(netns: str, target: str) -> float:
    """Return the shortest of three round trips, in ms."""
    said = inside(netns, "ping", "-n", "-c", "3", "-i", "0.3", "-W", "5", target)
    return min(float(word) for word in re.findall(r"time=([0-9.]+) ms", said))


def test_doctor_finds_all_that_modules_give() -> None:
    said = json.loads(Cli("none", Path("/tmp"))("doctor", "-o", "json").stdout)
    ok = {one["name"] for one in said["capabilities"] if one["ok"]}
    assert MODULES - ok == set()


def test_the_lab_is_up_and_a_second_up_would_change_nothing(lab: Cli) -> None:
    assert lab.status()["converged"]
    assert lab("plan", str(lab.directory / "lab.yaml")).returncode == 0


def test_paths_are_proven_by_packets(lab: Cli) -> None:
    """A path that fails is tried again twice: on a busy computer an emulated one stands still."""
    found: dict[str, dict[str, object]] = {}
    for _ in range(3):
        left = [path for path in PATHS if found.get(path, {}).get("outcome") != "pass"]
        said = lab("verify", *left, "-o", "json", code=None).stdout if left else '{"paths": []}'
        found |= {path["path"]: path for path in json.loads(said)["paths"]}
    assert [path for path in found.values() if path["outcome"] != "pass"] == []
    assert set(found) == set(PATHS)


def test_services_are_served_by_virtual_servers_and_nothing_of_them_stays(lab: Cli) -> None:
    file = str(lab.directory / "lab.yaml")
    lab("up", file, "--proxy-mode", "ipvs", "--ipvs-scheduler", "lc")
    listed = lab("exec", "node/node1", "--", "ipvsadm", "-Ln").stdout
    assert re.search(r"^TCP +[\d.]+:80 lc", listed, re.MULTILINE)
    paths = ("pod-clusterip", "nodeport")
    found: dict[str, str] = {}
    for _ in range(3):
        left = [path for path in paths if found.get(path) != "pass"]
        said = lab("verify", *left, "-o", "json", code=None).stdout if left else '{"paths": []}'
        found |= {path["path"]: path["outcome"] for path in json.loads(said)["paths"]}
    assert found == dict.fromkeys(paths, "pass")
    lab("up", file)
    for words in (("ipset", "list", "-n"), ("ip", "link", "show", "kube-ipvs0")):
        assert lab("exec", "node/node1", "--", *words, code=None).stdout == ""
    assert "TCP" not in lab("exec", "node/node1", "--", "ipvsadm", "-Ln").stdout


def test_a_delayed_cable_delays_nodes_and_pods_until_it_is_undone(lab: Cli) -> None:
    pods = {pod["spec"]["nodeName"]: pod for pod in lab.get("pods")["items"]}
    node1 = lab.netns("node1")
    pod1 = lab.netns("node1", "default", pods["node1"]["metadata"]["name"])
    pod2 = pods["node2"]["status"]["podIP"]
    assert round_trip(node1, "192.168.50.12") < DELAY
    lab("link", "delay", "node2", f"{DELAY:g}ms")
    # The agent makes it so as it makes everything: shortly after it is declared.
    eventually(lambda: round_trip(node1, "192.168.50.12") >= DELAY, what="the delay")
    assert round_trip(pod1, pod2) >= DELAY  # in its envelope through the same cable
    lab("link", "delay", "node2", "0")
    eventually(lambda: round_trip(node1, "192.168.50.12") < DELAY, what="the end of the delay")
