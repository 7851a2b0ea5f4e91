"""From the put of an EndpointSlice into a lab's etcd to the first packet that follows it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services_objects import ROOT, cluster, cluster_ip, endpoint_slice

from netlab.kernel import netns
from netlab.lab.live import connect
from netlab.model.kubernetes import Document, registry_key
from netlab.proxy import Mode
from netlab.store import registry

LAB = "nlbench"
PODS = ("kept", "old", "new")
PORT = 9999  # where nothing of the pods' own listens
PATIENCE = 20.0  # seconds until a packet that does not come is a failure
BARS = {Mode.NFTABLES: 0.100, Mode.IPTABLES: 0.300}  # seconds from the put to the first packet
EVERY = 0.001  # seconds between two probes
TOOLS = ("iptables-nft", "ip6tables-nft")


def declaration(number: int) -> str:
    """Return a lab of one node, three pods and *number* Services; the last one is for UDP."""
    documents: list[Document] = [
        {
            "apiVersion": "netlab/v1",
            "kind": "Lab",
            "metadata": {"name": LAB},
            "nodes": [{"name": "n1"}],
        }
    ]
    for name in PODS:
        container = {"name": "c", "ports": [{"containerPort": 80}]}
        documents.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {"containers": [container]},
            }
        )
    served = cluster(number)
    served[number - 1]["spec"]["ports"][0] |= {"protocol": "UDP", "targetPort": PORT}
    served[-1] = slice_of(number, ())
    for one in served:
        one["metadata"].pop("uid")
    return "\n---\n".join(json.dumps(one) for one in [*documents, *served])


def slice_of(number: int, addresses: tuple[str, ...]) -> Document:
    return endpoint_slice(number - 1, addresses, port=PORT, protocol="UDP")


@contextmanager
def recorded_tools(log: Path) -> Iterator[dict[str, str]]:
    """Yield an environment in which every rule tool that runs is noted in *log*."""
    with tempfile.TemporaryDirectory() as directory:
        for name in [*(f"{tool}-{verb}" for tool in TOOLS for verb in ("restore", "save")), "nft"]:
            real = shutil.which(name) or sys.exit(f"no {name}")
            note = Path(directory, name)
            note.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\nexec {real} "$@"\n')
            note.chmod(0o755)
        yield os.environ | {"PATH": f"{directory}:{os.environ['PATH']}"}


def netlab(*words: str, input: str = "", env: dict[str, str] | None = None) -> str:
    argv = [sys.executable, "-m", "netlab", "-L", LAB, *words]
    done = subprocess.run(argv, input=input, capture_output=True, text=True, cwd=ROOT, env=env)
    if done.returncode:
        sys.exit(f"netlab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Prober(threading.Thread):
    """Sends a UDP datagram from a new port of the node to *address* every millisecond."""

    def __init__(self, where: str, address: str) -> None:
        super().__init__(daemon=True)
        self._where, self._to = where, (address, 80)
        self._ending = threading.Event()

    def run(self) -> None:
        netns.move(self._where)
        while not self._ending.wait(EVERY):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.setblocking(False)
                try:
                    one.sendto(b"probe", self._to)
                except OSError:
                    pass  # refused: no endpoint yet

    def end(self) -> None:
        self._ending.set()
        self.join()


def listening(where: str) -> socket.socket:
    with netns.entered(where):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind(("0.0.0.0", PORT))
    one.settimeout(PATIENCE)
    return one


def drained(one: socket.socket) -> None:
    one.setblocking(False)
    try:
        while True:
            one.recv(16)
    except BlockingIOError:
        one.settimeout(PATIENCE)


def bench_follow(mode: Mode, number: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "tools")
        log.touch()
        with recorded_tools(log) as env:
            try:
                began = time.perf_counter()
                words = ("up", "-", "--proxy-mode", str(mode))
                netlab(*words, input=declaration(number), env=env)
                up = time.perf_counter() - began
                _follow(mode, number, 4 * rounds + 3, up, log)
            finally:
                argv = [sys.executable, "-m", "netlab", "-L", LAB, "down"]
                subprocess.run(argv, cwd=ROOT, check=False, capture_output=True)


def _follow(mode: Mode, number: int, count: int, up: float, log: Path) -> None:
    live = connect(LAB)
    node = live.lab.netns("n1")
    ears = {name: listening(live.lab.netns("n1", "default", name)) for name in PODS[1:]}
    etcd = live.etcd()
    pods = [json.loads(item.value) for item in etcd.range("/registry/pods/").items]
    addresses = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods}
    took, puts, ran = [], [], []
    at, other = "old", "new"
    put(etcd, slice_of(number, (addresses["kept"], addresses[at])))
    for turn in range(count + 1):
        prober = Prober(node, cluster_ip(number - 1))
        prober.start()
        try:
            if not turn:
                ears[at].recv(16)  # the first endpoints are there
                continue
            ears[at].recv(16)  # the old endpoint is still in use, and probes are sent
            drained(ears[other])
            log.write_text("")
            began = time.perf_counter()
            put(etcd, slice_of(number, (addresses["kept"], addresses[other])))
            puts.append(time.perf_counter() - began)
            ears[other].recv(16)
            took.append(time.perf_counter() - began)
            ran += log.read_text().splitlines()
            at, other = other, at
        finally:
            prober.end()
            time.sleep(1.2)  # the looks that follow a change are over; no storm
            drained(ears[at])
    status = json.loads(netlab("status", "-o", "json"))
    said = summary(ran)
    median = statistics.median(took)
    print(
        f"{mode:8} {number:6} follow: {median * 1000:.0f} ms from the put to the first packet "
        f"(worst of {len(took)}: {max(took) * 1000:.0f} ms; wanted: below "
        f"{BARS[mode] * 1000:.0f} ms); the put alone {statistics.median(puts) * 1000:.1f} ms; "
        f"tools run in {len(took)} changes: {said}; "
        f"up {up:.1f} s; agent's memory {status['agent']['rss'] / 2**20:.0f} MiB",
        flush=True,
    )


def summary(ran: list[str]) -> str:
    """Return how often each tool ran: `11 iptables-nft-restore --noflush --wait`."""
    found: dict[str, int] = {}
    for line in ran:
        found[line] = found.get(line, 0) + 1
    return ", ".join(f"{times} {line}" for line, times in found.items()) or "none"


def put(etcd: Any, document: Document) -> None:
    etcd.put(registry_key(document), registry.value(document))
