"""How netlab grows: each figure a ratio against something measured in the same run.

    sudo .venv/bin/python bench/scale.py [up|notes|add|lease|memory]…

up       `netlab up` of 10 nodes with 100 pods each, per pod, against bench/floor.c: a plain C
         program that makes the same namespaces, cables, addresses and routes; and against 100 pods
notes    `netlab up --verify topologies/notes.yaml`, against bare `etcd` starts to healthy
add      one pod more in a lab of 1000, against one pod more in a lab of 10
lease    a lease put into etcd until the last of 30 nodes has its route, against a put alone
memory   the agent's resident memory with 10, 100 and 1000 pods
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAB = "bench"
NETLAB = [sys.executable, "-m", "netlab", "-L", LAB]


def topology(nodes: int, pods: int) -> str:
    """Return a lab of *nodes* and one Deployment of *pods* pods."""
    cables = "".join(f"- {{name: n{n}, address: 192.168.50.{n + 20}}}\n" for n in range(nodes))
    return f"""apiVersion: netlab/v1
kind: Lab
metadata: {{name: {LAB}}}
underlay: {{segments: [{{name: lan, cidr: 192.168.50.0/24}}]}}
gateway: {{address: 192.168.50.1}}
master: {{address: 192.168.50.10}}
nodes:
{cables}network: {{Network: 10.244.0.0/16}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {pods}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: c, image: x, ports: [{{containerPort: 80}}]}}]}}
"""


ONE_POD = """apiVersion: v1
kind: Pod
metadata: {name: extra%d}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
"""


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def netlab(*words: str, input: str | None = None) -> str:
    done = subprocess.run([*NETLAB, *words], input=input, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"netlab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def lab(nodes: int, pods: int) -> Iterator[float]:
    """Have a lab up for the duration; yield the seconds `up` took."""
    try:
        yield seconds(lambda: netlab("up", "-", input=topology(nodes, pods)))
    finally:
        netlab("down")


def floor(nodes: int, pods: int) -> float:
    """Return the seconds bench/floor.c takes for as many nodes and pods."""
    binary = ROOT / "bench" / "floor"
    if not binary.exists():
        subprocess.run(
            ["cc", "-O2", "-o", str(binary), str(binary) + ".c", "-lpthread"], check=True
        )
    out = subprocess.run(
        [binary, str(nodes), str(pods)], check=True, capture_output=True, text=True
    )
    return float(out.stdout.split()[0])


def namespaces_alive() -> int:
    """Return how many network namespaces the kernel holds, named or still being freed."""
    lines = Path("/proc/slabinfo").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("net_namespace")), 0)


def settle() -> None:
    """Wait until the kernel has freed the namespaces of what was just removed."""
    deadline = time.monotonic() + 30
    before = -1
    while time.monotonic() < deadline and (now := namespaces_alive()) != before:
        before = now
        time.sleep(1)


def bench_up() -> None:
    rows = []
    for _ in range(3):
        settle()
        plain = floor(10, 100)
        settle()
        with lab(10, 1000) as large:
            pass
        settle()
        with lab(10, 100) as small:
            pass
        rows.append((plain, large, small))
    plain, large, small = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"up 10 nodes x 100 pods: {large * 1000:.0f} us/pod; plain C {plain * 1000:.0f} us/pod")
    print(f"  ratio {large / plain:.2f} (wanted: at most 2.0)")
    print(
        f"  900 pods more cost {(large - small) / 900 * 1e6:.0f} us each, "
        f"{(large - small) / plain / 0.9:.2f} of plain C; 100 pods took {small:.2f} s"
    )


def etcd_start() -> float:
    """Return the seconds from starting etcd as it comes to its first healthy answer."""
    directory = tempfile.mkdtemp(dir="/run")
    client, peer = "http://127.0.0.1:23791", "http://127.0.0.1:23801"
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            "etcd",
            "--data-dir",
            directory,
            "--listen-client-urls",
            client,
            "--advertise-client-urls",
            client,
            "--listen-peer-urls",
            peer,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{client}/health", timeout=1) as answer:
                    if b'"true"' in answer.read():
                        return time.perf_counter() - began
            except OSError:
                time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


NOTES = [sys.executable, "-m", "netlab", "-L", "notes"]


def notes(*words: str) -> None:
    subprocess.run([*NOTES, *words], check=True, capture_output=True, cwd=ROOT)


def bench_notes() -> None:
    rows = []
    for _ in range(5):
        plain = etcd_start()
        took = seconds(lambda: notes("up", "topologies/notes.yaml", "--verify"))
        notes("down")
        rows.append((plain, took))
    plain, took = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"up --verify of topologies/notes.yaml: {took:.2f} s; a bare etcd start {plain:.2f} s")
    print(f"  ratio {took / plain:.2f} (wanted: at most 8, better 4)")


def bench_add() -> None:
    medians = {}
    for pods in (10, 1000):
        with lab(10, pods):
            time.sleep(3)  # the looks that follow a change are over
            medians[pods] = statistics.median(
                seconds(lambda n=n: netlab("apply", "-f", "-", input=ONE_POD % n)) for n in range(7)
            )
    print(f"one pod more among 10: {medians[10]:.3f} s, among 1000: {medians[1000]:.3f} s")
    print(f"  ratio {medians[1000] / medians[10]:.2f} (wanted: at most 5)")


def bench_lease() -> None:
    from netlab.kernel import netlink, netns, routes
    from netlab.lab.live import connect

    value = (
        b'{"PublicIP":"192.168.50.200","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"2a:88:25:c9:35:2a"}}'
    )
    key = "/coreos.com/network/subnets/10.244.240.0-24"
    with lab(30, 30):
        live = connect(LAB)
        etcd = live.etcd()
        sockets = []
        for node in live.lab.nodes:
            with netns.entered(live.lab.netns(node.name)):
                sockets.append(netlink.Socket())
        wanted = bytes([10, 244, 240, 0])
        body = routes.routes_body(socket.AF_INET)

        def has_route(node: netlink.Socket) -> bool:
            return any(wanted in route for route in node.dump(routes.GET_ROUTE, body))

        all_routes, puts = [], []
        for _ in range(10):
            puts.append(seconds(lambda: etcd.put("/bench", b"x" * 120)))
            began = time.perf_counter()
            etcd.put(key, value)
            waiting = list(sockets)
            while waiting:
                waiting = [s for s in waiting if not has_route(s)]
            all_routes.append(time.perf_counter() - began)
            etcd.delete(key)
            time.sleep(0.5)
    took, put = statistics.median(all_routes), statistics.median(puts)
    print(
        f"a lease to the route on the last of 30 nodes: {took * 1000:.0f} ms; "
        f"a put alone {put * 1000:.1f} ms"
    )
    print(f"  ratio {took / put:.1f}")


def bench_memory() -> None:
    own = {}
    for pods in (10, 100, 1000):
        with lab(10, pods):
            status = json.loads(netlab("status", "-o", "json"))
            own[pods] = status["agent"]["rss"]
            servers = Path(f"/proc/{status['servers']['pid']}/statm").read_text().split()
            resident = int(servers[1]) * os.sysconf("SC_PAGESIZE")
            print(
                f"{pods} pods: agent {own[pods] / 2**20:.1f} MiB, "
                f"pod servers {resident / 2**20:.1f} MiB"
            )
    print(f"  ratio 1000 pods to 10: {own[1000] / own[10]:.2f}")


BENCHES = {
    "up": bench_up,
    "notes": bench_notes,
    "add": bench_add,
    "lease": bench_lease,
    "memory": bench_memory,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or list(BENCHES):
        BENCHES[name]()
