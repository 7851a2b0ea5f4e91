"""The paths of the notes, proven on machines of their own: two boxes play the nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml
from boxes import LAB, ROOT, Box, boxes, converged, joined, name, pods, status, written
from labs import ASK, eventually

from netlab.errors import CapabilityError
from netlab.kernel import ipvs
from netlab.model.backends import BACKENDS
from netlab.model.modes import PROXY_MODES, Mode
from netlab.verify.away import CUT
from netlab.verify.balancing import SILENCE

pytestmark = pytest.mark.lab
ASKED = ("python3", "-c", ASK)
CUTTING = f"nft list tables | grep {CUT}"
PREFIX = ("192.168.50.", "192.168.56.")


def spread_again(box: Box) -> None:
    """Have pods of the Deployments on both machines, as one that was lost has none."""
    for words in (("deployment/web",), ("deployment/cart", "-n", "shop")):
        box.netlab("rollout", "restart", *words)
        box.netlab("rollout", "status", *words)


def notes() -> tuple[str, str]:
    """Return topologies/notes.yaml for two machines, the first of them the master's, too: the lab
    and its objects."""
    text = (ROOT / "topologies" / "notes.yaml").read_text().replace(*PREFIX)
    lab, *objects = yaml.safe_load_all(text.replace("nodeName: node3", "nodeName: node2"))
    lab["metadata"]["name"] = LAB
    lab["master"] = {"address": "192.168.56.11"}
    lab["nodes"] = lab["nodes"][:2]
    return yaml.safe_dump(lab), yaml.safe_dump_all(objects)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """Both machines; what is declared comes when both are there, so that both have pods."""
    directory = tmp_path_factory.mktemp("lab")
    lab, objects = notes()
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(directory, lab))
        joined(second)
        eventually(lambda: converged(first), what="the first machine converges")
        second.netlab("apply", "-f", written(directory, objects, "objects.yaml"))
        eventually(lambda: all(map(converged, (first, second))), what=f"{status(first)}")
        yield first, second


def verified(box: Box, *words: str) -> dict[str, dict[str, Any]]:
    """Return what `netlab verify` says of each path."""
    said = box.netlab("verify", *words, "-o", "json", code=None)
    assert said.stdout, said.stderr
    return {one["path"]: one for one in json.loads(said.stdout)["paths"]}


def lent(box: Box) -> dict[str, str]:
    """What a check that runs elsewhere could leave behind on a machine, as its tools say it."""
    return {
        "routes": box.out("sh", "-c", "ip route | sort"),
        "proxies": box.out("ip", "neigh", "show", "proxy"),
        "tables": box.out("sh", "-c", f"nft list tables | grep -e {CUT} -e {SILENCE}; true"),
        "guests": box.out("sh", "-c", "ls /run/netns | grep guest-; true"),
        "links": box.out("sh", "-c", "ip -o link | grep -v veth | cut -d: -f2"),
        "processes": box.out("sh", "-c", "grep -laz :away/ /proc/[0-9]*/environ; true"),
    }


@pytest.fixture(scope="module")
def before(two: tuple[Box, Box]) -> list[dict[str, str]]:
    """What is on both machines before anything is proven."""
    return [lent(box) for box in two]


@pytest.fixture(scope="module")
def found(two: tuple[Box, Box], before: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """What one verification says, told by the machine that is not the master's."""
    return verified(two[1])


PROVEN = (
    *("same-pod-lo", "same-pod-ports", "pod-pod-same-node", "pod-pod-cross-node", "unique-pod-ip"),
    *("lease-in-etcd", "pod-node", "flat-no-nat", "pod-clusterip", "node-clusterip"),
    *("no-endpoints", "nodeport", "affinity", "namespaces", "network-policy"),
    *("clusterip-outside", "firewall", "ingress", "egress-masquerade", "externalname"),
    "loadbalancer",
    "dns-service",
    *("endpoints-follow", "replicas", "selectors", "headless"),
    *("node-join", "daemonset", "node-lost"),
)


@pytest.mark.parametrize("path", PROVEN)
def test_a_path_of_the_notes_is_proven_across_machines(
    found: dict[str, dict[str, Any]], path: str
) -> None:
    assert found[path]["outcome"] == "pass", found[path]["evidence"]
    assert all(line.startswith(("node1: ", "node2: ")) for line in found[path]["evidence"])


def lacking(variant: str) -> str:
    """Return why this kernel cannot have a proxy mode, "" when it can; back ends it has all."""
    try:
        if variant == Mode.IPVS:
            ipvs.require()
    except CapabilityError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("path", "names", "proven"),
    [
        (
            "proxy-modes",
            PROXY_MODES,
            ("node-clusterip", "nodeport", "loadbalancer", "affinity", "no-endpoints"),
        ),
        ("backends", BACKENDS, ("pod-pod-cross-node", "flat-no-nat", "egress-masquerade")),
    ],
)
def test_a_path_is_proven_in_each_variant_of_the_lab(
    found: dict[str, dict[str, Any]], path: str, names: Sequence[str], proven: Sequence[str]
) -> None:
    assert found[path]["outcome"] == "pass", found[path]["evidence"]
    lines = found[path]["evidence"]
    for variant in names:
        if any(line.startswith(f"{variant}, the lab's own: ") for line in lines):
            continue
        if f"{variant}: not tried: {lacking(variant)}" in lines:
            continue
        for one in proven:
            assert any(line.startswith(f"{variant}: {one}: node") for line in lines), (variant, one)


def test_the_lab_is_in_its_own_mode_and_by_its_own_back_end_again(
    two: tuple[Box, Box], found: dict[str, dict[str, Any]]
) -> None:
    assert found["proxy-modes"]
    for box in two:
        assert "KUBE-SERVICES" in box.out("iptables-save", "-t", "nat")
        assert "kube-proxy" not in box.out("nft", "list", "tables")
        assert "vxlan" in box.out("ip", "-d", "link", "show", "flannel.1")
    assert "eth1" not in two[0].out("ip", "route", "show", "10.244.0.0/16")


def test_each_machine_is_as_it_was(
    two: tuple[Box, Box], before: list[dict[str, str]], found: dict[str, dict[str, Any]]
) -> None:
    assert found["node-lost"]
    assert [lent(box) for box in two] == before
    assert nodes(two[1]) == ["node1", "node2"]


def nodes(box: Box) -> list[str]:
    return [
        name(one) for one in json.loads(box.netlab("get", "nodes", "-o", "json").stdout)["items"]
    ]


@pytest.mark.parametrize(
    ("path", "begun"),
    [
        ("node-join", "ls /run/netns | grep guest-"),
        ("loadbalancer", f"nft list tables | grep {SILENCE}"),
        ("daemonset", "ls /run/netns | grep guest-"),
        ("node-lost", CUTTING),
    ],
    ids=["node-join", "loadbalancer", "daemonset", "node-lost"],
)
def test_what_a_killed_check_did_on_another_machine_ends_by_itself(
    two: tuple[Box, Box], before: list[dict[str, str]], path: str, begun: str
) -> None:
    first, second = two
    spread_again(first)
    with first.killed("verify", path):
        eventually(lambda: second.run("sh", "-c", begun, code=None).returncode == 0, what=begun)
    eventually(lambda: lent(second) == before[1], within=90, what=f"{before[1]}")
    eventually(lambda: all(map(converged, two)), within=60, what=f"{status(first)}")
    assert nodes(first) == ["node1", "node2"]


def test_one_mode_or_back_end_is_asked_for_from_any_machine(two: tuple[Box, Box]) -> None:
    both = {"node1", "node2"}
    for box, words, proving in (
        (two[0], ("--proxy-mode", "nftables", "node-clusterip"), both),
        (two[1], ("--proxy-mode", "userspace", "ingress"), {"node1"}),  # the proxies' connections
        (two[1], ("--backend", "host-gw", "pod-pod-cross-node"), both),
    ):
        said = json.loads(box.netlab("verify", *words, "-o", "json", code=None).stdout)
        (one,) = said[f"{words[0].rpartition('-')[2]}s"][0]["paths"]
        assert one["path"] == words[2]
        assert one["outcome"] == "pass", one["evidence"]
        assert {line[:5] for line in one["evidence"]} == proving


def test_what_is_outside_is_reached_from_any_machine(two: tuple[Box, Box]) -> None:
    """The gateway is on the first machine: node2 and its pods reach it, and it them, by that."""
    for box in two:
        for node in ("node1", "node2"):
            pod = name(pods(box)[node])
            told = box.netlab("exec", pod, "--", *ASKED, "203.0.113.10", "80").stdout
            assert json.loads(told)["client"].split(":")[0] == f"192.168.56.1{node[-1]}"
        for address in (two[0].address, two[1].address):
            told = box.netlab("exec", "client", "--", *ASKED, address, "30080").stdout
            assert json.loads(told)["pod"]
        said = json.loads(box.netlab("probe", "client", "internet:80", "-o", "json").stdout)
        hops = [(one["netns"], one["device"]) for one in said["paths"][0]["hops"]]
        assert hops[0] == (f"{LAB}.client", "eth0") and (f"{LAB}.gateway", "internet") in hops


def test_a_clients_packet_to_another_machine_is_followed_all_the_way(
    found: dict[str, dict[str, Any]],
) -> None:
    hops = [(one["netns"], one["device"]) for one in found["nodeport"]["hops"]]
    for member, device in (("gateway", "eth0"), ("node1", "outside0"), ("node2", "eth1")):
        assert (f"{LAB}.{member}", device) in hops


def test_no_path_fails(found: dict[str, dict[str, Any]]) -> None:
    assert [one for one in found.values() if one["outcome"] == "fail"] == []
