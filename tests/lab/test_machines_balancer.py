"""The load balancer of a lab whose nodes are machines of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import FILES, LAB, Box, boxes, converged, joined, name, pods, status, written
from labs import ASK, DEADLINE, eventually
from test_machines import FOREIGN, state

pytestmark = pytest.mark.lab
VIP, PROXY = "192.168.56.200", "192.168.56.201"
SERVICES = """
---
apiVersion: v1
kind: Service
metadata: {name: whole}
spec:
  type: LoadBalancer
  loadBalancerIP: 192.168.56.200
  externalTrafficPolicy: Local
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: proxied, annotations: {netlab.io/ip-mode: Proxy}}
spec:
  type: LoadBalancer
  loadBalancerIP: 192.168.56.201
  selector: {app: web}
  ports: [{port: 80}]
"""
ASKED = ("python3", "-c", ASK)
ANSWERS = 12  # as many as leave out one of two nodes once in 2,000 times


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """Both machines in the lab: node1 with the master, node2 by `netlab agent`."""
    with boxes(2) as (first, second):
        lab = written(tmp_path_factory.mktemp("lab"), FILES + SERVICES)
        first.netlab("up", "--master", lab)
        joined(second)
        settled(first, second)
        yield first, second


def settled(first: Box, second: Box) -> None:
    """Wait until all agree, and the balancer sends to both nodes."""
    eventually(lambda: all(map(converged, (first, second))), what=f"{status(first)}")
    eventually(lambda: used(second) == {"node1": True, "node2": True}, what="both are used")


def used(box: Box) -> dict[str, bool]:
    """Return which nodes the balancer uses for all that it serves."""
    return dict(status(box)["balancer"]["nodes"])


def from_client(box: Box, address: str, times: int = ANSWERS) -> list[dict[str, Any]]:
    """Ask *address* from outside, each time by a connection of its own; return the answers."""
    said = [box.netlab("exec", "client", "--", *ASKED, address, "80").stdout for _ in range(times)]
    return [dict(json.loads(one)) for one in said]


def test_a_client_outside_is_served_by_every_machine(two: tuple[Box, Box]) -> None:
    first, second = two
    whole = from_client(second, VIP)
    assert {one["node"] for one in whole} == {"node1", "node2"}
    # Policy Local: the pod sees who asked, though the packet crossed a machine and a balancer.
    assert {one["client"].split(":")[0] for one in whole} == {"198.51.100.10"}
    proxied = {one["client"].split(":")[0] for one in from_client(first, PROXY)}
    assert "198.51.100.10" not in proxied
    counted = first.out("nft", "list", "table", "netdev", "netlab-balancer")
    assert 'fwd ip to 192.168.56.12 device "eth1"' in counted


def test_machines_and_pods_reach_both_addresses_from_anywhere(two: tuple[Box, Box]) -> None:
    for box in two:
        pod = name(pods(box)[box.name])
        for address in (VIP, PROXY):
            assert json.loads(box.run(*ASKED, address, "80").stdout)["pod"]
            told = box.netlab("exec", pod, "--", *ASKED, address, "80").stdout
            assert json.loads(told)["pod"]


def test_no_card_but_the_machines_own_is_on_the_wire(two: tuple[Box, Box]) -> None:
    """A virtual network without promiscuous mode lets nothing else through."""
    for address in (VIP, PROXY):
        from_client(two[0], address, 4)
    for box in two:
        learned = box.fabric("bridge", "-j", "fdb", "show", "br", "fabric", "dynamic")
        behind = {
            one["mac"] for one in json.loads(learned) if one["ifname"] == f"b{box.number}eth1"
        }
        assert behind == {f"02:6e:6c:62:{box.number:02x}:01"}


def test_what_no_service_has_at_the_address_stops_at_the_gateway(two: tuple[Box, Box]) -> None:
    said = two[1].netlab("exec", "client", "--", *ASKED, VIP, "81", code=None)
    assert said.returncode != 0
    rules = two[1].netlab("exec", "gateway", "--", "nft", "list", "table", "ip", "firewall").stdout
    (dropped,) = (line for line in rules.splitlines() if "not published" in line)
    assert "packets 0 " not in dropped


def test_a_machine_without_a_proxy_gets_nothing_until_it_has_one(two: tuple[Box, Box]) -> None:
    first, second = two
    second.kill_agent(LAB)
    try:
        eventually(lambda: used(first) == {"node1": True, "node2": False}, what="node2 not used")
        for address in (VIP, PROXY):
            assert all(one["pod"] for one in from_client(first, address))
        assert {one["node"] for one in from_client(first, VIP)} == {"node1"}
    finally:
        joined(second)
    settled(first, second)
    assert {one["node"] for one in from_client(first, VIP)} == {"node1", "node2"}


def traced(box: Box, *words: str) -> dict[str, Any]:
    said = box.netlab("trace", *words, "-o", "json", code=None)
    assert said.returncode == 0, said.stdout[-3000:] + said.stderr
    return dict(json.loads(said.stdout))


def way(told: dict[str, Any], leg: str) -> list[str]:
    """Return each device that the first packet of a leg was on between the ends: `node1:eth1`."""
    steps = next(one["steps"] for one in told["packets"] if one["leg"] == leg)
    return [
        f"{one['place']['node'] or one['place']['name']}:{one['device']}"
        for one in steps
        if one["step"] == "device" and not one["device"].startswith(("veth", "docker", "flannel"))
    ]


def by_node(box: Box, address: str, node: str) -> dict[str, Any]:
    """Return a trace from the client to *address* that *node*'s pod answered."""
    kept: list[dict[str, Any]] = []

    def tried() -> bool:
        kept.append(traced(box, "client", f"{address}:80"))
        return bool(kept[-1]["says"].get("node") == node)

    eventually(tried, what=f"an answer of {node}", within=3 * DEADLINE)
    return kept[-1]


@pytest.mark.parametrize("asked_on", ["node1", "node2"])
def test_a_trace_follows_it_over_balancer_and_machines(two: tuple[Box, Box], asked_on: str) -> None:
    box = two[0] if asked_on == "node1" else two[1]
    told = by_node(box, VIP, "node2")
    outwards = ["client:eth0", "gateway:client", "gateway:balancer", "balancer:gateway"]
    onwards = ["balancer:eth0", "node1:balancer0", "node1:eth1", "node2:eth1", "node2:eth0"]
    assert way(told, "request") == [*outwards, *onwards]
    back = ["node2:eth0", "node2:eth1", "node1:eth1", "node1:outside0", "gateway:eth0"]
    assert way(told, "reply") == [*back, "gateway:client", "client:eth0"]
    for leg, rule in (("request", "fwd ip to 192.168.56.12"), ("reply", "fwd ip to 198.51.100.1")):
        steps = next(one["steps"] for one in told["packets"] if one["leg"] == leg)
        (handed,) = (one for one in steps if one["step"] == "next-hop" and one["by"] == "rule")
        assert handed["place"]["name"] == "node1" and rule in handed["words"]
    assert way(by_node(box, VIP, "node1"), "request")[4:6] == ["balancer:eth0", "node1:balancer0"]


@pytest.mark.parametrize("sender", ["node1", "node2"])
def test_a_pod_that_asks_a_proxied_address_is_followed_there(
    two: tuple[Box, Box], sender: str
) -> None:
    first = two[0]
    told = traced(first, name(pods(first)[sender]), f"{PROXY}:80")
    asked = way(told, "request")
    assert asked[1:][:2] == (
        ["node1:balancer0", "balancer:eth0"] if sender == "node1" else ["node2:eth1", "node1:eth1"]
    )
    assert "balancer:eth0" in asked and told["says"]["pod"]


def test_why_names_what_stops_it_on_the_machine_where_it_is(two: tuple[Box, Box]) -> None:
    second = two[1]
    drop = "-p tcp --dport 80 -m comment --comment planted -j DROP"
    for box in two:
        box.run("sh", "-c", f"iptables -I FORWARD {drop}")
    try:
        said = second.netlab("why", "client", f"{VIP}:80", "-o", "json", code=1)
        cause = json.loads(said.stdout)["causes"][0]
        assert cause["kind"] == "rule" and cause["place"]["name"] in ("node1", "node2")
        assert "planted" in cause["what"] + "".join(cause["proof"])
    finally:
        for box in two:
            box.run("sh", "-c", f"iptables -D FORWARD {drop}")


BROKEN = (
    "nft delete table netdev netlab-balancer",
    "ip netns del spread.balancer",
    "ip link del balancer0",
    "ip route del 192.168.56.200/30",
    "ip netns exec spread.balancer nft flush ruleset",
    "ip netns exec spread.balancer ip neigh del 192.168.56.12 dev eth0",
)


def test_what_is_broken_while_the_agent_is_dead_is_repaired_by_the_next(
    two: tuple[Box, Box],
) -> None:
    first, second = two
    for breakage in BROKEN:
        first.kill_agent(LAB)
        first.run("sh", "-c", breakage)
        first.start_agent("--master")
        eventually(lambda: converged(first), what=f"{breakage}: {status(first)}")
        settled(first, second)
        found = {one["node"] for one in from_client(second, VIP)}
        assert found == {"node1", "node2"}, breakage


def test_another_pool_is_given_and_routed_everywhere(two: tuple[Box, Box], tmp_path: Path) -> None:
    first, second = two
    moved = (FILES + SERVICES).replace("192.168.56.20", "192.168.56.22").replace("/30]", "/31]")
    first.netlab("up", "--master", written(tmp_path, moved))
    settled(first, second)
    assert "192.168.56.220/31 via 192.168.56.11" in second.out("ip", "route")
    assert "192.168.56.200" not in second.out("ip", "route") + first.out("ip", "route")
    assert {one["node"] for one in from_client(second, "192.168.56.220")} == {"node1", "node2"}
    first.netlab("up", "--master", written(tmp_path, FILES + SERVICES))
    settled(first, second)
    assert all(one["pod"] for one in from_client(second, VIP, 2))


def test_a_balancer_that_is_declared_no_more_leaves_nothing(
    two: tuple[Box, Box], tmp_path: Path
) -> None:
    first, second = two
    without = "".join(
        line for line in (FILES + SERVICES).splitlines(True) if not line.startswith("balancer:")
    )
    first.netlab("up", "--master", written(tmp_path, without), code=None)
    for box in two:
        eventually(lambda box=box: "192.168.56.5" not in box.out("ip", "route"), what="its routes")  # type: ignore[misc]
    eventually(lambda: f"{LAB}.balancer" not in first.out("ls", "/run/netns"))
    eventually(lambda: "netlab-balancer" not in first.out("nft", "list", "tables"))
    eventually(lambda: "balancer0" not in first.out("ip", "-o", "link"))
    assert "balancer" not in status(second)
    first.netlab("up", "--master", written(tmp_path, FILES + SERVICES))
    settled(first, second)


def test_an_address_that_another_machine_has_is_refused(tmp_path: Path) -> None:
    with boxes(2) as (first, second):
        first.run("sh", "-ec", FOREIGN)
        before = state(first)
        for address, line, field in (("5", 10, "address"), ("202", 10, "pool[0]")):
            words = ("addr", "add", f"192.168.56.{address}/24", "dev", "eth1")
            second.run("ip", *words)
            said = first.netlab("up", "--master", written(tmp_path), code=2).stderr
            assert said.splitlines()[:1] == [
                f"{tmp_path}/lab.yaml:{line}: balancer.{field}: 192.168.56.{address} is in "
                "use on the wire of eth1, by 02:6e:6c:62:02:01 (an address that is nobody's)"
            ]
            assert state(first) == before
            second.run("ip", *("addr", "del", *words[2:]))
        first.netlab("up", "--master", written(tmp_path))
