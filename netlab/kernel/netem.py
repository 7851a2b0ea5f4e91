"""Delay on a link, by tc: the only thing here that the kernel's netem is needed for.

That a link has such a queue is seen in the listing of links; only then is tc asked which.
Source: iproute2 tc/q_netem.c, netem_print_opt(): times are seconds in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from netlab.errors import CapabilityError, KernelError
from netlab.kernel.refusals import refusal
from netlab.objects import Netem
from netlab.plan import Op, Verb
from netlab.plan.commands import netem_words
from netlab.processes.commands import run

KIND = "netem"
ROUNDED = 3  # digits of a millisecond: the kernel counts in ticks of 64 ns


def observed(netns: str, names: Iterable[str]) -> list[Netem]:
    """Return the delays of the links *names*, whose queues are netem's."""
    found = []
    for name in names:
        done = run(("tc", "-j", "qdisc", "show", "dev", name, "root"), netns=netns, check=False)
        found += [Netem(netns, name, *times(one)) for one in listed(done.stdout)]
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


def applied(ops: Sequence[Op]) -> list[KernelError]:
    """Do those of *ops* that are about delays; return what failed."""
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
