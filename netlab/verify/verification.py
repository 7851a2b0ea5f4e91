"""Running the checks, as many side by side as do not disturb each other.

1. Thousands of packets at once come first (`flat-no-nat`): the sensors have no business with them.
   What needs no sensors goes on beside them.
2. `endpoints-follow` has a stream of flows go on for a second after its pod died and was replaced:
   time in which nothing changes, so all that is proven by packets is proven then.
   `replicas` looks at the same pod's end.
3. Who changes the lab does so while no packets are followed that the change might lead elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait

import msgspec

from netlab import patience
from netlab.cluster import Cluster
from netlab.errors import NetlabError
from netlab.model.faults import told
from netlab.packets import Outcome, Verdict
from netlab.sensors import insides
from netlab.sensors.capture import Capture
from netlab.sensors.ruletrace import RuleTrace
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
)
from netlab.verify.catalogue import Path, chosen
from netlab.verify.context import (
    Checked,
    Context,
    Failure,
    Live,
    Refuted,
    Skip,
    watched_from_the_start,
)
from netlab.verify.explaining import explained
from netlab.verify.foreign import skipped
from netlab.verify.turns import turn

Check = Callable[[Context], Checked]

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
ROOM = "net.ipv4.neigh.default.gc_thresh3 of the machine, for all namespaces together"
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
    if checks:
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
    with ThreadPoolExecutor(THREADS) as pool, Capture([]) as capture, RuleTrace([]) as trace:
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
        pool.submit(verdict_of, by_id[name], check, context)
        for name, check in table.items()
        if name in by_id
    ]


def verdict_of(path: Path, check: Check, context: Context) -> Verdict:
    """Return what *check* found, with the time it took.

    One that follows packets and failed while the sensors lost frames proves nothing: it is made
    once more, and if it fails again the loss is told.
    """
    began, overflows, lost = time.monotonic(), insides.arp_overflows(), context.capture.lost
    verdict = _found(path, check, context)
    if verdict.outcome is Outcome.FAIL and path.id in WITH_SENSORS and context.capture.lost > lost:
        lost = context.capture.lost
        verdict = _found(path, check, context)
    if verdict.outcome is Outcome.FAIL:
        overflows = insides.arp_overflows() - overflows
        lost = context.capture.lost - lost
        more = [f"on purpose: {told(one)}" for one in context.cluster.lab.faults if one.breaks]
        if overflows:
            more += [f"meanwhile the kernel's neighbour table was full {overflows} times ({ROOM})"]
        if lost:
            more += [f"meanwhile the sensors lost {lost} frames: this may be one of them"]
        verdict = msgspec.structs.replace(verdict, evidence=(*verdict.evidence, *more))
    return msgspec.structs.replace(verdict, seconds=time.monotonic() - began)


def _found(path: Path, check: Check, context: Context) -> Verdict:
    try:
        checked = check(context)
        return Verdict(
            path.id,
            Outcome.PASS,
            path.title,
            tuple(checked.evidence),
            passages=checked.passages,
        )
    except Skip as skip:
        return Verdict(path.id, Outcome.SKIP, path.title, (str(skip),))
    except Refuted as refuted:
        return _refuted(path, refuted.verdict, explained(context, refuted.verdict))
    except Failure as failure:
        return Verdict(
            path.id,
            Outcome.FAIL,
            path.title,
            failure.evidence,
            failure.last_seen,
            failure.expected_next,
        )
    except (NetlabError, OSError, LookupError) as error:
        words = f"cannot be checked: {error}"
    except Exception as error:  # a defect of one check: what the others found is told all the same
        words = f"cannot be checked: {type(error).__name__}: {error}"
    return Verdict(path.id, Outcome.FAIL, path.title, (words,))


def _refuted(path: Path, verdict: Verdict, explanation: Sequence[str]) -> Verdict:
    evidence = (f"{verdict.flow}", *verdict.evidence, *explanation)
    return msgspec.structs.replace(verdict, path=path.id, title=path.title, evidence=evidence)
