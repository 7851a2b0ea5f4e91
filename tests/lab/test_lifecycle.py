"""`up`, `up` again, edited files, `down`: only what differs changes, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from labs import Cli, asked, eventually, ip, namespaces, topology

pytestmark = pytest.mark.lab


def host_state() -> dict[str, str]:
    """What must never change: the host's own links, addresses, routes and rules."""
    commands = {
        "links": "ip -br link",
        "addresses": "ip -br addr",
        "routes": "ip route show table all",
        "rules": "nft list ruleset",
        "sysctl": "sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter",
    }
    return {
        name: subprocess.run(line.split(), capture_output=True, text=True).stdout
        for name, line in commands.items()
    }


def test_up_builds_and_down_leaves_nothing(cli: Cli) -> None:
    before = host_state()
    cli("up", cli.file(topology(cli.lab)))
    status = cli.status()
    assert status["converged"], status["problems"]
    assert {node["name"] for node in status["nodes"]} == {"n1", "n2"}
    assert host_state() == before
    names = namespaces(cli.lab)
    for member in ("underlay", "gateway", "internet", "client", "master", "n1", "n2"):
        assert cli.netns(member) in names
    assert cli.netns("n1", "default", "n1-p1") in names
    cli("down")
    assert namespaces(cli.lab) == []
    assert not cli.run_directory.exists()
    assert host_state() == before
    marked = subprocess.run(
        ["grep", "-lsaz", f"NETLAB_PROCESS={cli.run_directory}:", *_environments()],
        capture_output=True,
        text=True,
    )
    assert marked.stdout == ""
    assert str(cli.run_directory) not in Path("/proc/self/mountinfo").read_text()


def _environments() -> list[str]:
    return [f"/proc/{pid}/environ" for pid in os.listdir("/proc") if pid.isdigit()]


def test_second_up_changes_nothing_and_says_so(cli: Cli) -> None:
    file = cli.file(topology(cli.lab))
    cli("up", file)
    second = cli("up", file)
    assert "nothing to change" in second.stdout
    assert cli("plan", file).returncode == 0


def test_plan_of_a_lab_that_is_not_there_says_ip_commands_and_exits_1(cli: Cli) -> None:
    done = cli("plan", cli.file(topology(cli.lab)), code=1)
    assert f"ip netns add {cli.lab}.n1" in done.stdout
    assert "type vxlan id 1" in done.stdout
    assert namespaces(cli.lab) == []
    assert not cli.run_directory.exists()


def test_up_after_an_edit_changes_only_what_differs(cli: Cli) -> None:
    cli("up", cli.file(topology(cli.lab, pods=2)))
    pods = {p["metadata"]["name"]: p for p in cli.get("pods")["items"]}
    cli("up", cli.file(topology(cli.lab, pods=3)))
    after = {p["metadata"]["name"]: p for p in cli.get("pods")["items"]}
    assert set(after) - set(pods) == {"n1-p3", "n2-p3"}
    for name, pod in pods.items():
        assert after[name]["metadata"]["uid"] == pod["metadata"]["uid"]
        assert after[name]["status"]["podIP"] == pod["status"]["podIP"]
    cli("up", cli.file(topology(cli.lab, pods=1)))
    assert {p["metadata"]["name"] for p in cli.get("pods")["items"]} == {"n1-p1", "n2-p1"}
    assert cli.netns("n1", "default", "n1-p3") not in namespaces(cli.lab)


def test_a_node_can_join_and_leave_by_editing_the_file(cli: Cli) -> None:
    cli("up", cli.file(topology(cli.lab, nodes=2)))
    cli("up", cli.file(topology(cli.lab, nodes=3)))
    routes = [r for r in ip(cli.netns("n1"), "route") if r.get("dev") == "flannel.1"]
    assert len(routes) == 2
    cli("up", cli.file(topology(cli.lab, nodes=2)))
    assert cli.netns("n3") not in namespaces(cli.lab)
    routes = [r for r in ip(cli.netns("n1"), "route") if r.get("dev") == "flannel.1"]
    assert len(routes) == 1
    assert len(cli.get("nodes")["items"]) == 2


def test_a_bad_edit_changes_nothing(cli: Cli) -> None:
    cli("up", cli.file(topology(cli.lab)))
    before = cli.status()["revision"]
    bad = cli.file(topology(cli.lab).replace("192.168.50.102", "10.0.0.2"))
    done = cli("up", bad, code=2)
    assert "nodes[1].address" in done.stderr
    assert cli.status()["revision"] == before


EDITS = [  # what is replaced, by what; one after the other
    pytest.param("192.168.50.101", "192.168.50.120", id="a node's address"),
    pytest.param("192.168.50.10}", "192.168.50.11}", id="the master's"),
    pytest.param("192.168.50.", "192.168.60.", id="the underlay's"),
    pytest.param("10.244.0.0", "10.50.0.0", id="the network's"),
    pytest.param("bridge: docker0", "bridge: cni0", id="the bridge's name"),
    pytest.param("VNI: 1", "VNI: 7", id="the tunnel's number"),
]


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_an_edit_of_the_lab_leaves_nothing_to_do_and_the_paths_whole(
    cli: Cli, old: str, new: str
) -> None:
    text = (
        topology(cli.lab)
        .replace("address: 192.168.50.101", "bridge: docker0, address: 192.168.50.101")
        .replace("10.244.0.0/16", "10.244.0.0/16, Backend: {Type: vxlan, VNI: 1}")
    )
    cli("up", cli.file(text))
    pods = {p["metadata"]["name"]: p["status"]["podIP"] for p in cli.get("pods")["items"]}
    asked(cli.netns("n1", "default", "n1-p1"), pods["n2-p1"])  # the pod knows its gateway's MAC
    assert old in text
    file = cli.file(text.replace(old, new))
    cli("up", file)
    left = cli("plan", file, code=None)
    assert (left.returncode, left.stdout) == (0, "")
    pods = {p["metadata"]["name"]: p["status"]["podIP"] for p in cli.get("pods")["items"]}
    assert asked(cli.netns("n1", "default", "n1-p1"), pods["n2-p1"])["pod"] == "n2-p1"


def test_the_master_may_take_the_address_a_node_had(cli: Cli) -> None:
    cli("up", cli.file(topology(cli.lab)))
    text = topology(cli.lab).replace("50.101", "50.120").replace("50.10}", "50.101}")
    done = cli("up", cli.file(text))
    assert "converged in" in done.stdout
    assert "nothing to change" in cli("up", cli.file(text)).stdout


def test_up_says_soon_that_the_agent_has_died(cli: Cli) -> None:
    """A dead child of `up` is a zombie, and has a /proc/PID still."""
    up = cli.start("up", cli.file(topology(cli.lab, nodes=3)))
    eventually(lambda: _marked(cli, "agent"), what="an agent")
    for pid in _marked(cli, "agent"):
        os.kill(pid, signal.SIGKILL)
    up.communicate(timeout=5)
    assert up.returncode == 1


def test_two_labs_side_by_side_do_not_see_each_other(cli: Cli, tmp_path: Path) -> None:
    cli("up", cli.file(topology(cli.lab)))
    other = Cli(cli.lab + "b", tmp_path)
    try:
        other("up", other.file(topology(other.lab), "other.yaml"))
        assert cli.status()["converged"] and other.status()["converged"]
        done = cli("-L", cli.lab, "exec", "n1-p1", "--", "ip", "-br", "addr")
        assert "10.244." in done.stdout
    finally:
        other("down", code=None)
    assert namespaces(other.lab) == []
    assert cli.status()["converged"]


def test_a_second_up_at_the_same_time_names_who_holds_the_lock(cli: Cli) -> None:
    file = cli.file(topology(cli.lab, nodes=3, pods=10))
    first = cli.start("up", file)
    try:
        lock = cli.run_directory / "lock"
        eventually(lambda: lock.exists() and "pid" in lock.read_text(), what="the lock is held")
        second = cli("up", file, code=None)
    finally:
        first.communicate(timeout=60)
    assert second.returncode == 1, second.stdout + second.stderr
    assert str(first.pid) in second.stderr
    assert first.returncode == 0
    assert cli("up", file).returncode == 0


@pytest.mark.parametrize("victim", ["agent", "etcd", "pods", "all"])
def test_up_converges_after_kill_9(cli: Cli, victim: str) -> None:
    file = cli.file(topology(cli.lab))
    cli("up", file)
    before = {p["metadata"]["name"]: p["status"]["podIP"] for p in cli.get("pods")["items"]}
    status = cli.status()
    pids = {
        "agent": status["agent"]["pid"],
        "etcd": status["etcd"]["pid"],
        "pods": status["servers"]["pid"],
    }
    for pid in pids.values() if victim == "all" else [pids[victim]]:
        os.kill(pid, signal.SIGKILL)
    cli("up", file)
    assert cli.status()["converged"]
    after = {p["metadata"]["name"]: p["status"]["podIP"] for p in cli.get("pods")["items"]}
    assert after == before
    source = cli.netns("n1", "default", "n1-p1")
    assert asked(source, before["n2-p1"])["pod"] == "n2-p1"


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.35, 0.5, 0.8])
def test_killing_up_and_the_agent_at_any_moment_is_repaired(cli: Cli, delay: float) -> None:
    file = cli.file(topology(cli.lab, nodes=3, pods=4))
    first = cli.start("up", file)
    try:
        first.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        first.kill()
    first.communicate()
    for role in ("agent", "etcd", "pods"):
        for pid in _marked(cli, role):
            os.kill(pid, signal.SIGKILL)
    cli("up", file)
    assert cli.status()["converged"]
    assert "nothing to change" in cli("up", file).stdout


def _marked(cli: Cli, role: str) -> list[int]:
    found = []
    for path in _environments():
        try:
            if f"NETLAB_PROCESS={cli.run_directory}:{role}".encode() in Path(
                path
            ).read_bytes().split(b"\0"):
                found.append(int(path.split("/")[2]))
        except OSError:
            continue
    return found
