"""Compare `apply` with the least a C program needs: bench/kernel.py [NODES] [PODS] [ROUNDS].

Both make the same namespaces, bridges, veths, addresses and routes. Runs alternate, so that a busy
machine is busy for both; the best of each is compared, processor time too. Needs root and cc.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from netlab.kernel.real import RealKernel
from netlab.objects import Address, Bridge, Netns, Object, Route, Sysctl, Veth
from netlab.plan import Op, Verb, difference

PREFIX = "nltest-bench"
MTU = 1450


def node_objects(node: int, pods: int) -> list[Object]:
    """Return what floor.c makes for one node."""
    netns = f"{PREFIX}.n{node}"
    objects: list[Object] = [
        Netns(netns),
        Sysctl(netns, "net.ipv6.conf.all.disable_ipv6", "1"),
        Bridge(netns, "docker0", f"02:00:00:{node:02x}:00:00", MTU),
        Address(netns, "docker0", f"10.{node}.0.1/16"),
    ]
    for pod in range(1, pods + 1):
        inside = f"{netns}.default.p{pod}"
        tail = f"{node:02x}:{pod >> 8:02x}:{pod & 255:02x}"
        ip = f"10.{node}.{(pod + 1) >> 8}.{(pod + 1) & 255}"
        objects += [
            Netns(inside),
            Sysctl(inside, "net.ipv6.conf.all.disable_ipv6", "1"),
            Veth(
                *(netns, f"veth{pod}", f"02:01:00:{tail}", inside, "eth0", f"02:02:00:{tail}"),
                *(MTU, "docker0", True),
            ),
            Address(inside, "eth0", f"{ip}/16"),
            Route(inside, "default", "eth0", f"10.{node}.0.1"),
        ]
    return objects


def in_one_thread(kernel: RealKernel, plans: Sequence[list[Op]]) -> None:
    for plan in plans:
        kernel.apply(plan)


def in_a_thread_each(kernel: RealKernel, plans: Sequence[list[Op]]) -> None:
    threads = [threading.Thread(target=kernel.apply, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Return the time that passed and the processor time, kernel included."""
    start, start_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - start_cpu


def settled() -> None:
    """Wait until the kernel has freed the namespaces of the round before (it does so later)."""
    last, quiet = -1, 0
    deadline = time.monotonic() + 60
    while quiet < 5 and time.monotonic() < deadline:
        slabs = Path("/proc/slabinfo").read_text().splitlines()
        now = next((int(line.split()[1]) for line in slabs if line.startswith("net_namesp")), 0)
        quiet = quiet + 1 if now == last else 0
        last = now
        time.sleep(0.1)


def removed(kernel: RealKernel) -> None:
    kernel.apply([Op(Verb.DELETE, Netns(name)) for name in kernel.namespaces(PREFIX)])


def floor(program: Path, nodes: int, pods: int) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [program, str(nodes), str(pods), PREFIX, "--keep"],
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return float(run.stdout.split()[0]), cpu


def main() -> None:
    nodes, pods, rounds = (
        int(word) for word in (*sys.argv[1:], *("10", "100", "5")[len(sys.argv) - 1 :])
    )
    kernel = RealKernel()
    desired = [node_objects(node, pods) for node in range(1, nodes + 1)]
    variants = {"one thread": in_one_thread, "a thread per node": in_a_thread_each}
    best: dict[str, tuple[float, float]] = {}

    def record(name: str, value: tuple[float, float]) -> None:
        found = best.get(name, value)
        best[name] = (min(value[0], found[0]), min(value[1], found[1]))
        print(f"  {name:20} {value[0]:.3f} s, cpu {value[1]:.3f} s", file=sys.stderr)

    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "floor")
        source = Path(__file__).with_name("floor.c")
        subprocess.run(["cc", "-O2", "-Wall", "-o", program, source], check=True)
        removed(kernel)
        for _ in range(rounds):
            record("floor.c", floor(program, nodes, pods))
            removed(kernel)
            settled()
            for name, way in variants.items():
                plans = [difference(objects, []) for objects in desired]
                gc.collect()
                record(name, seconds(lambda way=way, plans=plans: way(kernel, plans)))  # type: ignore[misc]
                record("observe", seconds(lambda: kernel.observe(f"{PREFIX}.n1", desired[0])))
                record("delete", seconds(lambda: removed(kernel)))
                settled()
    floor_time, floor_cpu = best["floor.c"]
    for name, (passed, cpu) in best.items():
        print(
            f"{name:20} {passed:.3f} s {passed / nodes / pods * 1e6:8.1f} us/pod "
            f"{passed / floor_time:6.2f}x; processor {cpu:.3f} s {cpu / floor_cpu:6.2f}x"
        )


if __name__ == "__main__":
    main()
