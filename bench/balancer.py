"""How soon a lost node gets no packets any more: against the period of the balancer's probes.

    sudo .venv/bin/python bench/balancer.py [ROUNDS]

A lab of two nodes behind a load balancer is brought up. In each round (default 5) and ipMode, a
client sends datagrams, each a flow of its own, some hundred a second; then one node falls silent
(it drops all that comes in), and its kernel counts what still comes from the balancer's address or
for the pool's. The time from the silence to the last of them, but for the balancer's own probes,
is told as a multiple of the period.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from netlab.agent.probing import PERIOD

ROOT = Path(__file__).parents[1]
LAB = "bench-balancer"
NODE = "n2"
ADDRESS = {"VIP": "192.168.50.200", "Proxy": "192.168.50.201"}
PATIENCE = 6.0  # seconds for the last packet to come
LOOK = 0.01  # seconds between two looks at the counter

SERVICE = """---
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{netlab.io/ip-mode: {mode}}}}}
spec:
  type: LoadBalancer
  loadBalancerIP: {address}
  selector: {{app: web}}
  ports: [{{port: 53, protocol: UDP, nodePort: {port}}}]
"""
LAB_TEXT = f"""apiVersion: netlab/v1
kind: Lab
metadata: {{name: {LAB}}}
balancer: {{address: 192.168.50.5, pool: [192.168.50.200-192.168.50.201]}}
nodes: [{{name: n1, address: 192.168.50.11}}, {{name: n2, address: 192.168.50.12}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  nodeName: n1
  containers: [{{name: c, ports: [{{containerPort: 53, protocol: UDP}}]}}]
""" + "".join(
    SERVICE.format(name=mode.lower(), mode=mode, address=address, port=30053 + number)
    for number, (mode, address) in enumerate(sorted(ADDRESS.items()))
)
STREAM = """
import socket, sys, time
while True:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"hello", (sys.argv[1], 53))
    time.sleep(0.002)
"""
SILENCE = """
table ip silence {
  chain everything {
    type filter hook prerouting priority -400;
    tcp dport 10256 drop
    ip saddr 198.51.100.10 counter drop
    ip saddr 192.168.50.5 counter drop
    drop
  }
}
"""


def netlab(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "netlab", "-L", LAB, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        sys.exit(f"netlab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def at_node(*words: str, input: str | None = None) -> str:
    argv = ["ip", "netns", "exec", f"{LAB}.{NODE}", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, input=input).stdout


def counted() -> int:
    """Return how many packets of flows came to the silent node."""
    listed = json.loads(at_node("nft", "-j", "list", "table", "ip", "silence"))["nftables"]
    rules = [one["rule"]["expr"] for one in listed if "rule" in one]
    return sum(each["counter"]["packets"] for one in rules for each in one if "counter" in each)


def last_packet(mode: str) -> float:
    """Return the seconds from the node's silence to the last packet of a flow that it got."""
    client = ["ip", "netns", "exec", f"{LAB}.client", sys.executable, "-c", STREAM]
    stream = subprocess.Popen([*client, ADDRESS[mode]])
    try:
        time.sleep(0.3)
        at_node("nft", "-f", "-", input=SILENCE)
        began = last = time.monotonic()
        before = 0
        while time.monotonic() - began < PATIENCE:
            if (now := counted()) != before:
                before, last = now, time.monotonic()
            time.sleep(LOOK)
        if not before:
            sys.exit(f"{mode}: {NODE} got no packets at all")
        return last - began
    finally:
        stream.kill()
        stream.wait()
        at_node("nft", "delete", "table", "ip", "silence")


def used_again() -> None:
    """Wait until all listeners use both nodes."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        told = json.loads(netlab("status", "-o", "json"))["balancer"]["listeners"]
        if all(len(nodes) == 2 for nodes in told.values()):
            return
        time.sleep(0.1)
    sys.exit("the balancer does not use both nodes")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.environ["NETLAB_LAB"] = LAB
    times: dict[str, list[float]] = {mode: [] for mode in ADDRESS}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "lab.yaml")
        file.write_text(LAB_TEXT)
        netlab("up", str(file))
        try:
            for number in range(rounds):
                for mode, found in times.items():
                    used_again()
                    found.append(last_packet(mode))
                told = ", ".join(f"{mode} {found[-1]:.2f} s" for mode, found in times.items())
                print(f"round {number + 1}: {told}", file=sys.stderr)
        finally:
            netlab("down")
    print(f"from a node's silence to its last packet, medians of {rounds} rounds")
    for mode, found in times.items():
        middle = statistics.median(found)
        print(
            f"  {mode:6} {middle:5.2f} s  ({min(found):.2f} to {max(found):.2f})  "
            f"{middle / PERIOD:4.1f} probe periods of {PERIOD} s"
        )


if __name__ == "__main__":
    main()
