"""Services that follow their pods: while these die and return, and when their labels change.

What is asked of the rules is asked of the kernel: whether the address of an endpoint is in any rule
of a proxy on any node; in userspace mode, of the process that has the endpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from netlab import patience
from netlab.agent.endings import LINGER
from netlab.cluster import NodeState, PodState
from netlab.packets import Flow, Protocol
from netlab.proxy import Frontend
from netlab.sensors.stream import Client, Stream, Told
from netlab.verify.context import Checked, Context, Death, Failure, Skip
from netlab.verify.replicas import document_of, somebody_replaces
from netlab.verify.services import asking, balanced
from netlab.verify.serving import Decisions, most_served, pods_of

PACE = 100.0  # flows per second
BEFORE, AFTER = 0.2, 1.0  # seconds of them before the pod dies, and once all is settled
WITHIN = patience.seconds(2.0)  # seconds for every node's rules to follow what etcd says
REPLACED = patience.seconds(10.0)  # seconds for another pod to be an endpoint
LOOK = 0.02  # seconds between two looks
SHOWN = 3  # flows that failed and are named


# -- what the kernels hold


Held = dict[str, tuple[int, bool]]  # by node: the number of its rules' last change, and if they do


def holding(context: Context, address: str, held: Held) -> list[NodeState]:
    """Return the nodes one of whose proxy's rules names *address*.

    Of what was *held* before, only rules that have changed since are read again.
    """
    mode = context.lab.proxyMode
    for node in context.cluster.nodes:
        known = held.get(node.name)
        now, names = context.read(node, "named", address=address, mode=mode, known=known)
        held[node.name] = now, names
    return [node for node in context.cluster.nodes if held[node.name][1]]


def until(
    context: Context,
    address: str,
    *,
    held: bool,
    seconds: float,
    began: float,
    because: str,
    unless: Callable[[], bool] = lambda: False,
) -> float:
    """Return the seconds since *began* until all nodes' rules, or none, name *address*.

    Raises Failure after *seconds*; *because*: what should have brought it about. 0 when, *unless*
    says, it cannot be told.
    """
    seen: Held = {}
    while True:
        nodes = holding(context, address, seen)
        took = time.monotonic() - began
        done = len(nodes) == len(context.cluster.nodes) if held else not nodes
        if done:
            return took
        if unless():
            return 0.0
        if took > seconds:
            wrong = [one for one in context.cluster.nodes if (one in nodes) is not held]
            verb = "lack" if held else "still name"
            names = ", ".join(one.name for one in wrong)
            raise Failure(
                f"{because}: after {took:.1f} s the rules of {names} {verb} {address}",
                last_seen=f"{wrong[0].netns} rules of its proxy",
                expected_next=f"{address} {'in' if held else 'gone from'} the rules of every node",
            )
        time.sleep(LOOK)


# -- endpoints-follow


def endpoints_follow(context: Context) -> Checked:
    context.renew()
    decisions = Decisions(context)
    if not context.cluster.nodes:
        raise Skip("needs a node")
    found = most_served(
        one
        for one in balanced(context, decisions.of(context.cluster.nodes[0]))
        if len(one.service.cluster) > 1 and all(_returns(pod) for pod in pods_of(context, one))
    )
    if not found:
        raise Skip("needs a Service in front of a Deployment with two pods")
    served = {pod.title for one in found for pod in pods_of(context, one)}
    others = [pod for pod in context.senders if pod.title not in served]
    if not others:
        raise Skip("needs a pod that is no endpoint, to ask from")
    sender = others[0]
    flows = [asking(context, decisions, context.pod_place(sender), one).flow for one in found]
    flows = [Flow("", one.destination, one.protocol, 0, one.destination_port) for one in flows]
    return _died_and_returned(context, sender, found, flows)


def _returns(pod: PodState) -> bool:
    return pod.owner.startswith("ReplicaSet/")


def _died_and_returned(
    context: Context, sender: PodState, found: Sequence[Frontend], flows: Sequence[Flow]
) -> Checked:
    client = next(
        (Client(sender.netns, one) for one in flows if one.protocol is Protocol.UDP), None
    )
    try:
        victim = _victim(context, found[-1], client)
        somebody_replaces(context, victim)
        with Stream(sender.netns, flows, pace=PACE) as stream:
            time.sleep(BEFORE)
            context.turn.result()
            remembered = _leading_to(context, victim.ip).keys()
            before, began = context.cluster, time.monotonic()
            context.delete(document_of(before, victim))
            because = f"{victim.title} was deleted"
            gone = until(
                *(context, victim.ip),
                held=False,
                seconds=WITHIN,
                began=began,
                because=because,
                unless=lambda: _has_heir(context, victim),
            )
            new = _replacement(context, found[-1], victim, began)
            context.death = Death(before, victim, time.monotonic() - began)
            because = f"{new.title} took its place"
            there = until(
                context, new.ip, held=True, seconds=REPLACED, began=began, because=because
            )
            # Until then it answers, though new flows go elsewhere.
            ended = max(began + LINGER, time.monotonic())
            moved = _moved(client, victim, ended)
            # With the old address, what is remembered may be right: but not if it was of no use.
            among = None if new.ip != victim.ip else remembered if gone else frozenset[Remembered]()
            _forgotten(context, victim, ended, among=among)
            settled = time.monotonic()
            context.calm.set()
            time.sleep(max(0.0, settled + AFTER - time.monotonic()))
            told = stream.end()
    finally:
        if client is not None:
            client.close()
    failed, asked = _judged(told, settled, new, sender)
    lines = [
        f"{len(told)} flows from {sender.title}, {PACE:.0f} per second, by turns to "
        + ", ".join(f"{one.destination}:{one.destination_port}/{one.protocol}" for one in flows),
        f"{victim.title} deleted: "
        + (
            f"{victim.ip} gone from every node's rules after {gone * 1000:.0f} ms"
            if gone
            else f"its address {victim.ip} has been another's ever since"
        ),
        f"{new.title} {new.ip} in its place, in every node's rules after {there * 1000:.0f} ms",
        f"{failed} flows failed until then, none of the {asked} begun afterwards",
    ]
    if moved:
        lines.append(f"a UDP client that was at {victim.title} went on at {moved}")
        if new.ip != victim.ip:
            lines.append(f"no UDP entry of any node's conntrack leads to {victim.ip}")
        elif gone:
            lines.append(f"{len(remembered)} UDP entries that led there are gone from conntrack")
    return Checked(lines)


def _has_heir(context: Context, victim: PodState) -> bool:
    """Return whether another pod has the victim's address already: its node may give it again."""
    pods = context.refreshed().pods
    return any(pod.ip == victim.ip and pod.uid != victim.uid for pod in pods)


def _victim(context: Context, frontend: Frontend, client: Client | None) -> PodState:
    """Return the pod to delete: where the *client* is, so that its flow must move."""
    at = client.ask() if client else ""
    pods = pods_of(context, frontend)
    if client and not at:
        raise Failure(
            f"{client.flow}: no answer, with all pods alive",
            last_seen="",
            expected_next=f"an answer of one of {len(pods)} pods",
        )
    return next((pod for pod in pods if pod.title == at), pods[0])


def _replacement(context: Context, frontend: Frontend, old: PodState, began: float) -> PodState:
    """Return the pod that took the place of *old*, once it is an endpoint. Raises Failure."""
    known = {pod.uid for pod in context.pods}
    while time.monotonic() - began < REPLACED:
        context.renew()
        for pod in context.pods:
            if pod.uid not in known and pod.owner == old.owner:
                return pod
        time.sleep(LOOK)
    raise Failure(
        f"{old.title} was deleted; {REPLACED:.0f} s later nobody has taken its place",
        last_seen=frontend.service.text,
        expected_next=f"another pod of {old.owner}",
    )


def _moved(client: Client | None, victim: PodState, ended: float) -> str:
    """Return where the *client* that was at *victim*, which *ended*, is answered then.

    Raises Failure.
    """
    if client is None:
        return ""
    while True:
        at = client.ask()
        if at and at != victim.title:
            return at
        if time.monotonic() - ended > WITHIN:
            raise Failure(
                f"{client.flow}: a client that was at {victim.title} "
                + ("is still answered by it" if at else "gets no answer any more"),
                last_seen=f"source port {client.flow.source_port}",
                expected_next="its flow forgotten by conntrack, and led to another endpoint",
            )
        time.sleep(LOOK)


def _forgotten(
    context: Context, victim: PodState, ended: float, *, among: Collection[Remembered] | None
) -> None:
    """Return when no node remembers a UDP flow (*among* those) that leads to *victim*, which
    *ended*.

    Raises Failure.
    """
    while True:
        found = _leading_to(context, victim.ip)
        left = [words for key, words in found.items() if among is None or key in among]
        if not left:
            return
        if time.monotonic() - ended > WITHIN:
            raise Failure(
                f"conntrack still leads flows to {victim.ip}, where {victim.title} was",
                *left[:SHOWN],
                last_seen=f"{left[0].partition(':')[0]} conntrack",
                expected_next="UDP flows to an endpoint that is gone are forgotten",
            )
        time.sleep(LOOK)


Remembered = tuple[str, str, int]  # a node, and what its kernel knows the entry by


def _leading_to(context: Context, address: str) -> dict[Remembered, str]:
    """Return the UDP flows that some node's conntrack leads to *address*, each in words."""
    return {
        (node.name, key, number): f"{node.name}: {words}"
        for node in context.cluster.nodes
        for key, number, words in context.read(node, "remembered", address=address)
    }


def _judged(
    told: Sequence[Told], settled: float, new: PodState, sender: PodState
) -> tuple[int, int]:
    """Return how many flows failed before all was *settled*, and how many came after.

    Raises Failure when one of these failed, or none of them reached the *new* pod.
    """
    before = [one for one in told if one.began <= settled]
    after = [one for one in told if one.began > settled]
    bad = [one for one in after if one.trouble]
    if bad:
        words = [f"{one.flow}: {one.trouble}" for one in bad[:SHOWN]]
        raise Failure(
            f"{len(bad)} of {len(after)} flows failed after every node's rules had followed",
            *words,
            last_seen=sender.netns,
            expected_next="an answer to each",
        )
    if new.title not in {one.pod for one in after}:
        raise Failure(
            f"none of {len(after)} flows was answered by {new.title}",
            last_seen=sender.netns,
            expected_next=f"its share for {new.title}",
        )
    return sum(bool(one.trouble) for one in before), len(after)
