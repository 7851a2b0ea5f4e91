"""Delay and loss on a link, by tc: what the kernel's netem is needed for.

That a link has such a queue is seen in the listing of links; only then is tc asked which.
Source: iproute2 tc/q_netem.c, netem_print_opt(): in JSON times are seconds, a loss a share of 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from netlab.errors import CapabilityError, KernelError
from netlab.kernel.links import Link
from netlab.kernel.refusals import refusal
from netlab.objects import GROUP, PEER_GROUP, Netem
from netlab.plan import Op, Verb
from netlab.plan.commands import netem_words
from netlab.processes.commands import run

KIND = "netem"
ROUNDED = 3  # digits of a millisecond: the kernel counts in ticks of 64 ns
HUNDREDTH = 2  # digits of a percent: tc prints six in all


def shaped(every: Iterable[Link]) -> list[str]:
    """Return the names of netlab's links, either end of a cable, whose queues are netem's."""
    ours = (GROUP, PEER_GROUP)
    return [one.name for one in every if one.group in ours and one.qdisc == KIND]


def observed(netns: str, names: Iterable[str]) -> list[Netem]:
    """Return the queues of the links *names*, which are netem's."""
    found = []
    for name in names:
        done = run(("tc", "-j", "qdisc", "show", "dev", name, "root"), netns=netns, check=False)
        found += [Netem(netns, name, *times(one), loss(one)) for one in listed(done.stdout)]
    return found


def listed(text: str) -> list[Any]:
    """Return the netem queues in what `tc -j qdisc show` printed."""
    queues = json.loads(text or "[]")
    return [one for one in queues if one.get("kind") == KIND]


def times(queue: dict[str, Any]) -> tuple[float, float]:
    """Return delay and jitter of a queue, in milliseconds."""
    delay = queue.get("options", {}).get("delay") or {}
    return (
        round(float(delay.get("delay", 0.0)) * 1000, ROUNDED),
        round(float(delay.get("jitter", 0.0)) * 1000, ROUNDED),
    )


def loss(queue: dict[str, Any]) -> float:
    """Return how many percent of what it is to send a queue loses."""
    lost = queue.get("options", {}).get("loss-random") or {}
    return round(float(lost.get("loss", 0.0)) * 100, HUNDREDTH)


def applied(ops: Sequence[Op]) -> list[KernelError]:
    """Do those of *ops* that are about such queues; return what failed."""
    failures = []
    for op in ops:
        thing = op.object
        if not isinstance(thing, Netem):
            continue
        words = ["delete", "dev", thing.link, "root"]
        if op.verb is not Verb.DELETE:
            words = ["replace", "dev", thing.link, "root", *netem_words(thing).split()]
        try:
            done = run(("tc", "qdisc", *words), netns=thing.netns, check=False)
        except (CapabilityError, KernelError) as error:
            failures.append(refusal(op, error.message))
            continue
        if done.returncode:
            failures.append(refusal(op, " ".join(done.stderr.split())))
    return failures
