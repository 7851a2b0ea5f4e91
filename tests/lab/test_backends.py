"""The back ends of flannel: a live lab goes from one to another, and nothing of the old stays."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from labs import ROOT, Cli, eventually, inside, ip, namespaces, topology

pytestmark = pytest.mark.lab
PODS = ("pod-pod-same-node", "pod-pod-cross-node", "lease-in-etcd", "node-join", "pod-node",
        "flat-no-nat", "egress-masquerade")  # fmt: skip


def with_backend(text: str, backend: str) -> str:
    """Return the topology *text* with `network.Backend` put in."""
    network = f"network: {{Network: 10.244.0.0/16, Backend: {backend}}}\n"
    if "network: {Network: 10.244.0.0/16}\n" in text:
        return text.replace("network: {Network: 10.244.0.0/16}\n", network)
    return text.replace("gateway:", network + "gateway:", 1)


def proven(cli: Cli, *ids: str) -> dict[str, str]:
    """Return the first evidence of each path; all of them must pass."""
    paths = json.loads(cli("verify", *ids, "-o", "json").stdout)["paths"]
    assert [path["outcome"] for path in paths] == ["pass"] * len(ids), paths
    return {path["path"]: " ".join(path["evidence"]) for path in paths}


def routes(netns: str) -> dict[str, str]:
    """Return `dst: gateway dev device` of the overlay's routes but the node's own."""
    return {
        one["dst"]: f"{one['gateway']} dev {one['dev']}"
        for one in ip(netns, "route")
        if one["dst"].startswith("10.244.") and "gateway" in one
    }


def devices(netns: str) -> set[str]:
    return {one["ifname"] for one in ip(netns, "link")}


def mtus(cli: Cli) -> set[int]:
    """Return the MTUs of a node's bridge, of its end of cables, and of a pod."""
    mine = [one for one in ip(cli.netns("n1"), "link") if one["ifname"].startswith(("veth", "doc"))]
    (pod,) = ip(cli.netns("n1", "default", "n1-p1"), "link", "show", "eth0")
    return {one["mtu"] for one in [*mine, pod]}


def subnet(cli: Cli, node: str) -> str:
    return next(one["subnet"] for one in cli.status()["nodes"] if one["name"] == node)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Two nodes on one segment, one behind a router; DirectRouting."""
    command = Cli("rooms", tmp_path_factory.mktemp("lab"))
    text = (ROOT / "topologies/two-segments.yaml").read_text()
    try:
        command("up", command.file(with_backend(text, "{DirectRouting: true}")))
        yield command
    finally:
        command("down", code=None)
        assert namespaces("rooms") == []


def test_a_live_lab_changes_to_host_gw_and_back(small: Cli) -> None:
    text = topology(small.lab)
    before = routes(small.netns("n1"))
    file = small.file(with_backend(text, "{Type: host-gw}"), "hostgw.yaml")
    assert "route add" in small("plan", file, code=1).stdout
    small("up", file)
    assert small("plan", file).stdout == ""
    assert "flannel.1" not in devices(small.netns("n1")) | devices(small.netns("n2"))
    assert routes(small.netns("n1")) == {subnet(small, "n2"): "192.168.50.102 dev eth0"}
    assert mtus(small) == {1500}
    seen = proven(small, *PODS)
    assert "routed without a tunnel" in seen["pod-pod-cross-node"]
    assert "hold its route after" in seen["node-join"]
    assert '"PublicIPv6":null,"BackendType":"host-gw"}, TTL' in seen["lease-in-etcd"]
    told = small("trace", "n1-p1", "n2-p1").stdout
    assert f"route {subnet(small, 'n2')} via 192.168.50.102 dev eth0" in told
    assert "VXLAN" not in told
    small("up", small.file(text))
    assert routes(small.netns("n1")) == before
    assert mtus(small) == {1450}
    proven(small, "pod-pod-cross-node")


@pytest.mark.parametrize(
    "change",
    [
        "ip route del {peer}",
        "ip route replace {peer} via 192.168.50.1 proto 110",
        "ip route flush proto 110",
    ],
    ids=["gone", "elsewhere", "all"],
)
def test_a_route_of_host_gw_is_repaired(small: Cli, change: str) -> None:
    small("up", small.file(with_backend(topology(small.lab), "{Type: host-gw}"), "hostgw.yaml"))
    peer = subnet(small, "n2")
    inside(small.netns("n1"), *change.format(peer=peer).split())
    began = time.monotonic()
    eventually(lambda: routes(small.netns("n1")) == {peer: "192.168.50.102 dev eth0"})
    assert time.monotonic() - began < 10


def test_why_names_the_route_of_host_gw_that_is_gone(small: Cli) -> None:
    small("up", small.file(with_backend(topology(small.lab), "{Type: host-gw}"), "hostgw.yaml"))
    peer = subnet(small, "n2")
    pid = small.agent_pid()
    os.kill(pid, signal.SIGSTOP)  # nothing is repaired meanwhile
    try:
        inside(small.netns("n1"), "ip", "route", "del", peer)
        told = small("why", "n1-p1", "n2-p1", code=1).stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"route {peer} via 192.168.50.102 dev eth0 is missing" in told


def processes_of(cli: Cli) -> list[int]:
    """Return the pids of the processes of flannel's udp back end."""
    own = f"NETLAB_PROCESS={cli.run_directory}:flannel/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if path.read_bytes().startswith(own):
                found.append(int(path.parent.name))
    return sorted(found)


def test_a_live_lab_changes_to_udp_and_back(small: Cli) -> None:
    file = small.file(with_backend(topology(small.lab), "{Type: udp}"), "udp.yaml")
    small("up", file)
    assert small("plan", file).stdout == ""
    assert "flannel0" in devices(small.netns("n1"))
    assert "flannel.1" not in devices(small.netns("n1")) | devices(small.netns("n2"))
    assert mtus(small) == {1472}
    assert len(processes_of(small)) == 2
    seen = proven(small, *PODS)
    assert "on the underlay as UDP 8285" in seen["pod-pod-cross-node"]
    assert '"PublicIPv6":null}, TTL' in seen["lease-in-etcd"]
    told = " ".join(small("trace", "n1-p1", "n2-p1").stdout.split())
    assert "into UDP by the process behind flannel0: 192.168.50.101:8285 -> 192.168.50.102" in told
    assert "out of UDP by the process behind flannel0" in told
    small("up", small.file(topology(small.lab)))
    assert "flannel0" not in devices(small.netns("n1")) | devices(small.netns("n2"))
    eventually(lambda: processes_of(small) == [], what="the processes are gone")


def bridge(cli: Cli, node: str) -> str:
    """Return the address of a node's bridge."""
    (docker0,) = ip(cli.netns(node), "addr", "show", "docker0")
    return str(next(one["local"] for one in docker0["addr_info"] if one["family"] == "inet"))


@pytest.mark.parametrize("harm", ["kill", "device", "route"])
def test_what_udp_needs_is_there_again(small: Cli, harm: str) -> None:
    small("up", small.file(with_backend(topology(small.lab), "{Type: udp}"), "udp.yaml"))
    before = processes_of(small)
    if harm == "kill":
        for pid in before:
            os.kill(pid, signal.SIGKILL)
    elif harm == "device":
        inside(small.netns("n1"), "ip", "link", "del", "flannel0")
    else:
        inside(small.netns("n1"), "ip", "route", "flush", "dev", "flannel0")
    if harm != "route":
        eventually(lambda: set(processes_of(small)) - set(before), what="another process")
    answer = ("exec", "n1-p1", "--", "ping", "-c1", "-W1", bridge(small, "n2"))
    eventually(lambda: small(*answer, code=None).returncode == 0)
    proven(small, "pod-pod-cross-node", "lease-in-etcd")


def test_why_names_the_process_that_is_gone(small: Cli) -> None:
    small("up", small.file(with_backend(topology(small.lab), "{Type: udp}"), "udp.yaml"))
    agent = small.agent_pid()
    os.kill(agent, signal.SIGSTOP)  # nothing is started again meanwhile
    try:
        for pid in processes_of(small):
            os.kill(pid, signal.SIGKILL)
        told = small("why", "n1-p1", "n2-p1", code=1).stdout
    finally:
        os.kill(agent, signal.SIGCONT)
    assert "no process takes the packets of flannel0 of n1" in told


def test_the_processes_outlive_the_agent_and_go_with_the_lab(cli: Cli) -> None:
    file = cli.file(with_backend(topology(cli.lab, pods=1), "{Type: udp}"))
    cli("up", file)
    before = processes_of(cli)
    os.kill(cli.agent_pid(), signal.SIGKILL)
    cli("up", file)
    assert processes_of(cli) == before
    proven(cli, "pod-pod-cross-node")
    cli("down")
    assert processes_of(cli) == []


def test_the_pods_paths_hold_by_each_back_end_and_the_lab_is_put_back(small: Cli) -> None:
    file = small.file(topology(small.lab))
    small("up", file)
    before = routes(small.netns("n1"))
    evidence = proven(small, "backends")["backends"]
    for name in ("vxlan: ", "vxlan+DirectRouting: ", "host-gw: ", "udp: "):
        for path in ("pod-pod-same-node", "pod-pod-cross-node", "lease-in-etcd", "node-join",
                     "pod-node", "egress-masquerade", "flat-no-nat"):  # fmt: skip
            assert name + path in evidence
    assert routes(small.netns("n1")) == before
    assert small("plan", file).stdout == ""


def test_verify_by_all_back_ends_is_one_table(small: Cli) -> None:
    file = small.file(topology(small.lab))
    small("up", file)
    told = small("verify", "--backend", "all", "pod-pod-cross-node", "node-join").stdout
    head, *rows = [line.split() for line in told.splitlines()]
    assert head == ["PATH", "VXLAN", "VXLAN+DIRECTROUTING", "HOST-GW", "UDP"]
    assert [(row[0], row.count("pass")) for row in rows[:2]] == [
        ("pod-pod-cross-node", 4),
        ("node-join", 4),
    ]
    assert small("plan", file).stdout == ""


def test_a_path_that_breaks_by_one_back_end_fails_in_its_column(small: Cli) -> None:
    small("up", small.file(topology(small.lab)))
    drop = ("FORWARD", "-i", "docker0", "-o", "eth0", "-d", "10.244.0.0/16", "-j", "DROP")
    inside(small.netns("n1"), "iptables", "-I", *drop)
    try:
        told = small("verify", "--backend", "all", "pod-pod-cross-node", code=1).stdout
    finally:
        inside(small.netns("n1"), "iptables", "-D", *drop)
    _, row, *_ = told.splitlines()
    found = [word for word in row.split() if word in ("pass", "fail")]
    assert found == ["pass", "fail", "fail", "pass"]
    assert "host-gw: pod-pod-cross-node: fail" in told and "last seen: " in told


def test_direct_routing_takes_the_tunnel_only_behind_the_router(rooms: Cli) -> None:
    near, far = subnet(rooms, "node2"), subnet(rooms, "node3")
    found = routes(rooms.netns("node1"))
    assert found[near] == "192.168.60.12 dev eth0"
    assert found[far] == f"{far.partition('/')[0]} dev flannel.1"
    seen = proven(rooms, "pod-pod-cross-node", "pod-node", "node-join", "lease-in-etcd")
    assert "routed without a tunnel" in seen["pod-pod-cross-node"]
    assert "on the underlay as UDP 8472" in seen["pod-pod-cross-node"]


def test_a_live_lab_leaves_direct_routing(rooms: Cli) -> None:
    rooms("up", rooms.file((ROOT / "topologies/two-segments.yaml").read_text()))
    assert {way.split()[-1] for way in routes(rooms.netns("node1")).values()} == {"flannel.1"}
    entries = inside(rooms.netns("node1"), "bridge", "fdb", "show", "dev", "flannel.1")
    assert entries.count("dst") == 2
    proven(rooms, "pod-pod-cross-node")
