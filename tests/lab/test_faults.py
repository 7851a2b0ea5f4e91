"""What is done to a running lab on purpose: made, told, outliving the agent, undone by one word."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from labs import Cli, asked, eventually, inside, ip, namespaces, topology
from test_commands import completed

pytestmark = pytest.mark.lab
ETCD = "192.168.50.10"
TABLE = ("nft", "list", "table", "bridge", "netlab-faults")


def link(netns: str, name: str) -> dict[str, object]:
    return next(one for one in ip(netns, "link") if one["ifname"] == name)


def undo_all(cli: Cli) -> list[str]:
    return [fault["undo"] for fault in cli.status()["faults"]]


def why(cli: Cli, *words: str) -> dict[str, object]:
    return json.loads(cli("why", *words, "-o", "json", code=1).stdout)["causes"][0]


def reaches_etcd(cli: Cli, node: str) -> bool:
    words = ["ip", "netns", "exec", cli.netns(node), "bash", "-c", f"echo >/dev/tcp/{ETCD}/2379"]
    try:
        return not subprocess.run(words, capture_output=True, timeout=0.5).returncode
    except subprocess.TimeoutExpired:
        return False


def test_a_pulled_cable_has_no_carrier_and_is_the_cause_that_why_names(small: Cli) -> None:
    done = small("link", "down", "n1")
    assert done.stdout == "the link of n1 is down; undo: netlab link up n1\n"
    assert "NO-CARRIER" in link(small.netns("n1"), "eth0")["flags"]  # type: ignore[operator]
    assert undo_all(small) == ["netlab link up n1"]
    cause = why(small, "node/n1", "node/n2")
    assert cause["kind"] == "fault" and "by `netlab link down n1`" in str(cause["what"])
    assert small("link", "up", "n1").stdout == "no longer so: the link of n1 is down\n"
    assert "NO-CARRIER" not in link(small.netns("n1"), "eth0")["flags"]  # type: ignore[operator]
    assert undo_all(small) == [] and small.status()["converged"]


def test_up_keeps_a_fault_says_so_and_does_not_wait_for_what_it_broke(small: Cli) -> None:
    small("link", "down", "n2")
    done = small("up", small.file(topology(small.lab)), code=1)
    assert "still faulted: the link of n2 is down; undo: netlab link up n2" in done.stderr
    assert link(small.netns("underlay"), "n2")["operstate"] != "UP"
    small("link", "clear")


def test_a_pods_cable_loses_every_frame_and_what_is_lost_is_counted(small: Cli) -> None:
    small("link", "loss", "n1", "0.01%")  # which a node's way to its own pod does not meet
    told = small("link", "loss", "n1-p1", "100%").stderr
    assert why(small, "node/n1", "n1-p1")["repair"] == ["netlab link loss default/n1-p1 0"]
    how = "rule" if "lacks netem" in told else "netem"
    cause = why(small, "n1-p2", "n1-p1")
    assert cause["kind"] == "fault" and cause["repair"] == ["netlab link loss default/n1-p1 0"]
    row = small("link", "show", "n1-p1").stdout.splitlines()[1].split()
    assert row[:4] == ["default/n1-p1", "up", "100%", f"({how})"] and int(row[4]) > 0
    small("link", "clear")
    gone = subprocess.run(["ip", "netns", "exec", small.netns("n1"), *TABLE], capture_output=True)
    assert gone.returncode, "the table is still there"


def test_a_share_of_frames_is_lost_on_a_nodes_cable(small: Cli) -> None:
    small("link", "loss", "n1", "50%")
    ping = ("ping", "-q", "-c", "200", "-i", "0.002", "-W", "1", "192.168.50.102")
    said = subprocess.run(
        ["ip", "netns", "exec", small.netns("n1"), *ping], capture_output=True, text=True
    ).stdout
    received = int(said.split(" received")[0].split()[-1])
    assert 10 < received < 110, said  # a quarter of 200 comes back: 50 with σ 6
    small("link", "clear", "n1")


def test_what_has_no_such_amount_or_name_is_refused(small: Cli) -> None:
    assert "no node, machine or pod n9" in small("link", "down", "n9", code=4).stderr
    assert "no share" in small("link", "loss", "n1", "120%", code=2).stderr
    assert "plugged into the gateway" in small("link", "loss", "client", "1%", code=2).stderr
    assert "nothing to undo" in small("link", "up", "n1").stdout
    assert undo_all(small) == []


def test_a_partitioned_node_goes_on_without_etcd(small: Cli) -> None:
    small("fault", "etcd-partition", "n1")
    assert not reaches_etcd(small, "n1") and reaches_etcd(small, "n2")
    pods = {p["metadata"]["name"]: p for p in small.get("pods")["items"]}
    address = pods["n2-p1"]["status"]["podIP"]
    assert asked(small.netns("n1", "default", "n1-p1"), address)["pod"] == "n2-p1"
    eventually(lambda: any("cannot reach etcd" in p for p in small.status()["problems"]))
    small("fault", "clear", "etcd-partition", "n1")
    assert reaches_etcd(small, "n1") and small.status()["converged"]


def test_etcd_stays_stopped_and_every_command_says_so_at_once(small: Cli) -> None:
    small("fault", "etcd-stop")
    status = small.status()
    assert (status["etcd"]["pid"], status["etcd"]["ready"]) == (0, False)
    for words in (("get", "pods"), ("up", small.file(topology(small.lab)))):
        said = small(*words, code=1).stderr
        assert "etcd is stopped" in said and "netlab fault clear etcd-stop" in said
    assert not reaches_etcd(small, "n1")
    looked = small("exec", "n1-p1", "--", "hostname")
    assert looked.stdout.strip() == "n1-p1"
    assert "etcd is stopped" in looked.stderr and "last knew" in looked.stderr
    assert "answered" in small("trace", "n1-p1", "n2-p1").stdout
    assert completed(small, "fault", "clear", "") == ["etcd-stop"]
    assert "n1" in completed(small, "link", "up", "")
    small("fault", "clear", "etcd-stop")
    assert len(small.get("pods")["items"]) == 4 and small.status()["converged"]


def test_an_etcd_that_hangs_is_told_within_seconds(small: Cli) -> None:
    pid = small.etcd_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "timed out" in small("get", "pods", code=1).stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: small.status()["converged"])


def test_a_node_whose_power_is_cut_comes_back_as_it_was(small: Cli) -> None:
    lease = {n["name"]: n["subnet"] for n in small.status()["nodes"]}["n2"]
    mac = link(small.netns("n2"), "flannel.1")["address"]
    assert small("node", "stop", "n2").stdout == "node/n2 stopped; undo: netlab node start n2\n"
    assert not [name for name in namespaces(small.lab) if ".n2" in name]
    assert small("node", "stop", "n2").stdout == "node/n2 already stopped\n"
    assert {n["name"]: n["subnet"] for n in small.status()["nodes"]}["n2"] == lease
    assert "switched off" in str(why(small, "node/n1", "node/n2")["what"])
    assert "n2" in {n["metadata"]["name"] for n in small.get("nodes")["items"]}
    small("probe", "n1-p1", "n1-p2")
    small("verify", "pod-pod-same-node")
    for words in (("exec", "n2-p1", "--", "true"), ("probe", "n1-p1", "n2-p1")):
        said = small(*words, code=4).stderr
        assert said.endswith("by `netlab node stop n2`\nhint: netlab node start n2\n"), said
    small("node", "start", "n2")
    assert {n["name"]: n["subnet"] for n in small.status()["nodes"]}["n2"] == lease
    assert link(small.netns("n2"), "flannel.1")["address"] == mac
    assert undo_all(small) == []


def test_a_node_is_added_and_removed_and_up_has_its_own_again(small: Cli) -> None:
    done = small("node", "add", "n3", "--label", "disk=ssd")
    assert "node/n3 added, 192.168.50.2; undo: netlab node remove n3" in done.stdout
    nodes = {n["metadata"]["name"]: n for n in small.get("nodes")["items"]}
    assert nodes["n3"]["metadata"]["labels"]["disk"] == "ssd"
    assert "10.244." in inside(small.netns("n1"), "ip", "route", "show", "dev", "flannel.1")
    small("node", "remove", "n3", "n2")
    assert undo_all(small) == ["netlab node add n2 --address 192.168.50.102"]
    assert {n["metadata"]["name"] for n in small.get("nodes")["items"]} == {"n1"}
    small("up", small.file(topology(small.lab)))
    assert undo_all(small) == [] and small.status()["converged"]
    assert small("plan", small.file(topology(small.lab))).stdout == ""


def test_faults_outlive_a_killed_agent_and_what_is_undone_leaves_nothing(cli: Cli) -> None:
    """What a crash left of an undone fault, here a table and a downed port, is put right too."""
    file = cli.file(topology(cli.lab, pods=1))
    cli("up", file)
    cli("link", "loss", "n1", "10%")
    cli("link", "down", "n2")
    os.kill(cli.agent_pid(), signal.SIGKILL)
    cli("up", file, code=1)
    assert "netlab link loss n1 10%" in inside(cli.netns("underlay"), *TABLE)
    assert undo_all(cli) == ["netlab link loss n1 0", "netlab link up n2"]
    os.kill(cli.agent_pid(), signal.SIGKILL)
    lab = cli.run_directory / "lab.json"
    lab.write_text(json.dumps({**json.loads(lab.read_text()), "faults": []}))
    cli("up", file)
    words = ["ip", "netns", "exec", cli.netns("underlay"), "nft", "list", "tables"]
    tables = subprocess.run(words, capture_output=True, text=True).stdout
    assert "netlab-faults" not in tables
    assert link(cli.netns("underlay"), "n2")["operstate"] == "UP"


COMMAND = """apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec: {nodeName: n1, containers: [{name: c, image: x, command: [sleep, "86399"]}]}
"""


def sleepers() -> list[str]:
    done = subprocess.run(["pgrep", "-x", "-f", "sleep 86399"], capture_output=True, text=True)
    return done.stdout.split()


def test_an_agent_killed_while_it_cut_the_power_leaves_nothing_running(cli: Cli) -> None:
    """The only node: there is no other's loop to clean up after it."""
    file = cli.file(topology(cli.lab, nodes=1, pods=1, extra=COMMAND))
    cli("up", file)
    assert len(sleepers()) == 1
    os.kill(cli.agent_pid(), signal.SIGKILL)
    lab = cli.run_directory / "lab.json"
    off = [{"sort": "node stop", "target": "n1"}]
    lab.write_text(json.dumps({**json.loads(lab.read_text()), "faults": off}))
    cli("up", file)
    eventually(lambda: not [one for one in namespaces(cli.lab) if ".n1" in one])
    eventually(lambda: sleepers() == [], what="the pod's program still runs")
    cli("node", "start", "n1")
    assert len(sleepers()) == 1 and cli.status()["converged"]
    cli("node", "stop", "n1")
    assert sleepers() == []
