"""How the overlay grows: nodes that meet, join and leave, and a thousand leases at once.

    sudo .venv/bin/python bench/overlay.py [mesh|thousand]…

mesh      a lab of 30 nodes: from `netlab up` until each has its route, neighbour and FDB entry for
          each other; one node more (from its namespace on), one less; etcd killed, and a lease
          written once it is back
thousand  1,000 leases of nodes that are not here, written by a script: until the two nodes have all
          their routes; then a third node joins: from its namespace until it has them

Beside the seconds stands how many times as long that is as `ip -batch` and `bridge -batch` take to
write the same routes, neighbours and FDB entries into a namespace (`mesh`: into 30, one after the
other), or as one put in etcd takes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from scale import LAB, NETLAB, ROOT, netlab, seconds

from netlab import world
from netlab.errors import StoreError
from netlab.kernel import netlink, netns, routes
from netlab.lab.live import Live, connect
from netlab.store.etcd import PORT, Etcd

NAME = f"nlbench-{os.getpid()}"
LEASES = "/coreos.com/network/subnets/"
THOUSAND = 1000
PATIENCE = 120.0  # seconds


def topology(nodes: int) -> str:
    """Return a lab of *nodes* without pods, in a network with room for thousands of leases."""
    machines = "".join(f"- {{name: n{n}, address: 192.168.50.{n + 20}}}\n" for n in range(nodes))
    return f"""apiVersion: netlab/v1
kind: Lab
metadata: {{name: {LAB}}}
underlay: {{segments: [{{name: lan, cidr: 192.168.50.0/24}}]}}
gateway: {{address: 192.168.50.1}}
master: {{address: 192.168.50.10}}
dns: {{replicas: 0}}
nodes:
{machines}network: {{Network: 10.128.0.0/10, SubnetLen: 24}}
"""


class Nodes:
    """How many peers each node of the lab can send to: routes through flannel.1."""

    def __init__(self, live: Live, names: Sequence[str]) -> None:
        self._sockets = {}
        for name in names:
            with netns.entered(live.lab.netns(name)):
                self._sockets[name] = netlink.Socket()

    def peers(self, name: str) -> int:
        """Return the routes with a gateway into the overlay's network, 10.128.0.0/10."""
        body = routes.routes_body(socket.AF_INET)
        found = self._sockets[name].dump(routes.GET_ROUTE, body)
        return sum(_is_peers(route) for route in found)

    def wait(self, count: int) -> None:
        """Return when every node has *count* peers."""
        deadline = time.monotonic() + PATIENCE
        waiting = list(self._sockets)
        while waiting := [name for name in waiting if self.peers(name) != count]:
            if time.monotonic() > deadline:
                sys.exit(f"{waiting[0]} has {self.peers(waiting[0])} of {count} peers")


def _is_peers(route: bytes) -> bool:
    """Return whether a route leads to a /24 of 10.128.0.0/10 through another machine."""
    destination, gateway = _attribute(route, 1), _attribute(route, 5)  # RTA_DST, RTA_GATEWAY
    return route[1] == 24 and gateway != b"" and destination[:1] == b"\x0a" and destination[1] > 127


def _attribute(route: bytes, wanted: int) -> bytes:
    at = 12  # struct rtmsg
    while at + 4 <= len(route):
        length, kind = int.from_bytes(route[at : at + 2], "little"), route[at + 2]
        if kind == wanted:
            return route[at + 4 : at + length]
        at += (length + 3) & ~3
    return b""


@contextmanager
def lab(nodes: int) -> Iterator[tuple[Live, float]]:
    """Have a lab up for the duration; yield it and the seconds `up` took."""
    try:
        took = seconds(lambda: netlab("up", "-", input=topology(nodes)))
        yield connect(LAB), took
    finally:
        netlab("down")


def leases(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield key and value of *count* leases of machines that are not in the lab."""
    for number in range(count):
        third, fourth = divmod(number, 256)
        data = {
            "PublicIP": f"172.20.{third}.{fourth}",
            "PublicIPv6": None,
            "BackendType": "vxlan",
            "BackendData": {"VNI": 1, "VtepMAC": f"02:6e:6c:00:{third:02x}:{fourth:02x}"},
        }
        key = f"{LEASES}10.{160 + third}.{fourth}.0-24"
        yield key, json.dumps(data, separators=(",", ":")).encode()


def plain(count: int, places: int = 1) -> float:
    """Return the seconds that ip(8) and bridge(8) take for as many peers in each of *places*."""
    peers = [divmod(number, 256) for number in range(count)]
    macs = {(a, b): f"02:6e:6c:00:{a:02x}:{b:02x}" for a, b in peers}
    entries = "".join(
        f"neighbor replace 10.{160 + a}.{b}.0 lladdr {mac} dev flannel.1 nud permanent\n"
        f"route replace 10.{160 + a}.{b}.0/24 via 10.{160 + a}.{b}.0 dev flannel.1 onlink\n"
        for (a, b), mac in macs.items()
    )
    forwarding = "".join(
        f"fdb replace {mac} dev flannel.1 dst 172.20.{a}.{b} self permanent\n"
        for (a, b), mac in macs.items()
    )
    with ExitStack() as stack:
        files = []
        for text in (entries, forwarding):
            files.append(stack.enter_context(tempfile.NamedTemporaryFile("w")))
            files[-1].write(text)
            files[-1].flush()
        names = [f"{NAME}.{number}" for number in range(places)]
        for name in names:
            netns.create(name)
            stack.callback(netns.delete, name)
            for words in (
                "link add flannel.1 type vxlan id 1 local 127.0.0.1 dstport 8472 nolearning",
                "link set flannel.1 up",
                "address add 10.128.0.0/32 dev flannel.1",
            ):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        began = time.perf_counter()
        for name in names:
            subprocess.run(["ip", "-n", name, "-batch", files[0].name], check=True)
            subprocess.run(["bridge", "-n", name, "-batch", files[1].name], check=True)
        return time.perf_counter() - began


def told(what: str, took: float, against: str, other: float) -> None:
    print(f"{what:58} {took:7.3f} s   {against} {other:.4f} s   {took / other:.1f}", flush=True)


def put_when_it_is_back(live: Live, key: str, value: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    with netns.entered(live.lab.netns(world.MASTER)):
        etcd = Etcd(live.lab.master.address, PORT, timeout=1.0)
        while time.monotonic() < deadline:
            try:
                etcd.put(key, value)
                return
            except StoreError:
                time.sleep(0.01)
    sys.exit("etcd does not come back")


def bench_mesh() -> None:
    nodes = 30
    tools = plain(nodes - 1, nodes)
    with lab(nodes) as (live, up):
        told(f"up of {nodes} nodes that all know each other", up, "ip and bridge", tools)
        names = [node.name for node in live.lab.nodes]
        first = Nodes(live, names)
        first.wait(nodes - 1)
        etcd = live.etcd()
        puts = sorted(seconds(lambda: etcd.put("/bench", b"x" * 120)) for _ in range(9))[4]
        rss = json.loads(status())["agent"]["rss"] / 2**20
        print(f"the agent of {nodes} nodes: {rss:.0f} MiB, {rss / nodes:.1f} a node")
        with background("node", "add", "n99", "--address", "192.168.50.99"):
            appeared(live, "n99")
            told("one node more: the last of the others has its route",
                 seconds(lambda: first.wait(nodes)), "a put", puts)  # fmt: skip
        with background("node", "remove", "n99"):
            told("one node less: the last of the others has forgotten it",
                 seconds(lambda: first.wait(nodes - 1)), "a put", puts)  # fmt: skip
        ((key, value),) = leases(1)
        os.kill(json.loads(status())["etcd"]["pid"], signal.SIGKILL)
        time.sleep(0.1)
        away = seconds(lambda: put_when_it_is_back(live, key, value))
        told("etcd killed, back, a lease written: the last route",
             seconds(lambda: first.wait(nodes)), "a put", puts)  # fmt: skip
        print(f"  (etcd took {away:.2f} s to be back and to take it)")


def bench_thousand() -> None:
    tools = plain(THOUSAND)
    with lab(2) as (live, _):
        both = Nodes(live, ["n0", "n1"])
        both.wait(1)
        etcd = live.etcd()
        written = list(leases(THOUSAND))
        began = time.perf_counter()
        for key, value in written:
            etcd.put(key, value)
        puts = time.perf_counter() - began
        both.wait(THOUSAND + 1)
        took = time.perf_counter() - began
        told("1,000 leases written one by one: both nodes have all", took, "the puts", puts)
        with background("node", "add", "n2", "--address", "192.168.50.99"):
            appeared(live, "n2")
            began = time.perf_counter()
            third = Nodes(live, ["n2"])
            third.wait(THOUSAND + 2)
            told("a node joins 1,000 leases: it has all routes",
                 time.perf_counter() - began, "ip and bridge", tools)  # fmt: skip


def appeared(live: Live, name: str) -> None:
    """Return when the machine *name* is there: what it does then is what is measured."""
    deadline = time.monotonic() + PATIENCE
    while not netns.exists(live.lab.netns(name)):
        if time.monotonic() > deadline:
            sys.exit(f"{name} does not appear")
        time.sleep(0.001)


@contextmanager
def background(*words: str) -> Iterator[None]:
    """Run a netlab command meanwhile."""
    running = subprocess.Popen([*NETLAB, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        running.wait()


def status() -> str:
    words = [*NETLAB, "status", "-o", "json"]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT).stdout


BENCHES = {"mesh": bench_mesh, "thousand": bench_thousand}

if __name__ == "__main__":
    for name in sys.argv[1:] or list(BENCHES):
        BENCHES[name]()
