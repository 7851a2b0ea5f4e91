"""All pods in one flat network: each asks others, and is seen by its own address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

from netlab.cluster import PodState
from netlab.packets import Outcome
from netlab.sensors import mesh
from netlab.verify.context import Checked, Context, Failure, Listener, Skip, listeners
from netlab.verify.pods import one_of_each_protocol

SHOWN = 5  # wrong pairs that a failure names
PAIRS = 2000  # of pods at most, for flat-no-nat; beyond it a sample
# Neighbour entries that flat-no-nat may cost: the kernel has room for 1024 by default, for all
# namespaces of the machine together, and forgets none of them for 5 s.
NEIGHBOURS = 600

T = TypeVar("T")

Pairs = list[tuple[PodState, Listener]]


def every_pair(sources: Sequence[PodState], targets: Sequence[Listener]) -> Pairs:
    """Return all pairs of different pods."""
    return [(s, t) for s in sources for t in targets if s.netns != t.pod.netns]


def neighbours(pairs: Pairs) -> int:
    """Return how many neighbour entries the flows of *pairs* make, at most.

    On one node each end asks for the other; otherwise each asks for its bridge, and is asked for.
    """
    entries = set()
    for source, target in pairs:
        ends = source.netns, target.pod.netns
        if source.node == target.pod.node:
            entries |= {ends, ends[::-1]}
        else:
            entries |= {(end, way) for end in ends for way in ("in", "out")}
    return len(entries)


def by_turns(pods: Sequence[T], node: Callable[[T], str]) -> list[T]:
    """Return *pods* so that neighbours in the list are on different nodes, as far as may be."""
    by_node: dict[str, list[T]] = {}
    for pod in pods:
        by_node.setdefault(node(pod), []).append(pod)
    return [pod for row in zip_longest(*by_node.values()) for pod in row if pod is not None]


def sampled(sources: Sequence[PodState], targets: Sequence[Listener]) -> Pairs:
    """Return all pairs of different pods, or a sample that the kernel has room for.

    A sample is a ring through the nodes, in which every pod sends and every pod with a port is
    asked; when even that is too much, a ring of fewer pods, taken evenly.
    """
    if len(sources) * len(targets) <= PAIRS:
        pairs = every_pair(sources, targets)
        if neighbours(pairs) <= NEIGHBOURS:
            return pairs
    step = 1
    while True:
        few = by_turns(sources[::step], lambda pod: pod.node)
        asked = by_turns(targets[::step], lambda target: target.pod.node)
        pairs = [
            (few[index % len(few)], asked[(index + 1) % len(asked)])
            for index in range(max(len(few), len(asked)))
        ]
        pairs = [(s, t) for s, t in pairs if s.netns != t.pod.netns]
        if neighbours(pairs) <= NEIGHBOURS or step > len(sources):
            return pairs
        step += 1


def flat_no_nat(context: Context) -> Checked:
    targets = [found[0] for pod in context.pods if (found := one_of_each_protocol(listeners(pod)))]
    pairs = sampled(context.senders, targets) if targets else []
    if not pairs:
        raise Skip("needs two pods, one with a port")
    asked = {
        mesh.Pair(source.netns, target.pod.ip, target.port, target.protocol): (source, target)
        for source, target in pairs
    }
    wrong = []
    for pair, answer in mesh.answers(list(asked)).items():
        source, target = asked[pair]
        difference = _unlike(answer, source, target.pod)
        if difference:
            wrong.append((f"{source.title} -> {target.pod.title}: {difference}", source, target))
    if wrong:
        _, source, target = wrong[0]
        words = [line for line, _, _ in wrong[:SHOWN]]
        raise _located(
            context, source, target, [f"{len(wrong)} of {len(pairs)} pairs are wrong", *words]
        )
    senders = len({source.netns for source, _ in pairs})
    servers = len({target.pod.netns for _, target in pairs})
    whole = len(pairs) == len(every_pair(context.senders, targets))
    which = "every pair" if whole else "a sample: neighbours for more are not remembered at once"
    return Checked(
        [
            f"{len(pairs)} questions ({which}), {senders} of {len(context.senders)} pods as "
            f"senders, {servers} of {len(targets)} as servers: each was the one asked, and saw the "
            "sender's own address"
        ]
    )


def _unlike(answer: mesh.Answer, source: PodState, target: PodState) -> str:
    """How an answer differs from what *target* should have said to *source*; "" if it does not."""
    if answer.error:
        return f"error: {answer.error}"
    if answer.client != source.ip:
        return f"saw {answer.client or 'nobody'}, not {source.ip}"
    who = f"{answer.namespace}/{answer.pod}"
    return f"answered by {who}, not by {target.title}" if who != target.title else ""


def _located(
    context: Context, source: PodState, target: Listener, evidence: list[str]
) -> Exception:
    """Follow one packet of a pair that is wrong, so that the failure names a hop."""
    shot = context.shoot(
        context.pod_place(source),
        context.pod_place(target.pod),
        protocol=target.protocol,
        port=target.port,
    )
    verdict = shot.verdict
    evidence.append(f"followed {shot.flow}: {'; '.join(verdict.evidence)}")
    last, following = verdict.last_seen, verdict.expected_next
    if verdict.outcome is Outcome.PASS:
        last = shot.expectation.request[-1].where
        following = f"an answer of {target.pod.title}, which saw {source.ip}"
    return Failure(*evidence, last_seen=last, expected_next=following)
