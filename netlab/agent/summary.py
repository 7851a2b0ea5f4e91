"""The lab's state as one dictionary: what `netlab status` shows."""

from __future__ import annotations

from typing import Any

import msgspec

from netlab import edits
from netlab.agent.reports import NodeReport
from netlab.agent.state import State
from netlab.controllers.change import controller
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import ENDED, Document


def pods_counted(objects: Inventory) -> dict[str, int]:
    """Return how many pods are ready, and how many there should be: of workloads as many as they
    ask for, and each pod that nobody made."""
    pods = [pod for pod in objects.of("Pod") if pod.get("status", {}).get("phase") not in ENDED]
    counted = {"Deployment", "ReplicaSet", "StatefulSet"}
    workloads = [one for kind in sorted(counted) for one in objects.of(kind)]
    wanted = sum(edits.replicas_of(one) for one in workloads if controller(one) is None)
    owners = [controller(pod) for pod in pods]
    wanted += sum(owner is None or owner.get("kind") not in counted for owner in owners)
    return {"ready": sum(map(_ready, pods)), "wanted": wanted}


def _ready(pod: Document) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _balancer_status(state: State) -> dict[str, Any]:
    """Return what there is to say of the balancer, nothing where none is declared."""
    if state.lab is None or state.lab.balancer is None:
        return {}
    report = state.balancer_report()
    return {
        "balancer": {
            "address": state.lab.balancer.address,
            "pool": state.lab.balancer.pool,
            "nodes": report.nodes,
            "listeners": report.listeners,
            "lastError": report.error,
        }
    }


def _condition(state: State, node: str, report: NodeReport, *, stopped: bool) -> str:
    if stopped:
        return "Stopped"
    if state.absent(node):
        return "Waiting"
    whole = report.subnet and not report.error and not report.awaits
    return "Ready" if whole else "NotReady"


def _machine(state: State, node: str) -> dict[str, Any]:
    """Return what there is to say of a node that is a machine of its own."""
    if state.place is None:
        return {}
    told = state.told(node) if state.is_here(node) else state.told_by(node)
    return {"version": told.version, "uplink": told.uplink, "here": state.is_here(node)}


def status(state: State, **more: Any) -> dict[str, Any]:
    """Return the lab's state as JSON-able data: the stable schema of `netlab status -o json`."""
    lab, problems = state.lab, state.problems()
    reports = state.reports()
    cluster = state.cluster
    leased = {node.name: node.subnet for node in cluster.nodes} if cluster else {}
    nodes = []
    for node in lab.nodes if lab else []:
        report = reports.get(node.name)
        stopped = report is None
        report = report or NodeReport()
        pods = cluster.pods_on(node.name) if cluster else []
        nodes.append(
            {
                "name": node.name,
                "address": node.address,
                "subnet": report.subnet or leased.get(node.name, ""),
                "pods": len(pods),
                "running": sum(pod.phase == "Running" for pod in pods),
                "peers": report.peers,
                "online": report.online,
                "renews": report.renews,
                "state": _condition(state, node.name, report, stopped=stopped),
                "lastError": report.error or report.awaits,
                **({"flannel": node.flannel} if node.flannel else {}),
                **({"proxyMode": node.proxyMode} if node.proxyMode else {}),
                **_machine(state, node.name),
            }
        )
    return {
        "lab": lab.name if lab else "",
        "converged": not problems,
        "revision": cluster.revision if cluster else 0,
        "problems": problems,
        "nodes": nodes,
        "pods": pods_counted(cluster.documents) if cluster else {"ready": 0, "wanted": 0},
        "convergence": state.pace.told(),
        "faults": [
            {**msgspec.to_builtins(one), "words": one.words, "by": one.command, "undo": one.undo}
            for one in (lab.faults if lab else ())
        ],
        **_balancer_status(state),
        **more,
    }
