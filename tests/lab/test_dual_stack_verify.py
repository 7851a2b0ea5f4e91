"""A lab of two stacks is proven in both: topologies/dual-stack.yaml, whole and with a fault."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from labs import ROOT, Cli, eventually, inside, namespaces

pytestmark = pytest.mark.lab

BOTH = (
    *("pod-pod-same-node", "pod-pod-cross-node", "pod-clusterip"),
    *("nodeport", "egress-masquerade", "network-policy"),
)
IPV6 = re.compile(r"fd00:[0-9a-f:]+|by IPv6")
IPV4 = re.compile(r"10\.\d+\.\d+\.\d+|192\.168\.50\.\d+|on node1: ")


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cli]:
    lab = f"v{worker_id.removeprefix('gw')}dual"
    command = Cli(lab, tmp_path_factory.mktemp("lab"))
    text = (ROOT / "topologies/dual-stack.yaml").read_text()
    command("up", command.file(text.replace("name: dual-stack", f"name: {lab}")))
    yield command
    command("down")
    assert namespaces(lab) == []


def verified(cli: Cli, *words: str, code: int | None = 0) -> dict[str, dict[str, Any]]:
    done = cli("verify", *words, "-o", "json", code=code)
    return {one["path"]: one for one in json.loads(done.stdout)["paths"]}


def test_each_path_is_proven_in_both_families(proven: Cli) -> None:
    found = verified(proven, *BOTH)
    for path in BOTH:
        evidence = found[path]["evidence"]
        assert found[path]["outcome"] == "pass", found[path]
        assert any(IPV4.search(line) and not IPV6.search(line) for line in evidence), evidence
        assert any(IPV6.search(line) for line in evidence), evidence


def test_no_path_of_the_lab_fails_in_any_mode_or_by_any_back_end(proven: Cli) -> None:
    found = verified(proven)
    failed = [one for one in found.values() if one["outcome"] == "fail"]
    assert (
        failed == [] and found["backends"]["outcome"] == found["proxy-modes"]["outcome"] == "pass"
    )
    assert found["lease-in-etcd"]["outcome"] == "pass"


def pods(cli: Cli) -> dict[str, list[str]]:
    return {
        one["metadata"]["name"]: [ip["ip"] for ip in one["status"]["podIPs"]]
        for one in cli.get("pods")["items"]
    }


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        (("client-a", "web-b"), "flannel-v6.1 out"),
        (("client-a", "web-b:80"), "VXLAN 1: fd00:192:168:50::11 -> fd00:192:168:50::12"),
        (("client-a", "internet:80"), "fd00:192:168:50::11 -> 2001:db8:1::10"),
        (("node/node1", "web-b:80"), "flannel-v6.1 out"),
    ],
)
def test_a_probe_by_ipv6_shows_its_whole_way(
    proven: Cli, ends: tuple[str, str], words: str
) -> None:
    shown = proven("probe", "-6", *ends).stdout
    assert shown.startswith("pass: ") and words in shown


def test_an_address_of_ipv6_is_asked_as_any_other(proven: Cli) -> None:
    address = pods(proven)["web-b"][1]
    shown = proven("probe", "client-a", f"[{address}]:80", "--count", "50").stdout
    assert "50 of 50 probes" in shown
    stopped = proven("probe", "-6", "client", "node/node1:22").stdout
    assert stopped.startswith("pass (not delivered") and "not published" in stopped


def test_what_breaks_ipv6_alone_is_found(proven: Cli) -> None:
    node, address = proven.netns("node2"), pods(proven)["web-b"][1]
    rule = f"ip6tables-nft -t filter %s FORWARD -d {address} -j DROP"
    inside(node, *(rule % "-I").split())
    try:
        found = verified(proven, "pod-pod-cross-node", code=1)["pod-pod-cross-node"]
    finally:
        inside(node, *(rule % "-D").split())
    assert found["outcome"] == "fail" and "flannel-v6.1 in" in found["lastSeen"], found
    eventually(lambda: verified(proven, "pod-pod-cross-node", code=None))
    assert verified(proven, "pod-pod-cross-node")["pod-pod-cross-node"]["outcome"] == "pass"


@pytest.mark.parametrize("words", [("trace", "client-a"), ("why", "client-a")])
def test_what_follows_ipv4_alone_says_so(proven: Cli, words: tuple[str, str]) -> None:
    for to in (pods(proven)["web-b"][1], "svc/web6:80"):
        done = proven(*words, to, code=2)
        assert "only conversations over IPv4" in done.stderr, done.stdout + done.stderr


def test_one_stack_and_two_are_told_apart_by_their_leases(proven: Cli) -> None:
    found = verified(proven, "lease-in-etcd")["lease-in-etcd"]
    assert any("&fd00:" in line and "BackendV6Data" in line for line in found["evidence"])
