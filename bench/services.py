"""How fast Services are programmed: each figure a ratio against something measured in the same run.

    sudo .venv/bin/python bench/services.py [WHAT]… [-n N,N,…] [-m MODE] [-r ROUNDS]

first    N Services of two endpoints each into an empty namespace: by the engine of `netlab proxy`
         (decision, rules, kernel), and by the whole command with its peak memory; against one text
         made beforehand, fed to `iptables-nft-restore --noflush` in the quickest order, or `nft -f`
change   one endpoint of N Services: objects in until the kernel agrees; against the same text, made
         beforehand, fed to the tool
follow   the same in a lab: from the put of the EndpointSlice into etcd until the first packet that
         gets to the new endpoint, with every tool the agent ran meanwhile
setup    a TCP connection to the last of N Services against the first, and against no rules at all

Private namespaces `nlbench-…` and a private lab `nlbench`; both are removed afterwards.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services_lab import bench_follow
from services_objects import (
    ENDPOINT,
    NETNS,
    NODE,
    PORT,
    ROOT,
    cluster,
    cluster_ip,
    endpoint_slice,
    endpoints,
    namespace,
    options,
)

from netlab.agent.kubeproxy import KERNEL, KubeProxy
from netlab.kernel import generation, iptables, nft_messages, nftables
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.processes import commands
from netlab.proxy import Mode, nft_text
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Sort


def seconds(call: Callable[[], Any]) -> float:
    """Return how long *call* takes; nobody looks for garbage meanwhile, as in `netlab proxy`."""
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    finally:
        gc.enable()


def proxy(mode: Mode) -> KubeProxy:
    return KubeProxy(options(mode), answering=False)


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count what the engine asks of the kernel, by tool; `messages` are its own transactions."""
    found: dict[str, int] = {}

    def run(argv: Sequence[str], **more: Any) -> commands.Completed:
        word = f"{argv[0]} list" if "list" in argv else argv[0]
        found[word] = found.get(word, 0) + 1
        return commands.run(argv, **more)

    def refusal(batch: Any) -> str:
        found["messages"] = found.get("messages", 0) + 1
        return sent(batch)

    sent = nft_messages.refusal
    modules: tuple[Any, ...] = (iptables, nftables)
    for module in modules:
        module.run = run
    nft_messages.refusal = refusal  # type: ignore[assignment]
    try:
        yield found
    finally:
        for module in modules:
            module.run = commands.run
        nft_messages.refusal = sent


# --------------------------------------------------------------------------------------- floors


def one_text(blocks: Iterable[Block], order: str) -> str:
    """Return all *blocks* as one text for iptables-restore, its chains in an *order*."""
    lines: list[str] = []
    mine = [block for block in blocks if block.family is Family.IPV4]
    for table in sorted({block.table for block in mine}):
        here = [block for block in mine if block.table == table]
        chains = [block for block in here if block.sort is Sort.CHAIN]
        chains.sort(key=lambda block: block.name, reverse=order == "reversed")
        # Built-in chains first: nothing is looked for longer than they are.
        jumps = [block for block in here if block.sort is Sort.JUMPS]
        lines += [f"*{table}", *(f":{block.name} - [0:0]" for block in chains)]
        lines += [f"-A {block.name} {line}" for block in chains for line in block.lines]
        lines += [f"-A {block.name} {line}" for block in jumps for line in block.lines]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def feed(mode: Mode, text: str) -> None:
    """Give a precomputed *text* to the mode's tool."""
    argv = ["nft", "-f", "-"]
    if mode is Mode.IPTABLES:
        argv = ["iptables-nft-restore", "--noflush"]
    subprocess.run(argv, input=text.encode(), check=True)


def whole_texts(mode: Mode, number: int) -> dict[str, str]:
    """Return the texts that program *number* Services in an empty namespace, by their order."""
    engine = proxy(mode)
    steps = engine.wanted(cluster(number), view(NODE, ProxyNode))
    if mode is Mode.NFTABLES:
        return {"one": nft_text.transaction(steps)}
    blocks = list(engine.blocks.values())
    return {order: one_text(blocks, order) for order in ORDERS}


# Of chains and rules. As the engine makes them it would take three times as long (2,500 Services).
ORDERS = ("sorted", "reversed")


# ---------------------------------------------------------------------------------------- first


def floor(mode: Mode, texts: dict[str, str], chosen: str | None) -> tuple[float, str]:
    """Return the seconds of the quickest text, and its order."""
    took = {}
    for order, text in texts.items():
        if chosen in (None, order):
            with namespace():
                took[order] = seconds(lambda text=text: feed(mode, text))
    best = min(took, key=lambda order: took[order])
    return took[best], best


def by_command(mode: Mode, file: str) -> tuple[float, int]:
    """Return the seconds `netlab proxy` takes for *file*, and its largest resident bytes."""
    argv = [sys.executable, "-m", "netlab", "proxy", "-f", file, "--node", "n1", "--proxy-mode"]
    argv += [str(mode), "--detect-local", "cluster-cidr=10.244.0.0/16"]
    argv += ["--service-cidr", "10.96.0.0/12", "--netns", NETNS]
    began = time.perf_counter()
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    if status:
        sys.exit(f"{' '.join(argv)}: {status}")
    return took, usage.ru_maxrss * 1024


def bench_first(mode: Mode, number: int, rounds: int) -> None:
    texts = whole_texts(mode, number)
    order: str | None = None
    documents = cluster(number)
    rows = []
    peak = 0
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "objects.json")
        listed = {"apiVersion": "v1", "kind": "List", "items": [NODE, *documents]}
        file.write_text(json.dumps(listed))
        for _ in range(rounds):
            plain, order = floor(mode, texts, order)
            with namespace():
                engine = proxy(mode)
                own = seconds(lambda engine=engine: engine.agree(documents, view(NODE, ProxyNode)))
            with namespace():
                command, peak = by_command(mode, str(file))
            rows.append((plain, own, command))
    plain, own, command = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"{mode:8} {number:6} first: engine {own:.2f} s, command {command:.2f} s; "
        f"one text ({order}) {plain:.2f} s: ratio {own / plain:.2f}, {command / plain:.2f} "
        f"(wanted: below 1.5); command's memory {peak / 2**20:.0f} MiB",
        flush=True,
    )


# --------------------------------------------------------------------------------------- change


def bench_change(mode: Mode, number: int, rounds: int) -> None:
    node = view(NODE, ProxyNode)
    documents = cluster(number)
    kept = endpoints(number - 1)[0]
    back = documents[-1]
    engine = proxy(mode)
    took, plain, asked = [], [], {}
    with namespace():
        engine.agree(documents, node)
        for turn in range(2 * rounds + 5):
            documents[-1] = endpoint_slice(number - 1, (kept, f"10.99.0.{turn + 1}"))
            with counted() as asked:
                took.append(seconds(lambda: engine.agree(documents, node)))
            documents[-1] = back
            text = "".join(engine.texts(engine.wanted(documents, node)))
            with generation.here().ours(expected=1):
                plain.append(seconds(lambda text=text: feed(mode, text)))
    own, tool = statistics.median(took), statistics.median(plain)
    print(
        f"{mode:8} {number:6} change: engine {own * 1000:.1f} ms; the tool alone "
        f"{tool * 1000:.1f} ms: ratio {own / tool:.2f}; asked of the kernel: {asked}",
        flush=True,
    )


# --------------------------------------------------------------------------------------- setup


def connections(address: str, port: int, count: int) -> list[float]:
    """Return the seconds of *count* TCP connections, one after the other."""
    took = []
    for _ in range(count):
        with socket.socket() as one:
            began = time.perf_counter()
            one.connect((address, port))
            took.append(time.perf_counter() - began)
            # No TIME_WAIT: the next connection finds no trace of this one.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return took


def bench_setup(mode: Mode, number: int, rounds: int) -> None:
    first, last = 0, number - 1  # chains and maps are in the order of the names
    documents = cluster(number)
    for one in (first, last):
        documents[number + one] = endpoint_slice(one, (ENDPOINT,))
    with namespace(), socket.create_server((ENDPOINT, PORT), backlog=4096):
        connections(ENDPOINT, PORT, 200)
        bare = connections(ENDPOINT, PORT, 200 * rounds)
        proxy(mode).agree(documents, view(NODE, ProxyNode))
        found: dict[int, list[float]] = {first: [], last: []}
        direct: list[float] = []
        for _ in range(10 * rounds):
            for one, took in found.items():
                took += connections(cluster_ip(one), 80, 20)
            direct += connections(ENDPOINT, PORT, 20)
    none, near, far, past = (
        statistics.median(each) * 1e6 for each in (bare, found[first], found[last], direct)
    )
    print(
        f"{mode:8} {number:6} setup: last {far:.0f} us, first {near:.0f} us: ratio "
        f"{far / near:.2f}; to the endpoint itself {past:.0f} us, without rules {none:.0f} us",
        flush=True,
    )


BENCHES = {
    "first": bench_first,
    "change": bench_change,
    "follow": bench_follow,
    "setup": bench_setup,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", metavar="|".join(BENCHES))
    parser.add_argument("-n", "--services", default="100,1000,5000,10000")
    parser.add_argument("-m", "--mode", choices=list(Mode))
    parser.add_argument("-r", "--rounds", type=int, default=3)
    given = parser.parse_args()
    if unknown := set(given.what) - BENCHES.keys():
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    for name in given.what or BENCHES:
        for number in map(int, given.services.split(",")):
            for mode in [Mode(given.mode)] if given.mode else KERNEL:
                BENCHES[name](mode, number, given.rounds)


if __name__ == "__main__":
    main()
