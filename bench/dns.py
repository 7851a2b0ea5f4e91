"""Compare a DNS pod's program with dnsmasq: bench/dns.py [SERVICES] [SECONDS].

Both know the same names, of as many Services, and are asked by the same C program (dns_load.c), 64
questions under way at a time, by turns, so that a busy machine is busy for both. Needs root, cc,
etcd and dnsmasq (Debian's package dnsmasq-base).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kernel"))

from etcd_process import EtcdProcess

from netlab.controllers import Change, Verb, born
from netlab.dns import wire
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.model.kubernetes import Document
from netlab.nameserver import stub
from netlab.store import registry

OURS, THEIRS = "nltest-bench.netlab", "nltest-bench.dnsmasq"  # namespaces
LOCAL = "127.0.0.1"
FIRST = int(IPv4Address("10.96.1.0"))
WINDOW = 64
ROUNDS = 3
SOON = 20.0  # seconds


def name(number: int) -> str:
    return f"service-{number}.space-{number % 10}.svc.cluster.local"


def address(number: int) -> str:
    return str(IPv4Address(FIRST + number))


def objects(services: int) -> list[Document]:
    spaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"space-{n}"}}
        for n in range(10)
    ]
    return spaces + [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"service-{n}", "namespace": f"space-{n % 10}"},
            "spec": {"clusterIP": address(n), "ports": [{"name": "http", "port": 80}]},
        }
        for n in range(services)
    ]


def until_it_answers(place: str, last: int) -> None:
    deadline = time.monotonic() + SOON
    while True:
        try:
            with netns.entered(place):
                answer = stub.asked(LOCAL, wire.name_of(name(last)), wire.A)
            if wire.texts(answer.answers):
                return
        except NetlabError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"{place}: no answer")
        time.sleep(0.05)


def rate(load: Path, place: str, names: Path, seconds: float) -> float:
    argv = [str(load), LOCAL, str(names), str(seconds), str(WINDOW)]
    with netns.entered(place):
        printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    per_second, answered, right, lost = map(float, printed.split())
    if right != answered:
        raise SystemExit(f"{place}: {answered - right:.0f} of {answered:.0f} answers are wrong")
    if lost:
        print(f"  {place}: {lost:.0f} lost", file=sys.stderr)
    return per_second


def seconds_of(process: subprocess.Popen[bytes]) -> float:
    """Return the processor time a process has had so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def places(*names: str) -> Iterator[None]:
    """Have network namespaces with `lo` up; each server has one, as both want port 53."""
    for each in names:
        netns.create(each)
        with netns.entered(each):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        yield
    finally:
        for each in names:
            netns.delete(each)


def main() -> None:
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    with places(OURS, THEIRS), tempfile.TemporaryDirectory() as directory:
        load, names, hosts = (Path(directory, one) for one in ("load", "names", "hosts"))
        subprocess.run(["cc", "-O2", "-o", load, Path(__file__).parent / "dns_load.c"], check=True)
        names.write_text("".join(f"{name(n)}\n" for n in range(services)))
        hosts.write_text("".join(f"{address(n)} {name(n)}\n" for n in range(services)))
        with netns.entered(THEIRS):
            theirs = subprocess.Popen(["dnsmasq", "-k", "-h", "-R", "-H", str(hosts), "-u", "root"])
        with netns.entered(OURS):
            etcd = EtcdProcess()
            etcd.start()
            etcd.ready()
            made = [Change(Verb.CREATE, born(one)) for one in objects(services)]
            registry.write(etcd.client(), made)
            where = {"NETLAB_ETCD": f"http://{etcd.host}:{etcd.port}", "POD_IP": LOCAL}
            ours = subprocess.Popen(
                [sys.executable, "-m", "netlab.nameserver"], env={**os.environ, **where}
            )
        try:
            for place in (OURS, THEIRS):
                until_it_answers(place, services - 1)
            compared(load, names, seconds, {OURS: ours, THEIRS: theirs})
        finally:
            for process in (ours, theirs):
                process.terminate()
                process.wait()
            etcd.stop()


def compared(
    load: Path, names: Path, seconds: float, servers: dict[str, subprocess.Popen[bytes]]
) -> None:
    best = dict.fromkeys(servers, 0.0)
    cost = dict.fromkeys(servers, float("inf"))
    for _ in range(ROUNDS):
        for place, process in servers.items():
            before = seconds_of(process)
            found = rate(load, place, names, seconds)
            best[place] = max(best[place], found)
            cost[place] = min(cost[place], (seconds_of(process) - before) / (found * seconds))
    for place, title in ((OURS, "netlab"), (THEIRS, "dnsmasq")):
        each = cost[place] * 1e6
        print(f"{title:8} {best[place]:8.0f} answers/s, {each:5.1f} us of processor each")
    print(f"ratio    {best[OURS] / best[THEIRS]:8.2f}")


if __name__ == "__main__":
    main()
