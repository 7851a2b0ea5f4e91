"""What a trace costs, each figure a ratio to something measured by turns in the same run.

    sudo .venv/bin/python bench/trace.py [load|time|why]… [--rounds N]

load   an iperf3 stream between two pods, of one node and of two: its throughput with traces of
       another flow of the same pods running one after the other, against without
time   the command, and `tracing.trace()` in a process that runs already, against a bare TCP
       connection with a request and its answer from the same namespace, and `python -c pass`
why    the same for `netlab why` of a flow that a firewall drops, and of one that works

The lab is one of its own. `load` needs iperf3.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from netlab import tracing  # noqa: E402
from netlab.kernel.netns import entered  # noqa: E402
from netlab.lab.live import connect  # noqa: E402
from netlab.tracing.told import listening  # noqa: E402
from netlab.tracing.why import why  # noqa: E402

LAB = f"benchtrace{os.getpid()}"
NETLAB = [sys.executable, "-m", "netlab", "-L", LAB]
STREAM = 2  # seconds of a stream
POD = """---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers: [{{name: c, image: x, ports: [{{containerPort: 80}}]}}]
"""
TOPOLOGY = f"""apiVersion: netlab/v1
kind: Lab
metadata: {{name: {LAB}}}
underlay: {{segments: [{{name: lan, cidr: 192.168.50.0/24}}]}}
gateway: {{address: 192.168.50.1}}
master: {{address: 192.168.50.10}}
nodes:
- {{name: n1, address: 192.168.50.11}}
- {{name: n2, address: 192.168.50.12}}
network: {{Network: 10.244.0.0/16}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: far}}, ports: [{{port: 80}}]}}
""" + "".join(
    POD.format(name=name, node=node) for name, node in (("a", "n1"), ("near", "n1"), ("far", "n2"))
)


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def netlab(*words: str, input: str | None = None, code: int = 0) -> str:
    done = subprocess.run([*NETLAB, *words], input=input, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != code:
        sys.exit(f"netlab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def lab() -> Iterator[dict[str, str]]:
    """Have the lab up for the duration; yield the pods' addresses."""
    try:
        netlab("up", "-", input=TOPOLOGY)
        listed = json.loads(netlab("get", "pods", "-o", "json"))["items"]
        yield {one["metadata"]["name"]: one["status"]["podIP"] for one in listed}
    finally:
        netlab("down")


def by_turns(rounds: int, calls: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median of what each call returns, over rounds in which all take their turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            value = call()
            if number:  # the first round warms up
                found[name].append(value)
    return {name: statistics.median(values) for name, values in found.items()}


# -- load


def throughput(to: str) -> float:
    """Return the Gbit/s of a stream from pod a."""
    words = ["iperf3", "-c", to, "-p", "5201", "-t", str(STREAM), "-J"]
    netns = ["ip", "netns", "exec", f"{LAB}.n1.default.a"]
    done = subprocess.run([*netns, *words], capture_output=True, text=True)
    said = json.loads(done.stdout or "{}")
    if done.returncode or "error" in said:
        sys.exit(f"iperf3: {said.get('error', done.stderr)}")
    return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9


@contextmanager
def traced(to: str) -> Iterator[list[int]]:
    """Trace one connection after the other from pod a; yield how many there were."""
    live, count, over = connect(LAB), [0], threading.Event()

    def run() -> None:
        while not over.is_set():
            tracing.trace(live, "a", to, port=80)
            count[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()


def bench_load(addresses: dict[str, str], rounds: int) -> None:
    for to, where in (("near", "one node"), ("far", "two nodes")):
        netns = f"{LAB}.{'n1' if to == 'near' else 'n2'}.default.{to}"
        server = subprocess.Popen(
            ["ip", "netns", "exec", netns, "iperf3", "-s", "-p", "5201"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while "5201/tcp" not in listening(netns) and time.monotonic() < deadline:
                time.sleep(0.01)
            load(addresses[to], to, where, rounds)
        finally:
            server.terminate()
            server.wait()


def load(address: str, to: str, where: str, rounds: int) -> None:
    counts: list[int] = []

    def beside() -> float:
        with traced(to) as count:
            found = throughput(address)
        counts.append(count[0])
        return found

    found = by_turns(rounds, {"alone": lambda: throughput(address), "traced": beside})
    rate = statistics.median(counts) / STREAM
    alone, traced_ = found["alone"], found["traced"]
    print(
        f"stream between pods of {where}: {alone:.1f} Gbit/s alone, {traced_:.1f} Gbit/s with "
        f"{rate:.1f} traces a second beside it: {traced_ / alone:.2f}"
    )


# -- time


def handshake(address: str) -> float:
    """Return the seconds of a connection from pod a, a request and its answer."""
    with entered(f"{LAB}.n1.default.a"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with sock:
        return seconds(lambda: (sock.connect((address, 80)), sock.sendall(b"x\n"), sock.recv(4096)))


def bare() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def told(found: dict[str, float], *against: str) -> None:
    for name, value in found.items():
        ratios = ", ".join(f"{value / found[one]:.1f} x {one}" for one in against if one != name)
        print(f"{name:44} {value * 1000:8.1f} ms   {ratios}")


def bench_time(addresses: dict[str, str], rounds: int) -> None:
    live = connect(LAB)

    def trace(to: str) -> float:
        return seconds(lambda: tracing.trace(live, "a", to, port=80))

    found = by_turns(
        rounds,
        {
            "a connection": lambda: handshake(addresses["far"]),
            "python -c pass": lambda: seconds(bare),
            "trace(), same node": lambda: seconds(
                lambda: tracing.trace(live, "a", "near", port=80)
            ),
            "trace(), across": lambda: trace("far"),
            "trace(), a Service": lambda: trace("web"),
            "netlab trace a far:80": lambda: seconds(lambda: netlab("trace", "a", "far:80")),
            "netlab trace a web": lambda: seconds(lambda: netlab("trace", "a", "web")),
            "netlab get nodes": lambda: seconds(lambda: netlab("get", "nodes")),
        },
    )
    told(found, "a connection", "python -c pass")


def bench_why(addresses: dict[str, str], rounds: int) -> None:
    live = connect(LAB)

    def ask(source: str, to: str, port: int) -> float:
        return seconds(lambda: why(live, source, to, port=port))

    found = by_turns(
        rounds,
        {
            "python -c pass": lambda: seconds(bare),
            "why(), dropped by a rule": lambda: ask("client", "node/n1", 22),
            "why(), works": lambda: ask("a", "far", 80),
            "netlab why client node/n1:22": lambda: seconds(
                lambda: netlab("why", "client", "node/n1:22", code=1)
            ),
            "netlab why a far:80": lambda: seconds(lambda: netlab("why", "a", "far:80")),
        },
    )
    told(found, "python -c pass")


BENCHES = {"load": bench_load, "time": bench_time, "why": bench_why}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("what", nargs="*", help=", ".join(BENCHES))
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    what = given.what or list(BENCHES)
    if unknown := set(what) - set(BENCHES):
        sys.exit(f"no figure {', '.join(unknown)} (hint: {', '.join(BENCHES)})")
    if "load" in what and shutil.which("iperf3") is None:
        sys.exit("iperf3 is missing (hint: apt-get install iperf3, or leave `load` out)")
    if os.geteuid():
        sys.exit("not root (hint: sudo)")
    with lab() as addresses:
        for name in what:
            BENCHES[name](addresses, given.rounds)


if __name__ == "__main__":
    main()
