"""What one change costs the control plane of a settled lab: bench/controllers.py [SERVICES].

For each sort of change, milliseconds of processor time of the loop's own thread, by part, and as a
ratio to a first pass over the same objects in the same run. A tenth of the Services select pods,
two each; the others' slices are kept by hand. Needs etcd, not root.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "kernel")]

from etcd_process import running  # noqa: E402

from netlab import controllers  # noqa: E402
from netlab.agent.state import State  # noqa: E402
from netlab.cluster import cluster  # noqa: E402
from netlab.model.inventory import Inventory  # noqa: E402
from netlab.model.kubernetes import Document  # noqa: E402
from netlab.store import registry  # noqa: E402
from netlab.store.etcd import Etcd  # noqa: E402
from netlab.store.watch import Watch  # noqa: E402
from netlab.topology import labdoc  # noqa: E402

NODES, ROUNDS = 10, 7
LAB = labdoc.lab_from(
    {
        "metadata": {"name": "bench"},
        "nodes": [{"name": f"n{number}"} for number in range(NODES)],
        "network": {"Network": "10.244.0.0/16"},
    }
)
ROOM = {node.name: LAB.network.pods_per_node for node in LAB.nodes}


def service(number: int) -> list[Document]:
    """Return a Service and what its user declares behind it: two pods, or a slice."""
    meta = {"name": f"s{number}", "namespace": "default"}
    spec: Document = {"ports": [{"port": 80, "targetPort": 8080}]}
    one = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
    if number % 10 == 0:
        labels = spec["selector"] = {"app": f"a{number}"}
        return [one, *(pod(f"p{number}-{which}", labels) for which in range(2))]
    host = f"{number // 250 % 250}.{number % 250 + 2}"
    addresses = [f"10.244.{host}", f"10.245.{host}"]
    by_hand = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"s{number}-x",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": f"s{number}"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }
    return [one, by_hand]


def pod(name: str, labels: dict[str, str]) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]},
    }


def running_pods(objects: Inventory) -> list[SimpleNamespace]:
    """Return what the nodes write: an address for each pod, and that it is ready."""
    return [
        updated(
            one,
            status={
                "phase": "Running",
                "podIP": f"10.244.{number // 250}.{number % 250 + 2}",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        )
        for number, one in enumerate(objects.of("Pod"))
    ]


def updated(document: Document, **fields: object) -> SimpleNamespace:
    return SimpleNamespace(verb="update", document={**document, **fields})


def changes() -> dict[str, Callable[[Inventory], SimpleNamespace]]:
    """Return one change of each sort."""
    chance = random.Random(1)

    def endpoint(objects: Inventory) -> SimpleNamespace:
        listed = objects.of("EndpointSlice")
        one = chance.choice([one for one in listed if one["metadata"]["name"].endswith("-x")])
        new = {"addresses": [f"10.246.{chance.randrange(250)}.{chance.randrange(250)}"]}
        return updated(one, endpoints=[new, *one["endpoints"][1:]])

    def readiness(objects: Inventory) -> SimpleNamespace:
        one = chance.choice(objects.of("Pod"))
        was = one["status"]["conditions"][0]["status"]
        ready = {"type": "Ready", "status": "False" if was == "True" else "True"}
        return updated(one, status={**one["status"], "conditions": [ready]})

    def external(objects: Inventory) -> SimpleNamespace:
        one = chance.choice(objects.of("Service"))
        address = f"198.51.100.{chance.randrange(250)}"
        return updated(one, spec={**one["spec"], "externalIPs": [address]})

    return {"endpoint": endpoint, "pod's readiness": readiness, "service": external}


class Loop:
    """A control plane, as the agent's, that says where its time goes."""

    def __init__(self, etcd: Etcd, watch: Watch) -> None:
        self.etcd, self.watch = etcd, watch
        self.settled = Inventory()
        self.state = State(Path("/nonexistent"))
        self.state.lab = LAB
        self.spent: dict[str, float] = {}

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.spent[part] = self.spent.get(part, 0.0) + 1000 * (time.thread_time() - began)

    def once(self) -> None:
        """Go on until nothing is left to change, and publish."""
        self.spent = {}
        while True:
            with self.timing("read"):
                objects, revision = registry.objects(self.etcd, watch=self.watch)
            with self.timing("controllers"):
                wanted = controllers.changes(objects, capacity=ROOM, settled=self.settled)
            if not wanted:
                break
            with self.timing("write"):
                registry.write(self.etcd, wanted)
        self.settled = objects
        with self.timing("cluster"):
            before = self.state.cluster
            seen = cluster(LAB, objects, leases={}, revision=revision, before=before)
        with self.timing("publish"):
            self.state.publish(seen, stable=True, wake=lambda _: None)


def told(name: str, parts: dict[str, float], first: float) -> None:
    whole = sum(parts.values())
    by_part = ", ".join(f"{part} {spent:.1f}" for part, spent in parts.items())
    print(f"{name:16} {whole:8.1f} ms  {whole / first:7.4f} of a first pass  ({by_part})")


def main() -> None:
    number = int((sys.argv[1:] or ["10000"])[0])
    declared = [*controllers.declared(LAB), *(one for n in range(number) for one in service(n))]
    with running() as process:
        etcd, other = process.client(), process.client()
        with etcd.watch() as watch:
            first = controllers.declaration_changes(declared, ())
            registry.write(other, controllers.changes(Inventory(), capacity=ROOM, first=first))
            registry.write(other, running_pods(registry.objects(other)[0]))
            loop = Loop(etcd, watch)
            loop.once()
            began = time.thread_time()
            controllers.changes(loop.settled, capacity=ROOM)
            whole = 1000 * (time.thread_time() - began)
            print(f"{len(loop.settled)} objects; a first pass of the controllers: {whole:.0f} ms")
            for name, change in changes().items():
                best: dict[str, float] = {}
                for _ in range(ROUNDS):
                    registry.write(other, [change(registry.objects(other)[0])])
                    etcd.get("/")  # whose answer tells that there is news
                    loop.once()
                    if not best or sum(loop.spent.values()) < sum(best.values()):
                        best = loop.spent
                told(name, best, whole)


if __name__ == "__main__":
    main()
