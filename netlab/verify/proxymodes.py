"""The Services' paths in every proxy mode: the lab changes its mode, is asked, and changes back."""

from __future__ import annotations

import time
from collections.abc import Callable

from netlab import patience
from netlab.errors import CapabilityError
from netlab.kernel import ipvs
from netlab.model.modes import PROXY_MODES, Mode
from netlab.verify import balancing, nodeports, services
from netlab.verify.context import Checked, Context, Failure, Live, somebody_acts
from netlab.verify.variants import held

BALANCED = patience.seconds(3.0)  # seconds for the balancer to use the nodes it used before
LOOK = 0.05  # seconds between two looks

PATHS: dict[str, Callable[[Context], Checked]] = {
    "pod-clusterip": services.pod_clusterip,
    "node-clusterip": services.node_clusterip,
    "nodeport": nodeports.nodeport,
    "loadbalancer": balancing.flows,
    "affinity": services.affinity,
    "no-endpoints": services.no_endpoints,
}


def proxy_modes(context: Context) -> Checked:
    """Each of PATHS holds in each mode; those asked for beside are proven in the lab's own by that.

    Raises Failure naming the mode and path; Skip when there is nothing to ask any mode for.
    """
    own = context.lab.proxyMode
    checked, last = Checked(), []
    balancer(context.live, own)
    try:
        for mode in sorted(PROXY_MODES, key=lambda one: one != own):
            if mode == Mode.IPVS and (why := _without_ipvs()):
                last.append(f"{mode}: not tried: {why}")
                continue
            names = [name for name in PATHS if mode != own or name not in context.asked]
            there = context if mode == own else _changed(context, mode)
            checked.evidence += held(there, mode, {name: PATHS[name] for name in names})
            beside = [name for name in PATHS if name not in names]
            if beside:
                last.append(f"{mode}, the lab's own: {', '.join(beside)} above")
        checked.evidence += last
    finally:
        if context.live.lab.proxyMode != own:
            context.live.serve_by(own)
    return checked


def _without_ipvs() -> str:
    try:
        ipvs.require()
    except CapabilityError as error:
        return str(error)
    return ""


def _changed(context: Context, mode: str) -> Context:
    """Return the context of the same lab in *mode*. Raises Failure when it does not get there.

    Without an agent that answers nothing is changed.
    """
    changed(context.live, mode, balancer(context.live, mode))
    return Context(context.live, context.refreshed(), context.capture, context.trace)


def changed(live: Live, mode: str, before: object) -> None:
    """Have the lab served by *mode*, and its balancer as it was *before*. Raises Failure."""
    problems = live.serve_by(mode)
    if problems:
        raise Failure(f"{mode}: {problems[0]}", expected_next=f"every node served by {mode}")
    # The nodes' answers to the balancer's probes may have paused: its rules follow, and go back.
    deadline = time.monotonic() + BALANCED
    while live.status().get("balancer") != before and time.monotonic() < deadline:
        time.sleep(LOOK)


def balancer(live: Live, mode: str) -> object:
    """Return what the agent says of the balancer. Raises Failure when none answers."""
    words = f"{mode}: not tried, as nobody would write its rules"
    needs = "an agent that writes each mode's rules"
    return somebody_acts(live, words, needs=needs).get("balancer")
