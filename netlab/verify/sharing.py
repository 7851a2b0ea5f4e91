"""What the containers of one pod share, and what no two pods share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations

from msgspec.structs import replace

from netlab import processes, world
from netlab.cluster import PodState
from netlab.dns import views
from netlab.flannel import lease
from netlab.flannel.config import SUBNETS
from netlab.pods import sandbox
from netlab.sensors import insides
from netlab.verify.context import (
    Checked,
    Context,
    Failure,
    Listener,
    Skip,
    all_listeners,
    required,
    usable,
)


def shared_pod(context: Context) -> tuple[Listener, str]:
    """Return a listener in a pod of several containers, and the name of another container."""
    for each in all_listeners(context):
        if not context.is_here(each.pod.node):
            continue
        others = [c.name for c in each.pod.containers if c.name != each.container]
        if others:
            return each, others[0]
    raise Skip("needs a pod with two containers, one with a port")


def same_pod_lo(context: Context) -> Checked:
    listener, other = shared_pod(context)
    place = context.pod_place(listener.pod)
    local = replace(place, address="127.0.0.1")
    shot = required(context.shoot(place, local, protocol=listener.protocol, port=listener.port))
    says = shot.answer.says if shot.answer else {}
    if says.get("container") != listener.container:
        raise Failure(f"answered by {says.get('container')}, not by {listener.container}")
    devices = {(s.netns, s.device) for s in shot.sightings}
    if devices != {(place.netns, "lo")}:
        raise Failure(f"seen on {sorted(devices)}, not only on the pod's lo")
    line = (
        f"{listener.pod.title}: {other} -> {listener.container} at 127.0.0.1:{listener.port}, "
        f"answered by {says['container']}, seen on lo and on no other device"
    )
    return Checked([line], shot.verdict.passages)


def same_pod_ports(context: Context) -> Checked:
    listener, _ = shared_pod(context)
    pod = listener.pod
    refusal = insides.bind_refusal(pod.netns, listener.port, listener.protocol)
    if "in use" not in refusal:
        raise Failure(
            f"a second bind of {listener.port}/{listener.protocol} in {pod.title} "
            + (f"was refused otherwise: {refusal}" if refusal else "was not refused")
        )
    other = next((p for p in context.senders if p.netns != pod.netns), None)
    names = [container.name for container in pod.containers][:2]
    with sandboxed(context, pod) as inside:
        seen = [insides.views(inside) for _ in names]
        elsewhere = _views_of(context, other)
    lines = [f"second bind of {listener.port}/{listener.protocol} in {pod.title}: {refusal}"]
    if seen[0] != seen[1]:
        raise Failure(f"{names[0]} sees {seen[0]}, {names[1]} sees {seen[1]}")
    lines.append(f"{names[0]} and {names[1]} both see {_words(seen[0])}")
    if other is not None:
        same = [kind for kind in insides.VIEWS if elsewhere[kind] == seen[0][kind]]
        if same:
            raise Failure(f"{other.title} shares {', '.join(same)} with {pod.title}")
        lines.append(f"{other.title} sees others: {_words(elsewhere)}")
    return Checked([*lines, *_programs_inside(context)])


def _programs_inside(context: Context) -> list[str]:
    """Check that each container's own program is in its pod's namespaces. Raises Failure."""
    marked = processes.marked(context.live.run)
    seen = 0
    for pod in context.senders:
        for container in pod.containers:
            role = f"container/{pod.namespace}/{pod.name}/{container.name}"
            first = marked.get(sandbox.role(pod.namespace, pod.name), [])
            for pid in marked.get(role, [])[:1]:
                shared = insides.namespaces_of(first[0]) if first else {}
                own = insides.namespaces_of(pid)
                if not own:
                    continue  # it has just ended
                seen += 1
                shared["net"] = insides.netns_identity(pod.netns)
                wrong = [kind for kind, identity in own.items() if shared.get(kind) != identity]
                if wrong:
                    raise Failure(
                        f"the program of {pod.title} {container.name} is in another "
                        f"{', '.join(wrong)} namespace than its pod",
                        last_seen=f"process {pid}",
                        expected_next=f"the namespaces of {pod.title}",
                    )
    return [f"{seen} programs of containers run in their pods' namespaces"] if seen else []


def _words(views: dict[str, str]) -> str:
    return ", ".join([views["hostname"], *(views[kind] for kind in insides.VIEWS)])


def _views_of(context: Context, pod: PodState | None) -> dict[str, str]:
    if pod is None:
        return {}
    with sandboxed(context, pod) as inside:
        return insides.views(inside)


@contextmanager
def sandboxed(context: Context, pod: PodState) -> Iterator[int]:
    """Have a process in the pod to execute things beside; one made for that is removed again."""
    run = context.live.run
    had_one = sandbox.find(run, pod.namespace, pod.name) is not None
    document = context.cluster.documents.named("Pod", pod.namespace, pod.name)
    assert document is not None
    view = views.of_pod(context.cluster.lab, document, context.cluster.documents)
    try:
        yield sandbox.ensure(
            run,
            netns=pod.netns,
            namespace=pod.namespace,
            pod=pod.name,
            hostname=view.hostname,
            files=view.files,
        )
    finally:
        if not had_one:
            sandbox.remove(run, pod.namespace, pod.name)


def unique_pod_ip(context: Context) -> Checked:
    pods = usable(context.cluster)
    if not pods:
        raise Skip("needs a running pod")
    cluster = context.cluster
    seen = {
        address: node.name
        for node in cluster.nodes
        for address in (node.address, node.bridge_address, node.tunnel_address)
    }
    seen |= {its: who for who, all_ in world.member_addresses(cluster.lab).items() for its in all_}
    for pod in pods:
        if pod.ip in seen:
            raise Failure(
                f"{pod.ip} is the address of {seen[pod.ip]} and of {pod.title}",
                last_seen=f"etcd, status.podIP of {pod.title}",
                expected_next="an address nobody else has",
            )
        seen[pod.ip] = pod.title
        subnet = context.cluster.node(pod.node).subnet
        if not subnet or IPv4Address(pod.ip) not in IPv4Network(subnet):
            raise Failure(
                f"{pod.title} has {pod.ip}, outside {pod.node}'s lease {subnet or '-'}",
                last_seen=f"etcd, status.podIP of {pod.title}",
                expected_next=f"an address of {subnet or 'a lease'}",
            )
    with context.etcd() as etcd:
        held, _ = lease.peers(etcd.range(SUBNETS).items)
    leases = sorted({IPv4Network(each.subnet) for each in held})
    for one, other in combinations(leases, 2):
        if one.overlaps(other):
            raise Failure(
                f"the leases {one} and {other} overlap",
                last_seen=f"etcd {SUBNETS}",
                expected_next="leases that do not overlap",
            )
    mine = [pod for pod in pods if context.is_here(pod.node)]
    _as_the_kernel_has_it(mine)
    return Checked(
        [
            f"{len(pods)} pods, as many addresses, each inside its node's lease",
            f"{len(leases)} leases, none overlapping",
            f"addresses of {len(mine)} pods read back: as etcd has them, none twice",
        ]
    )


def _as_the_kernel_has_it(pods: Sequence[PodState]) -> None:
    """Read every pod's addresses back. Raises Failure for a wrong one, and for one found twice."""
    owners: dict[str, str] = {}
    for pod in pods:
        actual = insides.addresses_of(pod.netns)
        where = f"{pod.netns} {world.UPLINK}"
        if pod.ip not in actual:
            raise Failure(
                f"{pod.title} is {pod.ip} in etcd, but "
                f"{', '.join(actual) or 'nothing'} in its namespace",
                last_seen=f"etcd, status.podIP of {pod.title}",
                expected_next=f"{pod.ip} on {where}",
            )
        for address in actual:
            if address in owners:
                raise Failure(
                    f"{address} is on {owners[address]} and on {pod.title}",
                    last_seen=where,
                    expected_next=f"{pod.ip} alone",
                )
            owners[address] = pod.title
