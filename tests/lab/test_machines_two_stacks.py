"""A dual-stack lab whose nodes are machines of their own: each has an IPv6 address on its card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from boxes import FILES, LAB, Box, asked, boxes, converged, joined, name, pods, written
from labs import eventually

pytestmark = pytest.mark.lab
TWO_STACKS = FILES.replace("dns: {", "network: {EnableIPv6: true}\ndns: {").replace(
    "clusterIP: 10.96.7.7,", "ipFamilyPolicy: RequireDualStack, clusterIP: 10.96.7.7,"
)
FORWARDS = "net.ipv6.conf.all.forwarding"


def address6(box: Box) -> str:
    return f"fd00:192:168:56::{10 + box.number}"


def forwards(box: Box) -> str:
    return box.out("sysctl", "-n", FORWARDS).strip()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """Both machines in the lab, which each gave their cards an address after being told to."""
    with boxes(2) as (first, second):
        file = written(tmp_path_factory.mktemp("lab"), TWO_STACKS)
        refused = first.netlab("up", "--master", file, code=2)
        hint = f"ip addr add {address6(first)}/64 dev eth1"
        assert f"eth1 has {first.address}, but not {address6(first)}" in refused.stderr
        assert hint in refused.stderr
        for box in (first, second):
            box.run("ip", "addr", "add", f"{address6(box)}/64", "dev", "eth1", "nodad")
            box.run("sysctl", "-qw", f"{FORWARDS}=0")
        first.netlab("up", "--master", file)
        joined(second)
        eventually(lambda: converged(first), what="the first machine converges")
        yield first, second


def six(pod: dict[str, Any]) -> str:
    return next(one["ip"] for one in pod["status"]["podIPs"] if ":" in one["ip"])


def test_pods_on_both_machines_reach_each_other_by_ipv6(two: tuple[Box, Box]) -> None:
    first, second = two
    there = pods(second)
    for box, other in ((first, second), (second, first)):
        mine, theirs = there[box.name], there[other.name]
        answer = asked(box, six(theirs), pod=name(mine))
        assert answer["node"] == other.name
        assert answer["client"] == six(mine)


def test_a_service_is_reached_by_ipv6_from_pods_and_by_a_port_of_each_node(
    two: tuple[Box, Box],
) -> None:
    first, second = two
    service = json.loads(first.netlab("get", "service", "web", "-o", "json").stdout)
    (by_six,) = (one for one in service["spec"]["clusterIPs"] if ":" in one)
    mine = pods(second)["node2"]
    for ask in (
        lambda: asked(second, by_six, pod=name(mine)),
        lambda: asked(first, address6(second), 30080),
    ):
        nodes: set[str] = set()
        eventually(lambda: nodes.add(ask()["node"]) or len(nodes) == 2, what=f"both of {nodes}")  # noqa: B023


def test_paths_are_proven_across_machines_in_both_families(two: tuple[Box, Box]) -> None:
    paths = ("pod-pod-cross-node", "pod-clusterip", "nodeport", "lease-in-etcd")
    said = two[1].netlab("verify", *paths, "-o", "json", code=None)
    found = {one["path"]: one for one in json.loads(said.stdout)["paths"]}
    assert {name: one["outcome"] for name, one in found.items()} == dict.fromkeys(paths, "pass"), (
        said.stdout
    )
    for path in ("pod-pod-cross-node", "pod-clusterip", "nodeport"):
        evidence = " ".join(found[path]["evidence"])
        assert "fd00:10:" in evidence or "fd00:192:168:56:" in evidence, path


def test_a_machine_that_leaves_has_its_settings_and_addresses_again(two: tuple[Box, Box]) -> None:
    first, second = two
    assert (forwards(first), forwards(second)) == ("1", "1")
    second.netlab("agent", "--leave")
    assert second.agent is not None and second.agent.wait() == 0
    second.agent = None
    first.netlab("down")
    for box in (first, second):
        assert forwards(box) == "0"
        assert f"{address6(box)}/64" in box.out("ip", "-6", "addr", "show", "dev", "eth1")
        links = box.out("ip", "-o", "link")
        assert "flannel" not in links and "docker0" not in links and LAB not in links
