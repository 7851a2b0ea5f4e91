"""What the whole-lab tests share: the command, topologies, looking into namespaces, polling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE = float(os.environ.get("NETLAB_TEST_DEADLINE", "20"))  # seconds for what takes under two


class Cli:
    """The `netlab` command, run for one lab."""

    def __init__(self, lab: str, directory: Path) -> None:
        self.lab = lab
        self.directory = directory
        self.run_directory = Path("/run/netlab", lab)

    def __call__(
        self, *words: str, code: int | None = 0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `netlab WORDS`; *code* is the exit code demanded, None for any."""
        done = subprocess.run(
            [sys.executable, "-m", "netlab", *words],
            cwd=ROOT,
            env={**os.environ, "NETLAB_LAB": self.lab},
            input=input,
            capture_output=True,
            text=True,
            timeout=max(180, 4 * DEADLINE),
        )
        if code is not None:
            assert done.returncode == code, (
                f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `netlab WORDS` without waiting for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "netlab", *words],
            cwd=ROOT,
            env={**os.environ, "NETLAB_LAB": self.lab},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def status(self) -> dict[str, Any]:
        return json.loads(self("status", "-o", "json", code=None).stdout)

    def get(self, *words: str) -> Any:
        return json.loads(self("get", *words, "-o", "json").stdout)

    def file(self, text: str, name: str = "lab.yaml") -> str:
        """Write a topology and return its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def agent_pid(self) -> int:
        return self._pid("agent")

    def etcd_pid(self) -> int:
        return self._pid("etcd")

    def _pid(self, process: str) -> int:
        pid = int(self.status()[process]["pid"])
        assert pid > 0, f"no {process} runs"  # a signal to 0 would go to all of this test run
        return pid

    def log(self) -> str:
        return (self.run_directory / "agent.log").read_text()

    def netns(self, *parts: str) -> str:
        return ".".join((self.lab, *parts))


def ip(netns: str, *words: str) -> Any:
    """Return what `ip -j WORDS` says inside *netns*."""
    out = subprocess.run(
        ["ip", "-n", netns, "-j", "-d", *words], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(out or "[]")


def inside(netns: str, *words: str) -> str:
    """Run a command in *netns* and return its output."""
    return subprocess.run(
        ["ip", "netns", "exec", netns, *words], check=True, capture_output=True, text=True
    ).stdout


ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as s:
    s.sendall(b"hello\\n")
    print(s.makefile().readline())
"""


def asked(netns: str, address: str, port: int = 80) -> Any:
    """Return what the server at *address* answers to somebody in *netns*."""
    return json.loads(inside(netns, "python3", "-c", ASK, address, str(port)))


def namespaces(lab: str) -> list[str]:
    directory = Path("/run/netns")
    names = os.listdir(directory) if directory.is_dir() else []
    return sorted(name for name in names if name.startswith(f"{lab}."))


def eventually(true: Callable[[], Any], *, within: float = DEADLINE, what: str = "") -> float:
    """Poll until *true* holds; return the seconds it took. Fails at the deadline."""
    began = time.monotonic()
    while True:
        if true():
            return time.monotonic() - began
        if time.monotonic() - began > within:
            pytest.fail(f"not within {within} s: {what or true}")
        time.sleep(0.02)


def topology(
    lab: str, *, nodes: int = 2, pods: int = 2, extra: str = "", publish: str = "[]"
) -> str:
    """Return a topology: *nodes* n1, n2, …, and *pods* on each: n1-p1, n1-p2, …"""
    documents = [
        f"""apiVersion: netlab/v1
kind: Lab
metadata: {{name: {lab}}}
underlay: {{segments: [{{name: lan, cidr: 192.168.50.0/24}}]}}
gateway: {{address: 192.168.50.1, publish: {publish}}}
master: {{address: 192.168.50.10}}
nodes:
"""
        + "".join(
            f"  - {{name: n{n}, address: 192.168.50.{100 + n}}}\n" for n in range(1, nodes + 1)
        )
        + "network: {Network: 10.244.0.0/16}\n"
    ]
    documents += [
        f"""apiVersion: v1
kind: Pod
metadata: {{name: n{n}-p{p}, labels: {{app: p{p}}}}}
spec:
  nodeName: n{n}
  containers: [{{name: c, image: x, ports: [{{containerPort: 80}}]}}]
"""
        for n in range(1, nodes + 1)
        for p in range(1, pods + 1)
    ]
    return "---\n".join([*documents, *([extra] if extra else [])])
