"""From objects to objects: what the controllers of a cluster's master want changed.

    change       one step, and what every new object gets; `clock`: the time, and what waits for it
    declaration  the files against what is stored; `inheritance`: what a changed Service keeps;
                 `clusterdns`: the DNS that a lab brings
    departure    where a stored object is otherwise than declared
    deployment   Deployment to ReplicaSets; `rollout`: how many pods at a time, and how far it is
    replicaset   ReplicaSet to pods
    statefulset, daemonset, job   to pods; `revisions`: the templates that the first two had
    podstate     pods as all of these see them: made, counted, given up
    nodes        nodes that are lost, and the pods that leave them
    scheduler    pods to nodes; `placement`: what a node allows; `company`: what other pods allow
    garbage      what has lost its owner, namespace or node
    allocation   addresses and node ports for Services; `defaults`: what else they leave open
    ingressclass the class of Ingresses that name none
    endpoints    pods to the EndpointSlices of their Services
    mirroring    Endpoints kept by hand to EndpointSlices
    slices       how endpoints are shared out among slices
    events       what all these changes say about the objects, as Kubernetes' Events
    loadbalancers   addresses of the Lab's balancer for Services of type LoadBalancer
    draft        the objects while controllers change them; `concern`: what news has to do with whom

Nothing here does anything; the agent writes the changes to etcd and asks again until there are
none. One call already goes to the end: a new Deployment gives its ReplicaSet and its placed pods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from netlab.controllers import (
    allocation,
    concern,
    daemonset,
    deployment,
    endpoints,
    events,
    garbage,
    ingressclass,
    job,
    loadbalancers,
    mirroring,
    nodes,
    replicaset,
    scheduler,
    statefulset,
)
from netlab.controllers.change import Change, Verb, born
from netlab.controllers.clock import Clock
from netlab.controllers.declaration import declaration_changes, declared
from netlab.controllers.draft import Draft
from netlab.controllers.nodes import Health
from netlab.model.inventory import Inventory
from netlab.model.lab import SERVICE_CIDR, Balancer, both

__all__ = [
    "TIMED",
    "Change",
    "Clock",
    "Health",
    "Verb",
    "born",
    "changes",
    "declaration_changes",
    "declared",
]

ROUNDS_MAX = 20  # a change of template takes three
NOTHING = Inventory()
NOTHING_KNOWN = Health()
# The kinds whose controllers wait for a time to come.
TIMED = ("Node", "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job")


def changes(
    objects: Inventory,
    *,
    capacity: Mapping[str, int],
    service_cidr: str = SERVICE_CIDR,
    service_cidr6: str = "",
    balancer: Balancer | None = None,
    settled: Inventory = NOTHING,
    first: Iterable[Change] = (),
    health: Health = NOTHING_KNOWN,
    clock: Clock | None = None,
    stirred: Iterable[str] = (),
) -> list[Change]:
    """Return what the controllers change about *objects*; nothing once all is as it should be.

    *capacity*: how many pods each node has addresses for; *service_cidr*: the addresses that
    Services get, *service_cidr6* those of IPv6 in a dual-stack lab; *balancer*: what gives
    addresses to load balancers; *settled*: earlier objects about which this had nothing to say,
    given the same capacity, addresses and balancer. It then costs what differs from them. *first*:
    changes that are made before, and are part of the answer. *health*: which nodes are heard from.
    *clock*: says, after this, when to ask again though nothing changes; then, or when *health* is
    another one, TIMED kinds are *stirred*.
    """
    draft = Draft(objects, settled, first, stirred=stirred)
    clock = clock or Clock()
    for _ in range(ROUNDS_MAX):
        _round(draft, capacity, both(service_cidr, service_cidr6), balancer, health, clock)
        if not draft.turn():
            break
    made = draft.changes()
    facts = [*events.told(made, objects, draft.objects), *loadbalancers.told(made, objects)]
    return made + events.recorded(facts, draft.objects)


def _round(
    draft: Draft,
    capacity: Mapping[str, int],
    service_cidrs: Sequence[str],
    balancer: Balancer | None,
    health: Health,
    clock: Clock,
) -> None:
    """Let each controller whose kinds have news act on *draft* in turn."""
    of = draft.of
    steps: tuple[tuple[tuple[str, ...], Callable[[], list[Change]]], ...] = (
        ((), lambda: garbage.collected(concern.homeless(draft), draft.objects, clock=clock)),
        (("Node",), lambda: nodes.kept(of("Node"), health, clock)),
        (("Node", "Pod"), lambda: nodes.evicted(of("Pod"), of("Node"), health, clock)),
        (
            ("Deployment", "ReplicaSet", "Pod"),
            lambda: deployment.replica_sets(
                of("Deployment"), of("ReplicaSet"), of("Pod"), clock=clock
            ),
        ),
        (
            ("ReplicaSet", "Pod"),
            lambda: replicaset.pods(of("ReplicaSet"), of("Pod"), clock=clock),
        ),
        (("StatefulSet", "Pod"), lambda: _stateful(draft, clock)),
        (("DaemonSet", "Pod", "Node"), lambda: _daemons(draft, clock)),
        (("Job", "Pod"), lambda: _jobs(draft, clock)),
        (("Pod", "Node"), lambda: scheduler.bindings(of("Pod"), of("Node"), capacity)),
        (("Service",), lambda: _allocated(draft, service_cidrs)),
        (("Service",), lambda: loadbalancers.given(of("Service"), balancer)),
        (
            ("Ingress", "IngressClass"),
            lambda: ingressclass.classed(of("Ingress"), of("IngressClass")),
        ),
        (("Service", "Pod", "Node", "EndpointSlice"), lambda: _slices(draft)),
        (("Endpoints", "Service", "EndpointSlice"), lambda: _mirrored(draft)),
    )
    for kinds, act in steps:
        if (not kinds or draft.stirs(kinds)) and (found := act()):
            draft.make(found)


def _stateful(draft: Draft, clock: Clock) -> list[Change]:
    of = draft.of
    if not of("StatefulSet"):
        return []
    return statefulset.pods(of("StatefulSet"), of("Pod"), of("ControllerRevision"), clock=clock)


def _daemons(draft: Draft, clock: Clock) -> list[Change]:
    of = draft.of
    if not of("DaemonSet"):
        return []
    held = of("ControllerRevision")
    return daemonset.pods(of("DaemonSet"), of("Pod"), of("Node"), held, clock=clock)


def _jobs(draft: Draft, clock: Clock) -> list[Change]:
    return job.pods(draft.of("Job"), draft.of("Pod"), clock=clock) if draft.of("Job") else []


def _allocated(draft: Draft, service_cidrs: Sequence[str]) -> list[Change]:
    new, settled = draft.parted("Service")
    return allocation.services(new, *service_cidrs, settled=settled)


def _slices(draft: Draft) -> list[Change]:
    names = concern.services(draft)
    services = [one for one in draft.named("Service", names) if endpoints.followed(one)]
    if not services:
        return []
    held = concern.slices(draft, names)
    return endpoints.slices(services, draft.of("Pod"), draft.of("Node"), held)


def _mirrored(draft: Draft) -> list[Change]:
    if not draft.of("Endpoints"):
        return []
    names = concern.services(draft)
    listed, services = draft.named("Endpoints", names), draft.named("Service", names)
    return mirroring.mirrored(listed, services, concern.slices(draft, names))
