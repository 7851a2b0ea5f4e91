"""A lab whose nodes are machines of their own: two namespaces play the machines, with etcd on one.

What they share is a private network, as Vagrant's boxes do, and an address of a NAT that leads
nowhere and is the same on both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boxes import (
    ETCD,
    FILES,
    LAB,
    NETLAB,
    Box,
    asked,
    boxes,
    converged,
    joined,
    name,
    pods,
    status,
    subnets,
    vtep,
    written,
)
from labs import ASK, eventually

from netlab import pcapng

pytestmark = pytest.mark.lab
# What is on a machine before it joins, and nobody's of netlab.
FOREIGN = """
ip link add theirs type bridge
ip link set theirs up
ip addr add 172.20.0.1/24 dev theirs
ip route add 198.51.100.0/24 dev theirs proto static
ip route add 203.0.113.0/24 via 10.0.2.2 proto 99
ip rule add fwmark 0x77 table 77 priority 500
iptables -N DOCKER
iptables -A FORWARD -i theirs -j DOCKER
iptables -A INPUT -p tcp --dport 9999 -j DROP
iptables -t nat -A POSTROUTING -s 172.20.0.0/24 -j MASQUERADE
iptables -t mangle -A PREROUTING -p tcp --dport 9999 -j MARK --set-mark 0x77
nft add table inet theirs
nft 'add chain inet theirs input { type filter hook input priority 0; }'
nft add rule inet theirs input tcp dport 9998 drop
sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.eth1.rp_filter=1
"""


def state(box: Box) -> dict[str, str]:
    """Return all that netlab must leave as it is on a machine, as the machine's tools say it."""
    return {
        "links": box.out("sh", "-c", "ip -o -d link | sed 's/ allmulti.*//; s/state [A-Z]* //'"),
        "addresses": box.out("ip", "-o", "-4", "addr"),
        "routes": box.out("ip", "-4", "route", "show", "table", "all"),
        "rules": box.out("ip", "rule"),
        "iptables": box.out("sh", "-c", r"iptables-save | grep -v '^#' | sed 's/\[.*\]//'"),
        "nft": box.out("sh", "-c", "nft -s list table inet theirs 2>&1; true"),
        "tables": box.out("nft", "list", "tables"),
        "settings": box.out(
            *("sysctl", "net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter"),
            *("net.ipv4.conf.eth1.rp_filter", "net.ipv6.conf.all.disable_ipv6"),
            *("net.ipv4.conf.all.route_localnet", "net.bridge.bridge-nf-call-iptables"),
        ),
        "names": box.out("sh", "-c", "find /run/netns /run/netlab -mindepth 1 2>/dev/null | sort"),
        "processes": box.out("sh", "-c", "grep -laz ^NETLAB_PROCESS /proc/[0-9]*/environ; true"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """Both machines in the lab: node1 with the master, node2 by `netlab agent`."""
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(tmp_path_factory.mktemp("lab")))
        joined(second)
        eventually(lambda: converged(first), what="the first machine converges")
        yield first, second


def test_pods_on_both_machines_reach_each_other(two: tuple[Box, Box]) -> None:
    first, second = two
    there = pods(second)
    for box, other in ((first, second), (second, first)):
        mine, theirs = there[box.name], there[other.name]
        answer = asked(box, theirs["status"]["podIP"], pod=name(mine))
        assert answer["pod"] == f"default/{name(theirs)}" or answer["pod"] == name(theirs)
        assert answer["client"].split(":")[0] == mine["status"]["podIP"]


def test_a_service_reaches_both_machines(two: tuple[Box, Box]) -> None:
    first, second = two
    mine = pods(second)["node2"]
    for ask in (
        lambda: asked(second, "10.96.7.7", pod=name(mine)),  # from a pod, by its address
        lambda: asked(first, "10.96.7.7"),  # from a machine
        lambda: asked(first, second.address, 30080),  # from another machine, by a port of the node
    ):
        nodes: set[str] = set()
        eventually(lambda: nodes.add(ask()["node"]) or len(nodes) == 2, what=f"both of {nodes}")  # noqa: B023


def test_every_machine_shows_the_whole_lab(two: tuple[Box, Box]) -> None:
    for box, other in (two, two[::-1]):
        found = {node["name"]: node for node in status(box)["nodes"]}
        assert [found[n]["state"] for n in ("node1", "node2")] == ["Ready", "Ready"]
        assert found[box.name]["here"] and not found[other.name]["here"]
        assert found[other.name]["uplink"] == "eth1" and found[other.name]["version"]
    nodes = json.loads(two[0].netlab("get", "nodes", "-o", "json").stdout)["items"]
    assert all(one["status"]["nodeInfo"]["kubeletVersion"] for one in nodes)


TALKING = """
apiVersion: v1
kind: Pod
metadata: {name: talks}
spec:
  nodeName: node2
  containers:
  - name: clock
    image: clock
    env: [{name: COLOUR, value: green}]
    workingDir: /tmp
    command: [sh, -c, "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"]
"""


def test_commands_and_logs_of_any_machine_from_any_machine(
    two: tuple[Box, Box], tmp_path: Path
) -> None:
    first, second = two
    first.netlab("apply", "-f", written(tmp_path, TALKING))
    try:
        for box, other in (two, two[::-1]):
            for one in (box, other):
                pod = name(pods(box)[one.name])
                assert box.netlab("exec", pod, "--", "hostname").stdout == f"{pod}\n"
                links = box.netlab("exec", f"node/{one.name}", "--", "ip", "-4", "addr").stdout
                assert one.address in links
            script = "echo $COLOUR; pwd; echo wrong >&2; exit 7"
            done = box.netlab("exec", "talks", "--", "sh", "-c", script, code=7)
            assert (done.stdout, done.stderr) == ("green\n/tmp\n", "wrong\n")
            assert box.netlab("exec", "talks", "--", "nosuch", code=127).stderr.count("\n") == 1
            last = box.netlab("logs", "talks", "--tail", "2").stdout.splitlines()
            assert len(last) == 2 and last[0].startswith("line ")
            lines = box.netlab("logs", f"node/{other.name}").stdout
            assert f"netlab.agent.{other.name}" in lines
            assert f"netlab.agent.{box.name}" not in lines
        fed = first.run("sh", "-c", f"echo in | {' '.join(NETLAB)} exec -i talks -- cat")
        assert fed.stdout == "in\n"
        written_there = first.out("cat", "/run/netlab/spread/etcd.log")
        assert second.netlab("logs", "master", "-c", "etcd").stdout == written_there != ""
        none = first.netlab("logs", "node/node2", "-c", "portals", code=4)
        assert "node2: /run/netlab/spread/portals.log is not there" in none.stderr
        terminal = first.netlab("exec", "-it", "talks", "--", "sh", code=1)
        assert "a terminal is not passed on" in terminal.stderr
        seen = first.out("sh", "-c", f"{' '.join(NETLAB)} logs -f talks | head -n 20")
        assert seen.splitlines() == [f"line {number}" for number in range(1, 21)]
        mark = "^NETLAB_PROCESS=.*:errand/"  # nothing runs there for the first any more
        left = f"grep -laz '{mark}' /proc/[0-9]*/environ; true"
        eventually(lambda: not second.out("sh", "-c", left), what="its end")
    finally:
        first.netlab("delete", "pod", "talks", "--force", "--grace-period", "0")


def test_what_plays_with_netlabs_own_machines_says_so(two: tuple[Box, Box]) -> None:
    done = two[1].netlab("node", "stop", "node2", code=2)
    assert "is on several machines" in done.stderr


def verified(box: Box, *paths: str) -> dict[str, dict[str, Any]]:
    """Return what `netlab verify` says of each path."""
    said = box.netlab("verify", *paths, "-o", "json", code=None)
    assert said.stdout, said.stderr
    return {one["path"]: one for one in json.loads(said.stdout)["paths"]}


ACROSS = (
    *("pod-pod-cross-node", "pod-node", "pod-clusterip", "node-clusterip", "nodeport"),
    "flat-no-nat",
)
CARDS = ("eth1", "flannel.1")
ON_EACH = ("lease-in-etcd", "unique-pod-ip")


def test_each_machine_proves_the_paths_of_all(two: tuple[Box, Box]) -> None:
    for box in two:
        found = verified(box, *ACROSS, *ON_EACH)
        assert {path: one["outcome"] for path, one in found.items()} == dict.fromkeys(found, "pass")
        assert set(found) == {*ACROSS, *ON_EACH}
    evidence = "\n".join(found["pod-pod-cross-node"]["evidence"])
    for here, there in (("node1", "node2"), ("node2", "node1")):
        assert f"{here}: default/" in evidence
        addresses = " -> ".join(one.address for one in two if one.name in (here, there))
        assert addresses in evidence
    hops = [(one["netns"], one["device"]) for one in found["pod-pod-cross-node"]["hops"]]
    cards = [(f"{LAB}.{node}", device) for node in ("node1", "node2") for device in CARDS]
    assert {*cards} <= {*hops}


def test_a_probe_is_followed_to_another_machine(two: tuple[Box, Box]) -> None:
    first, _ = two
    there = pods(first)
    mine, theirs = name(there["node1"]), name(there["node2"])
    for words in ((mine, theirs), (mine, f"{theirs}:80"), ("node/node1", f"{theirs}:80")):
        said = json.loads(first.netlab("probe", *words, "-o", "json").stdout)["paths"][0]
        assert said["outcome"] == "pass"
        assert {hop["netns"].split(".")[1] for hop in said["hops"]} == {"node1", "node2"}
        assert first.netlab("probe", *words, "--count", "20").returncode == 0
    back = json.loads(first.netlab("probe", theirs, mine, "-o", "json").stdout)["paths"][0]
    assert back["outcome"] == "pass" and back["hops"][0]["netns"].split(".")[1] == "node2"


def test_a_capture_follows_packets_from_machine_to_machine(
    two: tuple[Box, Box], tmp_path: Path
) -> None:
    first, second = two
    file = tmp_path / "way.pcapng"
    web = {node: name(pod) for node, pod in pods(first).items()}
    theirs = pods(first)["node2"]["status"]["podIP"]
    places = [f"{web['node1']}:eth0", "node/node1:eth1", "node/node2:eth1", f"{web['node2']}:eth0"]
    words = ("capture", *places, "-f", "tcp port 80", "-w", str(file))
    with first.running(*words, until="capture: "):
        assert asked(first, theirs, pod=web["node1"])["node"] == "node2"
    devices, ways = captured(file)
    labels = [f"node1/default/{web['node1']}:eth0", "node1:eth1", "node2:eth1"]
    labels += [f"node2/default/{web['node2']}:eth0"]
    assert ways[1] == labels  # of the SYN
    assert ways[2] == labels[::-1]
    assert set(devices) == set(labels)
    mine = tmp_path / "mine.pcapng"
    with second.running("capture", "--all", "--here", "-w", str(mine), until="capture: "):
        assert asked(first, theirs, pod=web["node1"])["node"] == "node2"
    assert {device.partition(":")[0].partition("/")[0] for device in captured(mine)[0]} == {"node2"}
    for wrong, code, said in (
        (("node/node2:eth7",), 1, "node2: node2 has no device eth7"),
        (("node/node2", "--rules", "-f", "icmp"), 2, "rules of other machines are not told"),
        (("node/node2", "-f", "tcp port x"), 2, "a port is a number"),
    ):
        refused = first.netlab("capture", *wrong, "-w", str(tmp_path / "none"), code=code)
        assert said in refused.stderr, refused.stderr
    assert not (tmp_path / "none").exists()


def captured(file: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Return the devices of a capture, and those on which each packet was seen, by its number."""
    devices: list[str] = []
    ways: dict[int, list[str]] = {}
    with file.open("rb") as read:
        for block in pcapng.blocks(read):
            if block.kind == pcapng.INTERFACE:
                devices.append(pcapng.read_interface(block.data).name)
            elif block.kind == pcapng.PACKET:
                packet = pcapng.read_packet(block.data)
                said = dict(pcapng.options(packet.options))
                number = int.from_bytes(said[pcapng.PACKET_ID], "little")
                ways.setdefault(number, []).append(devices[packet.interface])
    return devices, ways


def test_every_machine_draws_the_whole_lab(two: tuple[Box, Box]) -> None:
    for box, form in zip((*two, two[0]), ("dot", "mermaid", "svg"), strict=True):
        picture = box.netlab("graph", "-o", form).stdout
        for word in ("node1, master", "node2", *(name(pod) for pod in pods(two[0]).values())):
            assert word in picture
        assert "gateway" in picture and "outside0" in picture


BROKEN = {  # what is done to the second machine, what undoes it, the path, where it ends
    "its rules drop it": (
        "iptables -I FORWARD -p tcp --dport 80 -j DROP",
        "iptables -D FORWARD -p tcp --dport 80 -j DROP",
        "pod-pod-cross-node",
        "node2 flannel.1 in",
    ),
    "nothing comes out of its tunnel": (
        "iptables -t raw -I PREROUTING -p udp --dport 8472 -j DROP",
        "iptables -t raw -D PREROUTING -p udp --dport 8472 -j DROP",
        "pod-pod-cross-node",
        "node2 eth1 in",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_on_another_machine_is_named_there(two: tuple[Box, Box], name: str) -> None:
    first, second = two
    breaks, heals, path, end = BROKEN[name]
    second.run("sh", "-c", breaks)
    try:
        found = verified(first, path)[path]
    finally:
        second.run("sh", "-c", heals)
    assert found["outcome"] == "fail"
    assert found["lastSeen"] == f"{LAB}.{end}"
    assert verified(first, path)[path]["outcome"] == "pass"


def test_a_machine_that_does_not_answer_is_named(two: tuple[Box, Box]) -> None:
    first, second = two
    second.kill_agent(LAB)
    try:
        done = first.netlab("verify", "pod-node", code=1)
        assert "the agent of node2 does not answer" in done.stdout + done.stderr
        eventually(lambda: "not heard from" in "".join(status(first)["problems"]))
        for words in (("logs", "node/node2"), ("exec", "node/node2", "--", "true")):
            lost = first.netlab(*words, code=1).stderr
            assert f"node node2 is another machine, {second.address}, and it, or the agent" in lost
    finally:
        joined(second)


def test_an_agent_that_was_killed_goes_on_and_changes_nothing(two: tuple[Box, Box]) -> None:
    first, second = two
    before, held = state(second), pods(second)["node2"]
    lease = first.netlab("get", "leases").stdout
    second.kill_agent(LAB)
    eventually(lambda: "not heard from" in "".join(status(first)["problems"]), what="its silence")
    assert asked(first, second.address, 30080)["node"]  # nothing stops while nobody looks
    joined(second)
    eventually(lambda: converged(first), what="the first machine converges")
    after = state(second)
    before.pop("processes"), after.pop("processes")
    assert after == before
    assert first.netlab("get", "leases").stdout.split()[:12] == lease.split()[:12]
    assert pods(second)["node2"]["status"]["podIP"] == held["status"]["podIP"]


def test_drift_on_a_machine_is_repaired(two: tuple[Box, Box]) -> None:
    _, second = two
    second.run("ip", "link", "delete", "flannel.1")
    second.run("ip", "netns", "delete", f"{LAB}.node2")
    eventually(
        lambda: (
            "flannel.1" in second.out("ip", "-o", "link")
            and "10.244" in second.out("ip", "route", "show", "dev", "flannel.1")
        )
    )
    eventually(lambda: f"{LAB}.node2\n" in second.out("ls", "/run/netns"))
    assert second.out("ip", "-o", "-4", "addr", "show", "eth1").count("192.168.56.12/24") == 1
    eventually(lambda: converged(second))


def test_a_machine_keeps_what_is_its_own_and_leaves_cleanly(tmp_path: Path) -> None:
    with boxes(2) as (first, second):
        second.run("sh", "-ec", FOREIGN)
        before = state(second)
        first.netlab("up", "--master", written(tmp_path))
        joined(second)
        during = state(second)
        for what in ("links", "addresses", "routes", "rules"):
            assert set(before[what].splitlines()) <= set(during[what].splitlines()), what
        assert set(before["iptables"].splitlines()) <= set(during["iptables"].splitlines())
        assert during["nft"] == before["nft"]
        assert "rp_filter = 2" in during["settings"]
        assert "ip_forward = 1" in during["settings"]
        second.netlab("agent", "--leave")
        assert state(second) == before
        assert second.agent is not None and second.agent.wait(timeout=10) == 0
        assert "192.168.56.12" not in first.netlab("get", "leases").stdout
        eventually(
            lambda: (
                "node node2: waiting for its machine: run `netlab join 192.168.56.11` there"
                in status(first)["problems"]
            )
        )
        eventually(lambda: ready(first)["node2"] == "Unknown", what="node2 is known to be away")


def ready(box: Box) -> dict[str, str]:
    """Return the condition Ready of each node."""
    nodes = json.loads(box.netlab("get", "nodes", "-o", "json").stdout)["items"]
    return {
        name(one): condition["status"]
        for one in nodes
        for condition in one["status"].get("conditions", [])
        if condition["type"] == "Ready"
    }


def test_a_machine_that_is_booted_again_has_its_lease_and_its_mac(tmp_path: Path) -> None:
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(tmp_path))
        joined(second)
        lease, link = first.netlab("get", "leases").stdout, vtep(second)
        second.power_off()
        eventually(lambda: "not heard from" in "".join(status(first)["problems"]))
        second.boot()
        joined(second)
        assert vtep(second) == link
        assert subnets(first.netlab("get", "leases").stdout) == subnets(lease)
        eventually(lambda: converged(first))
        there = pods(first)
        assert asked(first, there["node2"]["status"]["podIP"], pod=name(there["node1"]))


BAD = [  # words of `netlab agent`, what it says
    pytest.param(("--node", "node7", "--etcd", ETCD), "lab spread has no such node", id="name"),
    pytest.param(
        ("--node", "node2", "--etcd", ETCD, "--uplink", "eth9"), "no such card here", id="card"
    ),
    pytest.param(
        ("--node", "node2", "--etcd", ETCD, "--uplink", "eth0"),
        "--uplink eth0 has 10.0.2.15, not the declared address 192.168.56.12",
        id="NAT's card",
    ),
    pytest.param(
        ("--node", "node1", "--etcd", ETCD), "no card of this machine has 192.168.56.11", id="other"
    ),
    pytest.param(("--node", "node2", "--etcd", "192.168.56.11"), "no URL of an etcd", id="URL"),
    pytest.param(("--node", "node2"), "--node and --etcd say whose node", id="no etcd"),
    pytest.param(
        ("--node", "node2", "--etcd", ETCD, "--etcd-cafile", "/nowhere"), "no such file", id="file"
    ),
]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """A lab whose second machine has not joined."""
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(tmp_path_factory.mktemp("lab")))
        yield first, second


@pytest.mark.parametrize(("words", "said"), BAD)
def test_a_machine_that_cannot_be_that_node_says_why(
    half: tuple[Box, Box], words: tuple[str, ...], said: str
) -> None:
    before = state(half[1])
    done = half[1].netlab("agent", *words, code=2)
    assert said in done.stderr, done.stderr
    assert state(half[1]) == before


def test_join_finds_out_which_node_a_machine_is(half: tuple[Box, Box]) -> None:
    done = half[1].netlab("join", "192.168.56.11")
    assert f"netlab agent --node node2 --etcd {ETCD} --uplink eth1" in done.stdout
    assert "it has 192.168.56.12, the declared address" in done.stdout


def test_the_master_must_be_on_its_own_machine(half: tuple[Box, Box], tmp_path: Path) -> None:
    done = half[1].netlab("up", "--master", written(tmp_path), code=2)
    assert "no card of this machine has 192.168.56.11" in done.stderr
    plain = half[0].netlab("up", written(tmp_path), code=2)
    assert "nodes[0].address: 192.168.56.11 is also the address of the master" in plain.stderr


def test_a_second_up_changes_nothing(half: tuple[Box, Box], tmp_path: Path) -> None:
    done = half[0].netlab("up", "--master", written(tmp_path))
    assert "nothing to change" in done.stdout
    assert "netlab join 192.168.56.11" in done.stdout


def test_down_on_the_first_machine_leaves_nothing_there(tmp_path: Path) -> None:
    with boxes(1) as (first,):
        first.run("sh", "-ec", FOREIGN)
        before = state(first)
        first.netlab("up", "--master", written(tmp_path))
        first.netlab("down")
        assert state(first) == before
        assert list(first.disk.iterdir()) == []


def test_a_first_machine_that_is_booted_again_has_its_objects_and_leases(tmp_path: Path) -> None:
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(tmp_path))
        joined(second)
        eventually(lambda: converged(first))
        leases, link = subnets(first.netlab("get", "leases").stdout), vtep(first)
        uids = {one["metadata"]["uid"] for one in pods(first).values()}
        first.power_off()
        # The second goes on without etcd: one of two endpoints still answers.
        inside = ["ip", "netns", "exec", f"{LAB}.node2.default.{pods_here(second)}"]
        words = [*inside, "python3", "-c", ASK, "10.96.7.7", "80"]
        eventually(lambda: "node2" in second.run(*words, code=None).stdout)
        first.boot()
        first.start_agent("--master")
        eventually(lambda: converged(first), what="the first machine converges")
        assert (subnets(first.netlab("get", "leases").stdout), vtep(first)) == (leases, link)
        assert {one["metadata"]["uid"] for one in pods(first).values()} == uids
        eventually(lambda: converged(second), what="the second machine converges")
        there = pods(second)
        assert asked(second, there["node1"]["status"]["podIP"], pod=name(there["node2"]))


def pods_here(box: Box) -> str:
    """Return the name of a pod of this machine, as its namespaces tell it."""
    prefix = f"{LAB}.{box.name}.default."
    names = box.out("ls", "/run/netns").split()
    return next(one.removeprefix(prefix) for one in names if one.startswith(prefix))


def test_a_machine_whose_node_is_no_longer_declared_gives_everything_back(tmp_path: Path) -> None:
    with boxes(2) as (first, second):
        second.run("sh", "-ec", FOREIGN)
        before = state(second)
        first.netlab("up", "--master", written(tmp_path))
        joined(second)
        alone = FILES.replace("  - {name: node2, address: 192.168.56.12}\n", "")
        first.netlab("up", "--master", written(tmp_path, alone))
        eventually(lambda: "docker0" not in second.out("ip", "-o", "link"), what=second.log())
        eventually(lambda: subnets(first.netlab("get", "leases").stdout) != [], what="leases")
        assert "192.168.56.12" not in first.netlab("get", "leases").stdout
        after = state(second)
        for what in ("links", "addresses", "routes", "rules", "iptables", "nft", "settings"):
            assert after[what] == before[what], what
        assert "is no longer declared" in "".join(status(second)["problems"])
        first.netlab("up", "--master", written(tmp_path))
        eventually(lambda: converged(second), what="it is a node again")
        there = pods(second)
        assert asked(second, there["node1"]["status"]["podIP"], pod=name(there["node2"]))
