"""What was done to the lab on purpose, and is on a flow's way."""

from __future__ import annotations

from collections.abc import Iterator

from netlab import world
from netlab.cluster import Cluster
from netlab.journeys import Cause, Kind
from netlab.model.faults import LINKS, Fault, Sort
from netlab.telling.naming import Names
from netlab.tracing.drift import Way


def causes(cluster: Cluster, names: Names, way: Way) -> Iterator[Cause]:
    """Yield each fault of a machine or cable on the *way*; those that cut before those that may."""
    lab = cluster.lab
    found = [one for one in lab.faults if one.sort in (Sort.NODE_STOP, *LINKS)]
    for fault in sorted(found, key=lambda one: LINKS.index(one.sort) if one.sort in LINKS else -1):
        netns = _netns(cluster, fault)
        if netns in way.netns and _crossed(cluster, fault, way):
            yield Cause(
                Kind.FAULT,
                names.place(netns),
                f"{fault.words}, since {fault.since}, by `{fault.command}`",
                ("`netlab status` lists it",),
                (fault.undo,),
            )


def _netns(cluster: Cluster, fault: Fault) -> str:
    """Return the namespace of the machine or pod that the fault is at, "" of one that is gone."""
    if "/" not in fault.target:
        return cluster.lab.netns(fault.target)
    return next((pod.netns for pod in cluster.pods if pod.title == fault.target), "")


def _crossed(cluster: Cluster, fault: Fault, way: Way) -> bool:
    """Return whether the flow leaves the machine by the cable; what is off, it need not leave."""
    if "/" in fault.target or fault.sort is Sort.NODE_STOP:
        return True
    return cluster.lab.netns(world.UNDERLAY) in way.netns
