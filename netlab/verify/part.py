"""What one machine of several proves: the flows that begin on it, seen by the sensors of all.

`python -m netlab.verify.part LAB PATH…` prints the verdicts as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import msgspec
from msgspec.structs import replace

from netlab import lab as labs
from netlab import patience
from netlab.cluster import Cluster
from netlab.errors import NetlabError
from netlab.packets import Verdict
from netlab.sensors.wide import Ask, WideCapture, WideTrace
from netlab.store.mailbox import Correspondent
from netlab.verify import flat, leases, nodeports, pods, services, sharing
from netlab.verify.catalogue import chosen
from netlab.verify.context import Context, Live
from netlab.verify.judgement import Check, verdict_of

# What is proven across machines; all else needs what only a lab of one machine has.
CHECKS: dict[str, Check] = {
    "flat-no-nat": flat.flat_no_nat,
    "same-pod-ports": sharing.same_pod_ports,
    "unique-pod-ip": sharing.unique_pod_ip,
    "lease-in-etcd": leases.lease_in_etcd,
    "pod-clusterip": services.pod_clusterip,
    "node-clusterip": services.node_clusterip,
    "affinity": services.affinity,
    "namespaces": services.namespaces,
    "no-endpoints": services.no_endpoints,
    "nodeport": nodeports.nodeport,
    "pod-pod-cross-node": pods.cross_node,
    "pod-node": pods.pod_node,
    "pod-pod-same-node": pods.same_node,
    "same-pod-lo": sharing.same_pod_lo,
}
ALONE = ("flat-no-nat",)  # thousands of packets, which the sensors have no business with
ANSWER = patience.seconds(10.0)  # seconds another machine may take to say what it saw
THREADS = patience.side_by_side(4)


@contextmanager
def asking(live: Live, nodes: Sequence[str]) -> Iterator[dict[str, Correspondent]]:
    """Have somebody to ask each of *nodes*, other machines of the lab."""
    with ExitStack() as stack:
        found = {}
        for node in nodes:
            found[node] = Correspondent(live.connection(), node)
            stack.callback(found[node].close)
        yield found


def proven_here(live: Live, paths: Sequence[str]) -> list[Verdict]:
    """Return what this machine finds of *paths*, all of them in CHECKS.

    Raises NetlabError when another machine does not answer.
    """
    assert live.place is not None
    here = live.place.node
    others = [node.name for node in live.lab.running if node.name != here]
    wanted = {path.id: path for path in chosen(paths)}
    with (
        asking(live, others) as machines,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        asked = {name: _ask(one) for name, one in machines.items()}
        cards = {name: str(ask({"do": "place"})["uplink"]) for name, ask in asked.items()}
        cluster = _with_cards(live.cluster(), {**cards, here: live.place.uplink})

        def machine(netns: str) -> str:
            member = netns.split(".")[1]
            return member if member in asked else ""

        with (
            WideCapture([], machine=machine, others=asked) as capture,
            WideTrace([], machine=machine, others=asked) as trace,
        ):
            context = Context(live, cluster, capture, trace, here=here)
            context.asked = frozenset(wanted)
            found = []
            for names in (ALONE, [name for name in CHECKS if name not in ALONE]):
                running = [
                    pool.submit(verdict_of, wanted[name], CHECKS[name], context, again=True)
                    for name in names
                    if name in wanted
                ]
                found += [one.result() for one in running]
    return found


def _ask(one: Correspondent) -> Ask:
    return lambda request: one.ask(request, timeout=ANSWER)


def _with_cards(cluster: Cluster, cards: dict[str, str]) -> Cluster:
    """Return *cluster* with each node's card called as on its machine."""

    def carded(nodes: Sequence[object]) -> list[object]:
        return [replace(node, uplink=cards[node.name]) for node in nodes]  # type: ignore[attr-defined,type-var]

    lab = replace(cluster.lab, nodes=carded(cluster.lab.nodes))
    nodes = [replace(node, declared=lab.node(node.name)) for node in cluster.nodes]
    return replace(cluster, lab=lab, nodes=tuple(nodes))


def main() -> int:
    name, *paths = sys.argv[1:]
    try:
        verdicts = proven_here(labs.connect(name), paths)
    except NetlabError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
