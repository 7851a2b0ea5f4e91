"""The pods' paths by every back end: the lab changes it, is asked, and changes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from netlab.errors import CapabilityError
from netlab.flannel import udp
from netlab.kernel import tun
from netlab.model import backends
from netlab.model.lab import Backend, Lab
from netlab.sensors import counters
from netlab.verify import flat, joining, leases, outside, pods
from netlab.verify.context import Checked, Context, Failure, Live, somebody_acts
from netlab.verify.variants import held

CHECKS: dict[str, Callable[[Context], Checked]] = {
    "pod-pod-same-node": pods.same_node,
    "pod-pod-cross-node": pods.cross_node,
    "lease-in-etcd": leases.lease_in_etcd,
    "node-join": joining.node_join,
    "pod-node": pods.pod_node,
    "egress-masquerade": outside.egress_masquerade,
}
CROWDED: dict[str, Callable[[Context], Checked]] = {"flat-no-nat": flat.flat_no_nat}
# What a back end bears on, for a lab that is asked for all of it.
PATHS = (*CHECKS, *CROWDED, "pod-clusterip", "node-clusterip", "nodeport", "clusterip-outside")


def by_every_backend(context: Context) -> Checked:
    """Each of CHECKS and CROWDED holds by each back end; those asked for beside are proven by the
    lab's own by that.

    Raises Failure naming the back end and path; Skip when there is nothing to ask any for.
    """
    own = context.lab.network.Backend
    mine = backends.title(own)
    checked, last = Checked(), []
    somebody_acts(
        context.live,
        "not tried, as nobody would change the nodes' routes",
        needs="an agent that makes each back end's",
    )
    try:
        for name in sorted(backends.BACKENDS, key=lambda one: one != mine):
            if why := unfit(context.lab, name):
                last.append(f"{name}: not tried: {why}")
                continue
            there = context if name == mine else _changed(context, name, own)
            skipped = context.asked if name == mine else ()
            before = _overrun(there, name)
            for table in (CHECKS, CROWDED):
                checks = {one: table[one] for one in table if one not in skipped}
                try:
                    checked.evidence += held(there, name, checks)
                except Failure as failure:
                    failure.evidence += _too_slow(before, _overrun(there, name))
                    raise
            if beside := [one for one in (*CHECKS, *CROWDED) if one in skipped]:
                last.append(f"{name}, the lab's own: {', '.join(beside)} above")
        checked.evidence += last
    finally:
        if context.live.lab.network.Backend != own:
            context.live.carry_by(own)
    return checked


def _overrun(context: Context, name: str) -> dict[str, int]:
    """Return how much the nodes' processes of the back end called *name* were too slow for."""
    if name != backends.UDP:
        return {}
    network = context.lab.network
    return {
        node.name: counters.overrun(context.lab.netns(node.name), udp.DEVICE, network.tunnel_port)
        for node in context.lab.running
    }


def _too_slow(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(
        f"meanwhile {udp.DEVICE} of {name} lost {more} packets: its process was too slow for them"
        for name, count in after.items()
        if (more := count - before.get(name, 0))
    )


def _changed(context: Context, name: str, own: Backend) -> Context:
    """Return the context of the same lab by another back end. Raises Failure if it stays behind."""
    changed(context.live, name, own)
    return Context(context.live, context.refreshed(), context.capture, context.trace)


def changed(live: Live, name: str, own: Backend) -> None:
    """Have the lab's nodes reach each other by the back end called *name*. Raises Failure."""
    wanted = backends.named(name, own)
    problems = live.carry_by(wanted) if wanted != live.lab.network.Backend else []
    if problems:
        raise Failure(f"{name}: {problems[0]}", expected_next=f"every node's pods by {name}")


def lacking(live: Live, names: Sequence[str]) -> dict[str, str]:
    """Return which of the back ends called *names* the lab cannot have, each with the reason."""
    found = {name: unfit(live.lab, name) for name in names}
    return {name: why for name, why in found.items() if why}


def unfit(lab: Lab, name: str) -> str:
    """Return why *lab*, on this machine, cannot have the back end called *name*; "" if it can."""
    if name == backends.UDP:
        try:
            tun.require()
        except CapabilityError as error:
            return str(error)
    return backends.unfit(lab, name)
