"""Running the checks, as many side by side as do not disturb each other.

1. Thousands of packets at once come first (`flat-no-nat`): the sensors have no business with them.
   What needs no sensors goes on beside them.
2. `endpoints-follow` has a stream of flows go on for a second after its pod died and was replaced:
   time in which nothing changes, so all that is proven by packets is proven then.
   `replicas` looks at the same pod's end.
3. Who changes the lab does so while no packets are followed that the change might lead elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait

from netlab import patience
from netlab.cluster import Cluster
from netlab.packets import Outcome, Verdict
from netlab.sensors.capture import Capture
from netlab.sensors.ruletrace import RuleTrace, probes
from netlab.verify import (
    backends,
    balancing,
    daemons,
    flat,
    following,
    ingress,
    joining,
    leases,
    losing,
    names,
    nodeports,
    outside,
    pods,
    policies,
    proxymodes,
    replicas,
    selectors,
    services,
    sharing,
    spread,
)
from netlab.verify.catalogue import Path, chosen
from netlab.verify.context import (
    Context,
    Live,
    watched_from_the_start,
)
from netlab.verify.foreign import skipped
from netlab.verify.judgement import Check, verdict_of
from netlab.verify.turns import turn

# Thousands of packets at once, which the sensors have no business with.
CROWDED: dict[str, Check] = {"flat-no-nat": flat.flat_no_nat}
WITHOUT_SENSORS: dict[str, Check] = {
    "same-pod-ports": sharing.same_pod_ports,
    "unique-pod-ip": sharing.unique_pod_ip,
    "lease-in-etcd": leases.lease_in_etcd,
}
WITH_SENSORS: dict[str, Check] = {
    "node-join": joining.node_join,
    "pod-clusterip": services.pod_clusterip,
    "node-clusterip": services.node_clusterip,
    "loadbalancer": balancing.loadbalancer,
    "nodeport": nodeports.nodeport,
    "ingress": ingress.ingress,
    "affinity": services.affinity,
    "namespaces": services.namespaces,
    "no-endpoints": services.no_endpoints,
    "network-policy": policies.network_policy,
    "pod-pod-cross-node": pods.cross_node,
    "egress-masquerade": outside.egress_masquerade,
    "firewall": outside.firewall,
    "pod-node": pods.pod_node,
    "pod-pod-same-node": pods.same_node,
    "same-pod-lo": sharing.same_pod_lo,
    "clusterip-outside": outside.clusterip_outside,
    "dns-service": names.dns_service,
    "externalname": names.externalname,
}
STREAMING: dict[str, Check] = {"endpoints-follow": following.endpoints_follow}
# Changes Services that have nothing to do with the stream's, as their pods are no Deployment's.
BESIDE_THE_STREAM: dict[str, Check] = {
    "selectors": selectors.selectors,
    "headless": names.headless,
}
REPLICAS: dict[str, Check] = {"replicas": replicas.replicas}
MODES: dict[str, Check] = {"proxy-modes": proxymodes.proxy_modes}
BACKENDS: dict[str, Check] = {"backends": backends.by_every_backend}
# Change the set of nodes: last, and one after the other.
NODES: tuple[dict[str, Check], ...] = (
    {"daemonset": daemons.daemonset},
    {"node-lost": losing.node_lost},
)
THREADS = patience.side_by_side(8)  # one of them the stream's


def _silent(_: Verdict) -> None:
    pass


def _unheard(_: str) -> None:
    pass


def verify(
    live: Live,
    ids: Sequence[str] | None = None,
    *,
    on_result: Callable[[Verdict], None] = _silent,
    on_wait: Callable[[str], None] = _unheard,
) -> list[Verdict]:
    """Return the verdict on each path called *ids* (all without), in the catalogue's order.

    *on_result* is called with each verdict as it comes, by the calling thread; *on_wait* with who
    else is verifying this lab, if somebody is: this one comes after. Raises UsageError
    for an unknown id; NotFoundError and StoreError when the lab cannot be read at all.
    """
    if not any(not path.needs for path in chosen(ids)):
        return proven(live, ids, on_result=on_result)
    with turn(live.run, on_wait):
        live.reread()  # who had the turn may have changed it, and back
        return proven(live, ids, on_result=on_result)


def proven(
    live: Live, ids: Sequence[str] | None = None, *, on_result: Callable[[Verdict], None] = _silent
) -> list[Verdict]:
    """Return the same, for a caller that has the lab's turn and knows it as it is."""
    wanted = chosen(ids)
    verdicts: dict[str, Verdict] = {}

    def done(verdict: Verdict) -> None:
        verdicts[verdict.path] = verdict
        on_result(verdict)

    for path in wanted:
        if path.needs:
            done(Verdict(path.id, Outcome.SKIP, path.title, (f"needs {path.needs}",)))
    checks = [path for path in wanted if not path.needs]
    if checks and live.place is not None:
        spread.verify(live, checks, done)
    elif checks:
        _run(live, checks, done)
    return [verdicts[path.id] for path in wanted]


def _run(live: Live, paths: Sequence[Path], done: Callable[[Verdict], None]) -> None:
    cluster = live.cluster()
    left: list[Path] = []
    for path in paths:
        if why := skipped(path.id, cluster):
            done(Verdict(path.id, Outcome.SKIP, path.title, (why,)))
        else:
            left.append(path)
    if left:
        _checked(live, cluster, left, done)


def _checked(
    live: Live, cluster: Cluster, paths: Sequence[Path], done: Callable[[Verdict], None]
) -> None:
    with (
        ThreadPoolExecutor(THREADS) as pool,
        Capture([]) as capture,
        RuleTrace([], probes(ipv6=cluster.lab.dual)) as trace,
    ):
        context = Context(live, cluster, capture, trace)
        context.asked = frozenset(path.id for path in paths)
        streaming = context.own()
        try:
            stream = _started(pool, STREAMING, paths, streaming)
            crowd = _started(pool, CROWDED, paths, context)
            others = _started(pool, WITHOUT_SENSORS, paths, context)
            wait(crowd)
            if context.asked - {**CROWDED, **WITHOUT_SENSORS}.keys():
                capture.add(watched_from_the_start(cluster))
            _told([*crowd, *others], done)
            streaming.turn.set_result(None)
            _until_calm(stream, streaming)
            if stream:
                context.renew()
            context.death = streaming.death
            still = WITH_SENSORS if context.death is None else {**WITH_SENSORS, **REPLICAS}
            _told(_started(pool, still, paths, context), done)
            _told([*_started(pool, BESIDE_THE_STREAM, paths, context.own()), *stream], done)
            for variants in (MODES, BACKENDS):
                _told(_started(pool, variants, paths, context.own()), done)
            if context.death is None:
                _told(_started(pool, REPLICAS, paths, context.own()), done)
            for table in NODES:
                _told(_started(pool, table, paths, context.own()), done)
        finally:
            streaming.turn.cancel()  # who waits for it still, waits in vain


def _until_calm(running: Sequence[Future[Verdict]], context: Context) -> None:
    """Wait until a check has changed the lab, or has ended; if it was asked for at all."""
    for future in running:
        future.add_done_callback(lambda _: context.calm.set())
        context.calm.wait()


def _told(running: Iterable[Future[Verdict]], done: Callable[[Verdict], None]) -> None:
    """Tell the verdict of each check as it comes."""
    for future in as_completed(running):
        done(future.result())


def _started(
    pool: ThreadPoolExecutor, table: dict[str, Check], paths: Sequence[Path], context: Context
) -> list[Future[Verdict]]:
    """Start the checks of *table* that are asked for, in the table's order: the longest first."""
    by_id = {path.id: path for path in paths}
    return [
        pool.submit(verdict_of, by_id[name], check, context, again=name in WITH_SENSORS)
        for name, check in table.items()
        if name in by_id
    ]
