"""Namespaces that play machines: each with a network, processes, mounts and a name of its own.

    fabric    a bridge, the private network of all boxes: their eth1, 192.168.56.10 + number
    eth0      of each box, with 10.0.2.15 as VirtualBox's NAT gives it; it leads nowhere

A box has a /run, which is empty after each boot, and a /var/lib/netlab, which is as it was left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from labs import ASK, DEADLINE, ROOT, eventually

LAB = "spread"
ETCD = "http://192.168.56.11:2379"
FILES = """
apiVersion: netlab/v1
kind: Lab
metadata: {name: spread}
underlay: {segments: [{name: lan, cidr: 192.168.56.0/24}]}
master: {address: 192.168.56.11}
nodes:
  - {name: node1, address: 192.168.56.11}
  - {name: node2, address: 192.168.56.12}
balancer: {address: 192.168.56.5, pool: [192.168.56.200/30]}
dns: {replicas: 0}
nodeLifecycle: {gracePeriodSeconds: 2}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 10.96.7.7, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
"""  # noqa: E501
NETLAB = (sys.executable, "-m", "netlab")
UNSHARED = (
    *("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
    *("--mount-proc", "--propagation", "private"),
)
START = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir /var/lib/netlab
mount --bind "$DISK" /var/lib/netlab
hostname "$NAME"
ip link set lo up
echo started
exec sleep infinity
"""


B = TypeVar("B", bound="Box")


class Box:
    """One machine. `netlab` runs the command there; `run` any."""

    def __init__(self, number: int, directory: Path, fabric: int) -> None:
        self.number = number
        self.name = f"node{number}"
        self.address = f"192.168.56.{10 + number}"
        self.disk = directory / f"disk{number}"
        self.disk.mkdir()
        self.directory = directory
        self.root = ROOT  # where its netlab is
        self._fabric = fabric
        self._first: subprocess.Popen[bytes] | None = None
        self.agent: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Start it, with its two cards."""
        self._first = self._started()
        assert self._first.stdout is not None
        assert self._first.stdout.readline() == b"started\n"
        # unshare forks: the namespaces are its child's.
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children")
        self.pid = int(children.read_text().split()[0])
        for index, (card, address) in enumerate((("eth0", "10.0.2.15"), ("eth1", self.address))):
            port = f"b{self.number}{card}"
            mac = f"02:6e:6c:62:{self.number:02x}:{index:02x}"  # a card has the same after a reboot
            ip = self._fabric_ip()
            pair = f"type veth peer name {card} address {mac} netns {self.pid}"
            subprocess.run([*ip, "link", "add", port, *pair.split()], check=True)
            subprocess.run([*ip, "link", "set", port, "up"], check=True)
            if card == "eth1":
                subprocess.run([*ip, "link", "set", port, "master", "fabric"], check=True)
            self.run("ip", "addr", "add", f"{address}/24", "dev", card)
            self.run("ip", "link", "set", card, "up")
        self.run("ip", "route", "add", "default", "via", "10.0.2.2")

    def _started(self) -> subprocess.Popen[bytes]:
        """Start its first process, which says `started`; return it."""
        return subprocess.Popen(
            [*UNSHARED, "bash", "-c", START],
            env={**os.environ, "DISK": str(self.disk), "NAME": self.name},
            stdout=subprocess.PIPE,
        )

    def run(
        self, *words: str, code: int | None = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there; *code*: the exit code demanded, None for any."""
        done = subprocess.run(
            self._inside(words),
            env={**self.environment, **env},
            capture_output=True,
            text=True,
            timeout=max(180, 2 * DEADLINE),
        )
        if code is not None:
            assert done.returncode == code, (
                f"{self.name}: {words}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root)}

    def _inside(self, words: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "-i", *words]

    def netlab(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run(*NETLAB, *words, code=code)

    def out(self, *words: str) -> str:
        return self.run(*words).stdout

    @contextmanager
    def running(self, *words: str, until: str) -> Iterator[None]:
        """Have `netlab WORDS` run there meanwhile, from when it has said *until* on stderr; then it
        is interrupted, and must end well."""
        command = self._inside([*NETLAB, *words])
        child = subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)
        with child:
            assert child.stderr is not None
            said = child.stderr.readline()
            assert until in said, said + child.stderr.read()
            yield
            inner = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            os.kill(int(inner[0]), signal.SIGINT)  # nsenter forks
            said += child.stderr.read()
        assert child.returncode == 0, said

    @contextmanager
    def killed(self, *words: str) -> Iterator[None]:
        """Have `netlab WORDS` run there meanwhile; then it is killed, and can tidy up nothing."""
        command = self._inside([*NETLAB, *words])
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL) as child:
            yield
            assert child.poll() is None
            inner = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
            os.kill(int(inner[0]), signal.SIGKILL)  # nsenter forks

    def start_agent(self, *words: str) -> None:
        """Start `netlab agent WORDS` in the foreground there, and go on."""
        log = (self.directory / f"{self.name}.log").open("ab")
        self.agent = subprocess.Popen(
            self._inside([*NETLAB, "agent", *words]), env=self.environment, stdout=log, stderr=log
        )
        log.close()

    def log(self) -> str:
        return (self.directory / f"{self.name}.log").read_text()

    def kill_agent(self, lab: str) -> None:
        """End its agent as the kernel does when memory is short."""
        mark = f"NETLAB_PROCESS=/run/netlab/{lab}:agent"
        script = (
            "for e in /proc/[0-9]*/environ; do "
            f"if head -zn1 $e 2>/dev/null | grep -qazxF '{mark}'; then "
            "p=${e%/environ}; kill -9 ${p#/proc/}; fi; done"
        )
        self.run("bash", "-c", script)
        if self.agent is not None:
            self.agent.wait()
            self.agent = None

    def power_off(self) -> None:
        """End everything on it at once."""
        if self._first is not None:
            self._first.kill()
            self._first.wait()
            assert self._first.stdout is not None
            self._first.stdout.close()
            self._first = None
        if self.agent is not None:
            self.agent.wait()
            self.agent = None
        eventually(lambda: not Path(f"/proc/{self.pid}").exists(), what="the end of a machine")
        # Its cards go with its namespace, and the ports here with them, but not at once.
        for card in ("eth0", "eth1"):
            gone = [*self._fabric_ip(), "link", "delete", f"b{self.number}{card}"]
            subprocess.run(gone, check=False, stderr=subprocess.DEVNULL)

    def fabric(self, *words: str) -> str:
        """Run a command where the wire is; return what it prints."""
        inside = ("nsenter", "-t", str(self._fabric), "-n", *words)
        return subprocess.run(inside, check=True, capture_output=True, text=True).stdout

    def _fabric_ip(self) -> list[str]:
        return ["nsenter", "-t", str(self._fabric), "-n", "ip"]


@contextmanager
def boxes(count: int, kind: type[B] = Box, *, disks: str | None = None) -> Iterator[list[B]]:  # type: ignore[assignment]
    """Have *count* machines on one private network meanwhile; *disks*: where their disks are."""
    fabric = subprocess.Popen(
        ["unshare", "--net", "bash", "-c", "ip link add fabric type bridge && "
         "ip link set fabric up && echo started && exec sleep infinity"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    found: list[B] = []
    try:
        assert fabric.stdout is not None and fabric.stdout.readline() == b"started\n"
        with tempfile.TemporaryDirectory(dir=disks) as directory:
            try:
                for number in range(1, count + 1):
                    found.append(kind(number, Path(directory), fabric.pid))
                    found[-1].boot()
                yield found
            finally:
                for box in found:
                    box.power_off()
    finally:
        fabric.kill()
        fabric.wait()
        assert fabric.stdout is not None
        fabric.stdout.close()


def written(directory: Path, text: str = FILES, name: str = "lab.yaml") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


def status(box: Box) -> dict[str, Any]:
    """Return what `netlab status` says; nothing much while there is no agent yet."""
    said = box.netlab("status", "-o", "json", code=None).stdout
    return dict(json.loads(said or '{"converged": false, "problems": []}'))


def converged(box: Box) -> bool:
    return bool(status(box)["converged"])


def pods(box: Box) -> dict[str, dict[str, Any]]:
    """Return the pods by their node's name."""
    listed = json.loads(box.netlab("get", "pods", "-o", "json").stdout)["items"]
    return {one["spec"]["nodeName"]: one for one in listed}


def asked(box: Box, address: str, port: int = 80, *, pod: str = "") -> dict[str, Any]:
    """Return what the server at *address* answers to the machine, or to a pod on it."""
    words = ["python3", "-c", ASK, address, str(port)]
    inside = ["ip", "netns", "exec", f"{LAB}.{box.name}.default.{pod}"] if pod else []
    return dict(json.loads(box.out(*inside, *words)))


def name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def joined(box: Box) -> None:
    box.start_agent("--node", box.name, "--etcd", ETCD)
    eventually(lambda: converged(box), what=f"{box.name} converges: {box.log()}")


def vtep(box: Box) -> str:
    return str(json.loads(box.out("ip", "-j", "link", "show", "flannel.1"))[0]["address"])


def subnets(table: str) -> list[str]:
    return [word for word in table.split() if word.startswith("10.244.")]
