"""How fast ipvs mode is programmed: each figure a ratio against ipvsadm fed the same, in one run.

    sudo .venv/bin/python bench/ipvs.py [N]…        default: 1000 10000
    scripts/vm -- .venv/bin/python bench/ipvs.py    where this kernel has no ip_vs

first    N Services of two endpoints each into an empty namespace, by the engine of `netlab proxy`:
         decision, virtual and real servers, addresses, sets, rules; against one text made
         beforehand, of the virtual and real servers alone, fed to `ipvsadm -R`
change   one endpoint of N Services: objects in until the kernel agrees; against `ipvsadm -R` fed
         the two lines that do it; beside it `ipvsadm -Ln`, by which it is seen
look     what netlab reads once a second or less often, to see whether somebody else changed it

A private namespace `nlbench-services`, removed afterwards.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from services_objects import ENDPOINT, NODE, cluster, endpoint_slice, endpoints, namespace, options

from netlab.agent.kubeproxy import KubeProxy
from netlab.kernel import ipvs
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import Mode, ipvs_text
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Sort, Step

NUMBERS = (1000, 10000)
CHANGES = 5


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def fed(text: str) -> None:
    subprocess.run(("ipvsadm", "-R"), input=text.encode(), check=True)


def text_of(number: int, node: ProxyNode) -> str:
    """Return the text for ipvsadm that makes the servers of *number* Services."""
    engine = KubeProxy(options(Mode.IPVS), answering=False)
    engine.wanted(cluster(number), node)
    servers = [Step(one, None) for one in engine.blocks.values() if one.sort is Sort.SERVER]
    return dict(ipvs_text.ahead(servers))["ipvsadm -R"]


def bench(number: int, node: ProxyNode) -> None:
    documents = cluster(number)
    text = text_of(number, node)
    with namespace():
        plain = seconds(lambda: fed(text))
    with namespace():
        engine = KubeProxy(options(Mode.IPVS), answering=False)
        own = seconds(lambda: engine.agree(documents, node))
        print(
            f"ipvs {number:6} first: engine {own:.2f} s; ipvsadm -R {plain:.2f} s: "
            f"ratio {own / plain:.2f}",
            flush=True,
        )
        look = seconds(lambda: ipvs.read(Family))
        place = next(at for at, one in enumerate(documents) if one["kind"] == "EndpointSlice")
        first, _ = endpoints(0)
        changes, plains = [], []
        for turn in range(CHANGES):
            other = f"{ENDPOINT.rpartition('.')[0]}.{turn + 10}"
            changed = [*documents]
            changed[place] = endpoint_slice(0, (first, other))
            done = seconds(lambda changed=changed: engine.agree(changed, node))
            changes.append(done)
            at = "-t 10.96.1.1:80 -r"
            lines = f"-a {at} 192.0.2.{turn + 1}:1 -m -w 1\n-d {at} 192.0.2.{turn + 1}:1\n"
            plains.append(seconds(lambda lines=lines: fed(lines)))
        (server,) = (one for one in ipvs.servers() if one.name == "TCP 10.96.1.1:80")
        assert {one.text for one in server.reals} == {f"{first}:8080", f"{other}:8080"}
        shown = seconds(lambda: subprocess.run(("ipvsadm", "-Ln"), stdout=subprocess.DEVNULL))
    quick, two = min(changes), min(plains)
    print(
        f"ipvs {number:6} change: {quick * 1000:.1f} ms, with a look {max(changes) * 1000:.0f} ms; "
        f"ipvsadm -R of two lines {two * 1000:.1f} ms: ratio {quick / two:.2f}; "
        f"ipvsadm -Ln {shown * 1000:.0f} ms; look {look * 1000:.0f} ms",
        flush=True,
    )


def main() -> None:
    node = view(NODE, ProxyNode)
    for number in map(int, sys.argv[1:]) if sys.argv[1:] else NUMBERS:
        bench(number, node)


if __name__ == "__main__":
    main()
