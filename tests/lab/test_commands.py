"""The commands that look into a lab and change it, against a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from labs import DEADLINE, ROOT, Cli, eventually, namespaces, topology

pytestmark = pytest.mark.lab
EXTRA = """apiVersion: v1
kind: Pod
metadata: {name: clock}
spec:
  nodeName: n1
  containers:
    - name: tick
      image: x
      command: [sh, -c, "echo first; echo second; while :; do echo $COLOUR; sleep 1; done"]
      env: [{name: COLOUR, value: green}]
      workingDir: /tmp
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Two nodes with two pods each, and a pod that runs a command."""
    command = Cli(f"c{os.getpid()}", tmp_path_factory.mktemp("lab"))
    try:
        command("up", command.file(topology(command.lab, extra=EXTRA)))
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("n1-p1", "--", "true"), 0),
        (("n1-p1", "--", "sh", "-c", "exit 7"), 7),
        (("n1-p1", "--", "sh", "-c", "kill -9 $$"), 137),
        (("n1-p1", "--", "no-such-program"), 127),
        (("n1-p1", "--", "/etc"), 126),
        (("node/n1", "--", "sh", "-c", "exit 7"), 7),
        (("client", "--", "true"), 0),
        (("nope", "--", "true"), 4),
        (("node/nope", "--", "true"), 4),
        (("n1-p1", "-c", "nope", "--", "true"), 4),
        (("n1-p1",), 2),
        (("-it", "n1-p1", "--", "true"), 0),
        (("n1-p1", "grep", "-c", "root", "/etc/passwd"), 0),
        (("n1-p1", "-c", "c", "sh", "-c", "exit 7"), 7),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_exec_exits_with_the_code_of_its_command(
    lab: Cli, words: tuple[str, ...], code: int
) -> None:
    lab("exec", *words, code=code)


@pytest.mark.parametrize(
    ("target", "device", "address"),
    [
        ("n1-p1", "eth0", "10.244."),
        ("default/n1-p1", "eth0", "10.244."),
        ("pod/n1-p1", "eth0", "10.244."),
        ("node/n1", "eth0", "192.168.50.101"),
        ("gateway", "eth0", "192.168.50.1/"),
        ("master", "eth0", "192.168.50.10/"),
        ("internet", "eth0", "203.0.113.10"),
        ("client", "eth0", "198.51.100.10"),
    ],
)
def test_exec_runs_where_it_says(lab: Cli, target: str, device: str, address: str) -> None:
    out = lab("exec", target, "--", "ip", "-br", "-4", "address", "show", "dev", device).stdout
    assert address in out


def test_ip_in_a_pod_does_not_complain_of_other_namespaces(lab: Cli) -> None:
    done = lab("exec", "n1-p1", "--", "ip", "addr")
    assert "eth0" in done.stdout
    assert done.stderr == ""
    assert lab("exec", "n1-p1", "--", "ls", "/run/netns").stdout == ""


def test_exec_passes_standard_input_and_the_containers_environment(lab: Cli) -> None:
    assert lab("exec", "n1-p1", "--", "cat", input="hello").stdout == "hello"
    assert lab("exec", "clock", "--", "sh", "-c", "echo $COLOUR; pwd").stdout == "green\n/tmp\n"


def test_logs_are_what_the_command_wrote(lab: Cli) -> None:
    eventually(lambda: "green" in lab("logs", "clock").stdout, what="the third line")
    assert lab("logs", "clock", "-c", "tick").stdout.startswith("first\nsecond\n")
    assert lab("logs", "default/clock", "--tail", "1").stdout == "green\n"
    assert lab("logs", "clock", "--tail", "0").stdout == ""
    assert "only a container with a `command:`" in lab("logs", "n1-p1", code=4).stderr
    agent = lab.log()
    assert lab("logs", "node/n1").stdout.startswith(agent) and "netlab.agent.n1" in agent
    assert "there are: n1" in lab("logs", "node/n9", code=4).stderr
    assert "-c agent, etcd" in lab("logs", "master", "-c", "kubelet", code=4).stderr


def test_following_logs_ends_with_an_interrupt(lab: Cli) -> None:
    child = lab.start("logs", "clock", "-f", "--tail", "1")
    with ended_in_time(child):
        awaited(child, "green")
        awaited(child, "green")
        child.send_signal(2)
        awaited(child, "interrupted")
        child.wait()
    assert child.returncode == 130


@contextmanager
def ended_in_time(child: subprocess.Popen[str]) -> Iterator[None]:
    """Kill *child* at the deadline, so that no reading from it waits for ever, and at the end."""
    timer = threading.Timer(2 * DEADLINE, child.kill)
    timer.start()
    try:
        with child:
            try:
                yield
            finally:
                child.kill()
    finally:
        timer.cancel()


def awaited(child: subprocess.Popen[str], *pieces: str) -> str:
    """Return the next line of *child* that holds all of *pieces*."""
    assert child.stdout is not None
    said = []
    for line in child.stdout:
        said.append(line)
        if all(piece in line for piece in pieces):
            return line
    raise AssertionError(f"no line with {pieces} in time, only {said}")


def test_describe_names_things_that_are_really_there(lab: Cli) -> None:
    lines = lab("describe", "pod", "n1-p1").stdout.splitlines()
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    assert Path(facts["Network namespace"]).exists()
    veth = facts["Cable"].split()[2]
    shown = lab("exec", "node/n1", "--", "ip", "link", "show", "dev", veth).stdout
    assert "master docker0" in shown
    route = lab("exec", "node/n2", "--", "ip", "route").stdout
    assert " ".join(facts["From other nodes"].split(";")[0].split()) in " ".join(route.split())


def test_leases_are_what_nodes_route(lab: Cli) -> None:
    for lease in lab.get("leases")["items"]:
        spec = lease["spec"]
        other = "n2" if spec["node"] == "n1" else "n1"
        routes = lab("exec", f"node/{other}", "--", "ip", "route").stdout
        assert f"{spec['subnet']} via " in routes
        fdb = lab("exec", f"node/{other}", "--", "bridge", "fdb", "show", "dev", "flannel.1").stdout
        assert f"{spec['vtepMAC']} dst {spec['publicIP']}" in fdb


def test_watch_shows_a_pod_that_comes_and_goes(lab: Cli) -> None:
    child = lab.start("get", "pods", "-w")
    file = lab.file(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\n"
        "spec: {nodeName: n2, containers: [{name: c, image: x}]}\n",
        "late.yaml",
    )
    with ended_in_time(child):
        awaited(child, "clock ")
        assert lab("apply", "-f", file).stdout == "pod/late created\n"
        awaited(child, "late ")
        assert lab("apply", "-f", file).stdout == "pod/late unchanged\n"
        assert lab("delete", "-f", file).stdout == "pod/late deleted\n"
        awaited(child, "late ", "(deleted)")
        child.send_signal(2)
        child.wait()
    assert child.returncode == 130


def completed(lab: Cli, *words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "netlab"],
        cwd=ROOT,
        env={
            **os.environ,
            "NETLAB_LAB": lab.lab,
            "_NETLAB_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["netlab", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("exec", "n1"), ["n1-p1", "n1-p2"]),
        (("exec", "node/"), ["node/n1", "node/n2"]),
        (("logs", "cl"), ["clock"]),
        (("logs", "clock", "-c", "t"), ["tick"]),
        (("get", "node", "n"), ["n1", "n2"]),
        (("delete", "pod", "n2-"), ["n2-p1", "n2-p2"]),
        (("get", "pods", "-n", "kube-s"), ["kube-system"]),
        (("probe", "n1-p1", "n2-p"), ["n2-p1", "n2-p2"]),
        (("verify", "pod-pod-"), ["pod-pod-same-node", "pod-pod-cross-node"]),
    ],
    ids=" ".join,
)
def test_live_names_are_completed(lab: Cli, words: tuple[str, ...], offered: list[str]) -> None:
    assert completed(lab, *words) == offered


def test_labs_are_completed(lab: Cli) -> None:
    assert lab.lab in completed(lab, "down", "")


def test_probe_reports_its_hops_as_json(lab: Cli) -> None:
    (verdict,) = json.loads(lab("probe", "n1-p1", "n2-p1:80", "-o", "json").stdout)["paths"]
    assert verdict["outcome"] == "pass"
    assert len(verdict["hops"]) == 24


def test_a_probe_to_a_closed_port_fails(lab: Cli) -> None:
    assert lab("probe", "n1-p1", "n2-p1:81", code=1).stdout.startswith("fail: ")


def test_verify_writes_junit_that_ci_can_read(lab: Cli) -> None:
    out = lab("verify", "pod-pod-cross-node", "unique-pod-ip", "-o", "junit").stdout
    cases = [case.get("name") for case in ElementTree.fromstring(out).iter("testcase")]
    assert cases == ["pod-pod-cross-node", "unique-pod-ip"]


def test_an_unknown_path_is_a_usage_error(lab: Cli) -> None:
    assert "pod-pod-same-node" in lab("verify", "pod-pod-same-nod", code=2).stderr


def test_vv_prints_each_command_ready_to_paste(lab: Cli) -> None:
    err = lab("-vv", "exec", "n1-p2", "--", "true").stderr
    assert [line for line in err.splitlines() if line.startswith("+ ")]


def test_a_graph_shows_every_pod_with_its_address_and_every_lease(lab: Cli) -> None:
    drawn = lab("graph").stdout
    pods = lab.get("pods")["items"]
    assert len(pods) == 5
    for pod in pods:
        assert f"{pod['metadata']['name']}<br/>{pod['status']['podIP']}" in drawn
    for lease in lab.get("leases")["items"]:
        assert f"lease {lease['spec']['subnet']}" in drawn


def test_a_trace_is_a_page_with_a_place_for_every_step(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "way.html"
    lab("trace", "n1-p1", "n2-p1:80", "-o", "html", "-w", str(file))
    page = file.read_text()
    told = json.loads(page.partition('id="told">')[2].partition("</script>")[0])["steps"]
    ways = [tuple(map(tuple, step["way"])) for step in told if step["track"] == 0]
    assert () not in ways
    assert len(set(ways)) >= 12  # the devices between two pods on two nodes
    assert [step["fate"] for step in told if step["fate"]][:2] == ["delivered", "delivered"]
    assert any(step["wrapped"] for step in told)


def test_a_trace_is_a_sequence_diagram(lab: Cli) -> None:
    lines = lab("trace", "n1-p1", "n2-p1:80", "-o", "mermaid").stdout.splitlines()
    assert lines[0] == "sequenceDiagram"
    assert [line.partition(" as ")[2] for line in lines if " as " in line] == [
        "pod default/n1-p1 on n1",
        "n1",
        "underlay",
        "n2",
        "pod default/n2-p1 on n2",
    ]
