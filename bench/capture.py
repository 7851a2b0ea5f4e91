"""Packets a second that `netlab capture` writes without loss, beside tcpdump: bench/capture.py.

    sudo python bench/capture.py [SECONDS] [ROUNDS]

A pod sends datagrams to its node, which shows each on two devices, at a pace and then as fast as it
can. Both programs write what the node shows into a file, by turns, and the same is sent with nobody
watching: what a program costs the sender is told as well. What counts as written is what is read
back from the file. Needs root, tcpdump, and for a fair judgement a quiet machine with two CPUs.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from netlab import pcapng

ROOT = Path(__file__).parents[1]
LAB = f"benchcap{os.getpid()}"
PACES = (50_000, 100_000, 0)  # packets a second; 0: as fast as one process can
TOPOLOGY = f"""apiVersion: netlab/v1
kind: Lab
metadata: {{name: {LAB}}}
underlay: {{segments: [{{name: lan, cidr: 192.168.50.0/24}}]}}
gateway: {{address: 192.168.50.1}}
master: {{address: 192.168.50.10}}
nodes: [{{name: n1, address: 192.168.50.11}}]
network: {{Network: 10.244.0.0/16}}
---
apiVersion: v1
kind: Pod
metadata: {{name: sender}}
spec: {{nodeName: n1, containers: [{{name: c, image: x}}]}}
"""
# 100 bytes of payload; a burst at a time, so that the clock is not what takes the time.
SENDER = """
import socket, sys, time
address, pace, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect((address, 9))
payload, send, burst = bytes(100), sock.send, 50
sent, began = 0, time.perf_counter()
while (now := time.perf_counter() - began) < seconds:
    if pace and sent > now * pace:
        continue
    for _ in range(burst):
        send(payload)
    sent += burst
print(sent, time.perf_counter() - began)
"""
RECEIVER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
sock.bind(("", 9))
print("bound", flush=True)
sys.stdin.read()
"""


class Run(NamedTuple):
    """What one run gave: packets a second sent, frames written of those shown, processor time."""

    sent: float
    shown: int
    written: int
    told: int  # frames that the program said it lost
    cpu: float  # microseconds of the program per frame shown
    pass_seconds: float  # from the signal to the end of the program


def netlab(*words: str) -> list[str]:
    return [sys.executable, "-m", "netlab", "-L", LAB, *words]


def inside(netns: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", netns, *words]


def send(address: str, pace: int, seconds: float) -> tuple[int, float]:
    words = [sys.executable, "-c", SENDER, address, str(pace), str(seconds)]
    done = subprocess.run(
        inside(f"{LAB}.n1.default.sender", *words), capture_output=True, text=True, check=True
    )
    sent, took = done.stdout.split()
    return int(sent), float(took)


def frames_in(path: Path) -> int:
    """Count the packets of a pcapng file, or of a pcap file by its record headers."""
    data = path.read_bytes()
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        with path.open("rb") as file:
            return sum(block.kind == pcapng.PACKET for block in pcapng.blocks(file))
    count, at = 0, 24
    while at + 16 <= len(data):
        at += 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        count += at <= len(data)
    return count


def children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def watched(program: str, address: str, pace: int, seconds: float, file: Path) -> Run:
    text = "udp port 9"
    if program == "tcpdump":
        words = inside(f"{LAB}.n1", "tcpdump", "-i", "any", "-n", "-w", str(file), text)
    else:
        comments = ["--no-comments"] if program.endswith("no comments") else []
        words = netlab("capture", "node/n1", "-f", text, "-w", str(file), *comments)
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stderr
    child.stderr.readline()  # it has begun
    time.sleep(0.5)  # tcpdump says so before it has
    sent, took = send(address, pace, seconds)
    time.sleep(1.2)  # libpcap takes what is in a block that is not full after 1 s
    before = children_cpu()  # the sender's is in
    ending = time.perf_counter()
    child.send_signal(signal.SIGINT)
    said = child.stderr.read()
    child.wait()
    ending = time.perf_counter() - ending
    lost = re.search(r"lost: (\d+) frame|(\d+) packets dropped by kernel", said)
    told = int(lost[1] or lost[2]) if lost else 0
    cpu = (children_cpu() - before) / (2 * sent) * 1e6
    return Run(sent / took, 2 * sent, frames_in(file), told, cpu, ending)


def measured(seconds: float, rounds: int) -> None:
    found = subprocess.run(
        inside(f"{LAB}.n1", "ip", "-4", "-o", "addr", "show", "docker0"),
        capture_output=True,
        text=True,
        check=True,
    )
    address = found.stdout.split()[3].partition("/")[0]
    programs = ("netlab capture, no comments", "netlab capture", "tcpdump")
    with tempfile.TemporaryDirectory() as directory:
        for pace in PACES:
            runs: dict[str, list[Run]] = {}
            alone = []
            for _ in range(rounds):
                sent, took = send(address, pace, seconds)
                alone.append(sent / took)
                for program in programs:
                    run = watched(program, address, pace, seconds, Path(directory, "file"))
                    runs.setdefault(program, []).append(run)
            told(pace, statistics.median(alone), runs)


def told(pace: int, alone: float, runs: dict[str, list[Run]]) -> None:
    words = f"{pace:,} packets/s" if pace else "as fast as it can"
    print(f"\n{words}: {alone:,.0f} packets/s sent with nobody watching")
    costs = statistics.median(run.cpu for run in runs["tcpdump"])
    for program, each in runs.items():
        sent = statistics.median(run.sent for run in each)
        shown, written = sum(run.shown for run in each), sum(run.written for run in each)
        lost = sum(run.told for run in each)
        cpu = statistics.median(run.cpu for run in each)
        ending = statistics.median(run.pass_seconds for run in each)
        print(
            f"  {program:28} {2 * sent:9,.0f} frames/s, {written / shown:8.3%} written, "
            f"{lost} told lost, {shown - written - lost} unexplained; sender at "
            f"{sent / alone:4.2f}x; {cpu:5.2f} us/frame ({cpu / costs:5.2f}x); "
            f"ended in {ending:.1f} s"
        )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(TOPOLOGY)
        file.flush()
        subprocess.run(netlab("up", file.name), check=True, cwd=ROOT)
    receiver = None
    try:
        receiver = subprocess.Popen(
            inside(f"{LAB}.n1", sys.executable, "-c", RECEIVER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert receiver.stdout
        receiver.stdout.readline()
        measured(seconds, rounds)
    finally:
        if receiver is not None:
            receiver.communicate()
        subprocess.run(netlab("down"), check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
