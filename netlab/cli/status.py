"""status: one screen about a lab, and whether it is what it should be."""

from __future__ import annotations

import time
from typing import Any

import click

from netlab.cli import options, tables


@options.command(
    "status",
    example="""
    netlab status
    netlab status notes -o json | jq .converged
    """,
)
@click.argument("lab_name", required=False, metavar="[LAB]", shell_complete=options.complete_lab)
@options.output_option("table", "json", default="table")
@click.pass_context
def status(ctx: click.Context, lab_name: str | None, output: str) -> int:
    """Show a lab's nodes, leases, agent and whether it has converged; exit 1 when it has not."""
    state = options.live_lab(ctx, lab_name).status()
    if output == "json":
        import json

        print(json.dumps(state, indent=2))
    else:
        print("\n".join(screen(state)))
    return 0 if state["converged"] else 1


def screen(state: dict[str, Any]) -> list[str]:
    """Return the lines of the table form of *state*, the dictionary of `Live.status`."""
    lines = [f"lab {state['lab']}: {verdict(state)}"]
    for part in ("agent", "etcd", "servers"):
        if state.get(part):
            lines.append(f"{part}: {process_words(state[part])}")
    lines.append("")
    header = ("NODE", "STATE", "ADDRESS", "LEASE", "PODS", "PEERS", "RENEWS IN")
    lines += tables.aligned(header, [node_row(node) for node in state["nodes"]])
    lines += [
        f"{node['name']}: {node['lastError']}" for node in state["nodes"] if node["lastError"]
    ]
    lines += [f"problem: {problem}" for problem in state["problems"]]
    lines += [
        tables.coloured(f"fault: {fault['words']}, since {fault['since']}", tables.YELLOW)
        + f"; undo: {fault['undo']}"
        for fault in state.get("faults", [])
    ]
    return lines


def verdict(state: dict[str, Any]) -> str:
    """Return `converged` or how far from it the lab is."""
    if state["converged"]:
        return tables.coloured("converged", tables.GREEN)
    return tables.coloured(f"not converged, {len(state['problems'])} open", tables.RED)


def process_words(facts: dict[str, Any]) -> str:
    """Return a process's facts in words: `pid 4242, 12m, 37 MiB`, whatever of them is known."""
    words = []
    for key, value in facts.items():
        if key == "since" and isinstance(value, (int, float)):
            words.append(f"up {tables.duration(time.time() - value)}")
        elif key == "rss" and isinstance(value, (int, float)):
            words.append(tables.size(value))
        elif key == "pid" and not value:
            words.append("not running")
        elif isinstance(value, bool):
            words.append(key if value else f"not {key}")
        elif isinstance(value, (str, int, float)) and value != "":
            words.append(f"{key} {value}")
    return ", ".join(words)


def node_row(node: dict[str, Any]) -> list[str]:
    """Return one node's cells."""
    renews = node.get("renews") or 0
    return [
        node["name"],
        node["state"] + ("" if node.get("online", True) else ",Offline"),
        node["address"],
        node["subnet"],
        pods_words(node),
        str(node["peers"]),
        tables.duration(renews - time.time()) if renews else "<unknown>",
    ]


def pods_words(node: dict[str, Any]) -> str:
    """Return `5`, or `3/5` when only some of the node's pods run."""
    running, placed = node.get("running", node["pods"]), node["pods"]
    return str(placed) if running == placed else f"{running}/{placed}"
