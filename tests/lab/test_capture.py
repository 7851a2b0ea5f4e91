"""`netlab capture`, through the command line, in whole labs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import ROOT, Cli, asked, eventually, ip, namespaces, topology
from reading import read, times

pytestmark = pytest.mark.lab

SERVICE = """apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: p1}
  ports: [{name: http, port: 80, targetPort: 80}]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cli]:
    """Two nodes with two pods each; the first of each serves `web`."""
    command = Cli(f"c{worker_id.removeprefix('gw')}x{os.getpid()}", tmp_path_factory.mktemp("lab"))
    command("up", command.file(topology(command.lab, extra=SERVICE)))
    yield command
    command("down")
    assert namespaces(command.lab) == []


class Running:
    """`netlab capture WORDS`, once it captures."""

    def __init__(self, lab: Cli, *words: str, stdout: Any = subprocess.DEVNULL) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "netlab", "capture", *words],
            cwd=ROOT,
            env={**os.environ, "NETLAB_LAB": lab.lab},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.child.stderr
        self.said = self.child.stderr.readline()
        assert self.said.startswith("capture: "), self.said + self.child.stderr.read()

    def end(self, number: int = signal.SIGINT, *, code: int = 0) -> str:
        """Send a signal, 0 for none; return what was said since the first line."""
        if number:
            self.child.send_signal(number)
        _, said = self.child.communicate(timeout=60)
        assert self.child.returncode == code, said
        return said


def address_of(lab: Cli, kind: str, name: str) -> str:
    document = lab.get(kind, name)
    return str(document["spec"].get("clusterIP") or document["status"]["podIP"])


def test_the_way_to_a_service_is_told_with_names_rewrites_and_rules(
    lab: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "a.pcapng"
    service = address_of(lab, "services", "web")
    words = ("n1-p2", "svc/web", "-f", "svc web", "--rules", "-w", str(file))
    with_all = Running(lab, *words)
    answers = [asked(lab.netns("n1", "default", "n1-p2"), service) for _ in range(4)]
    said = with_all.end()
    assert "packets on" in said
    assert str(file) in said
    assert "without comments" not in said
    fields = ("interface_name", "comment", "packet_id", "time_epoch")
    seen = read(file, *(f"frame.{one}" for one in fields), "tcp.flags")
    found = times(seen)
    assert found == sorted(found)
    comments = [line for one in seen for line in one.get("frame.comment", [])]
    assert "pod default/n1-p2 -> Service default/web:http" in comments
    reached = {f"{one['namespace']}/{one['pod']}" for one in answers}
    for pod in reached:
        assert any(line.startswith(f"pod default/n1-p2 -> pod {pod}") for line in comments)
    assert any(line.startswith(f"DNAT: to {service}:80, now 10.244.") for line in comments)
    assert any(
        line.startswith("un-DNAT: from 10.244.") and line.endswith(f"now {service}:80")
        for line in comments
    )
    rules = [line for line in comments if line.startswith("rule: ")]
    assert any(line.startswith("rule: nat KUBE-SERVICES: -d ") for line in rules)
    assert any("-j DNAT --to-destination 10.244." in line for line in rules)


def test_a_device_that_is_not_there_is_told(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "none.pcapng"
    said = lab("capture", "node/n1:docker1", "-w", str(file), code=4).stderr
    assert "n1 has no device docker1" in said and "docker0" in said
    assert not file.exists()


def test_a_node_that_is_off_is_told(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "none.pcapng"
    lab("node", "stop", "n2")
    try:
        for word in ("node/n2", "n2-p1"):
            told = lab("capture", word, "-w", str(file), "--seconds", "9", code=4)
            assert "error: node n2 is switched off" in told.stderr
            assert "hint: netlab node start n2" in told.stderr
        assert not file.exists()
        # Beside somebody who is there it is waited for.
        lab("capture", "node/n2", "node/n1", "-w", str(file), "--seconds", "0.2")
    finally:
        lab("node", "start", "n2")


def test_all_watches_every_device_of_every_namespace(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "all.pcapng"
    running = Running(lab, "--all", "-w", str(file))
    places = namespaces(lab.lab)
    devices = sum(len(ip(name, "link")) for name in places)
    assert running.said == f"capture: {devices} devices of {len(places)} namespaces\n"
    running.end()
    capinfos = subprocess.run(["capinfos", "-I", str(file)], capture_output=True, text=True)
    labels = [line.split("= ")[1] for line in capinfos.stdout.splitlines() if "Name =" in line]
    assert len(labels) == devices
    assert {"n1:docker0", "n1:flannel.1", "gateway:eth0", "underlay:n1"} <= set(labels)
    assert "n1/default/n1-p1:eth0" in labels


def test_a_pod_that_comes_meanwhile_is_watched_and_one_that_goes_is_let_go(
    lab: Cli, tmp_path: Path
) -> None:
    def cables() -> int:
        names = [one["ifname"] for one in ip(lab.netns("n1"), "link")]
        return sum(name.startswith("veth") for name in names)

    before = cables()
    file = tmp_path / "new.pcapng"
    pod = topology(lab.lab, nodes=1, pods=1).split("---\n")[1].replace("n1-p1", "late")
    pod = pod.replace("app: p1", "app: late")
    running = Running(lab, "--all", "-w", str(file))
    lab("apply", "-f", lab.file(pod, "late.yaml"))
    netns = lab.netns("n1", "default", "late")
    eventually(lambda: netns in namespaces(lab.lab))

    def seen() -> bool:
        asked(netns, address_of(lab, "pods", "n2-p1"))
        return b"n1/default/late:eth0" in file.read_bytes()

    eventually(seen, what="the pod's device in the capture")
    lab("delete", "pod", "late")
    eventually(lambda: netns not in namespaces(lab.lab))
    eventually(lambda: cables() == before, what="the pod's cable is gone, though it was watched")
    assert "lost" not in running.end()
    assert read(file, "frame.comment", only='frame.interface_name == "n1/default/late:eth0"')


def test_a_stream_can_be_read_while_it_is_written(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "stream.pcapng"
    with file.open("wb") as out:
        running = Running(lab, "n1-p1", "-f", "tcp", "-w", "-", stdout=out)
    asked(lab.netns("n1", "default", "n1-p1"), address_of(lab, "pods", "n2-p1"))
    eventually(lambda: b"hello" in file.read_bytes(), within=2, what="what was sent, in the stream")
    seen = read(file, "frame.comment", only="tcp")
    assert seen[0]["frame.comment"][0] == "pod default/n1-p1 -> pod default/n2-p1"
    running.end()
    assert len(read(file, "frame.comment", only="tcp")) >= len(seen)


def test_a_reader_that_goes_ends_it_quietly(lab: Cli) -> None:
    reading, writing = os.pipe()
    running = Running(lab, "--all", "-w", "-", stdout=writing)
    os.close(writing)
    os.read(reading, 100)
    os.close(reading)
    assert running.end(0, code=141) == ""


def test_it_ends_after_so_many_packets(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "count.pcapng"
    running = Running(lab, "n1-p1", "-c", "5", "-w", str(file))
    asked(lab.netns("n1", "default", "n1-p1"), address_of(lab, "pods", "n2-p1"))
    assert running.end(0).startswith("5 packets on ")
    assert len(read(file, "frame.number")) == 5


def test_it_ends_after_so_many_seconds(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "seconds.pcapng"
    running = Running(lab, "client", "--seconds", "0.2", "-w", str(file))
    assert "0 packets on 2 devices of 1 namespaces" in running.end(0)
    assert read(file, "frame.number") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_a_whole_file(lab: Cli, tmp_path: Path, number: int) -> None:
    file = tmp_path / "ended.pcapng"
    running = Running(lab, "n1-p1", "-w", str(file))
    asked(lab.netns("n1", "default", "n1-p1"), address_of(lab, "pods", "n2-p1"))
    assert " packets on " in running.end(number)
    assert len(read(file, "frame.comment", only="tcp")) >= 6
    assert os.listdir(tmp_path) == ["ended.pcapng"]


def test_one_that_is_killed_leaves_a_file_that_can_be_read(lab: Cli, tmp_path: Path) -> None:
    file = tmp_path / "killed.pcapng"
    running = Running(lab, "n1-p1", "node/n1", "--rules", "-f", "tcp port 80", "-w", str(file))
    asked(lab.netns("n1", "default", "n1-p1"), address_of(lab, "pods", "n2-p1"))
    eventually(lambda: b"hello" in file.read_bytes())
    running.end(signal.SIGKILL, code=-signal.SIGKILL)
    assert len(read(file, "frame.number", only="tcp")) >= 6
    tables = subprocess.run(
        ["ip", "netns", "exec", lab.netns("n1"), "nft", "list", "tables"],
        capture_output=True,
        text=True,
    )
    assert "netlab-trace" not in tables.stdout


def test_a_ring_of_files_keeps_the_newest(lab: Cli, tmp_path: Path) -> None:
    running = Running(
        *(lab, "n1-p1", "-f", "tcp port 80", "--ring", "0.002", "--files", "3"),
        *("-w", str(tmp_path / "ring.pcapng")),
    )
    address = address_of(lab, "pods", "n2-p1")
    for _ in range(8):
        asked(lab.netns("n1", "default", "n1-p1"), address)
    said = running.end()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert all(file.name in said for file in files)
    assert not (tmp_path / "ring_00001.pcapng").exists()
    packets = [read(file, "frame.time_epoch", "frame.comment") for file in files]
    assert all(len(one) > 0 for one in packets)
    found = [one for each in packets for one in times(each)]
    assert found == sorted(found)
    assert all(one["frame.comment"] for each in packets for one in each)


def test_a_full_disk_ends_it_with_one_line(lab: Cli) -> None:
    done = lab("capture", "n1-p1", "-w", "/dev/full", code=1)
    assert "cannot write /dev/full: no space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lab_that_is_taken_down_takes_its_captures_with_it(cli: Cli, tmp_path: Path) -> None:
    cli("up", cli.file(topology(cli.lab, nodes=1, pods=1)))
    running = Running(cli, "--all", "-w", str(tmp_path / "all.pcapng"))
    cli("down")
    assert "packets on" in running.end(0)
