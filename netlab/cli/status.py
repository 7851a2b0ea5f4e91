"""status: one screen about a lab, and whether it is what it should be."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from netlab.cli import options, tables
from netlab.errors import NetlabError

if TYPE_CHECKING:
    from netlab.lab.live import Live


PERIOD = 0.2  # seconds between two looks
HOME, REST = "\x1b[H", "\x1b[J"  # to the top left; clear from here on (ECMA-48 CUP, ED)
LINE = "\x1b[K\n"  # clear to the end of the line
VOLATILE = ("agent", "convergence")  # what changes by itself


@options.command(
    "status",
    example="""
    netlab status
    netlab status notes -o json | jq .converged
    netlab status -w
    """,
)
@click.argument("lab_name", required=False, metavar="[LAB]", shell_complete=options.complete_lab)
@options.output_option("table", "json", default="table")
@click.option("-w", "--watch", is_flag=True, help="Go on until ^C: live, or JSON lines.")
@click.pass_context
def status(ctx: click.Context, lab_name: str | None, output: str, watch: bool) -> int:
    """Show a lab's nodes, leases, agent, what was done to it, and whether it has converged.

    Exits with 1 when it has not. With each fault and each object that is otherwise than declared
    stands the command that undoes it.
    """
    live = options.live_lab(ctx, lab_name)
    if watch:
        return watched(live, output)
    state = live.status(changes=True)
    if output == "json":
        import json

        print(json.dumps(state, indent=2))
    else:
        print("\n".join(screen(state)))
    return 0 if state["converged"] else 1


def watched(live: Live, output: str) -> int:
    """Print the state again and again: on a terminal one screen that lives, otherwise (and as
    JSON lines) only when something has changed."""
    import json

    before: object = None
    on_screen = output != "json" and sys.stdout.isatty()
    while True:
        state = seen(live)
        lasting = {key: value for key, value in state.items() if key not in VOLATILE}
        lasting["foreign"] = [{**one, "ttl": None} for one in state.get("foreign", [])]
        if on_screen:
            lines = [time.strftime("%T"), *screen(state)]
            print(HOME + "".join(line + LINE for line in lines) + REST, end="", flush=True)
        elif (*_agreement(state), lasting) != before:
            text = json.dumps(state) if output == "json" else "\n".join([*screen(state), ""])
            print(text, flush=True)
        before = (*_agreement(state), lasting)
        time.sleep(PERIOD)


def _agreement(state: dict[str, Any]) -> tuple[object, ...]:
    """Return what of the convergence is no stopwatch that runs."""
    told = state.get("convergence") or {}
    return (told.get("seconds"), told.get("converging") is None)


def seen(live: Live) -> dict[str, Any]:
    """Return the lab's state, or why there is none: an agent that died may come back."""
    try:
        return live.status(changes=True)
    except NetlabError as error:
        nothing = {"converged": False, "settled": False, "nodes": []}
        return {"lab": live.name, "problems": [error.message], **nothing}


def screen(state: dict[str, Any]) -> list[str]:
    """Return the lines of the table form of *state*, the dictionary of `Live.status`."""
    lines = [f"lab {state['lab']}: {verdict(state)}"]
    for part in ("agent", "etcd", "servers"):
        if state.get(part):
            lines.append(f"{part}: {process_words(state[part])}")
    if state.get("balancer"):
        lines.append(f"balancer: {balancer_words(state['balancer'], state['nodes'])}")
    if state.get("machine"):
        lines.append(machine_words(state["machine"]))
    lines += followed(state)
    lines.append("")
    header = ("NODE", "STATE", "ADDRESS", "LEASE", "PODS", "PEERS", "RENEWS IN")
    lines += tables.aligned(header, [node_row(node) for node in state["nodes"]])
    lines += [
        f"{node['name']}: {node['lastError']}" for node in state["nodes"] if node["lastError"]
    ]
    if state.get("foreign"):
        columns = ("FOREIGN NODE", "LEASE", "BACKEND", "VTEP MAC", "EXPIRES IN")
        lines += ["", *tables.aligned(columns, [member_row(one) for one in state["foreign"]]), ""]
    lines += [
        f"foreign node {one['publicIP']} is not reached: {one['lastError']}"
        for one in state.get("foreign", [])
        if one["lastError"]
    ]
    lines += [f"problem: {problem}" for problem in state["problems"]]
    lines += [f"note: {words}" for words in other_versions(state)]
    lines += [
        tables.coloured(f"fault: {fault['words']}, since {fault['since']}", tables.YELLOW)
        + f"; undo: {fault['undo']}"
        for fault in state.get("faults", [])
    ]
    lines += [
        tables.coloured(f"attached: {one['words']}, since {one['since']}", tables.YELLOW)
        + f"; undo: {one['undo']}"
        for one in state.get("attached", [])
    ]
    lines += [
        tables.coloured(f"changed: {one['words']}", tables.YELLOW) + f"; undo: {one['undo']}"
        for one in state.get("changes", [])
    ]
    return lines


def machine_words(machine: dict[str, Any]) -> str:
    """Return what the machine we are on is in a lab of several."""
    parts = [f"node {machine['node']}, uplink {machine['uplink']}"] if machine["node"] else []
    parts += ["the control plane and etcd"] if machine["master"] else []
    return f"this machine: {'; '.join(parts)}"


def other_versions(state: dict[str, Any]) -> list[str]:
    """Return which nodes' machines run another netlab than this one, in words."""
    own = (state.get("agent") or {}).get("version", "")
    return [
        f"{node['name']} runs netlab {node['version']}, this machine {own}"
        for node in state["nodes"]
        if node.get("version") and node["version"] != own
    ]


def followed(state: dict[str, Any]) -> list[str]:
    """Return the line about pods, and the one about how soon the last change was followed."""
    pods, told = state.get("pods"), state.get("convergence")
    lines = [f"pods: {pods['ready']} of {pods['wanted']} ready"] if pods else []
    if told and told["converging"] is not None:
        return [*lines, f"converging for {tables.seconds(told['converging'])}"]
    if told and told["seconds"] is not None:
        ago = tables.duration(time.time() - told["changed"])
        milliseconds = told["seconds"] * 1000
        return [*lines, f"last change: {ago} ago, followed by all nodes in {milliseconds:.0f} ms"]
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


def balancer_words(facts: dict[str, Any], nodes: list[dict[str, Any]]) -> str:
    """Return what there is to say of the balancer: how many of its listeners use which nodes.

    A node without a pod of its own is not used where the policy is Local, however well it is.
    """
    used, every = facts["listeners"].values(), len(facts["listeners"])
    counts = {node["name"]: sum(node["address"] in one for one in used) for node in nodes}
    words = [f"address {facts['address']}", f"{every} listener{'s' if every != 1 else ''}"]
    if every:
        whole = sum(count == every for count in counts.values())
        words.append(f"{whole} of {len(nodes)} nodes used by all")
        words += [f"{name} by {count}" for name, count in counts.items() if count != every]
    return ", ".join([*words, *([facts["lastError"]] if facts["lastError"] else [])])


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


def member_row(member: dict[str, Any]) -> list[str]:
    """Return the cells of a foreign member of the overlay."""
    left = member["ttl"]
    return [
        member["publicIP"],
        member["subnet"],
        member["backend"],
        member["vtepMAC"] or "-",
        "never" if left is None else tables.duration(left),
    ]


def pods_words(node: dict[str, Any]) -> str:
    """Return `5`, or `3/5` when only some of the node's pods run."""
    running, placed = node.get("running", node["pods"]), node["pods"]
    return str(placed) if running == placed else f"{running}/{placed}"
