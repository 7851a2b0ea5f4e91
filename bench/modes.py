"""What a Service costs its clients in each proxy mode: all modes side by side, in one run.

    sudo .venv/bin/python bench/modes.py [-n N]… [-s SECONDS] [-r ROUNDS]
    scripts/vm -- .venv/bin/python bench/modes.py   with ipvs, where this kernel lacks it

setup       a TCP connection to a cluster IP: made, asked, answered; the median one, alone. With
            each number N of Services, of which it is the last that there are rules for
many        such connections by 32 clients at once
throughput  bytes through one connection
udp         datagrams asked and answered, one after the other

A node, a client's pod and two endpoints in namespaces of their own, `nlbench-…`, joined by the
node's bridge as a CNI joins them. Each round has each mode in turn; medians are told. `direct` is
the endpoint's own address, without a Service: what the bridge and the sockets themselves take.
A mode that the kernel lacks is left out, with a word.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from services_objects import cluster

from netlab.agent.kubeproxy import KubeProxy
from netlab.errors import CapabilityError
from netlab.kernel import ipvs, netns
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import DetectLocal, Mode, Options

ROOT = Path(__file__).parents[1]
NAME = f"nlbench-{os.getpid()}"
NODE_IP, BRIDGE_IP, CLUSTER_IP = "192.168.50.11", "10.244.1.1", "10.96.0.10"
CLIENT, ENDS = "10.244.1.99", ("10.244.1.2", "10.244.1.3")
TCP, BULK, UDP = 8080, 8081, 5353
CLIENTS = 32
CHUNK = 1 << 18  # bytes
MODES = (Mode.IPTABLES, Mode.NFTABLES, Mode.IPVS, Mode.USERSPACE)
NUMBERS = (10, 1000, 10000)  # of Services
DIRECT = "direct"


def run(*words: str) -> None:
    subprocess.run(words, check=True)


@contextmanager
def world() -> Iterator[None]:
    """A node and its three pods."""
    made = [f"{NAME}.{one}" for one in ("node", "client", "end0", "end1")]
    for name in made:
        netns.create(name)
    try:
        node = made[0]
        run("ip", "-n", node, "link", "set", "lo", "up")
        run("ip", "-n", node, "addr", "add", f"{NODE_IP}/32", "dev", "lo")
        run("ip", "-n", node, "link", "add", "docker0", "type", "bridge")
        run("ip", "-n", node, "addr", "add", f"{BRIDGE_IP}/24", "dev", "docker0")
        run("ip", "-n", node, "link", "set", "docker0", "up")
        for number, (name, address) in enumerate(zip(made[1:], (CLIENT, *ENDS), strict=True)):
            port = f"veth{number}"
            run(
                *("ip", "-n", node, "link", "add", port, "type", "veth"),
                *("peer", "name", "eth0", "netns", name),
            )
            run("ip", "-n", node, "link", "set", port, "up", "master", "docker0")
            run("bridge", "-n", node, "link", "set", "dev", port, "hairpin", "on")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "route", "add", "default", "via", BRIDGE_IP)
        settings = ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")
        run("ip", "netns", "exec", node, "sysctl", "-qw", *settings)
        yield
    finally:
        for name in made:
            netns.delete(name)


@contextmanager
def serving(place: str, address: str) -> Iterator[None]:
    """The endpoint's program, in a process of its own."""
    words = [sys.executable, __file__, "--serve", address]
    with subprocess.Popen(
        ["ip", "netns", "exec", f"{NAME}.{place}", *words],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.terminate()


def serve(address: str) -> None:
    """Answer a byte by a byte; take what comes to BULK; send datagrams back."""
    small, bulk = (socket.create_server((address, port), backlog=512) for port in (TCP, BULK))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, UDP))

    def answer() -> None:
        while True:
            sock, _ = small.accept()
            sock.send(sock.recv(1))
            sock.close()

    def swallow() -> None:
        buffer = bytearray(CHUNK)
        while True:
            sock, _ = bulk.accept()
            while sock.recv_into(buffer):
                pass
            sock.close()

    def echo() -> None:
        while True:
            data, peer = datagrams.recvfrom(100)
            datagrams.sendto(data, peer)

    for each in (answer, swallow):
        threading.Thread(target=each, daemon=True).start()
    print("ready", flush=True)
    echo()


def objects(number: int) -> list[dict[str, Any]]:
    """Return *number* Services, the one that is asked being the last by name."""
    meta = {"name": "web", "namespace": "default"}
    ports = [("small", TCP, "TCP"), ("bulk", BULK, "TCP"), ("dns", UDP, "UDP")]
    listed = [{"name": name, "port": port, "protocol": kind} for name, port, kind in ports]
    return [
        *cluster(number - 1),
        {
            "kind": "Service",
            "metadata": meta,
            "spec": {"clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP], "ports": listed},
        },
        {
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [one]} for one in ENDS],
            "ports": listed,
        },
    ]


NODE = {
    "kind": "Node",
    "metadata": {"name": "n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": NODE_IP}]},
}


@contextmanager
def served(mode: str, number: int) -> Iterator[str]:
    """Have the node serve *number* Services in *mode*; yield the address to ask."""
    if mode == DIRECT:
        yield ENDS[0]
        return
    options = Options(Mode(mode), DetectLocal.CLUSTER_CIDR, ("10.244.0.0/16",))
    proxy = KubeProxy(options, answering=False)
    with netns.entered(f"{NAME}.node"):
        proxy.agree(objects(number), view(NODE, ProxyNode))
    try:
        yield CLUSTER_IP
    finally:
        proxy.close()


# -- what is measured; the calling thread is in the client's namespace


def one_connection(to: str) -> None:
    with socket.create_connection((to, TCP), 5) as sock:
        sock.send(b"x")
        assert sock.recv(1) == b"x"
        # No port is kept for a minute: a reset closes it on both sides.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def setup(to: str, seconds: float) -> float:
    """Return the microseconds that the median connection takes."""
    took, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        one_connection(to)
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6


def many(to: str, seconds: float) -> float:
    """Return connections a second, of CLIENTS threads together."""
    place = f"{NAME}.client"

    def work(counts: list[int], number: int) -> None:
        with netns.entered(place):
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                one_connection(to)
                counts[number] += 1

    counts = [0] * CLIENTS
    threads = [threading.Thread(target=work, args=(counts, n)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def throughput(to: str, seconds: float) -> float:
    """Return MB a second that one connection takes."""
    data, sent, end = bytes(CHUNK), 0, time.perf_counter() + seconds
    with socket.create_connection((to, BULK), 5) as sock:
        while time.perf_counter() < end:
            sent += sock.send(data)
    return sent / seconds / 1e6


def udp(to: str, seconds: float) -> float:
    """Return questions and answers a second."""
    done, end = 0, time.perf_counter() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((to, UDP))
        while time.perf_counter() < end:
            sock.send(b"x")
            sock.recv(10)
            done += 1
    return done / seconds


MEASURES: dict[str, tuple[Callable[[str, float], float], str]] = {
    "many": (many, "connections/s"),
    "throughput": (throughput, "MB/s"),
    "udp": (udp, "answers/s"),
}


def there() -> list[str]:
    """Return what is asked here: each mode that this kernel has, and none at all."""
    try:
        ipvs.require()
    except CapabilityError as error:
        print(f"without ipvs: {error}")
        return [DIRECT, *(str(mode) for mode in MODES if mode is not Mode.IPVS)]
    return [DIRECT, *map(str, MODES)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", "--number", type=int, action="append", metavar="N")
    parser.add_argument("-s", "--seconds", type=float, default=1.0)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    columns, numbers = there(), given.number or NUMBERS
    found: dict[tuple[str, str], list[float]] = {}
    with world(), ExitStack() as stack:
        for place, address in enumerate(ENDS):
            stack.enter_context(serving(f"end{place}", address))
        for round_ in range(given.rounds):
            for number in numbers:
                for mode in columns:
                    with served(mode, number) as to, netns.entered(f"{NAME}.client"):
                        one_connection(to)
                        took = found.setdefault((f"setup, {number} Services", mode), [])
                        took.append(setup(to, given.seconds))
                        for name, (measure, _) in MEASURES.items() if number == numbers[0] else ():
                            found.setdefault((name, mode), []).append(measure(to, given.seconds))
            print(f"round {round_ + 1} of {given.rounds}", file=sys.stderr)
    print(f"{'':<22}" + "".join(f"{mode:>11}" for mode in columns) + "   against iptables")
    for name in dict.fromkeys(name for name, _ in found):
        medians = {mode: statistics.median(found[name, mode]) for mode in columns}
        ratios = (
            f"{mode} {medians[mode] / medians[Mode.IPTABLES]:.2f}"
            for mode in columns
            if mode not in (DIRECT, Mode.IPTABLES)
        )
        row = "".join(f"{medians[mode]:>11.0f}" for mode in columns)
        unit = MEASURES[name][1] if name in MEASURES else "µs"
        print(f"{name:<22}{row}   {', '.join(ratios)}  ({unit})")


if __name__ == "__main__":
    main()
