"""What one machine of several proves: the flows that begin on it, seen by the sensors of all.

`python -m netlab.verify.part LAB PATH…` prints the verdicts as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from netlab import patience
from netlab.errors import NetlabError
from netlab.lab.live import connect
from netlab.packets import Verdict
from netlab.verify import (
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
    replicas,
    selectors,
    services,
    sharing,
)
from netlab.verify.across import across
from netlab.verify.catalogue import chosen
from netlab.verify.context import Context, Live
from netlab.verify.judgement import Check, verdict_of

# What each machine proves of what begins on it.
EACH: dict[str, Check] = {
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
    "network-policy": policies.network_policy,
    "egress-masquerade": outside.egress_masquerade,
    "externalname": names.externalname,
    "dns-service": names.dns_service,
}
# What begins outside, on the machine that has that.
OUTSIDE: dict[str, Check] = {
    "clusterip-outside": outside.clusterip_outside,
    "firewall": outside.firewall,
    "ingress": ingress.ingress,
    "loadbalancer": balancing.loadbalancer,
}
# What changes the lab: one machine does so and looks at all, each of these after the other.
ONCE: dict[str, Check] = {
    "endpoints-follow": following.endpoints_follow,
    "replicas": replicas.replicas,
    "selectors": selectors.selectors,
    "headless": names.headless,
    "node-join": joining.node_join,
    "daemonset": daemons.daemonset,
    "node-lost": losing.node_lost,
}
CHECKS = {**EACH, **OUTSIDE, **ONCE}
ALONE = ("flat-no-nat",)  # thousands of packets, which the sensors have no business with
THREADS = patience.side_by_side(4)


def proven_here(live: Live, paths: Sequence[str]) -> list[Verdict]:
    """Return what this machine finds of *paths*, all of them in CHECKS.

    Raises NetlabError when another machine does not answer, UsageError on one that is no node.
    """
    wanted = {path.id: path for path in chosen(paths)}
    with (
        across(live) as sensors,
        ThreadPoolExecutor(THREADS) as pool,
        sensors.capture() as capture,
        sensors.trace() as trace,
    ):
        context = Context(live, sensors.cluster(), capture, trace, machines=sensors)
        context.asked = frozenset(wanted)
        found = []
        beside = [one for one in (*EACH, *OUTSIDE) if one not in ALONE]
        for ids in (ALONE, beside):
            running = [
                pool.submit(verdict_of, wanted[one], CHECKS[one], context, again=True)
                for one in ids
                if one in wanted
            ]
            found += [one.result() for one in running]
        changing = context.own()
        changing.turn.set_result(None)  # nothing else is being proven
        found += [verdict_of(wanted[one], ONCE[one], changing) for one in ONCE if one in wanted]
    return found


def main() -> int:
    name, *paths = sys.argv[1:]
    try:
        verdicts = proven_here(connect(name), paths)
    except NetlabError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
