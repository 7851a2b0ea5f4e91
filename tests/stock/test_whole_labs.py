"""Whole labs on a stock kernel: what a development machine without modules cannot show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import Cli, eventually, inside, namespaces
from smaller import smaller

from netlab.verify.matrix import SERVICE_PATHS

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
    "nft fwd",
    "conntrack",
}
# Those of the paths that go through what kernels differ in: tunnels, NAT, marks, rule traces.
PATHS = ("pod-pod-cross-node", "pod-clusterip", "node-clusterip", "nodeport", "egress-masquerade")
TRIES = 3  # of a path: on a busy computer an emulated one stands still now and then


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The lab of the notes, but smaller."""
    command = Cli("stock", tmp_path_factory.mktemp("lab"))
    try:
        command("up", command.file(smaller(command.lab)))
        yield command
    finally:
        command("down", code=None)
        assert namespaces("stock") == []


def unproven(lab: Cli, paths: Iterable[str]) -> dict[str, Any]:
    """Return what does not pass of *paths*; what fails is tried again."""
    wanted = dict.fromkeys(paths, None)
    found: dict[str, Any] = {}
    for _ in range(TRIES):
        if left := [path for path in wanted if found.get(path, {}).get("outcome") != "pass"]:
            said = json.loads(lab("verify", *left, "-o", "json", code=None).stdout)
            found |= {path["path"]: path for path in said["paths"]}
    assert set(found) == set(wanted)
    return {name: path for name, path in found.items() if path["outcome"] != "pass"}


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
    assert unproven(lab, PATHS) == {}


def test_services_are_served_by_virtual_servers_and_nothing_of_them_stays(lab: Cli) -> None:
    file = str(lab.directory / "lab.yaml")
    lab("up", file, "--proxy-mode", "ipvs", "--ipvs-scheduler", "lc")
    listed = lab("exec", "node/node1", "--", "ipvsadm", "-Ln").stdout
    assert re.search(r"^TCP +[\d.]+:80 lc", listed, re.MULTILINE)
    assert unproven(lab, SERVICE_PATHS) == {}
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
