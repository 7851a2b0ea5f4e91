"""From what happens to the last packet that went wrong because of it, path by path.

    sudo .venv/bin/python bench/convergence.py [NODES]…       (default: 3 30)

In a lab of as many nodes five askers send 100 flows a second each, all the time: a pod and a node
to a ClusterIP, a client outside to a NodePort and to a load balancer, a pod to the DNS name of
the pods themselves. Meanwhile

roll     all pods are replaced by rolling updates, with a readiness probe, under 10,000 requests
pod      a pod is deleted at once, without grace
cut      a pod's cable is pulled: its readiness probe, once a second, fails twice
etcd     etcd ends, comes back 3 s later, and a pod is deleted then
node     a node loses its power

A flow is wrong when nobody answers it, it is refused, or DNS still names the pod that is gone.
Beside the seconds stands how many times as long that is as a put in etcd takes, in the same run,
until a watcher hears of it (`pod`, `etcd`), or as what tells of the death: the probe's two periods
(`cut`), the grace a silent node is given (`node`).
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from netlab.cluster import PodState
from netlab.dns import wire
from netlab.kernel import netns
from netlab.lab.live import Live, connect
from netlab.model.faults import Fault, Sort
from netlab.packets import Flow, Protocol
from netlab.sensors.stream import Stream

ROOT = Path(__file__).parents[1]
LAB = "converge"
PACE = 100.0  # flows per second and asker
BEFORE, AFTER = 0.5, 1.5  # seconds of flows before it happens, and once all is settled
ANSWER = 1.0  # seconds for an answer
OUTAGE = 3.0  # seconds without etcd
SETTLES = 40.0  # seconds for the lab to be whole again
REQUESTS = 10_000  # during the rolling update
BALANCED = "192.168.50.240"
PROBES = 2.0  # seconds: two periods of the readiness probe
GRACE = 5.0  # seconds a node may be silent: the default of nodeLifecycle


def topology(nodes: int) -> str:
    """Return a lab of *nodes* with two web pods on each, and a pod that only asks."""
    cables = "".join(f"- {{name: n{n}, address: 192.168.50.{n + 20}}}\n" for n in range(nodes))
    return f"""apiVersion: netlab/v1
kind: Lab
metadata: {{name: {LAB}}}
underlay: {{segments: [{{name: lan, cidr: 192.168.50.0/24}}]}}
gateway: {{address: 192.168.50.1, publish: [30000-32767/tcp]}}
master: {{address: 192.168.50.10}}
balancer: {{address: 192.168.50.5, pool: [{BALANCED}-192.168.50.249]}}
nodes:
{cables}network: {{Network: 10.244.0.0/16}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {2 * nodes}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: nginx:1.25
        ports: [{{containerPort: 80}}]
        readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1, failureThreshold: 2}}
---
apiVersion: v1
kind: Pod
metadata: {{name: asker}}
spec: {{nodeName: n0, containers: [{{name: c, image: x, ports: [{{containerPort: 7}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  ports: [{{port: 80, nodePort: 30080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: pods}}
spec: {{clusterIP: None, selector: {{app: web}}, ports: [{{port: 80}}]}}
"""


class Asked(NamedTuple):
    """One flow or query: when it was begun (monotonic seconds), and why it was wrong, or ""."""

    began: float
    trouble: str


def netlab(*words: str, input: str | None = None) -> str:
    argv = [sys.executable, "-m", "netlab", "-L", LAB, *words]
    done = subprocess.run(argv, input=input, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"netlab {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


# -- who asks


class Happening:
    """Something that happens to a running lab: when, and whose addresses are nobody's from then."""

    def __init__(self) -> None:
        self.at = float("inf")  # monotonic seconds
        self.lost: set[str] = set()

    def now(self, lost: Iterable[PodState]) -> None:
        self.at, self.lost = time.monotonic(), {pod.ip for pod in lost}


class Names(threading.Thread):
    """Asks the cluster's DNS for the pods of a headless Service, PACE times a second."""

    def __init__(self, where: str, server: str) -> None:
        super().__init__(daemon=True)
        self._where, self._server = where, server
        self._ending = threading.Event()
        self._told: list[tuple[float, frozenset[str]]] = []

    def run(self) -> None:
        netns.move(self._where)
        number = 0
        while not self._ending.wait(1 / PACE):
            number = (number + 1) & 0xFFFF
            began = time.monotonic()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.settimeout(ANSWER)
                try:
                    one.connect((self._server, 53))
                    one.send(query(number))
                    self._told.append((began, addresses(one.recv(65536))))
                except OSError:
                    self._told.append((began, frozenset()))

    def end(self, happening: Happening) -> list[Asked]:
        """Return what was told: wrong is a name of who was lost, until it is missing once.

        Later the address may be another's.
        """
        self._ending.set()
        self.join()
        asked, left = [], frozenset(happening.lost)
        for began, told in self._told:
            if began >= happening.at:
                left &= told
            trouble = f"{min(left)} is nobody's" if left and began >= happening.at else ""
            asked.append(Asked(began, trouble if told else "no answer"))
        return asked


def query(number: int) -> bytes:
    """Return a DNS query for the addresses of the headless Service."""
    return wire.query(wire.name_of("pods.default.svc.cluster.local"), wire.A, number=number)


def addresses(message: bytes) -> frozenset[str]:
    """Return the IPv4 addresses of a DNS answer."""
    answers = wire.read_answer(message).answers
    return frozenset(wire.texts(one for one in answers if one.type == wire.A))


class Askers:
    """All five, while something happens. Their order is that of the table."""

    def __init__(self, live: Live) -> None:
        lab, seen = live.lab, live.cluster()
        service = seen.documents.named("Service", "default", "web") or {}
        resolver = seen.documents.named("Service", "kube-system", "kube-dns") or {}
        cluster_ip = service["spec"]["clusterIP"]
        asker = seen.pod("asker").netns
        outside = lab.netns("client")
        self._resolver = str(resolver["spec"]["clusterIP"])
        self._asker = asker
        self._flows = {
            "pod -> ClusterIP": (asker, cluster_ip, 80),
            "node -> ClusterIP": (lab.netns("n0"), cluster_ip, 80),
            "client -> NodePort": (outside, seen.node("n0").address, 30080),
            "client -> balancer": (outside, BALANCED, 80),
        }

    @contextmanager
    def asking(self, result: dict[str, list[Asked]], happening: Happening) -> Iterator[None]:
        """Ask for the duration; *result* is filled at its end."""
        names = Names(self._asker, self._resolver)
        with ExitStack() as stack:
            streams = {
                path: stack.enter_context(
                    Stream(where, [Flow("", to, Protocol.TCP, 0, port)], pace=PACE)
                )
                for path, (where, to, port) in self._flows.items()
            }
            names.start()
            time.sleep(BEFORE)
            yield
            for path, stream in streams.items():
                result[path] = [Asked(one.began, one.trouble) for one in stream.end()]
            result["pod -> DNS name"] = names.end(happening)


# -- what happens


def whole(live: Live) -> None:
    """Wait until the lab agrees with what is declared."""
    problems = live.wait(revision=live.revision(), timeout=SETTLES)
    if problems:
        sys.exit(f"the lab does not settle: {problems[0]}")


def web_pods(live: Live) -> list[PodState]:
    return [pod for pod in live.cluster().pods if pod.labels.get("app") == "web"]


def pod_dies(live: Live, happening: Happening) -> None:
    victim = web_pods(live)[-1]
    document = live.cluster().documents.named("Pod", victim.namespace, victim.name)
    assert document is not None
    happening.now([victim])
    live.delete([document], grace=0)


def pod_cut(live: Live, happening: Happening) -> None:
    victim = web_pods(live)[-1]
    happening.now([victim])
    live.fault([Fault(Sort.LINK_DOWN, victim.title)])
    time.sleep(PROBES + 1)
    live.fault(remove=[(Sort.LINK_DOWN, None)])


def node_dies(live: Live, happening: Happening) -> None:
    seen = live.cluster()
    last = seen.nodes[-1].name
    happening.now(seen.pods_on(last))
    live.fault([Fault(Sort.NODE_STOP, last)])
    time.sleep(GRACE + 2)


def etcd_away(live: Live, happening: Happening) -> None:
    live.fault([Fault(Sort.ETCD_STOP)])
    time.sleep(OUTAGE)
    live.fault(remove=[(Sort.ETCD_STOP, None)])
    pod_dies(connected(LAB), happening)


EVENTS: dict[str, Callable[[Live, Happening], None]] = {
    "pod": pod_dies,
    "cut": pod_cut,
    "etcd": etcd_away,
    "node": node_dies,
}


MEASURES = {"cut": (PROBES, "probes"), "node": (GRACE, "graces")}


def connected(name: str) -> Live:
    """Return a connection to the lab, once its etcd answers."""
    deadline = time.monotonic() + SETTLES
    while True:
        live = connect(name)
        try:
            live.revision()
            return live
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def happens(name: str) -> tuple[Happening, dict[str, list[Asked]]]:
    live = connected(LAB)
    whole(live)
    happening, result = Happening(), dict[str, list[Asked]]()
    with Askers(live).asking(result, happening):
        EVENTS[name](live, happening)
        whole(connected(LAB))
        time.sleep(AFTER)
    return happening, result


def rolls(live: Live) -> tuple[int, float]:
    """Return how many of the requests during a rolling update failed, and how long it took."""
    whole(live)
    seen = live.cluster()
    service = seen.documents.named("Service", "default", "web") or {}
    flow = Flow("", service["spec"]["clusterIP"], Protocol.TCP, 0, 80)
    told: list[Any] = []
    took = 0.0
    while len(told) < REQUESTS:
        began = time.monotonic()
        with Stream(seen.pod("asker").netns, [flow], pace=1000.0) as stream:
            netlab("rollout", "restart", "deployment/web")
            netlab("rollout", "status", "deployment/web")
            whole(live)
            time.sleep(AFTER)
            told += stream.end()
        took = max(took, time.monotonic() - began)
    bad = [one.trouble for one in told if one.trouble]
    print(f"    {len(told)} requests, {len(bad)} failed" + (f": {bad[0]}" if bad else ""))
    return len(bad), took


def put_until_heard(live: Live) -> float:
    """Return the median seconds from a put in etcd until a watcher is told."""
    etcd = live.etcd()
    took = []
    with netns.entered(live.lab.netns("master")):
        watch = etcd.watch(["/bench/"])
        try:
            for number in range(30):
                began = time.perf_counter()
                etcd.put("/bench/key", str(number).encode())
                while not watch.drain():
                    time.sleep(0.0002)
                took.append(time.perf_counter() - began)
        finally:
            watch.close()
    return statistics.median(took)


def bench(nodes: int) -> int:
    """Print the table of a lab of *nodes*; return how many flows failed that should not have."""
    netlab("up", "-", input=topology(nodes))
    failed = 0
    try:
        live = connected(LAB)
        whole(live)
        unit = put_until_heard(live)
        print(f"{nodes} nodes, {2 * nodes} endpoints; a put until it is heard {unit * 1e3:.1f} ms")
        print(f"  {'':6}{'path':20} {'sent':>6} {'wrong':>6}  last wrong after")
        bad, _ = rolls(live)
        failed += bad
        for name in EVENTS:
            happening, result = happens(name)
            measure, of = MEASURES.get(name, (unit, "puts"))
            for path, asked in result.items():
                wrong = [one for one in asked if one.trouble]
                early = [one for one in wrong if one.began < happening.at]
                last = max((one.began - happening.at for one in wrong), default=0.0)
                words = f"{last:7.3f} s  {last / measure:6.1f} {of}" if wrong else "      -"
                failed += len(early)
                print(
                    f"  {name:6}{path:20} {len(asked):6} {len(wrong):6}  {words}"
                    + (f"  ({len(early)} before it happened)" if early else "")
                )
        status = json.loads(netlab("status", "-o", "json"))
        print(f"  agent's memory {status['agent']['rss'] / 2**20:.0f} MiB")
    finally:
        netlab("down")
    return failed


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by way of `down`
    counts = [int(word) for word in sys.argv[1:]] or [3, 30]
    sys.exit(1 if sum(bench(count) for count in counts) else 0)


if __name__ == "__main__":
    main()
