"""`netlab trace --attach`: what others send is told from its first packet, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from labs import ROOT, Cli, eventually, inside, topology

from netlab.packets import Flow, Protocol
from netlab.sensors.stream import Stream
from netlab.sensors.traceswitch import PREFIX

pytestmark = pytest.mark.lab

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {only: n2}
  ports: [{port: 8080, targetPort: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {only: n2}}
spec:
  nodeName: n2
  containers: [{name: c, image: x, ports: [{containerPort: 80}]}]
"""
# What is looked at only in the packets of a known conversation, inside an envelope.
INNER_SOURCE = "@th,336,32"
TALK = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as s:
    while True:
        s.sendall(b"hello\\n")
        s.recv(4000)
        time.sleep(0.05)
"""


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[Cli]:
    name = f"a{worker_id.removeprefix('gw')}x{os.getpid()}{request.param[0]}"
    command = Cli(name, tmp_path_factory.mktemp("lab"))
    described = topology(name, extra=SERVICE, publish="[30080/tcp]")
    first, rest = described.split("---\n", 1)
    command("up", command.file(f"{first}proxyMode: {request.param}\n---\n{rest}"))
    yield command
    command("down")


def address(lab: Cli, kind: str, name: str) -> str:
    found = lab.get(kind, name)
    return str(found["status"]["podIP"] if kind == "pod" else found["spec"]["clusterIP"])


@contextmanager
def asking(lab: Cli, sender: str, destination: str, port: int) -> Iterator[None]:
    """Somebody opens connections, ten a second."""
    netns = lab.netns(sender) if sender == "client" else lab.netns("n1", "default", sender)
    flow = Flow("", destination, Protocol.TCP, 0, port)
    with Stream(netns, [flow], pace=10):
        yield


@contextmanager
def talking(lab: Cli, sender: str, destination: str, port: int) -> Iterator[None]:
    """Somebody has a connection that goes on."""
    netns = lab.netns("n1", "default", sender)
    words = ["ip", "netns", "exec", netns, sys.executable, "-c", TALK, destination, str(port)]
    child = subprocess.Popen(words)
    try:
        eventually(lambda: f"{destination}:{port}" in inside(netns, "ss", "-tn"), what="talks")
        yield
    finally:
        child.kill()
        child.wait()


def attached(lab: Cli, *words: str, code: int = 0) -> Any:
    done = lab("trace", "--attach", *words, "-o", "json", code=code)
    return json.loads(done.stdout) if done.stdout else None


def steps(packet: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for one in packet["steps"] if one["step"] == kind]


def rules(lab: Cli) -> str:
    return inside(lab.netns("n1"), "nft", "list", "ruleset")


def tables(lab: Cli) -> str:
    return "".join(inside(lab.netns(node), "nft", "list", "tables") for node in ("n1", "n2"))


def test_a_new_connection_is_told_from_its_first_packet_with_its_rules(lab: Cli) -> None:
    vip, far = address(lab, "svc", "web"), address(lab, "pod", "far")
    with asking(lab, "n1-p1", vip, 8080), asking(lab, "n1-p2", far, 80):
        found = attached(lab, "host n1-p1 and svc web")
    assert found["attached"] and found["answered"] and found["lost"] == 0
    assert (found["service"], found["endpoint"]) == ("default/web", f"default/far {far}:80")
    first, second = found["packets"][:2]
    assert (first["name"], second["name"]) == ("SYN", "SYN ACK")
    assert [len(steps(one, "device")) for one in (first, second)] == [12, 12]
    assert steps(first, "end")[0]["fate"] == "delivered"
    dnat = steps(first, "rewrite")[0]
    assert (dnat["kind"], dnat["after"]["destination"], dnat["after"]["destinationPort"]) == (
        "dnat",
        far,
        80,
    )
    assert dnat["conntrack"] in [one["id"] for one in found["conntrack"]]
    assert [one["kind"] for one in steps(second, "rewrite")] == ["un-dnat"]
    assert any("endpoint default/far" in one["means"] for one in steps(first, "rule"))
    assert {one["place"]["name"] for one in steps(first, "envelope")} == {"n1", "n2"}
    assert found["notes"] == []


def test_another_flow_to_the_same_server_does_not_show(lab: Cli) -> None:
    far = address(lab, "pod", "far")
    with asking(lab, "n1-p1", far, 80), asking(lab, "n1-p2", far, 80):
        found = attached(lab, "pod n1-p2 and port 80", "--flows", "3")
    assert len(found) == 3
    mine = address(lab, "pod", "n1-p2")
    ends = [
        {step["flow"]["source"], step["flow"]["destination"]}
        for journey in found
        for packet in journey["packets"]
        for step in steps(packet, "device")
    ]
    assert ends and all(one == {mine, far} for one in ends)
    assert len({one["flow"]["sourcePort"] for one in found}) == 3


def test_behind_a_node_port_it_is_followed_through_both_rewrites(lab: Cli) -> None:
    with asking(lab, "client", "192.168.50.101", 30080):
        found = attached(lab, "port 30080")
    first = found["packets"][0]
    assert first["name"] == "SYN" and first["flow"]["destinationPort"] == 30080
    assert [one["kind"] for one in steps(first, "rewrite")] == ["dnat", "snat"]
    assert steps(first, "end")[0]["fate"] == "delivered"
    assert any("MASQUERADE" in one["rule"].upper() for one in steps(first, "rule"))
    assert {one["place"]["name"] for one in steps(first, "device")} >= {"client", "n1", "n2"}


def test_a_connection_that_goes_on_is_told_from_the_middle(lab: Cli) -> None:
    vip = address(lab, "svc", "web")
    with talking(lab, "n1-p1", vip, 8080):
        found = attached(lab, "svc web", "-c", "4")
    assert len(found["packets"]) == 4
    assert "it flowed already" in found["notes"][0]
    assert found["flow"]["destination"] == vip  # as it was asked, though first seen elsewhere
    whole = [one for one in found["packets"] if steps(one, "end")]
    assert whole and all(len(steps(one, "device")) == 12 for one in whole)
    assert all("dnat" in steps(one, "rewrite")[0]["kind"] for one in whole)


def test_nothing_that_fits_is_exit_1_and_says_so(lab: Cli) -> None:
    done = lab("trace", "--attach", "port 7777", "--seconds", "0.2", code=1)
    assert (done.stdout, done.stderr) == ("", "nothing came that fits `port 7777` in 0.2 s\n")
    assert PREFIX not in tables(lab)


def test_an_interrupt_tells_what_was_seen(lab: Cli) -> None:
    vip = address(lab, "svc", "web")
    with talking(lab, "n1-p1", vip, 8080):
        running = start(lab, "svc web", "-c", "100000", "--seconds", "60", "-o", "json")
        eventually(lambda: PREFIX in tables(lab), what="it traces")
        eventually(lambda: INNER_SOURCE in rules(lab), what="it follows the conversation")
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=20)
    assert running.returncode == 0
    assert json.loads(said)["packets"]
    assert PREFIX not in tables(lab)


def test_killed_it_leaves_no_table_behind_the_next_command(lab: Cli) -> None:
    running = start(lab, "port 7777", "--seconds", "60")
    eventually(lambda: PREFIX in tables(lab), what="it traces")
    running.kill()
    running.communicate()
    lab("trace", "--attach", "port 7777", "--seconds", "0.1", code=1)
    assert PREFIX not in tables(lab)


def test_two_run_beside_each_other(lab: Cli) -> None:
    vip, far = address(lab, "svc", "web"), address(lab, "pod", "far")
    with asking(lab, "n1-p1", vip, 8080), asking(lab, "n1-p2", far, 80):
        one = start(lab, "pod n1-p1 and svc web", "-o", "json")
        other = attached(lab, "pod n1-p2")
        said, _ = one.communicate(timeout=20)
    mine = address(lab, "pod", "n1-p1"), address(lab, "pod", "n1-p2")
    assert (json.loads(said)["flow"]["source"], other["flow"]["source"]) == mine


@pytest.mark.parametrize("form", ["text", "html", "mermaid", "pcapng"])
def test_every_form_tells_it(lab: Cli, form: str, tmp_path: Path) -> None:
    file = tmp_path / "told"
    with asking(lab, "n1-p1", address(lab, "svc", "web"), 8080):
        lab("trace", "--attach", "svc web", "-o", form, "-w", str(file))
    data = file.read_bytes()
    assert data[:4] == b"\x0a\x0d\x0d\x0a" if form == "pcapng" else b"n1-p1" in data


def start(lab: Cli, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "netlab", "trace", "--attach", *words],
        cwd=ROOT,
        env={**os.environ, "NETLAB_LAB": lab.lab},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
